"""Cut a text into windows of equally many tokens, with their place in the document."""

import copy
from typing import Any, NamedTuple

from mnemoscope.errors import UserError

__all__ = ["Window", "WindowCutter", "cut_windows"]


class Window(NamedTuple):
    """One window of a document.

    Attributes:
        tokens: token ids, as many as the window is long.
        text: their decode.
        start: position in the document of the first character that a token covers; None where
            the tokenizer knows no offsets.
        end: position after the last such character. A character whose bytes are split between
            two windows belongs to both.
    """

    tokens: list[int]
    text: str
    start: int | None
    end: int | None


def cut_windows(text: str, tokenizer: Any, *, length: int = 64, stride: int = 64) -> list[Window]:
    """Cut one text; `WindowCutter` does the same for many.

    Args:
        text: a document.
        tokenizer: a Hugging Face tokenizer.
        length: tokens a window.
        stride: tokens from the start of one window to that of the next; windows are disjoint
            when it equals `length`.

    Returns:
        Whole windows only: the tail of the document is left out, a text shorter than one window
        gives none.

    Raises:
        UserError: `length` or `stride` below 1.
    """
    return WindowCutter(tokenizer, length=length, stride=stride).cut(text)


class WindowCutter:
    """Cuts any number of texts with one tokenizer, without adding special tokens.

    Attributes:
        length: tokens a window.

    Offsets come from a copy of the fast tokenizer without its post-processor: that adds the
    special tokens, and in GPT-2's and Pythia's kind it also moves a token's offsets past its
    leading blank, so that windows would not fit their text.
    """

    def __init__(self, tokenizer: Any, *, length: int = 64, stride: int = 64) -> None:
        if length < 1 or stride < 1:
            raise UserError(f"length {length}, stride {stride}: both must be at least 1.")
        self.length = length
        self._tokenizer, self._stride = tokenizer, stride
        self._backend = _copy_backend(tokenizer)

    def cut(self, text: str) -> list[Window]:
        """Cut one text, see `cut_windows`."""
        ids, offsets = self._encode(text)
        starts = range(0, len(ids) - self.length + 1, self._stride)
        texts = self.decode([ids[start : start + self.length] for start in starts])
        return [
            Window(ids[first : first + self.length], decoded, *self._place(offsets, first))
            for first, decoded in zip(starts, texts, strict=True)
        ]

    def encode(self, text: str) -> list[int]:
        """Token ids of a whole text."""
        return self._encode(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Token ids of a whole text and the characters each covers, None without offsets."""
        return self._encode(text)

    def decode(self, tokens: list[list[int]]) -> list[str]:
        """Text of each list of tokens, special tokens included."""
        if not tokens:
            return []
        decoded: list[str] = self._tokenizer.batch_decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return decoded

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Token ids of a text and the characters each covers."""
        if self._backend is None:
            return self._tokenizer.encode(text, add_special_tokens=False), None
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _place(
        self, offsets: list[tuple[int, int]] | None, first: int
    ) -> tuple[int | None, int | None]:
        """Characters of the window that starts at a token."""
        if offsets is None:
            return None, None
        return offsets[first][0], offsets[first + self.length - 1][1]


def _copy_backend(tokenizer: Any) -> Any | None:
    """The fast tokenizer without post-processor, truncation and padding; None if it is slow."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend = copy.deepcopy(backend)
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    return backend
