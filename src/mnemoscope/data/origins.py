"""Where a passage stands in a corpus: every occurrence counted, the first ones with their places.

Texts are searched as they are, character by character, whatever tokens they would be cut into;
corpora of token ids are searched for the passage's ids. Overlapping occurrences count each.
An infini-gram index answers the same questions, from files or over its HTTP API.
"""

import hashlib
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mnemoscope.data.corpus import Corpus, FlatFile, Place
from mnemoscope.data.duplicates import CorpusCount, CountProgress
from mnemoscope.errors import UserError, pip_install
from mnemoscope.parse import parse_json
from mnemoscope.progress import track
from mnemoscope.web import exchange, make_opener

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
    """Read a corpus once and find all needles, in its order."""
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
    # A token of the next chunk at least: a document ends with a chunk only where that is known.
    for chunk in source.chunks(0, max(longest, 2)):
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


SCHEME = "infini-gram:"
_WIDTHS = {"uint8": "u8", "uint16": "u16", "uint32": "u32"}
_TRIES, _FIRST_PAUSE_SECONDS, _TIMEOUT_SECONDS = 5, 1.0, 60
_MOST_ANSWER_BYTES = 1 << 22
_opener = make_opener()
_MOST_SHOWN = 100_000  # tokens of a document that an index of this machine is asked to show
_MOST_SHOWN_BY_API = 10_000  # as many as its documentation allows

_Ask = Callable[..., Any]
"""Asks an index one kind of question (`count`, `find`, `get_doc_by_rank`) with its values."""


def count_in_index(
    suffixes: npt.NDArray[np.int32],
    place: str,
    *,
    dtype: str | None,
    progress_file: Path,
    save_seconds: float = 10.0,
) -> CorpusCount:
    """Occurrences of each suffix (sequences, k) in an index: exact, overlapping ones counted.

    `place` is a folder, or `URL#INDEX` of the API; `dtype` the type of a folder's ids, uint16
    unless given. Equal suffixes are asked once; a count that was stopped goes on. Raises UserError:
    no such index or package, ids of another type, an answer that is no exact count, or a service
    that does not answer.
    """
    ask = _open_index(place, dtype)
    n_tokens = _exact(ask("count", query_ids=[]), place)  # the empty query counts all tokens
    distinct, which = np.unique(suffixes, axis=0, return_inverse=True)
    digest = hashlib.sha256(np.ascontiguousarray(distinct).data).hexdigest()
    key = hashlib.sha256(f"{place} {dtype} {distinct.shape} {digest}".encode()).hexdigest()
    progress = CountProgress(progress_file, key, save_seconds)
    counts = np.zeros(len(distinct), dtype=np.int64)
    begun = progress.load(counts)[0].position
    with track("duplicates", total=len(distinct) - begun, unit="suffixes") as shown:
        for row in range(begun, len(distinct)):
            try:
                answer = ask("count", query_ids=distinct[row].tolist())
                counts[row] = _exact(answer, place)
            except UserError:
                progress.save(counts, Place(position=row), 0)
                raise
            shown.advance()
            if progress.is_due():
                progress.save(counts, Place(position=row + 1), 0)
    return CorpusCount(counts[which.ravel()], n_tokens)


def find_in_index(
    needles: Sequence[Needle],
    place: str,
    decode: Callable[[list[int]], str],
    *,
    dtype: str | None,
) -> list[Origin]:
    """Occurrences of needles' token ids in an index, as `origins.find_in_corpus`.

    `place` and `dtype` as for `count_in_index`; `decode` gives the text of ids. An offset is in
    characters, and None in a document of which the index shows not all that stands before it, or
    refuses to show any. Raises UserError: no such index or package, ids of another type, or a
    service without an answer.
    """
    ask = _open_index(place, dtype)
    found = []
    with track("Looking for origins", total=len(needles), unit="passages") as progress:
        for needle in needles:
            answer = ask("find", query_ids=needle.ids.tolist())
            segments = _field(answer, "segment_by_shard", place)
            if not isinstance(segments, list) or not all(_is_numbers(one, 2) for one in segments):
                raise UserError(f"{place}: an answer without segments ({repr(segments)[:80]}).")
            ranks = (
                (s, rank) for s, (start, end) in enumerate(segments) for rank in range(start, end)
            )
            spots = [
                _spot(ask("get_doc_by_rank", s=s, rank=rank), needle, place, decode)
                for s, rank in islice(ranks, MOST_PLACES)
            ]
            found.append(Origin(_number(answer, "cnt", place), spots))
            progress.advance()
    return found


def _spot(answer: Any, needle: Needle, place: str, decode: Callable[[list[int]], str]) -> Spot:
    """Where an occurrence begins in the document that an index shows."""
    if isinstance(answer, dict) and "error" in answer:
        return Spot(place, None, "characters")
    number, ids = _number(answer, "doc_ix", place), _field(answer, "token_ids", place)
    if not _is_numbers(ids):
        raise UserError(f"{place}: an answer without token ids ({repr(ids)[:80]}).")
    is_whole = _field(answer, "disp_len", place) == _field(answer, "doc_len", place)
    offset = answer.get("needle_offset")
    if (
        not is_whole
        or type(offset) is not int
        or ids[offset : offset + len(needle.ids)] != needle.ids.tolist()
    ):
        return Spot(f"{place}#{number}", None, "characters")
    return Spot(f"{place}#{number}", len(decode(ids[:offset])), "characters")


