"""Data as people have it: every format is read back from what other means wrote, else refused."""

import csv
import gzip
import io
import json
import os
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.data.corpus import open_corpus
from mnemoscope.data.duplicates import (
    add_counts,
    count_duplicates,
    count_in_corpus,
    read_suffixes,
)
from mnemoscope.data.features import write_features
from mnemoscope.data.formats import open_unpacked, passed_over, take_columns
from mnemoscope.data.hub import find_hub_files, parse_hub_name
from mnemoscope.data.read import join_results, read_sequences
from mnemoscope.data.rows import to_frame
from mnemoscope.data.table import read_table, scan_table
from mnemoscope.errors import DamagedDataError, MnemoscopeError, UserError
from mnemoscope.progress import show_progress
from mnemoscope.taxonomy.groups import find_groups
from refusals import refusal

LONG = "The licence applies to the library and to the works that are based on it.\n" * 8
NEXT = 'def add(a, b):\n    return "a, b"  # é\n' * 12
HUBBLE = [  # a row of allegrolab/passages_gutenberg_popular: `meta` is a JSON text
    {"text": LONG, "meta": json.dumps({"duplicates": 16, "id": "pg-1"})},
    {"text": NEXT, "meta": json.dumps({"duplicates": 0, "id": "pg-2"})},
]


def lines(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def packed(data: bytes, ending: str) -> bytes:
    if ending == "gz":
        return gzip.compress(data)
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


def as_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


class Dataset:
    """As much of `datasets.Dataset` as is read: its length, names and columns."""

    def __init__(self, rows):
        self._rows = rows
        self.column_names = list(rows[0])

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, name):
        return [row[name] for row in self._rows]


def sources(root):
    """The two texts of `HUBBLE` in every form there is."""
    (root / "a.jsonl").write_bytes(lines(HUBBLE))
    (root / "a.JSONL.GZ").write_bytes(packed(lines(HUBBLE), "gz"))
    as_csv(root / "a.csv", HUBBLE)
    pd.DataFrame(HUBBLE).to_csv(root / "p.csv", index=False)
    (root / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (root / "a.csv").read_bytes())
    pl.DataFrame(HUBBLE).write_parquet(root / "a.parquet")
    (root / "folder").mkdir()
    for name, row in zip(("1.jsonl.gz", "2.jsonl.gz"), HUBBLE, strict=True):
        (root / "folder" / name).write_bytes(packed(lines([row]), "gz"))
    (root / "folder" / "README.md").write_text("# a data set\n")
    frame = pl.DataFrame(HUBBLE)
    names = ("a.jsonl", "a.JSONL.GZ", "a.csv", "p.csv", "bom.csv", "a.parquet", "folder")
    return [
        *(root / name for name in names),
        *(frame, frame.lazy(), pd.DataFrame(HUBBLE), Dataset(HUBBLE)),
    ]


COLUMNS = {"duplicates": "meta.duplicates", "held_out": "meta.duplicates==0", "group": "meta.id"}


def test_every_form_gives_the_same_sequences(tmp_path, tokenizer):
    (tmp_path / "texts").mkdir()
    for name, row in zip("ab", HUBBLE, strict=True):
        (tmp_path / "texts" / f"{name}.txt").write_text(row["text"])
    texts = read_sequences(tmp_path / "texts", tokenizer).frame
    n_first = texts.filter(document="a.txt").height
    n_second = texts.height - n_first
    for source in sources(tmp_path):
        found = read_sequences(source, tokenizer, columns=COLUMNS).frame
        same = ["text", "tokens", "start", "end"]
        assert found.select(same).equals(texts.select(same)), source
        assert found["duplicates"].to_list() == [16] * n_first + [0] * n_second, source
        assert found["held_out"].to_list() == [False] * n_first + [True] * n_second
        assert found["group"].unique(maintain_order=True).to_list() == ["pg-1", "pg-2"]


