"""Figures for paper: decisiveness maps, layer profile, knockout and grafts as SVG, PDF and PNG.

They are the pictures of the notebook, printed; Typst (extra `figures`) makes PDF and PNG of them.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnemoscope.errors import UserError
from mnemoscope.files import made_folder, write_bytes
from mnemoscope.localize.regions import layer_profile
from mnemoscope.pipeline.causes import KNOCKOUT_FILE, SPECIFICITY_FILE
from mnemoscope.pipeline.deltas import (
    AGREEMENT_FILE,
    REGIONS_FILE,
    SHAPES_FILE,
    SOURCES,
    StoredDelta,
    load_deltas,
    write_delta_tables,
)
from mnemoscope.report import charts
from mnemoscope.report.content import knockout_of
from mnemoscope.report.grafts import graft_of
from mnemoscope.report.pictures import Picture, check_print, draw_charts, draw_doses, draw_maps
from mnemoscope.study.folder import Study

_PANELS = {"model": "model", "reference": "reference model"}


def export_localization(study: Study, folder: Path | str) -> list[Path]:
    """Write every figure as SVG, PDF and PNG, and the numbers as Parquet; gives what was written.

    `delta.parquet` and `profile.parquet` count layers from 0, tokens from 1, as the figures do; the
    tables of regions, checks, shapes and cuts are the study's, where it has them. A missing folder
    is made; files of the same names are replaced.
    Raises UserError: no Typst, no Δ in the study, or a folder that cannot be made.
    """
    check_print()
    study.require("localize")
    deltas = [one for source in SOURCES for one in load_deltas(study, source)]
    if not deltas:
        raise UserError(
            f"{study.folder}: no Δ to export, since no CNN trained. Train on more sequences."
        )
    folder = made_folder(folder)
    made = list(write_delta_tables(deltas, folder))
    tables = [REGIONS_FILE, AGREEMENT_FILE, SHAPES_FILE]
    tables += [KNOCKOUT_FILE, SPECIFICITY_FILE] if study.is_done("knockout") else []
    for name in tables:
        if (study.folder / name).is_file():
            shutil.copyfile(study.folder / name, folder / name)
            made.append(folder / name)
    made += draw_deltas(deltas, folder, prefix=study.settings.sequences.n_prefix)
    for stem, picture in _effects(study, deltas):
        made += _write(folder / stem, picture)
    return made


def _effects(study: Study, deltas: Sequence[StoredDelta]) -> Iterator[tuple[str, Picture]]:
    """What knockout and graft broke of every sample, each with its file name."""
    for one in {one.sample: one for one in deltas}.values():
        cut, grafts = knockout_of(study, one.sample), graft_of(study, one.shown)
        if cut is not None:
            panels = {
                f"{panel.name} ({panel.n} sequences)": charts.knockout_drawing(panel, one.classes)
                for panel in cut.panels
            }
            yield (
                f"{_slug(one.shown)}-knockout",
                draw_charts(panels, f"{one.shown}: what cuts leave"),
            )
        if grafts is not None and grafts["doses"]:
            title = f"{one.shown}: what is left with parts of the reference"
            yield f"{_slug(one.shown)}-grafts", draw_doses(grafts["doses"], one.classes, title)


def draw_deltas(
    deltas: Sequence[StoredDelta], folder: Path | str, *, prefix: int | None = None
) -> Iterator[Path]:
    """Draw maps and profiles of every sample into a folder; the prefix is half unless given."""
    folder = made_folder(folder)
    for one in deltas:
        if one.source == "blind":
            continue  # two channels of token repetitions are no attention
        title = f"{one.shown}: {_PANELS[one.source]}, {one.attribution}"
        stem = f"{_slug(one.shown)}-{one.attribution}"
        # All classes in one figure where each takes one row, else a figure a class.
        is_wide = one.delta.shape[1] > charts.MOST_LAYERS_IN_A_ROW
        for only in range(len(one.classes)) if is_wide else [None]:
            name = "" if only is None else f"-{_slug(one.classes[only])}"
            picture = draw_maps(one.delta, one.classes, title=title, prefix=prefix, only=only)
            yield from _write(folder / f"{stem}-{one.source}-maps{name}", picture)
        if one.source == "model":
            beside = {
                _PANELS[other.source]: charts.profile_drawing(
                    one.classes, layer_profile(other.delta)
                )
                for other in deltas
                if other.source in _PANELS
                and (other.sample, other.attribution) == (one.sample, one.attribution)
            }
            title = f"{one.shown}: Δ by {one.attribution}, summed over each layer"
            yield from _write(folder / f"{stem}-profile", draw_charts(beside, title))


def _write(stem: Path, picture: Picture) -> Iterator[Path]:
    for ending, data in picture.printed().items():
        path = stem.with_name(f"{stem.name}.{ending}")
        write_bytes(path, data)
        yield path


def _slug(name: str) -> str:
    """A sample's name as part of a file name: `Non-Memo, Recite[5], Recollect`, dashes between."""
    return re.sub(r"[^\w.]+", "-", name).strip("-").lower()
