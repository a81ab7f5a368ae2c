"""What page, app and notebook say: rows of a study's tables, each figure beside its interval.

Shares are fractions; None means "not measured" and is shown as a dash.
"""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mnemoscope.benchmark.published import (
    PUBLISHED_GUESSED,
    allocate,
    guessed_share,
    has_columns,
    label_twice,
    published_profile,
    published_table,
)
from mnemoscope.benchmark.sources import (
    ATTENTION,
    CHECKS,
    MEMORY_FREE,
    TABLE,
    headline_of,
    of_reader,
)
from mnemoscope.benchmark.table import RUN_KEY
from mnemoscope.benchmark.verdict import brief_of, did_worse
from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.presets import PRESETS
from mnemoscope.data.table import OWN_VERDICT, PUBLISHED_VERDICT
from mnemoscope.pipeline.benchmark import INPUTS_FILE, load_comparison
from mnemoscope.pipeline.causes import (
    KNOCKOUT_FILE,
    SPECIFICITY_FILE,
    CutVerdict,
    OwnCut,
    cut_verdict,
    of_json,
    own_cuts,
    own_statements,
    ranking_words,
    spoken_strength,
    statements,
)
from mnemoscope.pipeline.deltas import StoredDelta, load_deltas
from mnemoscope.pipeline.label import LABELS_FILE, in_shown_order, samples_of
from mnemoscope.pipeline.reference import AlsoRepeated, also_repeated, control_words, is_swapped
from mnemoscope.pipeline.trainings import PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.report import tables
from mnemoscope.report.advice import (
    Deciding,
    Step,
    audit_of,
    audit_sentence,
    deciding,
    missing_of,
    next_steps,
)
from mnemoscope.report.charts import CutCurve, CutPanel, Drawing, Flow, profile_drawing, sankey_view
from mnemoscope.report.documents import (
    Counted,
    block_sentence,
    by_document,
    document_sentence,
    document_tables,
    folder_sentence,
    is_planted,
    nearly_sentence,
)
from mnemoscope.report.grafts import graft_of
from mnemoscope.report.published import published_view
from mnemoscope.report.sequences import BrowsedSequences, Division, browsed
from mnemoscope.stats import NO_ESTIMATE, Estimate, rows_of
from mnemoscope.store import Facts, Store
from mnemoscope.study.folder import Study, versions
from mnemoscope.study.records import Model
from mnemoscope.study.settings import EMBEDDED, NO_MODEL
from mnemoscope.taxonomy import PAPER, PRASHANTH, SHIPPED
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.names import NON_MEMO, memorized_first
from mnemoscope.taxonomy.sample import SampleKey
from mnemoscope.words import percent, plural

SOURCE_GROUPS = (
    ("The model's attention", ATTENTION),
    ("Without any memory", MEMORY_FREE),
    ("Checks", CHECKS),
)
"""The order of every chart."""
TITLES = {
    PRASHANTH: "Prashanth et al.",
    SHIPPED: "Prashanth et al. with more duplicates",
    PAPER: "Guess or Recall (the paper's)",
}
FLOWS = "From Recite, Reconstruct and Recollect to Guess and Recall"
EXAMPLES_A_CLASS = 3
GAP_TOLERANCE = 1e-3
"""Difference of the two best logits below which a label is fragile."""

_BANDS = ((0, 0), (1, 1), (2, 5), (6, 50), (51, 1000), (1001, None))
_EMBEDDED_NOTES = {
    "model": "Shipped with mnemoscope: 4.2 million parameters, trained on a known corpus.",
    "reference": "Shipped with mnemoscope: as the model, but trained on other sequences.",
}
_FLAGS = {
    "is_incrementing": "incrementing",
    "is_repeating": "repeating",
    "is_code": "code",
    "held_out": "held out",
}
_CUTS = {
    "decisive": "most decisive for {}",
    "random": "random edges",
    "equal mass": "random edges, mass as most decisive for {}",
    "same layers": "random edges, layers as most decisive for {}",
    "highest mass": "highest attention mass in {}",
}


class Standing(Enum):
    """Where min-F1 on the model's attention stands beside what is reached without memory."""

    BEYOND = "Beyond the text"
    WITHIN = "Too little beyond the text"
    WORSE = "Worse than the text"
    UNDECIDED = "Undecided"
    UNTRAINED = "Did not train"
    UNCONTROLLED = "Cannot be said"
    IMPOSSIBLE = "Too few of a class"
    UNRUN = "Not trained"


