"""A taxonomy is read from its name, a node says what its row of the table of nodes says."""

import re
from itertools import combinations, product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taxonomy_tables import ask, make_table

from mnemoscope.errors import UserError
from mnemoscope.taxonomy import PAPER, PRASHANTH
from mnemoscope.taxonomy.catalogue import catalogue
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import (
    find_aliases,
    label_digest,
    match_classes,
    node_meant,
    parse_taxonomy,
)
from mnemoscope.taxonomy.nodes import first_yes, parse_node, read_range
from refusals import refusal


def test_classes_are_named_as_written_without_spaces_and_the_last_is_free():
    for last in ("Recall", "Recollect", "Others", "Recal", "Rest", "Rote", "Memo"):
        assert parse_taxonomy(f"Non-Memo, Code, {last}").classes[-1] == last
    prashanth = parse_taxonomy(PRASHANTH)
    assert prashanth.classes == ("Non-Memo", "Recite[5]", "Reconstruct", "Recollect")
    assert [node.name for node in prashanth.nodes] == ["Recite[5]", "Reconstruct"]
    assert parse_taxonomy(PAPER).classes == ("Non-Memo", "Guess", "Recall")
    taxonomy = parse_taxonomy("  Non-Memo ,Guess[ 0.5-0.5 ],  By heart ")
    assert taxonomy.classes == ("Non-Memo", "Guess[0.5-0.5]", "By heart")
    assert taxonomy.name == "Non-Memo, Guess[0.5-0.5], By heart"
    assert taxonomy.published_name == "Non-Memo, Guess, Others"


def test_of_two_nodes_that_are_near_the_nearer_is_meant():
    assert node_meant("Recolect", own=["Recollects"]) == "Recollect[5]"
    assert node_meant("Recolects", own=["Recollects"]) == "Recollects"


WRONG_TAXONOMIES = [
    ("Non-Memo, Recolect[5]", "Did you mean 'Recollect[5]'?"),
    ("Non-Memo, Recolect", "Did you mean 'Recollect[5]'?"),
    ("Non-Memo, recite[50]", "Did you mean 'Recite[50]'?"),
    ("Non-Memo, Geuss", "Did you mean 'Guess'?"),
    ("Non-Memo, Reconstruction", "Did you mean 'Reconstruct'?"),
    ("Non-Memo, Gues-or-Recollect[5]", "Did you mean 'Guess-or-Recollect[5]'?"),
    ("", "begins with the class Non-Memo"),
    ("NonMemo, Guess, Recall", "Did you mean 'Non-Memo'?"),
    ("Non-Memo", "only one class"),
    ("Non-Memo,", "a class has no name"),
    ("Non-Memo, Guess, Non-memo", "is taken"),
    ("Non-Memo, Guess, null", "is taken"),
    ("Non-Memo, Guess, Guess[0.5-0.5], Recall", "twice"),
    ("Non-Memo, Recite[1k], Recite[1000], Recall", "twice"),
    ("Non-Memo, Recitte[5], Recall", "Did you mean 'Recite[5]'?"),
    ("Non-Memo, Recall, Others", "unknown node 'Recall'"),
    *(
        (f"Non-Memo, Reconstruct, {last}", "written like a node")
        for last in ("Guess", "Guess[0.4-off]", "Recite[7]", "Code-or-Recite[5]", "X[3]")
    ),
    ("Non-Memo, Recite[1,000], Recall", "unknown node 'Recite[1'"),
]
WRONG_NODES = [
    ("Reconstrct", "Did you mean 'Reconstruct'?"),
    ("Recite[5", "Did you mean 'Recite[5]'?"),
    ("Recite", "Write Recite[5]"),
    ("Recite[]", "whole number"),
    ("Recite[2.5]", "whole number"),
    ("Guess[0.5]", "two thresholds"),
    ("Guess[0.5-1.5]", "threshold '1.5' is not a number in [0, 1]"),
    ("Guess[-0.1-0.5]", "two thresholds"),
    ("Guess[nan-0.5]", "threshold 'nan'"),
    ("Reconstruct[5]", "takes no threshold"),
    ("Guess-or-Guess[0.5-0.5]", "twice"),
    ("Guess-or-", "unknown node ''"),
    ("Verbatim", "Known: Recite[δ]"),
]


@pytest.mark.parametrize(
    ("read", "name", "says"),
    [
        *((parse_taxonomy, name, says) for name, says in WRONG_TAXONOMIES),
        *((parse_node, name, says) for name, says in WRONG_NODES),
    ],
)
def test_wrong_names_are_refused_in_one_line_with_the_name(read, name, says):
    said = refusal(read, name)
    assert says in said
    assert f"'{name}'" in said or read is parse_node


def test_slugs_are_safe_for_files_and_all_different():
    names = [taxonomy.name for taxonomy in catalogue()]
    names += [PRASHANTH, PAPER, "Non-Memo, Guess[0.5-0.5], Recall", "Non-Memo, Guess, recall"]
    names += ["Non-Memo, Code, a b", "Non-Memo, Code, a-b", "Non-Memo, Code, a/../b"]
    names += ["Non-Memo, Code, Überrest", "Non-Memo, Code, " + "x" * 300]
    slugs = [parse_taxonomy(name).slug for name in names]
    assert len({slug.lower() for slug in slugs}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,120}", slug) for slug in slugs)
    assert parse_taxonomy(PRASHANTH).slug == "recite-5_reconstruct_recollect"


@given(st.text(max_size=40))
def test_any_last_name_is_taken_as_it_is_or_refused(last):
    try:
        taxonomy = parse_taxonomy(f"Non-Memo, Guess, {last}")
    except UserError:
        return
    assert parse_taxonomy(taxonomy.name) == taxonomy
    assert len(taxonomy.classes) == len(taxonomy.nodes) + 2
    assert "/" not in taxonomy.slug


