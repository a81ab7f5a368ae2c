"""Stage `label`: give each sequence a class under each taxonomy, draw samples and split them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
from pydantic import TypeAdapter

from mnemoscope.columns import Column, schema_of
from mnemoscope.data.features import TEXT_MEASURES, measure_text
from mnemoscope.data.read import RESULTS
from mnemoscope.data.table import has_values, whole_mask
from mnemoscope.errors import UserError, nearest
from mnemoscope.pipeline.published_split import fit_labels
from mnemoscope.progress import say
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import LabelSettings, StudySettings, Variant, VariantName, variants
from mnemoscope.study.stages import rests_on
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.groups import SHINGLE, SIMILARITY, find_groups
from mnemoscope.taxonomy.labels import count_classes
from mnemoscope.taxonomy.names import NON_MEMO, Alias, Taxonomy, find_aliases, memorized_first
from mnemoscope.taxonomy.sample import (
    KEY_COLUMNS,
    Impossible,
    Sample,
    SampleKey,
    SharedNeed,
    draw_sample,
    order_table,
    shared_need,
)
from mnemoscope.words import plural

if TYPE_CHECKING:
    from mnemoscope.study.models import Models

LABELS_FILE = "labels.parquet"
SAMPLES_FILE = "samples.parquet"
MEASURES_FILE = "measures.parquet"
_MADE = ("duplicates", "is_code", "group")
SAMPLE_COLUMNS = {
    **KEY_COLUMNS,
    "sequence_id": Column(pl.Int64, "a sequence of the study"),
    "class": Column(pl.String, "its class"),
    "class_index": Column(pl.Int64, "number of that class among those that are trained, from 0"),
    "split": Column(pl.String, "`train` or `eval`, each class alike; in folds `eval` alone"),
    "group": Column(pl.Int64, "smallest `sequence_id` among its near duplicates"),
    "suffix": Column(pl.String, "`true` or `own`: what is shown after the prefix"),
}
_SCHEMA = schema_of(SAMPLE_COLUMNS)


@dataclass(frozen=True)
class SampleEntry:
    """What the manifest stores about one sample."""

    taxonomy: str
    variant: VariantName
    published_name: str
    title: str  # of the variant: which sequences, in a few words
    note: str  # what is special about them, empty for the main sample
    split_by: str  # `group`, `row` or `folds`
    classes: Sequence[str]
    meanings: Sequence[str]  # one a class, in words
    counts: dict[str, int]  # sequences of the table a class
    unlabelled: int
    impossible: str | None = None  # why it cannot be trained; then nothing below is known
    flags: str = ""  # of `run`: what would help, without other sequences
    trained_classes: Sequence[str] = ()
    dropped: Sequence[str] = ()
    warnings: Sequence[str] = ()
    n_train: int = 0  # of every class
    n_eval: int = 0
    n_groups_crossing: int | None = None

    @property
    def key(self) -> SampleKey:
        """What names it in tables."""
        return SampleKey(self.taxonomy, self.variant)

    @property
    def shown(self) -> str:
        """What it is called where people read it."""
        return self.taxonomy if self.key.is_main else f"{self.taxonomy} ({self.title})"


class Drawn(NamedTuple):
    """Labels of one table by taxonomy, its samples, and what the manifest stores of each.

    `aliases` are taxonomies that divide the rows like an earlier one, and are not drawn.
    """

    labels: dict[str, pl.Series]
    aliases: dict[str, Alias]
    entries: dict[SampleKey, SampleEntry]
    samples: pl.DataFrame
    need: SharedNeed


def check_match(frame: pl.DataFrame, match: str | None, where: str) -> None:
    """Raise UserError if classes are to be matched by a column that will not be there."""
    if match is not None and match not in (*frame.columns, *RESULTS, *_MADE):
        raise UserError(
            f"{where}: no column '{match}' to match by (label.match)."
            f"{nearest(match, frame.columns)} It holds: {', '.join(frame.columns)}."
        )


def label_stage(study: Study, models: "Models") -> None:  # noqa: ARG001 - all stages are called alike
    """Write `labels.parquet` (a column per taxonomy) and `samples.parquet` (the training samples).

    What the taxonomies ask of the text beside the features is written to `measures.parquet`.

    The manifest lists taxonomies that cannot be trained with the reason, and those that divide
    these sequences like another as its aliases.
    """
    from mnemoscope.library.given import N_PREFIX  # with torch, which the dry run does without
    from mnemoscope.library.sequences import classify

    study.require("continue")
    study.require("features")
    with study.finishing("label") as counts:
        taxonomies, frame = load_taxonomies(study.settings.label.taxonomies), study.sequences
        named = dict.fromkeys(column for one in taxonomies for column in one.columns)
        lacking = [one for one in named if not has_values(frame, one)]
        taxonomies = without_unasked(taxonomies, lacking, study.settings)
        asked = {column for taxonomy in taxonomies for column in taxonomy.columns}
        if (measures := text_measures(frame, asked)) is not None:
            study.write(MEASURES_FILE, measures)
            frame = study.sequences
        prefix = pl.lit(study.settings.sequences.n_prefix).alias(N_PREFIX)
        classed = classify(frame.with_columns(prefix), taxonomies)
        labels = {one.name: classed[one.name].cast(pl.String) for one in taxonomies}
        frame = frame.with_columns(find_groups(frame).alias("group"))
        drawn = draw_samples(frame, taxonomies, labels, study.settings)
        study.write(LABELS_FILE, frame.select("sequence_id").with_columns(**drawn.labels))
        study.write(SAMPLES_FILE, drawn.samples, SAMPLE_COLUMNS)
        sizes = frame["group"].value_counts(sort=True)["count"]
        counts |= {
            "distinct_sequences": drawn.need.n_sequences,
            "distinct_maps": drawn.need.n_maps,
            "maps_without_sharing": drawn.need.n_unshared,
            "aliases": {name: alias._asdict() for name, alias in drawn.aliases.items()},
            "near_duplicates": {
                "shingle": SHINGLE,
                "jaccard": SIMILARITY,
                "groups": len(sizes),
                "sequences_with_relatives": int(sizes.filter(sizes > 1).sum()),
                "largest_group": max(sizes.to_list(), default=0),
            },
            "samples": [asdict(one) for one in drawn.entries.values()],
        }
        _tell(drawn, len(taxonomies))
        study.forget("capture")  # an earlier capture may lack what is sampled now


def without_unasked(
    taxonomies: Sequence[Taxonomy], lacking: Collection[str], settings: StudySettings
) -> list[Taxonomy]:
    """Leave out those that need a column that is lacking, unless the user named them.

    All stay where none would be left.
    """
    is_asked = settings.label.taxonomies != LabelSettings().taxonomies
    has_all = [one for one in taxonomies if is_asked or not set(lacking) & set(one.columns)]
    return has_all or list(taxonomies)


def text_measures(table: pl.DataFrame, asked: Collection[str]) -> pl.DataFrame | None:
    """`sequence_id` and those of `TEXT_MEASURES` that nodes ask and the table lacks, if any."""
    names = [name for name in TEXT_MEASURES if name in asked and name not in table.columns]
    return table.select("sequence_id").hstack(measure_text(table, names)) if names else None


_ENTRIES = TypeAdapter(list[SampleEntry])
_ALIASES = TypeAdapter(dict[str, Alias])


def samples_of(study: Study) -> dict[SampleKey, SampleEntry]:
    """The manifest's entry of each sample, a taxonomy's main one first; none before the stage."""
    entries = _ENTRIES.validate_python(_counts_of(study).get("samples", []))
    return {one.key: one for one in entries}


def in_shown_order(samples: Mapping[SampleKey, SampleEntry]) -> dict[SampleKey, SampleEntry]:
    """Samples as people see them: what can be trained first, last what lacks a column."""
    mains = {key.taxonomy: one for key, one in samples.items() if key.is_main}

    def rank(key: SampleKey) -> tuple[bool, bool]:
        main = mains[key.taxonomy]
        return bool(main.impossible), main.unlabelled > 0

    return {key: samples[key] for key in sorted(samples, key=rank)}


def drawn_words(entry: SampleEntry, *, is_brief: bool = False) -> str:
    """How many sequences there are of each class, and how many of each were drawn.

    Where no CNN can be trained, why, and unless `is_brief` what would help.

    A repetition on other sequences (same genre, say) draws its own from the same classes, so it
    says only what it drew.
    """
    if entry.impossible:
        reason = entry.impossible.partition(" (")[0].partition(". ")[0].removesuffix(".")
        brief = f"{reason} (more: --verbose)."
        return f"no CNN can be trained. {brief if is_brief else entry.impossible}"
    drawn = f"of each class {entry.n_train:,} train and {entry.n_eval:,} test the CNNs"
    if entry.split_by == "folds":
        drawn = f"of each class {entry.n_eval:,} train and test the CNNs in folds"
    if not entry.key.is_main:
        return drawn
    left_out = dict.fromkeys(entry.dropped, " (left out)")
    counts = [
        f"{name} {entry.counts.get(name, 0):,}{left_out.get(name, '')}"
        for name in memorized_first(entry.classes)
    ]
    counts += [f"{entry.unlabelled:,} without a class"] if entry.unlabelled else []
    return f"{', '.join(counts)}; {drawn}"


_REASONS_SAID = 3


def nothing_to_train(study: Study) -> str | None:
    """Why no taxonomy can be trained; None where one can."""
    if (mask := whole_mask(study.sequences)) is not None:
        return (
            f"{study.folder}: {int((mask == 0).any(axis=1).sum()):,} of {len(mask):,} sequences "
            "are padded, so nothing is trained: the shorter a suffix, the easier it comes out, and "
            "length alone would tell the classes. labels.parquet has them. To train, leave "
            "sequences.pad off."
        )
    samples = list(samples_of(study).values())
    reasons = [f"{one.shown}: {one.impossible}" for one in samples if one.impossible]
    if len(reasons) < len(samples):
        return None
    if not study.sequences["is_memorized"].any():
        reasons = [str(samples[0].impossible)]  # all have the same reason
    further = len(reasons) - _REASONS_SAID
    more = f" And {further:,} more, see manifests/label.json." if further > 0 else ""
    said = " ".join(reasons[:_REASONS_SAID])
    return f"{study.folder}: no taxonomy can be trained. {said}{more}"


def why_without_cnns(study: Study, stage: str) -> str | None:
    """Why a stage cannot be run: it needs CNNs, and none can be trained; None where it can.

    A search trains CNNs of its own on captured attention. Without a taxonomy that can be trained no
    sequence is drawn, so nothing is captured; what was captured before can be searched.
    """
    first = "train" if study.is_done("capture") else "capture"
    is_of_cnns = stage != "report" and rests_on(stage, first)  # a report is written without
    is_open = is_of_cnns and not study.is_done(stage) and study.is_done("label")
    return nothing_to_train(study) if is_open else None


def aliases_of(study: Study) -> dict[str, Alias]:
    """Taxonomies not trained because another divides these sequences alike, by name."""
    return _ALIASES.validate_python(_counts_of(study).get("aliases", {}))


def sharing_of(study: Study) -> SharedNeed | None:
    """What all samples need, together and separately; None before the stage has run."""
    counts = _counts_of(study)
    names = ("distinct_sequences", "distinct_maps", "maps_without_sharing")
    return SharedNeed(*(counts[name] for name in names)) if counts else None


def _counts_of(study: Study) -> Any:
    return (study.manifest("label") or {"counts": {}})["counts"]


def draw_samples(
    frame: pl.DataFrame,
    taxonomies: Sequence[Taxonomy],
    labels: dict[str, pl.Series],
    settings: StudySettings,
) -> Drawn:
    """Sample each partition of a table once, in every variant.

    `labels` are the class of each row under each taxonomy, by its name. `frame` needs `group` if
    split by group, and the column that classes are matched by. Raises UserError: one is missing.
    """
    wanted = settings.label
    tables = {
        variant: order_table(frame, seed=wanted.seed, split=variant.split, match=variant.match)
        for variant in variants(wanted)
    }
    aliases = find_aliases(taxonomies, labels)
    entries: dict[SampleKey, SampleEntry] = {}
    rows = [pl.DataFrame(schema=_SCHEMA)]
    for taxonomy in taxonomies:  # aliases come after the taxonomy they refer to
        alias = aliases.get(taxonomy.name)
        if alias is not None and not entries[SampleKey(alias.of)].impossible:
            continue
        aliases.pop(taxonomy.name, None)  # it has its own reason why it cannot be trained
        given = labels[taxonomy.name]
        fit = fit_labels(frame, given, taxonomy, settings)
        sizes = (wanted.n_train, wanted.n_eval)
        for variant, table in tables.items():
            outcome = draw_sample(
                table,
                fit,
                taxonomy,
                n_train=sizes[0],
                n_eval=sizes[1],
                drop_small_classes=wanted.drop_small_classes,
                minimum=wanted.minimum,
            )
            entry = _entry(taxonomy, variant, given, outcome)
            entries[entry.key] = entry
            if isinstance(outcome, Sample):
                rows.append(_rows(entry.key, outcome, variant))
                if entry.key.is_main:  # repetitions train on no more than the main sample
                    sizes = (outcome.n_train, outcome.n_eval)
    samples = pl.concat(rows)
    of = [alias.of for alias in aliases.values()]
    n_names = {one.taxonomy: 1 + of.count(one.taxonomy) for one in entries}
    return Drawn(labels, aliases, entries, samples, shared_need(samples, n_names))


def _entry(
    taxonomy: Taxonomy, variant: Variant, labels: pl.Series, outcome: Sample | Impossible
) -> SampleEntry:
    entry = SampleEntry(
        taxonomy=taxonomy.name,
        variant=variant.name,
        published_name=taxonomy.published_name,
        title=variant.title,
        note=variant.note,
        split_by=variant.split,
        classes=taxonomy.classes,
        meanings=[
            "the model's continuation differs from the text's suffix",
            *[f"memorized, and {node.meaning}" for node in taxonomy.nodes],
            f"memorized, and not {' or '.join(node.name for node in taxonomy.nodes)}",
        ],
        counts=count_classes(labels, taxonomy.classes),
        unlabelled=labels.null_count(),
    )
    if isinstance(outcome, Impossible):
        return replace(entry, impossible=str(outcome), flags=outcome.flags)
    return replace(
        entry,
        trained_classes=outcome.classes,
        dropped=outcome.dropped,
        warnings=outcome.warnings,
        n_train=outcome.n_train,
        n_eval=outcome.n_eval,
        n_groups_crossing=outcome.n_groups_crossing,
    )


def _rows(key: SampleKey, sample: Sample, variant: Variant) -> pl.DataFrame:
    """A sample's rows, with what each sequence shows after its prefix."""
    shown = pl.when(pl.col("class") == NON_MEMO).then(pl.lit(variant.non_memo_suffix))
    names = {name: pl.lit(value) for name, value in key._asdict().items()}
    frame = sample.frame.with_columns(suffix=shown.otherwise(pl.lit("true")), **names)
    return frame.select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items())


def _tell(drawn: Drawn, n_names: int) -> None:
    entries, n_aliases = drawn.entries, len(drawn.aliases)
    impossible = [one for one in entries.values() if one.impossible]
    if len(impossible) == len(entries):
        return  # the next stage says why
    for one in impossible:
        say(f"{one.shown}: no CNN can be trained. {one.impossible}")
    same = f" ({n_aliases} divide these sequences as another does)" if n_aliases else ""
    taxonomies = "1 taxonomy" if n_names == 1 else f"{n_names:,} taxonomies"
    say(f"{taxonomies} in {plural(len(entries), 'sample')}{same}: {drawn.need}.", is_detail=True)
