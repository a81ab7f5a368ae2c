"""The verb duplicates: counts as by hand, goes on after a kill, refuses in one line."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mnemoscope.data import corpus as corpus_flat
from mnemoscope.data.duplicates import CountProgress, progress_path

PATIENCE_SECONDS = 120
N_TOKENS = 2_000_000


@pytest.fixture
def place(tmp_path) -> Path:
    """Where the output goes: a place of its own, to see that nothing is left in it."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Sequences whose suffixes stand 0 to 5 times in `train.bin`, some overlapping, some twice."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50_000, (8, 64))
    tokens[7, 32:] = tokens[6, 32:]
    tokens[5, 32:] = 3
    corpus = rng.integers(1, 50_000, N_TOKENS, dtype=np.uint16)
    places = rng.permutation(np.arange(1_000, N_TOKENS - 1_000, 1_000))
    for row, count in enumerate([0, 1, 2, 3, 5, 0, 4]):
        for first in places[row * 10 : row * 10 + count]:
            corpus[first : first + 32] = tokens[row, 32:]
    corpus[places[-1] : places[-1] + 36] = 3  # five times, overlapping
    corpus.tofile(folder / "train.bin")
    pl.DataFrame(
        {"sequence_id": range(8), "text": ["é"] * 8, "tokens": tokens.tolist(), "other": [1.5] * 8}
    ).write_parquet(folder / "s.parquet")
    return folder


COUNTS = [0, 1, 2, 3, 5, 5, 4, 4]


@pytest.fixture
def words(source) -> Callable[..., list[object]]:
    """The verb and its flags: those of `source`, unless given otherwise."""

    def words(out: Path, *more: object, **given: object) -> list[object]:
        flags = {"sequences": source / "s.parquet", "corpus": source / "train.bin", **given}
        named = [one for name, value in flags.items() for one in (f"--{name}", value)]
        return ["duplicates", *named, "-o", out, *more]

    return words


def test_the_table_comes_back_with_its_counts(source, place, call, words) -> None:
    out = place / "out.parquet"
    done = call(*words(out, dtype="uint16"))
    assert done.status == 0, done.err
    before, after = pl.read_parquet(source / "s.parquet"), pl.read_parquet(out)
    assert after["duplicates"].to_list() == COUNTS
    assert after.schema["duplicates"] == pl.Int64
    assert after.drop("duplicates", "tokens").equals(before.drop("tokens"))
    assert after["tokens"].to_list() == before["tokens"].to_list()
    assert "of 8 sequences 7 occur in the corpus of 2,000,000 tokens." in done.out
    assert "2,000,000 of 2,000,000 tokens" in done.err
    assert [path.name for path in place.iterdir()] == ["out.parquet"]


SLOW = """
import sys
from mnemoscope.data import corpus as corpus_flat
corpus_flat._FLAT_CHUNK_TOKENS = 40_000
from mnemoscope.cli import main
main(sys.argv[1:])
"""


def start(words: list[object]) -> subprocess.Popen:
    """The verb in a process of its own, in 50 pieces, each saved."""
    command = [sys.executable, "-c", SLOW, *map(str, words), "--save-every", "0"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_killed_count_goes_on_and_ends_in_the_same_bytes(place, call, words) -> None:
    out, unbroken = place / "out.parquet", place / "unbroken.parquet"
    process = start(words(out))
    until = time.monotonic() + PATIENCE_SECONDS
    while not progress_path(out).exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.001)
    process.kill()
    process.wait(PATIENCE_SECONDS)
    assert progress_path(out).is_file(), "killed too late to test anything"
    assert not out.exists()
    again = start(words(out))
    assert again.wait(PATIENCE_SECONDS) == 0
    assert 0 < counted_before(again.stderr.read()) < N_TOKENS
    call(*words(unbroken))
    assert out.read_bytes() == unbroken.read_bytes()
    assert pl.read_parquet(out)["duplicates"].to_list() == COUNTS
    assert not progress_path(out).exists()


def counted_before(said: str) -> int:
    """Tokens that the run says an earlier one has counted."""
    return int(re.search(r"Going on after ([\d,]+) tokens", said)[1].replace(",", ""))


@pytest.fixture
def interrupted(place, call, words, monkeypatch) -> Path:
    """Where the output would have gone, had Ctrl-C not come after the fifth saving."""
    out = place / "out.parquet"
    saved = []

    def save(self, *arguments: object) -> None:
        original(self, *arguments)
        saved.append(arguments)
        if len(saved) == 5:
            raise KeyboardInterrupt

    original = CountProgress.save
    with monkeypatch.context() as patch:
        patch.setattr(corpus_flat, "_FLAT_CHUNK_TOKENS", 40_000)
        patch.setattr(CountProgress, "save", save)
        done = call(*words(out, "--save-every", 0, "-q"))
    assert done.status == 130
    assert done.err == "mnemoscope: stopped. Run the same command again to go on.\n"
    assert [path.name for path in place.iterdir()] == [progress_path(out).name]
    return out


@pytest.mark.parametrize("what", ["its own", "sequences", "corpus", "damaged"])
def test_an_interrupted_count_goes_on_with_its_own_progress_alone(
    what, source, interrupted, tmp_path, call, words
) -> None:
    """What a kill in the middle of saving left goes too."""
    out, given, wanted = interrupted, {}, COUNTS
    progress_path(out).with_name(f".{progress_path(out).name}.1.tmp").write_bytes(b"half")
    if what == "sequences":
        given = {"sequences": tmp_path / "other.parquet"}
        pl.read_parquet(source / "s.parquet").reverse().write_parquet(given["sequences"])
        wanted = COUNTS[::-1]
    elif what == "corpus":
        given = {"corpus": tmp_path / "train.bin"}
        given["corpus"].write_bytes((source / "train.bin").read_bytes() * 2)
        wanted = [2 * count for count in COUNTS]
    elif what == "damaged":
        progress_path(out).write_bytes(progress_path(out).read_bytes()[:-3])
    done = call(*words(out, **given))
    assert done.status == 0, done.err
    if what == "its own":
        assert counted_before(done.err) == 5 * 40_000
    else:
        reason = "is damaged" if what == "damaged" else "is of other sequences or another corpus"
        assert f"the progress kept there {reason}; counting begins anew" in done.err
    assert pl.read_parquet(out)["duplicates"].to_list() == wanted
    assert list(out.parent.iterdir()) == [out]


