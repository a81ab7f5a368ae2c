"""Exchanges over HTTP by kept connections, with a server that closes them as it likes."""

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mnemoscope.web import EndlessAnswerError, exchange, make_opener


class Server(ThreadingHTTPServer):
    """Answers with the body it got; counts connections, and requests by body."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.n_connections, self.bodies = 0, []

    def finish_request(self, *given):
        self.n_connections += 1
        super().finish_request(*given)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    n_answered = 0

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(body := self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(asked["number"])
        if asked.get("closes") == "unanswered" and self.n_answered:
            self.close_connection = True
            return
        self.n_answered += 1
        self.send_response(asked.get("status", 200))
        body += b" " * asked.get("blanks", 0)
        self.send_header("Content-Length", str(len(body)))
        if asked.get("closes") == "said":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = asked.get("closes") in ("said", "unsaid")


@contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(opener, server, number, *, most=10_000, **asked):
    body = json.dumps({"number": number, **asked}).encode()
    url = f"http://127.0.0.1:{server.server_port}/"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    return json.loads(exchange(opener, request, seconds=5, most=most))["number"]


def test_one_connection_serves_many_requests_and_one_a_thread_at_once():
    with serving() as server:
        opener = make_opener()
        assert [ask(opener, server, n) for n in range(20)] == list(range(20))
        assert server.n_connections == 1
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda n: ask(opener, server, n), range(60))) == list(range(60))
        assert server.n_connections <= 4
        ask(make_opener(), server, 0)
        assert server.n_connections <= 5


@pytest.mark.parametrize("closes", ["said", "unsaid", "unanswered"])
def test_a_connection_that_the_server_closes_is_not_used_again(closes):
    with serving() as server:
        opener = make_opener()
        assert [ask(opener, server, n, closes=closes) for n in range(6)] == list(range(6))
        assert server.n_connections == 6
        # What went out as the connection was closed is sent again, once.
        again = [n for n in range(6) for _ in range(2 if closes == "unanswered" and n else 1)]
        assert server.bodies == again


def test_an_answer_that_is_not_read_to_its_end_leaves_nothing_to_the_next():
    with serving() as server:
        opener = make_opener()
        ask(opener, server, 0)
        with pytest.raises(EndlessAnswerError, match="more than 0 MB"):
            ask(opener, server, 1, blanks=200_000, most=100_000)
        with pytest.raises(urllib.error.HTTPError, match="429"):
            ask(opener, server, 2, status=429)
        assert ask(opener, server, 3) == 3
        assert server.n_connections == 3
