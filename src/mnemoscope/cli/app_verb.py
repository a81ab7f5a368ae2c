"""The verb app: audit documents and browse a study in the browser, on this machine alone."""

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from mnemoscope.cli.options import Device
from mnemoscope.errors import UserError

__all__ = ["app"]


def app(
    target: Annotated[
        Path | None,
        typer.Argument(help="A study or an audit to show.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Port (the first free from 7860 on).", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="This machine; another is refused.")
    ] = "127.0.0.1",
    device: Device = None,
) -> None:
    """Audit documents and browse a study in the browser; nothing leaves this machine.

    Example: mnemoscope app my-study
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the app needs gradio: pip install 'mnemoscope[app]'.")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is imported
    from mnemoscope.app.target import check_host, check_target

    check_host(host)
    check_target(target)
    from mnemoscope.app.serve import serve_app

    serve_app(target, host=host, port=port, device=device or "auto", when_ready=_print_address)


def _print_address(address: str) -> None:
    print(f"Open {address} in a browser of this machine. Ctrl-C ends it.", flush=True)
