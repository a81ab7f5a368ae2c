"""Entropy of neurons and mutual information between them, by layer, for classes of equal size.

Source: Bansal, Pruthi, Belinkov 2022, "Measures of Information Reflect Memorization Patterns",
arXiv 2210.09404; section 6 of the related work. Memorization by heuristics should go with low
entropy and high information, memorization of examples with high entropy and low information.
Controls: shuffled neurons, whose information is bias, and a model that never saw the sequences.
As in the paper it can be asked of classifiers too, which the measures order without any label; the
confidence of their answers, which needs none either, is the control.
Run it: mnemoscope analyze neurons STUDY --second MODEL
or: mnemoscope analyze neurons CLASSIFIER --rows TABLE --checkpoint OTHER
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    FEWEST_GROUPS,
    OWN,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    LanguageModel,
    Z,
    classes_of,
    classified,
    correlate_ranks,
    draw_rows,
    frame_of,
    n_groups,
    neuron_activations,
    ranged,
    right_tokens,
    rows_of,
    series_by,
    series_of,
    token_matrix,
    track,
    whole_mask,
)

_Floats = npt.NDArray[np.float64]

OTHERS = "Non-Memo"
_MODELS_TO_RANK = 4  # three can only be ordered in six ways

Codes = npt.NDArray[np.int64]
"""Number of the bin of every sample and neuron, shape (samples, neurons)."""


class _Binned(AnalysisSettings):
    """What both kinds of `neurons` measure by."""

    n_bins: int = Field(default=8, ge=2, le=256, description="Bins of an activation.")
    n_neurons: int = Field(
        default=128, ge=2, le=1024, description="Neurons a layer, drawn by the seed, for pairs."
    )
    n_halves: int = Field(
        default=20, ge=10, description="Random halves of the rows that give the intervals."
    )


class Settings(_Binned):
    """Settings of `neurons`."""

    taxonomy: str | None = Field(
        default=None,
        description="Whose classes are compared; null: the study's first with two large ones.",
    )
    n_per_group: int = Field(
        default=500, ge=20, description="Sequences of each class, fewer where one has fewer."
    )
    minimum: int = Field(
        default=50, ge=20, description="A class with fewer sequences is left out, and said so."
    )
    bins: Literal["quantile", "width"] = Field(
        default="quantile",
        description="Bins that hold as many activations of all classes together, or of one width.",
    )


class RowSettings(_Binned):
    """Settings of `neurons`, asked of classifiers; bins are of one width.

    Bins that hold as many activations of a classifier each would give all of them one entropy.
    """

    n_sequences: int | None = Field(
        default=2000, ge=50, description="Rows that are drawn; null: all."
    )


def binned(activations: npt.ArrayLike, n_bins: int, kind: Literal["quantile", "width"]) -> Codes:
    """Number the bin of every activation; a value on an edge belongs to the upper bin.

    Activations of all groups together, (samples, neurons), share `n_bins` bins: as many samples
    in each bin, or bins of equal width from least to greatest.
    """
    values = np.asarray(activations, dtype=np.float64)
    inner = np.arange(1, n_bins) / n_bins
    if kind == "quantile":
        edges = np.quantile(values, inner, axis=0)
    else:
        low, high = values.min(axis=0), values.max(axis=0)
        edges = low + inner[:, None] * (high - low)
    codes = np.empty(values.shape, dtype=np.int64)
    for neuron in range(values.shape[1]):
        codes[:, neuron] = np.searchsorted(edges[:, neuron], values[:, neuron], side="right")
    return codes


def entropies(codes: Codes, n_bins: int) -> _Floats:
    """Give each neuron's entropy, nats, shape (neurons,)."""
    n_neurons = codes.shape[1]
    places = (codes * n_neurons + np.arange(n_neurons)).ravel()
    counts = np.bincount(places, minlength=n_bins * n_neurons).reshape(n_bins, n_neurons)
    share = counts.astype(np.float64) / len(codes)
    return np.asarray((share * np.log(1 / np.where(share > 0, share, 1.0))).sum(axis=0))


