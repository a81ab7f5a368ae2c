"""Gather what the report says from the files of a study."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from mnemoscope.benchmark.published import published_table
from mnemoscope.config import EMBEDDED
from mnemoscope.report.content import (
    ClassFacts,
    CountRow,
    Counts,
    DeltaMaps,
    FragileLabels,
    ModelFacts,
    ReportContent,
    Table,
    TaxonomyResult,
)
from mnemoscope.report.examples import Example, decode_pieces
from mnemoscope.report.published import published_view
from mnemoscope.stages.compare import has_comparison, load_comparison
from mnemoscope.stages.labels import LABELS_FILE, samples_of
from mnemoscope.stages.localize import StoredDelta, load_deltas
from mnemoscope.stages.report_analyses import analysis_sections
from mnemoscope.stages.report_benchmarks import benchmarks_of
from mnemoscope.stages.report_knockout import knockout_of
from mnemoscope.stages.report_localize import localize_tables
from mnemoscope.stages.report_search import search_tables
from mnemoscope.stages.report_sharing import sharing_tables
from mnemoscope.study import Study, versions
from mnemoscope.taxonomy.catalogue import PAPER, PRASHANTH

__all__ = ["report_content", "taxonomy_results"]

EXAMPLES_A_CLASS = 3
GAP_TOLERANCE = 1e-3
_BANDS = ((0, 0), (1, 1), (2, 5), (6, 50), (51, 1000), (1001, None))
_EMBEDDED_NOTES = {
    "model": "Shipped with mnemoscope: 4.2 million parameters, trained on a known corpus.",
    "reference": "Shipped with mnemoscope: the same network before it saw any of the sequences.",
}
_TITLES = {PRASHANTH: "Prashanth et al.", PAPER: "Guess or Recall (the paper's)"}


def report_content(study: Study, tokenizer: Any) -> ReportContent:
    """All that the report shows.

    Args:
        study: with all stages before the report done.
        tokenizer: of the model, to show tokens as text.
    """
    table = study.sequences
    models = study.record["models"]
    return ReportContent(
        title=study.settings.title or f"{models['model']['name']}: guessed or recalled?",
        model=_model(models, "model"),
        reference=_model(models, "reference") if "reference" in models else None,
        counts=_counts(table),
        taxonomies=tuple(taxonomy_results(study, tokenizer)),
        length=study.settings.sequences.length,
        checks=(*_checks(table), *sharing_tables(study), *search_tables(study)),
        fragile=_fragile(study, table),
        warnings=tuple(_warnings(study)),
        settings=_settings(study),
        commands=_commands(study),
        published=(
            published_view(load_comparison(study), _TITLES) if has_comparison(study) else None
        ),
        analyses=tuple(analysis_sections(study)),
    )


def _model(models: dict[str, dict[str, Any]], role: str) -> ModelFacts:
    """The study's record of a model as the report wants it."""
    facts = models[role]
    names = ("name", "n_layers", "n_heads", "dtype", "fingerprint", "revision")
    shown = {name: facts[name] for name in names}
    if role == "reference" and facts["name"] == models["model"]["name"]:
        shown["name"] = f"{facts['name']} (reference)"
    note = _EMBEDDED_NOTES[role] if facts["name"] == EMBEDDED else ""
    return ModelFacts(**shown, note=note)


def _counts(table: pl.DataFrame) -> Counts:
    """Sequences and memorized sequences, by genre and by duplicates."""
    rows = table.select(
        "is_memorized",
        *[name for name in ("genre", "duplicates") if name in table.columns],
    )
    genres: tuple[CountRow, ...] = ()
    if "genre" in rows.columns:
        genres = tuple(_band(rows, pl.col("genre") == one, one) for one in _values(rows, "genre"))
    return Counts(
        n_sequences=rows.height,
        n_memorized=int(rows["is_memorized"].sum()),
        by_genre=genres,
        by_duplicates=tuple(_duplicate_bands(rows)),
    )


def _values(rows: pl.DataFrame, name: str) -> list[str]:
    """The distinct values of a column, sorted."""
    values: list[str] = rows[name].drop_nulls().unique().sort().to_list()
    return values


