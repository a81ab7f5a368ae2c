"""Draw a class-balanced sample of a labelled table, divided into training and evaluation.

Every class gives the same number of sequences to each side. One order of all sequences, fixed
by the seed and by nothing else, serves all taxonomies, so that they share most of their maps.
Where a sample cannot be drawn, `Impossible` says which class is in the way and what helps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl

from mnemoscope.columns import Column
from mnemoscope.data.folders import unrepeated
from mnemoscope.errors import UserError, nearest
from mnemoscope.stats import FEWEST_GROUPS
from mnemoscope.taxonomy.draw import Draw, Pool, draw_balanced, draw_lots, order_keys
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.labels import count_classes
from mnemoscope.taxonomy.names import Taxonomy
from mnemoscope.words import plural, rounded

PAPER_N_TRAIN, PAPER_N_EVAL = 4000, 2000
"""Sequences a class in arXiv 2508.02573."""
MINIMUM = 60
"""Sequences a class, training and evaluation together, below which nothing is trained.

Sixty are 40 + 20 in the paper's proportion; on 20 evaluation sequences the 95 % interval of a
share of one half is 0.4 wide (Wilson), so that fewer say next to nothing.
"""
N_FOLDS = 5
"""Parts into which all sequences are divided where each is asked by what trained on the others."""
_LARGE_GROUP = 0.1
MAIN = "main"
"""Variant of the sample that a taxonomy is measured on first; repetitions have other names."""


class SampleKey(NamedTuple):
    """The two columns that name a sample in every table of what was measured on it."""

    taxonomy: str
    variant: str = MAIN

    @property
    def is_main(self) -> bool:
        """Whether it is the taxonomy's first sample, no repetition."""
        return self.variant == MAIN


KEY_COLUMNS = {
    "taxonomy": Column(pl.String, "its name"),
    "variant": Column(
        pl.String,
        "on which sequences: `main`, or of a repetition `own_suffix`, `true_suffix`, `row_split`, "
        "`group_split`, `equal_shares` (`label.match`)",
    ),
}


@dataclass(frozen=True)
class Sample:
    """A balanced sample; `classes` are those that were sampled, in the taxonomy's order.

    `frame` has sequence_id, class, class_index (from 0, in the order of `classes`), split ("train"
    or "eval"; of folds "eval" alone) and group; training first, each side in the order of the seed.
    `n_train` and `n_eval` are of every class, of folds the same ones; `counts` of the table, "null"
    those without a class. `n_groups_crossing` is None where the split is by row and the table has
    no column ``group``.
    """

    frame: pl.DataFrame
    classes: tuple[str, ...]
    n_train: int
    n_eval: int
    split: str
    counts: dict[str, int]
    dropped: tuple[str, ...]
    n_groups_crossing: int | None
    warnings: tuple[str, ...]


_GIVE = {"duplicates": "--set features.corpus=TEXTS"}


@dataclass(frozen=True)
class Impossible:
    """Why a taxonomy cannot be sampled: which class has how many sequences, and what helps.

    `needed` are sequences of every class, training and evaluation together; `flags` of `run` are
    the remedy that needs no other sequences, empty where there is none.
    """

    reason: str
    counts: dict[str, int]
    needed: int
    remedy: str
    flags: str = ""

    def __str__(self) -> str:
        others = {k: n for k, n in self.counts.items() if f"{k} has {n:,}" not in self.reason}
        counted = ", ".join(f"{name} {n:,}" for name, n in others.items())
        return f"{self.reason}{f' (and {counted})' if others else ''}. {self.remedy}"


@dataclass(frozen=True)
class Ordered:
    """A table in the order of its seed: what drawing looks at whatever the taxonomy.

    `rows` (sequence_id, group) leave out those without a value to match by; `position` is the row
    of `frame` that each is, `unit` what may not be divided, `stratum` the number of the value that
    is matched, all int64 of shape (n,), `lot` each unit's (see `draw.Pool`), float64.
    """

    frame: pl.DataFrame
    rows: pl.DataFrame
    position: np.ndarray
    unit: np.ndarray
    stratum: np.ndarray
    lot: np.ndarray
    split: str
    match: str | None
    seed: int