ROW = json.dumps({"tokens": list(range(40))}).encode() + b"\n"
TORN = b"PAR1 and no more"
NO_TOKENS = {"tokens": pl.Series([], dtype=pl.List(pl.Int32))}
CORPORA = [  # a file or folder, what is in it, what is said of it
    ("none.bin", None, "no such file or folder"),
    ("c.bin", b"\1\2\3", "c.bin: 3 bytes are no whole number of uint16 token ids"),
    ("c.txt", b"text", "--tokenizer"),
    ("c", {"a.txt": b"text"}, "--tokenizer"),
    ("c.parquet", pl.DataFrame({"text": ["a"]}), "holds texts, which --tokenizer"),
    ("c.jsonl", b'{"text": "a"}\n', "holds texts, which --tokenizer"),
    ("c.bin", b"", "no tokens in it"),
    ("c.jsonl", b"\n\n", "no tokens in it"),
    ("c", {}, "no tokens in it"),
    ("c.npy", b"", "empty, not a .npy array"),
    ("c.npy", b"\x93NUMPY", "not a whole .npy array"),
    ("c.parquet", TORN, "not a whole Parquet file"),
    ("c.parquet", pl.DataFrame({"id": [1]}), "no column 'tokens' or 'text'"),
    ("c.jsonl", ROW * 3 + b"{torn\n", "c.jsonl, line 4: not a JSON object with 'tokens'"),
    ("c.jsonl", ROW * 2 + b'{"tokens": [1.5]}\n', "line 3: not a JSON object with 'tokens'"),
    ("c.jsonl", b"[1, 2]\n", "line 1: not JSON"),
    ("c.jsonl", b'{"tokens": [99999999999999999999]}\n', "does not fit 64 bits"),
    ("c.parquet", pl.DataFrame({"tokens": [[1, None]]}), "a null among the tokens"),
    ("c.parquet", pl.DataFrame({"tokens": [[1.5]]}), "List(Float64) where lists of integers"),
    ("c", {"a.bin": b"\1\2", "b.jsonl": ROW}, "holds flat binaries (a.bin) beside other files"),
]
SEQUENCES = [  # the same of the table
    ("none.parquet", None, "no such file"),
    ("s.parquet", pl.DataFrame({"text": ["a"], "token": [1]}), "no column 'tokens'"),
    ("s.parquet", pl.DataFrame({"tokens": ["a"]}), "'tokens': String where lists of integers"),
    ("s.parquet", pl.DataFrame({"tokens": [[1] * 64, [1] * 61]}), "row 1: 61 tokens where 64"),
    ("s.parquet", pl.DataFrame(NO_TOKENS), "no rows"),
]
FLAGS = [
    ({"dtype": "uint61"}, "--dtype uint61: must be uint16, uint32 or int32"),
    ({"corpus": "six.bin", "dtype": "uint32"}, "6 bytes are no whole number of uint32"),
    ({"tokenizer": "none"}, "none"),
    ({"out": "place/out.csv"}, "must end in .parquet"),
    ({"out": "nowhere/out.parquet"}, "no such folder"),
    ({"length": 0}, "--length 0: must be at least 1"),
]


def put(path: Path, content: dict | bytes | pl.DataFrame | None) -> Path:
    """Make a folder of files, a file, or a table."""
    if isinstance(content, dict):
        path.mkdir()
        for name, data in content.items():
            (path / name).write_bytes(data)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        content.write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("flag", "name", "content", "what"),
    [("corpus", *one) for one in CORPORA] + [("sequences", *one) for one in SEQUENCES],
)
def test_what_cannot_be_counted(flag, name, content, what, place, tmp_path, refused, words) -> None:
    given = {flag: put(tmp_path / name, content), "save-every": 0}
    assert what in refused(*words(place / "out.parquet", "-q", **given))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("given", "what"), FLAGS)
def test_bad_flags(given, what, place, tmp_path, refused, words, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "six.bin", b"\1\2" * 3)
    given = {"out": "place/out.parquet", **given}
    assert what in refused(*words(given.pop("out"), "-q", **given))
    assert list(place.iterdir()) == []


def test_a_torn_page_of_a_corpus(place, tmp_path, refused, words) -> None:
    tokens = np.random.default_rng(0).integers(0, 9, (999, 99))
    path = put(tmp_path / "c.parquet", pl.DataFrame({"tokens": tokens}))
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196  # the first page's header; the footer, and so the columns, stand
    path.write_bytes(data)
    line = refused(*words(place / "out.parquet", "--save-every", 0, "-q", corpus=path))
    assert f"{path}: not a whole Parquet file" in line
    assert list(place.iterdir()) == []


def test_files_that_are_passed_over_are_said(place, tmp_path, call, words) -> None:
    corpus = put(tmp_path / "c", {"a.jsonl": ROW, "README.md": b"text"})
    done = call(*words(place / "out.parquet", dtype="uint16", corpus=corpus))
    assert done.status == 0
    assert "1 other files passed over (README.md)" in done.err
    assert "--dtype uint16 plays no part" in done.err
