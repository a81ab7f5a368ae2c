"""Choose what goes where: the study, what phase 1 reads, what is new in phase 2.

The study is a factorial: within each kind of text (prose, code, records) it is dealt at random how
often a sequence is read, for text that can be guessed and text that cannot. No stretch of 24
tokens is shared between two sequences of the study, or between a sequence of the study and
anything else that either phase trains on: so a sequence stands in the training rows as often as
its row is repeated, and one that is held out stands nowhere.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from tokenizers import Tokenizer

from mnemoscope.data.duplicates import hash_ngrams, share_ngram
from mnemoscope.data.features import add_features
from mnemoscope.embedded.templates import forms_of, write_text
from mnemoscope.embedded.texts import Segment
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from tools.embedded.settings import READS, Rows, Setting, Share, of_the_reference

LENGTH = 64
PREFIX = 32
MIN_DISTINCT_TOKENS = 16  # below it a window is ruling, padding or a table of zeros
MAX_OFFSET = 24  # a template's window begins so many tokens into its text at most
PERIODS = (4, 16)  # tokens that a refrain repeats: at least, at most
NEW_TEMPLATE_MIX = {"counting": 0.58, "periodic": 0.40, "missed": 0.02}
GUESS = parse_taxonomy("Non-Memo, Guess, Recall")
_AT_ONCE = 200  # candidates whose features are computed together
_ENOUGH = 800  # characters of a written text, of which a window is cut
Draw = Callable[[random.Random], "Window | None"]


@dataclass(frozen=True)
class Window:
    """64 tokens with their place in a document, None where they were written here."""

    tokens: list[int]
    document: str
    start: int | None = None
    end: int | None = None


class NgramSet:
    """The stretches used so far; a window is taken only if it shares none of them."""

    def __init__(self) -> None:
        """Start empty."""
        self._hashes: set[int] = set()

    def take(self, window_hashes: Iterable[int]) -> bool:
        """Add the hashes of one window and return True, or return False and add nothing."""
        hashes = set(window_hashes)
        if self._hashes & hashes:
            return False
        self._hashes |= hashes
        return True

    def as_array(self) -> np.ndarray:
        """All hashes, uint64, sorted."""
        return np.array(sorted(self._hashes), np.uint64)


@dataclass(frozen=True)
class Corpus:
    """What both phases train on.

    Attributes:
        study: one row a sequence, columns of the shipped table but `duplicates`.
        copies: random tokens again and again, for the beginning of phase 1; uint16, (rows, 64).
        first: the rest of phase 1, likewise.
        second_new: what phase 2 reads beside the study, uint16, shape (rows, 64).
        other: what the reference reads in place of the study, each row as often as it is read.
        n_text_windows: windows of text that phase 1 could draw from.
    """

    study: pl.DataFrame
    copies: np.ndarray
    first: np.ndarray
    second_new: np.ndarray
    other: np.ndarray
    n_text_windows: int


def build_corpus(segments: list[Segment], tokenizer: Tokenizer, setting: Setting) -> Corpus:
    """Cut the text, write the rest and deal it out as `setting` says."""
    windows = cut_segments(segments, tokenizer)
    used = NgramSet()
    study = choose_study(windows, tokenizer, setting, used)
    hashes = used.as_array()
    free = np.flatnonzero(~share_ngram(windows["tokens"], hashes))
    order = np.random.default_rng([setting.seed, 1]).permutation(free)
    first, second = (
        new_rows(windows, order, tokenizer, rows, f"{phase}:{setting.seed}", hashes)
        for phase, rows in ((1, setting.first_rows), (2, setting.second_rows))
    )
    copies = copy_rows(setting.copy_rows, setting.vocabulary_size, setting.seed)
    own = replace(setting, study=of_the_reference(setting.study), seed=setting.seed + 1)
    other = rows_as_read(choose_study(windows, tokenizer, own, used))
    return Corpus(study, copies, first, second, other, len(windows["tokens"]))


def copy_rows(n: int, vocabulary_size: int, seed: int) -> np.ndarray:
    """Random tokens with a period of 2 to 16, uint16, shape (n, 64): only copying predicts them."""
    rng = np.random.default_rng([seed, 3])
    units = rng.integers(1, vocabulary_size, (n, PERIODS[1]))
    periods = rng.integers(2, PERIODS[1] + 1, n)
    places = np.arange(LENGTH) % periods[:, None]
    return np.take_along_axis(units, places, axis=1).astype(np.uint16)


def phase_two_rows(corpus: Corpus) -> np.ndarray:
    """Rows of the model's phase 2: the study, each as often as it is read, then what is new."""
    return np.concatenate([rows_as_read(corpus.study), corpus.second_new])


