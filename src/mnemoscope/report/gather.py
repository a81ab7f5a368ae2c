"""Stage `report`: one self-contained page from all that the study holds."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.benchmark.published import published_table
from mnemoscope.benchmark.sources import CONTROLS
from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.presets import PRESETS
from mnemoscope.errors import UserError
from mnemoscope.pipeline.benchmark import (
    BENCHMARK_FILE,
    INPUTS_FILE,
    has_comparison,
    load_comparison,
)
from mnemoscope.pipeline.knockout import KNOCKOUT_FILE, SPECIFICITY_FILE, statements
from mnemoscope.pipeline.label import LABELS_FILE, samples_of
from mnemoscope.pipeline.localize import StoredDelta, load_deltas
from mnemoscope.pipeline.train import PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.report.analysis import analysis_sections
from mnemoscope.report.content import (
    Benchmark,
    BenchmarkRow,
    ClassFacts,
    CnnFacts,
    CnnRun,
    CopyRow,
    CountRow,
    Counts,
    DeltaMaps,
    Example,
    Excess,
    FragileLabels,
    InputRow,
    KnockoutCurve,
    KnockoutPanel,
    KnockoutPoint,
    KnockoutView,
    MatchedScores,
    ModelFacts,
    ReportContent,
    SpecificityRow,
    Table,
    TaxonomyResult,
    decode_pieces,
)
from mnemoscope.report.page import write_report
from mnemoscope.report.published import published_view
from mnemoscope.report.tables import localize_tables, search_tables, sharing_tables
from mnemoscope.stats import NO_ESTIMATE, Estimate
from mnemoscope.study.folder import Study, versions
from mnemoscope.study.models import Models
from mnemoscope.study.settings import EMBEDDED
from mnemoscope.taxonomy.catalogue import PAPER, PRASHANTH
from mnemoscope.words import percent

# The benchmark of one taxonomy as the report wants it: each sample with its rows and runs.


def benchmarks_of(study: Study, taxonomy: str) -> Iterator[Benchmark]:
    """Every sample of a taxonomy: as drawn first, then the repetitions.

    Args:
        study: with the benchmark stage done.
        taxonomy: its name.
    """
    table = study.read(BENCHMARK_FILE)
    for sample, entry in samples_of(study).items():
        if entry["taxonomy"] != taxonomy:
            continue
        if "impossible" in entry:
            if sample != taxonomy:  # an impossible taxonomy says so itself
                yield Benchmark(
                    title=entry["title"], note=entry["note"], impossible=entry["impossible"]
                )
            continue
        rows = table.filter(pl.col("taxonomy") == sample).to_dicts()
        yield _benchmark(study, sample, entry, rows)


def _benchmark(
    study: Study, sample: str, entry: dict[str, Any], rows: list[dict[str, Any]]
) -> Benchmark:
    """One sample's rows, excess, matched figures and trainings."""
    model = next((row for row in rows if row["source"] == "model"), None)
    runs = study.read(RUNS_FILE).filter(pl.col("taxonomy") == sample)
    seconds = _seconds(study, runs)
    n_classes = len(entry["trained_classes"])
    confusion = model["confusion"] if model else None
    return Benchmark(
        title=entry["title"],
        note=entry["note"],
        rows=tuple(_row(row, seconds.get(row["source"]), n_classes) for row in rows),
        excess=_excess(model),
        matched=_matched(model, n_classes),
        confusion=None if confusion is None else np.array(confusion, dtype=np.int64),
        cnn=_cnn(study, sample, runs, n_classes),
        pairs=tuple(model["auc_pairs"]) if model else (),
        inputs=tuple(_inputs(study, sample, n_classes)),
        over_statistics=_over_statistics(model),
    )


