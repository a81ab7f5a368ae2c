"""Choose what goes where: the study, what phase 1 reads, what is new in phase 2.

No stretch of 24 tokens is shared between two sequences of the study, or between a sequence of
the study and anything else that either phase trains on: so a sequence stands in the training
rows as often as its row is repeated, and one that is held out stands nowhere.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from rapidfuzz.distance import LCSseq
from tokenizers import Tokenizer

from mnemoscope.data.duplicates import hash_ngrams, share_ngram
from mnemoscope.embedded.templates import forms_of, write_text
from mnemoscope.embedded.texts import Segment
from tools.embedded.settings import Setting, Share

LENGTH = 64
PREFIX = 32
MIN_DISTINCT_TOKENS = 16  # below it a window is ruling, padding or a table of zeros
MAX_OFFSET = 24  # a template's window begins so many tokens into its text at most
CAUGHT_ROUGE = 0.5  # of ROUGE-L: where the Guess rule begins
NEW_TEMPLATE_MIX = {"counting": 0.54, "periodic": 0.34, "missed": 0.02, "record": 0.10}


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
        study: one row a sequence, columns of the shipped table but `duplicates`, plus `source`.
        first: phase 1, uint16, shape (epochs, rows, 64).
        second_new: new templates of phase 2, uint16, shape (passes, rows, 64).
        n_text_windows: windows of text that phase 1 could draw from.
    """

    study: pl.DataFrame
    first: np.ndarray
    second_new: np.ndarray
    n_text_windows: int


def build_corpus(segments: list[Segment], tokenizer: Tokenizer, setting: Setting) -> Corpus:
    """Cut the text, write the templates and share both out as `setting` says."""
    windows = cut_segments(segments, tokenizer)
    used = NgramSet()
    study = pl.concat(
        [
            choose_text(windows, tokenizer, setting, used),
            _choose_templates(tokenizer, setting, used),
        ],
        how="vertical",
    )
    study = study[np.random.default_rng(setting.seed).permutation(len(study))]
    study = study.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id"))
    hashes = used.as_array()
    text = _phase_one_text(windows, setting, hashes)
    first_new = new_templates(
        tokenizer, setting.first_epochs, setting.first_templates, f"1:{setting.seed}", hashes
    )
    second_new = new_templates(
        tokenizer, setting.second_epochs, setting.second_templates, f"2:{setting.seed}", hashes
    )
    return Corpus(
        study, np.concatenate([text, first_new], axis=1), second_new, len(windows["tokens"])
    )


def phase_two_rows(corpus: Corpus, epoch: int) -> np.ndarray:
    """Rows of one pass of phase 2: the study with its repeats, then the pass's new templates."""
    tokens = np.array(corpus.study["tokens"].to_list(), np.uint16)
    repeated = np.repeat(tokens, corpus.study["inserted"].to_numpy(), axis=0)
    return np.concatenate([repeated, corpus.second_new[epoch]])


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


def new_templates(
    tokenizer: Tokenizer, n_epochs: int, n_rows: int, seed: str, forbidden: np.ndarray
) -> np.ndarray:
    """Templates that share no 24 tokens with the study: uint16, (n_epochs, n_rows, 64)."""
    rng = random.Random(seed)
    wanted, rows = n_epochs * n_rows, np.empty((0, LENGTH), np.uint16)
    while len(rows) < wanted:
        kinds = rng.choices(
            list(NEW_TEMPLATE_MIX), list(NEW_TEMPLATE_MIX.values()), k=wanted // 4 + 50
        )
        names = [rng.choice(forms_of(kind)) for kind in kinds]
        drawn = [_cut_template(tokenizer, name, rng) for name in names]
        candidates = np.array([window for window in drawn if window is not None], np.uint16)
        fresh = candidates[~share_ngram(candidates, forbidden)]
        rows = np.concatenate([rows, fresh])
    return rows[:wanted].reshape(n_epochs, n_rows, LENGTH)


def _cut_template(tokenizer: Tokenizer, name: str, rng: random.Random) -> list[int] | None:
    ids = tokenizer.encode(write_text(name, f"{rng.getrandbits(64):x}")).ids
    if len(ids) < LENGTH:
        return None
    offset = rng.randint(0, min(len(ids) - LENGTH, MAX_OFFSET))
    return list(ids[offset : offset + LENGTH])