_OF_KIND = {
    "adds": Standing.BEYOND,
    "nothing": Standing.WITHIN,
    "unclear": Standing.UNDECIDED,
    "cannot": Standing.UNCONTROLLED,
}


class Best(NamedTuple):
    """The best figure without memory and the source that reaches it."""

    source: str
    value: float


@dataclass(frozen=True)
class Benchmark:
    """One taxonomy measured on one choice of sequences; `rows` are benchmark rows by source."""

    title: str  # which sequences: "all sequences", "same genres in every class"
    note: str = ""  # what is special about them
    impossible: str | None = None  # why it could not be measured
    rows: Mapping[str, Facts] = field(default_factory=dict)
    runs: Sequence[Facts] = ()  # of the model's CNNs, with `eval_min_f1` and `seconds`
    inputs: Sequence[Facts] = ()  # the model's row for each, with the `best` without memory
    preset: str = ""  # of the CNNs, and its grid in words
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the preset means

    @property
    def model(self) -> Facts | None:
        """The row of the CNNs on the model's attention."""
        return self.rows.get("model")

    @property
    def headline(self) -> Facts | None:
        """The row of the reader chosen within the training rows; the CNNs' where none was."""
        return self.rows.get(headline_of(self.rows))

    @property
    def gain(self) -> Estimate | None:
        """What the headline adds to the text beyond the reference; None where not measured."""
        gain: Estimate | None = (self.headline or {}).get("gain")
        return None if gain is None or gain.value is None else gain

    @property
    def groups(self) -> list[tuple[str, list[Facts]]]:
        """Titles and rows in the order of every chart, groups without rows left out."""
        found = [
            (title, [self.rows[one] for one in sources if one in self.rows])
            for title, sources in SOURCE_GROUPS
        ]
        return [(title, rows) for title, rows in found if rows]

    @property
    def verdict(self) -> str | None:
        """What the excess of the headline is worth, a sentence; None without one."""
        return self.headline["verdict"] if self.headline else None

    @property
    def excess(self) -> Estimate | None:
        """The headline's min-F1 minus the best without memory; None without verdict."""
        return self.headline["excess"] if self.headline and self.verdict is not None else None

    @property
    def best(self) -> Best | None:
        """The best source without memory, None where none was measured."""
        free = {one: self.rows[one]["min_f1"].value for one in self._free}
        found = [Best(one, value) for one, value in free.items() if value is not None]
        return max(found, key=lambda best: best.value, default=None)

    @property
    def _free(self) -> list[str]:
        """What the headline is held against: of the same reader, without memory."""
        reader = self.headline["source"] if self.headline else "model"
        return [one for one in of_reader(MEMORY_FREE, reader) if one in self.rows]

    def best_of_class(self, index: int) -> float | None:
        """The best F1 of one class among the sources without memory."""
        rows = [self.rows[one]["f1"] for one in self._free]
        values = [f1[index].value for f1 in rows if f1]
        return max((value for value in values if value is not None), default=None)

    @property
    def standing(self) -> Standing:
        """Judged by the kind of the verdict."""
        if self.impossible:
            return Standing.IMPOSSIBLE
        row = self.headline
        if row is None or not row["did_train"] or row["min_f1"].value is None:
            return Standing.UNTRAINED
        if self.excess is None or self.excess.value is None:
            return Standing.UNCONTROLLED
        kind = row["verdict_kind"]
        is_worse = kind != "adds" and did_worse(self.gain, self.excess)
        return Standing.WORSE if is_worse else _OF_KIND[kind]

    @property
    def brief(self) -> str:
        """The standing in a few words: the first of the verdict, where it has one."""
        has_words = self.standing not in (Standing.IMPOSSIBLE, Standing.UNTRAINED)
        return brief_of(self.verdict) if has_words and self.verdict else self.standing.value


