"""The verb duplicates: counts as by hand, goes on after a kill, refuses in one line."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mnemoscope.data import corpus as corpus_flat
from mnemoscope.data.duplicates import CountProgress, count_duplicates, progress_path
from tiny_models import make_tokenizer

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


def test_the_table_comes_back_with_its_counts(source, place, call) -> None:
    out = place / "out.parquet"
    done = call(
        "duplicates", "--sequences", source / "s.parquet", "--corpus", source / "train.bin",
        "--dtype", "uint16", "-o", out,
    )  # fmt: skip
    assert done.status == 0, done.err
    before, after = pl.read_parquet(source / "s.parquet"), pl.read_parquet(out)
    assert after["duplicates"].to_list() == COUNTS
    assert after.schema["duplicates"] == pl.Int64
    assert after.drop("duplicates", "tokens").equals(before.drop("tokens"))
    assert after["tokens"].to_list() == before["tokens"].to_list()
    assert "of 8 sequences 7 occur in the corpus. 2,000,000 tokens read, " in done.out
    assert re.search(r", [\d,]+ a second\.$", done.out.strip())
    assert "2,000,000 of 2,000,000 tokens" in done.err
    assert [path.name for path in place.iterdir()] == ["out.parquet"]


def test_counts_are_those_of_features(source, place, call) -> None:
    """Two readers of one corpus; features has no flat binaries, so documents in a table."""
    rows = np.fromfile(source / "train.bin", np.uint16).reshape(-1, 1_000)[:300]
    corpus = source / "rows.parquet"
    pl.DataFrame({"tokens": rows.tolist()}).write_parquet(corpus)
    table = source / "s.parquet"
    call("duplicates", "--sequences", table, "--corpus", corpus, "-o", place / "a.parquet", "-q")
    call("features", table, "--corpus", corpus, "-o", place / "b.parquet", "-q")
    counts = pl.read_parquet(place / "a.parquet")["duplicates"]
    assert counts.sum() > 0
    assert counts.equals(pl.read_parquet(place / "b.parquet")["duplicates"])
    suffixes = np.array(pl.read_parquet(table)["tokens"].to_list())[:, 32:]
    assert counts.to_list() == count_duplicates(suffixes, rows).tolist()


def test_a_folder_of_texts_with_a_tokenizer(tiny, place, tmp_path, call) -> None:
    tokenizer = make_tokenizer()
    text = "The licence applies to works based on the library.\n" * 20
    ids = tokenizer.encode(text, add_special_tokens=False)
    pl.DataFrame({"tokens": [ids[:64]]}).write_ndjson(tmp_path / "s.jsonl")
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.md"):
        (tmp_path / "texts" / name).write_text(text)
    done = call(
        "duplicates", "--sequences", tmp_path / "s.jsonl", "--corpus", tmp_path / "texts",
        "--tokenizer", tiny.model, "-o", place / "out.jsonl", "-q",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.err == ""
    window = ids[32:64]
    wanted = 2 * sum(ids[i : i + 32] == window for i in range(len(ids) - 31))
    assert json.loads((place / "out.jsonl").read_text())["duplicates"] == wanted > 2


SLOW = """
import sys
from mnemoscope.data import corpus as corpus_flat
corpus_flat._FLAT_CHUNK_TOKENS = 40_000
from mnemoscope.cli import main
main(sys.argv[1:])
"""


def start(source: Path, out: Path, *more: object) -> subprocess.Popen:
    """The verb in a process of its own, in 50 pieces, each saved."""
    words = ["duplicates", "--sequences", source / "s.parquet", "--corpus", source / "train.bin"]
    words += ["--save-every", 0, "-o", out, *more]
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words)], stderr=subprocess.PIPE, text=True
    )


def test_a_killed_count_goes_on_and_ends_in_the_same_bytes(source, place, call) -> None:
    out, unbroken = place / "out.parquet", place / "unbroken.parquet"
    process = start(source, out)
    until = time.monotonic() + PATIENCE_SECONDS
    while not progress_path(out).exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.001)
    process.kill()
    process.wait(PATIENCE_SECONDS)
    assert progress_path(out).is_file(), "killed too late to test anything"
    assert not out.exists()
    again = start(source, out)
    assert again.wait(PATIENCE_SECONDS) == 0
    assert 0 < counted_before(again.stderr.read()) < N_TOKENS
    call(
        "duplicates", "--sequences", source / "s.parquet", "--corpus", source / "train.bin",
        "-o", unbroken,
    )  # fmt: skip
    assert out.read_bytes() == unbroken.read_bytes()
    assert pl.read_parquet(out)["duplicates"].to_list() == COUNTS
    assert not progress_path(out).exists()


def counted_before(said: str) -> int:
    """Tokens that the run says an earlier one has counted."""
    return int(re.search(r"Going on after ([\d,]+) tokens", said)[1].replace(",", ""))


@pytest.fixture
def interrupted(source, place, call, monkeypatch) -> Path:
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
        done = call(
            "duplicates", "--sequences", source / "s.parquet", "--corpus", source / "train.bin",
            "--save-every", 0, "-o", out, "-q",
        )  # fmt: skip
    assert done.status == 130
    assert done.err == "mnemoscope: stopped. Run the same command again to go on.\n"
    assert [path.name for path in place.iterdir()] == [progress_path(out).name]
    return out


def test_an_interrupted_count_goes_on_and_leaves_nothing(source, interrupted, call) -> None:
    torn = progress_path(interrupted).with_name(f".{progress_path(interrupted).name}.1.tmp")
    torn.write_bytes(b"as a kill in the middle of saving leaves it")
    done = call(
        "duplicates", "--sequences", source / "s.parquet", "--corpus", source / "train.bin",
        "-o", interrupted,
    )  # fmt: skip
    assert counted_before(done.err) == 5 * 40_000
    assert "2,000,000 tokens read" in done.out
    assert pl.read_parquet(interrupted)["duplicates"].to_list() == COUNTS
    assert list(interrupted.parent.iterdir()) == [interrupted]


@pytest.mark.parametrize("what", ["sequences", "corpus", "damaged"])
def test_progress_of_something_else_is_not_taken_up(
    what, source, interrupted, tmp_path, call
) -> None:
    out = interrupted
    table, corpus, wanted = source / "s.parquet", source / "train.bin", COUNTS
    if what == "sequences":
        table = tmp_path / "other.parquet"
        pl.read_parquet(source / "s.parquet").reverse().write_parquet(table)
        wanted = COUNTS[::-1]
    elif what == "corpus":
        corpus = tmp_path / "train.bin"
        corpus.write_bytes((source / "train.bin").read_bytes() * 2)
        wanted = [2 * count for count in COUNTS]
    else:
        progress_path(out).write_bytes(progress_path(out).read_bytes()[:-3])
    done = call("duplicates", "--sequences", table, "--corpus", corpus, "-o", out)
    assert done.status == 0, done.err
    reason = "is damaged" if what == "damaged" else "is of other sequences or another corpus"
    assert f"the progress kept there {reason}; counting begins anew" in done.err
    assert pl.read_parquet(out)["duplicates"].to_list() == wanted
    assert not progress_path(out).exists()


def good(source: Path) -> dict[str, object]:
    return {"--sequences": source / "s.parquet", "--corpus": source / "train.bin"}


def table(path: Path, **columns) -> Path:
    pl.DataFrame(columns).write_parquet(path)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def folder_of(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / name.replace("_", ".")).write_bytes(data)
    return path


ROW = json.dumps({"tokens": list(range(40))}).encode() + b"\n"
PARQUET = pl.DataFrame({"tokens": [[1, 2, 3]]})
REFUSED = {
    "no sequences": (lambda p: {"--sequences": p / "none.parquet"}, "no such file"),
    "no corpus": (lambda p: {"--corpus": p / "none.bin"}, "no such file or folder"),
    "odd size": (
        lambda p: {"--corpus": written(p / "c.bin", b"\1\2\3")},
        "c.bin: 3 bytes are no whole number of uint16 token ids. Name the right --dtype",
    ),
    "size for another dtype": (
        lambda p: {"--corpus": written(p / "c.bin", b"\1\2" * 3), "--dtype": "uint32"},
        "6 bytes are no whole number of uint32",
    ),
    "dtype": (lambda p: {"--dtype": "uint61"}, "--dtype uint61: must be uint16, uint32 or int32"),
    "text without tokenizer": (
        lambda p: {"--corpus": written(p / "c.txt", b"text")},
        "--tokenizer",
    ),
    "folder of texts without tokenizer": (
        lambda p: {"--corpus": folder_of(p / "c", a_txt=b"text")},
        "--tokenizer",
    ),
    "table of texts without tokenizer": (
        lambda p: {"--corpus": table(p / "c.parquet", text=["a"])},
        "holds texts, which --tokenizer",
    ),
    "lines of texts without tokenizer": (
        lambda p: {"--corpus": written(p / "c.jsonl", b'{"text": "a"}\n')},
        "holds texts, which --tokenizer",
    ),
    "no such tokenizer": (lambda p: {"--tokenizer": p / "none"}, "none"),
    "sequences without tokens": (
        lambda p: {"--sequences": table(p / "s.parquet", text=["a"], token=[1])},
        "no column 'tokens'",
    ),
    "tokens that are none": (
        lambda p: {"--sequences": table(p / "s.parquet", tokens=["a"])},
        "column 'tokens': String where lists of integers are needed",
    ),
    "unequal lengths": (
        lambda p: {"--sequences": table(p / "s.parquet", tokens=[[1] * 64, [1] * 61])},
        "row 1: 61 tokens where 64 are needed",
    ),
    "a null among the tokens": (
        lambda p: {"--sequences": table(p / "s.parquet", tokens=[[1] * 64, [1] * 63 + [None]])},
        "row 1: a null",
    ),
    "no rows": (
        lambda p: {
            "--sequences": table(p / "s.parquet", tokens=pl.Series([], dtype=pl.List(pl.Int32)))
        },
        "no rows",
    ),
    "torn sequences": (
        lambda p: {"--sequences": written(p / "s.parquet", b"PAR1 and no more")},
        "not a whole Parquet file",
    ),
    "empty binary": (lambda p: {"--corpus": written(p / "c.bin", b"")}, "no tokens in it"),
    "empty lines": (lambda p: {"--corpus": written(p / "c.jsonl", b"\n\n")}, "no tokens in it"),
    "empty folder": (lambda p: {"--corpus": folder_of(p / "c")}, "no tokens in it"),
    "empty array": (lambda p: {"--corpus": written(p / "c.npy", b"")}, "empty, not a .npy array"),
    "torn parquet": (
        lambda p: {"--corpus": written(p / "c.parquet", b"PAR1 and no more")},
        "not a whole Parquet file",
    ),
    "torn array": (
        lambda p: {"--corpus": written(p / "c.npy", b"\x93NUMPY")},
        "not a whole .npy array",
    ),
    "corpus without tokens or text": (
        lambda p: {"--corpus": table(p / "c.parquet", id=[1])},
        "no column 'tokens' or 'text'",
    ),
    "a line that is no JSON": (
        lambda p: {"--corpus": written(p / "c.jsonl", ROW * 3 + b"{torn\n")},
        "c.jsonl, line 4: not a JSON object with 'tokens'",
    ),
    "a line of another kind": (
        lambda p: {"--corpus": written(p / "c.jsonl", ROW * 2 + b'{"tokens": [1.5]}\n')},
        "line 3: not a JSON object with 'tokens' (lists of integers)",
    ),
    "a first line that is no JSON": (
        lambda p: {"--corpus": written(p / "c.jsonl", b"[1, 2]\n")},
        "line 1: not JSON",
    ),
    "an id beyond 64 bits": (
        lambda p: {"--corpus": written(p / "c.jsonl", b'{"tokens": [99999999999999999999]}\n')},
        "does not fit 64 bits",
    ),
    "a null in the corpus": (
        lambda p: {"--corpus": table(p / "c.parquet", tokens=[[1, None]])},
        "a null among the tokens",
    ),
    "floats in the corpus": (
        lambda p: {"--corpus": table(p / "c.parquet", tokens=[[1.5]])},
        "List(Float64) where lists of integers",
    ),
    "binaries beside tables": (
        lambda p: {"--corpus": folder_of(p / "c", a_bin=b"\1\2", b_jsonl=ROW)},
        "holds flat binaries (a.bin) beside other files (b.jsonl)",
    ),
    "output of another kind": (lambda p: {"-o": p / "place" / "out.csv"}, "must end in .parquet"),
    "output folder": (lambda p: {"-o": p / "nowhere" / "out.parquet"}, "no such folder"),
    "length": (lambda p: {"--length": 0}, "--length 0: must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(case, source, place, tmp_path, refused) -> None:
    change, what = REFUSED[case]
    words = good(source) | {"-o": place / "out.parquet", "--save-every": 0} | change(tmp_path)
    line = refused("duplicates", *[one for pair in words.items() for one in pair], "-q")
    assert what in line
    assert list(place.iterdir()) == []


def test_a_torn_page_of_a_corpus(source, place, tmp_path, refused) -> None:
    path = table(tmp_path / "c.parquet", tokens=np.random.default_rng(0).integers(0, 9, (999, 99)))
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196  # the first page's header; the footer, and so the columns, stand
    path.write_bytes(data)
    line = refused(
        "duplicates", "--sequences", source / "s.parquet", "--corpus", path,
        "-o", place / "out.parquet", "--save-every", 0, "-q",
    )  # fmt: skip
    assert f"{path}: not a whole Parquet file" in line
    assert list(place.iterdir()) == []


def test_files_that_are_passed_over_are_said(source, place, tmp_path, call) -> None:
    corpus = folder_of(tmp_path / "c", a_jsonl=ROW, README_md=b"text")
    done = call(
        "duplicates", "--sequences", source / "s.parquet", "--corpus", corpus,
        "--dtype", "uint16", "-o", place / "out.parquet",
    )  # fmt: skip
    assert done.status == 0
    assert "1 other files passed over (README.md)" in done.err
    assert "--dtype uint16 plays no part" in done.err
