"""What stage `label` will draw, and what it can show: counted where labels are there, else bounded.

Used by the dry run, before anything is made.
"""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from mnemoscope.benchmark.gain import POWER, SPREAD, SPREADS, expected_seen
from mnemoscope.benchmark.verdict import EFFECT
from mnemoscope.data.features import add_features, is_available
from mnemoscope.data.table import has_values
from mnemoscope.pipeline.label import (
    SAMPLES_FILE,
    SampleEntry,
    draw_samples,
    drawn_words,
    samples_of,
)
from mnemoscope.pipeline.published_split import take_published_patterns
from mnemoscope.pipeline.sources import PlannedData, verdict_column
from mnemoscope.stats import FEWEST_GROUPS, rows_of
from mnemoscope.study.cost import Need
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import StudySettings, variants
from mnemoscope.study.shapes import shape_facts
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import Taxonomy, count_class_sets, distinct_partitions
from mnemoscope.taxonomy.sample import MAIN, N_FOLDS, SampleKey
from mnemoscope.words import nats, plural

_MOST_DRAWN = 3  # samples whose classes are counted in a dry run


def find_need(
    settings: StudySettings, taxonomies: Sequence[Taxonomy], data: PlannedData, study: Study | None
) -> Need:
    """Distinct maps: those of a labelled `study`, counted from labels on disk, or bounded."""
    if study is not None:
        return _counted(study.read(SAMPLES_FILE), samples_of(study), "the samples of the study")
    frame = _with_verdicts(data.frame, settings)
    if frame is None:
        return bound_need(taxonomies, settings, data.n_sequences)
    return count_need(frame, taxonomies, settings)


def _with_verdicts(frame: pl.DataFrame | None, settings: StudySettings) -> pl.DataFrame | None:
    """The table with verdicts and features, as stage `label` will see it; None without verdicts."""
    verdict = None if frame is None else verdict_column(frame)
    if frame is None or verdict is None:
        return None
    if verdict == "published_is_memorized":
        frame = frame.with_columns(pl.col(verdict).alias("is_memorized"))
    if has_values(frame, "rouge_l"):
        return frame
    if settings.features.corpus is not None:
        return None  # counting duplicates takes as long as the stage
    patterns, length = settings.features.patterns, settings.sequences.length
    frame = add_features(
        frame, patterns=patterns, length=length, prefix=settings.sequences.n_prefix, code="off"
    )
    return take_published_patterns(frame) if patterns == "published" else frame


def count_need(
    frame: pl.DataFrame, taxonomies: Sequence[Taxonomy], settings: StudySettings
) -> Need:
    """Draw every sample as stage `label` will, and count what they need together."""
    if any(variant.split != "row" for variant in variants(settings.label)):
        frame = frame.with_columns(find_groups(frame).alias("group"))
    labels = {one.name: label_sequences(frame, one) for one in taxonomies}
    drawn = draw_samples(frame, taxonomies, labels, settings)
    return _counted(drawn.samples, drawn.entries, "every sample drawn from the labels on disk")


def _counted(samples: pl.DataFrame, entries: Mapping[SampleKey, SampleEntry], how: str) -> Need:
    shown = samples.select("sequence_id", "suffix").unique()
    trained = [one for one in entries.values() if not one.impossible]
    return Need(
        n_least=shown.height,
        n_maps=shown.height,
        n_texts=shown["sequence_id"].n_unique(),
        n_own=int((shown["suffix"] == "own").sum()),
        how=f"counted: {how}",
        samples=[(one.taxonomy, len(one.classes)) for one in trained],
        impossible={one.shown: one.impossible for one in entries.values() if one.impossible},
        drawn=[
            (one.n_train, one.n_eval, f"{one.shown}: {drawn_words(one)}")
            for one in trained
            if one.key.is_main
        ],
    )


def bound_need(
    taxonomies: Sequence[Taxonomy], settings: StudySettings, n_sequences: int | None
) -> Need:
    """Bound from the rules alone what the samples need together.

    From below: the classes of one taxonomy exclude each other. From above: split by row, equal
    classes take the same sequences, the first in one order; by group, equal partitions do.
    """
    label = settings.label
    per_class = label.per_class
    partitions = [
        one
        for one in distinct_partitions(taxonomies)
        if n_sequences is None or n_sequences >= label.minimum * _fewest_classes(settings, one)
    ]
    n_apart = max((len(taxonomy.classes) for taxonomy in partitions), default=0)
    n_sets = sum(len(taxonomy.classes) for taxonomy in partitions)
    rule = "the classes of every distinct taxonomy, none shared"
    if label.split == "row" and not label.both_splits:
        n_sets = count_class_sets(taxonomies)
        rule = f"{n_sets} different classes among them, each drawn once"
    n_sets *= 1 + bool(label.match) + label.both_splits
    n_texts, n_maps = per_class * n_sets, per_class * (n_sets + label.both_suffixes)
    if n_sequences is not None:
        n_texts = min(n_texts, n_sequences)
        n_maps = min(n_maps, n_sequences * (1 + label.both_suffixes))
    shows_own = label.non_memo_suffix == "own" or label.both_suffixes
    how = f"bounds from the rules alone: at least {n_apart} classes exclude each other; at most "
    return Need(
        n_least=min(per_class * n_apart, n_maps),
        n_maps=n_maps,
        n_texts=n_texts,
        n_own=min(per_class, n_maps) if shows_own else 0,
        how=how + rule,
        samples=[(one.name, len(one.classes)) for one in partitions for _ in variants(label)],
        impossible={},
    )