def order_table(
    frame: pl.DataFrame, *, seed: int, split: str = "group", match: str | None = None
) -> Ordered:
    """Bring a table with ``sequence_id`` into the order of its seed, once for all taxonomies.

    The seed alone fixes the order; that of the table's rows plays no part. Split "group" keeps
    groups (found where the table has none) on one side, "folds" in one fold, "row" does not.
    `match` is a column (such as "genre") of which every class gets each value equally often, on
    either side; rows where it is null are left out. Raises UserError: unknown split or column,
    sequence ids that are not unique.
    """
    _check_table(frame, split=split, match=match)
    own_group = pl.col("sequence_id").cast(pl.String)
    if "group" in frame.columns:
        groups = frame["group"]
    else:
        groups = find_groups(frame) if split != "row" else pl.Series([None] * frame.height)
    rows = pl.DataFrame(
        {
            "sequence_id": frame["sequence_id"],
            "group": groups.cast(pl.String),
            "matched": [""] * frame.height if match is None else frame[match].cast(pl.String),
            "key": order_keys(frame["sequence_id"].to_numpy(), seed),
        }
    )
    rows = (
        rows.with_row_index("position")
        .sort("key")
        .with_columns(pl.col("group").fill_null(own_group))
    )
    by_group = rows["group"].rank("dense").cast(pl.Int64).to_numpy()
    unit = by_group if split != "row" else np.arange(rows.height)
    kept = rows.with_columns(unit=unit, lot=draw_lots(rows["key"].to_numpy(), unit)).drop_nulls(
        "matched"
    )
    return Ordered(
        frame=frame,
        rows=kept.select("sequence_id", "group"),
        position=kept["position"].to_numpy().astype(np.int64),
        unit=kept["unit"].to_numpy(),
        stratum=kept["matched"].rank("dense").cast(pl.Int64).to_numpy() - 1,
        lot=kept["lot"].to_numpy(),
        split=split,
        match=match,
        seed=seed,
    )


def draw_sample(
    ordered: Ordered,
    labels: pl.Series,
    taxonomy: Taxonomy,
    *,
    n_train: int = PAPER_N_TRAIN,
    n_eval: int = PAPER_N_EVAL,
    drop_small_classes: bool = False,
    minimum: int = MINIMUM,
) -> Sample | Impossible:
    """Draw the same number of sequences of every class for each side, from an ordered table.

    Where a class has too few, all classes shrink in proportion, or small ones are left out on
    request. By group, no group stands on both sides, and every group gives one sequence before any
    gives a second; by row, every class gives its first sequences in the order of the seed, as in
    the paper; for folds `n_train` of every class are drawn, by groups as well, and all evaluated.
    `labels` are the classes of the table as it was given, null is left out; of `minimum` a class
    must have both sides together, or as many as are asked for where these are fewer. Raises
    UserError: a size below 1.
    """
    if n_train < 1 or n_eval < 1:
        raise UserError(
            f"n_train {n_train}, n_eval {n_eval}: at least one sequence a class is needed on "
            "each side."
        )
    asked = _Asked(ordered, labels, taxonomy, n_train, n_eval, minimum, drop_small_classes)
    counts, n_folds = count_classes(labels, taxonomy.classes), asked.n_folds
    rows, pool = _label_pool(ordered, labels, taxonomy)
    draw = asked.draw(pool)
    missing, lacking = _explain_null(ordered.frame, labels, taxonomy)
    if not draw.is_enough(asked.needed, n_folds=n_folds):
        told = _explain(asked, pool, counts, lacking)
        return replace(told, reason=f"{told.reason}; {missing}") if missing else told
    sampled = _make_frame(rows, draw, taxonomy, n_train=0 if n_folds else draw.n_train)
    sides = sampled.group_by("group").agg(pl.col("split").n_unique())
    classes = tuple(taxonomy.classes[index] for index in draw.classes)
    dropped = tuple(name for name in taxonomy.classes if name not in classes)
    has_groups = ordered.split != "row" or "group" in ordered.frame.columns
    return Sample(
        frame=sampled,
        classes=classes,
        n_train=draw.n_train,
        n_eval=draw.n_train if n_folds else draw.n_eval,
        split=ordered.split,
        counts=counts,
        dropped=dropped,
        n_groups_crossing=int((sides["split"] > 1).sum()) if has_groups else None,
        warnings=(
            *_warn_small(draw, classes, counts, (n_train, asked.sizes["n_eval"])),
            *(
                f"class {one} is left out: {plural(counts[one], 'sequence')}, too few."
                for one in dropped
            ),
            *([f"{missing}."] if missing else []),
            *_warn_large_groups(rows, sampled, classes),
        ),
    )