def test_zstd_is_read_as_what_it_packs(tmp_path, tokenizer):
    zstandard = pytest.importorskip("zstandard")
    plain, path = tmp_path / "a.jsonl", tmp_path / "a.jsonl.zst"
    plain.write_bytes(lines(HUBBLE))
    halves = (lines(HUBBLE[:1]), lines(HUBBLE[1:]))  # two frames, as appended files have
    path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(one) for one in halves))
    assert read_table(path).equals(read_table(plain))
    path.write_bytes(path.read_bytes()[:-7])
    assert "a.jsonl.zst: not a whole" in refusal(read_table, path, error=DamagedDataError)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_a_name_is_no_pattern(tmp_path, tokenizer, ending):
    """`run[1]` and `a*` name one file each, whatever else fits them as patterns."""
    rows = {"expa/run1": "not mine", "expa/a.b": "not mine", "exp[a-b]/a*": "x"}
    for name, text in (rows | {"exp[a-b]/run[1]": "mine"}).items():
        path = tmp_path / f"{name}.{ending}"
        path.parent.mkdir(exist_ok=True)
        if ending == "parquet":  # a corpus would count in the tokens
            other = "tokens" if text == "not mine" else "other"
            pl.DataFrame({"text": [text], other: [[1]]}).write_parquet(path)
        else:
            data = f"text\n{text}\n".encode() if ending == "csv" else lines([{"text": text}])
            path.write_bytes(packed(data, "gz") if ending.endswith("gz") else data)
    path = tmp_path / "exp[a-b]" / f"run[1].{ending}"
    assert read_table(path)["text"].to_list() == ["mine"]
    assert scan_table(path).collect()["text"].to_list() == ["mine"]
    assert read_table(path.with_name(f"a*.{ending}"))["text"].to_list() == ["x"]
    suffix = np.array([tokenizer("mine", add_special_tokens=False).input_ids])
    corpus = open_corpus(path, tokenizer=tokenizer, dtype=None)
    assert count_duplicates(suffix, corpus).tolist() == [1]


def test_a_csv_whose_line_does_not_end_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b"text\n")
        file.truncate(5 << 30)  # a hole, which takes no disk
    assert "a.csv, line 1: not CSV (a line of more than 32 MB)" in refusal(read_table, path)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(max_examples=40)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_any_csv_that_python_writes_is_read_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([["text", "other"], *values])
    found = read_table(path).rows()
    assert found == [tuple(value or None for value in row) for row in values]


def test_numbers_flags_and_lists_of_a_csv_come_at_their_kinds(tmp_path):
    columns = {
        "tokens": [[1, 2], [3, 4]],
        "duplicates": [4, None],  # pandas writes 4.0
        "held_out": [True, False],
        "text": ["12", "x"],
        "note": ["1", "b"],
    }
    pd.DataFrame(columns).to_csv(tmp_path / "a.csv", index=False)
    assert read_table(tmp_path / "a.csv").to_dict(as_series=False) == columns


def test_pairs_of_arrays_are_prefix_and_suffix(tmp_path):
    ids = np.random.default_rng(0).integers(0, 50_000, (7, 100))
    np.save(tmp_path / "train_prefix.npy", ids[:, :60].astype(np.uint16))
    np.save(tmp_path / "train_suffix.npy", ids[:, 60:].astype(np.uint16))
    np.save(tmp_path / "train_preprefix.npy", ids)
    for source in (tmp_path, tmp_path / "train_prefix.npy"):
        found = read_sequences(source, None, length=100, prefix=60).frame
        assert found["tokens"].to_list() == ids.tolist()
        assert found["sequence_id"].to_list() == list(range(7))
    with pytest.raises(UserError, match=r"60 \+ 40 tokens.*sequences\.prefix=60.*suffix=40"):
        read_sequences(tmp_path, None, length=100)


def told(source, tokenizer, columns=None):
    heard = io.StringIO()
    with redirect_stderr(heard), show_progress(io.StringIO()):
        found = read_sequences(source, tokenizer, columns=columns)
    return heard.getvalue(), found.facts


def test_a_count_that_is_passed_over_is_said(tmp_path, tokenizer):
    frame = pl.DataFrame({"text": [LONG], "meta": [HUBBLE[0]["meta"]], "n_copies": [3]})
    nested = frame.with_columns(pl.struct(dup_count=pl.lit(5), year=pl.lit(1900)).alias("info"))
    assert passed_over(nested) == ["meta.duplicates", "n_copies", "info.dup_count"]
    assert passed_over(nested.with_columns(duplicates=pl.lit(1))) == []
    for name, values in {
        "counter": [1], "count": [0.5], "account": [1], "word_count": [9], "discounts": [1],
    }.items():  # fmt: skip
        assert passed_over(pl.DataFrame({"text": ["a"], name: values})) == [], name
    for name in ("count", "dupCount", "n_copies", "times", "Frequency", "times_inserted"):
        assert passed_over(pl.DataFrame({"text": ["a"], name: [1]})) == [name]
    path = tmp_path / "a.parquet"
    frame.write_parquet(path)
    said, facts = told(path, tokenizer)
    assert "'meta.duplicates' looks like a count" in said
    assert "--column duplicates=meta.duplicates" in said
    assert facts["passed_over"] == ["meta.duplicates", "n_copies"]
    assert told(path, tokenizer, {"duplicates": "n_copies"}) == ("", {})


