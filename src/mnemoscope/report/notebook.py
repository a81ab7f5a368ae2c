"""What a study found, as Polars frames and as pictures that a notebook shows.

A frame of a stage that has not been run is a `UserError`.
"""

from pathlib import Path

import polars as pl

from mnemoscope.benchmark.published import allocate
from mnemoscope.errors import UserError
from mnemoscope.localize.regions import layer_profile
from mnemoscope.pipeline.benchmark import find_sample
from mnemoscope.pipeline.deltas import StoredDelta, load_deltas
from mnemoscope.pipeline.label import SampleEntry, samples_of
from mnemoscope.report.charts import profile_drawing
from mnemoscope.report.content import FLOWS, flows_of, taxonomy_results
from mnemoscope.report.grafts import graft_of
from mnemoscope.report.pictures import (
    Picture,
    draw_benchmarks,
    draw_doses,
    draw_figure,
    draw_flows,
    draw_maps,
)
from mnemoscope.study.folder import Study, as_study
from mnemoscope.taxonomy.groups import find_groups


def stored_delta(
    study: Study | str | Path, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> StoredDelta:
    """Δ of a taxonomy (the first unless named), with its classes and counts.

    Raises:
        UserError: localize has not been run, or there is no such taxonomy or attribution.
    """
    study = as_study(study)
    study.require("localize")
    sample = sample_named(study, taxonomy)
    for stored in load_deltas(study):
        if stored.sample == sample.key and stored.attribution == attribution:
            return stored
    raise UserError(
        f"{study.folder}: no decisiveness of '{sample.shown}' with attribution '{attribution}' "
        "(it was not asked for, or no CNN trained). See localize.attributions."
    )


def benchmark_figure(study: Study | str | Path, *taxonomies: str) -> Picture:
    """Min-F1 beside its controls, a panel a taxonomy, with Δ of the strongest layer below it.

    The shaded band reaches to the best figure without memory: a model's dot within it shows
    nothing that the text does not show. All taxonomies are shown when none is named.

    Raises:
        UserError: a stage has not been run, there is no such taxonomy, or none was measured.
    """
    study = as_study(study)
    study.require("benchmark")
    names = {sample_named(study, name).shown for name in taxonomies}
    shown = [one for one in taxonomy_results(study) if not names or one.name in names]
    return draw_benchmarks(shown, str(study.record["models"]["model"]["name"]))


def delta_figure(
    study: Study | str | Path, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> Picture:
    """Δ by layer and class, each layer scaled by its maximum; arguments as `stored_delta`."""
    stored = stored_delta(study, taxonomy, attribution=attribution)
    title = f"{stored.shown}: Δ by {stored.attribution}"
    prefix = as_study(study).settings.sequences.n_prefix
    return draw_maps(stored.delta, stored.classes, title=title, prefix=prefix)


def allocation_of(study: Study | str | Path) -> pl.DataFrame:
    """How memorized sequences flow from Prashanth et al.'s classes to the paper's.

    Columns `prashanth`, `paper`, `n`, `share` with its interval, `published` (fractions),
    `n_groups`.

    Raises:
        UserError: the table lacks a feature that one of the taxonomies needs.
    """
    study = as_study(study)
    return allocate(study.sequences, find_groups(study.sequences))


def allocation_figure(study: Study | str | Path) -> Picture:
    """The flow of `allocation_of` as a Sankey diagram, shares in per cent; errors as there."""
    return draw_flows(flows_of(allocation_of(study)), FLOWS)


def layer_profile_figure(
    study: Study | str | Path, taxonomy: str | None = None, *, attribution: str = "gradient"
) -> Picture:
    """ΣΔ by layer and class, per cent of the largest; arguments as `stored_delta`."""
    stored = stored_delta(study, taxonomy, attribution=attribution)
    title = f"{stored.shown}: Δ by {stored.attribution}, summed over each layer"
    profile = layer_profile(stored.delta)
    return draw_figure(profile_drawing(stored.classes, profile, title=title))


def graft_figure(study: Study | str | Path, taxonomy: str | None = None) -> Picture:
    """What is left of two classes when parts of the reference are put into the model, as curves.

    Raises:
        UserError: graft has not been run, or no part was tried on two classes of this taxonomy.
    """
    study = as_study(study)
    study.require("graft")
    sample = sample_named(study, taxonomy)
    found = graft_of(study, sample.taxonomy)
    if found is None or not found["doses"]:
        raise UserError(f"{study.folder}: no grafts on two classes of '{sample.taxonomy}'.")
    classes = sample.trained_classes or sample.classes
    title = f"{sample.taxonomy}: what is left with parts of the reference"
    return draw_doses(found["doses"], classes, title)


def sample_named(study: Study, name: str | None) -> SampleEntry:
    """A sample that the study has."""
    known = list(samples_of(study).values())
    if not known:
        raise UserError(f"{study.folder}: nothing is labelled yet. Run 'mnemoscope label' first.")
    if name is None:
        return known[0]
    return find_sample(study, str(name))
