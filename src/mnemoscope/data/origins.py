"""Where a passage stands in a corpus: every occurrence counted, the first ones with their places.

Texts are searched as they are, character by character, whatever tokens they would be cut into;
corpora of token ids are searched for the passage's ids. Overlapping occurrences count each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.data.corpus import Corpus, FlatFile
from mnemoscope.progress import track

MOST_PLACES = 100
"""Places of a passage that are listed; beyond that they are counted alone."""

_WIDTH = 8  # bytes of a token id


class Needle(NamedTuple):
    """What is looked for: a text, and its token ids for corpora that hold nothing else."""

    text: str
    ids: npt.NDArray[np.int32]


class Spot(NamedTuple):
    """Where an occurrence begins: the document's name and what is counted from its beginning.

    `offset` counts `unit`, ``characters`` or ``tokens``; None where an index does not say it.
    """

    document: str
    offset: int | None
    unit: str


class Origin(NamedTuple):
    """How often (`n`) a passage stands in a corpus, and where."""

    n: int
    spots: list[Spot]


class Finds:
    """Counts and places of needles, as they are met."""

    def __init__(self, n: int) -> None:
        self._counts, self._spots = [0] * n, [list[Spot]() for _ in range(n)]

    def add(self, needle: int, spot: Spot) -> None:
        """One more occurrence."""
        self._counts[needle] += 1
        if len(self._spots[needle]) < MOST_PLACES:
            self._spots[needle].append(spot)

    def origins(self) -> list[Origin]:
        """What was found of each needle."""
        return [Origin(*both) for both in zip(self._counts, self._spots, strict=True)]


def find_in_corpus(needles: Sequence[Needle], corpus: Corpus) -> list[Origin]:
    """Read a corpus once and find all needles, in its order.

    Raises:
        UserError, DamagedDataError: a file that cannot be read.
    """
    finds, wanted = Finds(len(needles)), [as_bytes(one.ids) for one in needles]
    with track("Looking for origins", unit="documents") as progress:
        for source in corpus.sources:
            if isinstance(source, FlatFile):
                _search_flat(wanted, source, finds)
                progress.advance()
                continue
            for name, value in source.values():
                is_text = isinstance(value, str)
                own, unit = (b"", "characters") if is_text else (as_bytes(value), "tokens")
                for number, needle in enumerate(needles):
                    starts = (
                        _every(value.find, needle.text)
                        if is_text
                        else places_of(wanted[number], own)
                    )
                    for offset in starts:
                        finds.add(number, Spot(name, offset, unit))
                progress.advance()
    return finds.origins()


def as_bytes(ids: npt.ArrayLike) -> bytes:
    """Token ids, one axis, as `places_of` takes them."""
    return np.asarray(ids).astype("<i8").tobytes()


def places_of(wanted: bytes, tokens: bytes) -> Iterator[int]:
    """Where token ids begin in others, both by `as_bytes`; overlapping places count each."""
    return (place // _WIDTH for place in _every(tokens.find, wanted) if place % _WIDTH == 0)


def _every(find: Callable[[Any, int], int], wanted: str | bytes) -> Iterator[int]:
    """All places, overlapping ones too."""
    place = find(wanted, 0) if wanted else -1
    while place >= 0:
        yield place
        place = find(wanted, place + 1)


def _search_flat(wanted: Sequence[bytes], source: FlatFile, finds: Finds) -> None:
    """Token ids of a flat file, chunk by chunk; no occurrence spans two documents."""
    longest = max((len(one) // _WIDTH for one in wanted), default=0)
    chunk_start = document = begin = 0  # the document that goes on, and its first token
    for chunk in source.chunks(0, max(longest, 1)):
        ends = np.array([len(chunk.tokens)]) if chunk.ends is None else chunk.ends
        firsts = np.concatenate([[begin], chunk_start + ends[:-1]])
        own = as_bytes(chunk.tokens)
        for number, ids in enumerate(wanted):
            for start in places_of(ids, own):
                inside = int(np.searchsorted(ends, start, side="right"))
                if start < chunk.n_new and start + len(ids) // _WIDTH <= ends[inside]:
                    name = str(source.path)
                    if source.documents is not None:
                        name = f"{name}#{document + inside + 1}"
                    offset = chunk_start + start - int(firsts[inside])
                    finds.add(number, Spot(name, offset, "tokens"))
        n_over = int(np.searchsorted(ends, chunk.n_new, side="right"))
        is_over = n_over > 0 and chunk.ends is not None
        begin = chunk_start + int(ends[n_over - 1]) if is_over else begin
        document += n_over if is_over else 0
        chunk_start += chunk.n_new