def test_paths_into_structs_and_texts_agree():
    rows = [{"a": {"b": {"c": value}}} for value in (1, None, 3)]
    nested = pl.DataFrame({"a": [row["a"] for row in rows]})
    texts = pl.DataFrame({"a": [json.dumps(row["a"]) for row in rows]})
    for path, expected in {"a.b.c": [1, None, 3], "a.b.c==3": [False, None, True]}.items():
        for frame in (nested, texts):
            assert take_columns(frame, {"x": path}, where="t")["x"].to_list() == expected
    row = take_columns(nested, {"x": "@row"}, where="dir/t.csv")["x"].to_list()
    assert row == [f"t.csv, row {number}" for number in range(3)]
    dotted = pl.DataFrame({"a.b": [1]})  # a column of that very name goes first
    assert take_columns(dotted, {"x": "a.b"}, where="t")["x"].to_list() == [1]


@pytest.mark.parametrize(
    ("values", "wanted", "expected"),
    [
        ([0.0, 4.0, None], "0", [True, False, None]),  # counts of a frame of pandas
        ([0, 4, None], "0.0", [True, False, None]),
        ([2**53, 2**53 + 1], str(2**53 + 1), [False, True]),
        ([True, False, None], "True", [True, False, None]),
        ([True, False, None], "false", [False, True, None]),
        (["0", "x"], "x", [False, True]),
        (["0.0", " 0", "2.0", "x", None], "0", [True, True, False, False, None]),
        (["True", "FALSE", "1", None], "true", [True, False, False, None]),
        ([str(2**53), str(2**53 + 1)], str(2**53 + 1), [False, True]),
        (["007", "7", "9" * 5000], "7", [False, True, False]),  # no numbers of JSON
        ([[1], [2]], "1", "equals no single value"),
        ([1, 2], "none", "holds numbers"),
        ([True], "1", "true or false"),
        ([1], "", "no value follows"),
    ],
)
def test_equal_is_what_the_values_say_and_not_how_they_are_written(values, wanted, expected):
    """A text in place of flags: the refusal where no such value can ever be there."""
    frame, asked = pl.DataFrame({"a": values}), {"x": f"a=={wanted}"}
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            take_columns(frame, asked, where="t")
    else:
        assert take_columns(frame, asked, where="t")["x"].to_list() == expected


def test_whole_numbers_among_fractions_are_fractions(tmp_path):
    for values in ([1, 0.5, None], [0.5, 1, None], [None, 2, 1]):
        as_csv(tmp_path / "a.csv", [{"text": LONG, "rouge_l": one} for one in values])
        assert read_table(tmp_path / "a.csv")["rouge_l"].to_list() == values
        rows = [json.dumps({"s": one, "a": {"s": one}}) for one in values]
        for path in ("meta.s", "meta.a.s"):
            found = take_columns(pl.DataFrame({"meta": rows}), {"x": path}, where="t")
            assert found["x"].to_list() == values
        table = pd.DataFrame({"x": pd.Series(values, dtype=object), "text": LONG})
        assert to_frame(table)["x"].to_list() == values
    nested = pl.DataFrame({"a": ['{"b": {"c": 1}}', '{"b": {"d": [1]}}', '{"b": {"d": [0.5]}}']})
    assert take_columns(nested, {"x": "a.b.d"}, where="t")["x"].to_list() == [None, [1], [0.5]]


def test_several_sources_are_one_table_with_their_names_as_genre(tmp_path, tokenizer):
    results = [read_sequences(pl.DataFrame([row]), tokenizer) for row in HUBBLE]
    names = ["allegrolab/passages_wikipedia#train", "b"]
    found = join_results(results, names)
    n_first = results[0].frame.height
    assert found.frame["sequence_id"].to_list() == list(range(found.frame.height))
    assert found.frame["genre"].to_list()[:n_first] == ["passages_wikipedia"] * n_first
    assert found.frame["genre"].to_list()[n_first:] == ["b"] * results[1].frame.height
    assert found.n_documents == 2
    assert join_results(results[:1], names[:1]) is results[0]