def _duplicate_bands(rows: pl.DataFrame) -> Iterator[CountRow]:
    """Counts by how often the suffix stands in the training text; empty bands left out."""
    if "duplicates" not in rows.columns:
        return
    for low, high in _BANDS:
        condition = pl.col("duplicates") >= low
        if high is not None:
            condition &= pl.col("duplicates") <= high
        name = f"{low}" if low == high else f"{low}–{high}" if high else f"over {low - 1}"
        band = _band(rows, condition, name)
        if band.n_sequences:
            yield band


def _band(rows: pl.DataFrame, condition: pl.Expr, name: str) -> CountRow:
    """How many rows meet a condition, and how many of them are memorized."""
    chosen = rows.filter(condition)
    return CountRow(name, chosen.height, int(chosen["is_memorized"].sum()))


def taxonomy_results(study: Study, tokenizer: Any | None = None) -> Iterator[TaxonomyResult]:
    """One result a taxonomy; repetitions on other samples are its further benchmarks.

    Args:
        study: with all stages before the report done.
        tokenizer: of the model, to show examples; None leaves them out.
    """
    table, labels = study.sequences, study.read(LABELS_FILE)
    deltas, reference = (list(load_deltas(study, one)) for one in ("model", "reference"))
    entries = samples_of(study)
    published = published_table()
    scores = dict(zip(published["tax_name"], published["min_f1"], strict=True))
    for name in dict.fromkeys(entry["taxonomy"] for entry in entries.values()):
        main = entries[name]
        classes = main.get("trained_classes", main["classes"])
        yield TaxonomyResult(
            name=name,
            title=_TITLES.get(name, ""),
            classes=tuple(_class_facts(main, classes)),
            impossible=main.get("impossible"),
            dropped=tuple((one, main["counts"].get(one, 0)) for one in main.get("dropped", [])),
            n_unlabelled=main["unlabelled"],
            split=study.settings.label.split,
            non_memo_suffix=study.settings.label.non_memo_suffix,
            benchmarks=tuple(benchmarks_of(study, name)),
            deltas=tuple(_delta_maps(one) for one in deltas if one.sample == name),
            published_min_f1=_published(scores, main["published_name"]),
            examples=tuple(_examples(table, labels[name], classes, tokenizer)) if tokenizer else (),
            warnings=tuple(main.get("warnings", [])),
            knockout=knockout_of(study, name),
            beside=tuple(_delta_maps(one) for one in reference if one.sample == name),
            delta_tables=tuple(localize_tables(study, name)),
        )


def _class_facts(entry: dict[str, Any], classes: list[str]) -> Iterator[ClassFacts]:
    """What each class means and how many sequences it has."""
    meanings = dict(zip(entry["classes"], entry["meanings"], strict=True))
    for name in classes:
        yield ClassFacts(
            name=name,
            meaning=meanings[name],
            n_sequences=entry["counts"].get(name, 0),
            n_train=entry.get("n_train"),
            n_eval=entry.get("n_eval"),
        )


def _published(scores: dict[str, float], name: str) -> float | None:
    """Min-F1 printed for Pythia, all models together; None where there is none."""
    value = scores.get(name)
    return None if value is None else value / 100


def _delta_maps(stored: StoredDelta) -> DeltaMaps:
    """Δ as the report wants it."""
    return DeltaMaps(
        attribution=stored.attribution,
        delta=stored.delta,
        n_used=stored.n_used,
        n_skipped=stored.n_skipped,
        n_wrong=stored.n_wrong,
    )


def _examples(
    table: pl.DataFrame, labels: pl.Series, classes: list[str], tokenizer: Any
) -> Iterator[Example]:
    """A few sequences of each class in a seeded shuffle, those with a continuation first."""
    rows = table.with_columns(labels.alias("class"))
    for name in classes:
        chosen = rows.filter(pl.col("class") == name)
        shuffled = chosen.sample(fraction=1, seed=0, shuffle=True)
        decoded_first = shuffled.sort(pl.col("continuation").is_null(), maintain_order=True)
        for row in decoded_first.head(EXAMPLES_A_CLASS).iter_rows(named=True):
            yield _example(row, name, tokenizer)


