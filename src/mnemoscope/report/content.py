"""What a report says: frozen dataclasses that the report stage fills and the pages show.

Shares (F1, scores, excess) are fractions in [0, 1], or [-1, 1] for an excess; the pages print
per cent. `None` means "not measured" everywhere and is shown as a dash, never as zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mnemoscope.report.examples import Example

if TYPE_CHECKING:
    from mnemoscope.report.analysis import AnalysisSection
    from mnemoscope.report.knockout import KnockoutView
    from mnemoscope.report.published import PublishedView

__all__ = [
    "Benchmark",
    "BenchmarkRow",
    "ClassFacts",
    "CnnFacts",
    "CnnRun",
    "CountRow",
    "Counts",
    "DeltaMaps",
    "Estimate",
    "Excess",
    "FragileLabels",
    "InputRow",
    "MatchedScores",
    "ModelFacts",
    "ReportContent",
    "Table",
    "TaxonomyResult",
]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval.

    Attributes:
        value: the figure, a fraction; None when there is none (a CNN that did not train).
        low: lower end of the interval, None without one.
        high: upper end of the interval, None without one.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ModelFacts:
    """Which language model was looked at.

    Attributes:
        name: the name or path it was loaded by.
        n_layers: attention layers.
        n_heads: attention heads in each layer.
        dtype: the number format it ran in.
        fingerprint: SHA-256 of weights and configuration.
        revision: revision of the model hub, None for a folder.
        note: one sentence on what it is, empty for none.
    """

    name: str
    n_layers: int
    n_heads: int
    dtype: str
    fingerprint: str
    revision: str | None = None
    note: str = ""


@dataclass(frozen=True)
class CountRow:
    """How many sequences of one kind there are and how many of them are memorized."""

    name: str
    n_sequences: int
    n_memorized: int


@dataclass(frozen=True)
class Counts:
    """How many sequences the study holds.

    Attributes:
        n_sequences: all of them.
        n_memorized: those with memorization score 1.
        by_genre: the same for each genre, empty when no genre is known.
        by_duplicates: the same for each band of duplicates, in rising order; empty when unknown.
    """

    n_sequences: int
    n_memorized: int
    by_genre: tuple[CountRow, ...] = ()
    by_duplicates: tuple[CountRow, ...] = ()


@dataclass(frozen=True)
class FragileLabels:
    """Labels that rounding could flip: a continuation met a near tie of its two best logits.

    Attributes:
        n_fragile: labels with such a tie.
        n_labels: all labels.
        gap_tolerance: from which difference of the two best logits on it is no tie.
        n_checked: sequences that were both scanned and decoded.
        n_disagree: of these, those with two verdicts.
        disagree_gap: the largest gap among these, None where there are none.
    """

    n_fragile: int
    n_labels: int
    gap_tolerance: float
    n_checked: int = 0
    n_disagree: int = 0
    disagree_gap: float | None = None


@dataclass(frozen=True)
class ClassFacts:
    """One class of a taxonomy.

    Attributes:
        name: its name, ``Non-Memo`` for class 0.
        meaning: the rule in plain words.
        n_sequences: sequences of the study in this class.
        n_train: of these, used to train the CNNs.
        n_eval: of these, used to evaluate them.
    """

    name: str
    meaning: str
    n_sequences: int
    n_train: int | None = None
    n_eval: int | None = None


@dataclass(frozen=True)
class BenchmarkRow:
    """How well one source tells the classes apart on the evaluation sequences.

    Attributes:
        source: ``model`` (CNNs on the model's attention), ``statistics`` (logistic regression on
            pooled statistics of the same attention), ``blind`` (CNNs on the tokens alone),
            ``ngram`` (logistic regression on token n-grams), ``reference`` (CNNs on the attention
            of a model that never saw the sequences), ``control`` (labels permuted) or ``logits``
            (the output's log-probabilities).
        min_f1: the smallest per-class F1.
        f1: F1 of each class, in the order of the taxonomy.
        n_eval: evaluation sequences.
        n_runs: trainings (settings times seeds) behind the figure.
        did_train: False for a CNN that has not left chance on its own training sequences.
        training_min_f1: min-F1 on the training sequences.
        seconds: time of all its trainings together.
        precision: of each class, empty when not told.
        recall: of each class, empty when not told.
        mean_f1: mean of the per-class F1.
        auc: of each pair of classes, in the order of `Benchmark.pairs`; empty when not told.
    """

    source: str
    min_f1: Estimate
    f1: tuple[Estimate, ...]
    n_eval: int
    n_runs: int = 1
    did_train: bool = True
    training_min_f1: float | None = None
    seconds: float | None = None
    precision: tuple[Estimate, ...] = ()
    recall: tuple[Estimate, ...] = ()
    mean_f1: Estimate = Estimate(None)
    auc: tuple[Estimate, ...] = ()


@dataclass(frozen=True)
class Excess:
    """Min-F1 on the model's attention minus the best figure reached without memory.

    Attributes:
        estimate: the difference as a fraction, with its paired interval.
        verdict: the sentence of `benchmark.verdict`.
        kind: its kind, ``adds``, ``nothing``, ``unclear`` or ``cannot``; empty lets the interval
            decide (`report.standing`).
        auc: the same difference in the AUC of each pair of classes; empty when not told.
        note: which trainings of the model it counts, where that is not all of them.
    """

    estimate: Estimate
    verdict: str
    kind: str = ""
    auc: tuple[Estimate, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class InputRow:
    """How well the classes are told apart from one input of the CNNs.

    Attributes:
        name: ``mean``, ``max``, ``both``, ``heads`` or ``difference``.
        model: the figures of the CNNs that see it.
        best: the best min-F1 without memory beside it.
        excess: the difference; None where the controls were not trained with this input.
    """

    name: str
    model: BenchmarkRow
    best: Estimate
    excess: Excess | None = None


@dataclass(frozen=True)
class MatchedScores:
    """The model's figures on evaluation sequences whose blind scores are balanced.

    Attributes:
        min_f1: min-F1 of the model's CNNs there.
        f1: F1 of each class there.
        blind_min_f1: what the blind baseline still reaches there.
        n_eval: how many evaluation sequences could be matched.
        note: one sentence, for instance why there are none.
    """

    min_f1: Estimate
    f1: tuple[Estimate, ...]
    blind_min_f1: Estimate
    n_eval: int
    note: str = ""


@dataclass(frozen=True)
class CnnRun:
    """One training: its setting, and training F1 beside evaluation F1 (min-F1, fractions)."""

    kernel: int
    filters: int
    pooling: str
    seed: int
    training_min_f1: float | None
    eval_min_f1: float | None
    did_train: bool = True
    seconds: float | None = None


@dataclass(frozen=True)
class CnnFacts:
    """How the CNNs of one benchmark were trained.

    Attributes:
        preset: ``paper`` or ``small``.
        settings: what the preset means (batch size, learning rate, steps ...), shown as it is.
        runs: the trainings on the model's attention.
    """

    preset: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[CnnRun, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """One taxonomy measured on one choice of sequences.

    Attributes:
        title: which sequences, in a few words: "all sequences", "same genres in every class".
        note: one sentence that says what is special about that choice, empty for none.
        rows: one for each source measured.
        excess: None when no controls were run.
        matched: None when not asked for.
        confusion: counts (classes, classes), rows true, columns predicted; None without a CNN.
        cnn: how the CNNs were trained.
        impossible: why this choice of sequences could not be measured, None when it was.
        pairs: names of the pairs of classes, in the order of every `auc`.
        inputs: the figures for each input of the CNNs alone; fewer than two are not shown.
        over_statistics: min-F1 of the CNNs minus that of the regression on statistics of the same
            maps, with its paired interval.
    """

    title: str
    note: str = ""
    rows: tuple[BenchmarkRow, ...] = ()
    excess: Excess | None = None
    matched: MatchedScores | None = None
    confusion: np.ndarray | None = None
    cnn: CnnFacts | None = None
    impossible: str | None = None
    pairs: tuple[str, ...] = ()
    inputs: tuple[InputRow, ...] = ()
    over_statistics: Estimate = Estimate(None)

    def row(self, source: str) -> BenchmarkRow | None:
        """Give the row of one source, None when it was not measured."""
        return next((row for row in self.rows if row.source == source), None)


@dataclass(frozen=True)
class DeltaMaps:
    """Decisiveness of one attribution.

    Attributes:
        attribution: ``gradient`` or ``guided``.
        delta: float array (classes, layers, query, key), not negative, zero above the diagonal.
        n_used: evaluation sequences averaged, for each class, counted over all CNNs.
        n_skipped: sequences whose gradient was nowhere positive, for each class.
        n_wrong: evaluation sequences left out because the CNN misclassified them, for each class.
    """

    attribution: str
    delta: np.ndarray
    n_used: tuple[int, ...]
    n_skipped: tuple[int, ...]
    n_wrong: tuple[int, ...] = ()


@dataclass(frozen=True)
class TaxonomyResult:
    """All that is known of one taxonomy.

    Attributes:
        name: the taxonomy, ``Non-Memo, Guess, Recall``.
        classes: its classes in order, the dropped ones left out.
        title: a friendlier name ("Prashanth et al."), empty for none.
        impossible: why it could not be trained, None when it was.
        dropped: classes left out because they had too few sequences, with their counts.
        n_unlabelled: sequences without a class because a needed feature is unknown.
        split: ``group`` or ``row``.
        non_memo_suffix: ``own`` or ``true``: which suffix Non-Memo sequences were shown with.
        benchmarks: the main one first, then repetitions (matched by genre, other suffix ...).
        deltas: one for each attribution.
        published_min_f1: the figure printed for Pythia in the paper, a fraction.
        examples: several sequences of each class.
        warnings: what the reader must know about this taxonomy.
        knockout: what broke when edges were cut, None where that was not tried.
        beside: Δ from the reference model's attention, to stand beside the model's own.
        delta_tables: what is further known of Δ: regions, stability, sanity.
    """

    name: str
    classes: tuple[ClassFacts, ...]
    title: str = ""
    impossible: str | None = None
    dropped: tuple[tuple[str, int], ...] = ()
    n_unlabelled: int = 0
    split: str = "group"
    non_memo_suffix: str = "own"
    benchmarks: tuple[Benchmark, ...] = ()
    deltas: tuple[DeltaMaps, ...] = ()
    published_min_f1: float | None = None
    examples: tuple[Example, ...] = ()
    warnings: tuple[str, ...] = ()
    knockout: "KnockoutView | None" = None
    beside: tuple[DeltaMaps, ...] = ()
    delta_tables: "tuple[Table, ...]" = ()

    def __post_init__(self) -> None:
        n_classes = len(self.classes)
        for maps in (*self.deltas, *self.beside):
            if maps.delta.ndim != 4 or len(maps.delta) != n_classes:
                raise ValueError(
                    f"{self.name}: delta has shape {maps.delta.shape}, wanted "
                    f"({n_classes} classes, layers, query, key)"
                )
            if not np.isfinite(maps.delta).all():
                raise ValueError(f"{self.name}: delta of '{maps.attribution}' is not finite")
        for benchmark in self.benchmarks:
            _check_classes(self.name, benchmark, n_classes)

    @property
    def main(self) -> Benchmark | None:
        """The benchmark that the headline speaks of, None for a taxonomy without one."""
        return self.benchmarks[0] if self.benchmarks else None


@dataclass(frozen=True)
class Table:
    """A small table of a further check: what it checks, its figures and what they mean.

    Attributes:
        title: its heading.
        columns: column names; the first column names the row.
        rows: text, or numbers: whole ones are shown as counts, others as per cent.
        summary: what to read out of it, in plain words.
        gist: the same in one line, for a table that is folded.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    summary: str = ""
    gist: str = ""


@dataclass(frozen=True)
class ReportContent:
    """A whole report.

    Attributes:
        title: the study's name.
        model: the model that was looked at.
        counts: sequences and memorized sequences.
        taxonomies: results, in the order to be shown.
        reference: the reference model, None without one.
        length: tokens of a sequence.
        checks: further tables, such as the ground truth of the embedded model.
        fragile: labels that rounding could flip, None where unknown.
        warnings: what the reader must know about the whole study.
        settings: nested mapping: configuration, versions, device, seeds.
        commands: shell lines that make this report again.
        created: when, in words; empty leaves it out.
        published: our figures beside the published ones, None where there are none to compare.
        analyses: the neighbouring analyses that were run.
    """

    title: str
    model: ModelFacts
    counts: Counts
    taxonomies: tuple[TaxonomyResult, ...] = ()
    reference: ModelFacts | None = None
    length: int = 64
    checks: tuple[Table, ...] = ()
    fragile: FragileLabels | None = None
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    created: str = ""
    published: "PublishedView | None" = None
    analyses: "tuple[AnalysisSection, ...]" = ()


def _check_classes(name: str, benchmark: Benchmark, n_classes: int) -> None:
    """Refuse figures that do not belong to the classes beside them."""
    for row in benchmark.rows:
        for figure in ("f1", "precision", "recall"):
            found = len(getattr(row, figure))
            if found not in (0, n_classes):
                raise ValueError(
                    f"{name}, row '{row.source}': {found} figures of {figure}, wanted {n_classes}"
                )
    confusion = benchmark.confusion
    if confusion is not None and confusion.shape != (n_classes, n_classes):
        raise ValueError(
            f"{name}: confusion has shape {confusion.shape}, wanted ({n_classes}, {n_classes})"
        )