def _fewest_classes(settings: StudySettings, taxonomy: Taxonomy) -> int:
    """How many classes of a taxonomy must be large enough, so that it can be trained on."""
    return 2 if settings.label.drop_small_classes else len(taxonomy.classes)


def training_condition(
    settings: StudySettings, taxonomies: Sequence[Taxonomy], data: PlannedData
) -> str:
    """How many must be memorized for CNNs, and what is made else; empty where it is not open."""
    if data.frame is None or data.n_memorized is not None or not taxonomies:
        return ""
    label = settings.label
    smallest = min(taxonomies, key=lambda one: _fewest_classes(settings, one))
    least = min(label.minimum, label.per_class)
    n_memorized = least * (_fewest_classes(settings, smallest) - 1)
    return (
        f"{plural(data.frame.height, 'sequence')} to continue. CNNs need {least:,} of each class "
        f"({smallest.name}), so at least {n_memorized:,} memorized ones; with fewer the run ends "
        "with counts, passages and a report."
    )


def n_unshared(settings: StudySettings, taxonomies: Sequence[Taxonomy]) -> int:
    """Sequences if every taxonomy captured its own."""
    return settings.label.per_class * sum(len(taxonomy.classes) for taxonomy in taxonomies)


def lacking_columns(
    data: PlannedData, settings: StudySettings, taxonomies: Sequence[Taxonomy]
) -> dict[str, list[Taxonomy]]:
    """Columns that taxonomies need and a table on disk will lack, with those taxonomies."""
    frame = data.frame
    if frame is None:
        return {}
    will_have = {"rouge_l", "rouge_3"}  # from the tokens, which every sequence has
    if has_values(frame, "tokens") or has_values(frame, "text"):
        will_have |= {"is_incrementing", "is_repeating"}
    will_have |= {"duplicates"} if settings.features.corpus is not None else set()
    will_have |= {"is_code"} if is_available() else set()
    found: dict[str, list[Taxonomy]] = {}
    for taxonomy in taxonomies:
        for column in taxonomy.columns:
            given = has_values(frame, column) or has_values(frame, f"published_{column}")
            if column not in will_have and not given:
                found.setdefault(column, []).append(taxonomy)
    return found


def taxonomy_lines(
    settings: StudySettings,
    taxonomies: Sequence[Taxonomy],
    need: Need,
    lacking: Mapping[str, Sequence[Taxonomy]],
    *,
    is_found: bool,
) -> Iterator[str]:
    """Which taxonomies cannot be trained.

    `is_found`: the verdicts are the model's; else those that the source brought, which the run
    finds anew.
    """
    if settings.sequences.pad:
        yield "sequences.pad: where a row is padded, the run ends with labels and a report."
    for column, those in lacking.items():
        yield (
            f"Impossible: {len(those)} of {len(taxonomies)} taxonomies need '{column}', which the "
            f"table lacks; the first is {those[0].name}."
        )
    said = "Impossible" if is_found else "Impossible if the model finds what the table says"
    for name, reason in list(need.impossible.items())[:3]:
        yield f"{said}: {name}: {reason}"
    if len(need.impossible) > 3:
        yield f"{said}: {len(need.impossible) - 3} more."


def taxonomies_said(settings: StudySettings, taxonomies: Sequence[Taxonomy], need: Need) -> str:
    """How many taxonomies there are, and what is drawn for each."""
    label = settings.label
    sides = f"{label.n_train:,}" + ("" if label.split == "folds" else f" + {label.n_eval:,}")
    n_distinct = len(distinct_partitions(taxonomies))
    distinct = "" if n_distinct == len(taxonomies) else f", {n_distinct} of them distinct"
    return (
        f"Taxonomies: {len(taxonomies)}{distinct}; "
        f"up to {sides} sequences a class, split by {label.split}; "
        f"{plural(len(need.samples), 'sample')} to train on."
    )


def expected_lines(
    settings: StudySettings,
    data: PlannedData,
    need: Need,
) -> Iterator[str]:
    """How many sequences of a class to expect."""
    label = settings.label
    drawn = f"{label.n_train:,} train and {label.n_eval:,} test"
    if label.split == "folds":
        drawn = f"{label.per_class:,} are used, in folds"
    wants = f"A class needs at least {label.minimum:,} sequences; of each class at most {drawn}."
    rate = shape_facts("suites")["rates"].get(settings.model.name)
    split = (settings.sequences.split or "").removeprefix("memories_")
    published = shape_facts("pythia")["splits"].get(split, {}).get("memories")
    expected = (
        "how many of these sequences the model repeats is not known before the stage 'continue' "
        "has run."
    )
    if data.frame is None and rate is not None and data.n_memorized is not None:
        expected = (
            f"about {data.n_memorized:,} memorized ({rate['share']:.0%}: {rate['of']}), the others "
            "Non-Memo."
        )
    elif data.frame is None and published is not None:
        expected = (
            f"{published:,} memorized sequences are published. A class with "
            f"{label.per_class / published:.1%} of them fills its sample."
        )
    if data.frame is None or data.n_memorized is None:
        yield f"Expected: {expected} {wants}"
    for _, _, words in need.drawn[:_MOST_DRAWN]:
        yield f"Drawn: {words}."