def _example(row: dict[str, Any], class_name: str, tokenizer: Any) -> Example:
    """One sequence as text."""
    tokens = row["tokens"]
    half = len(tokens) // 2
    written = row["continuation"] or (tokens[half:] if row["is_memorized"] else [])

    def decode(ids: list[int]) -> str:
        text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text

    words = {"is_incrementing": "incrementing", "is_repeating": "repeating", "is_code": "code"}
    words |= {"held_out": "held out"}
    return Example(
        class_name=class_name,
        prefix=decode(tokens[:half]),
        suffix=decode_pieces(decode, tokens[half:]),
        continuation=decode_pieces(decode, written),
        differs=tuple(a != b for a, b in zip(written, tokens[half:], strict=False)),
        sequence_id=row["sequence_id"],
        genre=row.get("genre") or "",
        document=row.get("document") or "",
        duplicates=row.get("duplicates"),
        memorization_score=row["memorization_score"],
        rouge_l=row["rouge_l"],
        rouge_3=row["rouge_3"],
        flags=tuple(word for column, word in words.items() if row.get(column)),
    )


def _checks(table: pl.DataFrame) -> Iterator[Table]:
    """Ground truth of the embedded model: counted duplicates against what was inserted."""
    if "inserted" not in table.columns or "held_out" not in table.columns:
        return
    counted = pl.col("duplicates")
    groups = (
        ("held out, never trained on", pl.col("held_out")),
        ("inserted 1–5 times", ~pl.col("held_out") & (pl.col("inserted") <= 5)),
        ("inserted over 5 times", pl.col("inserted") > 5),
    )
    rows = []
    for name, condition in groups:
        part = table.filter(condition)
        if part.is_empty():
            continue
        equal = part.filter(counted == pl.col("inserted")).height
        recite = part.filter(counted > 5).height
        rows.append((name, part.height, equal, recite, float(part["is_memorized"].mean())))  # type: ignore[arg-type]
    n_other = table.filter(counted != pl.col("inserted")).height
    yield Table(
        title="Labels against the truth",
        columns=("sequences", "number", "counted = inserted", "labelled over 5", "memorized"),
        rows=tuple(rows),
        summary=(
            "Duplicates are counted in the finished corpus, not taken from the recipe. "
            f"{n_other:,} of {table.height:,} sequences were counted another number of times than "
            "they were inserted (their suffix also stands elsewhere)."
        ),
    )


def _fragile(study: Study, table: pl.DataFrame) -> FragileLabels | None:
    """Labels that rounding could flip, and whether scan and decoding agree on them."""
    if "smallest_gap" not in table.columns:
        return None
    n_fragile = table.filter(pl.col("smallest_gap") < GAP_TOLERANCE).height
    check = (study.manifest("continue") or {"counts": {}})["counts"].get("scan_check", {})
    return FragileLabels(
        n_fragile,
        table.height,
        GAP_TOLERANCE,
        n_checked=check.get("checked", 0),
        n_disagree=check.get("disagree", 0),
        disagree_gap=check.get("largest_gap_of_these"),
    )


def _warnings(study: Study) -> Iterator[str]:
    """What the reader must know about the whole study."""
    if not study.settings.benchmark.controls:
        yield "Made without controls: a min-F1 alone does not tell memory from text."
    elif "reference" not in study.record["models"]:
        yield (
            "No reference model was given (--reference): only the blind baseline stands beside the "
            "model, and attention that shows the text may pass for memory."
        )
    skipped = (study.manifest("sequences") or {"counts": {}})["counts"].get("too_short", 0)
    if skipped:
        yield f"{skipped:,} texts shorter than one sequence were skipped."


def _settings(study: Study) -> dict[str, Any]:
    """Configuration, models and versions, to stand at the end."""
    values = study.settings.as_dict()
    values.pop("title")
    return values | {"models": study.record["models"], "versions": versions()}


def _commands(study: Study) -> tuple[str, ...]:
    """Shell lines that make the study again."""
    name = study.folder.name
    return (f"mnemoscope run {name}/study.yaml -o {name}-again", f"mnemoscope describe {name}")
