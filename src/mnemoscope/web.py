"""Exchanges over HTTP that end: in a time and a size, whatever the other side does."""

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any

_BLOCK = 1 << 16


class EndlessAnswerError(OSError):
    """An answer that is too long, or does not end in time."""


def make_opener(*handlers: Any) -> urllib.request.OpenerDirector:
    """An opener for `exchange`, with further handlers."""
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


class _Http(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _watch.used = self.sock


class _Https(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _watch.used = self.sock


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        """As its base, by a connection that is watched."""
        return self.do_open(_Http, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        """As its base, by a connection that is watched."""
        return self.do_open(_Https, request)
