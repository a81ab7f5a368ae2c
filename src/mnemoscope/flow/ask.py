"""Analyses in Python: `ms.analyze(study, "levels", second="gpt2")` gives frames and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.analysis.registry import entry_named
from mnemoscope.files import read_parquet
from mnemoscope.flow.analyze import Asked, refuse_unused
from mnemoscope.flow.analyze import analyze as run_or_read
from mnemoscope.report.notebook import Picture, draw_figure
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models


@dataclass(frozen=True)
class Analysis:
    """The result of one analysis, which shows its first picture in a notebook.

    Attributes:
        sentence: the result with its 95 % interval.
        further: what was left out, what cannot be said.
        frames: tables by name; the page of the analysis says what they hold.
        figures: the most important first.
        folder: where all of it is kept.
    """

    sentence: str
    further: tuple[str, ...]
    frames: Mapping[str, pl.DataFrame] = field(repr=False)
    figures: tuple[Picture, ...] = field(repr=False)
    folder: Path

    @property
    def figure(self) -> Picture | None:
        """The most important picture; None where nothing is drawn."""
        return self.figures[0] if self.figures else None

    def _repr_html_(self) -> str:
        return self.figure._repr_html_() if self.figure is not None else ""


def analyze(
    study: Study,
    name: str,
    *,
    second: str | None = None,
    checkpoints: Sequence[str] = (),
    corpus: str | None = None,
    redo: bool = False,
    students: Sequence[str] = (),
    control: str | None = None,
    **settings: Any,
) -> Analysis:
    """Run an analysis on a study, or read its result where these settings have made it.

    Args:
        study: the study.
        name: as `mnemoscope analyze --list` names them.
        second: a second model with the same tokenizer: folder, hub name, NAME@REVISION.
        checkpoints: checkpoints of one run in order, or one folder of them.
        corpus: the training texts.
        redo: compute the result again even if it exists.
        students: models that were distilled from the study's.
        control: one that was trained on the same texts without it.
        settings: of the analysis, as `--set` takes them.

    Raises:
        UserError: no such analysis or setting, an input that it has no use for, or something that
            the study lacks.
    """
    entry = entry_named(name)
    asked = Asked(second, tuple(checkpoints), corpus, settings, redo, tuple(students), control)
    refuse_unused(entry, asked)
    with study.lock():
        outcome = run_or_read(study, entry, asked, Models(study.settings))
    assert outcome.result is not None  # else it has raised
    return Analysis(
        sentence=outcome.result.sentence,
        further=outcome.result.further,
        frames={
            table: read_parquet(outcome.folder / f"{table}.parquet")
            for table in outcome.result.frames
        },
        figures=tuple(map(draw_figure, outcome.result.figures)),
        folder=outcome.folder,
    )
