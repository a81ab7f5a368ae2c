"""The section of the report that only levels of duplicates drawn at random allow: the dose."""

from collections.abc import Iterator

import polars as pl

from mnemoscope.analysis.figures import Chart, Series, plain, series_of
from mnemoscope.benchmark.levels import MEMORIZED, count_levels, levels_of, lost_by_level
from mnemoscope.pipeline.benchmark import LEVELS_FILE
from mnemoscope.pipeline.graft import SEQUENCES_FILE
from mnemoscope.pipeline.label import LABELS_FILE
from mnemoscope.report.tables import AnalysisSection, Table
from mnemoscope.stats import Estimate
from mnemoscope.study.folder import Study
from mnemoscope.words import UNKNOWN, count, interval, percent, points

_MOST_PARTS = 6


def level_section(study: Study) -> AnalysisSection | None:
    """Shares, figures and grafts by level; None where duplicates are no few set levels."""
    table = study.sequences
    levels = levels_of(table)
    if not levels or not (study.folder / LEVELS_FILE).is_file():
        return None
    shares = count_levels(table, study.read(LABELS_FILE), levels)
    figures = study.read(LEVELS_FILE)
    dose = shares.filter(pl.col("class") == MEMORIZED, pl.col("taxonomy").is_null())
    return AnalysisSection(
        name="levels of duplicates",
        title="How memory grows with the number of times a text was trained on",
        question="Levels are few and set, 0 among them: where they were drawn at random, texts of "
        "all levels are alike, and what differs between them is memory.",
        sentence=_sentence(dose, figures),
        further=(
            "A level is told from level 0 by how likely the reader holds Non-Memo, whatever the "
            "class. Within a level each training is asked which of the classes that occur there, "
            "in 10 passages or more, a sequence is of. Intervals are 95 %, over passages.",
            "Asked are the sequences drawn for the taxonomy, equally many of each class, so a "
            "level holds more memorized ones here than in the table; and Non-Memo is shown with "
            "the model's own continuation, unless label.non_memo_suffix is 'true'. The tokens "
            "alone may tell a level for both reasons: read the excess, not the AUC.",
        ),
        figures=tuple(_charts(dose, figures, levels)),
        tables=[
            _share_table(shares),
            *_figure_tables(figures),
            *_graft_table(study, table, levels),
        ],
    )


def _sentence(dose: pl.DataFrame, figures: pl.DataFrame) -> str:
    first, last = dose.row(0, named=True), dose.row(-1, named=True)
    said = (
        f"Memorized are {Estimate.of(first, 'share', ends='')} of the sequences that were never "
        f"trained on, and {Estimate.of(last, 'share', ends='')} of those trained on "
        f"{count(last['duplicates'])} times."
    )
    known = figures.drop_nulls("dose_excess")
    if known.is_empty():
        return f"{said} No level has an excess over level 0: too few passages, or no control."
    own = known.filter(taxonomy=known["taxonomy"][0])
    shown = "; ".join(
        f"{count(row['duplicates'])}: {points(row['dose_excess'])}"
        + (f" {_ends(row, 'dose_excess')}" if row["dose_excess_low"] is not None else "")
        for row in own.iter_rows(named=True)
    )
    return (
        f"{said} How much better attention tells a level from level 0 than the best control does, "
        f"by its probability of Non-Memo under “{own['taxonomy'][0]}”, in points of AUC: {shown}."
    )


def _ends(row: dict[str, float], name: str = "excess") -> str:
    return f"[{points(row[f'{name}_low'])}, {points(row[f'{name}_high'])}]"