@dataclass(frozen=True)
class _Asked:
    """What is asked of a table, so that a remedy can be tried before it is advised."""

    ordered: Ordered
    labels: pl.Series
    taxonomy: Taxonomy
    n_train: int
    n_eval: int
    minimum: int
    drop_small_classes: bool

    @property
    def n_folds(self) -> int:
        return N_FOLDS if self.ordered.split == "folds" else 0

    @property
    def sizes(self) -> dict[str, int]:
        """Sequences of every class on either side; folds have one."""
        return {"n_train": self.n_train, "n_eval": 0 if self.n_folds else self.n_eval}

    @property
    def needed(self) -> int:
        """Sequences that every class must have, both sides together."""
        return max(2, min(self.minimum, sum(self.sizes.values())))

    def draw(self, pool: Pool) -> Draw:
        """Draw of all classes, or of those that are left where small ones may be left out."""
        draw = draw_balanced(pool, range(len(self.taxonomy.classes)), **self.sizes)
        while (
            self.drop_small_classes
            and not draw.is_enough(self.needed, n_folds=self.n_folds)
            and len(draw.classes) > 2
        ):
            draw = _drop_one(pool, draw, **self.sizes)
        return draw

    def reaches_a_verdict(self) -> bool:
        """Whether a sample comes of it, with groups enough on its evaluation side for intervals."""
        rows, pool = _label_pool(self.ordered, self.labels, self.taxonomy)
        draw = self.draw(pool)
        if not draw.is_enough(self.needed, n_folds=self.n_folds):
            return False
        n_train = 0 if self.n_folds else draw.n_train
        drawn = _make_frame(rows, draw, self.taxonomy, n_train=n_train).filter(split="eval")
        n_groups: pl.Series = drawn.group_by("class").agg(pl.col("group").n_unique())["group"]
        return bool((n_groups >= FEWEST_GROUPS).all())


def _check_table(frame: pl.DataFrame, *, split: str, match: str | None) -> None:
    if split not in (known := ("group", "row", "folds")):
        hint = nearest(split, known)
        raise UserError(f"split '{split}' is unknown.{hint} Choose group, row or folds.")
    if match is not None and match not in frame.columns:
        hint = nearest(match, frame.columns)
        raise UserError(f"classes cannot be matched by '{match}': no such column.{hint}")
    if frame["sequence_id"].n_unique() < frame.height:
        raise UserError("column 'sequence_id' holds an id twice. Number the sequences anew.")


def _label_pool(
    ordered: Ordered, labels: pl.Series, taxonomy: Taxonomy
) -> tuple[pl.DataFrame, Pool]:
    """Rows that have a class, in the order of the seed, and what drawing looks at as numbers."""
    class_index = taxonomy.codes(labels)[ordered.position]
    kept = np.flatnonzero(class_index >= 0)
    arrays = (class_index, ordered.unit, ordered.stratum, ordered.lot)
    rows = ordered.rows.with_columns(labels.gather(ordered.position).alias("class"))[kept]
    return rows, Pool(*(array[kept] for array in arrays))