def mean_information(codes: Codes, n_bins: int) -> float:
    """Give the mutual information of two neurons, nats, mean over all pairs; of two at least.

    I = H(one) + H(other) − H(both), from joint counts that one product of matrices gives.
    """
    n, n_neurons = codes.shape
    places = (np.arange(n_neurons) * n_bins + codes).astype(np.int64)
    indicator = np.zeros((n, n_neurons * n_bins), dtype=np.float32)
    indicator[np.arange(n)[:, None], places] = 1
    joint = indicator.T @ indicator  # whole numbers up to n: exact in float32
    table = np.arange(n + 1, dtype=np.float64)
    n_log_n = table * np.log(np.maximum(table, 1))
    terms = n_log_n[joint.astype(np.int32)]
    both_all = np.log(n) - terms.reshape(n_neurons, n_bins, n_neurons, n_bins).sum((1, 3)) / n
    single = np.diag(both_all)  # a neuron with itself has its own entropy
    pairs = np.triu_indices(n_neurons, 1)
    return float((single[pairs[0]] + single[pairs[1]] - both_all[pairs]).mean())


class Measured(NamedTuple):
    """A measure of one class, nats: its value, and those of random halves, shape (halves,)."""

    value: float
    halves: _Floats

    def __sub__(self, other: "Measured") -> "Measured":
        """The difference of both, half by half."""
        return Measured(self.value - other.value, self.halves - other.halves)

    def estimate(self) -> Estimate:
        """The value with its 95 % interval.

        Half-samples without replacement scatter about as the whole does (delete-half jackknife),
        and their own bias does not matter. No ends where there are no halves (NaN).
        """
        reach = Z * float(self.halves.std(ddof=1))
        ends = () if np.isnan(reach) else (self.value - reach, self.value + reach)
        return Estimate(self.value, *ends)


class Measures(NamedTuple):
    """Both measures of one class at one layer."""

    entropy: Measured  # mean over neurons
    information: Measured  # mean over pairs of neurons, biased upwards
    shuffled: float  # the same with each neuron's groups in an order of its own: the bias

    @property
    def above(self) -> Measured:
        """Information above its bias; the halves' own bias stays, it does not matter."""
        return Measured(self.information.value - self.shuffled, self.information.halves)