def test_a_corpus_is_counted_alike_in_every_form(tmp_path, tokenizer):
    suffixes = np.array(tokenizer(LONG, add_special_tokens=False).input_ids[:16])[None]
    expected = None
    for source in sources(tmp_path):
        if not hasattr(source, "suffix"):
            continue
        corpus = open_corpus(source, tokenizer=tokenizer, dtype=None)
        progress = tmp_path / "progress"
        found = count_in_corpus(suffixes.astype(np.int32), corpus, progress_file=progress)
        progress.unlink(missing_ok=True)
        expected = expected or found
        assert found.counts.tolist() == expected.counts.tolist()
        if source.name == "folder":  # its README is a text of the corpus too
            continue
        assert found.n_tokens == expected.n_tokens
        assert count_duplicates(suffixes, corpus).tolist() == expected.counts.tolist()
    assert expected.counts[0] >= 8 // 2


# -- the hub, from its cache


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache(root, name, files):
    """A data set as the hub's cache lays it out: refs, blobs' links, snapshots by commit."""
    folder = root / f"datasets--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for number, (path, data) in enumerate(files.items()):
        blob = folder / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
        link = folder / "snapshots" / COMMIT / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


CARD = b"""---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: ["data/test-*"]
- config_name: other
  data_files: "extra/**/*.jsonl"
---
# Card
"""


def test_a_data_set_of_the_hub_is_read_from_its_cache(hub, tokenizer):
    gz = packed(lines(HUBBLE), "gz")
    cache(hub, "lab/passages", {"README.md": b"# no head", "passages_nodup.jsonl.gz": gz})
    found = read_sequences("lab/passages", tokenizer, columns=COLUMNS)
    assert found.frame["duplicates"].unique().sort().to_list() == [0, 16]
    assert found.facts["hub"] == {"name": "lab/passages", "commit": COMMIT}
    again = read_sequences("lab/passages@main#passages_nodup", tokenizer, columns=COLUMNS)
    assert again.frame.equals(found.frame)
    said, _ = told("https://huggingface.co/datasets/lab/passages", tokenizer, COLUMNS)
    assert "the hub cannot be reached (OfflineModeIsEnabled)" in said
    assert f"the copy of commit {COMMIT[:7]} in the cache" in said


def test_verbs_on_a_table_read_every_source(hub, tmp_path):
    rows = np.random.default_rng(0).integers(0, 99, (6, 64))
    with_ids = [{"n": at, "ids": row.tolist()} for at, row in enumerate(rows)]
    cache(hub, "lab/rows", {"rows.jsonl.gz": packed(lines(with_ids), "gz")})
    columns = {"sequence_id": "n", "tokens": "ids"}
    (tmp_path / "halves").mkdir()
    for at, name in enumerate(("a", "b")):
        part = with_ids[3 * at : 3 * at + 3]
        (tmp_path / "halves" / f"{name}.jsonl").write_bytes(lines(part))
    np.save(tmp_path / "x_prefix.npy", rows[:, :32])
    np.save(tmp_path / "x_suffix.npy", rows[:, 32:])
    made = []
    for source, asked in (
        ("lab/rows", columns),
        (Path("https://huggingface.co/datasets/lab/rows"), columns),
        (tmp_path / "halves", columns),
        (tmp_path / "x_prefix.npy", {}),
    ):
        assert write_features(source, tmp_path / "out.parquet", columns=asked) == 6
        made.append(pl.read_parquet(tmp_path / "out.parquet").select("sequence_id", "rouge_l"))
        assert read_suffixes(source, columns=asked).tolist() == rows[:, 32:].tolist()
        assert add_counts(source, np.arange(6), asked)["duplicates"].to_list() == [*range(6)]
    assert all(one.equals(made[0]) for one in made)
    (tmp_path / "texts").mkdir()
    (tmp_path / "a.txt").write_text(LONG)
    (tmp_path / "texts" / "a.txt").write_text(LONG)
    with pytest.raises(UserError, match="a table must end in"):
        write_features(tmp_path / "a.txt", tmp_path / "out.parquet")
    with pytest.raises(UserError, match="texts, where a table of sequences"):
        write_features(tmp_path / "texts", tmp_path / "out.parquet")


