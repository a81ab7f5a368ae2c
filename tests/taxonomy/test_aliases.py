"""Taxonomies that divide a table alike are found, by their rule or by its labels, and no other."""

from itertools import combinations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from taxonomy_tables import make_table

from mnemoscope.taxonomy.catalogue import catalogue
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import Taxonomy, find_aliases, parse_taxonomy

ROW = st.tuples(
    st.sampled_from([0.5, 1.0, 1.0, 1.0, None]),
    st.sampled_from([1, 7, 30, 60, 2000, None]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.1, 0.6]),
    st.sampled_from([0.1, 0.6]),
    st.sampled_from([True, False, None]),
)


def corresponds(first: pl.Series, second: pl.Series) -> dict[str | None, str | None] | None:
    """Which class of the second is which of the first, by looking at every row; None if none."""
    pairs = set(zip(second.to_list(), first.to_list(), strict=True))
    one_to_one = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    return dict(pairs) if one_to_one and all((a is None) == (b is None) for a, b in pairs) else None


def label_all(frame: pl.DataFrame, taxonomies: list[Taxonomy]) -> dict[str, pl.Series]:
    return {one.name: label_sequences(frame, one) for one in taxonomies}


@settings(max_examples=6)
@given(st.lists(ROW, min_size=1, max_size=40))
def test_aliases_are_exactly_what_a_comparison_of_all_labels_finds(rows: list[tuple]) -> None:
    frame = make_table(rows)
    taxonomies = catalogue()
    labels = label_all(frame, taxonomies)
    found = find_aliases(taxonomies, labels)
    by_name = {one.name: one for one in taxonomies}
    for name, alias in found.items():
        trained, other = by_name[alias.of], by_name[name]
        assert alias.of not in found
        assert taxonomies.index(trained) < taxonomies.index(other)
        names = dict(zip(other.classes, alias.classes, strict=True))
        assert sorted(names.values()) == list(range(len(trained.classes)))
        theirs = labels[name].to_list()
        ours = [None if one is None else trained.classes[names[one]] for one in theirs]
        assert ours == labels[alias.of].to_list()
        same_rule = trained.partition_key == other.partition_key
        assert (alias.reason == "same rule") == same_rule or alias.reason == "same labels here"
    kept = [one for one in taxonomies if one.name not in found]
    for first, second in combinations(kept, 2):
        is_full = all(
            labels[one.name].drop_nulls().n_unique() == len(one.classes) for one in (first, second)
        )
        if is_full:
            assert corresponds(labels[first.name], labels[second.name]) is None


def test_two_thresholds_with_no_sequence_between_them_are_one_partition_here() -> None:
    names = ["Recite[5]", "Recite[6]", "Recollect[50]", "Recite[50]", "Recite[2000]"]
    taxonomies = [parse_taxonomy(f"Non-Memo, {name}, Others") for name in names]
    rows = [(0.5, 1), (1.0, 3), (1.0, 7), (1.0, 60)]
    frame = make_table([(*row, False, False, 0.0, 0.0, False) for row in rows])
    found = find_aliases(taxonomies, label_all(frame, taxonomies))
    five, six, fifty_less, fifty, _ = (one.name for one in taxonomies)
    assert set(found) == {six, fifty}  # nothing is above 2000: its class is empty, and its own
    assert found[six] == (five, "same labels here", (0, 1, 2))
    assert found[fifty] == (fifty_less, "same rule", (0, 2, 1))


def test_an_alias_of_an_alias_is_led_back_to_what_is_trained() -> None:
    names = ["Recite[5]", "Recite[6]", "Recollect[6]"]
    taxonomies = [parse_taxonomy(f"Non-Memo, {name}, Others") for name in names]
    rows = [(0.5, 1), (1.0, 3), (1.0, 7)]
    frame = make_table([(*row, False, False, 0.0, 0.0, False) for row in rows])
    found = find_aliases(taxonomies, label_all(frame, taxonomies))
    assert found[taxonomies[2].name] == (taxonomies[0].name, "same labels here", (0, 2, 1))