def draw_halves(
    groups: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], *, n_halves: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Draw half of each class's groups of near duplicates: the rows of each half, (halves, n).

    `groups` and `classes` are (n,). One lot of a group holds in all classes that it lies in. A
    class of fewer than `FEWEST_GROUPS` has no row in any.
    """
    names, of_row = np.unique(groups, return_inverse=True)
    lots = np.random.default_rng(seed).random((n_halves, len(names)))
    found = np.zeros((n_halves, len(groups)), dtype=bool)
    for one in np.unique(classes):
        here = classes == one
        own = np.unique(of_row[here])
        if len(own) >= FEWEST_GROUPS:
            middle = np.median(lots[:, own], axis=1, keepdims=True)
            found[:, here] = lots[:, of_row[here]] < middle
    return found


def shuffle_groups(codes: Codes, groups: npt.NDArray[np.int64], *, seed: int) -> Codes:
    """Give each neuron's groups, (n,), an order of its own; their rows stay side by side.

    So copies raise the information of the null as they raise that of the neurons: by as much where
    groups are of one size, by less where they are not, as a row then meets rows of more groups.
    """
    of_row = np.unique(groups, return_inverse=True)[1]
    lots = np.random.default_rng(seed).random((of_row.max() + 1, codes.shape[1]))
    return np.take_along_axis(codes, lots[of_row].argsort(axis=0, kind="stable"), axis=0)


def measure_group(
    codes: Codes,
    groups: npt.NDArray[np.int64],
    halves: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.int64],
    *,
    n_bins: int,
    seed: int,
) -> Measures:
    """Measure one class at one layer: bins of all neurons, (samples, neurons).

    `groups` of near duplicates, (samples,), are shuffled whole. `halves` says which rows are in
    each half, (halves, samples), none where there is no interval; `chosen` are the neurons whose
    pairs are looked at; the seed is of the shuffled null.
    """

    def measured(measure: Callable[[Codes], float], of: Codes) -> Measured:
        parts = (of[half] for half in halves)
        return Measured(measure(of), np.array([measure(x) if len(x) else np.nan for x in parts]))

    few = codes[:, chosen]
    shuffled = shuffle_groups(few, groups, seed=seed)  # what is left is bias
    return Measures(
        measured(lambda part: float(entropies(part, n_bins).mean()), codes),
        measured(lambda part: mean_information(part, n_bins), few),
        mean_information(shuffled, n_bins),
    )


def forwards(inputs: AnalysisInputs, settings: Settings | RowSettings) -> int:
    """Every class once under each model, twice where models are ranked; of rows each once."""
    if isinstance(settings, RowSettings):
        n = inputs.table.height
        return (1 + len(inputs.others)) * min(n, settings.n_sequences or n)
    groups, _ = _groups(inputs, settings)
    n_models = 1 + len(inputs.others)
    passes = 2 if n_models >= _MODELS_TO_RANK else 1
    return n_models * passes * sum(rows.height for rows in groups.values())


def analyse(inputs: AnalysisInputs, settings: Settings | RowSettings) -> AnalysisResult:
    """Measure every class at every layer, under the model and any other; or classifiers on rows.

    Raises UserError: fewer than two classes are large enough, or no neuron varies.
    """
    if isinstance(settings, RowSettings):
        return _of_rows(inputs, settings)
    groups, small = _groups(inputs, settings)
    n = next(iter(groups.values())).height
    n_near = {
        name: n_groups(inputs.near_duplicates(rows["sequence_id"])) for name, rows in groups.items()
    }
    found = {name: _of_model(inputs, lm, groups, name, settings) for name, lm in inputs.models()}
    measures = frame_of(
        [
            {"model": model, "layer": layer, "class": group, "n": n, "n_groups": n_near[group]}
            | {"entropy": one.entropy.estimate()}
            | {"information": one.information.value, "shuffled": one.shuffled}
            | {"above_shuffled": one.above.estimate()}
            for model, layers in found.items()
            for layer, by_group in enumerate(layers)
            for group, one in by_group.items()
        ]
    )
    differences = frame_of(_differences(found, list(groups)))
    ranked = {}
    if len(found) >= _MODELS_TO_RANK:
        checkpoints, ranking = _ranking(inputs, found, pl.concat(groups.values()))
        ranked = {"checkpoints": checkpoints, "ranking": ranking}
    return AnalysisResult(
        sentence=_sentence(differences, next(iter(groups)), list(found)[1:]),
        frames={"measures": measures, "differences": differences, **ranked},
        figures=_figures(measures),
        further=(
            *_further(differences, n, small, settings),
            *(_ranking_words(ranked["ranking"]) if ranked else ()),
        ),
    )


def _groups(
    inputs: AnalysisInputs, settings: Settings
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """Rows of each class, as many of each, and the classes that are too small."""
    labels = classes_of(
        inputs, settings.taxonomy, where="analyze neurons", minimum=settings.minimum
    )
    rows = inputs.table.join(labels, on="sequence_id", how="inner", maintain_order="left")
    sizes = dict(rows.drop_nulls("class").group_by("class").len().sort("class").iter_rows())
    small = {one: size for one, size in sizes.items() if size < settings.minimum}
    kept = sorted((one for one in sizes if one not in small), key=lambda one: (one != OTHERS, one))
    if len(kept) < 2:
        raise UserError(
            f"analyze neurons: groups too small: {sizes}, and two of {settings.minimum} or more "
            "are needed. Take more sequences, or --set minimum=20."
        )
    n = min(settings.n_per_group, *(sizes[one] for one in kept))
    generator = np.random.default_rng(settings.seed)
    groups = {}
    for one in kept:
        part = rows.filter(pl.col("class") == one)
        groups[one] = part[np.sort(generator.choice(part.height, n, replace=False))]
    return groups, small


def _of_model(
    inputs: AnalysisInputs,
    lm: LanguageModel,
    groups: dict[str, pl.DataFrame],
    model: str,
    settings: Settings,
) -> list[dict[str, Measures]]:
    """Measures of each group, layer by layer; the same halves under every model."""
    rows = pl.concat(groups.values())
    prefixes = token_matrix(rows)[:, : inputs.prefix]
    batches = neuron_activations(lm, prefixes, batch_size=inputs.batch_size)
    activations = np.concatenate(list(batches))
    n, owners = rows.height // len(groups), inputs.near_duplicates(rows["sequence_id"])
    classes, n_halves = np.repeat(np.arange(len(groups)), n), settings.n_halves
    halves = draw_halves(owners, classes, n_halves=n_halves, seed=settings.seed)
    asked, layers = settings.model_dump(include={"n_bins", "seed"}), []
    with track(f"Neurons, {model}", total=activations.shape[1], unit="layers") as progress:
        for layer in range(activations.shape[1]):
            codes = binned(activations[:, layer], settings.n_bins, settings.bins)
            chosen = _varying(codes, settings, "Take more sequences or --set bins=quantile.")
            of_class = (np.split(one, len(groups)) for one in (codes, owners, halves.T))
            layers.append(
                {
                    name: measure_group(part, near, half.T, chosen, **asked)
                    for name, part, near, half in zip(groups, *of_class, strict=True)
                }
            )
            progress.advance()
    return layers


def _varying(codes: Codes, settings: _Binned, advice: str) -> npt.NDArray[np.int64]:
    """Draw neurons among those that are not in one bin throughout."""
    varying = np.flatnonzero((codes != codes[0]).any(axis=0))
    if len(varying) < 2:
        raise UserError(
            f"analyze neurons: {len(varying)} of {codes.shape[1]} neurons vary over these "
            f"sequences, and pairs need two. {advice}"
        )
    n = min(settings.n_neurons, len(varying))
    return np.sort(np.random.default_rng(settings.seed).choice(varying, n, replace=False))


def _differences(
    found: dict[str, list[dict[str, Measures]]], names: list[str]
) -> Iterator[dict[str, object]]:
    """Each class less the first, mean over layers: under each model, and beyond the other."""

    def mean(model: str, name: str, what: str) -> Measured:
        return _mean_of([getattr(one[name], what) for one in found[model]])

    own, *others = found
    for what, measured in (("entropy", "entropy"), ("information", "above")):
        for name in names[1:]:
            under = {
                model: mean(model, name, measured) - mean(model, names[0], measured)
                for model in found
            }
            rows = {f"under {model}": one for model, one in under.items()}
            rows |= {f"beyond {model}": under[own] - under[model] for model in others}
            for of, one in rows.items():
                about = {"measure": what, "class": name, "less": names[0], "of": of}
                yield {**about, "difference": one.estimate()}


def _ranking(
    inputs: AnalysisInputs, found: dict[str, list[dict[str, Measures]]], rows: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Do the measures rank models as the share of the rows that each reproduces does?

    A row a model: means over layers and classes, and the share; a row a measure: Kendall's τ-b of
    both with an interval over the random halves.
    """
    tokens, shares = token_matrix(rows), []
    for _, lm in inputs.models():
        right = right_tokens(lm, tokens, batch_size=inputs.batch_size, prefix=inputs.prefix)
        shares.append(float(right.all(axis=1).mean()))
    means = {
        what: [
            _mean_of([getattr(one, measured) for layer in layers for one in layer.values()])
            for layers in found.values()
        ]
        for what, measured in (("entropy", "entropy"), ("information", "above"))
    }
    values = {what: [one.value for one in every] for what, every in means.items()}
    rankings = []
    for what, every in means.items():
        draws = np.stack([one.halves for one in every], axis=1)
        tau = correlate_ranks(values[what], shares, draws=None if np.isnan(draws).any() else draws)
        rankings.append({"measure": what, "n": tau.n, "kendall": tau.kendall, "note": tau.note})
    return (
        pl.DataFrame({"model": list(found), **values, "reproduced": shares}),
        frame_of(rankings),
    )


