"""Figures for paper and numbers of a localized study: `mnemoscope localize STUDY --export DIR`."""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mnemoscope.atomic_write import made_folder, write_bytes
from mnemoscope.errors import UserError
from mnemoscope.report.print_figures import (
    MOST_LAYERS_IN_A_ROW,
    check_matplotlib,
    drawn,
    knockout_print,
    maps_print,
    profile_print,
)
from mnemoscope.stages.delta_tables import write_delta_tables
from mnemoscope.stages.knockout import KNOCKOUT_FILE, SPECIFICITY_FILE
from mnemoscope.stages.localize import (
    AGREEMENT_FILE,
    REGIONS_FILE,
    SHAPES_FILE,
    SOURCES,
    StoredDelta,
    load_deltas,
)
from mnemoscope.stages.report_knockout import knockout_of
from mnemoscope.study import Study

__all__ = ["draw_deltas", "export_localization"]

_PANELS = {"model": "model", "reference": "reference model"}


def export_localization(study: Study, folder: Path | str) -> list[Path]:
    """Write every figure as SVG, PDF and PNG, and the numbers as Parquet.

    `delta.parquet` (sample, source, attribution, class, layer, query, key, delta) and
    `profile.parquet` count layers and tokens from 1 as the figures do; `regions.parquet`,
    `agreement.parquet`, `attention.parquet`, `knockout.parquet` and `specificity.parquet` are the
    study's, where it has them.

    Args:
        study: with the localize stage done.
        folder: is made where it does not exist; files of the same names are replaced.

    Returns:
        What was written.

    Raises:
        UserError: no Matplotlib, no Δ in the study, or a folder that cannot be made.
    """
    check_matplotlib()
    study.require("localize")
    deltas = [one for source in SOURCES for one in load_deltas(study, source)]
    if not deltas:
        raise UserError(
            f"{study.folder}: no Δ to export, since no CNN trained. Train on more sequences."
        )
    folder = made_folder(folder)
    tables, figures = _tables(study, deltas, folder), draw_deltas(deltas, folder)
    return [*tables, *figures, *_knockouts(study, deltas, folder)]


def _tables(study: Study, deltas: list[StoredDelta], folder: Path) -> Iterator[Path]:
    """The numbers."""
    yield from write_delta_tables(deltas, folder)
    names = [REGIONS_FILE, AGREEMENT_FILE, SHAPES_FILE]
    names += [KNOCKOUT_FILE, SPECIFICITY_FILE] if study.is_done("knockout") else []
    for name in names:
        if (study.folder / name).is_file():
            shutil.copyfile(study.folder / name, folder / name)
            yield folder / name


def _knockouts(study: Study, deltas: list[StoredDelta], folder: Path) -> Iterator[Path]:
    """The knockout of every taxonomy."""
    for sample, classes in {one.sample: one.classes for one in deltas}.items():
        view = knockout_of(study, sample)
        if view is not None:
            figure = knockout_print(view, classes, title=sample)
            yield from _write(folder / f"{_slug(sample)}-knockout", drawn(figure))


def draw_deltas(deltas: Sequence[StoredDelta], folder: Path | str) -> Iterator[Path]:
    """Draw maps and profiles of every sample and attribution into a folder, made where missing."""
    folder = made_folder(folder)
    for one in deltas:
        if one.source == "blind":
            continue  # two channels of token repetitions are no attention
        title = f"{one.sample}: {_PANELS[one.source]}, {one.attribution}"
        stem = f"{_slug(one.sample)}-{one.attribution}-{one.source}"
        for name, figure in _maps(one, title):
            yield from _write(folder / f"{stem}-maps{name}", drawn(figure))
        if one.source == "model":
            beside = {
                _PANELS[other.source]: other.delta
                for other in deltas
                if other.source in _PANELS
                and (other.sample, other.attribution) == (one.sample, one.attribution)
            }
            figure = profile_print(beside, one.classes, title=f"{one.sample}: {one.attribution}")
            stem = f"{_slug(one.sample)}-{one.attribution}"
            yield from _write(folder / f"{stem}-profile", drawn(figure))


def _maps(one: StoredDelta, title: str) -> Iterator[tuple[str, Any]]:
    """All classes in one figure where each takes one row, else a figure a class."""
    if one.delta.shape[1] <= MOST_LAYERS_IN_A_ROW:
        yield "", maps_print(one.delta, one.classes, title=title)
        return
    for index, name in enumerate(one.classes):
        figure = maps_print(one.delta, one.classes, only=index, title=title)
        yield f"-{_slug(name)}", figure


def _write(stem: Path, made: dict[str, bytes]) -> Iterator[Path]:
    """One figure in every format."""
    for ending, data in made.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        write_bytes(path, data)
        yield path


def _slug(name: str) -> str:
    """A sample's name as part of a file name: `Non-Memo, Recite[5], Recollect`, dashes between."""
    return re.sub(r"[^\w.]+", "-", name).strip("-").lower()