FLAG, ROUGE = [True, False], [0.1, 0.5, 0.6]
COUNTS = [1, 5, 6, 7, 50, 51, 1000, 1001]
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


def test_key_is_shared_exactly_by_taxonomies_that_divide_alike_and_matches_their_classes():
    taxonomies, n_alike = [*catalogue(), *map(parse_taxonomy, OTHERS)], 0
    grid = make_table(list(product([1.0], COUNTS, FLAG, FLAG, ROUGE, ROUGE, FLAG)))
    labels = label_all(grid, taxonomies)
    for first, second in combinations(taxonomies, 2):
        alike = corresponds(labels[first.name], labels[second.name]) is not None
        alike &= len(first.classes) == len(second.classes)
        assert (first.partition_key == second.partition_key) == alike, (first.name, second.name)
        if alike:
            n_alike += 1
            names = dict(zip(second.classes, match_classes(first, second), strict=True))
            ours = [first.classes[names[name]] for name in labels[second.name]]
            assert ours == labels[first.name].to_list()
    assert n_alike >= 5
    assert len({taxonomy.partition_key for taxonomy in catalogue()}) == 51
    with pytest.raises(ValueError, match="different partitions"):
        match_classes(*map(parse_taxonomy, OTHERS[:2]))


ROW = st.tuples(
    st.sampled_from([0.5, 1.0, 1.0, 1.0, None]),
    st.sampled_from([1, 7, 30, 60, 2000, None]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.1, 0.6]),
    st.sampled_from([0.1, 0.6]),
    st.sampled_from([True, False, None]),
)


def corresponds(first, second):
    """Which class of the second is which of the first, by looking at every row; None if none."""
    pairs = set(zip(second.to_list(), first.to_list(), strict=True))
    one_to_one = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    return dict(pairs) if one_to_one and all((a is None) == (b is None) for a, b in pairs) else None


def label_all(frame, taxonomies):
    return {one.name: label_sequences(frame, one) for one in taxonomies}


@settings(max_examples=6)
@given(st.lists(ROW, min_size=1, max_size=40))
def test_aliases_are_exactly_what_a_comparison_of_all_labels_finds(rows):
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


def test_two_thresholds_with_no_sequence_between_them_are_one_partition_here():
    nodes = ["Recite[5]", "Recite[6]", "Recollect[6]", "Recollect[50]", "Recite[50]"]
    nodes += ["Recite[2000]"]  # nothing is above 2000: its class is empty, and its own
    taxonomies = [parse_taxonomy(f"Non-Memo, {node}, Others") for node in nodes]
    rows = [(0.5, 1), (1.0, 3), (1.0, 7), (1.0, 60)]
    frame = make_table([(*row, False, False, 0.0, 0.0, False) for row in rows])
    five, six, six_less, fifty_less, fifty, _ = (one.name for one in taxonomies)
    assert find_aliases(taxonomies, label_all(frame, taxonomies)) == {
        six: (five, "same labels here", (0, 1, 2)),
        six_less: (five, "same labels here", (0, 2, 1)),  # through an alias, to what is trained
        fifty: (fifty_less, "same rule", (0, 2, 1)),
    }
    one, other = np.array([[0, 1, -1], [0, -1, 1]])  # -1: no class, so it is none of the other's
    assert label_digest(one) != label_digest(other)


FLAGS, LIMITS = [True, False, None], [0, 5, 6, 50, 51, 1000, 1001, None]
VALUES = ([1.0], LIMITS, FLAGS, FLAGS, [0.25, 0.5, None], [0.4, 0.5, None], FLAGS)
NODES = """
Recite[5] Recite[50] Recite[1k] Recite[0] Recollect[5] Recollect[1000] Reconstruct Code
Guess Guess[0.5-0.5] Guess[off-0.5] Guess[0.5-off] Guess[off-off] Guess[0.3-1]
Guess-or-Recollect[5] Recite[1k]-or-Code Code-or-Reconstruct-or-Recite[50]
"""


def test_node_answers_as_its_definition_on_every_combination():
    frame = make_table(list(product(*VALUES)))
    for name in NODES.split():
        answers = frame.select(parse_node(name).expression).to_series().to_list()
        assert answers == [ask(name, row) for row in frame.iter_rows(named=True)], name


def test_published_shorthands_mean_the_same_rule():
    assert parse_node("Guess").canonical == parse_node("Guess[0.5-0.50]").canonical == "Guess"
    assert parse_node("Recite[1000]").canonical == parse_node("Recite[1k]").canonical
    assert parse_node(" Recollect[ 5 ] ").name == "Recollect[5]"
    assert parse_node("Guess[off-.6]").canonical == "Guess[off-0.6]"


def test_a_range_counts_in_thousands_too():
    for text, wanted in {"1.5k..3k": (1500.0, 3000.0), "5..1k": (5.0, 1000.0)}.items():
        assert read_range(f"Recite[{text}]") == ("Recite", *wanted)


def test_node_says_which_columns_it_needs_and_what_it_means():
    node = parse_node("Guess[off-0.5]-or-Recite[1k]")
    assert node.columns == ("is_incrementing", "is_repeating", "rouge_3", "duplicates")
    assert set(node.columns) == set(node.expression.meta.root_names())
    assert "ROUGE-3" in node.meaning
    assert "1,000" in node.meaning


def test_first_yes_stops_at_null_but_not_after_a_yes():
    frame = pl.DataFrame({"a": [True, None, False, False], "b": [None, True, None, False]})
    found = frame.select(first_yes([pl.col("a"), pl.col("b")])).to_series()
    assert found.to_list() == [0, None, None, 2]