def _drop_one(pool: Pool, draw: Draw, *, n_train: int, n_eval: int) -> Draw:
    """Leave out the class without which most can be drawn; of equals the smallest."""
    trials = []
    for dropped in draw.classes:
        rest = [index for index in draw.classes if index != dropped]
        trial = draw_balanced(pool, rest, n_train=n_train, n_eval=n_eval)
        n_dropped = int((pool.class_index == dropped).sum())
        trials.append((trial.n_train + trial.n_eval, -n_dropped, dropped, trial))
    return max(trials, key=lambda entry: entry[:3])[3]


def _make_frame(
    rows: pl.DataFrame, draw: Draw, taxonomy: Taxonomy, *, n_train: int
) -> pl.DataFrame:
    n_train_rows = n_train * len(draw.classes)
    numbers = {taxonomy.classes[old]: new for new, old in enumerate(draw.classes)}
    return rows[draw.rows].select(
        "sequence_id",
        "class",
        pl.col("class").replace_strict(numbers, return_dtype=pl.Int64).alias("class_index"),
        pl.Series("split", ["train"] * n_train_rows + ["eval"] * (len(draw.rows) - n_train_rows)),
        "group",
    )


def _warn_small(
    draw: Draw, classes: tuple[str, ...], counts: dict[str, int], wanted: tuple[int, int]
) -> list[str]:
    if (draw.n_train, draw.n_eval) == wanted:
        return []
    fewest = min(classes, key=lambda name: counts[name])
    sides = " (training + evaluation)" if wanted[1] else ""
    return [
        f"every class gives {_both(draw.n_train, draw.n_eval)} sequences{sides} in place of "
        f"{_both(*wanted)}; the smallest, {fewest}, has {counts[fewest]:,}."
    ]


def _both(n_train: int, n_eval: int) -> str:
    """Sequences of either side; of folds, which have one, no sum."""
    return f"{n_train:,} + {n_eval:,}" if n_eval else f"{n_train:,}"


def _warn_large_groups(
    rows: pl.DataFrame, sampled: pl.DataFrame, classes: tuple[str, ...]
) -> list[str]:
    """Groups that make up more than a tenth of a class, in the table or in the sample."""
    by = ["class", "group"]
    share = (pl.col("len") / pl.col("len").sum().over("class")).alias("share")
    found = (
        rows.filter(pl.col("class").is_in(classes))
        .group_by(by)
        .agg(pl.len(), pl.col("sequence_id").min().alias("example"))
    )
    drawn = sampled.group_by(by).len().with_columns(share).select(*by, drawn="share")
    large = (
        found.with_columns(share)
        .filter(pl.col("len") > 1)
        .join(drawn, on=by, how="left")
        .with_columns(pl.col("drawn").fill_null(0.0))
        .filter(pl.max_horizontal("share", "drawn") > _LARGE_GROUP)
        .sort("class", "len", "example")
    )
    named = large.select("class", "example", "share", "drawn")
    return [_say_large(*row) for row in named.iter_rows()]


def _say_large(name: str, example: int, share: float, drawn_share: float) -> str:
    holds = (
        f"class {name}: one group of near duplicates (such as sequence {example}) holds "
        f"{share:.0%} of its sequences"
    )
    if drawn_share > _LARGE_GROUP:
        return (
            f"{holds} and {drawn_share:.0%} of its sample; its figures speak of that text more "
            "than of the class."
        )
    return f"{holds}; the sample takes {drawn_share:.1%} from it and speaks of the others."


