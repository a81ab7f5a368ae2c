"""A table file gets one column a taxonomy, with the classes that a plain loop gives by hand."""

import csv
import itertools
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from taxonomy_tables import COLUMNS, label_by_hand

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import label_table

DATA = resources.files("mnemoscope") / "benchmark" / "data"
PUBLISHED = [
    row["tax_name"]
    for row in csv.DictReader(
        (DATA / "taxonomies_all.csv").read_text(encoding="utf-8").splitlines()
    )
]


def every_kind_of_row() -> pl.DataFrame:
    """All combinations of values on both sides of each threshold and of nulls: 5,103 rows."""
    rows = itertools.product(
        [1.0, 31 / 32, None],
        [5, 6, 50, 51, 1000, 1001, None],
        [True, False, None],
        [True, False, None],
        [0.46875, 0.5, None],
        [0.4999999, 0.5, None],
        [True, False, None],
    )
    return pl.DataFrame(
        [(number, *row) for number, row in enumerate(rows)], schema=COLUMNS, orient="row"
    )


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_each_of_the_54_equals_a_plain_loop_wherever_a_null_stands(
    ending: str, tmp_path: Path
) -> None:
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


def test_rho_settings_equal_a_plain_loop_and_have_the_published_rows(tmp_path: Path) -> None:
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
        table = csv.DictReader((DATA / "rho.csv").read_text(encoding="utf-8").splitlines())
        for name, setting in zip(found.columns[1:], table, strict=True):
            is_guess = grid["is_incrementing"] | grid["is_repeating"]
            for measure, used in (("rouge_l", "Rouge-L"), ("rouge_3", "Rouge-3")):
                if setting[used] == "Yes":
                    is_guess |= grid[measure] >= float(setting["Threshold"])
            node = name.split(", ")[1]
            assert name == f"Non-Memo, {node}, Recall"
            assert found[name].to_list() == [node if one else "Recall" for one in is_guess], name


def test_catalogue_and_rho_and_a_name_go_into_one_table(tmp_path: Path) -> None:
    every_kind_of_row().head(50).write_parquet(tmp_path / "in.parquet")
    names = ["catalogue", "rho", "Non-Memo, Recite[7], Rest"]
    label_table(tmp_path / "in.parquet", tmp_path / "out.parquet", names)
    columns = pl.read_parquet(tmp_path / "out.parquet").columns
    assert columns == ["sequence_id", *(one.name for one in load_taxonomies(names))]
    assert len(columns) == 1 + 54 + 27 + 1


def test_without_a_column_the_taxonomies_that_need_it_are_null_and_the_others_whole(
    tmp_path: Path,
) -> None:
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


@pytest.mark.parametrize(
    ("drop", "names", "says"),
    [
        ("is_code", ["rho", "Non-Memo, Code, Others"], "no column 'is_code', which Code needs"),
        ("memorization_score", ["catalogue"], "neither is_memorized nor memorization_score"),
        ("is_repeating", ["rho"], "no column 'is_repeating'"),
        ("sequence_id", ["catalogue"], "no column 'sequence_id'"),
    ],
)
def test_what_cannot_be_labelled_is_refused_and_nothing_written(
    drop: str, names: list[str], says: str, tmp_path: Path
) -> None:
    every_kind_of_row().head(9).drop(drop).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(UserError) as refused:
        label_table(tmp_path / "in.parquet", tmp_path / "out.parquet", names)
    assert says in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_torn_table_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    every_kind_of_row().write_parquet(source, compression="uncompressed")
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedDataError, match=r"in\.parquet: not a whole Parquet file"):
        label_table(source, tmp_path / "out.parquet", ["catalogue"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_an_unknown_node_in_a_file_is_refused_with_the_file(tmp_path: Path) -> None:
    every_kind_of_row().head(9).write_parquet(tmp_path / "in.parquet")
    (tmp_path / "own.yaml").write_text("taxonomies:\n  - Non-Memo, Gues, Rest\n")
    with pytest.raises(UserError, match=r"own\.yaml.*unknown node 'Gues'.*Did you mean 'Guess'"):
        label_table(tmp_path / "in.parquet", tmp_path / "out.parquet", [str(tmp_path / "own.yaml")])


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("sequence_id", [1, 1], "sequence_id 1 is there already"),
        ("sequence_id", [1, None], "no sequence_id"),
        ("memorization_score", [32.0, 1.0], "'memorization_score': 32 where"),
        ("rouge_l", [0.5, 50.0], "'rouge_l': 50 where a value between 0 and 1"),
        ("duplicates", [-1, 2], "'duplicates': -1 where a value at least 0"),
    ],
)
@pytest.mark.parametrize("names", [["Non-Memo, Guess, Recall"], ["catalogue"]])
def test_values_that_cannot_be_are_refused(tmp_path, refused, column, values, said, names) -> None:
    frame = pl.DataFrame(
        {
            "sequence_id": [1, 2],
            "memorization_score": [1.0, 0.5],
            "duplicates": [3, 4],
            "is_incrementing": [False, False],
            "is_repeating": [False, False],
            "rouge_l": [0.1, 0.2],
            "rouge_3": [0.1, float("nan")],
            "is_code": [True, False],
        }
    ).with_columns(pl.Series(column, values))
    frame.write_parquet(tmp_path / "in.parquet")
    chosen = [one for name in names for one in ("-t", name)]
    out = tmp_path / "out.parquet"
    assert said in refused("label", tmp_path / "in.parquet", *chosen, "-o", out)
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
