"""Serve the app on this machine alone: `mnemoscope app [STUDY|AUDIT]`."""

import logging
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from fastapi import FastAPI

from mnemoscope.app import FIRST_PORT, HOST, NAMES, check_host, check_target
from mnemoscope.app.page import MOST_BYTES, LoadedModels, Shop, head, make_blocks, theme
from mnemoscope.app.views import BrowsedStudy, Result, open_audit
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError, first_line, printable
from mnemoscope.study.folder import Study, is_study

_PORTS_TRIED = 20
_MOST_BODY = 8 * MOST_BYTES  # of any request; what is too large for an audit gets a sentence
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_log = logging.getLogger(__name__)
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_Asgi = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class Guard:
    """Stands before the app: this machine's names only, no outside requests, bounded bodies.

    What the app raises at a request that no page makes is one line of the log. It keeps the app's
    `shop` for those who look in from outside.
    """

    def __init__(self, app: _Asgi, shop: Any = None) -> None:
        self._app = app
        self.shop = shop

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the app speaks nothing else
            await send({"type": "websocket.close"})
            return
        given = {
            key.decode("latin-1").lower(): value.decode("latin-1")
            for key, value in scope["headers"]
        }
        # A page elsewhere may point its own name at this machine; its requests carry that name.
        if given.get("host", "").partition(":")[0] not in NAMES:
            await _refuse(send, 403, "wrong host")
            return
        if "origin" in given and urlsplit(given["origin"]).netloc != given["host"]:
            await _refuse(send, 403, "another site")
            return
        length = given.get("content-length", "0")
        if not length.isdigit() or int(length) > _MOST_BODY or "transfer-encoding" in given:
            await _refuse(send, 413, "too large")
            return

        if scope["path"].endswith("/openapi.json"):  # Gradio has two; the page asks for neither
            await _refuse(send, 404, "not here")
            return
        is_begun = False

        async def guarded(message: _Scope) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                own = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            _log.error("%s", printable(f"mnemoscope app: {scope['method']} {scope['path']}: {why}"))
            if not is_begun:
                await _refuse(send, 500, "no such request")


async def _refuse(send: _Send, code: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def open_target(target: Path | None) -> tuple[BrowsedStudy | None, Result | None]:
    """Open a study, an audit or nothing; UserError: it is neither, or the study is not labelled."""
    check_target(target)
    if target is None:
        return None, None
    if is_study(target):
        model = Study(target).record["models"].get("model")
        name = "" if model is None else model["name"]
        folder = place_of(name)
        return BrowsedStudy(target, folder if Path(folder).exists() else None), None
    return None, open_audit(target)


def make_app(browsed: BrowsedStudy | None, opened: Result | None, device: str = "auto") -> Guard:
    """The whole app, for any ASGI server; `device` is where models are loaded."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    own = browsed.model if browsed else None
    shop = Shop(LoadedModels(own["name"] if own else None, device), browsed, opened)
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        make_blocks(shop),
        path="/",
        server_name=HOST,
        footer_links=[],
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        show_error=False,
        head=head(),
        theme=theme(),
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
    return Guard(app, shop)


def find_socket(port: int | None) -> socket.socket:
    """Take a port: 0 any free one, None the first free from 7860 on; UserError: in use, or none."""
    tried = range(FIRST_PORT, FIRST_PORT + _PORTS_TRIED) if port is None else [port]
    for one in tried:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((HOST, one))
            made.listen()
        except (OSError, OverflowError):
            made.close()
            continue
        return made
    which = f"ports {tried[0]} to {tried[-1]} are" if port is None else f"port {port} is"
    raise UserError(f"{which} in use or not free to take. Choose another with --port.")


def serve_app(
    target: Path | None,
    *,
    host: str = HOST,
    port: int | None = None,
    device: str = "auto",
    when_ready: Callable[[str], None] = print,
) -> None:
    """Serve until interrupted; `when_ready` is told the address.

    Raises UserError: another host than this machine, a port in use, a target that cannot be shown.
    """
    check_host(host)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    browsed, opened = open_target(target)
    made = find_socket(port)
    app = make_app(browsed, opened, device)
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    when_ready(f"http://{HOST}:{made.getsockname()[1]}/")
    uvicorn.Server(config).run(sockets=[made])