def _mean_of(every: list[Measured]) -> Measured:
    """The mean of measures, half by half."""
    halves = np.mean([one.halves for one in every], axis=0)
    return Measured(float(np.mean([one.value for one in every])), halves)


def _ranking_words(ranking: pl.DataFrame) -> Iterator[str]:
    said = [
        f"{row['measure']} {row['note'] or ranged(row['kendall'], digits=2)}"
        for row in rows_of(ranking)
    ]
    yield (
        f"Over {ranking['n'][0]} models, Kendall's τ of each measure with the share of these "
        f"sequences that a model reproduces: {'; '.join(said)}. The original ranks models so; few "
        "checkpoints of one run are no independent models."
    )


def _words(differences: pl.DataFrame, of: str) -> str:
    words: dict[str, list[str]] = {}
    for row in rows_of(differences.filter(of=of)):
        shown = ranged(row["difference"], digits=3, sign="+")
        words.setdefault(row["class"], []).append(f"{row['measure']} {shown}")
    return "; ".join(f"{name} {', '.join(values)}" for name, values in words.items())


def _sentence(differences: pl.DataFrame, others: str, models: list[str]) -> str:
    """Under this model; of one other model also what is beyond it, the first thing to read."""
    text = (
        f"Beside {others}, mean over layers (nats; information above its shuffled null): "
        f"{_words(differences, f'under {OWN}')}."
    )
    if len(models) != 1:
        return text
    return f"{text} Beyond {models[0]}: {_words(differences, f'beyond {models[0]}')}."


