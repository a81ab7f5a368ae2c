"""Entropy of neurons and mutual information between them, by layer, for classes of equal size.

Source: Bansal, Pruthi, Belinkov 2022, "Measures of Information Reflect Memorization Patterns",
arXiv 2210.09404; section 6 of the related work. Memorization by heuristics should go with low
entropy and high information, memorization of examples with high entropy and low information.
Run it: mnemoscope analyze neurons STUDY --second MODEL
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.figures import Chart, series_of
from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.progress import track

if TYPE_CHECKING:
    from mnemoscope.lm.model import LanguageModel


# Entropy of neurons and mutual information between them, from binned activations.

Codes = npt.NDArray[np.int64]
"""Number of the bin of every sample and neuron, shape (samples, neurons)."""


def bin_edges(
    activations: npt.ArrayLike, n_bins: int, kind: Literal["quantile", "width"]
) -> npt.NDArray[np.float64]:
    """Give the inner edges of each neuron's bins.

    Args:
        activations: of all groups together, shape (samples, neurons): groups share their bins.
        n_bins: how many.
        kind: as many samples in each bin, or bins of equal width from least to greatest.

    Returns:
        Shape (n_bins - 1, neurons), ascending.
    """
    values = np.asarray(activations, dtype=np.float64)
    inner = np.arange(1, n_bins) / n_bins
    if kind == "quantile":
        found: npt.NDArray[np.float64] = np.quantile(values, inner, axis=0)
        return found
    low, high = values.min(axis=0), values.max(axis=0)
    even: npt.NDArray[np.float64] = low + inner[:, None] * (high - low)
    return even


def binned(activations: npt.ArrayLike, edges: npt.NDArray[np.float64]) -> Codes:
    """Number the bin of every activation; a value on an edge belongs to the upper bin."""
    values = np.asarray(activations, dtype=np.float64)
    codes = np.empty(values.shape, dtype=np.int64)
    for neuron in range(values.shape[1]):
        codes[:, neuron] = np.searchsorted(edges[:, neuron], values[:, neuron], side="right")
    return codes


def entropies(codes: Codes, n_bins: int, *, published: bool = False) -> npt.NDArray[np.float64]:
    """Give each neuron's entropy, nats.

    Args:
        codes: from `binned`.
        n_bins: how many bins there are.
        published: the mean over samples of p ln 1/p, p the share of the sample's bin, as the
            paper's first equation is printed: Σ p² ln 1/p over bins, which is not Shannon's entropy
            and is largest for neurons that are neither constant nor spread evenly.

    Returns:
        Shape (neurons,).
    """
    share = _counts(codes, n_bins) / len(codes)
    terms = share * np.log(1 / np.where(share > 0, share, 1.0))
    found: npt.NDArray[np.float64] = (terms * share if published else terms).sum(axis=0)
    return found


def mean_information(codes: Codes, n_bins: int) -> float:
    """Give the mutual information of two neurons, nats, mean over all pairs.

    I = H(one) + H(other) − H(both), from joint counts that one product of matrices gives.

    Args:
        codes: from `binned`; at least two neurons.
        n_bins: how many bins there are.
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


def shuffled_columns(codes: Codes, generator: np.random.Generator) -> Codes:
    """Put each neuron's samples in an order of its own: what is left of information is bias."""
    return generator.permuted(codes, axis=0)


def _counts(codes: Codes, n_bins: int) -> npt.NDArray[np.float64]:
    """Samples in each bin of each neuron, (bins, neurons)."""
    n_neurons = codes.shape[1]
    places = (codes * n_neurons + np.arange(n_neurons)).ravel()
    counts = np.bincount(places, minlength=n_bins * n_neurons)
    return counts.reshape(n_bins, n_neurons).astype(np.float64)


# Entropy of neurons and mutual information between them, by layer, for classes of equal size.

_Floats = npt.NDArray[np.float64]

OWN, OTHERS = "this model", "Non-Memo"

_Z = 1.959964


class Settings(AnalysisSettings):
    """Settings of `neurons`."""

    taxonomy: str | None = Field(
        default=None, description="Whose classes are compared; null: the study's first."
    )
    n_per_group: int = Field(
        default=500, ge=20, description="Sequences of each class, fewer where one has fewer."
    )
    minimum: int = Field(
        default=50, ge=20, description="A class with fewer sequences is left out, and said so."
    )
    n_bins: int = Field(default=8, ge=2, le=256, description="Bins of an activation.")
    bins: Literal["quantile", "width"] = Field(
        default="quantile",
        description="Bins that hold as many activations of all classes together, or of one width.",
    )
    n_neurons: int = Field(
        default=128, ge=2, le=1024, description="Neurons a layer, drawn by the seed, for pairs."
    )
    n_halves: int = Field(
        default=20, ge=10, description="Random halves of a class that give the intervals."
    )


