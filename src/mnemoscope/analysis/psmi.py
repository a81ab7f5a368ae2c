"""How far hidden states tell the token they lead to, and does a low value go with memorization?

Source: "PSMI", arXiv 2409.18858 (ECAI 2025); section 2 of the related work: pointwise sliced mutual
information of the hidden state at the predicting token and the label, by layer; low predicts
memorized. Here the state at the last token of the prefix and the first token of the suffix.
Controls: shuffled labels, pairs that share their label, a model that never saw the sequences.
As in the paper it can be asked of a fitted classifier too: states that its head reads, the label
that each row was trained with, loss, margin and entropy beside it, the network before it was fitted
as the control.
Run it: mnemoscope analyze psmi STUDY --second MODEL
or: mnemoscope analyze psmi CLASSIFIER --rows TABLE --set truth=COLUMN
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    OWN,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    Classified,
    Encoded,
    LanguageModel,
    classes_of,
    classified,
    draw_rows,
    draw_within,
    estimate_of,
    fit_classifier,
    frame_of,
    hidden_states,
    look_up,
    n_groups,
    ranged,
    resampled_auc,
    rows_of,
    separation,
    series_by,
    series_of,
    token_matrix,
    track,
    whole_mask,
)

PUBLISHED_FPR = 0.073
"""Average FPR at TPR .75 that the paper gives for fine-tuned 7B models."""

_MINIMUM = 20
"""Sequences that a label needs, where the settings name no number."""

BLOCK = 500
"""Directions between two looks at whether more are needed."""

_LOWEST, _CHANGE, _MILESTONE = 0.05, 0.05, 0.5  # the published automatic stop
_FLOOR = 1e-3
_MOST_AT_ONCE = 4_000_000

_Floats = npt.NDArray[np.float64]


class _Directions(AnalysisSettings):
    """Settings of either."""

    n_sequences: int | None = Field(
        default=5000, ge=20, description="Sequences drawn by the seed; null: all."
    )
    n_layers: int = Field(
        default=8, ge=1, description="At most so many layers, evenly spread, the last among them."
    )
    n_directions: int | None = Field(
        default=None, ge=2, description="Directions; null: until the lowest values have settled."
    )
    max_directions: int = Field(
        default=30_000,
        ge=500,
        multiple_of=500,
        description="Where the automatic stop gives up; the published package has no such end.",
    )
    n_resamples: int = Field(default=500, ge=50, description="Resamples of every interval.")


class Settings(_Directions):
    """Settings of `psmi` on a study."""

    taxonomy: str | None = Field(
        default=None,
        description="Whose classes the means are given of; null: the study's first with two large.",
    )
    minimum: int | None = Field(
        default=None,
        ge=2,
        description="Sequences that a label needs; null: 20, or where no two labels have as many, "
        "the most that two have.",
    )


class RowSettings(_Directions):
    """Settings of `psmi` on a classifier's rows."""

    truth: str | None = Field(
        default=None,
        description="The column that says which rows are memorized or mislabelled: true or false; "
        "null where it is not known.",
    )
    shadows: int = Field(
        default=0,
        ge=0,
        description="Without such a column: classifiers trained on half of the rows each, whose "
        "margins on the rows in and out say which are memorized.",
    )
    share: float = Field(
        default=0.1, gt=0, lt=1, description="Rows that count as memorized by shadows."
    )
    epochs: int = Field(default=10, ge=1, description="Passes of a shadow over its half.")
    learning_rate: float = Field(default=5e-5, gt=0, description="Of shadows.")
    batch: int = Field(default=16, ge=1, description="Rows in a step of a shadow.")


class Sliced(NamedTuple):
    """Pointwise sliced mutual information, nats: mean over directions, shape (n,)."""

    values: _Floats
    n_directions: int
    settled: bool  # the automatic stop was reached, or the number of directions was given