@dataclass(frozen=True)
class Knockout:
    """What cutting edges did to the classes of a taxonomy."""

    panels: Sequence[CutPanel]  # one a tried class
    strengths: Sequence[float]  # in per cent of all edges
    spoken: float  # the strength that the sentences speak of, nearest to 1 %
    indices: Sequence[Facts] = ()  # of specificity
    copies: Sequence[Facts] = ()  # a row a class beside its controls
    verdicts: Mapping[str, CutVerdict] = field(default_factory=dict)  # of each class
    statements: Sequence[str] = ()  # at the strength that is spoken of
    further: Sequence[str] = ()  # at the others
    own: Sequence[str] = ()  # of each sequence's own edges
    own_cuts: Sequence[OwnCut] = ()  # the same as figures
    ranking: str = ""  # in words
    attribution: str = ""
    renormalize: bool = False


@dataclass(frozen=True)
class TaxonomyResult:
    """All that is known of one taxonomy."""

    name: str  # "Non-Memo, Guess, Recall"
    classes: Sequence[Facts]  # each with `name`, `meaning`, `n_sequences`, `n_train`, `n_eval`
    title: str = ""  # a friendlier name ("Prashanth et al.")
    impossible: str | None = None  # why it could not be trained
    dropped: Sequence[tuple[str, int]] = ()  # classes of too few sequences, and how many
    order: Sequence[str] = ()  # of its classes, also of those left out; as given where empty
    n_unlabelled: int = 0  # sequences without a class because a needed feature is unknown
    split: str = "group"  # or "row", "folds"
    non_memo_suffix: str = "own"  # or "true": what Non-Memo sequences were shown with
    benchmarks: Sequence[Benchmark] = ()  # the main one, then repetitions (same genre, ...)
    deltas: Sequence[StoredDelta] = ()  # one for each attribution
    published_min_f1: float | None = None  # printed for Pythia in the paper, a fraction
    examples: Sequence[Facts] = ()
    warnings: Sequence[str] = ()
    graft: Facts | None = None  # as `graft_of` gives it
    knockout: Knockout | None = None
    beside: Sequence[StoredDelta] = ()  # Δ from the reference model's attention
    delta_tables: Sequence[tables.Table] = ()  # regions, stability, sanity
    published_profile: Drawing | None = None  # the layer profile that the paper draws

    @property
    def label(self) -> str:
        """What the page calls it; where classes were left out, those that were compared."""
        if self.dropped and not self.impossible:
            named = memorized_first(one["name"] for one in self.classes)
            left = ", ".join(name for name, _ in self.dropped)
            return f"{' against '.join(named)} ({left} left out)"
        return self.title or self.name

    @property
    def sizes(self) -> dict[str, int]:
        """Sequences of each class, also of those left out, in the order of `memorized_first`."""
        found = {one["name"]: one["n_sequences"] for one in self.classes} | dict(self.dropped)
        return {one: found[one] for one in memorized_first(self.order or found) if one in found}

    @property
    def main(self) -> Benchmark | None:
        """The benchmark that the headline speaks of, None for a taxonomy without one."""
        return self.benchmarks[0] if self.benchmarks else None

    @property
    def standing(self) -> Standing:
        """That of the main benchmark."""
        if self.impossible:
            return Standing.IMPOSSIBLE
        return self.main.standing if self.main else Standing.UNRUN

    @property
    def brief(self) -> str:
        """The standing in a few words."""
        return self.main.brief if self.main and not self.impossible else self.standing.value


@dataclass(frozen=True)
class ReportContent:
    """A whole report.

    `counts` are `n_sequences`, `n_memorized`, and rows of these `by_genre` and `by_duplicates`.
    """

    title: str
    model: Facts | None  # the study's record of it, with a `note`; None where none was asked
    counts: Facts
    taxonomies: Sequence[TaxonomyResult] = ()
    reference: Facts | None = None
    length: int = 64  # tokens of a sequence
    prefix: int = 32  # of these, that the model was shown
    checks: Sequence[tables.Table] = ()  # such as the ground truth of the embedded model
    fragile: Facts | None = None  # labels that rounding could flip
    confirmed: int | None = None  # published labels that are the model's own verdict, if they count
    warnings: Sequence[str] = ()  # about the whole study
    settings: Mapping[str, Any] = field(default_factory=dict)  # nested, versions among them
    commands: Sequence[str] = ()  # shell lines that make this report again
    place: Path = Path()  # of the study, as commands name it
    next_steps: Sequence[Step] = ()
    deciding: Sequence[Deciding] = ()  # what would answer the questions that are left open
    published: Facts | None = None  # as `published_view` gives it
    analyses: Sequence[tables.AnalysisSection] = ()
    levels: tables.AnalysisSection | None = None  # where duplicates are few set levels
    allocation: Facts | None = None  # as `allocation_of` gives it
    browser: BrowsedSequences | None = None  # None without a tokenizer
    missing: str | None = None  # why there are no figures of CNNs
    control: str = ""  # what the reference repeats too, or that none was asked
    folders: str = ""  # that folders differ in what is repeated of them
    documents: str = ""  # which documents the repeated sequences come from
    blocks: str = ""  # that they fall on every nth window, as where texts were read in blocks
    nearly: str = ""  # how many come out nearly, where few come out word for word
    beside: str = ""  # how an audit of the same texts counts
    audit: str = ""  # its report, from the study's folder, where it has been made
    also: AlsoRepeated | None = None  # what the reference repeats too