class Measures(NamedTuple):
    """Both measures of one class at one layer.

    Attributes:
        entropy: mean over neurons, nats.
        entropy_halves: of random halves of the class, shape (halves,).
        information: mean over pairs of neurons, nats, biased upwards.
        shuffled: the same with each neuron's samples in an order of its own: the bias.
        information_halves: of the same halves.
    """

    entropy: float
    entropy_halves: _Floats
    information: float
    shuffled: float
    information_halves: _Floats


def measure_group(
    codes: npt.NDArray[np.int64],
    halves: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.int64],
    *,
    n_bins: int,
    seed: int,
    published: bool = False,
) -> Measures:
    """Measure one class at one layer.

    Half-samples without replacement scatter about as the whole does (delete-half jackknife), and
    their own bias does not matter.

    Args:
        codes: bins of all neurons, shape (samples, neurons).
        halves: rows of each half, shape (halves, samples // 2).
        chosen: the neurons whose pairs are looked at.
        n_bins: how many bins there are.
        seed: of the shuffled null.
        published: entropy as the paper's first equation is printed.
    """
    few = codes[:, chosen]
    generator = np.random.default_rng(seed)
    return Measures(
        float(entropies(codes, n_bins, published=published).mean()),
        np.array([entropies(codes[h], n_bins, published=published).mean() for h in halves]),
        mean_information(few, n_bins),
        mean_information(shuffled_columns(few, generator), n_bins),
        np.array([mean_information(few[half], n_bins) for half in halves]),
    )


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Measure every class at every layer, under the model and any other.

    Args:
        inputs: a study with classes and its model; a model that never saw the sequences is the
            control.
        settings: groups, bins and neurons.

    Raises:
        UserError: fewer than two classes are large enough, or no neuron varies.
    """
    groups, small = _groups(inputs, settings)
    rows = pl.concat(list(groups.values()))
    models = [(OWN, inputs.model()), *inputs.other_models()]
    names = list(groups)
    found = {name: _of_model(inputs, lm, rows, names, name, settings) for name, lm in models}
    measures = pl.DataFrame(
        [
            _line(model, layer, group, one, rows.height // len(names))
            for model, layers in found.items()
            for layer, by_group in enumerate(layers, start=1)
            for group, one in by_group.items()
        ]
    )
    differences = pl.DataFrame(list(_differences(found, names)))
    return AnalysisResult(
        sentence=_sentence(differences, names, settings),
        frames={"measures": measures, "differences": differences},
        figures=tuple(_figures(measures, names, settings)),
        further=tuple(_further(differences, groups, small, settings)),
    )


def _groups(
    inputs: AnalysisInputs, settings: Settings
) -> tuple[dict[str, pl.DataFrame], dict[str, int]]:
    """Rows of each class, as many of each, and the classes that are too small."""
    assert inputs.labels is not None
    known = [name for name in inputs.labels.columns if name != "sequence_id"]
    name = settings.taxonomy or known[0]
    if name not in known:
        raise UserError(f"analyze neurons: taxonomy '{name}': not labelled. Known: {known}.")
    labels = inputs.labels.select("sequence_id", pl.col(name).alias("class"))
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
    lm: "LanguageModel",
    rows: pl.DataFrame,
    names: list[str],
    model: str,
    settings: Settings,
) -> list[dict[str, Measures]]:
    """Measures of each group, layer by layer; the same halves under every model."""
    from mnemoscope.lm.probe import neuron_activations

    prefixes = token_matrix(rows)[:, : inputs.prefix]
    activations = np.concatenate(
        list(neuron_activations(lm, prefixes, batch_size=inputs.batch_size))
    )
    n = rows.height // len(names)
    generator = np.random.default_rng(settings.seed)
    halves = np.array([generator.permutation(n)[: n // 2] for _ in range(settings.n_halves)])
    layers = []
    with track(f"Neurons, {model}", total=activations.shape[1], unit="layers") as progress:
        for layer in range(activations.shape[1]):
            values = activations[:, layer]
            codes = binned(values, bin_edges(values, settings.n_bins, settings.bins))
            chosen = _varying(codes, settings)
            layers.append(
                {
                    name: measure_group(
                        codes[place * n : (place + 1) * n],
                        halves,
                        chosen,
                        n_bins=settings.n_bins,
                        seed=settings.seed,
                        published=settings.published,
                    )
                    for place, name in enumerate(names)
                }
            )
            progress.advance()
    return layers


def _varying(codes: npt.NDArray[np.int64], settings: Settings) -> npt.NDArray[np.int64]:
    """Draw neurons among those that are not in one bin throughout."""
    varying = np.flatnonzero((codes != codes[0]).any(axis=0))
    if len(varying) < 2:
        raise UserError(
            f"analyze neurons: {len(varying)} of {codes.shape[1]} neurons vary over these "
            "sequences, and pairs need two. Take more sequences or --set bins=quantile."
        )
    n = min(settings.n_neurons, len(varying))
    return np.sort(np.random.default_rng(settings.seed).choice(varying, n, replace=False))


def _line(model: str, layer: int, group: str, one: Measures, n: int) -> dict[str, object]:
    """One class at one layer with its intervals."""
    above = one.information - one.shuffled
    entropy_reach = _Z * float(one.entropy_halves.std(ddof=1))
    reach = _Z * float(one.information_halves.std(ddof=1))
    return {
        "model": model,
        "layer": layer,
        "class": group,
        "n": n,
        "entropy": one.entropy,
        "entropy_low": one.entropy - entropy_reach,
        "entropy_high": one.entropy + entropy_reach,
        "information": one.information,
        "shuffled": one.shuffled,
        "above_shuffled": above,
        "above_low": above - reach,
        "above_high": above + reach,
    }


def _differences(
    found: dict[str, list[dict[str, Measures]]], names: list[str]
) -> Iterator[dict[str, object]]:
    """Each class less the first, mean over layers: under each model, and beyond the other."""
    models = list(found)
    for what in ("entropy", "information"):
        for name in names[1:]:
            under = {model: _less(found[model], name, names[0], what) for model in models}
            for model, (value, halves) in under.items():
                yield _difference(what, name, names[0], f"under {model}", value, halves)
            for model in models[1:]:
                value, halves = under[models[0]][0] - under[model][0], under[models[0]][1]
                yield _difference(
                    what, name, names[0], f"beyond {model}", value, halves - under[model][1]
                )


def _less(
    layers: list[dict[str, Measures]], name: str, base: str, what: str
) -> tuple[float, _Floats]:
    """Class less base, mean over layers: the value, and those of the halves."""

    def mean(group: str) -> tuple[float, _Floats]:
        if what == "entropy":
            value = np.mean([one[group].entropy for one in layers])
            return float(value), np.mean([one[group].entropy_halves for one in layers], axis=0)
        value = np.mean([one[group].information - one[group].shuffled for one in layers])
        return float(value), np.mean([one[group].information_halves for one in layers], axis=0)

    (first, first_halves), (second, second_halves) = mean(name), mean(base)
    return first - second, first_halves - second_halves


def _difference(
    what: str, name: str, base: str, of: str, value: float, halves: _Floats
) -> dict[str, object]:
    reach = _Z * float(halves.std(ddof=1))
    return {"measure": what, "class": name, "less": base, "of": of, "difference": value} | {
        "low": value - reach,
        "high": value + reach,
    }


def _words(differences: pl.DataFrame, of: str) -> str:
    """Every class's differences in words."""
    part = differences.filter(pl.col("of") == of)
    words = []
    for name in part["class"].unique(maintain_order=True):
        values = [
            f"{one['measure']} {one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
            for one in part.filter(pl.col("class") == name).iter_rows(named=True)
        ]
        words.append(f"{name} {', '.join(values)}")
    return "; ".join(words)