def _further(
    differences: pl.DataFrame, n: int, small: dict[str, int], settings: Settings
) -> Iterator[str]:
    yield (
        f"{n:,} sequences of each class, neurons of the MLPs at the last token of the prefix, "
        f"{settings.n_bins} bins ({settings.bins}) that all classes share."
    )
    yield (
        "The original's expectation: heuristics give low entropy and high information, single "
        "examples by heart the reverse."
    )
    beyond = [of for of in differences["of"].unique(maintain_order=True) if "beyond" in of]
    if beyond:
        yield "A model that never saw the sequences shows what the texts alone give."
    for of in beyond if len(beyond) > 1 else ():
        yield f"Beyond {of.removeprefix('beyond ')}: {_words(differences, of)}."
    if small:
        listed = ", ".join(f"{name} ({size})" for name, size in small.items())
        yield f"Left out, fewer than {settings.minimum} sequences: {listed}."


def _figures(measures: pl.DataFrame) -> tuple[Chart, ...]:
    own = measures.filter(model=OWN).rename({"above_shuffled": "above"})
    titles = {
        "entropy": "Entropy of a neuron, mean, nats",
        "above": "Mutual information of two neurons above the shuffled null, mean, nats",
    }
    return tuple(
        Chart(
            title=f"{title}, by layer (95 % interval)",
            x_label="layer",
            series=series_by(own, "class", y, x="layer"),
        )
        for y, title in titles.items()
    )


# -- classifiers and rows -----------------------------------------------------------------------

_ORDERS = ("entropy", "above_shuffled", "confidence")
_SAID = {"above_shuffled": "information"}


def _of_rows(inputs: AnalysisInputs, settings: RowSettings) -> AnalysisResult:
    """Measure classifiers on rows, whose labels, where there are any, only judge the order.

    The last of the other models is the network before it was fitted, which is not ordered.
    """
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    near = inputs.near_duplicates(rows["sequence_id"])
    halves = draw_halves(
        near, np.zeros(len(near), np.int64), n_halves=settings.n_halves, seed=settings.seed
    )
    about = {"n": rows.height, "n_groups": n_groups(near)}
    found = {
        name: _of_classifier(inputs, lm, rows, near, halves, settings)
        for name, lm in inputs.models()
    }
    models = frame_of(
        [
            {"model": name, **about} | {what: one.estimate() for what, one in each.items()}
            for name, each in found.items()
        ]
    )
    del found[inputs.others[-1].name]
    ranking = pl.DataFrame()
    if "right" in models.columns:
        shares = [each["right"].value for each in found.values()]
        ranking = frame_of([_order(what, found, shares) for what in _ORDERS])
    return AnalysisResult(
        sentence=_row_sentence(models[: len(found)], ranking),
        frames={"models": models} | ({"ranking": ranking} if ranking.height else {}),
        figures=tuple(_row_figures(models)),
        further=(
            f"{rows.height:,} rows; the states that each classifier's head reads, after every "
            f"layer, in {settings.n_bins} bins of one width; means over layers, nats; information "
            "above its shuffled null.",
            "The original's expectation: heuristics give low entropy and high information, single "
            "examples by heart the reverse. So the way to read an order depends on what is feared.",
        ),
    )


