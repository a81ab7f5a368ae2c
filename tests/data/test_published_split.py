"""The reader of the paper's data set on every quirk it is known for, on SYNTHETIC copies of it."""

import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.synthetic_semantic_filters import SCHEMA, make_rows, write_copy, write_split
from mnemoscope.data import published_split
from mnemoscope.data.features import add_features
from mnemoscope.data.published_split import (
    HUB_NAME,
    SPLITS,
    find_split,
    is_split_folder,
    read_split,
    take_rows,
)
from mnemoscope.data.rouge import rouge_3, rouge_l
from mnemoscope.errors import DamagedDataError, UserError
from refusals import refusal

N_PILE, N_MEMORIES = 2000, 301
PILE, MEMORIES = "pile_deduped_12b", "memories_deduped_12b"
NEEDED = (
    "sequence_id text is_incrementing is_repeating sequence_duplicates tokens nl_scores "
    "memorization_score"
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """2,000 + 301 sequences in two files each; read only."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_copy(folder, N_PILE, N_MEMORIES, vocab_size=300)
    return folder


@pytest.fixture
def changed(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "copy")
    return tmp_path / "copy"


def raw(folder, split):
    return pl.concat(pl.read_parquet(one) for one in sorted((folder / "data").glob(f"{split}*")))


def write_frame(folder, split, frame, n_shards=1):
    write_split(folder, split, iter([frame]), n_shards=n_shards, n_rows=frame.height)
    return folder / "data" / f"{split}-00000-of-{n_shards:05d}.parquet"


def rows(n=20, first=0, is_memorized=True):
    ids = np.arange(first, first + n)
    return make_rows(ids, np.full(n, is_memorized), seed=3, vocab_size=300)


def said_of(source, split=MEMORIES, error=UserError):
    return refusal(read_split, str(source), split, error=error)


def test_both_parts_are_one_table_with_unique_ids_and_the_pile_row_kept(copy):
    pile, memories = raw(copy, PILE), raw(copy, MEMORIES)
    overlap = list(set(pile["sequence_id"]) & set(memories["sequence_id"]))
    split = read_split(str(copy), "deduped_12b")
    assert split.n_rows == {PILE: N_PILE, MEMORIES: N_MEMORIES + 3}
    assert (split.n_duplicates, split.n_overlaps) == (3, len(overlap))
    assert split.rows["sequence_id"].n_unique() == split.rows.height
    assert set(split.rows["sequence_id"]) == {*pile["sequence_id"], *memories["sequence_id"]}
    kept, whole = (one.filter(pl.col("sequence_id").is_in(overlap)) for one in (split.rows, pile))
    assert (
        kept.select("sequence_id", "duplicates").rows()
        == whole.select("sequence_id", "sequence_duplicates").rows()
    )
    alone = read_split(str(copy), MEMORIES, also=["huffman_coding_length", "no_such_column"])
    assert (list(alone.files), alone.rows.height) == ([MEMORIES], N_MEMORIES)
    assert (alone.n_duplicates, alone.n_overlaps) == (3, 0)
    asked_for = memories["huffman_coding_length"][:N_MEMORIES]
    assert alone.rows["huffman_coding_length"].to_list() == asked_for.to_list()
    assert "no_such_column" not in alone.rows.columns


@pytest.mark.parametrize("slice_rows", [64, 100_000])
def test_features_are_those_of_the_whole_table_whatever_the_slice(copy, monkeypatch, slice_rows):
    monkeypatch.setattr(published_split, "_SLICE_ROWS", slice_rows)
    split = read_split(str(copy), "deduped_12b")
    expected = pl.concat([raw(copy, PILE), raw(copy, MEMORIES)]).unique(
        "sequence_id", keep="first", maintain_order=True
    )
    halves = np.split(np.stack(expected["tokens"].to_numpy()), 2, axis=1)
    assert split.rows["rouge_l"].to_list() == rouge_l(*halves).tolist()
    assert split.rows["rouge_3"].to_list() == rouge_3(*halves).tolist()
    for ours, theirs in {
        "duplicates": "sequence_duplicates",
        "is_incrementing": "is_incrementing",
        "is_repeating": "is_repeating",
        "memorization_score": "memorization_score",
    }.items():
        assert split.rows[ours].to_list() == expected[theirs].to_list(), ours
    some = split.rows.filter(pl.col("sequence_id") % 7 == 3)
    taken = take_rows(split, some.reverse())
    whole = expected.filter(pl.col("sequence_id") % 7 == 3)
    for name in ("sequence_id", "tokens", "text"):
        assert taken[name].to_list() == whole[name].to_list(), name
    assert taken.schema["tokens"] == pl.List(pl.Int32)


def test_the_name_of_a_folder_is_no_pattern(tmp_path):
    write_frame(tmp_path / "split[1]", MEMORIES, rows())
    split = read_split(str(tmp_path / "split[1]"), MEMORIES)
    assert take_rows(split, split.rows)["text"].to_list() == rows()["text"].to_list()


def test_what_a_score_says_and_that_no_number_says_nothing(tmp_path):
    """At most 0.4 is code, 0.525 and above is not; between, NaN and null are not known."""
    code = {0.0: True, 0.4: True, 0.41: None, 0.5249: None, 0.525: False, 0.9: False}
    for theirs, ours, said in (
        ("nl_scores", "is_code", code),
        ("memorization_score", "memorization_score", {1.0: 1.0}),
    ):
        scores = pl.Series(theirs, [*said, float("nan"), None], dtype=SCHEMA[theirs])
        write_frame(tmp_path, MEMORIES, rows(len(scores)).with_columns(scores))
        found = read_split(str(tmp_path), MEMORIES).rows[ours].to_list()
        assert found == [*said.values(), None, None]


def test_the_label_of_the_papers_classifier_goes_before_the_score(tmp_path):
    """Code, or LaTeX that the classifier calls natural language; other text is no code."""
    labels = ["__label__Code", "Code", "__label__NaturalLanguage", "NaturalLanguage", None, None]
    texts = ["x", "x", "x", r"a \usepackage{b}", r"\usepackage{b}", r"\usepackage[c]{b}"]
    columns = [pl.Series("code_label", labels), pl.Series("text", texts)]
    scores = pl.Series("nl_scores", [0.9, None, 0.1, 0.9, 0.9, 0.1], dtype=SCHEMA["nl_scores"])
    frame = rows(6).with_columns(*columns, scores)
    (tmp_path / "data").mkdir()
    frame.write_parquet(tmp_path / "data" / f"{MEMORIES}-00000-of-00001.parquet")
    expected = [True, True, False, True, True, None]
    assert read_split(str(tmp_path), MEMORIES).rows["is_code"].to_list() == expected
    table = pl.DataFrame([pl.Series("sequence_id", range(6)), *columns])
    assert add_features(table)["is_code"].to_list() == expected
    bare = add_features(table.drop("text").with_columns(tokens=frame["tokens"]))
    assert bare["is_code"].to_list() == [True, True, False, False, None, None]


def test_limit_draws_from_the_whole_split_by_its_seed(copy):
    drawn = [read_split(str(copy), PILE, limit=500, seed=seed).rows for seed in (0, 0, 1)]
    assert drawn[0].height == 500
    assert drawn[0].equals(drawn[1])
    assert not drawn[0].equals(drawn[2])
    whole = read_split(str(copy), PILE).rows
    assert drawn[0].equals(whole.filter(pl.col("row").is_in(drawn[0]["row"].to_list())))
    assert read_split(str(copy), PILE, limit=10**9).rows.equals(whole)


def test_every_layout_gives_the_same_table(copy, tmp_path):
    expected = read_split(str(copy), "deduped_12b").rows
    cache = tmp_path / "hub" / f"datasets--{HUB_NAME.replace('/', '--')}"
    shutil.copytree(copy / "data", cache / "snapshots" / "0123abc" / "data")
    shutil.copytree(copy / "data", tmp_path / "flat")
    for path in (copy / "data").iterdir():
        split, _, rest = path.name.partition("-")
        (tmp_path / "folders" / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "folders" / split / rest)
        old_name = f"{path.stem}-5f3c9b1d2a.parquet"  # as earlier pushes named them
        (tmp_path / "hashed").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "hashed" / old_name)
    for source in (cache, cache.parent, *(tmp_path / one for one in ("flat", "folders", "hashed"))):
        assert is_split_folder(str(source)), source
        assert read_split(str(source), "deduped_12b").rows.equals(expected), source
    assert not is_split_folder(str(Path(__file__).parent))


def test_the_hubs_name_fetches_only_the_files_of_the_split(copy, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    asked = []

    def fetch(name, **named):
        asked.append((name, named))
        return str(copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert list(find_split(HUB_NAME, "deduped_12b")) == [PILE, MEMORIES]
    patterns = [f"data/{PILE}-*.parquet", f"data/{MEMORIES}-*.parquet"]
    assert asked == [(HUB_NAME, {"repo_type": "dataset", "allow_patterns": patterns})]
    with pytest.raises(UserError, match="Did you mean 'memories_deduped_12b'"):
        find_split(HUB_NAME, "memoris_deduped_12b")
    assert len(asked) == 1
    assert len(SPLITS) == len(set(SPLITS)) == 32

    def fail(name, **named):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    said = said_of(HUB_NAME, "deduped_12b")
    assert re.search("hf download usvsnsp/semantic-filters .*--local-dir", said)
    assert "ConnectionError" in said


def test_what_is_not_there_is_named(changed, tmp_path):
    for split, words in {
        "deduped_12": "Did you mean 'deduped_12b'",
        "pile_deduped_12": "Did you mean 'pile_deduped_12b'",
        "xyz": "no split 'xyz'. It holds: memories_deduped_12b, pile_deduped_12b.",
        "": "no split ''",
        "../data": "no split",
    }.items():
        assert words in said_of(changed, split)
        assert str(changed) in said_of(changed, split)
    first, second = sorted((changed / "data").glob("pile*"))
    second.unlink()
    assert f"1 of 2 files of '{PILE}'" in said_of(changed, PILE)
    twice = first.with_name(first.name.replace(".parquet", "-aaa1.parquet"))
    shutil.copy(first, twice)  # the first again is not the second
    assert f"2 of 4 files of '{PILE}'" in said_of(changed, PILE)
    twice.unlink()
    assert read_split(str(changed), MEMORIES).rows.height == N_MEMORIES
    first.unlink()
    said = said_of(changed, "deduped_12b")  # half of a pair is not taken for the pair
    assert "needs 'pile_deduped_12b', which is not there" in said
    (tmp_path / "file").write_text("x")
    for name in ("none", "file"):
        assert "no such folder" in said_of(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert "holds no split of usvsnsp/semantic-filters" in said_of(tmp_path / "empty")


def cast(column, dtype):
    return lambda frame: frame.with_columns(pl.col(column).cast(dtype))


def in_row_13(column, value):
    def put(frame):
        values = frame[column].to_list()
        values[13] = value
        dtype = pl.List(pl.Int64) if column == "tokens" else frame.schema[column]
        return frame.with_columns(pl.Series(column, values, dtype=dtype))

    return put


SPOILT = [
    (lambda frame: frame.drop("sequence_id"), ": no column 'sequence_id'"),
    (lambda frame: frame.drop("nl_scores"), ": no column 'nl_scores'"),
    (cast("sequence_id", pl.String), ", column 'sequence_id': String where integers"),
    (cast("is_repeating", pl.Int8), ", column 'is_repeating': Int8 where true or false"),
    (cast("nl_scores", pl.String), ", column 'nl_scores': String where numbers"),
    (cast("tokens", pl.List(pl.String)), ", column 'tokens': List(String) where lists of integers"),
    (in_row_13("sequence_id", None), ", column 'sequence_id', row 13: null"),
    (in_row_13("tokens", [1] * 63), ", column 'tokens', row 13: 63 tokens where 64 are needed"),
    (in_row_13("tokens", None), ", column 'tokens', row 13: 0 tokens where 64 are needed"),
    *(
        (in_row_13("tokens", [1] * 63 + [one]), f", column 'tokens', row 13: {one} is no token id")
        for one in (None, -1, 2**31)
    ),
]


@pytest.mark.parametrize(("change", "said"), SPOILT)
def test_a_file_that_cannot_be_read_is_named_with_column_and_row(changed, change, said):
    path = changed / "data" / f"{MEMORIES}-00001-of-00002.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    assert said_of(changed, "deduped_12b").startswith(f"{path}{said}")


def test_a_split_without_rows_is_refused(tmp_path):
    write_frame(tmp_path, MEMORIES, rows(5).clear())
    assert "has no rows" in said_of(tmp_path)


@pytest.mark.parametrize("keep", [0, 0.3, -1, "no middle"])
def test_a_torn_file_is_damage_and_named(changed, keep):
    path = changed / "data" / f"{MEMORIES}-00000-of-00002.parquet"
    whole = path.read_bytes()
    if keep == "no middle":
        n_empty = len(whole) * 3 // 4 - 4
        path.write_bytes(whole[:4] + bytes(n_empty) + whole[4 + n_empty :])
    else:
        path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    said = said_of(changed, error=DamagedDataError)
    assert said.startswith(f"{path}: not a whole Parquet file")


def test_tokens_in_an_array_column_are_read_as_lists_are(tmp_path):
    frame = rows(3)
    write_frame(tmp_path / "lists", MEMORIES, frame)
    path = write_frame(tmp_path / "arrays", MEMORIES, frame)
    frame.with_columns(pl.col("tokens").list.to_array(64)).write_parquet(path)
    as_lists, as_arrays = (read_split(tmp_path / one, MEMORIES) for one in ("lists", "arrays"))
    assert as_arrays.rows.equals(as_lists.rows)
    assert take_rows(as_arrays, as_arrays.rows).equals(take_rows(as_lists, as_lists.rows))
    pl.read_parquet(path).select(NEEDED.split()).write_parquet(path)  # no other column is opened
    assert read_split(tmp_path / "arrays", MEMORIES).rows.equals(as_lists.rows)