def _sentence(differences: pl.DataFrame, names: list[str], settings: Settings) -> str:
    what = "the printed measure of entropy" if settings.published else "nats"
    return (
        f"Beside {names[0]}, mean over layers ({what}; information above its shuffled null): "
        f"{_words(differences, f'under {OWN}')}."
    )


def _further(
    differences: pl.DataFrame,
    groups: dict[str, pl.DataFrame],
    small: dict[str, int],
    settings: Settings,
) -> Iterator[str]:
    n = next(iter(groups.values())).height
    yield (
        f"{n:,} sequences of each class, neurons of the MLPs at the last token of the prefix, "
        f"{settings.n_bins} bins ({settings.bins}) that all classes share."
    )
    yield (
        "The original's expectation: heuristics give low entropy and high information, single "
        "examples by heart the reverse."
    )
    for of in differences["of"].unique(maintain_order=True):
        if of.startswith("beyond "):
            yield (
                f"{of.capitalize()}, which shows what the texts alone give: "
                f"{_words(differences, of)}."
            )
    if small:
        listed = ", ".join(f"{name} ({size})" for name, size in small.items())
        yield f"Left out, fewer than {settings.minimum} sequences: {listed}."


def _figures(measures: pl.DataFrame, names: list[str], settings: Settings) -> Iterator[Chart]:
    """Both measures by layer, a curve a class."""
    own = measures.filter(pl.col("model") == OWN)
    unit = "as printed" if settings.published else "nats"
    for title, columns in (
        (f"Entropy of a neuron, mean, {unit}", ("entropy", "entropy_low", "entropy_high")),
        (
            "Mutual information of two neurons above the shuffled null, mean, nats",
            ("above_shuffled", "above_low", "above_high"),
        ),
    ):
        yield Chart(
            title=f"{title}, by layer (95 % interval)",
            x_label="layer",
            series=tuple(
                series_of(name, part, columns[0], x="layer", ends=columns[1:])
                for name in names
                for part in [own.filter(pl.col("class") == name)]
            ),
        )