def sliced_information(
    vectors: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    seed: int,
    n_directions: int | None = None,
    max_directions: int = 30_000,
) -> Sliced:
    """Give each row's mean of ln N(z; its label's μ, σ) − ln Σ p N(z; each label's μ, σ).

    z is the row, (n, width), on one direction, drawn evenly; μ, σ (of the population) and p are the
    labels' own in these rows, σ at least a thousandth of that of all rows. `n_directions` None
    stops by itself, or at `max_directions`: directions come in blocks of 500; from the second block
    on it is enough when the lowest 5 % of the rows differ, on average, by at most 5 % of their
    value between the first half of the blocks and all. Raises UserError: fewer than two labels, a
    label with one row, values that are not finite.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    _, numbers, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if rows.ndim != 2 or len(rows) != len(numbers):
        raise UserError(f"psmi: vectors {rows.shape} and {len(numbers)} labels do not fit.")
    if not np.isfinite(rows).all():
        raise UserError("psmi: vectors that are not finite. Use --dtype float32.")
    if len(counts) < 2 or counts.min() < 2:
        raise UserError(
            f"psmi: {len(counts)} labels, the smallest of {counts.min()} rows; two of two rows are "
            "needed. Give more sequences."
        )
    generator = np.random.default_rng(seed)
    most = max_directions if n_directions is None else n_directions
    at_once = max(1, _MOST_AT_ONCE // (len(rows) * len(counts)))
    blocks: list[_Floats] = []
    done, settled = 0, n_directions is not None
    while done < most:
        directions = generator.standard_normal((min(BLOCK, most - done), rows.shape[1]))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        projected = rows @ directions.T
        total = np.zeros(len(rows))
        for start in range(0, len(directions), at_once):
            total += _pointwise(projected[:, start : start + at_once], numbers).sum(axis=1)
        blocks.append(total)
        done += len(directions)
        if n_directions is None and _is_enough(np.array(blocks)):
            settled = True
            break
    return Sliced(np.sum(blocks, axis=0) / done, done, settled)


def _pointwise(z: _Floats, numbers: npt.NDArray[np.int64]) -> _Floats:
    """The value of each row on each direction, shape (n, directions)."""
    counts = np.bincount(numbers).astype(np.float64)
    order = np.argsort(numbers, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)

    def label_means(of: _Floats) -> _Floats:
        return np.asarray(np.add.reduceat(of[order], starts, axis=0) / counts[:, None])

    mean = label_means(z)
    scale = np.where(z.std(axis=0) > 0, z.std(axis=0), 1.0)
    sigma = np.maximum(np.sqrt(label_means((z - mean[numbers]) ** 2)), _FLOOR * scale)
    own: _Floats = -0.5 * ((z - mean[numbers]) / sigma[numbers]) ** 2 - np.log(sigma[numbers])
    return own - _log_mixture(z, mean, sigma, counts / len(z))


def _log_mixture(z: _Floats, mean: _Floats, sigma: _Floats, share: _Floats) -> _Floats:
    """Log-density of the mixture of labels, up to a constant; in float32, to 1e-5 nats."""
    narrow = np.float32
    logs = (z[:, None, :] - mean).astype(narrow)
    logs *= (1 / sigma).astype(narrow)
    np.square(logs, out=logs)
    logs *= narrow(-0.5)
    logs += (np.log(share)[:, None] - np.log(sigma)).astype(narrow)
    highest = logs.max(axis=1)
    logs -= highest[:, None, :]
    np.exp(logs, out=logs)
    return np.asarray(np.log(logs.sum(axis=1, dtype=np.float64)) + highest)


def _is_enough(blocks: _Floats) -> bool:
    """Whether the lowest rows have settled, blocks (blocks, n) of equal numbers of directions."""
    if len(blocks) < 2:
        return False
    early = blocks[: int(_MILESTONE * len(blocks))].mean(axis=0)
    whole = blocks.mean(axis=0)
    lowest = np.argsort(whole)[: max(1, int(_LOWEST * blocks.shape[1]))]
    with np.errstate(all="ignore"):
        change = np.abs(whole[lowest] - early[lowest]) / np.abs(whole[lowest])
    return bool(change.mean() <= _CHANGE)


def _auc(memorized: _Floats, others: _Floats) -> float:
    """ROC AUC of low meaning memorized; both sorted, ties count half."""
    up_to = np.searchsorted(others, memorized, side="right")
    ties = up_to - np.searchsorted(others, memorized)
    return float((len(others) - up_to + 0.5 * ties).mean() / len(others))


def within_labels(
    values: npt.ArrayLike,
    memorized: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    seed: int,
    n_resamples: int,
    groups: npt.ArrayLike | None = None,
) -> Estimate:
    """Give the AUC of pairs that share their label: a rare label alone makes a value high.

    Low values speak for memorized, (n,) each; every pair of one label counts alike. Resamples are
    drawn within memorized and others, by `groups` as `separation` does. No value where no label has
    both.
    """
    found, is_memorized = np.asarray(values, dtype=np.float64), np.asarray(memorized, dtype=bool)
    kept = np.flatnonzero(~np.isnan(found))
    kept = kept[np.argsort(found[kept], kind="stable")]
    found, is_memorized, named = found[kept], is_memorized[kept], np.asarray(labels)[kept]
    sides = [
        [np.flatnonzero((named == one) & side) for side in (is_memorized, ~is_memorized)]
        for one in np.unique(named)
    ]

    def auc(counts: npt.NDArray[np.integer]) -> float:
        aucs, weights = [], []
        for low, high in (
            [np.repeat(found[side], counts[side]) for side in pair] for pair in sides
        ):
            if len(low) and len(high):
                aucs.append(_auc(low, high))
                weights.append(float(len(low) * len(high)))
        return float(np.average(aucs, weights=weights)) if weights else float("nan")

    whole = auc(np.ones(len(found), dtype=np.int64))
    if np.isnan(whole):
        return Estimate(None)
    owners = None if groups is None else np.asarray(groups)[kept]
    drawn = draw_within(~is_memorized, np.random.default_rng(seed), n_resamples, groups=owners)
    return estimate_of(whole, [auc(one) for one in drawn], 0.025)


def forwards(inputs: AnalysisInputs, settings: Settings | RowSettings) -> int:
    """Sequences whose label enough of them share, once under each model; those of a classifier."""
    if isinstance(settings, RowSettings):
        n = draw_rows(inputs.table, settings.n_sequences, settings.seed).height
        halves = settings.epochs * (n // 2) + n
        return (1 + len(inputs.others)) * n + settings.shadows * halves
    labelled, _ = _labelled(_drawn(inputs, settings), inputs.prefix, settings)
    return (1 + len(inputs.others)) * labelled.height


def _drawn(inputs: AnalysisInputs, settings: Settings) -> pl.DataFrame:
    known = inputs.table.filter(pl.col("is_memorized").is_not_null())
    return draw_rows(known, settings.n_sequences, settings.seed)


def analyse(inputs: AnalysisInputs, settings: Settings | RowSettings) -> AnalysisResult:
    """Give PSMI of every layer's states with the label, under the model and any other.

    Raises UserError: too few rows share a label, nothing or everything is memorized.
    """
    if isinstance(settings, RowSettings):
        return _of_rows(inputs, settings)
    classes, rows = _classes(inputs, settings), _drawn(inputs, settings)
    named, shared = _labelled(look_up(rows, classes), inputs.prefix, settings)
    frames = [_of_model(inputs, lm, named, name, settings) for name, lm in inputs.models()]
    layers = pl.concat([lines for lines, _ in frames])
    values = named.select("sequence_id", "is_memorized", "label", "class").with_columns(
        column for _, columns in frames for column in columns
    )
    beside = inputs.others[0].name if len(inputs.others) == 1 else None
    near = inputs.near_duplicates(named["sequence_id"])
    layers = _beyond(layers, values, near, settings, beside=beside)
    means = _class_means(inputs, named, values, settings)
    return AnalysisResult(
        sentence=_sentence(layers, beside),
        frames={"layers": layers, "classes": means, "sequences": values},
        figures=tuple(_figures(layers, means)),
        further=tuple(_further(layers, means, rows.height, named, shared, settings)),
    )


def _classes(inputs: AnalysisInputs, settings: Settings) -> pl.DataFrame:
    """Columns `sequence_id` and `class`; memorized or not where the study has no labels."""
    if inputs.labels is None and settings.taxonomy is None:
        word = pl.when("is_memorized").then(pl.lit("memorized")).otherwise(pl.lit("not memorized"))
        return inputs.table.select("sequence_id", word.alias("class"))
    return classes_of(
        inputs, settings.taxonomy, where="analyze psmi", minimum=settings.minimum or _MINIMUM
    )


def _labelled(rows: pl.DataFrame, prefix: int, settings: Settings) -> tuple[pl.DataFrame, int]:
    """Rows with a column `label`, and how many at least share each of these.

    Raises UserError: no two labels are shared by as many as the settings ask.
    """
    named = rows.with_columns(label=pl.col("tokens").list.get(prefix).cast(pl.String))

    def shared(minimum: int) -> pl.DataFrame:
        return named.filter(pl.len().over("label") >= minimum)

    def is_enough(found: pl.DataFrame) -> bool:
        return found["label"].n_unique() > 1 and found["is_memorized"].n_unique() > 1

    wanted = settings.minimum or _MINIMUM
    found = shared(wanted)
    if is_enough(found):
        return found, wanted
    works = next((n for n in range(wanted - 1, 1, -1) if is_enough(shared(n))), None)
    if works is not None and settings.minimum is None:
        return shared(works), works
    lacking = (
        f"fewer than two labels that {wanted} of {rows.height} sequences share"
        if found["label"].n_unique() < 2
        else f"of {found.height} sequences all are memorized, or none"
    )
    advice = "Take more sequences." if works is None else f"It works with --set minimum={works}."
    raise UserError(f"analyze psmi: {lacking}. {advice}")


def _of_model(
    inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame, model: str, settings: Settings
) -> tuple[pl.DataFrame, list[pl.Series]]:
    """A row a layer, and the value of each sequence at each layer."""
    layers, mask = _layers(lm.n_layers, settings.n_layers), whole_mask(rows)
    batches = hidden_states(
        lm,
        token_matrix(rows)[:, : inputs.prefix],
        batch_size=inputs.batch_size,
        layers=layers,
        positions=slice(-1, None),  # it foretells the first token of the suffix
        attention_mask=None if mask is None else mask[:, : inputs.prefix],
    )
    states = np.concatenate([batch[:, :, 0] for batch in batches])
    near = inputs.near_duplicates(rows["sequence_id"])
    return _of_states(states, layers, rows, near, model, settings)


def _of_states(
    states: npt.NDArray[np.float32],
    layers: list[int],
    rows: pl.DataFrame,
    near: npt.NDArray[np.int64],
    model: str,
    settings: _Directions,
) -> tuple[pl.DataFrame, list[pl.Series]]:
    """The same of states (n, layers, width)."""
    label, memorized = rows["label"].to_numpy(), rows["is_memorized"].to_numpy()
    shuffled = np.random.default_rng(settings.seed).permutation(label)
    draws = settings.model_dump(include={"seed", "n_resamples"})
    asked = settings.model_dump(include={"seed", "max_directions"})
    lines, columns = [], []
    with track(f"Directions, {model}", total=len(layers), unit="layers") as progress:
        for place, layer in enumerate(layers):
            seen = states[:, place]
            found = sliced_information(seen, label, n_directions=settings.n_directions, **asked)
            null = sliced_information(seen, shuffled, n_directions=500, **asked)
            within = within_labels(found.values, memorized, label, groups=near, **draws)
            flat = separation(found.values, memorized, groups=near, **draws)
            lines.append(
                {"model": model, "layer": layer, "n": rows.height, "n_groups": n_groups(near)}
                | {"memorized": _mean(found.values[memorized])}
                | {"not_memorized": _mean(found.values[~memorized]), "shuffled": _mean(null.values)}
                | {"not_finite": int((~np.isfinite(found.values)).sum())}
                | {"n_directions": found.n_directions, "settled": found.settled, "auc": flat.auc}
                | {"fpr": flat.fpr, "within": within}
            )
            columns.append(pl.Series(f"{model}, layer {layer}", found.values))
            progress.advance()
    return frame_of(lines), columns


def _beyond(
    layers: pl.DataFrame,
    values: pl.DataFrame,
    near: npt.NDArray[np.int64],
    settings: _Directions,
    *,
    beside: str | None,
) -> pl.DataFrame:
    """Layers with a column `beyond`: the AUC less that of the model `beside` at the same layer.

    Of the same resamples; null where there is none, no such layer, or values are not finite.
    """
    memorized = values["is_memorized"].to_numpy()
    rng = np.random.default_rng(settings.seed)
    drawn = draw_within(memorized, rng, settings.n_resamples, groups=near)

    def of(row: Mapping[str, Any]) -> Estimate:
        names = [f"{one}, layer {row['layer']}" for one in (row["model"], beside)]
        if row["model"] == beside or not {*names} <= {*values.columns}:
            return Estimate(None)
        own, other = (-values[one].to_numpy() for one in names)
        return _difference(own, other, memorized, drawn)

    return frame_of(row | {"beyond": of(row)} for row in rows_of(layers))


def _difference(
    one: _Floats, other: _Floats, memorized: npt.NDArray[np.bool_], drawn: npt.NDArray[np.int32]
) -> Estimate:
    """AUC of high values of one less that of the other, of the same resamples."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return Estimate(None)
    own, beside = (resampled_auc(each, memorized, drawn) for each in (one, other))
    return estimate_of(float(own[0] - beside[0]), (own - beside)[1:], 0.025)