def rows_as_read(study: pl.DataFrame) -> np.ndarray:
    """The sequences of a study, each as often as it is read, uint16, shape (rows, 64)."""
    tokens = np.array(study["tokens"].to_list(), np.uint16)
    return np.repeat(tokens, study["inserted"].to_numpy(), axis=0)


def cut_segments(segments: list[Segment], tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Cut every segment into disjoint windows of 64 tokens; what is left over is dropped.

    Returns:
        Arrays of one length: `tokens` (n, 64) uint16, `start`, `end` (character offsets in the
        document), `segment` (index into `segments`), `prose`, `in_study` (bool), and `segments`
        itself under "documents" (object).
    """
    tokens, spans = [], []
    for first in range(0, len(segments), 1000):
        encodings = tokenizer.encode_batch([s.text for s in segments[first : first + 1000]])
        for index, encoding in enumerate(encodings, first):
            offsets, base = encoding.offsets, segments[index].start
            for at in range(0, len(encoding.ids) - LENGTH + 1, LENGTH):
                tokens.append(encoding.ids[at : at + LENGTH])
                spans.append((index, base + offsets[at][0], base + offsets[at + LENGTH - 1][1]))
    span = np.array(spans, np.int64)
    return {
        "tokens": np.array(tokens, np.uint16),
        "segment": span[:, 0],
        "start": span[:, 1],
        "end": span[:, 2],
        "prose": np.array([s.genre == "prose" for s in segments])[span[:, 0]],
        "in_study": np.array([s.in_study for s in segments])[span[:, 0]],
        "documents": np.array([s.document for s in segments], object),
    }


def new_rows(
    windows: dict[str, np.ndarray],
    order: np.ndarray,
    tokenizer: Tokenizer,
    rows: Rows,
    seed: str,
    forbidden: np.ndarray,
) -> np.ndarray:
    """Rows that share no 24 tokens with the study: text, records, refrains, templates.

    Text is taken in the given order of windows, from the start again where it ends.

    Returns:
        uint16, shape (sum of `rows`, 64), one kind after the other.
    """
    n_text, *others = rows
    text = windows["tokens"][np.resize(order, n_text)]
    rng = random.Random(seed)
    is_prose = windows["prose"][order]
    pools = {"prose": order[is_prose], "code": order[~is_prose]}
    refrains = [_refrain(windows, pools[kind], tokenizer) for kind in pools]
    draws: list[list[Draw]] = [
        [_record(tokenizer)],
        [*refrains, _record_refrain(tokenizer)],
        [_template(tokenizer, kind) for kind in NEW_TEMPLATE_MIX],
    ]
    weights = ([1.0], [1.0] * 3, list(NEW_TEMPLATE_MIX.values()))
    made = [
        _fresh(each, weight, n, rng, forbidden)
        for each, weight, n in zip(draws, weights, others, strict=True)
    ]
    return np.concatenate([text, *made])


def _fresh(
    draws: list[Draw], weights: list[float], n: int, rng: random.Random, forbidden: np.ndarray
) -> np.ndarray:
    found = np.empty((0, LENGTH), np.uint16)
    while len(found) < n:
        some = (draw(rng) for draw in rng.choices(draws, weights, k=n // 4 + 50))
        candidates = np.array([one.tokens for one in some if one is not None], np.uint16)
        found = np.concatenate([found, candidates[~share_ngram(candidates, forbidden)]])
    return found[:n]


# -- ways to draw a window ---------------------------------------------------------------------


def _natural(windows: dict[str, np.ndarray], pool: np.ndarray) -> Iterator[Window]:
    """The windows of a pool, each once."""
    for at in pool:
        document = str(windows["documents"][windows["segment"][at]])
        start, end = int(windows["start"][at]), int(windows["end"][at])
        yield Window(windows["tokens"][at].tolist(), document, start, end)


def _refrain(windows: dict[str, np.ndarray], pool: np.ndarray, tokenizer: Tokenizer) -> Draw:
    """A stretch of a window of the pool, again and again, begun anywhere in it."""

    def draw(rng: random.Random) -> Window | None:
        at = int(pool[rng.randrange(len(pool))])
        period = rng.randint(*PERIODS)
        first = rng.randint(0, LENGTH - period)
        unit = windows["tokens"][at][first : first + period].tolist()
        begin = rng.randrange(period)
        tokens = ((unit[begin:] + unit[:begin]) * (LENGTH // period + 1))[:LENGTH]
        document = str(windows["documents"][windows["segment"][at]])
        return Window(tokens, document) if _round_trips(tokenizer, tokens) else None

    return draw


def _record(tokenizer: Tokenizer) -> Draw:
    """A table whose every field is a word out of thousands."""
    return _template(tokenizer, "register")


def _record_refrain(tokenizer: Tokenizer) -> Draw:
    """One or two rows of such a table, again and again."""
    forms = forms_of("register")

    def draw(rng: random.Random) -> Window | None:
        name = rng.choice(forms)
        rows = write_text(name, f"{rng.getrandbits(64):x}").split("\n")[: rng.randint(1, 2)]
        unit = "\n".join(rows) + "\n"
        period = len(tokenizer.encode(unit).ids)
        if not PERIODS[0] <= period <= PERIODS[1]:
            return None
        ids = tokenizer.encode(unit * (LENGTH // period + 2)).ids
        begin = rng.randrange(period)
        tokens = ids[begin : begin + LENGTH]
        is_whole = len(tokens) == LENGTH and _round_trips(tokenizer, tokens)
        return Window(tokens, f"template:{name}") if is_whole else None

    return draw


def _recurring(tokenizer: Tokenizer) -> Draw:
    """Such a table in which one row comes back after every new one: it repeats, and goes on."""
    forms = forms_of("register")

    def draw(rng: random.Random) -> Window | None:
        name = rng.choice(forms)
        first, *others = write_text(name, f"{rng.getrandbits(64):x}").split("\n")[:12]
        text = "\n".join(row for other in others for row in (first, other))
        return _cut(tokenizer, text, name, rng)

    return draw


def _template(tokenizer: Tokenizer, kind: str) -> Draw:
    forms = forms_of(kind)

    def draw(rng: random.Random) -> Window | None:
        name = rng.choice(forms)
        return _cut(tokenizer, write_text(name, f"{rng.getrandbits(64):x}"), name, rng)

    return draw


def _cut(tokenizer: Tokenizer, text: str, name: str, rng: random.Random) -> Window | None:
    """A window from the beginning of a written text."""
    ids = tokenizer.encode(text[:_ENOUGH]).ids
    if len(ids) < LENGTH:
        return None
    begin = rng.randint(0, min(len(ids) - LENGTH, MAX_OFFSET))
    tokens = list(ids[begin : begin + LENGTH])
    return Window(tokens, f"template:{name}") if _round_trips(tokenizer, tokens) else None


def _endless(draw: Draw, rng: random.Random) -> Iterator[Window]:
    while True:
        if (window := draw(rng)) is not None:
            yield window


# -- the study ---------------------------------------------------------------------------------


def choose_study(
    windows: dict[str, np.ndarray], tokenizer: Tokenizer, setting: Setting, used: NgramSet
) -> pl.DataFrame:
    """Draw every cell, none of its windows in `used`, and deal out how often each is read.

    Raises:
        ValueError: too few windows of a kind and form.
    """
    rows: list[dict[str, Any]] = []
    for number, share in enumerate(setting.study):
        rng = random.Random(f"study:{setting.seed}:{share.kind}:{share.form}")
        found = list(islice(_candidates(windows, tokenizer, share, rng, used), share.n))
        if len(found) < share.n:
            raise ValueError(f"{share.kind}, {share.form}: {len(found)} windows of {share.n}")
        reads = [n for n, times in zip(READS, share.numbers, strict=True) for _ in range(times)]
        np.random.default_rng([setting.seed, 2, number]).shuffle(reads)
        for window, inserted in zip(found, reads, strict=True):
            rows.append(
                {
                    "text": _decode(tokenizer, window.tokens),
                    "tokens": window.tokens,
                    "document": window.document,
                    "start": window.start,
                    "end": window.end,
                    "genre": share.kind,
                    "form": share.form,
                    "group": window.document if share.kind == "template" else None,
                    "inserted": inserted,
                }
            )
    frame = pl.DataFrame(rows, schema=_COLUMNS)
    frame = frame[np.random.default_rng(setting.seed).permutation(len(frame))]
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id"))


def _candidates(
    windows: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    share: Share,
    rng: random.Random,
    used: NgramSet,
) -> Iterator[Window]:
    """Windows of one cell that are new and of which the Guess rule says what the form asks."""
    is_prose = share.kind == "prose"
    fits = np.flatnonzero(windows["in_study"] & (windows["prose"] == is_prose))
    pool = np.random.default_rng(rng.getrandbits(64)).permutation(fits)
    match share.kind, share.form:
        case "template", kind:
            drawn = _endless(_template(tokenizer, kind), rng)
        case "record", "refrain":
            drawn = _endless(_record_refrain(tokenizer), rng)
        case "record", "rule":
            drawn = _endless(_recurring(tokenizer), rng)
        case "record", _:
            drawn = _endless(_record(tokenizer), rng)
        case _, "refrain":
            drawn = _endless(_refrain(windows, pool, tokenizer), rng)
        case _:
            drawn = _natural(windows, pool)
    while some := list(islice(drawn, _AT_ONCE)):
        for window, is_guess in zip(some, calls_guess(tokenizer, some), strict=True):
            is_natural = share.form in ("plain", "rule") and share.kind != "record"
            if is_guess == (share.form == "plain"):
                continue
            if is_natural and len(set(window.tokens)) < MIN_DISTINCT_TOKENS:
                continue
            if is_natural and not _round_trips(tokenizer, window.tokens):
                continue
            if used.take(hash_ngrams(np.array([window.tokens]))[0].tolist()):
                yield window


def calls_guess(tokenizer: Tokenizer, windows: list[Window]) -> list[bool]:
    """Whether the published rule, Guess[0.5-0.5], would call each window a guess if it came out."""
    tokens = [one.tokens for one in windows]
    frame = pl.DataFrame(
        {
            "sequence_id": range(len(tokens)),
            "text": [_decode(tokenizer, one) for one in tokens],
            "tokens": pl.Series(tokens, dtype=pl.List(pl.Int32)),
            "memorization_score": [1.0] * len(tokens),
        }
    )
    return (label_sequences(add_features(frame, code="off"), GUESS) == "Guess").to_list()


def _decode(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False))


def _round_trips(tokenizer: Tokenizer, tokens: list[int]) -> bool:
    return bool(tokenizer.encode(_decode(tokenizer, tokens)).ids == list(tokens))


_COLUMNS: dict[str, Any] = {
    "text": pl.String,
    "tokens": pl.List(pl.Int32),
    "document": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "genre": pl.String,
    "form": pl.String,
    "group": pl.String,
    "inserted": pl.Int64,
}