def choose_text(
    windows: dict[str, np.ndarray], tokenizer: Tokenizer, setting: Setting, used: NgramSet
) -> pl.DataFrame:
    """Draw the windows of prose and code that `setting.study` asks, none of them in `used`."""
    rows = []
    for genre in ("prose", "code"):
        shares = [share for share in setting.study if share.source == genre]
        pool = _study_pool(windows, tokenizer, genre, setting, used)
        repeats = _draw_repeats(shares, setting.seed)
        for inserted, at in zip(repeats, pool, strict=False):
            rows.append(
                {
                    "text": _decode(tokenizer, windows["tokens"][at]),
                    "tokens": windows["tokens"][at].tolist(),
                    "document": windows["documents"][windows["segment"][at]],
                    "start": int(windows["start"][at]),
                    "end": int(windows["end"][at]),
                    "genre": genre,
                    "source": genre,
                    "group": None,
                    "inserted": inserted,
                }
            )
        if len(pool) < len(repeats):
            raise ValueError(f"{genre}: {len(pool)} windows, {len(repeats)} are needed")
    return _frame(rows)


def _study_pool(
    windows: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    genre: str,
    setting: Setting,
    used: NgramSet,
) -> list[int]:
    wanted = sum(share.n for share in setting.study if share.source == genre)
    fits = np.flatnonzero(windows["in_study"] & (windows["prose"] == (genre == "prose")))
    order = np.random.default_rng([setting.seed, len(genre)]).permutation(fits)
    chosen: list[int] = []
    for at in order:
        window = windows["tokens"][at]
        if len(np.unique(window)) < MIN_DISTINCT_TOKENS or not _round_trips(tokenizer, window):
            continue
        if used.take(hash_ngrams(window[None])[0].tolist()):
            chosen.append(int(at))
        if len(chosen) == wanted:
            break
    return chosen


def _choose_templates(tokenizer: Tokenizer, setting: Setting, used: NgramSet) -> pl.DataFrame:
    rng = random.Random(f"study:{setting.seed}")
    rows = []
    for share in setting.study:
        if share.source in ("prose", "code"):
            continue
        forms = forms_of(share.source)
        for index, inserted in enumerate(_draw_repeats([share], setting.seed)):
            name, window = _find_template(forms, index, share.source, tokenizer, rng, used)
            rows.append(
                {
                    "text": _decode(tokenizer, np.array(window)),
                    "tokens": window,
                    "document": f"template:{name}",
                    "start": None,
                    "end": None,
                    "genre": "template",
                    "source": share.source,
                    "group": f"template:{name}",
                    "inserted": inserted,
                }
            )
    return _frame(rows)


def _find_template(
    forms: list[str],
    index: int,
    source: str,
    tokenizer: Tokenizer,
    rng: random.Random,
    used: NgramSet,
) -> tuple[str, list[int]]:
    """Draw until a window of the wanted kind is new; forms take turns, and tire after 50 draws."""
    for attempt in range(50 * len(forms)):
        name = forms[(index + attempt // 50) % len(forms)]
        window = _cut_template(tokenizer, name, rng)
        if window is None or not _round_trips(tokenizer, np.array(window)):
            continue
        is_caught = rouge_l(window) >= CAUGHT_ROUGE
        if is_caught != (source in ("counting", "periodic")):
            continue
        if used.take(hash_ngrams(np.array([window]))[0].tolist()):
            return name, window
    raise ValueError(f"no new template of {source} could be found")


def rouge_l(window: list[int]) -> float:
    """ROUGE-L of the two halves of a window: longest common subsequence / 32."""
    return float(LCSseq.similarity(window[:PREFIX], window[PREFIX:])) / PREFIX


def _draw_repeats(shares: list[Share], seed: int) -> list[int]:
    """How often each sequence of these shares is trained on, shuffled over the shares."""
    rng = random.Random(f"repeats:{seed}:{shares[0].source}:{shares[0].repeats}")
    repeats = [share.repeats[i % len(share.repeats)] for share in shares for i in range(share.n)]
    rng.shuffle(repeats)
    return repeats


def _phase_one_text(
    windows: dict[str, np.ndarray], setting: Setting, forbidden: np.ndarray
) -> np.ndarray:
    free = np.flatnonzero(~share_ngram(windows["tokens"], forbidden))
    rng = np.random.default_rng([setting.seed, 1])
    wanted = setting.first_epochs * setting.first_text_rows
    order = np.concatenate([rng.permutation(free) for _ in range(wanted // len(free) + 1)])
    chosen: np.ndarray = windows["tokens"][order[:wanted]]
    return chosen.reshape(setting.first_epochs, setting.first_text_rows, LENGTH)


def _decode(tokenizer: Tokenizer, window: np.ndarray) -> str:
    return str(tokenizer.decode(window.tolist(), skip_special_tokens=False))


def _round_trips(tokenizer: Tokenizer, window: np.ndarray) -> bool:
    return bool(tokenizer.encode(_decode(tokenizer, window)).ids == window.tolist())


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema: dict[str, Any] = {
        "text": pl.String,
        "tokens": pl.List(pl.Int32),
        "document": pl.String,
        "start": pl.Int64,
        "end": pl.Int64,
        "genre": pl.String,
        "source": pl.String,
        "group": pl.String,
        "inserted": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema)