def _layers(n_layers: int, most: int) -> list[int]:
    """States 1 to the last, evenly spread; state 0 knows its own token alone."""
    if n_layers <= most:
        return list(range(1, n_layers + 1))
    return sorted({round(one) for one in np.linspace(n_layers, 1, most).tolist()} | {n_layers})


def _mean(values: _Floats) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _class_means(
    inputs: AnalysisInputs, named: pl.DataFrame, values: pl.DataFrame, settings: Settings
) -> pl.DataFrame:
    """Mean value of each class at each layer, and its AUC against what is not memorized."""
    generator = np.random.default_rng(settings.seed)
    draws = settings.model_dump(include={"seed", "n_resamples"})
    lines = []
    for name in sorted(named["class"].drop_nulls().unique()):
        part = values.filter(pl.col("class") == name)
        beside = values.filter((pl.col("class") == name) | ~pl.col("is_memorized"))
        memorized = beside["is_memorized"]
        near, near_beside = (inputs.near_duplicates(one["sequence_id"]) for one in (part, beside))
        for column in values.columns[4:]:
            every = part[column].to_numpy()
            finite = np.isfinite(every)
            kept = every[finite]
            if not len(kept):
                continue
            weights = draw_within(
                np.zeros(len(kept)),
                generator,
                settings.n_resamples,
                groups=near[finite],
            )
            mean = estimate_of(float(kept.mean()), weights @ kept / weights.sum(axis=1), 0.025)
            auc = Estimate(None)
            if memorized.any():
                auc = separation(beside[column], memorized, groups=near_beside, **draws).auc
            model, layer = column.rsplit(", layer ", 1)
            lines.append(
                {"model": model, "layer": int(layer), "class": name, "n": len(kept)}
                | {"n_groups": n_groups(near[finite]), "psmi": mean}
                | {"auc": auc}
            )
    return frame_of(lines)