def unlike(n):
    """Texts that share no five tokens, each of at least two windows of 16 tokens."""
    words = np.random.default_rng(0).integers(1000, 10_000, (n, 16))
    return [{"answer": " ".join(map(str, row))} for row in words.tolist()]


@pytest.mark.parametrize("columns", [{"text": "answer", "group": "@row"}, {"text": "answer"}])
@pytest.mark.parametrize(
    ("files", "sources"),
    [
        (["f/2020/part.jsonl", "f/2021/part.jsonl"], ["f"]),
        (["a/train.jsonl", "b/train.jsonl"], ["a/train.jsonl", "b/train.jsonl"]),
        (["a/x/t.jsonl", "b/x/t.jsonl", "c/t.jsonl"], ["a/x/", "b/x/", "c/t.jsonl"]),
        (["forget10/t.jsonl", "retain90/t.jsonl"], ["lab/TOFU:forget10", "lab/TOFU:retain90"]),
    ],
)
def test_rows_of_unlike_files_of_one_name_stay_apart(hub, tokenizer, files, sources, columns):
    rows = unlike(3 * len(files))
    parts = {name: lines(rows[3 * at : 3 * at + 3]) for at, name in enumerate(files)}
    cache(hub, "lab/TOFU", parts)
    for name, data in parts.items():
        (hub.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (hub.parent / name).write_bytes(data)
    given = {"length": 16, "stride": 8, "columns": columns}  # windows overlap
    results = [read_sequences(one, tokenizer, **given) for one in sources]
    frame = join_results(results, sources).frame
    whole = [row["answer"] for row in rows]
    texts = [next(one for one in whole if text.strip() in one) for text in frame["text"]]
    pairs = pl.DataFrame({"text": texts, "group": find_groups(frame), "name": frame["document"]})
    assert pairs.n_unique() == len(whole)
    assert [pairs[name].n_unique() for name in pairs.columns] == [len(whole)] * 3


def test_texts_of_one_name_in_two_folders_stay_apart(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in zip(("a/README.md", "a/own.md", "b/README.md"), unlike(3), strict=True):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text["answer"])
    first, second = (read_sequences(one, tokenizer, length=16, stride=8) for one in "ab")
    found = join_results([first, second], ["a", "b"]).frame
    assert find_groups(found).n_unique() == 3
    assert {*found["document"]} == {"a/README.md", "a/own.md", "b/README.md"}
    again = join_results([first, first], ["a", "a"]).frame  # names of one source are the same
    assert {*again["document"]} == {*first.frame["document"]}


def test_names_that_the_sources_gave_or_that_differ_stay_as_they_are(tmp_path, tokenizer):
    rows = [one | {"document": "d", "group": "g"} for one in unlike(2)]
    bare = [{"text": one["answer"]} for one in unlike(2)]
    (tmp_path / "x").mkdir()
    for name, part in {"a": rows[:1], "x/a": rows[1:], "b": bare[:1], "x/c": bare[1:]}.items():
        (tmp_path / f"{name}.jsonl").write_bytes(lines(part))
    for names, columns, expected in (
        (["a.jsonl", "x/a.jsonl"], {"text": "answer"}, ["d"]),
        (["b.jsonl", "x/c.jsonl"], {"group": "@row"}, ["b.jsonl, row 0", "c.jsonl, row 0"]),
    ):
        paths = [str(tmp_path / name) for name in names]
        results = [read_sequences(one, tokenizer, length=16, columns=columns) for one in paths]
        found = join_results(results, paths).frame
        assert found["document"].unique(maintain_order=True).to_list() == expected
        assert find_groups(found).n_unique() == len(expected)


def test_what_is_not_in_the_cache_is_fetched_and_nothing_else(hub, tokenizer, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    gz, asked = packed(lines(HUBBLE), "gz"), []
    files = {"README.md": b"# no head", "one_nodup.jsonl.gz": gz, "one_dup.jsonl.gz": gz * 9}

    def dataset_info(_, name, *, revision, **__):
        assert revision in ("v1", None)
        if name != "lab/passages":
            raise RepositoryNotFoundError("404", response=Mock())
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=one) for one in files])

    def fetch(name, *, allow_patterns, repo_type, revision):
        assert (repo_type, revision) == ("dataset", "v1")
        asked.extend(allow_patterns)
        (hub / COMMIT).mkdir(parents=True, exist_ok=True)
        for one in allow_patterns:
            (hub / COMMIT / one).write_bytes(files[one])
        return str(hub / COMMIT)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    found = read_sequences("lab/passages@v1#one_nodup", tokenizer, columns=COLUMNS)
    assert found.facts["hub"] == {"name": "lab/passages", "commit": COMMIT}
    assert found.frame["duplicates"].unique().sort().to_list() == [0, 16]
    assert asked == ["README.md", "one_nodup.jsonl.gz"]
    with pytest.raises(UserError, match="no such data set or revision on the hub"):
        read_sequences("lab/none", tokenizer)


