"""Can rows that a model read be told from rows that it did not, by more than their text?"""

from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.benchmark.membership import (
    SCORES,
    TOLD,
    WITH_TWIN,
    WITHOUT_TWIN,
    PassageChances,
    Told,
    bits_beyond,
    score_passages,
    sum_of,
    text_controls,
    told_apart,
)
from mnemoscope.data.table import has_values, token_matrix, whole_mask
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError
from mnemoscope.library.given import BatchSize, Shown, following, opened_model, windows_at_once
from mnemoscope.library.sequences import as_windows
from mnemoscope.lm.probe import token_chances
from mnemoscope.progress import say
from mnemoscope.stats import FEWEST_GROUPS, Estimate, Floats, fewest_groups, frame_of
from mnemoscope.taxonomy.groups import chain, connect, find_groups
from mnemoscope.words import ranged

TWIN = "twin: "
"""What the scores of the twin alone, which are controls, begin with."""
LOST = (
    "No twin was given: a high score may mean that a text is easy, and no bits can be counted. "
    "Min-K%++ takes some of that out, and the text alone stands beside it."
)
_AT_ONCE = 256  # rows that are asked and counted together


@dataclass(frozen=True, repr=False)
class Membership:
    """How far a model's read rows can be told from unread ones.

    Attributes:
        rows: one row a sequence: `sequence_id`, `read`, `group`, its scores, `bits` beyond the twin
            (null without one).
        told: one row a score or control: `auc`, `tpr` at 1 % of the unread, `beyond` the best
            control, `verdict`, `reason`.
        levels: one row a number of readings, by the score that the verdict is drawn from; empty
            where the rows do not say how often they were read.
        bits: of `read` and `unread` rows: their number, the mean and the sum; empty without a twin.
        score: the score that the verdict is drawn from.
        sentence: what can be said.
        notes: what cannot.
    """

    rows: pl.DataFrame
    told: pl.DataFrame
    levels: pl.DataFrame
    bits: pl.DataFrame
    score: str
    sentence: str
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Membership({self.sentence})"

    def _repr_html_(self) -> str:
        return f"<b>{escape(self.sentence)}</b>"