def _sentence(layers: pl.DataFrame, beside: str | None, what: str = "memorization") -> str:
    (last,) = rows_of(layers.filter(model=OWN)[-1:])
    if last["auc"].low is None:
        words = f"too few groups of near duplicates tell whether PSMI goes with {what}"
    elif last["auc"].low > 0.5:
        words = f"low PSMI goes with {what}"
        _, low, high = last["beyond"]
        if low is not None and low <= 0 <= high:
            words += f", but it cannot be told whether more so than {beside}"
        elif high is not None and high < 0:
            words += f", but less so than {beside}"
    elif last["auc"].high < 0.5:
        words = f"high PSMI, not low, goes with {what}"
    else:
        words = f"PSMI does not go with {what}"
    compared = ""
    if last["beyond"].value is not None:
        compared = f" ({ranged(last['beyond'], digits=3, sign='+')} beside {beside})"
    yes, no = ("where memorized", "where not")
    if what != "memorization":
        yes, no = (f"of rows in '{what}'", "of the others")
    auc = f"{ranged(last['auc'], digits=3)}{compared}"
    return (
        f"At the last layer {words}: ROC AUC of low PSMI {auc}; "
        f"the mean is {last['memorized']:.2f} nats {yes}, "
        f"{last['not_memorized']:.2f} {no}, and {last['shuffled']:.2f} with labels shuffled."
    )