def report_content(study: Study, tokenizer: Any | None) -> ReportContent:
    """All that the report shows of a study; without a tokenizer there are no examples."""
    table, models, name = study.sequences, study.record["models"], study.folder.name
    if study.settings.model.name == NO_MODEL:
        table = table.with_columns(pl.col(PUBLISHED_VERDICT).alias("is_memorized"))
    missing = missing_of(study)
    is_trained = missing is None
    # A whole study is sent to others; what is missing is made here.
    place = Path(name) if is_trained else study.folder
    anew = study.folder.resolve().with_name(f"{name}-again")
    if is_trained or study.folder.name not in ("", ".."):
        anew = place.with_name(anew.name)
    settings = study.settings.as_dict()
    settings.pop("title")
    further = ("graft", "report") if study.is_done("graft") else ()
    taxonomies = (
        list(taxonomy_results(study, tokenizer, is_trained=is_trained))
        if is_trained or study.is_done("label")
        else []
    )
    folders, documents = _by_document(study, table, taxonomies)
    return ReportContent(
        title=study.settings.title or study.settings.model.name,
        model=model_facts(models, "model") if "model" in models else None,
        reference=model_facts(models, "reference") if "reference" in models else None,
        counts=_counts(table),
        taxonomies=taxonomies,
        length=study.settings.sequences.length,
        prefix=study.settings.sequences.n_prefix,
        checks=[
            *tables.graft_tables(study),
            *document_tables(folders, documents),
            *tables.truth_tables(table),
            *tables.sharing_tables(study),
            *tables.search_tables(study),
        ],
        fragile=_fragile(study, table),
        confirmed=_confirmed(table),
        warnings=list(_warnings(study)),
        settings=settings | {"models": models, "versions": versions()},
        commands=(
            shlex.join(["mnemoscope", "run", str(place / "study.yaml"), "-o", str(anew)]),
            *(shlex.join(["mnemoscope", verb, str(anew)]) for verb in further),
            shlex.join(["mnemoscope", "status", str(place)]),
        ),
        place=place,
        next_steps=list(next_steps(study, Path(name) if is_trained else None)),
        deciding=list(deciding(study, place)),
        published=published_view(load_comparison(study), TITLES) if is_trained else None,
        analyses=list(tables.analysis_sections(study)),
        levels=tables.level_section(study) if is_trained else None,
        allocation=allocation_of(table),
        browser=_browser(study, table, taxonomies, tokenizer) if tokenizer else None,
        missing=missing,
        control=control_words(study, Path(name) if is_trained else None),
        folders="" if is_planted(table) else folder_sentence(folders),
        documents=document_sentence(table),
        blocks=block_sentence(table, study.settings.sequences.length),
        nearly=nearly_sentence(table),
        beside=audit_sentence(study),
        audit=f"../{made.name}/report.html" if (made := audit_of(study)) else "",
        also=None if is_swapped(study) else also_repeated(study),
    )


def _by_document(
    study: Study, table: pl.DataFrame, taxonomies: Sequence[TaxonomyResult]
) -> tuple[list[Counted], list[Counted]]:
    """What is repeated by folder and document, with the classes that the headline counts."""
    names = [one.name for one in taxonomies]
    if not names:
        return by_document(table)
    name = PAPER if PAPER in names else names[0]
    taxonomy = taxonomies[names.index(name)]
    classes = [one for one in taxonomy.sizes if one != NON_MEMO]
    return by_document(table, study.read(LABELS_FILE)[name], classes)


