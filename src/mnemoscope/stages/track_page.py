"""A history of memorization as tables and one page: shares by step, survival, levels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import polars as pl

from mnemoscope.analysis.figures import Chart, Figure, HeatMap, Series, plain
from mnemoscope.analysis.levels import LEVELS, transitions
from mnemoscope.analysis.shares import Share, share_of
from mnemoscope.parquet import write_parquet
from mnemoscope.report.analysis import AnalysisSection
from mnemoscope.report.sections import Page, write_page
from mnemoscope.stages.report_analyses import table_of
from mnemoscope.training.checkpoints import describe_lacking
from mnemoscope.training.history import History, read_history
from mnemoscope.training.survival import follow, survival, turnover
from mnemoscope.training.windows import CONTROL, GUESS, RECALL

__all__ = ["PAGE", "TrackResults", "track_results", "write_track_page"]

PAGE = "track.html"
_KINDS = {RECALL: "cannot be guessed from their text", GUESS: "can be guessed from their text"}


Group = tuple[str, str]
"""A source and a class."""


@dataclass(frozen=True)
class TrackResults:
    """What a history says.

    Attributes:
        sentence: the result in words.
        further: what it rests on and what it cannot say.
        frames: `shares`, `windows`, `turnover`, `survival` and, of decoded windows, `levels`.
        figures: to be drawn.
    """

    sentence: str
    further: tuple[str, ...]
    frames: dict[str, pl.DataFrame] = field(repr=False)
    figures: tuple[Figure, ...] = field(repr=False)


def write_track_page(folder: Path) -> TrackResults:
    """Write the tables and the page of a history beside it.

    Args:
        folder: of the history.

    Raises:
        UserError: no history there.
        DamagedDataError: a torn file.
    """
    results = track_results(read_history(folder))
    for name, frame in results.frames.items():
        write_parquet(folder / f"{name}.parquet", frame)
    section = AnalysisSection(
        name="track",
        title="What comes out, what stays, what is forgotten",
        question="Which windows does the model reproduce at which step, and which does it forget?",
        source="",
        sentence=results.sentence,
        further=results.further,
        figures=results.figures,
        tables=tuple(
            table_of(name, frame, f"{name}.parquet") for name, frame in results.frames.items()
        ),
    )
    write_page(folder / PAGE, Page(title="Memorization by step", sections=(section,)))
    return results


def track_results(history: History) -> TrackResults:
    """Sum a history up.

    Args:
        history: of one check or more.
    """
    checks = history.joined()
    groups = _groups(history.windows)
    shares = _shares(checks)
    followed = follow(history.checks).join(
        history.windows.select("window", "source", "class", "text"), on="window", how="left"
    )
    lasting = pl.concat(
        _of_group(followed, group).pipe(survival, history.steps[-1]).select(*_literals(group), "*")
        for group in groups
    )
    frames = {
        "shares": shares,
        "windows": followed,
        "turnover": turnover(history.checks),
        "survival": lasting,
    }
    figures: list[Figure] = [_share_chart(shares, groups, history.steps)]
    if not lasting.is_empty():
        figures.append(_survival_chart(lasting, groups))
    if "memorization_score" in checks.columns:
        frames["levels"], heat = _levels(checks, history.steps)
        figures += heat
    further = tuple(_further(history, followed))
    return TrackResults(_sentence(shares, history.steps[-1]), further, frames, tuple(figures))


def _groups(windows: pl.DataFrame) -> list[Group]:
    """Sources and classes that there are, what was kept out of training last."""
    found = windows.select("source", "class").unique(maintain_order=True).rows()
    return sorted(found, key=lambda group: (group[0] == CONTROL, group[1] == GUESS))


def _of_group(frame: pl.DataFrame, group: Group) -> pl.DataFrame:
    source, kind = group
    return frame.filter((pl.col("source") == source) & (pl.col("class") == kind))


def _literals(group: Group) -> tuple[pl.Expr, pl.Expr]:
    return pl.lit(group[0]).alias("source"), pl.lit(group[1]).alias("class")


def _shares(checks: pl.DataFrame) -> pl.DataFrame:
    """Windows reproduced, by group and step, with intervals."""
    counted = checks.group_by("source", "class", "step", maintain_order=True).agg(
        pl.len().alias("n"),
        pl.col("is_memorized").sum().alias("memorized"),
        pl.col("logprob").mean(),
    )
    shares = [share_of(part, n) for n, part in counted.select("n", "memorized").iter_rows()]
    return counted.with_columns(
        pl.Series(name, [getattr(one, name) for one in shares]) for name in Share._fields
    ).rename({"value": "share"})


def _share_chart(shares: pl.DataFrame, groups: Sequence[Group], steps: Sequence[int]) -> Chart:
    return Chart(
        title="Windows that the model reproduces, per cent (95 % interval)",
        series=tuple(
            Series(
                name=f"{', '.join(group)} ({part['n'][0]:,})",
                x=plain(part["step"]),
                y=plain(part["share"]),
                low=plain(part["low"]),
                high=plain(part["high"]),
            )
            for group in groups
            for part in [_of_group(shares, group)]
        ),
        form="line" if len(steps) > 1 else "points",
        x_label="step",
        percent=True,
    )


def _survival_chart(lasting: pl.DataFrame, groups: Sequence[Group]) -> Chart:
    """Curves that fall by steps."""
    series = []
    for group in groups:
        part = _of_group(lasting, group)
        if part.is_empty():  # keeps its colour, so that both charts have the same
            series.append(Series(name=f"{', '.join(group)}: never", x=(None,), y=(None,)))
            continue
        x, y, low, high = (part[column].to_list() for column in ("age", "survives", "low", "high"))
        series.append(
            Series(
                name=", ".join(group),
                x=plain(_stairs(x, later=True)),
                y=plain(_stairs(y)),
                low=plain(_stairs(low)),
                high=plain(_stairs(high)),
            )
        )
    return Chart(
        title="Still reproduced so many steps after it was first seen, per cent (Kaplan-Meier)",
        series=tuple(series),
        x_label="steps since first seen memorized",
        percent=True,
    )


def _stairs(values: list[float], *, later: bool = False) -> list[float]:
    """Every value twice, so that a line through them falls upright at each place."""
    doubled = [value for value in values for _ in range(2)]
    return doubled[1:] if later else doubled[:-1]


def _levels(checks: pl.DataFrame, steps: Sequence[int]) -> tuple[pl.DataFrame, list[HeatMap]]:
    """Score levels from one check to the next; drawn from the first to the last."""
    wide = checks.pivot(on="step", index="window", values="memorization_score")
    rows = []
    for before, after in pairwise(steps):
        counts = transitions(wide[str(before)], wide[str(after)])
        rows += [
            {"from_step": before, "to_step": after, "from": LEVELS[i], "to": LEVELS[j], "n": int(n)}
            for i, line in enumerate(counts)
            for j, n in enumerate(line)
        ]
    kinds = {"from_step": pl.Int64, "to_step": pl.Int64, "from": pl.String, "to": pl.String}
    frame = pl.DataFrame(rows, schema=kinds | {"n": pl.Int64})
    if len(steps) < 2:
        return frame, []
    whole = transitions(wide[str(steps[0])], wide[str(steps[-1])])
    heat = HeatMap(
        title=f"Score levels from step {steps[0]:,} to step {steps[-1]:,} (windows)",
        values=tuple(plain(line) for line in whole),
        row_names=LEVELS,
        column_names=LEVELS,
        row_label=f"step {steps[0]:,}",
        column_label=f"step {steps[-1]:,}",
    )
    return frame, [heat]


def _sentence(shares: pl.DataFrame, last: int) -> str:
    """The last check in words, what was kept out of training beside it."""
    now = shares.filter(pl.col("step") == last)
    is_control = pl.col("source") == CONTROL
    parts = []
    for kind, words in _KINDS.items():
        of_kind = now.filter(pl.col("class") == kind)
        watched, kept_out = (of_kind.filter(rule) for rule in (~is_control, is_control))
        if of_kind.is_empty():
            continue
        said = f"{_share(watched)} of the {watched['n'].sum():,} windows that {words}"
        beside = f", and {_share(kept_out)} of such windows kept out of training"
        parts.append(said + (beside if kept_out.height else ""))
    return f"At step {last:,} the model reproduces {'; '.join(parts)}."


def _share(counted: pl.DataFrame) -> Share:
    return share_of(int(counted["memorized"].sum()), int(counted["n"].sum()))


def _further(history: History, followed: pl.DataFrame) -> Iterator[str]:
    seen = followed.drop_nulls("first_memorized")
    lost = seen.drop_nulls("forgotten")
    yield (
        f"{len(history.steps):,} checks of {followed.height:,} windows: {seen.height:,} were "
        f"memorized at some check, {lost.height:,} of them were not at a later one. What happened "
        "between two checks is not seen."
    )
    yield from describe_lacking(history.steps)
    if not (followed["source"] == CONTROL).any():
        yield (
            "No window was kept out of training, so nothing here tells memory from text that the "
            "model could have written anyway: watch held-out texts as controls beside these."
        )