def test_configs_splits_and_shards_are_told_apart(hub):
    files = {f"data/train-{n:05d}-of-00003.parquet": b"" for n in range(3)}
    files |= {"data/test-00000-of-00001.parquet": b"", "extra/x/y.jsonl": b"", "README.md": CARD}
    cache(hub, "lab/many", files)
    for asked, names in {
        "lab/many#train": sorted(files)[2:5],
        "lab/many:default#test": ["data/test-00000-of-00001.parquet"],
        "lab/many:other": ["extra/x/y.jsonl"],
    }.items():
        found = find_hub_files(parse_hub_name(asked))
        assert [
            path.as_posix().split("/snapshots/")[1].partition("/")[2] for path in found.files
        ] == names
    for asked, words in {
        "lab/many": "which split.*test, train",
        "lab/many#tset": "no split 'tset'.*Did you mean 'test'",
        "lab/many:othr": "no config 'othr'.*other",
        "lab/many@v2": "cannot be reached",
        "lab/none": r"no file or folder here, and the hub cannot be reached \(Offline",
    }.items():
        with pytest.raises(UserError, match=words):
            find_hub_files(parse_hub_name(asked))
    del files["data/train-00001-of-00003.parquet"], files["README.md"]
    cache(hub, "lab/torn", files)
    assert "2 of 3 files" in refusal(find_hub_files, parse_hub_name("lab/torn#train"))


@pytest.mark.parametrize(
    "names", [("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"), ("train.jsonl",)]
)
def test_a_split_in_several_folders_wants_a_configuration(names, hub):
    files = {f"data/{part}/{name}": b"" for part in ("en", "fr") for name in names}
    cache(hub, "lab/two", files | {"data/fr/test.jsonl": b""})
    with pytest.raises(UserError, match=r"2 folders \(data/en, data/fr\).*with ':': en, fr\."):
        find_hub_files(parse_hub_name("lab/two#train"))
    for asked, n in {"lab/two:en": len(names), "lab/two#test": 1}.items():
        assert len(find_hub_files(parse_hub_name(asked)).files) == n
    cache(hub, "lab/one", {f"{at}/train-{at:05d}-of-00002.jsonl": b"" for at in range(2)})
    assert len(find_hub_files(parse_hub_name("lab/one")).files) == 2  # shards of one set


def test_what_is_a_path_is_no_name_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    monkeypatch.chdir(tmp_path)
    paths = "owner/none", "./a/b", "~/a/b", "/a/b", "a/b.txt", "a/b.jsonl.gz", "plain", "a/b/c"
    for source in paths:
        assert parse_hub_name(source) is None, source
    assert parse_hub_name("a/b:c@v1.0#d") == ("a/b", "c", "v1.0", "d")


# -- what could be misread


def npy_header(facts: dict) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()


def _rows(**changes):
    return lines([HUBBLE[0] | changes])


