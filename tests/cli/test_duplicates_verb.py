"""The verb duplicates: counts as by hand, goes on after a kill, refuses in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mnemoscope.cli import main
from mnemoscope.data import corpus as corpus_flat
from mnemoscope.data.duplicates import CountProgress, progress_path
from study_files import ending, wait_until

N_TOKENS = 2_000_000


@pytest.fixture
def place(tmp_path) -> Path:
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
        return ["data", "duplicates", *named, "-o", out, *more]

    return words


def test_the_table_comes_back_with_its_counts(source, place, succeed, words):
    out = place / "out.parquet"
    done = succeed(*words(out, dtype="uint16"))
    before, after = pl.read_parquet(source / "s.parquet"), pl.read_parquet(out)
    assert after["duplicates"].to_list() == COUNTS
    assert after.schema["duplicates"] == pl.Int64
    assert after.drop("duplicates", "tokens").equals(before.drop("tokens"))
    assert after["tokens"].to_list() == before["tokens"].to_list()
    assert "of 8 sequences 7 occur in the corpus of 2,000,000 tokens." in done.out
    assert not done.err  # it is done at once, so nothing is said of how far it is
    assert [path.name for path in place.iterdir()] == ["out.parquet"]


def count_slowly(arguments: list[str]) -> None:
    """The verb in 50 pieces, each saved."""
    corpus_flat._FLAT_CHUNK_TOKENS = 40_000
    main([*arguments, "--save-every", "0", "-q"])


def test_a_killed_count_goes_on_and_ends_in_the_same_bytes(place, succeed, words, forkserver):
    out, unbroken = place / "out.parquet", place / "unbroken.parquet"
    process = forkserver.Process(target=count_slowly, args=([*map(str, words(out))],))
    process.start()
    wait_until(lambda: progress_path(out).exists() or not process.is_alive())
    process.kill()
    process.join()
    assert progress_path(out).is_file(), "killed too late to test anything"
    assert not out.exists()
    assert 0 < counted_before(succeed(*words(out)).err) < N_TOKENS
    succeed(*words(unbroken))
    assert out.read_bytes() == unbroken.read_bytes()
    assert pl.read_parquet(out)["duplicates"].to_list() == COUNTS
    assert not progress_path(out).exists()


def counted_before(said: str) -> int:
    return int(re.search(r"Going on after ([\d,]+) tokens", said)[1].replace(",", ""))


@pytest.fixture
def interrupted(place, call, words, monkeypatch) -> Path:
    """Where the output would have gone, had Ctrl-C not come after the fifth saving."""
    out = place / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(corpus_flat, "_FLAT_CHUNK_TOKENS", 40_000)
        patch.setattr(CountProgress, "save", ending(CountProgress.save, 5))
        done = call(*words(out, "--save-every", 0, "-q"))
    assert done.status == 130
    again = "it goes on from what was kept, or begins anew where nothing was"
    assert done.err == f"mnemoscope: stopped. Run the same command again: {again}.\n"
    assert [path.name for path in place.iterdir()] == [progress_path(out).name]
    return out


@pytest.mark.parametrize("what", ["its own", "sequences", "corpus", "damaged"])
def test_an_interrupted_count_goes_on_with_its_own_progress_alone(
    what, source, interrupted, tmp_path, succeed, words
):
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
    done = succeed(*words(out, **given))
    if what == "its own":
        assert counted_before(done.err) == 5 * 40_000
    else:
        reason = "is damaged" if what == "damaged" else "is of other sequences or another corpus"
        assert f"the progress kept there {reason}; counting begins anew" in done.err
    assert pl.read_parquet(out)["duplicates"].to_list() == wanted
    assert list(out.parent.iterdir()) == [out]


def test_files_that_are_passed_over_are_said(place, tmp_path, succeed, words):
    corpus = tmp_path / "c"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text(json.dumps({"tokens": list(range(40))}))
    (corpus / "README.md").write_text("text")
    done = succeed(*words(place / "out.parquet", dtype="uint16", corpus=corpus))
    assert "1 other files passed over (README.md)" in done.err
    assert "--dtype uint16 plays no part" in done.err
