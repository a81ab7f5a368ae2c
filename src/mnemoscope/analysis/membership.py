"""Which rows were read: do scores tell it, and better than the text alone?

Source: Carlini et al. 2021 (arXiv 2012.07805), Shi et al. 2023 (2310.16789) and Zhang et al. 2024
(2404.02936) for the scores; Das, Zhang and Tramèr 2024 (2406.16201) for the text alone.
Run it: mnemoscope analyze membership STUDY --second TWIN
"""

from collections.abc import Iterator

from pydantic import Field

import mnemoscope as ms
from mnemoscope.plugin import (
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    draw_rows,
    ranged,
    rows_of,
    series_of,
)


class Settings(AnalysisSettings):
    """Settings of `membership`."""

    n_sequences: int | None = Field(
        default=5000, ge=20, description="Sequences drawn by the seed; null: all."
    )
    read: str | None = Field(
        default=None,
        description="The column that says what was read: true, or a number above 0. Without it "
        "`duplicates`, or else `held_out`, where true is unread.",
    )
    n_resamples: int = Field(default=1000, ge=50, description="Resamples of every interval.")


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Sequences once under the model, and under a twin."""
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    return (1 + bool(inputs.others)) * rows.height


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Give AUC and TPR of every score, of the text alone and of the twin alone.

    Raises UserError: it is not known which rows were read, or all were, or none.
    """
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    others = inputs.other_models()
    found = ms.membership(
        inputs.model(),
        rows,
        reference=others[0][1] if others else None,
        read=settings.read,
        batch_size=inputs.batch_size,
        n_resamples=settings.n_resamples,
        seed=settings.seed,
        progress=False,
    )
    frames = {"told": found.told, "levels": found.levels, "bits": found.bits}
    return AnalysisResult(
        sentence=found.sentence,
        frames={"sequences": found.rows} | {k: one for k, one in frames.items() if one.height},
        figures=tuple(_figures(found)),
        further=(*_further(found, [name for name, _ in others]), *found.notes),
    )


def _figures(found: ms.Membership) -> Iterator[Chart]:
    told = found.told.with_columns(n=found.rows.height)
    names = tuple(told["name"])
    yield Chart(
        title="Read or not: AUC of each score, and of what needs no memory",
        form="points",
        x_label="score",
        y_label="AUC",
        x_names=names,
        series=(series_of("AUC", told, "auc"),),
    )
    if (levels := found.levels).height:
        yield Chart(
            title=f"{found.score}: AUC by number of readings",
            x_label="readings",
            y_label="AUC",
            log_x=True,
            series=(
                series_of(found.score, levels, "auc", x="duplicates"),
                series_of("best control", levels, "control_auc", x="duplicates"),
            ),
        )


def _further(found: ms.Membership, twins: list[str]) -> Iterator[str]:
    own = found.rows["read"]
    yield (
        f"{int(own.sum()):,} of {len(own):,} sequences count as read, in "
        f"{found.rows['group'].n_unique():,} documents; intervals and folds draw these whole."
    )
    for row in rows_of(found.bits):
        yield (
            f"{row['rows'].capitalize()} sequences: {ranged(row['mean'])} bits each that the model "
            f"needs fewer than {twins[0]}."
        )
    if found.levels.height:
        said = [
            f"{one['duplicates']:,} times AUC {ranged(one['auc'], digits=3)}"
            for one in rows_of(found.levels)
        ]
        yield f"Read {', '.join(said)} ({found.score})."
