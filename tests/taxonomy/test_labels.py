"""Every sequence gets the class that the definitions give it by hand, or null where unknown."""

import csv
import itertools
from importlib import resources

import numpy as np
import polars as pl
import pytest
from taxonomy_tables import OWN_NODES, label_by_hand, make_table

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.catalogue import read_taxonomies
from mnemoscope.taxonomy.labels import count_classes, label_sequences, label_table
from mnemoscope.taxonomy.names import parse_taxonomy
from refusals import refusal

NAN = float("nan")


def test_is_memorized_is_read_where_it_is_there_and_what_is_missing_gives_null():
    frame = pl.DataFrame(
        {
            "is_memorized": [True, False, None, None, False],
            "memorization_score": [None, None, 1.0, None, 1.0],
            "is_code": [True] * 5,
        }
    )
    code = parse_taxonomy("Non-Memo, Code, Rest")
    assert label_sequences(frame, code).to_list() == ["Code", "Non-Memo", "Code", None, "Non-Memo"]
    rows = [(1.0, 1, False, False, NAN, 0.1, None), (NAN, 1, True, False, 0.0, 0.0, None)]
    assert label_sequences(make_table(rows), parse_taxonomy(PAPER)).to_list() == [None, None]
    frame = pl.DataFrame({"memorization_score": [1.0, 0.5], "is_code": [None, None]})
    labels = label_sequences(frame, code)
    assert labels.to_list() == [None, "Non-Memo"]
    counts = count_classes(labels, ("Non-Memo", "Code", "Rest"))
    assert list(counts.items()) == [("Non-Memo", 1), ("Code", 0), ("Rest", 0), ("null", 1)]


def test_column_of_the_wrong_type_is_refused():
    frame = make_table([(1.0, 1, False, False, 0.0, 0.0, False)])
    taxonomy = parse_taxonomy("Non-Memo, Recite[5], Code, Rest")
    wrong = {"duplicates": ["6"], "is_code": [1], "memorization_score": ["1.0"]}
    for column, values in wrong.items():
        with pytest.raises(UserError, match=f"column '{column}' is"):
            label_sequences(frame.with_columns(pl.Series(column, values)), taxonomy)