def _further(
    layers: pl.DataFrame,
    means: pl.DataFrame,
    n_drawn: int,
    named: pl.DataFrame,
    shared: int,
    settings: Settings,
) -> Iterator[str]:
    yield (
        f"{named.height:,} of {n_drawn:,} sequences: those whose label at least "
        f"{shared} share; {named['label'].n_unique()} first tokens of the suffix are the "
        "labels."
    )
    if settings.minimum is None and shared < _MINIMUM:
        yield (
            f"No two labels are shared by {_MINIMUM}, so labels that {shared} share are asked: "
            "their directions are noisier."
        )
    own = layers.filter(model=OWN)
    (last,) = rows_of(own[-1:])
    yield (
        "Where .75 of the memorized are flagged as low, "
        f"{ranged(last['fpr'], scale=100, unit=' %')} of the others are too "
        f"(the paper, of fine-tuned 7B models: {100 * PUBLISHED_FPR:.1f} % on average)."
    )
    yield (
        "Among sequences that share their first token of the suffix the AUC is "
        f"{ranged(last['within'], digits=3)}: a rare token alone makes PSMI high."
    )
    known = means.filter((pl.col("model") == OWN) & pl.col("auc").is_not_null())
    at_last = known.filter(pl.col("layer") == pl.col("layer").max())
    parts = [f"{row['class']} {ranged(row['auc'], digits=3)}" for row in rows_of(at_last)]
    if parts:
        yield f"AUC of each class against what is not memorized: {'; '.join(parts)}."
    for name in layers["model"].unique(maintain_order=True).to_list()[1:]:
        (other,) = rows_of(layers.filter(model=name)[-1:])
        yield (
            f"The same of {name}: AUC {ranged(other['auc'], digits=3)}. A model that never saw "
            "the sequences shows what the texts alone give."
        )
    yield from _unsure(own, settings)


