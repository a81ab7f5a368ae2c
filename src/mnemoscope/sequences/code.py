"""Tell source code from other text with magika, where the extra `[code]` is installed."""

from collections.abc import Iterable
from importlib.util import find_spec

from mnemoscope.errors import UserError

__all__ = ["classify_code", "is_available"]


def is_available() -> bool:
    """Say whether magika is installed; it is not loaded."""
    return find_spec("magika") is not None


def classify_code(texts: Iterable[str | None]) -> list[bool | None]:
    """Say of each text whether it is source code.

    magika's group ``code`` holds programming, markup and data languages (Python, HTML, JSON,
    CSV). The paper used a fastText classifier that is not published, so its Code classes can
    differ.

    Args:
        texts: any length; magika is not sure of short ones and then calls them text.

    Returns:
        None for a text that is null or empty, or that magika does not recognize.

    Raises:
        UserError: magika is not installed.
    """
    if not is_available():
        raise UserError("is_code needs magika: pip install 'mnemoscope[code]'.")
    from magika import Magika

    magika = Magika()
    return [
        _is_code(magika.identify_bytes(text.encode()).output.group) if text else None
        for text in texts
    ]


def _is_code(group: str) -> bool | None:
    """Group of content types to yes, no or unknown."""
    return {"code": True, "text": False}.get(str(group))
