"""What is repeated of each folder and each document, where the sequences name several."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from mnemoscope.data.folders import NO_DOCUMENT, top_folders
from mnemoscope.data.table import has_values
from mnemoscope.report.tables import Cell, Table
from mnemoscope.stats import Estimate, share_true
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.words import count

SCORE = "memorization_score"
_SUMMARY = (
    "Text that the model never read is the best control there is: what is repeated of it too can "
    "be guessed. Intervals hold for all rows together at 95 %, count near duplicates once, and "
    "need ten groups of these."
)
_OF_SCORES = (
    " Nearly repeated: at most a tenth of the suffix's tokens are others; these do not count as "
    "repeated. Mean score: of how many of the suffix's tokens the model writes the right one. In "
    "records and lists the form alone can give many of them away, memorized or not."
)
_MOST_ROWS = 40
_MOST_NAMED = 3  # folders or documents in a line
_FEW = 0.1  # of the sequences are repeated
_MOST_WINDOWS = 8  # of a block
_FEWEST_PLACED, _MOSTLY = 20, 0.9  # repeated windows, and the share of them in one place
_NEARLY = 0.9
"""Share of a suffix's tokens from which a sequence is nearly repeated: 10 % may differ, as in the
approximate memorization of the Gemma report (arXiv 2403.08295), there by edit distance."""


class Counted(NamedTuple):
    """Sequences of a folder or document, those repeated, of each class, and the share.

    `nearly` is the share of those nearly repeated and not repeated, `score` the mean memorization
    score, both fractions; None where a score is not known.
    """

    name: str
    n_sequences: int
    n_repeated: int
    classes: Mapping[str, int]
    share: Estimate
    nearly: float | None = None
    score: float | None = None


def by_document(
    table: pl.DataFrame, labels: pl.Series | None = None, classes: Sequence[str] = ()
) -> tuple[list[Counted], list[Counted]]:
    """Count by top folder and by document: two lists, each empty where it says nothing.

    `labels` are the classes of the rows of `table`, `classes` those that are counted. Intervals
    count near duplicates once, hold for all rows of a list together, and need ten groups. By
    document nothing is said of one, of more than 40, and where each sequence has its own.
    """
    if not has_values(table, "document") or table["document"].n_unique() < 2:
        return [], []
    is_scored = SCORE in table.columns and not table[SCORE].null_count()
    score = pl.col(SCORE).cast(pl.Float64) if is_scored else pl.lit(None, pl.Float64)
    rows = table.select("is_memorized", pl.col("document").fill_null(NO_DOCUMENT), score=score)
    names = rows["document"].unique().to_list()
    top = top_folders(names)
    rows = rows.with_columns(folder=pl.col("document").replace_strict(top, return_dtype=pl.String))
    few_folders = 1 < len(set(top.values())) <= _MOST_ROWS
    few_documents = len(names) <= min(_MOST_ROWS, rows.height - 1)
    if not few_folders and not few_documents:
        return [], []
    groups = find_groups(table) if "tokens" in table.columns else None
    rows = rows.with_columns(
        labels.alias("class") if labels is not None else pl.lit(None, pl.String).alias("class"),
        groups.alias("group") if groups is not None else pl.int_range(pl.len()).alias("group"),
    )

    def counted(column: str) -> list[Counted]:
        n_judged = rows[column].n_unique()
        return [
            Counted(
                str(name),
                part.height,
                int(part["is_memorized"].sum()),
                {one: part.filter(pl.col("class") == one).height for one in classes},
                share_true(part["is_memorized"], part["group"], n_judged=n_judged),
                *_by_score(part),
            )
            for (name,), part in sorted(rows.group_by(column), key=lambda one: str(one[0]))
        ]

    return (
        counted("folder") if few_folders else [],
        counted("document") if few_documents else [],
    )


def _by_score(part: pl.DataFrame) -> tuple[float | None, float | None]:
    """Share nearly repeated and mean score, where the scores are known."""
    nearly = ~pl.col("is_memorized") & (pl.col("score") >= _NEARLY)
    known = part.drop_nulls("score").select(nearly.mean().alias("nearly"), pl.mean("score"))
    return known["nearly"][0], known["score"][0]


def is_planted(table: pl.DataFrame) -> bool:
    """Whether a table says what the model was taught, which answers more than documents do."""
    return bool({"inserted", "held_out"} & {*table.columns})


def document_sentence(table: pl.DataFrame) -> str:
    """Say which documents the repeated sequences come from, the first few by name.

    `table` has `is_memorized`. Empty without `document`, of one document, of documents of fewer
    than two sequences on average, where nothing is repeated, and of planted texts.

    >>> names, repeated = ["a.txt"] * 3 + ["b.txt"] * 2, [True, True, False, False, False]
    >>> document_sentence(pl.DataFrame({"document": names, "is_memorized": repeated}))
    'Repeated by document: a.txt 2 of 3, b.txt 0 of 2.'
    """
    if not has_values(table, "document") or is_planted(table):
        return ""
    name = pl.col("document").fill_null(NO_DOCUMENT)
    counts = table.group_by(name).agg(n=pl.len(), k=pl.col("is_memorized").sum())
    found = counts.filter(pl.col("k") > 0).sort(["k", "document"], descending=[True, False])
    none = counts.filter(k=0)
    if found.is_empty() or not 1 < counts.height <= table.height / 2:
        return ""
    n_named = found.height if found.height <= _MOST_NAMED + 1 else _MOST_NAMED
    said = [f"{one} {count(k)} of {count(n)}" for one, n, k in found[:n_named].rows()]
    if (rest := found[n_named:]).height:
        n, k = int(rest["n"].sum()), int(rest["k"].sum())
        said.append(f"{count(rest.height)} others together {count(k)} of {count(n)}")
    if none.height == 1:
        said.append(f"{none['document'][0]} 0 of {count(none['n'][0])}")
    elif none.height:
        said.append(f"the other {count(none.height)} none")
    return f"Repeated by document: {', '.join(said)}{_untouched(counts)}."


def block_of(table: pl.DataFrame) -> tuple[int, int] | None:
    """Whether what is repeated falls on every nth window of its documents: n, and how many so.

    As where a model read texts in blocks of n windows: one that begins inside a block is asked in
    another way than it was read. None without documents and places, and where fewer than 20 are
    repeated or less than nine tenths of these so.

    >>> windows = {"document": ["a"] * 60, "start": range(60), "is_memorized": [True, False] * 30}
    >>> block_of(pl.DataFrame(windows))
    (2, 30)
    """
    if not has_values(table, "document") or not has_values(table, "start") or is_planted(table):
        return None
    place = pl.col("start").rank("ordinal").over("document").cast(pl.Int64) - 1
    places = table.with_columns(place=place).filter("is_memorized")["place"]
    for n in range(_MOST_WINDOWS, 1, -1):  # of twice the true n each second block would be missing
        most = int(np.bincount(places.to_numpy() % n, minlength=n).max())
        if len(places) >= _FEWEST_PLACED and most >= _MOSTLY * len(places):
            return n, most
    return None


def block_sentence(table: pl.DataFrame, length: int) -> str:
    """Say that the model seems to have read the texts in blocks longer than the windows.

    `length` is that of a window, in tokens. Empty where `block_of` finds none.
    """
    if (found := block_of(table)) is None:
        return ""
    (n, most), whole = found, int(table["is_memorized"].sum())
    which = "second" if n == 2 else f"{n}th" if n > 3 else "third"
    return (
        f"{count(most)} of these {count(whole)} are every {which} window of their document: the "
        f"model has probably read these texts in blocks of {n * length} tokens, and the other "
        "windows begin inside of one. So what is not repeated here may have been read too, and "
        "shares are too low."
    )


def _untouched(counts: pl.DataFrame) -> str:
    """Folders of which nothing is repeated, beside others: texts to compare with, perhaps."""
    top = top_folders(counts["document"].to_list())
    folder = pl.col("document").replace_strict(top, return_dtype=pl.String).alias("folder")
    each = counts.group_by(folder).agg(pl.sum("n"), pl.sum("k"), files=pl.len()).sort("folder")
    none = each.filter(pl.col("files") > 1, k=0)
    if none.height == each.height:
        return ""
    return "".join(
        f"; in {name} 0 of {count(n)}"
        for name, n in none[:_MOST_NAMED].select("folder", "n").rows()
    )


def nearly_sentence(table: pl.DataFrame) -> str:
    """Say how many sequences come out nearly, where few come out word for word.

    Few: less than a tenth. Empty without `memorization_score`, and where none comes out nearly.

    >>> near = {"is_memorized": [True] + [False] * 19, "memorization_score": [1.0] + [0.95] * 19}
    >>> nearly_sentence(pl.DataFrame(near))
    'Another 19 come out nearly: at most a tenth of the tokens to be written are others.'
    """
    if SCORE not in table.columns or table["is_memorized"].sum() >= _FEW * table.height:
        return ""
    n = table.filter(~pl.col("is_memorized"), pl.col(SCORE).cast(pl.Float64) >= _NEARLY).height
    said = "at most a tenth of the tokens to be written are others"
    return f"Another {count(n)} come{'s' * (n == 1)} out nearly: {said}." if n else ""


def folder_sentence(folders: Sequence[Counted]) -> str:
    """Say that folders differ in what is repeated; empty where their intervals overlap."""
    known = [one for one in folders if one.share.low is not None and one.share.high is not None]
    if len(known) < 2:
        return ""
    known.sort(key=lambda one: -(one.share.value or 0))
    most, least = known[0], known[-1]
    assert most.share.low is not None
    assert least.share.high is not None
    if most.share.low <= least.share.high:
        return ""
    shown = sorted(folders, key=lambda one: -(one.share.value or 0))
    if len(shown) > _MOST_NAMED:
        shown = [most, least]
    said = ", ".join(
        f"{one.name} {count(one.n_repeated)} of {count(one.n_sequences)}" for one in shown
    )
    which = "" if len(shown) == len(folders) else f" (most and least of {len(folders)})"
    return f"Repeated by folder{which}: {said}."


def document_tables(folders: Sequence[Counted], documents: Sequence[Counted]) -> Iterator[Table]:
    """The counts as tables of the page; the first says how to read both."""
    for title, rows in (("By folder", folders), ("By document", documents)):
        if not rows:
            continue
        names, has_score = list(rows[0].classes), rows[0].score is not None
        made: list[tuple[Cell, ...]] = [
            (
                *(one.name, one.n_sequences, one.n_repeated),
                *(one.classes[name] for name in names),
                *(str(one.share), one.nearly, one.score)[: 3 if has_score else 1],
            )
            for one in sorted(rows, key=lambda one: (-one.n_repeated, -(one.score or 0)))
        ]
        by_score = ("nearly repeated", "mean score") if has_score else ()
        yield Table(
            title=title,
            columns=(
                title.split()[1],
                "sequences",
                "repeated",
                *names,
                "share repeated",
                *by_score,
            ),
            rows=made,
            summary="" if rows is documents and folders else _SUMMARY + _OF_SCORES * has_score,
            gist=f"repeated sequences of {len(rows)} {title.split()[1]}s",
            is_open=True,
            filters="document" if rows is documents else "",
        )