def _unsure(own: pl.DataFrame, settings: _Directions) -> Iterator[str]:
    """Of which of the model's layers the values are not settled, or are no numbers."""
    open_ends = own.filter(~pl.col("settled"))["layer"].to_list()
    if open_ends:
        yield (
            f"Not settled within {settings.max_directions} directions: layers "
            f"{', '.join(map(str, open_ends))}. Raise max_directions."
        )
    if n_lost := int(own["not_finite"].sum()):
        yield f"{n_lost:,} values over all layers underflowed and are no numbers."


def _by_layer(layers: pl.DataFrame, what: str = "") -> Chart:
    return Chart(
        title=f"ROC AUC of low PSMI{what}, by layer (95 % interval; .5: no relation)",
        x_label="layer",
        series=series_by(layers, "model", "auc", x="layer"),
    )


def _figures(layers: pl.DataFrame, means: pl.DataFrame) -> Iterator[Chart]:
    yield _by_layer(layers, " for memorized")
    null = layers.filter(model=OWN)
    yield Chart(
        title="Mean PSMI of each class, by layer, nats (95 % interval)",
        x_label="layer",
        series=(
            *series_by(means.filter(model=OWN), "class", "psmi", x="layer"),
            series_of("labels shuffled", null, "shuffled", x="layer"),
        ),
    )


# -- a classifier's rows ------------------------------------------------------------------------

_LOWEST_PSMI, _NULL = "PSMI, last layer", "PSMI, truth shuffled"


def _of_rows(inputs: AnalysisInputs, settings: RowSettings) -> AnalysisResult:
    """PSMI of the states that a classifier's head reads, and what its answer says, row by row.

    The last of the other models is the network before it was fitted.
    """
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    rows, notes = _with_truth(inputs, rows, settings)
    near = inputs.near_duplicates(rows["sequence_id"])
    parts = [_of_classifier(inputs, lm, rows, name, near, settings) for name, lm in inputs.models()]
    values = rows.select(
        "sequence_id", "label", "is_memorized", *(one for one in _OF_SHADOWS if one in rows.columns)
    ).with_columns(column for _, _, columns in parts for column in columns)
    before = inputs.others[-1].name
    layers = pl.concat([lines for lines, _, _ in parts])
    layers = _beyond(layers, values, near, settings, beside=before)
    scores = pl.concat([scores for _, scores, _ in parts])
    return AnalysisResult(
        sentence=_sentence(layers, before, settings.truth or "memorization"),
        frames={"layers": layers, "scores": scores, "rows": values},
        figures=tuple(_row_figures(layers, scores)),
        further=(*_row_notes(layers, scores, values, settings), *notes),
    )