def _browser(
    study: Study, table: pl.DataFrame, taxonomies: Sequence[TaxonomyResult], tokenizer: Any
) -> BrowsedSequences | None:
    """All sequences with their classes, for the page's browser; the flows come last."""
    divisions = [_division(study, table, one) for one in taxonomies]
    if has_columns(table, PRASHANTH, PAPER):
        both = label_twice(table)
        flows = pl.Series([a and f"{a} to {b}" for a, b in both.rows()], dtype=pl.String)
        divisions.append(Division(FLOWS, flows.drop_nulls().unique().sort().to_list(), flows))
    return browsed(table, divisions, tokenizer, study.settings.sequences.n_prefix)


def _division(study: Study, table: pl.DataFrame, taxonomy: TaxonomyResult) -> Division:
    """A taxonomy's classes, and what the headline's reader took evaluation sequences for."""
    names = [one["name"] for one in taxonomy.classes]
    labels = study.read(LABELS_FILE)[taxonomy.name]
    row = taxonomy.main.headline if taxonomy.main else None
    if row is None or not row["confusion"]:
        return Division(taxonomy.label, names, labels)
    key = {"source": row["source"], **SampleKey(taxonomy.name)._asdict()}
    trained = study.read(RUNS_FILE).filter("did_train", **key)
    predictions = study.read(PREDICTIONS_FILE).filter(**key)
    read = (
        predictions.join(trained, on=RUN_KEY, how="semi", nulls_equal=True)
        .with_columns(pl.col("predicted").replace_strict(dict(enumerate(names))))
        .group_by("sequence_id")
        .agg(pl.col("predicted").unique(maintain_order=True))
    )
    rows = table.select("sequence_id")
    found = rows.join(read, on="sequence_id", how="left", maintain_order="left")
    return Division(taxonomy.label, names, labels, found["predicted"])


def allocation_of(table: pl.DataFrame) -> Facts | None:
    """How Prashanth et al.'s classes flow into Guess and Recall; None where a feature is missing.

    `rows` as `allocate` gives them, the views `ours` and `published`, and a `sentence`.
    """
    if not has_columns(table, PRASHANTH, PAPER):
        return None
    groups = find_groups(table)
    frame, guessed = allocate(table, groups), guessed_share(table, groups)
    if frame.is_empty():
        return None
    return {
        "rows": list(rows_of(frame)),
        "ours": sankey_view(flows_of(frame)),
        "published": sankey_view(flows_of(frame, "published")),
        "sentence": (
            f"Of the memorized sequences the published rule calls {guessed} a guess; of what can "
            f"be extracted from Pythia the paper prints {percent(PUBLISHED_GUESSED)}."
        ),
    }


def model_facts(models: Mapping[str, Model], role: str) -> Facts:
    """The study's record of a model, a reference of the same name told apart."""
    facts = models[role]
    note = _EMBEDDED_NOTES[role] if facts["name"] == EMBEDDED else ""
    is_twin = role == "reference" and facts["name"] == models["model"]["name"]
    return {**facts, "note": note, "name": facts["name"] + (" (reference)" if is_twin else "")}


def taxonomy_results(
    study: Study, tokenizer: Any | None = None, *, is_trained: bool = True
) -> Iterator[TaxonomyResult]:
    """One result a taxonomy; without a tokenizer no examples, untrained nothing of CNNs."""
    table, labels = study.sequences, study.read(LABELS_FILE)
    deltas, reference = (
        list(load_deltas(study, one)) if is_trained else [] for one in ("model", "reference")
    )
    published = published_table()
    printed = dict(zip(published["tax_name"], published["min_f1"], strict=True))
    benchmarks = _benchmarks(study) if is_trained else []
    for key, main in in_shown_order(samples_of(study)).items():
        if not key.is_main:
            continue
        name, classes = main.taxonomy, main.trained_classes or main.classes
        meanings = dict(zip(main.classes, main.meanings, strict=True))
        printed_min_f1 = printed.get(main.published_name)
        yield TaxonomyResult(
            name=name,
            title=TITLES.get(name, ""),
            classes=[
                {
                    "name": one,
                    "meaning": meanings[one],
                    "n_sequences": main.counts.get(one, 0),
                    "n_train": None if main.impossible else main.n_train,
                    "n_eval": None if main.impossible else main.n_eval,
                }
                for one in classes
            ],
            impossible=main.impossible,
            dropped=[(one, main.counts.get(one, 0)) for one in main.dropped],
            order=main.classes,
            n_unlabelled=main.unlabelled,
            split=study.settings.label.split,
            non_memo_suffix=study.settings.label.non_memo_suffix,
            benchmarks=[one for owner, one in benchmarks if owner == name],
            deltas=[one for one in deltas if one.sample == key],
            published_min_f1=None if printed_min_f1 is None else printed_min_f1 / 100,
            examples=list(
                _examples(
                    table, labels[name], classes, tokenizer, study.settings.sequences.n_prefix
                )
            )
            if tokenizer
            else (),
            warnings=main.warnings,
            graft=graft_of(study, name),
            knockout=knockout_of(study, key),
            beside=[one for one in reference if one.sample == key],
            delta_tables=list(tables.localize_tables(study, key)) if is_trained else (),
            published_profile=_published_profile() if name == PAPER and is_trained else None,
        )


