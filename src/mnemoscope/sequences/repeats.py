"""Chunks that repeat in a sequence's tokens, by the older rule of the published data set.

Source: Prashanth et al. 2024, arXiv 2406.17746; section 1.5 of the related work: the columns
`repeating_offset`, `num_repeating` and `smallest_repeating_chunk` of usvsnsp/semantic-filters. No
taxonomy uses them: a class goes by the text (`patterns.find_pattern`), and the two can disagree.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Repeat", "find_repeat"]

_COPIES = (2, 3, 4, 5)
_MOST_TRIMMED = 2


class Repeat(NamedTuple):
    """What repeats.

    Attributes:
        offset: tokens before it; 0 where nothing repeats.
        n: how often the chunk stands there whole; -1 where nothing repeats.
        chunk: the smallest one; empty where nothing repeats.
    """

    offset: int
    n: int
    chunk: tuple[int, ...]


def find_repeat(tokens: Sequence[int]) -> Repeat:
    """Find the first repeat in the published order: fewest copies, then earliest, then least cut.

    From the offset on, less up to two tokens at the end, the sequence must be 2 to 5 copies of a
    chunk and a beginning of it. The chunk found is then reduced to its own smallest unit, so the
    offset need not be the smallest.

    Args:
        tokens: of a sequence.

    >>> find_repeat([1, 2, 3, 4] * 16)
    Repeat(offset=0, n=16, chunk=(1, 2, 3, 4))
    """
    whole = tuple(tokens)
    for copies in _COPIES:
        for offset in range(len(whole) // 2):
            for trimmed in range(_MOST_TRIMMED + 1):
                size = _chunk_size(whole[offset : len(whole) - trimmed], copies)
                if size:
                    unit = _smallest_unit(whole[offset : offset + size])
                    return Repeat(offset, copies * (size // len(unit)), unit)
    return Repeat(0, -1, ())


def _chunk_size(part: tuple[int, ...], copies: int) -> int:
    """Size of the largest chunk of which part is so many copies and a proper beginning; or 0."""
    for size in range(len(part) // copies, 0, -1):
        if len(part) - copies * size >= size:
            return 0
        if part[size:] == part[:-size]:
            return size
    return 0


def _smallest_unit(chunk: tuple[int, ...]) -> tuple[int, ...]:
    """The shortest beginning of which the chunk is whole copies."""
    sizes = (size for size in range(1, len(chunk) + 1) if len(chunk) % size == 0)
    size = next(size for size in sizes if chunk[:size] * (len(chunk) // size) == chunk)
    return chunk[:size]
