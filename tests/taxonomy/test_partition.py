"""Two taxonomies have one key exactly when they divide every table alike."""

from itertools import combinations, product

import polars as pl
import pytest
from taxonomy_tables import make_table

from mnemoscope.taxonomy.catalogue import catalogue
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import Taxonomy, match_classes, parse_taxonomy

GRID = make_table(
    list(
        product(
            [1.0],
            [1, 5, 6, 7, 50, 51, 1000, 1001],
            [True, False],
            [True, False],
            [0.1, 0.5, 0.6],
            [0.1, 0.5, 0.6],
            [True, False],
        )
    )
)
OTHERS = [
    "Non-Memo, Guess, Recollect[5], Rest",
    "Non-Memo, Recollect[5], Recite[50], Rest",
    "Non-Memo, Recite[50], Recite[5], Rest",
    "Non-Memo, Recite[5], Recite[50], Rest",
    "Non-Memo, Guess, Reconstruct, Rest",
    "Non-Memo, Reconstruct, Guess, Rest",
    "Non-Memo, Guess[0.5-off], Rest",
    "Non-Memo, Guess[off-off], Rest",
    "Non-Memo, Guess[0.6-0.5], Rest",
    "Non-Memo, Reconstruct-or-Guess, Rest",
    "Non-Memo, Recite[5]-or-Recite[50], Rest",
    "Non-Memo, Recite[5]-or-Recollect[50], Rest",
    "Non-Memo, Recite[6], Rest",
    "Non-Memo, Recollect[50]-or-Recollect[5], Rest",
    "Non-Memo, Memo",
]


def same_division(first: pl.Series, second: pl.Series) -> bool:
    """True where the labels correspond one to one."""
    pairs = set(zip(first.to_list(), second.to_list(), strict=True))
    return len(pairs) == first.n_unique() == second.n_unique()


def test_key_is_shared_exactly_by_taxonomies_that_divide_alike() -> None:
    taxonomies = [*catalogue(), *map(parse_taxonomy, OTHERS)]
    labels = {taxonomy.name: label_sequences(GRID, taxonomy) for taxonomy in taxonomies}
    for first, second in combinations(taxonomies, 2):
        alike = same_division(labels[first.name], labels[second.name])
        alike &= len(first.classes) == len(second.classes)
        assert (first.partition_key == second.partition_key) == alike, (first.name, second.name)


def test_published_catalogue_holds_51_partitions() -> None:
    assert len({taxonomy.partition_key for taxonomy in catalogue()}) == 51


@pytest.mark.parametrize("limit", ["5", "50", "1k"])
def test_recite_alone_and_recollect_alone_are_one_partition(limit: str) -> None:
    recite = parse_taxonomy(f"Non-Memo, Recite[{limit}], Others")
    recollect = parse_taxonomy(f"Non-Memo, Recollect[{limit}], Others")
    assert recite.partition_key == recollect.partition_key
    assert match_classes(recite, recollect) == (0, 2, 1)


def test_matched_classes_hold_the_same_sequences() -> None:
    groups: dict[str, list[Taxonomy]] = {}
    for taxonomy in [*catalogue(), *map(parse_taxonomy, OTHERS)]:
        groups.setdefault(taxonomy.partition_key, []).append(taxonomy)
    pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
    assert len(pairs) >= 5
    for trained, other in pairs:
        names = dict(zip(other.classes, match_classes(trained, other), strict=True))
        theirs = label_sequences(GRID, other).to_list()
        ours = [trained.classes[names[name]] for name in theirs]
        assert ours == label_sequences(GRID, trained).to_list()


def test_classes_of_other_partitions_are_not_matched() -> None:
    with pytest.raises(ValueError, match="different partitions"):
        match_classes(
            parse_taxonomy("Non-Memo, Code, Rest"), parse_taxonomy("Non-Memo, Guess, Rest")
        )
