"""Memorization watched while a model trains, and over the checkpoints of one run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.training.history import read_history
    from mnemoscope.training.watch import MemorizationCallback, MemorizationWatch, make_canaries
    from mnemoscope.training.windows import WatchedWindows

__all__ = [
    "MemorizationCallback",
    "MemorizationWatch",
    "WatchedWindows",
    "make_canaries",
    "read_history",
]


def __getattr__(name: str) -> Any:
    """Resolve a name of `__all__` on first use, so that importing loads nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module 'mnemoscope.training' has no attribute '{name}'")
    where = {"read_history": "history", "WatchedWindows": "windows"}.get(name, "watch")
    return getattr(import_module(f"mnemoscope.training.{where}"), name)