def _of_classifier(
    inputs: AnalysisInputs,
    lm: LanguageModel,
    rows: pl.DataFrame,
    near: npt.NDArray[np.int64],
    halves: npt.NDArray[np.bool_],
    settings: RowSettings,
) -> dict[str, Measured]:
    """Both measures, mean over layers; the mean chance of the answer; the share that is right."""
    every = range(1, lm.n_layers + 1)
    answers = classified(
        lm, token_matrix(rows), whole_mask(rows), layers=every, batch_size=inputs.batch_size
    )
    asked, layers = settings.model_dump(include={"n_bins", "seed"}), []
    for states in np.moveaxis(answers.states, 1, 0):
        codes = binned(states, settings.n_bins, "width")
        chosen = _varying(codes, settings, f"Leave {lm.name} out, or take more rows.")
        layers.append(measure_group(codes, near, halves, chosen, **asked))
    most = answers.logits.max(axis=1)
    each = {"confidence": np.exp(most - np.logaddexp.reduce(answers.logits, axis=1))}
    if "label_number" in rows.columns:
        each["right"] = answers.logits.argmax(axis=1) == rows["label_number"].to_numpy()
    means = {
        what: Measured(float(of.mean()), np.array([of[half].mean() for half in halves]))
        for what, of in each.items()
    }
    return {
        "entropy": _mean_of([one.entropy for one in layers]),
        "above_shuffled": _mean_of([one.above for one in layers]),
        **means,
    }


def _order(
    what: str, found: Mapping[str, Mapping[str, Measured]], shares: Sequence[float]
) -> dict[str, object]:
    """Kendall's τ-b of a measure with the share right, over classifiers.

    Without an interval: halves of the rows have a bias of their own, which reorders classifiers.
    """
    tau = correlate_ranks([each[what].value for each in found.values()], shares)
    return {"measure": what, "n": tau.n, "kendall": tau.kendall, "note": tau.note}


def _row_figures(models: pl.DataFrame) -> Iterator[Chart]:
    """Each measure by classifier, in the order of what they have right, if known; last the start.

    Names are the ends of paths where these differ.
    """
    fitted, start = models[:-1], models[-1:]
    titles = {
        "entropy": "Entropy of a state that the head reads, mean, nats",
        "above_shuffled": "Mutual information of two states above the shuffled null, mean, nats",
        "confidence": "Mean chance of the answer, per cent",
    }
    if "right" in models.columns:
        fitted = fitted.sort(pl.col("right").struct.field("value"), maintain_order=True)
        titles["right"] = "Rows that are right, per cent"
    names = [*fitted["model"], *start["model"]]
    ends = [name.rstrip("/").rpartition("/")[2] for name in names]
    for what, title in titles.items():
        before = series_of("before fitting", start, what)
        yield Chart(
            title=f"{title} (95 % interval)",
            form="points",
            x_label="classifier",
            x_names=tuple(ends if len({*ends}) == len(ends) else names),
            percent=what in ("confidence", "right"),
            series=(
                series_of("classifiers", fitted, what),
                before.model_copy(update={"x": (float(fitted.height),)}),
            ),
        )


def _row_sentence(models: pl.DataFrame, ranking: pl.DataFrame) -> str:
    n = f"{models.height} classifier{'s' * (models.height != 1)}"
    orders = [*rows_of(ranking)] if ranking.height else []
    lack = orders[0]["note"] if orders else "without labels"
    if lack:
        each = (
            f"{row['model']} {ranged(row['entropy'], digits=3)} and "
            f"{ranged(row['above_shuffled'], digits=3)}"
            for row in rows_of(models)
        )
        return f"Entropy and information of {n} ({lack}): {'; '.join(each)}."
    said = (
        f"{_SAID.get(row['measure'], row['measure'])} {ranged(row['kendall'], digits=2)}"
        for row in orders
    )
    return (
        f"Over {n}, Kendall's τ with the share of rows that each has right: {', '.join(said)}. "
        "Confidence needs no label either: what it gives is nothing of the neurons."
    )
