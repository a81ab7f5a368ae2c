"""Count suffixes in an infini-gram index of this machine, or behind its HTTP API.

Liu et al. 2024, arXiv 2401.17377; the index's tokens must be those of the table's tokenizer.
"""

import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemoscope.data.corpus import Place
from mnemoscope.data.duplicates import CorpusCount, CountProgress
from mnemoscope.errors import UserError
from mnemoscope.progress import track

SCHEME = "infini-gram:"
_WIDTHS = {"uint8": "u8", "uint16": "u16", "uint32": "u32"}
_TRIES, _FIRST_PAUSE_SECONDS, _TIMEOUT_SECONDS = 5, 1.0, 60
_MOST_ANSWER_BYTES = 1 << 20

_Count = Callable[[list[int]], int]


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
    unless given. Equal suffixes are asked once; a count that was stopped goes on.

    Raises:
        UserError: no such index or package, ids of another type, an answer that is no exact
            count, or a service that does not answer.
    """
    count, n_tokens = _over_http(place) if "://" in place else _in_folder(place, dtype)
    distinct, which = np.unique(suffixes, axis=0, return_inverse=True)
    digest = hashlib.sha256(np.ascontiguousarray(distinct).data).hexdigest()
    key = hashlib.sha256(f"{place} {dtype} {distinct.shape} {digest}".encode()).hexdigest()
    progress = CountProgress(progress_file, key, save_seconds)
    counts = np.zeros(len(distinct), dtype=np.int64)
    begun = progress.load(counts)[0].position
    started = time.monotonic()
    with track("duplicates", total=len(distinct) - begun, unit="suffixes") as shown:
        for row in range(begun, len(distinct)):
            try:
                counts[row] = count(distinct[row].tolist())
            except UserError:
                progress.save(counts, Place(position=row), 0)
                raise
            shown.advance()
            if progress.is_due():
                progress.save(counts, Place(position=row + 1), 0)
    found: npt.NDArray[np.int64] = counts[which.ravel()]
    return CorpusCount(found, n_tokens, n_tokens / max(time.monotonic() - started, 1e-9))


def _in_folder(place: str, dtype: str | None) -> tuple[_Count, int]:
    """An index that was built with the package `infini-gram`, and its tokens."""
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
    odd = next((path for path, size in sizes.items() if size % item), None)
    if not sizes or lacking:  # the engine itself ends the process
        raise UserError(
            f"{place}: no whole infini-gram index (no {', '.join(lacking) or 'tokenized.0'}). "
            "Build one with 'python -m infini_gram.indexing'."
        )
    if odd is not None:
        raise UserError(f"{odd}: no whole number of {dtype or 'uint16'} ids. Name its --dtype.")
    try:
        engines = import_module("infini_gram.engine")
    except ImportError:
        raise UserError(
            f"{place}: needs the package infini-gram (Linux): pip install 'mnemoscope[infinigram]'"
        ) from None
    most = 2 ** (8 * item) - 1
    engine = engines.InfiniGramEngine(
        index_dir=[str(folder)], eos_token_id=0, vocab_size=most, token_dtype=width
    )

    def count(ids: list[int]) -> int:
        if max(ids) >= most:  # the largest id stands between documents
            raise UserError(
                f"{place}: token id {max(ids)} does not fit its {dtype or 'uint16'}. Name --dtype."
            )
        return _exact(engine.count(input_ids=ids), place)

    return count, sum(sizes.values()) // item


def _over_http(place: str) -> tuple[_Count, int]:
    """The API of api.infini-gram.io (`docs/api.rst` there): a POST a suffix."""
    url, _, index = place.partition("#")
    if not index or not url.startswith(("http://", "https://")):
        raise UserError(
            f"{place}: wants URL#INDEX, for example "
            "infini-gram:https://api.infini-gram.io/#v4_piletrain_llama."
        )

    def ask(ids: list[int]) -> int:
        body = {"index": index, "query_type": "count", "query_ids": ids}
        return _exact(_post(url, json.dumps(body).encode(), place), place)

    return ask, ask([])  # the empty query counts all tokens


def _exact(answer: Any, place: str) -> int:
    count = answer.get("count") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and "error" in answer:
        raise UserError(f"{place}: {str(answer['error'])[:200]}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise UserError(f"{place}: an answer without a count ({str(answer)[:80]}).")
    if answer.get("approx"):
        raise UserError(f"{place}: an approximate count, where exact ones are needed.")
    return count


def _post(url: str, body: bytes, place: str) -> Any:
    """The answer to one question; a service that is busy is asked again a few times."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for attempt in range(_TRIES):
        is_last = attempt == _TRIES - 1
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                return json.loads(answer.read(_MOST_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            if is_last or (error.code != 429 and error.code < 500):
                raise UserError(f"{place}: HTTP {error.code} ({error.reason}).") from None
        except (OSError, HTTPException, ValueError) as error:
            if is_last:
                reason = getattr(error, "reason", None) or error
                raise UserError(
                    f"{place}: no answer ({reason}). What is counted is kept; run it again."
                ) from None
        time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("the last attempt raises")