def _inputs(study: Study, sample: str, n_classes: int) -> Iterator[InputRow]:
    """Each input of the CNNs, beside the best without memory."""
    table = study.read(INPUTS_FILE).filter(pl.col("taxonomy") == sample)
    for name in table["input"].unique(maintain_order=True):
        rows = table.filter(pl.col("input") == name)
        model = rows.filter(pl.col("source") == "model").row(0, named=True)
        free = rows.filter(pl.col("source").is_in(list(CONTROLS))).drop_nulls("min_f1")
        best = free.sort("min_f1").tail(1).to_dicts()
        yield InputRow(
            name=name,
            model=_row(model, None, n_classes),
            best=Estimate(best[0]["min_f1"], best[0]["low"], best[0]["high"])
            if best
            else NO_ESTIMATE,
            excess=_excess(model),
        )


def _row(row: dict[str, Any], seconds: float | None, n_classes: int) -> BenchmarkRow:
    """One source's figures."""
    return BenchmarkRow(
        source=row["source"],
        min_f1=Estimate(row["min_f1"], row["low"], row["high"]),
        f1=_estimates(row, "f1", n_classes),
        precision=_estimates(row, "precision", n_classes),
        recall=_estimates(row, "recall", n_classes),
        n_eval=row["n_eval"] or 0,
        n_runs=row["n_runs"],
        did_train=row["did_train"],
        training_min_f1=row["training_min_f1"],
        seconds=seconds,
        mean_f1=_estimate(row, "mean_f1", "mean_f1"),
        auc=_estimates(row, "auc", 0),
    )


def _estimates(row: dict[str, Any], name: str, n_lacking: int) -> tuple[Estimate, ...]:
    """A figure of every class (or pair) with its interval; so many dashes where there is none."""
    if row[name] is None:
        return (NO_ESTIMATE,) * n_lacking
    lists = zip(row[name], row[f"{name}_low"], row[f"{name}_high"], strict=True)
    return tuple(Estimate(*values) for values in lists)


def _over_statistics(model: dict[str, Any] | None) -> Estimate:
    """How far the CNNs are above the regression; no figure in a table of before there was one."""
    if model is None or "over_statistics" not in model:
        return NO_ESTIMATE
    return _estimate(model, "over_statistics", "over_statistics")


def _excess(model: dict[str, Any] | None) -> Excess | None:
    """Excess and verdict of the model's row."""
    if model is None or model["verdict"] is None:
        return None
    estimate = Estimate(model["excess"], model["excess_low"], model["excess_high"])
    return Excess(
        estimate=estimate,
        verdict=model["verdict"],
        kind=model["verdict_kind"],
        auc=_estimates(model, "auc_excess", 0),
        note=_like_with_like(model),
    )


def _like_with_like(model: dict[str, Any]) -> str:
    """Say which trainings the excess counts where the controls had fewer settings."""
    if model["excess_min_f1"] is None or model["excess_min_f1"] == model["min_f1"]:
        return ""
    return (
        f"The excess counts the model’s trainings with {', '.join(model['excess_settings'])} alone "
        f"(min-F1 {percent(model['excess_min_f1'])}), the CNN settings that the controls had too."
    )


def _matched(model: dict[str, Any] | None, n_classes: int) -> MatchedScores | None:
    """Figures on the sequences that look alike to the blind baseline."""
    if model is None or model["matched_by"] is None:
        return None
    is_measured = model["matched_min_f1"] is not None
    per_class = (model["matched_n_per_class"] or 0) if is_measured else 0
    note = _matched_note(model, per_class)
    return MatchedScores(
        min_f1=_estimate(model, "matched_min_f1", "matched"),
        f1=_estimates(model, "matched_f1", n_classes),
        blind_min_f1=_estimate(model, "matched_blind_min_f1", "matched_blind"),
        n_eval=per_class * n_classes,
        note=note,
    )