def measured_spread(study: Study) -> float | None:
    """The standard deviation of gains, nats, with which a study sees what its benchmark says.

    What trainings add to it is in it. The largest of its taxonomies; None where none has a gain.
    """
    if not study.is_done("benchmark"):
        return None
    entries, found = samples_of(study), []
    rows = study.benchmark.filter("is_headline", variant=MAIN).drop_nulls("gain_seen")
    for row in rows_of(rows):
        entry, n_classes = entries[SampleKey(row["taxonomy"])], len(row["f1"])
        n = (row["n_groups"] or row["n_eval"]) // n_classes
        n_trained = n * (1 - 1 / N_FOLDS) if entry.split_by == "folds" else entry.n_train
        if n >= FEWEST_GROUPS and n_trained:
            found.append(SPREAD * row["gain_seen"] / expected_seen(n, n_trained, n_classes))
    return max(found, default=None)


NO_POWER = "Power: none."


def power_line(
    settings: StudySettings,
    n_sequences: int | None,
    taxonomies: Sequence[Taxonomy],
    need: Need,
    measured: Study | None = None,
) -> str:
    """The smallest gain that a study should show: of what is drawn, else of equal classes.

    Gains spread as in the finished benchmark of `measured`, else as is assumed.
    """
    return f"Power: {_power(settings, n_sequences, taxonomies, need, measured)}"


def _power(
    settings: StudySettings,
    n_sequences: int | None,
    taxonomies: Sequence[Taxonomy],
    need: Need,
    measured: Study | None,
) -> str:
    label, is_folds = settings.label, settings.label.split == "folds"
    n_classes = min((_fewest_classes(settings, one) for one in taxonomies), default=2)
    n_most = label.per_class if n_sequences is None else n_sequences // n_classes
    if need.impossible and not need.samples:
        return "none: no taxonomy can be trained on these sequences, see below."
    drawn = min((one[:2] for one in need.drawn), default=None)
    if drawn:
        n_most = drawn[1] if is_folds else sum(drawn)
    if n_most < label.minimum:
        limit = settings.sequences.limit
        is_cut = limit is not None and n_sequences == limit
        more = "a larger sequences.limit" if is_cut else "more texts"
        return (
            f"none. {n_sequences:,} sequences cannot give {n_classes} classes of "
            f"{label.minimum:,} each (label.minimum), so nothing will be trained: the run ends "
            f"with counts, passages and a report. For a verdict give {more}."
        )
    n_asked: list[int] = []
    sees, known = [], None if measured is None else measured_spread(measured)
    spreads = SPREADS if known is None else (known,)
    for n_drawn in (min(n_most, label.per_class), min(label.minimum, label.per_class)):
        n = n_drawn if is_folds else max(2, n_drawn * label.n_eval // label.per_class)
        if drawn and not n_asked:
            n = drawn[1]
        n_trained = n_drawn * (1 - 1 / N_FOLDS) if is_folds else n_drawn - n
        n_asked.append(n)
        seen = (expected_seen(n, n_trained, n_classes) * one / SPREAD for one in spreads)
        sees.append(
            f"about {' to '.join(map(nats, seen))}"
            if n >= FEWEST_GROUPS
            else f"nothing, for a verdict needs {FEWEST_GROUPS}"
        )
    if n_asked[0] < FEWEST_GROUPS:
        return (
            f"none. A verdict needs {FEWEST_GROUPS} evaluation sequences of each class at "
            f"least, and here are {n_asked[0]:,}. Take more sequences."
        )
    equal = ""
    if n_sequences is not None and not drawn and n_most < label.per_class:
        equal = f" (at most, if the {n_sequences:,} are {n_classes} classes of one size)"
    how = f"Gains differ by {spreads[0]:.2g} nats (standard deviation) from sequence to sequence, "
    how += f"trainings included, as measured in {measured.folder}." if measured else ""
    if known is None:
        low, high = SPREADS
        how = (
            f"Assumed, not measured: gains differ by {low:g} to {high:g} nats (standard deviation) "
        )
        how += "from sequence to sequence, as in studies of known truth (docs/verdicts.md)."
    return (
        f"the least gain that counts is {EFFECT:g} nats a sequence. With {n_asked[0]:,} evaluation "
        f"sequences of each class{equal} a study sees {sees[0]} in {100 * POWER:g} % of cases; "
        f"with {n_asked[1]:,}, the fewest it takes, {sees[1]}. Near duplicates count once. "
        f"{how}"
    )