def _explain(asked: _Asked, pool: Pool, counts: dict[str, int], lacking: list[str]) -> Impossible:
    """What is in the way and what helps; `lacking` are columns without which there is no class."""
    taxonomy, needed = asked.taxonomy, asked.needed
    n_other = counts[taxonomy.classes[0]]
    n_memorized = sum(counts[name] for name in taxonomy.classes[1:])
    if not n_memorized or not n_other:
        reason, remedy = _name_one_sided(n_other, n_memorized)
        flags = ""
        if lacking and not n_memorized:
            remedy, flags = f"{_give(lacking)}.", _GIVE.get(lacking[0], "")
        elif n_other or n_memorized:
            remedy += _how_much_more(asked, counts, ())
    else:
        small = [name for name in taxonomy.classes if counts[name] < needed]
        whole = replace(asked, drop_small_classes=False).draw(pool)
        reason = _name_cause(whole, taxonomy, counts, small, asked.ordered.match)
        ways = [(_more(counts, small, needed), "")]
        ways += _ways_that_work(asked, whole)
        flags = next((flags for _, flags in ways if flags), "")
        if lacking:
            ways.insert(0, (_give(lacking), ""))
            flags = _GIVE.get(lacking[0], flags)
        said = [f"{words} with {flags} --redo" if flags else words for words, flags in ways]
        remedy = f"{', or '.join(said)}."
        if not lacking:
            remedy += _how_much_more(asked, counts, whole.n_units, whole.n_train + whole.n_eval)
    reason = f"{needed:,} sequences of every class are needed, but {reason}"
    return Impossible(reason, counts, needed, remedy[0].upper() + remedy[1:], flags)


def _give(lacking: list[str]) -> str:
    """How to make known what sequences have no class for want of."""
    if lacking == ["duplicates"]:
        return (
            "give the training texts (features.corpus), in which duplicates are counted, or a "
            "table with a column 'duplicates'"
        )
    return f"give a table with {' and '.join(lacking)} of every sequence"


def _name_one_sided(n_other: int, n_memorized: int) -> tuple[str, str]:
    """Nothing is memorized, or everything: no taxonomy can be trained, so fewer would not help."""
    if n_other:
        return (
            f"none of the {plural(n_other, 'sequence')} with a class is memorized",
            "take sequences that the model saw in training, best many times, or a model that "
            "memorizes more, such as a larger one.",
        )
    if n_memorized:
        return (
            f"all {n_memorized:,} sequences with a class are memorized"
            if n_memorized > 1
            else "the one sequence with a class is memorized",
            "add sequences that the model does not reproduce.",
        )
    return "no sequence has a class", "add the features that are missing."


def _more(counts: dict[str, int], small: list[str], needed: int) -> str:
    """How many sequences are wanting."""
    wanting = [f"{needed - counts[name]:,} of {name}" for name in small]
    return f"add sequences ({', '.join(wanting)})" if wanting else "add other texts"


def _how_much_more(
    asked: _Asked, counts: dict[str, int], n_units: Sequence[int], n_usable: int = 0
) -> str:
    """About how much more text like this gives enough, by the rates found: a sentence.

    `n_units` of each class may not be divided; `n_usable` sequences of every class could be drawn.
    """
    frame, classes = asked.ordered.frame, asked.taxonomy.classes
    if none := [name for name in classes if not counts[name]]:
        said = "memorized sequence" if {*none} == {*classes[1:]} else " or ".join(none)
        return f" How much more text that takes cannot be foreseen: no {said} was found here."
    fewest = n_usable or min(counts[name] for name in classes)
    times = max(asked.needed / fewest, (asked.n_folds or 2) / max(1, min(n_units, default=1)))
    is_read = counts[classes[0]] > min(counts.values())  # what is scarce is memorized
    apart = unrepeated(frame) if is_read else {}
    n_rows = frame.height - sum(apart.values())
    n_more = rounded((times - 1) * n_rows)
    if n_more < 1:
        return ""
    length = frame["text"].str.len_chars().mean() if "text" in frame.columns else None
    said = f" ({rounded(n_more * float(length)):,} characters)" if isinstance(length, float) else ""
    like = "those it repeats here" if apart else "these"
    return f" There would be enough in about {n_more:,} more sequences{said} of texts like {like}."