def _matched_note(model: dict[str, Any], per_class: int) -> str:
    """Balance before and after, or why there is no figure."""
    before, after = model["difference_before"], model["difference_after"]
    # Infinite where a score separates two classes wholly.
    shown = f"{before:.2f}" if np.isfinite(before) else "without bound"
    balance = f"largest standardized difference of the blind scores between classes: {shown} before"
    if model["matched_note"]:
        found = "" if after is None else f", {after:.2f} after"
        return f"{_capital(model['matched_note'])} ({balance} matching{found})."
    left = f"{per_class:,} sequences a class are left"
    return f"{_capital(balance)} matching, {after:.2f} after; {left}."


def _capital(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]


def _estimate(row: dict[str, Any], name: str, stem: str) -> Estimate:
    """A figure and its interval."""
    return Estimate(row[name], row[f"{stem}_low"], row[f"{stem}_high"])


def _seconds(study: Study, runs: pl.DataFrame) -> dict[str, float]:
    """Seconds of training by source."""
    total: dict[str, float] = {}
    for source, key in runs.select("source", "key").iter_rows():
        total[source] = total.get(source, 0.0) + _seconds_of(study, key)
    return total


def _seconds_of(study: Study, key: str) -> float:
    """Seconds of one training."""
    path: Path = study.folder / "cnn" / f"{key}.outcome.seconds"
    return float(path.read_text()) if path.is_file() else 0.0


def _cnn(study: Study, sample: str, runs: pl.DataFrame, n_classes: int) -> CnnFacts:
    """Every CNN on the model's attention: training F1 beside evaluation F1."""
    predictions = study.read(PREDICTIONS_FILE).filter(
        (pl.col("taxonomy") == sample) & (pl.col("source") == "model")
    )
    found = []
    for run in runs.filter(pl.col("source") == "model").iter_rows(named=True):
        kernel, filters, pooling = run["setting"].split("-")
        own = predictions.filter(
            (pl.col("setting") == run["setting"]) & (pl.col("seed") == run["seed"])
        )
        confusion = confusion_matrix(own["true"].to_numpy(), own["predicted"].to_numpy(), n_classes)
        found.append(
            CnnRun(
                kernel=int(kernel[1:]),
                filters=int(filters[1:]),
                pooling=pooling,
                seed=run["seed"],
                training_min_f1=run["train_min_f1"] if run["did_train"] else None,
                eval_min_f1=min_f1(confusion) if run["did_train"] else None,
                did_train=run["did_train"],
                seconds=_seconds_of(study, run["key"]),
            )
        )
    preset = study.settings.train.preset
    return CnnFacts(preset=preset, settings=_preset_facts(preset), runs=tuple(found))


def _preset_facts(preset: str) -> dict[str, Any]:
    """What a preset means, each name and value to be read one after the other."""
    facts = asdict(PRESETS[preset])
    every = facts.pop("scores_every_epoch")
    return facts | {"evaluated": "after every epoch, summed" if every else "after the last epoch"}


# The knockout of one taxonomy as the report wants it, where the study has one.

_WORDS = {
    "random": "random edges",
    "equal mass": "random edges, mass as most decisive for {}",
    "same layers": "random edges, layers as most decisive for {}",
    "highest mass": "highest attention mass in {}",
    "decisive": "most decisive for {}",
}
_SPOKEN_OF = 1.0  # per cent of edges: fixed beforehand, not the strength that looks best


def knockout_of(study: Study, taxonomy: str) -> KnockoutView | None:
    """What cutting edges did to the classes of a taxonomy.

    Args:
        study: of any state.
        taxonomy: its name.

    Returns:
        None where the stage was not run (with the present settings), or not for this taxonomy.
    """
    if not study.is_done("knockout"):
        return None
    rows = study.read(KNOCKOUT_FILE).filter(pl.col("sample") == taxonomy)
    if rows.is_empty():
        return None
    indices = study.read(SPECIFICITY_FILE).filter(pl.col("sample") == taxonomy).to_dicts()
    strengths = tuple(sorted({one for one in rows["strength"].to_list() if one}))
    spoken = min(strengths, key=lambda one: abs(math.log(one / _SPOKEN_OF)))
    said = [(row["strength"] == spoken, line) for row, line in _said(indices)]
    return KnockoutView(
        panels=tuple(_panels(rows)),
        strengths=strengths,
        indices=tuple(map(_specificity, indices)),
        copies=tuple(_copies(rows)),
        statements=tuple(line for is_main, line in said if is_main),
        further=tuple(line for is_main, line in said if not is_main),
        attribution=study.settings.knockout.attribution,
        renormalize=study.settings.knockout.renormalize,
    )


