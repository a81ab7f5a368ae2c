"""Say in plain words what a search found, and what its choice was worth."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from mnemoscope.stats import Estimate
from mnemoscope.study.settings import SearchSettings
from mnemoscope.words import interval, percent, points

_WORDS = {
    "excess": "excess alignment",
    "min_f1": "min-F1",
    "auc": "mean pairwise AUC",
    "auc_excess": "excess of the mean pairwise AUC",
}


def describe_search(
    table: pl.DataFrame, counts: Mapping[str, Any], wanted: SearchSettings
) -> list[str]:
    """Describe a finished search.

    Args:
        table: `search.parquet`.
        counts: of the stage's manifest.
        wanted: the settings it was made with.

    Returns:
        Sentences: what was tried, the winner, what its excess says, what stands beside it.
    """
    best = table.row(by_predicate=pl.col("place") == 1, named=True)
    lines = [_tried(counts, wanted), _winner(best, wanted), _verdict(best)]
    for row in table.filter(pl.col("kind") == "beside").iter_rows(named=True):
        lines.append(_beside(row, best, wanted))
    for name, smallest in counts["impossible_beside"].items():
        lines.append(f"{name}: a class has {min(smallest.values())} sequences in one of the parts.")
    return lines


def _tried(counts: Mapping[str, Any], wanted: SearchSettings) -> str:
    """How many sequences and taxonomies there were."""
    parts = ", ".join(f"{counts[f'memorized_{part}']:,}" for part in ("train", "select", "final"))
    return (
        f"{counts['memorized']:,} memorized sequences with maps ({parts} for training, selection "
        f"and final evaluation); {counts['tried']:,} different taxonomies tried of "
        f"{counts['proposed']:,} proposed ({counts['same']:,} divide as another does, "
        f"{counts['too_small']:,} have a class of fewer than {wanted.minimum})."
    )


def _winner(best: Mapping[str, Any], wanted: SearchSettings) -> str:
    """The winner's figure where it was chosen, and where it was not."""
    name, chosen, final = wanted.objective, best["full"], best[wanted.objective]
    words = _WORDS[name]
    if final is None:
        return f"Best by {words}: {best['taxonomy']}; nothing to hold it against on the final part."
    drop = chosen - final
    fall = f"{percent(abs(drop), unit=False)} points {'less' if drop >= 0 else 'more'}"
    return (
        f"Best by {words}: {best['taxonomy']}, {_shown(name, chosen)} where it was chosen and "
        f"{_figure(best, name)} on the final part, which had no say in the choice ({fall})."
    )


def _verdict(best: Mapping[str, Any]) -> str:
    """What the winner's excess says of memory."""
    if best["excess"] is None:
        return "No control trained, so its figure may come from the text alone."
    shown = _figure(best, "excess")
    if best["excess_low"] > 0:
        return f"Its excess is {shown} points: attention shows more of it than the text gives away."
    if best["excess_high"] < 0:
        return f"Its excess is {shown} points: the text gives away more of it than attention shows."
    return (
        f"Its excess is {shown} points, an interval that spans zero: this search found no taxonomy "
        "of which attention shows more than the text gives away."
    )


def _beside(row: Mapping[str, Any], best: Mapping[str, Any], wanted: SearchSettings) -> str:
    """A taxonomy that was not searched for, on the same parts."""
    name = wanted.objective
    if row[name] is None:
        return f"Beside it {row['taxonomy']}: no CNN trained."
    text = f"Beside it {row['taxonomy']}: {_figure(row, name)} on the final part."
    if best[name] is None:
        return text
    if best[f"{name}_low"] > row[f"{name}_high"]:
        return f"{text} The found one is above it."
    if best[f"{name}_high"] < row[f"{name}_low"]:
        return f"{text} The found one is below it."
    return f"{text} The two intervals overlap."


def _figure(row: Mapping[str, Any], name: str) -> str:
    """A figure with its interval."""
    ends = interval(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]))
    return f"{_shown(name, row[name])} {ends}"


def _shown(name: str, value: float) -> str:
    """A difference in points with its sign, anything else in per cent."""
    return points(value) if name in ("excess", "auc_excess") else percent(value)