def _ways_that_work(asked: _Asked, whole: Draw) -> list[tuple[str, str]]:
    """Settings that give a sample on which a verdict can be reached, each tried, and their flags.

    `whole` is what can be drawn of all classes.
    """
    trials = []
    n_usable = whole.n_train + whole.n_eval
    fewer = replace(asked, minimum=n_usable)
    if not asked.drop_small_classes and len(asked.taxonomy.classes) > 2:
        dropping = replace(asked, drop_small_classes=True)
        trials.append((dropping, "leave small classes out", "--drop-small-classes"))
    here = asked.ordered
    if here.match is not None:
        ordered = order_table(here.frame, seed=here.seed, split=here.split)
        said = f"do not match by {here.match}"
        trials.append((replace(asked, ordered=ordered), said, "--set label.match=null"))
    if 0 < n_usable < asked.needed:
        flags = f"--set label.minimum={n_usable}"
        trials.append((fewer, f"ask for no more than {n_usable:,}", flags))
    return [(words, flags) for trial, words, flags in trials if trial.reaches_a_verdict()]


def _name_cause(
    draw: Draw, taxonomy: Taxonomy, counts: dict[str, int], small: list[str], match: str | None
) -> str:
    """Too few in the table, or too few of them of use."""
    if small:
        *most, last = [f"{name} has {counts[name]:,}" for name in small]
        return f"{', '.join(most)} and {last}" if most else last
    usable = f"only {_both(draw.n_train, draw.n_eval)} can be used"
    if match is not None:
        return f"matched by {match} {usable}"
    fewest = min(draw.n_units)
    name = taxonomy.classes[draw.n_units.index(fewest)]
    return (
        f"with near duplicates kept on one side {usable}: the sequences of {name} form "
        f"{fewest:,} group{'' if fewest == 1 else 's'}"
    )


def _explain_null(
    frame: pl.DataFrame, labels: pl.Series, taxonomy: Taxonomy
) -> tuple[str, list[str]]:
    """How many sequences have no class, and for want of which columns."""
    without = frame.filter(labels.is_null())
    if not without.height:
        return "", []
    wanted = [*taxonomy.columns, "is_memorized", "memorization_score"]
    lacking = [name for name in wanted if name in frame.columns and without[name].null_count()]
    cause = f", for want of {', '.join(lacking)}" if lacking else ""
    have = "has" if without.height == 1 else "have"
    return f"{plural(without.height, 'sequence')} {have} no class{cause}", lacking


class SharedNeed(NamedTuple):
    """What the samples of all taxonomies need together."""

    n_sequences: int
    """Distinct sequences."""
    n_maps: int
    """Distinct pairs of sequence and shown suffix: what is captured."""
    n_unshared: int
    """Maps if every name were sampled and captured for itself: the sum of names × classes ×
    (training + evaluation sequences)."""

    def __str__(self) -> str:
        times = f", {self.n_unshared / self.n_maps:.1f} times as many" if self.n_maps else ""
        return (
            f"{self.n_sequences:,} distinct sequences ({self.n_maps:,} maps) for all taxonomies; "
            f"separately they would need {self.n_unshared:,}{times}"
        )


def shared_need(samples: pl.DataFrame, n_names: Mapping[str, int] | None = None) -> SharedNeed:
    """Count what samples need together and apart.

    `samples` has one row a sample and sequence, and a suffix where a sequence may be shown with
    either. `n_names` says how many names a taxonomy serves, 1 unless named: a partition with two
    names is trained once, and apart would be sampled twice.
    """
    names = n_names or {}
    sizes = samples.group_by("taxonomy").len().rows()
    shown = [name for name in ("sequence_id", "suffix") if name in samples.columns]
    return SharedNeed(
        n_sequences=samples["sequence_id"].n_unique(),
        n_maps=samples.select(shown).n_unique() if samples.height else 0,
        n_unshared=sum(size * names.get(name, 1) for name, size in sizes),
    )