def _said(indices: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each row of the specificity table with its sentence; the page names the taxonomy itself."""
    for row in indices:
        (line,) = statements([row])
        without = line.removeprefix(f"{row['sample']}: ")
        yield row, without[:1].upper() + without[1:]


def _panels(rows: pl.DataFrame) -> Iterator[KnockoutPanel]:
    """One panel a tried class."""
    for name in rows["class"].unique(maintain_order=True):
        tried = rows.filter((pl.col("class") == name) & pl.col("choice").is_in(list(_WORDS)))
        curves: list[KnockoutCurve] = []
        others: list[KnockoutCurve] = []
        for choice in ("decisive", *(one for one in _WORDS if one != "decisive")):
            for edges_of in tried.filter(choice=choice)["edges_of"].unique(maintain_order=True):
                points = tried.filter(choice=choice, edges_of=edges_of).sort("strength")
                words = _WORDS[choice].format(edges_of)
                curve = KnockoutCurve(
                    choice, edges_of, words, tuple(map(_point, points.to_dicts()))
                )
                is_drawn = choice == "decisive" or edges_of in ("", name)
                (curves if is_drawn else others).append(curve)
        yield KnockoutPanel(name, tried["n"][0], tuple(curves), tuple(others))


def _point(row: dict[str, Any]) -> KnockoutPoint:
    names = ("strength", "n_edges", "mass", "score", "logprob", "draws")
    return KnockoutPoint(survival=_survival(row), **{name: row[name] for name in names})


def _survival(row: dict[str, Any]) -> Estimate:
    return Estimate(row["survival"], row["low"], row["high"])


def _specificity(row: dict[str, Any]) -> SpecificityRow:
    return SpecificityRow(
        class_name=row["class"],
        strength=row["strength"],
        broken_own=row["broken_own"],
        broken_equal_mass=row["broken_own_equal_mass"],
        broken_others=tuple(json.loads(row["broken_others"]).items()),
        index=Estimate(row["specificity"], row["low"], row["high"]),
    )


def _copies(rows: pl.DataFrame) -> Iterator[CopyRow]:
    """Copy edges beside their controls, a row a class."""
    random, equal = (
        {row["class"]: row for row in rows.filter(choice=f"copy, {control}").to_dicts()}
        for control in ("random", "equal mass")
    )
    for row in rows.filter(choice="copy").to_dicts():
        name = row["class"]
        if name not in equal:
            raise UserError(
                f"knockout.parquet: the copy edges of '{name}' lack their control of equal mass, "
                "which an earlier version did not measure. Make it anew: knockout --redo."
            )
        yield CopyRow(
            class_name=name,
            n_edges=row["n_edges"],
            mass=row["mass"],
            survival=_survival(row),
            random=_survival(random[name]),
            random_mass=random[name]["mass"],
            equal=_survival(equal[name]),
            equal_mass=equal[name]["mass"],
        )


# Gather what the report says from the files of a study.

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


# Stage `report`: one self-contained page from all that the study holds.

REPORT_FILE = "report.html"


def report_stage(study: Study, models: Models) -> None:
    """Write `report.html`; it opens offline and holds no outside address."""
    study.require("benchmark")
    study.require("localize")
    with study.finishing("report") as counts:
        content = report_content(study, models.tokenizer())
        counts["bytes"] = write_report(study.folder / REPORT_FILE, content)
