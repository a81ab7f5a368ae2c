"""How many distinct sequences a list of taxonomies needs: exact with labels, else bounds.

Without labels the nodes are asked on a grid of made-up sequences that stand on both sides of
every threshold: two classes with the same answers are the same set of sequences whatever the
data, and two that never both say yes have none in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod

import numpy as np
import polars as pl

from mnemoscope.config import LabelSettings, StudySettings
from mnemoscope.stages.published_split import fit_labels
from mnemoscope.stages.variants import variants
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy, parse_taxonomy
from mnemoscope.taxonomy.nodes import first_yes
from mnemoscope.taxonomy.sampling import Impossible, draw_sample, order_table
from mnemoscope.taxonomy.splitting import find_groups

__all__ = [
    "Overlap",
    "bound_overlap",
    "count_class_sets",
    "count_overlap",
    "distinct_partitions",
    "known_classes",
]

_LARGEST_GRID = 200_000


@dataclass(frozen=True)
class Overlap:
    """Distinct maps that the samples of all taxonomies need together.

    Attributes:
        at_least: a lower bound.
        at_most: an upper bound; equal to `at_least` where it was counted.
        own: of these, maps of a Non-Memo sequence with its continuation, at most.
        without_sharing: maps if each of the named taxonomies captured for itself.
        how: how it was found, in words.
        impossible: taxonomies that cannot be trained, with the reason.
        sampled: names of the samples that are drawn already; None where none are.
    """

    at_least: int
    at_most: int
    own: int
    without_sharing: int
    how: str
    impossible: dict[str, str]
    sampled: frozenset[str] | None = None


def distinct_partitions(taxonomies: Sequence[Taxonomy]) -> list[Taxonomy]:
    """Each partition once, under the name that comes first."""
    first: dict[str, Taxonomy] = {}
    for taxonomy in taxonomies:
        first.setdefault(taxonomy.partition_key, taxonomy)
    return list(first.values())


def count_overlap(
    frame: pl.DataFrame, taxonomies: Sequence[Taxonomy], whole: StudySettings, *, how: str
) -> Overlap:
    """Draw every sample as the stage `label` will, and count what they need together.

    Args:
        frame: table with labels of memorization and the features that the taxonomies need;
            `tokens` where the split is by group.
        taxonomies: as asked for.
        whole: settings of the study.
        how: where the labels are from, in words.

    Returns:
        Exact counts (both bounds are equal).

    Raises:
        UserError: a column is missing.
    """
    settings = whole.label
    choices = variants(settings)
    if any(choice.split == "group" for choice in choices):
        frame = frame.with_columns(find_groups(frame).alias("group"))
    tables = {
        choice: order_table(frame, seed=settings.seed, split=choice.split, match=choice.match)
        for choice in choices
    }
    drawn: set[tuple[int, str]] = set()
    impossible: dict[str, str] = {}
    for taxonomy in distinct_partitions(taxonomies):
        labels = fit_labels(frame, label_sequences(frame, taxonomy), taxonomy, whole)
        for choice, table in tables.items():
            outcome = draw_sample(
                table,
                labels,
                taxonomy,
                n_train=settings.n_train,
                n_eval=settings.n_eval,
                drop_small_classes=settings.drop_small_classes,
                minimum=settings.minimum,
            )
            if isinstance(outcome, Impossible):
                impossible[taxonomy.name + choice.suffix] = str(outcome)
                continue
            for sequence_id, name in outcome.frame.select("sequence_id", "class").iter_rows():
                shown = choice.non_memo_suffix if name == NON_MEMO else "true"
                drawn.add((sequence_id, shown))
    n_own = sum(shown == "own" for _, shown in drawn)
    total = _without_sharing(taxonomies, settings)
    return Overlap(len(drawn), len(drawn), n_own, total, how, impossible)


def bound_overlap(
    taxonomies: Sequence[Taxonomy], settings: LabelSettings, n_sequences: int | None
) -> Overlap:
    """Bound what the samples need together, from the nodes alone.

    At least: classes that exclude each other share nothing. At most, by row: every class takes
    its first sequences in one order, so equal classes take the same ones; by group, equal
    partitions do.

    Args:
        taxonomies: as asked for.
        settings: sizes and split.
        n_sequences: sequences in the table, None where that is not known.

    Returns:
        Bounds, for classes that are large enough to be sampled in full.
    """
    per_class = settings.n_train + settings.n_eval
    partitions = distinct_partitions(taxonomies)
    classes = _class_sets(partitions)
    n_sets = sum(len(taxonomy.classes) for taxonomy in partitions)
    n_apart = max((len(taxonomy.classes) for taxonomy in partitions), default=0)
    rule = "the classes of every distinct taxonomy, none shared"
    if classes is not None:
        n_apart = max(n_apart, 1 + _count_apart(classes))
        if settings.split == "row" and not settings.both_splits:
            n_sets = 1 + len(classes)
            rule = f"{n_sets} different classes among them, each drawn once"
    n_sets *= 1 + bool(settings.match) + settings.both_splits
    at_most = per_class * (n_sets + (1 if settings.both_suffixes else 0))
    at_least = per_class * n_apart
    if n_sequences is not None:
        at_most = min(at_most, 2 * n_sequences if settings.both_suffixes else n_sequences)
        at_least = min(at_least, at_most)
    own = per_class if settings.non_memo_suffix == "own" or settings.both_suffixes else 0
    how = f"bounds from the rules alone: at least {n_apart} classes exclude each other; at most "
    how += rule
    total = _without_sharing(taxonomies, settings)
    return Overlap(at_least, max(at_least, at_most), min(own, at_most), total, how, {})


def count_class_sets(taxonomies: Sequence[Taxonomy]) -> int:
    """Different classes of all taxonomies together, Non-Memo once."""
    partitions = distinct_partitions(taxonomies)
    classes = _class_sets(partitions)
    if classes is None:
        return 1 + sum(len(taxonomy.classes) - 1 for taxonomy in partitions)
    return 1 + len(classes)


def known_classes(taxonomy: Taxonomy, counts: dict[str, int]) -> dict[str, int]:
    """Sizes of those classes that are made of Prashanth et al.'s three.

    Args:
        taxonomy: any.
        counts: `recite` (more than 5 duplicates), `reconstruct` (else a pattern), `recollect`.

    Returns:
        Memorized sequences by class, for the classes that can be told.
    """
    several, pattern = pl.col("duplicates") > 5, pl.col("is_incrementing") | pl.col("is_repeating")
    atoms = {"recite": several, "reconstruct": ~several & pattern, "recollect": ~several & ~pattern}
    reference = parse_taxonomy("Non-Memo, Recite[5], Reconstruct, Others")
    grid = _grid([taxonomy, reference])
    if grid is None:
        return {}
    answers = _ask(grid, taxonomy)
    found: dict[str, int] = dict.fromkeys(taxonomy.classes[1:], 0)
    for name, rule in atoms.items():
        inside = np.unique(answers[grid.select(rule).to_series().to_numpy()])
        if len(inside) == 1:
            key = taxonomy.classes[1 + int(inside[0])]
            if key in found:
                found[key] += counts[name]
        else:
            for index in inside:
                found.pop(taxonomy.classes[1 + int(index)], None)
    return found


def _without_sharing(taxonomies: Sequence[Taxonomy], settings: LabelSettings) -> int:
    """Maps if every taxonomy captured for itself."""
    per_class = settings.n_train + settings.n_eval
    return per_class * sum(len(taxonomy.classes) for taxonomy in taxonomies)


def _grid(taxonomies: Sequence[Taxonomy]) -> pl.DataFrame | None:
    """Made-up sequences on both sides of every threshold; None where they would be too many."""
    axes: dict[str, set[float | bool]] = {}
    for taxonomy in taxonomies:
        for node in taxonomy.nodes:
            for cut in node.cuts:
                axes.setdefault(cut.column, set()).update(cut.values)
    if prod(len(values) for values in axes.values()) > _LARGEST_GRID:
        return None
    columns = [pl.DataFrame({name: sorted(values)}) for name, values in axes.items()]
    return reduce(lambda left, right: left.join(right, how="cross"), columns)


def _ask(grid: pl.DataFrame, taxonomy: Taxonomy) -> np.ndarray:
    """Index of the first yes for every made-up sequence."""
    answers = grid.select(first_yes([node.probe for node in taxonomy.nodes])).to_series()
    found: np.ndarray = answers.to_numpy()
    if len(found) == 1:  # a taxonomy without nodes answers with one literal
        return np.repeat(found, grid.height)
    return found


def _class_sets(taxonomies: Sequence[Taxonomy]) -> list[np.ndarray] | None:
    """The different classes of memorized sequences, each as a mask over the grid."""
    grid = _grid(taxonomies)
    if grid is None or not grid.width:
        return None
    found: dict[bytes, np.ndarray] = {}
    for taxonomy in taxonomies:
        answers = _ask(grid, taxonomy)
        for index in range(len(taxonomy.classes) - 1):
            mask = answers == index
            found.setdefault(np.packbits(mask).tobytes(), mask)
    return list(found.values())


def _count_apart(classes: list[np.ndarray]) -> int:
    """Most classes found that exclude each other: from each class on, the small ones first."""
    order = sorted((mask for mask in classes if mask.any()), key=lambda one: int(one.sum()))
    best = 0
    for start in order:
        taken, count = start.copy(), 1
        for mask in order:
            if not (mask & taken).any():
                taken |= mask
                count += 1
        best = max(best, count)
    return best