def _field(answer: Any, name: str, place: str) -> Any:
    if isinstance(answer, dict) and name in answer:
        return answer[name]
    said = answer.get("error", answer) if isinstance(answer, dict) else answer
    raise UserError(f"{place}: an answer without {name} ({str(said)[:200]}).")


def _number(answer: Any, name: str, place: str) -> int:
    value = _field(answer, name, place)
    if not _is_numbers([value]):
        raise UserError(f"{place}: an answer whose {name} is no number ({repr(value)[:80]}).")
    return int(value)


def _is_numbers(values: Any, n: int | None = None) -> bool:
    """Whether these are whole numbers from 0 on, `n` of them, that fit into 64 bits."""
    return (
        isinstance(values, list | tuple)
        and (n is None or len(values) == n)
        and all(type(one) is int and 0 <= one < 1 << 63 for one in values)
    )


def _open_index(place: str, dtype: str | None) -> _Ask:
    """A folder's index, or one behind the API of api.infini-gram.io (`docs/api.rst` there)."""
    if "://" not in place:
        return _open_folder(place, dtype)
    url, index = _address(place)
    asked: list[int] = []

    def ask(kind: str, **values: Any) -> Any:
        asked[:] = values.get("query_ids", asked)
        body = {"index": index, "query_type": kind, "query_ids": asked, **values}
        if kind == "get_doc_by_rank":
            body["max_disp_len"] = _MOST_SHOWN_BY_API
        return _post(url, json.dumps(body).encode(), place)

    return ask


def _open_folder(place: str, dtype: str | None) -> _Ask:
    """An index that was built with the package `infini-gram`."""
    width, folder = _WIDTHS.get(dtype or "uint16"), Path(place)
    if width is None:
        raise UserError(f"--dtype {dtype}: an infini-gram index has {', '.join(_WIDTHS)}.")
    if not folder.is_dir():
        raise UserError(f"{place}: no such folder with an infini-gram index.")
    item = int(width[1:]) // 8
    sizes = {path: path.stat().st_size for path in folder.glob("tokenized.*")}
    lacking = [
        f"{name}.{path.suffix[1:]}"
        for path in sizes
        for name in ("table", "offset")
        if not (folder / f"{name}{path.suffix}").is_file()
    ]
    if not sizes or lacking:  # the engine itself ends the process
        raise UserError(
            f"{place}: no whole infini-gram index (no {', '.join(lacking) or 'tokenized.0'}). "
            "Build one with 'python -m infini_gram.indexing'."
        )
    for path, size in sizes.items():  # the table holds a place for each id, in so many bytes
        table, n_bytes = path.with_stem("table"), math.ceil(math.log2(max(size, 2)) / 8)
        if table.stat().st_size * item != size * n_bytes:
            raise UserError(f"{path}: no index of {dtype or 'uint16'} ids. Name its --dtype.")
    try:
        engines = import_module("infini_gram.engine")
    except ImportError:
        raise UserError(
            f"{place}: needs the package infini-gram (Linux): {pip_install('infinigram')}"
        ) from None
    most = 2 ** (8 * item) - 1
    engine = engines.InfiniGramEngine(
        index_dir=[str(folder)], eos_token_id=0, vocab_size=most, token_dtype=width
    )

    def ask(kind: str, **values: Any) -> Any:
        if kind == "get_doc_by_rank":
            return engine.get_doc_by_rank(**values, max_disp_len=_MOST_SHOWN)
        ids = values["query_ids"]
        if not ids:
            return {"count": sum(sizes.values()) // item}
        if max(ids) >= most:  # the largest id stands between documents
            raise UserError(
                f"{place}: token id {max(ids)} does not fit its {dtype or 'uint16'}. Name --dtype."
            )
        return getattr(engine, kind)(input_ids=ids)

    return ask


def _address(place: str) -> tuple[str, str]:
    """URL and name of an index behind an API."""
    url, _, index = place.partition("#")
    if not index or not url.startswith(("http://", "https://")):
        raise UserError(
            f"{place}: wants URL#INDEX, for example "
            "infini-gram:https://api.infini-gram.io/#v4_piletrain_llama."
        )
    return url, index


def _exact(answer: Any, place: str) -> int:
    count = answer.get("count") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and "error" in answer:
        raise UserError(f"{place}: {str(answer['error'])[:200]}")
    if not isinstance(count, int) or not _is_numbers([count]):
        raise UserError(f"{place}: an answer without a count ({repr(answer)[:80]}).")
    if answer.get("approx"):
        raise UserError(f"{place}: an approximate count, where exact ones are needed.")
    return count


def _post(url: str, body: bytes, place: str) -> Any:
    """The answer to a question, repeated to a busy service; of a refusal its status as `error`."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for attempt in range(_TRIES):
        is_last = attempt == _TRIES - 1
        try:
            seconds, most = _TIMEOUT_SECONDS, _MOST_ANSWER_BYTES
            return parse_json(exchange(_opener, request, seconds=seconds, most=most))
        except urllib.error.HTTPError as error:
            if error.code != 429 and error.code < 500:
                return {"error": f"HTTP {error.code} ({error.reason})."}
            if is_last:
                raise UserError(f"{place}: HTTP {error.code} ({error.reason}).") from None
        except (OSError, HTTPException, ValueError) as error:
            if is_last:
                reason = getattr(error, "reason", None) or error
                raise UserError(
                    f"{place}: no answer ({reason}). What is counted is kept; run it again."
                ) from None
        time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("the last attempt raises")
