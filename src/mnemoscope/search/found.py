"""What a finished search has found: its table, and the result in words."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from mnemoscope.benchmark.verdict import COUNTED, FEWEST_TRAININGS
from mnemoscope.columns import Column
from mnemoscope.stats import FIGURE, rows_of
from mnemoscope.study.folder import Study
from mnemoscope.words import figure, percent, points

SEARCH_FILE = "search.parquet"
PARTS = ("train", "select", "final")
_OBJECTIVES_IN_WORDS = {
    "excess": "excess alignment",
    "min_f1": "min-F1",
    "auc": "mean pairwise AUC",
    "auc_excess": "excess of the mean pairwise AUC",
}
SEARCH_COLUMNS = {
    "taxonomy": Column(pl.String, "its name"),
    "classes": Column(pl.Int64, "how many it has, Non-Memo among them"),
    "kind": Column(pl.String, "`found`, or `baseline`: compared with what was found"),
    "place": Column(pl.Int64, "among the finalists, from 1"),
    **{
        rung: Column(pl.Float64, f"objective on the part `select`, after the {rung} rung")
        for rung in ("cheap", "brief", "full")
    },
    **{
        name: Column(FIGURE, f"{words} on the part `final`, of finalists and baselines")
        for name, words in _OBJECTIVES_IN_WORDS.items()
    },
    "lead": Column(FIGURE, "objective minus that of the best baseline, on the part `final`"),
    "strongest": Column(pl.String, "the best control there"),
    **{
        f"n_{part}": Column(pl.Int64, f"sequences of a class in the part `{part}`")
        for part in PARTS
    },
}


def search_words(study: Study) -> list[str]:
    """The result of a finished search in words; UserError if the search has not been run."""
    study.require("search")
    manifest = study.manifest("search")
    assert manifest is not None
    counts, wanted, table = manifest["counts"], study.settings.search, study.read(SEARCH_FILE)
    (best,) = rows_of(table.filter(place=1))
    parts = ", ".join(f"{counts[f'memorized_{part}']:,}" for part in PARTS)
    return [
        f"{counts['memorized']:,} memorized sequences with maps ({parts} for training, selection "
        f"and final evaluation); {counts['tried']:,} different taxonomies tried of "
        f"{counts['proposed']:,} proposed ({counts['same']:,} divide as another does, "
        f"{counts['too_small']:,} have a class of fewer than {wanted.minimum}).",
        _winner(best, wanted.objective),
        final_verdict(best, len(wanted.seeds)),
        *(_compared(row, wanted.objective) for row in rows_of(table.filter(kind="baseline"))),
        *(
            f"{name}: a class has {min(smallest.values())} sequences in one of the parts."
            for name, smallest in counts["impossible_baselines"].items()
        ),
    ]


def chosen_figure(row: Mapping[str, Any], objective: str) -> str:
    """The objective on the selection part; differences in points, else per cent."""
    value = row["full"]
    return points(value) if "excess" in objective else percent(value)


def final_figure(row: Mapping[str, Any], name: str) -> str:
    """A figure of the final part with its interval; differences in points, else per cent."""
    return figure(row[name], signed="excess" in name, unit=True, gap=" ")


def _winner(best: Mapping[str, Any], objective: str) -> str:
    words, chosen, final = _OBJECTIVES_IN_WORDS[objective], best["full"], best[objective].value
    if final is None:
        return f"Best by {words}: {best['taxonomy']}; nothing to hold it against on the final part."
    drop = chosen - final
    fall = f"{percent(abs(drop), unit=False)} points {'less' if drop >= 0 else 'more'}"
    return (
        f"Best by {words}: {best['taxonomy']}, {chosen_figure(best, objective)} where it was "
        f"chosen and {final_figure(best, objective)} on the final part, which had no say in the "
        f"choice ({fall})."
    )


def final_verdict(best: Mapping[str, Any], n_trainings: int) -> str:
    """What the winner's excess, on so many trainings a source, says about memory."""
    excess = best["excess"]
    if excess.value is None:
        return "No control trained, so its figure may come from the text alone."
    shown = final_figure(best, "excess")
    if excess.low is None:
        return f"Its excess is {shown} points, of too few near duplicates' groups for an interval."
    if n_trainings < FEWEST_TRAININGS:
        return (
            f"Its excess is {shown} points, undecided, with {COUNTED[n_trainings]} a "
            "source (three are needed: search.seeds=[0, 1, 2])."
        )
    if excess.low > 0:
        return f"Its excess is {shown} points: attention shows more of it than the text gives away."
    if excess.high < 0:
        return f"Its excess is {shown} points: the text gives away more of it than attention shows."
    return (
        f"Its excess is {shown} points, an interval that spans zero: this search found no taxonomy "
        "of which attention shows more than the text gives away."
    )


def _compared(row: Mapping[str, Any], name: str) -> str:
    """How a taxonomy that was given, not searched for, compares with the winner."""
    if row[name].value is None:
        return f"Beside it {row['taxonomy']}: no CNN trained."
    text = f"Beside it {row['taxonomy']}: {final_figure(row, name)} on the final part."
    _, low, high = row["lead"]
    if low is None:  # too few groups
        return text
    said = "above it" if low > 0 else "below it" if high < 0 else "neither above nor below it"
    return f"{text} The found one is {said} ({figure(row['lead'], signed=True, gap=' ')} points)."
