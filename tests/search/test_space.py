"""What a search may propose: ordinary taxonomies, with thresholds that divide the sequences."""

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.errors import UserError
from mnemoscope.search.space import SEARCHED, SearchSpace, make_space, propose
from mnemoscope.taxonomy.catalogue import read_nodes
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.taxonomy.nodes import MEASURES

N = 400
OWN = """\
nodes:
  - name: Long
    yes_when: length(text) > {threshold} AND duplicates > 2
    meaning: longer than {threshold} letters
    thresholds: [30, 10.5]
  - name: Licence
    yes_when: lower(text) LIKE '%licen%'
    meaning: a licence
"""


class Dice:
    """Chooses at random, as optuna does in the beginning."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        return choices[self.generator.integers(len(choices))]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))


def make_table() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    measured = {one.column: generator.normal(2, 1, N) for one in MEASURES.values()}
    return pl.DataFrame(
        {
            "sequence_id": np.arange(N),
            "text": ["a licence" * (1 + i % 5) for i in range(N)],
            "is_memorized": np.ones(N, dtype=bool),
            "duplicates": generator.integers(1, 90, N),
            "is_code": generator.random(N) < 0.5,
            "is_incrementing": generator.random(N) < 0.1,
            "is_repeating": generator.random(N) < 0.1,
            "rouge_l": generator.random(N),
            "rouge_3": generator.random(N),
            **measured,
        }
    )


TABLE = make_table()


@cache
def whole_space() -> SearchSpace:
    return make_space(SEARCHED, TABLE)


@given(st.integers(0, 10_000))
def test_every_proposal_is_an_ordinary_taxonomy(seed: int) -> None:
    found = propose(whole_space(), Dice(seed))
    if found is None:
        return
    again = parse_taxonomy(found.name)
    assert (again.classes, again.partition_key) == (found.classes, found.partition_key)
    assert len(found.classes) in (3, 4)
    assert label_sequences(TABLE, again).null_count() == 0


def test_every_threshold_leaves_sequences_on_both_sides() -> None:
    for family, names in whole_space().nodes.items():
        for name in names:
            labels = label_sequences(TABLE, parse_taxonomy(f"Non-Memo, {name}, Others"))
            assert labels.n_unique() == 2 or family.startswith("Guess"), name


def test_both_sides_of_a_measure_are_one_division() -> None:
    above, below = (parse_taxonomy(f"Non-Memo, Entropy[{one}1.5], Others") for one in (">", "<="))
    assert above.partition_key == below.partition_key
    at_limit = pl.DataFrame({"is_memorized": [True] * 3, "token_entropy": [1.5, 1.6, None]})
    assert label_sequences(at_limit, above).to_list() == ["Others", "Entropy[>1.5]", None]


def test_a_range_bounds_the_thresholds() -> None:
    space = make_space(["Entropy[1.5..2.5]", "Recite[5..40]", "Guess[0.4..0.6]"], TABLE)
    limits = [float(name[9:-1]) for name in space.nodes["Entropy >"]]
    assert len(limits) > 5
    assert all(1.5 <= limit <= 2.5 for limit in limits)
    duplicates = [int(name[7:-1]) for name in space.nodes["Recite"]]
    assert 5 in duplicates
    assert max(duplicates) <= 40
    assert space.nodes["Guess by ROUGE-L"] == ("Guess[0.4-off]", "Guess[0.5-off]", "Guess[0.6-off]")


def test_deciles_keep_three_digits_of_their_spread_and_stay_apart() -> None:
    table = TABLE.with_columns(
        token_entropy=pl.Series(np.linspace(0, 1.2345, N)),
        suffix_perplexity=1 + pl.col("token_entropy").abs() / 1000,
    )
    nodes = make_space(["Entropy", "SuffixPerplexity"], table).nodes
    limits = ["0.123", "0.247", "0.37", "0.494", "0.617", "0.741", "0.864", "0.988", "1.111"]
    assert nodes["Entropy >"] == tuple(f"Entropy[>{limit}]" for limit in limits)
    close = nodes["SuffixPerplexity >"]
    assert len(close) == 9
    assert max(map(len, close)) <= len("SuffixPerplexity[>1.00123]")


def test_a_node_that_divides_nothing_is_left_out() -> None:
    table = TABLE.with_columns(is_code=pl.lit(None, pl.Boolean), token_entropy=pl.lit(3.0))
    assert set(make_space(["Code", "Entropy", "Recite"], table).nodes) == {"Recite", "Recollect"}
    with pytest.raises(UserError, match="none of these nodes divides"):
        make_space(["Code", "Entropy"], table)


@pytest.mark.parametrize(
    ("classes", "shapes", "sizes"), [([3], ("one", "either"), {3}), ([4], ("two",), {4})]
)
def test_shapes_follow_the_classes(classes, shapes, sizes) -> None:
    space = make_space(SEARCHED, TABLE, classes=classes)
    assert space.shapes == shapes
    found = (propose(space, Dice(seed)) for seed in range(50))
    assert {len(one.classes) for one in found if one} == sizes


def test_nodes_of_one_s_own_come_with_their_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    found = read_nodes(path)
    assert [node.name for node in found["Long"]] == ["Long-10_5", "Long-30"]
    assert found["Long"][0].meaning == "longer than 10.5 letters"
    space = make_space(["Recite", str(path)], TABLE)
    assert space.nodes["Licence"] == ("Licence",)
    taxonomy = parse_taxonomy("Non-Memo, Long-30, Others", own=space.own)
    longer = (TABLE["text"].str.len_chars() > 30) & (TABLE["duplicates"] > 2)
    assert ((label_sequences(TABLE, taxonomy) == "Long-30") == longer).all()


@pytest.mark.parametrize(
    ("part", "instead", "said"),
    [
        *(("[30, 10.5]", one, "a list of num") for one in ("[]", "[a]", "3")),
        ("length(text) > {threshold} AND ", "", r"write \{threshold\} in yes_when"),
        ("name: Long\n    ", "", "node 1: 'name' is missing"),
        # One class with the rest:
        ("Licence", "Others", r"own\.yaml: node 'Others'"),
    ],
)
def test_nodes_that_cannot_be_read_are_refused(tmp_path: Path, part, instead, said) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace(part, instead))
    with pytest.raises(UserError, match=said):
        make_space(["Recite", str(path)], TABLE)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("Guesss", "Did you mean 'Guess'"),
        ("Entropy[5..3]", "ends before it begins"),
        ("Entropy[50..60]", "runs from"),
        ("Entropy[low..high]", "no range"),
        ("Entropy[4.5]", "no range"),
        ("Guess[0.2..1.2]", r"\[0, 1\]"),
        ("Guess[0.31..0.32]", "Widen it"),
        ("Code[1..2]", "takes no threshold"),
        ("Recite[500..600]", "runs from 1 to"),
    ],
)
def test_what_is_no_node_is_refused(entry: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_space([entry], TABLE)


def test_a_measure_needs_a_side_and_a_threshold_and_misspelt_becomes_no_last_class() -> None:
    for name in ("Entropy", "Entropy[4]", "Entropy[>x]", "Prior[=>1]"):
        with pytest.raises(UserError, match="a side and a threshold"):
            parse_taxonomy(f"Non-Memo, {name}, Others")
    with pytest.raises(UserError, match="looks like a node"):
        parse_taxonomy("Non-Memo, Guess, Entrop")
