"""Gradio, imported without the type stubs that it derives of all its classes at every start."""

import inspect
from unittest.mock import patch

_plain = inspect.getfile


def _file_of(one: type) -> str:
    """As `inspect.getfile`; Gradio derives no stub of a class without a file."""
    if getattr(one, "__module__", "").startswith("gradio."):
        raise OSError
    return _plain(one)


with patch("inspect.getfile", _file_of):  # the stubs take longer than all else of the import
    import gradio as gr

__all__ = ["gr"]