def membership(
    model: Any,
    windows: Any,
    *,
    reference: Any = None,
    read: str | None = None,
    tokenizer: Any = None,
    batch_size: BatchSize = "auto",
    n_resamples: int = 1000,
    seed: int = 0,
    progress: Shown = None,
) -> Membership:
    """Say how well scores tell rows that a model read from rows that it did not.

    Args:
        model: a name, a path or a loaded model, as in `scan`.
        windows: as in `scan`, of one length; some were read and some not.
        reference: the twin: a model alike, with the same tokenizer, that read none of them. The
            shipped model has its own; ``"none"`` leaves it out.
        read: the column that says which were read: true, or a number above 0. Without it
            `duplicates`, or else `held_out`, where true is unread.
        tokenizer: of a loaded model, where its name does not tell.
        batch_size: windows at once.
        n_resamples: resamples of every interval.
        seed: of resamples and of the folds of the regressions on the text.
        progress: whether to show how far it is; None: in a notebook.

    Returns:
        `Membership`: scores with AUC and TPR at 1 % FPR, their intervals by document (and by near
        duplicates), beside what the text alone and the twin alone tell; bits beyond the twin.

    Raises:
        UserError: no such column, no row on a side, padded rows, or fewer than two documents on a
            side.
    """
    table = as_windows(windows, model, tokenizer)
    if whole_mask(table) is not None:
        raise UserError("rows: padded. Give rows of one length.")
    if reference is None and isinstance(model, str) and model == "embedded":
        reference = place_of(model, "reference")
    elif isinstance(reference, str) and reference == "none":
        reference = None
    labels = _labels(table, read)
    tokens, groups = token_matrix(table), documents_of(table)
    n_least = fewest_groups(labels, groups)
    if n_least < 2:
        raise UserError(
            f"rows: {n_least} document on a side, where two are needed to ask the text alone "
            "and 10 for an interval. Give rows of more documents (column 'document')."
        )
    n, twins = len(tokens), " and once through the twin" if reference is not None else ""
    say(f"Membership: {n:,} sequences, each once through the model{twins}.")
    with opened_model(model, tokenizer, table=table) as lm:
        own = _chances(lm, tokens, batch_size, progress)
        texts = _texts(table, lm)
    beside = None
    if reference is not None:
        with opened_model(reference, tokenizer, table=table) as lm:
            beside = _chances(lm, tokens, batch_size, progress)
    twin = None if beside is None else [one.logprobs for one in beside]
    scores, controls = score_passages(own, texts, twin), dict[str, Floats]()
    if beside is not None:
        of_twin = score_passages(beside, texts)
        controls = {f"{TWIN}{SCORES[one]}": of_twin[one] for one in ("logprob", WITHOUT_TWIN)}
    asked = _Asked(scores, controls, tokens, texts, groups, seed, n_resamples)
    score = WITHOUT_TWIN if twin is None else WITH_TWIN
    bits = None
    if twin is not None:
        pairs = zip(own, twin, strict=True)
        bits = np.array([bits_beyond(one.logprobs, other) for one, other in pairs])
    told = asked.told(labels, np.arange(n))
    return Membership(
        rows=table.select("sequence_id").with_columns(
            read=pl.Series(labels),
            group=pl.Series(groups),
            **{name: pl.Series(one) for name, one in scores.items()},
            bits=pl.Series([None] * n if bits is None else bits, dtype=pl.Float64),
        ),
        told=frame_of(one._asdict() for one in told),
        levels=_levels(table, labels, asked, score, bits),
        bits=pl.DataFrame() if bits is None else _bits(bits, labels, groups),
        score=SCORES[score],
        sentence=sentence_of(told, SCORES[score]),
        notes=(LOST,) if twin is None else (),
    )


class _Asked(NamedTuple):
    """What was asked of all rows, some of which are to be told from others."""

    scores: dict[str, Floats]
    controls: dict[str, Floats]
    tokens: np.ndarray
    texts: list[str]
    groups: np.ndarray
    seed: int
    n_resamples: int

    def told(self, labels: np.ndarray, at: np.ndarray, only: str | None = None) -> list[Told]:
        """Scores and controls of the rows `at`, or one score of `SCORES` beside all controls."""
        read, groups = labels[at], self.groups[at]
        texts = [self.texts[one] for one in at]
        controls = text_controls(self.tokens[at], texts, read, groups, seed=self.seed)
        controls |= {name: one[at] for name, one in self.controls.items()}
        scores = {
            SCORES[name]: one[at] for name, one in self.scores.items() if only in (None, name)
        }
        draws = {"seed": self.seed, "n_resamples": self.n_resamples}
        return told_apart(scores, controls, read, groups, **draws)


def documents_of(table: pl.DataFrame) -> np.ndarray:
    """Number of the group of each row (n,): of one document, one `group`, or near duplicates."""
    near = find_groups(table).rank("dense").to_numpy()
    edges = [chain(near, np.arange(table.height))]
    if has_values(table, "document"):
        given = table.select("document").with_row_index("row").drop_nulls()
        edges.append(chain(given["document"].rank("dense").to_numpy(), given["row"].to_numpy()))
    found: np.ndarray = connect(table.height, np.concatenate(edges))
    return found


def _labels(table: pl.DataFrame, read: str | None) -> np.ndarray:
    """Which rows were read, bool (n,)."""
    name = read or next((one for one in ("duplicates", "held_out") if has_values(table, one)), None)
    if name is None or name not in table.columns:
        raise UserError(
            f"rows: no column {name or 'duplicates or held_out'} that says what was read. Name "
            f"one: read=COLUMN (there are {', '.join(table.columns)})."
        )
    kind, n_null = table[name].dtype, table[name].null_count()
    if n_null or not (kind == pl.Boolean or kind.is_numeric()):
        raise UserError(
            f"rows, column '{name}': {f'{n_null} nulls' if n_null else kind}, where true or "
            "false, or a number of readings, is needed of every row."
        )
    found: np.ndarray = (table[name].cast(pl.Float64) > 0).to_numpy()
    found = ~found if read is None and name == "held_out" else found
    if found.all() or not found.any():
        side = "unread" if found.all() else "read"
        raise UserError(f"rows, column '{name}': no row is {side}, and both are needed.")
    return found