PAIR = {"a_prefix.npy": np.zeros((2, 32), np.uint16), "a_suffix.npy": np.zeros((2, 32), np.uint16)}
UNEQUAL = {"a_prefix.npy": np.zeros((2, 40), int), "a_suffix.npy": np.zeros((2, 24), int)}
MIXED = _rows(meta='{"n": 1}') + _rows(meta='{"n": "one"}')
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 12345\n"
BOMB = npy_header({"descr": "<u2", "fortran_order": False, "shape": (10**13, 32)}) + bytes(64)
MISREAD = [  # a file and what is in it, words of the one line, columns asked for
    ("a.csv", b"a,b\n1,2\n", "column text=NAME"),
    ("a.csv", b"id;text\n1;x\n", "divided by ';'"),
    ("a.csv", b"id,text\n1,a, b\n", "line 2: 3 fields"),
    ("a.csv", b'text\n"a\nb\n', "not CSV"),
    ("a.csv", b"text,text\na,b\n", "'text' is empty"),
    ("a.csv", "text\né\n".encode("latin-1"), "not UTF-8"),
    ("a.csv", b"text,duplicates\na,many\n", "row 0, 'duplicates': 'many'"),
    ("a.csv", b"text,duplicates\na,1.5\n", "'1.5'"),
    ("a.csv", b'text,tokens\na,[1]\nb,"[1, 18446744073709551616]"\n', "'tokens': a number does"),
    ("a.csv", b"text,duplicates\na,1\nb,18446744073709551616\n", "'duplicates': a number does"),
    ("a.csv", b"", "without a column 'text'"),
    ("a.tsv", b"text\nx\n", "no text to be cut: commas"),
    ("a.json", lines(HUBBLE), "one object a line"),
    ("a.ndjson", lines(HUBBLE), "end in .jsonl"),
    ("a.txt.gz", gzip.compress(LONG.encode()), "unpack it"),
    ("a.jsonl", json.dumps(HUBBLE).encode(), "a list where"),
    ("a.jsonl", b"\xef\xbb\xbf" + lines(HUBBLE), "BOM"),
    ("a.jsonl.gz", lines(HUBBLE), "not a whole .gz"),
    ("a.jsonl.gz", gzip.compress(lines(HUBBLE))[:-9], "not a whole .gz"),
    ("a.parquet", lines(HUBBLE), "not a whole Parquet"),
    ("a_prefix.npy", PAIR["a_prefix.npy"], "one array"),
    ("a.jsonl", _rows(), "no 'dups'.*duplicates, id", {"duplicates": "meta.dups"}),
    ("a.jsonl", _rows(), "Did you mean 'meta'", {"duplicates": "mta.duplicates"}),
    ("a.jsonl", _rows(meta=4), "has no field 'n'", {"duplicates": "meta.n"}),
    ("a.jsonl", _rows(meta="x"), "row 0: no JSON object", {"duplicates": "meta.n"}),
    ("a.jsonl", _rows(n="many"), "'duplicates': String where", {"duplicates": "n"}),
    ("a.jsonl", MIXED, "several kinds", {"duplicates": "meta.n"}),
    ("a.txt", LONG.encode(), "only tables have columns", {"group": "x"}),
    ("a.parquet", POINTER, "git lfs pull"),
    ("a.jsonl.gz", POINTER, "git lfs pull"),
    ("a.jsonl", lines([{"content": LONG}]), "no column 'text'"),
]
FOLDERS = [  # files, which of them is given, words of the one line
    (PAIR, "a_suffix.npy", "Name the first"),
    (PAIR | {"b_prefix.npy": np.zeros((1, 32)), "b_suffix.npy": np.zeros((1, 32))}, "", "several"),
    (PAIR | {"a_suffix.npy": np.zeros((2, 32))}, "", "float64 of shape"),
    (PAIR | {"a_suffix.npy": np.zeros((3, 32), int)}, "", "2 rows, a_suffix.npy has 3"),
    (UNEQUAL, "", r"prefix=40 and sequences\.suffix=24"),
    (PAIR | {"a_suffix.npy": np.full((2, 32), -1)}, "", "below 0"),
    (PAIR | {"a_suffix.npy": np.array([["a"]], dtype=object)}, "", "not a whole .npy array"),
    ({"a.jsonl": _rows(), "b.jsonl": _rows(more=1)}, "", r"other columns than a\.jsonl \(more\)"),
    ({"a.jsonl/.hidden": b""}, "a.jsonl", "without a file"),
    ({"train-00000-of-00002.jsonl": _rows()}, "", "1 of 2 files of 'train'"),
    ({"a_prefix.npy": BOMB, "a_suffix.npy": BOMB}, "", "not a whole .npy array"),
    ({".DS_Store": LONG.encode()}, "", r"a folder without a file \(hidden"),
    ({".mine": LONG.encode()}, "", r"no text in it \(1 file, .* hidden"),
    ({"a.bin": b"\0\1"}, "", r"no text in it \(1 file,"),
    ({"a.txt": b"short", "b.txt": b""}, "", "no text of 64 tokens"),
    ({"a.bin": b"\0"}, "a.bin", "a.bin: not a text in UTF-8"),
    ({}, "gone", "gone: no such file or folder"),
    ({"my-texts/a.txt": b"a"}, "my-text", "no such file or folder. Did you mean '.*my-texts'"),
    ({"a.txt": b"a b " * (9 << 18)}, "a.txt", r"longer than 8 MB\. Divide"),
]
TABLES = [  # the columns of a table, words of the one line
    ({"mine": [1, 2]}, "no column 'text'"),
    ({"tokens": [[1] * 64, [1] * 61]}, "row 1: 61 tokens where 64"),
    ({"sequence_id": [1, 1], "tokens": [[1] * 64] * 2}, "row 1: sequence_id 1 is there"),
    ({"sequence_id": [1, 1], "text": [LONG, LONG]}, "row 1: sequence_id 1 is there"),
    ({"sequence_id": [1, None], "text": [LONG, LONG]}, "row 1: no sequence_id"),
    ({"text": ["a", None]}, "no text of 64 tokens"),
    ({"text": [1, 2]}, "column 'text'"),
    ({"text": ["a b " * (9 << 18)]}, r"longer than 8 MB\. Divide"),
]