def _of_classifier(
    inputs: AnalysisInputs,
    lm: LanguageModel,
    rows: pl.DataFrame,
    model: str,
    near: npt.NDArray[np.int64],
    settings: RowSettings,
) -> tuple[pl.DataFrame, pl.DataFrame, list[pl.Series]]:
    """A row a layer, a row a score, and the values of each row of the table."""
    layers, memorized = _layers(lm.n_layers, settings.n_layers), rows["is_memorized"].to_numpy()
    found = _asked(inputs, lm, rows, layers)
    lines, columns = _of_states(found.states, layers, rows, near, model, settings)
    lowest, number = -columns[-1].to_numpy(), rows["label_number"].to_numpy()
    each = {_LOWEST_PSMI: lowest, **_of_logits(found.logits, number), _NULL: lowest}
    rng = np.random.default_rng(settings.seed)
    drawn = draw_within(memorized, rng, settings.n_resamples, groups=near)
    draws = settings.model_dump(include={"seed", "n_resamples"})
    scores = []
    for score, high in each.items():
        truth = rng.permutation(memorized) if score == _NULL else memorized
        told = separation(-high, truth, groups=near, **draws)
        beyond = Estimate(None)
        if high is not lowest:
            beyond = _difference(lowest, high, memorized, drawn)
            columns.append(pl.Series(f"{model}, {score}", high))
        scores.append(
            {"model": model, "score": score, "n": rows.height, "n_groups": n_groups(near)}
            | {"auc": told.auc, "fpr": told.fpr, "psmi_beyond": beyond}
        )
    columns.append(pl.Series(f"{model}, right", found.logits.argmax(1) == number))
    return lines, frame_of(scores), columns


def _asked(
    inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame, layers: list[int]
) -> Classified:
    return classified(
        lm, token_matrix(rows), whole_mask(rows), layers=layers, batch_size=inputs.batch_size
    )


def _of_logits(logits: _Floats, number: npt.NDArray[np.int64]) -> dict[str, _Floats]:
    """Scores that are high where a classifier doubts the label, (n,) each."""
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    own = logs[np.arange(len(logs)), number]
    return {
        "loss": -own,
        "margin": -_margin(logs, number),
        "entropy": -(np.exp(logs) * logs).sum(axis=1),
    }


def _margin(logits: _Floats, number: npt.NDArray[np.int64]) -> _Floats:
    """Logit of the label less the largest of the others, (n,)."""
    at = np.arange(len(logits)), number
    others = logits.copy()
    others[at] = -np.inf
    return np.asarray(logits[at] - others.max(axis=1))


_OF_SHADOWS = ("margin_in", "margin_out")


def _with_truth(
    inputs: AnalysisInputs, rows: pl.DataFrame, settings: RowSettings
) -> tuple[pl.DataFrame, list[str]]:
    """Rows of which it is known, in `is_memorized`, by a column or by shadows; notes."""
    known = ", ".join(inputs.given_columns)
    if settings.truth is None:
        if not settings.shadows:
            raise UserError(
                "analyze psmi: which rows are memorized? Name the column that says it (--set "
                f"truth=COLUMN; there are {known}), or train shadows (--set shadows=16)."
            )
        return _by_shadows(inputs, rows, settings)
    where = f"analyze psmi: column '{settings.truth}' (truth)"
    if settings.shadows:
        raise UserError(f"{where} and shadows: each says what is memorized. Give one of them.")
    if settings.truth not in inputs.given_columns:
        raise UserError(f"{where}: not there. There are {known}.")
    column = rows[settings.truth]
    is_number = column.dtype.is_numeric() and column.drop_nulls().is_in([0, 1]).all()
    if not (column.dtype == pl.Boolean or is_number):
        raise UserError(f"{where}: {column.dtype}, where true or false is needed.")
    found = rows.with_columns(is_memorized=column.cast(pl.Boolean))
    found = found.filter(pl.col("is_memorized").is_not_null())
    if found["is_memorized"].n_unique() < 2:
        raise UserError(f"{where}: the same in all {found.height} rows; some of each are needed.")
    return found, []


