"""Requests to a local TLS server by kept connections, beside one connection a request.

Run: .venv/bin/python -m benchmarks.bench_web [REQUESTS]

The server is a process of its own and answers with 300 bytes; its certificate is made by the
command `openssl`. Printed are seconds by the clock and of this process's CPU, each way once first.
"""

import os
import ssl
import subprocess
import tempfile
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.given import given
from benchmarks.measured import spent
from mnemoscope.web import exchange, make_opener


class Handler(BaseHTTPRequestHandler):
    """Answers 300 bytes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Read what is asked, and answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "300")
        self.end_headers()
        self.wfile.write(b"x" * 300)


def serve(folder: Path, port: Any) -> None:
    """Answer for ever; the port is told through the pipe."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    port.send(server.server_port)
    server.serve_forever()


def ask(opener: urllib.request.OpenerDirector, url: str, n: int) -> None:
    """So many requests, one after the other."""
    for _ in range(n):
        request = urllib.request.Request(url, b"{}")
        assert len(exchange(opener, request, seconds=60, most=1000)) == 300


def main() -> None:
    (n,) = given(__doc__, requests=1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
        names = ["-addext", "subjectAltName=DNS:localhost"]
        subprocess.run([*command.split(), *files, *names], check=True, capture_output=True)
        os.environ["SSL_CERT_FILE"] = str(folder / "cert.pem")
        here, there = get_context("spawn").Pipe()
        server = get_context("spawn").Process(target=serve, args=(folder, there), daemon=True)
        server.start()
        url = f"https://localhost:{here.recv()}/"
        openers = {
            "one connection a request": urllib.request.build_opener(),
            "kept connections": make_opener(),
        }
        for count in (1, n):
            for way, opener in openers.items():
                taken, _ = spent(partial(ask, opener, url, count))
                if count == n:
                    times = f"{taken.clock:.2f} s, {taken.seconds:.2f} s of CPU"
                    print(f"{way}: {n} requests in {times}, {taken.megabytes:.1f} MB more")
        server.kill()


if __name__ == "__main__":
    main()