def _texts(table: pl.DataFrame, lm: Any) -> list[str]:
    if has_values(table, "text"):
        return [one or "" for one in table["text"]]
    if lm.tokenizer is None:
        raise UserError("rows: they have no text, and no tokenizer gives it. Add one.")
    return [str(one) for one in lm.tokenizer.batch_decode(table["tokens"].to_list())]


def _chances(
    lm: Any, tokens: np.ndarray, batch_size: BatchSize, progress: Shown
) -> list[PassageChances]:
    """What a model says of the tokens of every row, from the second on."""
    found, size = list[PassageChances](), windows_at_once(lm, batch_size, tokens.shape[1])
    with following(progress, "Reading", len(tokens)) as counted:
        for start in range(0, len(tokens), _AT_ONCE):
            some = tokens[start : start + _AT_ONCE]
            chances = token_chances(lm, some, batch_size=size)
            found += [PassageChances(*one) for one in zip(*chances, strict=True)]
            counted.advance(len(some))
    return found


def _levels(
    table: pl.DataFrame, labels: np.ndarray, asked: _Asked, score: str, bits: Floats | None
) -> pl.DataFrame:
    """The score by number of readings, each told from the unread rows."""
    if not has_values(table, "duplicates"):
        return pl.DataFrame()
    counts, lines = table["duplicates"].fill_null(0).to_numpy(), []
    for count in np.unique(counts[labels & (counts > 0)]).tolist():
        at = np.flatnonzero(~labels | (counts == count))
        if fewest_groups(labels[at], asked.groups[at]) < FEWEST_GROUPS:
            continue
        own, *controls = asked.told(labels, at, score)
        here = counts == count
        best = max(controls, key=lambda one: one.auc.value or 0.0)
        lines.append(
            {"duplicates": count, "n": int(here.sum())}
            | {"n_groups": len(np.unique(asked.groups[here])), "score": own.name}
            | {"auc": own.auc, "tpr": own.tpr, "best_control": best.name}
            | {"control_auc": best.auc, "beyond": own.beyond, "verdict": own.verdict}
            | ({} if bits is None else {"bits": _mean(bits[here], asked.groups[here])})
        )
    return frame_of(lines)


def _mean(values: Floats, groups: np.ndarray) -> Estimate:
    whole = sum_of(values, groups)
    return Estimate(*(None if one is None else one / len(values) for one in whole))


def _bits(bits: Floats, labels: np.ndarray, groups: np.ndarray) -> pl.DataFrame:
    sides = {"read": labels, "unread": ~labels}
    return frame_of(
        {"rows": name, "n": int(here.sum()), "mean": _mean(bits[here], groups[here])}
        | {"sum": sum_of(bits[here], groups[here])}
        for name, here in sides.items()
    )


def sentence_of(told: list[Told], score: str) -> str:
    """What can be said of the score that was fixed beforehand, and no more."""
    own = next(one for one in told if one.name == score)
    best = max((one for one in told if one.is_control), key=lambda one: one.auc.value or 0.0)
    auc, beside = (ranged(one.auc, digits=3) for one in (own, best))
    if own.auc.low is None:
        return f"Whether rows were read cannot be told: {own.reason}."
    if own.verdict != TOLD:
        return f"Whether rows were read cannot be told: {score}, AUC {auc}, is {own.reason}."
    return (
        f"Rows named as read are told from the others by {score}: AUC {auc}, and "
        f"{ranged(own.tpr, scale=100, unit=' %')} of them at 1 % false alarms; what needs no "
        f"memory has {beside} at most ({best.name})."
    )