def flows_of(frame: pl.DataFrame, column: str = "share") -> list[Flow]:
    """A frame of `allocate` as flows, ours or the `published` ones."""
    shares = frame.unnest("share").rename({"value": "share"})
    return [Flow(*row) for row in shares.select("prashanth", "paper", column).iter_rows()]


def _published_profile() -> Drawing:
    """The published layer profile of Δ (Pythia 12b)."""
    frame = published_profile().drop("layer")
    return profile_drawing(frame.columns, frame.to_numpy().T)


def _benchmarks(study: Study) -> list[tuple[str, Benchmark]]:
    """Every sample with its taxonomy: as drawn first, then the repetitions."""
    table, runs = study.benchmark, study.read(RUNS_FILE)
    inputs, predictions = study.read(INPUTS_FILE), study.read(PREDICTIONS_FILE)
    runs = runs.with_columns(
        pl.Series("seconds", [seconds_of(study, key) for key in runs["key"]], dtype=pl.Float64)
    )
    preset = study.settings.train.in_words
    settings = asdict(PRESETS[study.settings.train.preset])
    every = settings.pop("scores_every_epoch")
    settings["evaluated"] = "after every epoch, summed" if every else "after the last epoch"
    found = []
    for key, entry in samples_of(study).items():
        title, note, name, of_key = entry.title, entry.note, entry.taxonomy, key._asdict()
        if entry.impossible:
            if not key.is_main:  # an impossible taxonomy says so itself
                found.append((name, Benchmark(title, note, entry.impossible)))
            continue
        own = runs.filter(**of_key)
        seconds = dict(own.group_by("source", maintain_order=True).agg(pl.sum("seconds")).rows())
        rows = {}
        for row in rows_of(table.filter(**of_key)):
            known = TABLE[row["source"]]
            words = {"name": known.name, "detail": known.detail}
            rows[row["source"]] = row | words | {"seconds": seconds.get(row["source"])}
        predicted = predictions.filter(source="model", **of_key)
        counts_all = study.settings.benchmark.untrained == "count"
        of_model = list(_runs(own, predicted, len(entry.trained_classes), counts_all))
        views = list(_inputs(inputs.filter(**of_key)))
        benchmark = Benchmark(title, note, None, rows, of_model, views, preset, settings)
        found.append((name, benchmark))
    return found


def seconds_of(study: Study, key: str) -> float:
    """Seconds of one training, or of those of all folds; what is not there counts nothing."""
    store = Store(study.folder / "cnn")
    there = (store.record(one) for one in key.split() if store.has(one))
    return sum(float(one["values"]["seconds"]) for one in there)


def _runs(
    runs: pl.DataFrame, predictions: pl.DataFrame, n_classes: int, counts_all: bool
) -> Iterator[Facts]:
    """Every CNN on the model's attention, its min-F1 on the evaluation sequences if it counts."""
    for run in runs.filter(source="model").iter_rows(named=True):
        key = ("kernel", "filters", "input", "seed")
        own = predictions.filter(**{name: run[name] for name in key})
        confusion = confusion_matrix(own["true"].to_numpy(), own["predicted"].to_numpy(), n_classes)
        yield run | {
            "words": f"{run['kernel']}, {run['filters']}, {run['input']}",
            "training_min_f1": run["train_min_f1"] if run["did_train"] else None,
            "eval_min_f1": min_f1(confusion) if run["did_train"] or counts_all else None,
        }