def _charts(dose: pl.DataFrame, figures: pl.DataFrame, levels: list[int]) -> Iterator[Chart]:
    names = tuple(count(one) for one in levels)
    yield Chart(
        title="Memorized, per cent of the sequences of a level (95 %)",
        x_names=names,
        x_label="times trained on",
        percent=True,
        series=(series_of("memorized", dose, "share"),),
    )
    for name, title in (
        ("dose_excess", "A level told from level 0: excess, points of AUC (95 %)"),
        ("excess", "Classes told apart within a level: excess, points of min-F1 (95 %)"),
    ):
        known = figures.drop_nulls(name)
        if not known.is_empty():
            yield Chart(
                title=title,
                x_names=names,
                x_label="times trained on",
                percent=True,
                form="points",
                series=tuple(
                    Series(
                        name=str(taxonomy),
                        x=plain(levels.index(one) for one in rows["duplicates"]),
                        y=plain(rows[name]),
                        low=plain(rows[f"{name}_low"]),
                        high=plain(rows[f"{name}_high"]),
                    )
                    for (taxonomy,), rows in known.group_by("taxonomy", maintain_order=True)
                ),
            )


def _share_table(shares: pl.DataFrame) -> Table:
    rows = [
        (
            f"{count(row['duplicates'])}: {row['class']}"
            + (f" ({row['taxonomy']})" if row["taxonomy"] else ""),
            count(row["n"]),
            count(row["n_groups"]),
            str(Estimate.of(row, "share", ends="")),
        )
        for row in shares.iter_rows(named=True)
    ]
    return Table(
        title="memorized and classes by level",
        columns=("level and class", "of sequences", "passages", "share"),
        rows=rows,
    )


def _figure_tables(figures: pl.DataFrame) -> Iterator[Table]:
    """One table a taxonomy."""
    for (name,), own in figures.group_by("taxonomy", maintain_order=True):
        rows = []
        for row in own.iter_rows(named=True):
            auc = "; ".join(
                f"{pair} {percent(value)}"
                for pair, value in zip(row["auc_pairs"] or (), row["auc"] or (), strict=False)
            )
            excess = _ends(row) if row["excess_low"] is not None else ""
            dose = "" if row["dose_excess_low"] is None else _ends(row, "dose_excess")
            rows.append(
                (
                    count(row["duplicates"]),
                    str(Estimate.of(row, "dose_auc")) if row["dose_auc"] is not None else UNKNOWN,
                    f"{points(row['dose_excess'])} {dose}".strip(),
                    ", ".join(row["classes"] or ()) or UNKNOWN,
                    count(row["n_eval"]) if row["n_eval"] else UNKNOWN,
                    count(row["n_groups"]) if row["n_groups"] else UNKNOWN,
                    str(Estimate.of(row, "min_f1")) if row["min_f1"] is not None else UNKNOWN,
                    auc or UNKNOWN,
                    f"{points(row['excess'])} {excess}".strip(),
                    row["note"] or "",
                )
            )
        yield Table(
            title=f"figures of {name} by level",
            columns=(
                *("level", "AUC against level 0", "its excess, points", "classes within the level"),
                *("sequences", "passages", "min-F1", "AUC", "excess, points", "note"),
            ),
            rows=rows,
        )


def _graft_table(study: Study, table: pl.DataFrame, levels: list[int]) -> Iterator[Table]:
    """The parts of the twin that break most at any level."""
    if not study.is_done("graft"):
        return
    lost = lost_by_level(study.read(SEQUENCES_FILE), table, levels)
    if lost.is_empty():
        return
    most = lost.group_by("part").agg(pl.col("lost").max()).sort("lost", "part", descending=True)
    parts = most["part"].head(_MOST_PARTS).to_list()
    cells = {(row["part"], row["duplicates"]): row for row in lost.iter_rows(named=True)}
    shown = [one for one in levels if any((part, one) in cells for part in parts)]
    rows = []
    for part in parts:
        cell = [cells.get((part, level)) for level in shown]
        rows.append((part, *(_lost(one) for one in cell)))
    yield Table(
        title="what the twin's parts break, by level",
        columns=("part", *(f"{count(one)} times" for one in shown)),
        rows=rows,
        note=f": the {len(parts)} that break most, points beyond changes of equal norm",
    )


def _lost(row: dict[str, float] | None) -> str:
    if row is None:
        return UNKNOWN
    ends = interval((row["lost"], row["low"], row["high"])) if row["low"] is not None else ""
    return f"{points(row['lost'])} {ends or ''} (n {count(int(row['n']))})".replace("  ", " ")
