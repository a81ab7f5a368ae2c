"""Exchanges over HTTP that end: in a time and a size, whatever the other side does.

Connections are kept: one that a whole answer was read from serves the next request to its host, so
that not every request pays for a handshake.
"""

import selectors
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

_BLOCK = 1 << 16


class EndlessAnswerError(OSError):
    """An answer that is too long, or does not end in time."""


def make_opener(*handlers: Any) -> urllib.request.OpenerDirector:
    """An opener for `exchange`, with further handlers; it keeps connections of its own."""
    return urllib.request.build_opener(_HttpHandler, _HttpsHandler, *handlers)


def exchange(
    opener: urllib.request.OpenerDirector, request: Any, *, seconds: float, most: int
) -> bytes:
    """The body of the answer to a request, of at most so many bytes.

    Headers and body have twice these seconds together, the body these. Raises EndlessAnswerError,
    another OSError (an HTTPError, whose body `read_answer` reads, or no connection) or
    HTTPException.
    """
    try:
        with _watch.within(2 * seconds), opener.open(request, timeout=seconds) as response:
            data = read_answer(response, seconds=seconds, most=most)
            if _watch.is_over:  # what was cut looks like an end
                raise TimeoutError
            if isinstance(response, _Response):
                response.keep_connection()
            return data
    except (OSError, HTTPException) as error:
        if _watch.is_over:
            raise _endless(2 * seconds) from error
        raise


def read_answer(response: Any, *, seconds: float, most: int) -> bytes:
    """The whole body, within a time: each read alone would begin it anew; errors as `exchange`."""
    data, until = bytearray(), time.monotonic() + seconds
    while block := response.read1(_BLOCK):
        data += block
        if len(data) > most:
            raise EndlessAnswerError(f"an answer of more than {most >> 20} MB")
        if time.monotonic() > until:
            raise _endless(seconds)
    return bytes(data)


def _endless(seconds: float) -> EndlessAnswerError:
    return EndlessAnswerError(f"no end of an answer within {seconds:g} s")


class _Watch(threading.local):
    """The socket of a thread's request, so that the whole of an exchange has a limit.

    The timeout of a socket begins anew with each byte, and headers may come byte by byte.
    """

    used: socket.socket | None = None
    is_over = False

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cut what is not over in time."""
        self.used, self.is_over = None, False
        attributes = self.__dict__  # of this thread; the timer runs in another

        def cut() -> None:
            attributes["is_over"] = True
            with suppress(OSError, AttributeError):
                attributes["used"].shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


_watch = _Watch()


class _Response(HTTPResponse):
    """An answer that gives its connection back, or closes it."""

    connection: HTTPConnection | None = None
    idle: list[HTTPConnection]

    def keep_connection(self) -> None:
        """Keep the connection for another request, if this answer was read to its end."""
        is_whole = self.length == 0 or self.isclosed()
        if self.connection and is_whole and not self.will_close:
            super().close()
            self.idle.append(self.connection)
            self.connection = None

    def close(self) -> None:
        """Close the answer, and its connection unless that is kept."""
        super().close()
        if self.connection:
            self.connection.close()


class _Http(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        _watch.used = self.sock


class _Https(HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        _watch.used = self.sock


class _Keeping(urllib.request.AbstractHTTPHandler):
    """Sends a request by a kept connection, else by a new one; `do_open` of its base closes each.

    `_idle` holds by host (and by the host behind a proxy) what nobody uses. Threads share it:
    appending to a list and popping from it are atomic.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._idle: dict[tuple[str, str | None], list[HTTPConnection]] = {}

    def do_open(self, http_class: Any, req: Any, **given: Any) -> Any:
        """The answer, its body unread; errors as the base.

        The other side may close a kept connection as the request goes out: then it is sent again.
        """
        idle = self._idle.setdefault((req.host, req._tunnel_host), [])
        while (connection := _take_open(idle)) is not None:
            try:
                return _send(connection, req, idle)
            except (ConnectionError, ssl.SSLError):
                if _watch.is_over:
                    raise
        connection = http_class(req.host, timeout=req.timeout, **given)
        if req._tunnel_host:
            name = "Proxy-authorization"  # as ProxyHandler spells it; not for the host behind
            known = {name: req.headers.pop(name)} if name in req.headers else {}
            connection.set_tunnel(req._tunnel_host, headers=known)
        try:
            return _send(connection, req, idle)
        except OSError as error:
            raise urllib.error.URLError(error) from error


def _take_open(idle: list[HTTPConnection]) -> HTTPConnection | None:
    """An idle connection that the other side has not closed."""
    while idle:
        with suppress(IndexError):  # another thread was first
            connection = idle.pop()
            with selectors.DefaultSelector() as selector:
                selector.register(connection.sock, selectors.EVENT_READ)
                if not selector.select(0):  # where nothing was asked, only an end can be read
                    return connection
            connection.close()
    return None


def _send(connection: HTTPConnection, request: Any, idle: list[HTTPConnection]) -> _Response:
    if connection.sock:
        connection.sock.settimeout(request.timeout)
        _watch.used = connection.sock
    try:
        headers = {k.title(): v for k, v in (request.headers | request.unredirected_hdrs).items()}
        connection.request(request.get_method(), request.selector, request.data, headers)
        response = connection.getresponse()
    except BaseException:
        connection.close()
        raise
    assert isinstance(response, _Response)
    response.connection, response.idle = connection, idle
    # What `urllib.request` expects of an answer.
    response.url, response.msg = request.full_url, response.reason  # type: ignore[assignment]
    return response


class _HttpHandler(_Keeping, urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        """As its base, by a connection that is watched."""
        return self.do_open(_Http, request)


class _HttpsHandler(_Keeping, urllib.request.HTTPSHandler):
    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """With all certificates of this machine, which take time to read: once, where needed."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    def https_open(self, request: urllib.request.Request) -> Any:
        """As its base, by a connection that is watched."""
        return self.do_open(_Https, request, context=self._tls)