def _by_shadows(
    inputs: AnalysisInputs, rows: pl.DataFrame, settings: RowSettings
) -> tuple[pl.DataFrame, list[str]]:
    """Counterfactual memorization: mean margin of the shadows that read a row less the others'.

    Source: Feldman and Zhang 2020 (arXiv 2008.03703); of margins, as the code of 2409.18858 does.
    """
    start, number = inputs.models()[-1][1], rows["label_number"].to_numpy()
    _, group = np.unique(inputs.near_duplicates(rows["sequence_id"]), return_inverse=True)
    mask = whole_mask(rows)
    tokens = token_matrix(rows).astype(np.int64)
    mask = np.ones_like(tokens) if mask is None else mask
    margins, is_in, right = [], [], []
    training = settings.model_dump(include={"epochs", "learning_rate"})
    with track("Shadows", total=settings.shadows, unit="trainings") as progress:
        for shadow in range(settings.shadows):
            rng = np.random.default_rng([settings.seed, shadow])
            own = (rng.permutation(group.max() + 1) < (group.max() + 1) // 2)[group]
            half = Encoded(tokens[own], mask[own], 0)
            for lm in fit_classifier(
                start, half, number[own], batch_size=settings.batch, seed=shadow, **training
            ):
                fitted = lm
            logits = _asked(inputs, fitted, rows, []).logits
            margins.append(_margin(logits, number))
            is_in.append(own)
            right.append([(logits.argmax(1) == number)[side].mean() for side in (own, ~own)])
            progress.advance()
    gap, sides = np.array(margins), np.array(is_in)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row that no shadow read, or all
        means = [np.nanmean(np.where(side, gap, np.nan), axis=0) for side in (sides, ~sides)]
    inside, outside = np.mean(right, axis=0)
    rows = rows.with_columns(map(pl.Series, _OF_SHADOWS, means))
    rows = rows.filter(pl.sum_horizontal(_OF_SHADOWS).is_finite())
    gain = rows["margin_in"] - rows["margin_out"]
    least = gain.quantile(1 - settings.share, "higher")
    note = (
        f"Memorized are the {100 * settings.share:g} % of the rows whose margin gains most by "
        f"being read, over {settings.shadows} shadows of half of the rows each, right on "
        f"{100 * inside:.1f} % of the rows that they read and {100 * outside:.1f} % of the others."
    )
    return rows.with_columns(is_memorized=gain >= least), [note]


def _row_figures(layers: pl.DataFrame, scores: pl.DataFrame) -> Iterator[Chart]:
    yield _by_layer(layers)
    own = scores.filter(model=OWN)
    yield Chart(
        title="ROC AUC of each score",
        form="points",
        x_label="score",
        y_label="AUC",
        x_names=tuple(own["score"]),
        series=series_by(scores, "model", "auc"),
    )


def _row_notes(
    layers: pl.DataFrame, scores: pl.DataFrame, values: pl.DataFrame, settings: RowSettings
) -> Iterator[str]:
    yield (
        f"{values.height:,} rows, of which {int(values['is_memorized'].sum()):,} are to be found; "
        f"{values['label'].n_unique()} labels."
    )
    for model in scores["model"].unique(maintain_order=True):
        parts = scores.filter(model=model)
        right = 100 * float(values[f"{model}, right"].to_numpy().mean())
        said = [f"{row['score']} {ranged(row['auc'], digits=3)}" for row in rows_of(parts)]
        yield f"AUC of {model}, right on {right:.1f} % of the rows: {'; '.join(said)}."
    (last,) = rows_of(layers.filter(model=OWN)[-1:])
    yield (
        f"Among rows that share their label the AUC of PSMI is {ranged(last['within'], digits=3)}; "
        f"where .75 of those to be found are flagged as low, "
        f"{ranged(last['fpr'], scale=100, unit=' %')} of the others are too."
    )
    yield from _unsure(layers.filter(model=OWN), settings)
