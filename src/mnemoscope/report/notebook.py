"""What a study found, as Polars frames and as figures that a notebook shows."""

from typing import Any

import polars as pl

from mnemoscope.benchmark.excess import FigureName, PairedDifference
from mnemoscope.benchmark.published import Conclusion
from mnemoscope.errors import UserError, nearest
from mnemoscope.pipeline.benchmark import (
    BENCHMARK_FILE,
    Together,
    compare_taxonomies,
    load_comparison,
    put_together,
)
from mnemoscope.pipeline.label import LABELS_FILE, SAMPLES_FILE, samples_of
from mnemoscope.pipeline.localize import StoredDelta, load_deltas
from mnemoscope.pipeline.train import PREDICTIONS_FILE
from mnemoscope.report.gather import taxonomy_results
from mnemoscope.study.folder import Study


def labels(study: Study) -> pl.DataFrame:
    """`sequence_id` and one column a taxonomy, holding class names (null: no class).

    Raises:
        UserError: the label stage has not been run.
    """
    return study.read(LABELS_FILE)


def samples(study: Study) -> pl.DataFrame:
    """Which sequences each sample trains and evaluates on, with class, split, group and suffix.

    Raises:
        UserError: the label stage has not been run.
    """
    return study.read(SAMPLES_FILE)


def predictions(study: Study) -> pl.DataFrame:
    """Every prediction on an evaluation sequence: source, setting, seed, epoch, true, predicted.

    Raises:
        UserError: the train stage has not been run.
    """
    return study.read(PREDICTIONS_FILE)


def benchmark_table(study: Study) -> pl.DataFrame:
    """One row a sample and source: min-F1, per-class figures, intervals, excess, verdict.

    Raises:
        UserError: the benchmark stage has not been run.
    """
    return study.read(BENCHMARK_FILE)


def comparison(study: Study) -> pl.DataFrame:
    """One row a published taxonomy (54) and setting of ρ (27): ours, published, difference.

    Raises:
        UserError: the benchmark stage has not been run.
    """
    return load_comparison(study).frame


def conclusions(study: Study) -> tuple[Conclusion, ...]:
    """Put the paper's conclusions to this study: verdict, reason and figures of each.

    Raises:
        UserError: the benchmark stage has not been run.
    """
    return load_comparison(study).conclusions


def compare(
    study: Study, first: str, second: str, *, figure: FigureName = "min_f1"
) -> PairedDifference:
    """Compare two of a study's taxonomies on shared sequences; see `compare_taxonomies`."""
    return compare_taxonomies(study, first, second, figure=figure)


def together(*studies: Study) -> Together:
    """Put several models' studies together as one; see `put_together`."""
    return put_together(studies)


def decisiveness(
    study: Study, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> StoredDelta:
    """Where each class of a taxonomy is decided.

    Args:
        study: with the localize stage done.
        taxonomy: name of a taxonomy or sample, the study's first one when None.
        attribution: `gradient` or `guided`.

    Returns:
        Δ, float32 (classes, layers, query, key), with its classes and counts.

    Raises:
        UserError: the stage has not been run, or there is no such taxonomy or attribution.
    """
    study.require("localize")
    name = _sample(study, taxonomy)
    for stored in load_deltas(study):
        if stored.sample == name and stored.attribution == attribution:
            return stored
    raise UserError(
        f"{study.folder}: no decisiveness of '{name}' with attribution '{attribution}' "
        "(it was not asked for, or no CNN trained). See localize.attributions."
    )


def benchmark_figure(study: Study, *taxonomies: str) -> Any:
    """Min-F1 beside its controls, a panel a taxonomy.

    Args:
        study: with the benchmark and localize stages done.
        *taxonomies: names of those to show; all when none is named.

    Returns:
        A plotly figure.

    Raises:
        UserError: a stage has not been run, or there is no such taxonomy.
    """
    from mnemoscope.report import figures

    study.require("benchmark")
    names = {_sample(study, name) for name in taxonomies}
    results = [one for one in taxonomy_results(study) if not names or one.name in names]
    return figures.benchmark_figure(results)


def delta_figure(
    study: Study, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> Any:
    """Δ by layer and class, a plotly figure; arguments as `decisiveness`."""
    from mnemoscope.report import figures

    stored = decisiveness(study, taxonomy, attribution=attribution)
    return figures.delta_figure(stored.delta, stored.classes)


def layer_profile_figure(
    study: Study, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> Any:
    """ΣΔ by layer and class, a plotly figure; arguments as `decisiveness`."""
    from mnemoscope.report import figures

    stored = decisiveness(study, taxonomy, attribution=attribution)
    return figures.layer_profile_figure(stored.delta, stored.classes)


def _sample(study: Study, name: str | None) -> str:
    """A sample that the study has."""
    known = list(samples_of(study))
    if not known:
        raise UserError(f"{study.folder}: nothing is labelled yet. Run 'mnemoscope label' first.")
    if name is None:
        return known[0]
    if name not in known:
        hint = nearest(name, known) or f" There are: {'; '.join(known)}."
        raise UserError(f"{study.folder}: no taxonomy '{name}'.{hint}")
    return name