@pytest.mark.parametrize(
    ("files", "given", "words", "columns"),
    [
        *(({name: data}, name, words, dict(*columns)) for name, data, words, *columns in MISREAD),
        *((files, given, words, {}) for files, given, words in FOLDERS),
        *(({"t.parquet": columns}, "t.parquet", words, {}) for columns, words in TABLES),
    ],
)
def test_what_could_be_misread_is_refused_in_one_line(
    tmp_path, tokenizer, files, given, words, columns
):
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if isinstance(data, bytes):
            (tmp_path / name).write_bytes(data)
        elif isinstance(data, dict):
            pl.DataFrame(data).write_parquet(tmp_path / name)
        else:
            np.save(tmp_path / name, data)
    with pytest.raises(MnemoscopeError, match=words) as caught:
        read_sequences(tmp_path / given, tokenizer, columns=columns)
    assert "\n" not in str(caught.value)
    said = str(caught.value)
    assert str(tmp_path) in said or "text that begins with 'a b a b" in said


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, tokenizer):
    os.mkfifo(tmp_path / "a.jsonl")
    assert "a pipe or device" in refusal(read_sequences, tmp_path / "a.jsonl", tokenizer)


def test_frames_that_are_no_table_are_refused(tokenizer):
    for source, words in (
        ({"train": [1], "test": [2]}, "a dict of train, test: give one"),
        (3, "a int: no sequences"),
        (type("Stream", (), {"column_names": ["text"]})(), "Stream: no sequences"),
        (pd.DataFrame({"text": ["a"], "n": [object()]}), "column"),
        (pl.DataFrame({"text": [1]}), "the DataFrame, column 'text'"),
    ):
        with pytest.raises((UserError, TypeError), match=words):
            read_sequences(source, tokenizer)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_bomb_is_refused_in_bounded_memory(tmp_path, monkeypatch, ending):
    monkeypatch.setattr("mnemoscope.data.formats._MOST_BYTES", 1 << 20)
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(packed(b" " * (96 << 20), ending))
    read = []
    with open_unpacked(path) as handle, pytest.raises(UserError, match="more than 100 times"):
        read.extend(iter(lambda: len(handle.read(1 << 20)), 0))
    assert sum(read) <= max(1 << 20, 100 * path.stat().st_size) + (32 << 20)


def test_tables_of_a_folder_are_read_as_one_or_passed_over_beside_texts_and_said(
    tmp_path, tokenizer
):
    spark = tmp_path / "spark"
    spark.mkdir()
    (spark / "_SUCCESS").touch()
    for name in ("part-0.snappy.parquet", "part-1.snappy.parquet"):
        pd.DataFrame({"text": [LONG]}).to_parquet(spark / name)
    said, _ = told(spark, tokenizer)
    assert "2 tables read as one" in said
    assert read_sequences(spark, tokenizer).n_documents == 2
    (tmp_path / "a.txt").write_text(LONG)
    (tmp_path / "data.csv").write_text("a,b\n" + "1,2\n" * 100)
    (tmp_path / "b.jsonl").write_bytes(lines(HUBBLE))
    said, _ = told(tmp_path, tokenizer)
    assert "4 tables beside them are passed over" in said
    assert read_sequences(tmp_path, tokenizer).frame["document"].unique().to_list() == ["a.txt"]
