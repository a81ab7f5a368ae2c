"""Every sequence gets the class that the definitions give it by hand, or null where unknown."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taxonomy_tables import label_by_hand, make_table

from mnemoscope.errors import UserError
from mnemoscope.taxonomy.catalogue import EXAMPLE, PAPER, PRASHANTH, catalogue, read_taxonomies
from mnemoscope.taxonomy.labels import count_classes, label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy

# score, duplicates, incrementing, repeating, ROUGE-L, ROUGE-3, code
HAND = make_table(
    [
        (0.97, 900, True, False, 1.0, 1.0, True),  # not memorized, whatever the rest says
        (0.0, None, None, None, None, None, None),  # not memorized, nothing else known
        (1.0, 6, True, False, 0.2, 0.1, False),
        (1.0, 5, True, False, 0.2, 0.1, False),
        (1.0, 5, False, True, 0.2, 0.1, True),
        (1.0, 1, False, False, 0.5, 0.1, False),
        (1.0, 51, False, False, 0.4, 0.5, True),
        (1.0, 1001, False, False, 0.2, 0.1, False),
        (1.0, 2, False, False, 0.2, 0.1, True),
        (1.0, 2, False, False, 0.2, 0.1, False),
        (1.0, None, True, False, 0.2, 0.1, False),  # duplicates unknown
        (None, 2, False, False, 0.2, 0.1, False),  # not known whether memorized
    ]
)
BY_HAND = {
    PRASHANTH: "N N Recite[5] Reconstruct Reconstruct Recollect Recite[5] Recite[5] Recollect "
    "Recollect - -",
    PAPER: "N N Guess Guess Guess Guess Guess Recall Recall Recall Guess -",
    "Non-Memo, Guess[off-0.5], Recall": "N N Guess[off-0.5] Guess[off-0.5] Guess[off-0.5] Recall "
    "Guess[off-0.5] Recall Recall Recall Guess[off-0.5] -",
    "Non-Memo, Recollect[50], Code, Others": "N N Recollect[50] Recollect[50] Recollect[50] "
    "Recollect[50] Code Others Recollect[50] Recollect[50] - -",
    "Non-Memo, Reconstruct, Recite[1k], Others": "N N Reconstruct Reconstruct Reconstruct Others "
    "Others Recite[1k] Others Others Reconstruct -",
    "Non-Memo, Code, Others": "N N Others Others Code Others Code Others Code Others Others -",
    "Non-Memo, Recite[5]-or-Code, Others": "N N Recite[5]-or-Code Others Recite[5]-or-Code Others "
    "Recite[5]-or-Code Recite[5]-or-Code Recite[5]-or-Code Others - -",
    "Non-Memo, Reconstruct-or-Recollect[5], Others": "N N Reconstruct-or-Recollect[5] "
    "Reconstruct-or-Recollect[5] Reconstruct-or-Recollect[5] Reconstruct-or-Recollect[5] Others "
    "Others Reconstruct-or-Recollect[5] Reconstruct-or-Recollect[5] Reconstruct-or-Recollect[5] -",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_hand_written_table_gets_its_classes(name: str) -> None:
    short = {"N": "Non-Memo", "-": None}
    expected = [short.get(word, word) for word in BY_HAND[name].split()]
    assert label_sequences(HAND, parse_taxonomy(name)).to_list() == expected


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


ROW = st.tuples(
    maybe(st.sampled_from([1.0, 1.0, 31 / 32, 0.0])),
    maybe(st.integers(0, 1500) | st.sampled_from([5, 6, 50, 51, 1000, 1001])),
    maybe(st.booleans()),
    maybe(st.booleans()),
    maybe(st.integers(0, 32).map(lambda k: k / 32)),
    maybe(st.integers(0, 30).map(lambda k: k / 30)),
    maybe(st.booleans()),
)
TAXONOMIES = [*catalogue(), parse_taxonomy(PRASHANTH), parse_taxonomy("Non-Memo, Memo")]


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=20), st.sampled_from(TAXONOMIES))
def test_each_sequence_gets_the_one_class_of_the_definition(rows: list[Any], taxonomy: Any) -> None:
    frame = make_table(rows)
    labels = label_sequences(frame, taxonomy)
    assert labels.to_list() == [
        label_by_hand(taxonomy.classes, row) for row in frame.iter_rows(named=True)
    ]
    assert sum(count_classes(labels, taxonomy.classes).values()) == len(rows)


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=20), st.integers(0, 1200))
def test_recite_and_recollect_complement_each_other(rows: list[Any], limit: int) -> None:
    frame = make_table(rows)
    recite = label_sequences(frame, parse_taxonomy(f"Non-Memo, Recite[{limit}], Others"))
    recollect = label_sequences(frame, parse_taxonomy(f"Non-Memo, Recollect[{limit}], Others"))
    swapped = {f"Recite[{limit}]": "Others", "Others": f"Recollect[{limit}]"}
    assert [swapped.get(label, label) for label in recite] == recollect.to_list()


def test_published_and_prashanth_labels_agree_with_the_six_duplicates_rule() -> None:
    frame = make_table([(1.0, n, False, False, 0.0, 0.0, False) for n in range(1, 12)])
    labels = label_sequences(frame, parse_taxonomy(PRASHANTH))
    assert labels.to_list() == ["Recite[5]" if n >= 6 else "Recollect" for n in range(1, 12)]


def test_is_memorized_is_read_where_it_is_there() -> None:
    frame = pl.DataFrame(
        {
            "is_memorized": [True, False, None, None, False],
            "memorization_score": [None, None, 1.0, None, 1.0],
            "is_code": [True] * 5,
        }
    )
    labels = label_sequences(frame, parse_taxonomy("Non-Memo, Code, Rest"))
    assert labels.to_list() == ["Code", "Non-Memo", "Code", None, "Non-Memo"]


def test_nan_counts_as_missing() -> None:
    nan = float("nan")
    frame = make_table(
        [(1.0, 1, False, False, nan, 0.1, None), (nan, 1, True, False, 0.0, 0.0, None)]
    )
    assert label_sequences(frame, parse_taxonomy(PAPER)).to_list() == [None, None]


def test_columns_without_any_value_give_null_and_not_an_error() -> None:
    frame = pl.DataFrame({"memorization_score": [1.0, 0.5], "is_code": [None, None]})
    labels = label_sequences(frame, parse_taxonomy("Non-Memo, Code, Rest"))
    assert labels.to_list() == [None, "Non-Memo"]
    assert count_classes(labels, ("Non-Memo", "Code", "Rest")) == {
        "Non-Memo": 1,
        "Code": 0,
        "Rest": 0,
        "null": 1,
    }


@pytest.mark.parametrize(
    ("drop", "name", "says"),
    [
        (["memorization_score"], PAPER, "neither is_memorized nor memorization_score"),
        (["duplicates"], PRASHANTH, "no column 'duplicates', which Recite[5] needs"),
        (["is_repeating"], PAPER, "no column 'is_repeating', which Guess needs"),
    ],
)
def test_missing_column_is_refused_with_the_node_that_needs_it(
    drop: list[str], name: str, says: str
) -> None:
    with pytest.raises(UserError) as refused:
        label_sequences(HAND.drop(drop), parse_taxonomy(name))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("column", "values"),
    [("duplicates", ["6"]), ("is_code", [1]), ("memorization_score", ["1.0"])],
)
def test_column_of_the_wrong_type_is_refused(column: str, values: list[Any]) -> None:
    frame = make_table([(1.0, 1, False, False, 0.0, 0.0, False)])
    frame = frame.with_columns(pl.Series(column, values))
    with pytest.raises(UserError, match=f"column '{column}' is"):
        label_sequences(frame, parse_taxonomy("Non-Memo, Recite[5], Code, Rest"))


def test_example_of_own_nodes_labels_a_table(tmp_path: Any) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(EXAMPLE, encoding="utf-8")
    boilerplate, licence = read_taxonomies(file)
    frame = make_table(
        [
            (1.0, 500, False, False, 0.1, 0.0, False),
            (1.0, 500, False, False, 0.9, 0.0, False),
            (1.0, 5, False, False, 0.1, 0.0, False),
            (0.5, 500, False, False, 0.1, 0.0, False),
        ]
    ).with_columns(
        text=pl.Series(["This Licence", "x", "y", "licence"]),
        genre=pl.Series(["prose", "notice", "code", None]),
    )
    assert label_sequences(frame, boilerplate).to_list() == [
        "Boilerplate",
        "Guess",
        "Recall",
        "Non-Memo",
    ]
    assert label_sequences(frame, licence).to_list() == [
        "Licence-or-Recite[50]",
        "Licence-or-Recite[50]",
        "Others",
        "Non-Memo",
    ]
