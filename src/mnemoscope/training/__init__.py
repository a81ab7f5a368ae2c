"""Memorization watched while a model trains, and over the checkpoints of one run.

Names are resolved on first use, so that importing this room loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.training.callback import MemorizationCallback
    from mnemoscope.training.canaries import make_canaries
    from mnemoscope.training.history import History, read_history
    from mnemoscope.training.watch import MemorizationWatch
    from mnemoscope.training.windows import WatchedWindows

_HOMES = {
    "History": "history",
    "MemorizationCallback": "callback",
    "MemorizationWatch": "watch",
    "WatchedWindows": "windows",
    "make_canaries": "canaries",
    "read_history": "history",
}
__all__ = [
    "History",
    "MemorizationCallback",
    "MemorizationWatch",
    "WatchedWindows",
    "make_canaries",
    "read_history",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
