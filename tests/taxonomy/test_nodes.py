"""A node says what its row of the table of nodes says; wrong nodes are refused in one line."""

from itertools import product

import polars as pl
import pytest
from taxonomy_tables import ask, make_table

from mnemoscope.taxonomy.nodes import first_yes, parse_node, read_range
from refusals import refusal

FLAGS, COUNTS = [True, False, None], [0, 5, 6, 50, 51, 1000, 1001, None]
VALUES = ([1.0], COUNTS, FLAGS, FLAGS, [0.25, 0.5, None], [0.4, 0.5, None], FLAGS)
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


@pytest.mark.parametrize(
    ("name", "says"),
    [
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
    ],
)
def test_wrong_node_is_refused_in_one_line(name, says):
    assert says in refusal(parse_node, name)
