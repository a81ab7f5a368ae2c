"""How well a taxonomy matches attention, and how much of that the text alone explains."""

from importlib import import_module
from typing import Any

_HOMES = {
    "PUBLISHED_MODELS": "published",
    "PublishedConfusion": "published",
    "published_confusions": "published",
    "published_rho": "published",
    "published_table": "published",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the room stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