def _inputs(table: pl.DataFrame) -> Iterator[Facts]:
    """The model's row for each input of the CNNs, beside the best without memory."""
    free = (
        table.filter(pl.col("source").is_in(of_reader(MEMORY_FREE, "model")))
        .drop_nulls("min_f1")
        .sort(pl.col("min_f1").struct.field("value"))
    )
    best = {row["input"]: row["min_f1"] for row in rows_of(free)}
    for row in rows_of(table.filter(source="model")):
        yield row | {"best": best.get(row["input"], NO_ESTIMATE)}


def knockout_of(study: Study, sample: SampleKey) -> Knockout | None:
    """What cutting edges did to the classes of a sample; None where it was not tried."""
    if not study.is_done("knockout"):
        return None
    rows = study.read(KNOCKOUT_FILE).filter(**sample._asdict())
    if rows.is_empty():
        return None
    indices = study.read(SPECIFICITY_FILE).filter(**sample._asdict())
    strengths = sorted({one for one in rows["strength"].to_list() if one})
    spoken = spoken_strength(strengths)
    said: dict[bool, list[str]] = {True: [], False: []}
    for row in rows_of(indices):
        (line,) = statements([row])
        said[row["strength"] == spoken].append(_told(line, sample.taxonomy))
    copies = {
        choice: {row["class"]: row for row in rows_of(rows.filter(choice=choice))}
        for choice in ("copy", "copy, random", "copy, equal mass")
    }
    own, random, equal = copies.values()
    return Knockout(
        panels=[_panel(rows, name) for name in rows["class"].unique(maintain_order=True)],
        strengths=strengths,
        spoken=spoken,
        indices=[
            row | {"broken_others": dict(of_json(row, "broken_others"))} for row in rows_of(indices)
        ],
        copies=[row | {"random": random[one], "equal": equal[one]} for one, row in own.items()],
        verdicts={
            one: cut_verdict(list(rows_of(indices)), one) for one in indices["class"].unique()
        },
        statements=said[True],
        further=said[False],
        own=[_told(line, sample.taxonomy) for line in own_statements(rows)],
        own_cuts=list(own_cuts(rows)),
        ranking=ranking_words(rows.row(0, named=True)),
        attribution=study.settings.knockout.attribution,
        renormalize=study.settings.knockout.renormalize,
    )


def _told(line: str, taxonomy: str) -> str:
    """A sentence without the taxonomy, which the page names itself."""
    line = line.removeprefix(f"{taxonomy}: ")
    return line[:1].upper() + line[1:]


def _panel(rows: pl.DataFrame, name: str) -> CutPanel:
    """All curves of one tried class."""
    tried = rows.filter((pl.col("class") == name) & pl.col("choice").is_in(list(_CUTS)))
    curves: list[CutCurve] = []
    others: list[CutCurve] = []
    for choice, words in _CUTS.items():
        chosen = tried.filter(choice=choice).sort("strength", maintain_order=True)
        for edges_of in tried.filter(choice=choice)["edges_of"].unique(maintain_order=True):
            points = list(rows_of(chosen.filter(edges_of=edges_of)))
            curve = CutCurve(choice, edges_of, words.format(edges_of), points)
            is_drawn = choice == "decisive" or edges_of in ("", name)
            (curves if is_drawn else others).append(curve)
    return CutPanel(name, tried["n"][0], curves, others)


def _examples(
    table: pl.DataFrame, labels: pl.Series, classes: Iterable[str], tokenizer: Any, prefix: int
) -> Iterator[Facts]:
    """A few sequences of each class in a seeded shuffle, those with a continuation first."""
    rows = table.with_columns(labels.alias("class"))
    if "continuation" not in rows.columns:
        rows = rows.with_columns(continuation=pl.lit(None, dtype=pl.List(pl.Int32)))
    for name in classes:
        shuffled = rows.filter(pl.col("class") == name).sample(fraction=1, seed=0, shuffle=True)
        decoded_first = shuffled.sort(pl.col("continuation").is_null(), maintain_order=True)
        for row in decoded_first.head(EXAMPLES_A_CLASS).iter_rows(named=True):
            yield example_of(row, tokenizer, prefix)