def test_own_nodes_label_a_table(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(OWN_NODES, encoding="utf-8")
    boilerplate, licence = read_taxonomies(file)
    assert boilerplate.nodes[0].columns == ("duplicates", "rouge_l")
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
    found = label_sequences(frame, boilerplate).to_list()
    assert found == ["Boilerplate", "Guess", "Recall", "Non-Memo"]
    found = label_sequences(frame, licence).to_list()
    assert found == [*["Licence-or-Recite[50]"] * 2, "Others", "Non-Memo"]


DATA = resources.files("mnemoscope") / "benchmark" / "data"


def rows_of(name):
    return list(csv.DictReader((DATA / name).read_text(encoding="utf-8").splitlines()))


PUBLISHED = [row["tax_name"] for row in rows_of("taxonomies_all.csv")]


def every_kind_of_row():
    flags = [True, False, None]
    counts = [5, 6, 50, 51, 1000, 1001, None]
    rouge = [0.46875, 0.5, None], [0.4999999, 0.5, None]
    rows = itertools.product([1.0, 31 / 32, None], counts, flags, flags, *rouge, flags)
    return make_table(list(rows))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_each_of_the_54_equals_a_plain_loop_wherever_a_null_stands(ending, tmp_path):
    frame = every_kind_of_row()
    source, out = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    (frame.write_parquet if ending == "parquet" else frame.write_ndjson)(source)
    made = label_table(source, out, ["catalogue"])
    found = pl.read_parquet(out) if ending == "parquet" else pl.read_ndjson(out)
    assert set(found.columns) == {"sequence_id", *PUBLISHED}
    assert len(found.columns) == 55
    assert found["sequence_id"].equals(frame["sequence_id"])
    rows = frame.to_dicts()
    for name in PUBLISHED:
        classes = tuple(name.split(", "))
        wanted = [label_by_hand(classes, row) for row in rows]
        assert found[name].to_list() == wanted, name
        assert made.counts[name] == {one: wanted.count(one) for one in classes} | {
            "null": wanted.count(None)
        }
    assert made.unlabelled == {}


def test_rho_settings_equal_a_plain_loop_and_have_the_published_rows(tmp_path):
    rng = np.random.default_rng(0)
    n = 3000
    grid = pl.DataFrame(
        {
            "sequence_id": range(n),
            "memorization_score": [1.0] * n,
            "is_incrementing": rng.random(n) < 0.1,
            "is_repeating": rng.random(n) < 0.1,
            "rouge_l": rng.integers(0, 33, n) / 32,
            "rouge_3": rng.integers(0, 31, n) / 30,
        }
    )
    for kind in (pl.Float64, pl.Float32):  # 21/30 is 0.69999999 as float32
        frame = grid.with_columns(pl.col("rouge_l", "rouge_3").cast(kind))
        frame.write_parquet(tmp_path / "in.parquet")
        label_table(tmp_path / "in.parquet", tmp_path / "out.parquet", ["rho"])
        found = pl.read_parquet(tmp_path / "out.parquet")
        for name, setting in zip(found.columns[1:], rows_of("rho.csv"), strict=True):
            is_guess = grid["is_incrementing"] | grid["is_repeating"]
            for measure, used in (("rouge_l", "Rouge-L"), ("rouge_3", "Rouge-3")):
                if setting[used] == "Yes":
                    is_guess |= grid[measure] >= float(setting["Threshold"])
            node = name.split(", ")[1]
            assert name == f"Non-Memo, {node}, Recall"
            assert found[name].to_list() == [node if one else "Recall" for one in is_guess], name


def test_without_a_column_the_taxonomies_that_need_it_are_null_and_the_others_whole(tmp_path):
    frame = every_kind_of_row().filter(pl.col("sequence_id") % 7 == 0)
    frame.drop("is_code").write_parquet(tmp_path / "in.parquet")
    frame.write_parquet(tmp_path / "whole.parquet")
    made = label_table(tmp_path / "in.parquet", tmp_path / "out.parquet", ["catalogue"])
    label_table(tmp_path / "whole.parquet", tmp_path / "all.parquet", ["catalogue"])
    found, whole = (pl.read_parquet(tmp_path / f"{one}.parquet") for one in ("out", "all"))
    needing = [name for name in PUBLISHED if "Code" in name]
    assert made.unlabelled == dict.fromkeys(needing, ("is_code",))
    assert set(made.counts) == set(PUBLISHED) - set(needing)
    for name in PUBLISHED:
        if name in needing:
            assert found[name].null_count() == frame.height
        else:
            assert found[name].equals(whole[name])


CODE, GUESS, ALL = "Non-Memo, Code, Others", "Non-Memo, Guess, Recall", "catalogue"
WRONG = [  # column, its values or None where it is not there, asked for, words of the one line
    ("is_code", None, ["rho", CODE], "no column 'is_code', which Code needs"),
    ("memorization_score", None, [ALL], "neither is_memorized nor memorization_score"),
    ("is_repeating", None, ["rho"], "no column 'is_repeating', which Guess[0.6-0.6] needs"),
    ("sequence_id", None, [ALL], "no column 'sequence_id'"),
    ("sequence_id", [1, 1], [GUESS, ALL], "sequence_id 1 is there already"),
    ("sequence_id", [1, None], [GUESS, ALL], "no sequence_id"),
    ("memorization_score", [32.0, 1.0], [GUESS, ALL], "'memorization_score': 32 where"),
    ("rouge_l", [0.5, 50.0], [GUESS, ALL], "'rouge_l': 50 where a value between 0 and 1"),
    ("duplicates", [-1, 2], [GUESS, ALL], "'duplicates': -1 where "),
]


@pytest.mark.parametrize(("column", "values", "names", "said"), WRONG)
def test_what_cannot_be_labelled_is_refused_and_nothing_written(
    tmp_path, refused, column, values, names, said
):
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    rows = [(1.0, 3, False, False, 0.1, 0.1, True), (0.5, 4, False, False, 0.2, NAN, False)]
    frame = make_table(rows).drop(column)
    if values is not None:
        frame = frame.with_columns(pl.Series(column, values))
    frame.write_parquet(source)
    for name in names if values else [names[-1]]:
        assert said in refused("label", source, "-t", name, "-o", out)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_torn_table_is_damaged_data(tmp_path):
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    every_kind_of_row().write_parquet(source, compression="uncompressed")
    source.write_bytes(source.read_bytes()[:9999])
    said = refusal(label_table, source, out, ["catalogue"], error=DamagedDataError)
    assert "in.parquet: not a whole Parquet file" in said
    assert not out.exists()


def test_a_measure_of_the_text_is_made_of_a_table_that_lacks_it(tmp_path):
    texts = ["aaaa", "abcdefgh", None]
    table = pl.DataFrame({"sequence_id": [0, 1, 2], "is_memorized": True, "text": texts})
    table.write_parquet(tmp_path / "in.parquet")
    name = "Non-Memo, ShannonLength[>1], Others"
    label_table(tmp_path / "in.parquet", tmp_path / "out.parquet", [name])
    found = pl.read_parquet(tmp_path / "out.parquet")[name].to_list()
    assert found == ["Others", "ShannonLength[>1]", None]
    table.drop("text").write_parquet(tmp_path / "in.parquet")
    with pytest.raises(UserError, match="shannon_length"):
        label_table(tmp_path / "in.parquet", tmp_path / "out.parquet", [name])