def example_of(row: Facts, tokenizer: Any, prefix: int) -> Facts:
    """A sequence with its text; its first `prefix` tokens are the prefix.

    The row with `prefix` (text), `suffix` (text of each token), `written` (of each token the model
    wrote, with whether it is another than the suffix's) and `flags` in words.
    """
    tokens, mask = row["tokens"], row.get("attention_mask")
    if mask:
        tokens, prefix = [t for t, one in zip(tokens, mask, strict=True) if one], sum(mask[:prefix])
    written = row["continuation"] or (tokens[prefix:] if row["is_memorized"] else [])
    differs = [one != other for one, other in zip(written, tokens[prefix:], strict=False)]
    return row | {
        "prefix": "".join(decode_pieces(tokenizer, tokens[:prefix])),
        "suffix": decode_pieces(tokenizer, tokens[prefix:]),
        "written": list(zip(decode_pieces(tokenizer, written), differs, strict=True)),
        "flags": [word for column, word in _FLAGS.items() if row.get(column)],
    }


def decode_pieces(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, ...]:
    """Give the text that each token adds, so that the pieces joined are the decoded text.

    A token that ends within a character (byte-level vocabularies) adds nothing; the token that
    completes the character adds it.
    """
    ends = range(1, len(tokens) + 1)
    texts = [
        str(tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False)) for end in ends
    ]
    pieces: list[str] = []
    shown = ""
    for text in texts:
        is_complete = texts[-1].startswith(text) and text.startswith(shown)
        pieces.append(text[len(shown) :] if is_complete else "")
        shown = text if is_complete else shown
    return tuple(pieces)


def _counts(table: pl.DataFrame) -> Facts:
    """Sequences and memorized sequences, by genre and by duplicates; empty bands left out."""

    def band(name: str, chosen: pl.DataFrame) -> Facts:
        n_memorized = int(chosen["is_memorized"].sum())
        return {"name": name, "n_sequences": chosen.height, "n_memorized": n_memorized}

    genres, duplicates = [], []
    if "genre" in table.columns:
        names = table["genre"].drop_nulls().unique().sort().to_list()
        genres = [band(name, table.filter(genre=name)) for name in names]
    if "duplicates" in table.columns:
        for low, high in _BANDS:
            name = f"{low}" if low == high else f"{low}–{high}" if high else f"over {low - 1}"
            most = math.inf if high is None else high
            chosen = table.filter(pl.col("duplicates").is_between(low, most))
            duplicates.append(band(name, chosen))
    known = [one for one in duplicates if one["n_sequences"]]
    return band("All", table) | {"by_genre": genres, "by_duplicates": known}


def _confirmed(table: pl.DataFrame) -> int | None:
    """How many published labels are the model's own verdict; None where the verdicts are its."""
    if OWN_VERDICT not in table.columns:
        return None
    return int((table["is_memorized"] == table[OWN_VERDICT]).sum())


def _fragile(study: Study, table: pl.DataFrame) -> Facts | None:
    """Labels that rounding could flip, and whether scan and decoding agree on them."""
    if "smallest_gap" not in table.columns or OWN_VERDICT in table.columns:
        return None
    check = (study.manifest("continue") or {"counts": {}})["counts"].get("scan_check", {})
    return {
        "n_fragile": table.filter(pl.col("smallest_gap") < GAP_TOLERANCE).height,
        "n_labels": table.height,
        "gap_tolerance": GAP_TOLERANCE,
        "n_checked": check.get("checked", 0),
        "n_disagree": check.get("disagree", 0),
        "disagree_gap": check.get("largest_gap_of_these"),
    }


def _warnings(study: Study) -> Iterator[str]:
    """What the reader must know about the whole study."""
    if not study.settings.benchmark.controls:
        yield "Made without controls: a min-F1 alone does not tell memory from text."
    elif "reference" not in study.record["models"] and study.is_done("capture"):
        yield (
            "No reference model was given (--reference): only the blind baseline stands beside the "
            "model, and attention that shows the text may pass for memory."
        )
    skipped = (study.manifest("sequences") or {"counts": {}})["counts"].get("too_short", 0)
    if skipped:
        yield f"Skipped: {plural(skipped, 'text')} shorter than one sequence."
