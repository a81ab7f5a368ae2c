"""Planted passages are found in every kind of corpus, each at its place."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.data.corpus import open_corpus
from mnemoscope.data.origins import MOST_PLACES, Needle, find_in_corpus

PASSAGE = "the seventh heron — painted twice"
IDS = np.array([7, 8, 7, 8, 7], dtype=np.int32)


class Letters:
    """A tokenizer that texts are never cut with here."""

    def __call__(self, text, **_):
        raise AssertionError("a text is searched as it is")

    def get_vocab(self):
        return {}


TEXTS = ["nothing here", f"{PASSAGE}! and {PASSAGE}", "é" * 40 + PASSAGE]


def found(path, **options):
    corpus = open_corpus(
        path, tokenizer=options.pop("tokenizer", None), **{"dtype": None, **options}
    )
    return find_in_corpus([Needle(PASSAGE, IDS), Needle("not there", IDS[::-1] + 1)], corpus)


def test_texts_are_searched_by_character(tmp_path):
    frame, sources = pl.DataFrame({"text": TEXTS}), {}
    for kind, ending in {"ndjson": "jsonl", "csv": "csv", "parquet": "parquet"}.items():
        path = tmp_path / f"corpus.{ending}"
        getattr(frame, f"write_{kind}")(path)
        sources[path] = [f"{path}#{row}" for row in (1, 2, 3)]
    folder = tmp_path / "corpus"
    folder.mkdir()
    sources[folder] = [str(folder / f"{number}.txt") for number in range(3)]
    for name, text in zip(sources[folder], TEXTS, strict=True):
        Path(name).write_text(text, encoding="utf-8")
    for source, names in sources.items():
        own, other = found(source, tokenizer=Letters())
        second = len(PASSAGE) + len("! and ")
        places = [(names[1], 0), (names[1], second), (names[2], 40)]
        assert [(one.document, one.offset) for one in own.spots] == places
        assert {one.unit for one in own.spots} == {"characters"}
        assert (own.n, other.n, other.spots) == (3, 0, [])


def test_token_ids_are_found_across_chunks_and_across_a_border_where_there_are_no_documents(
    tmp_path, monkeypatch
):
    from mnemoscope.data import corpus as module

    monkeypatch.setattr(module, "_FLAT_CHUNK_TOKENS", 10)
    rows = np.random.default_rng(0).integers(100, 200, (6, 13))
    rows[0, 8:] = IDS  # at the end of the first chunk
    rows[1, -2:], rows[2, :3] = IDS[:2], IDS[2:]  # over a border
    rows[3, :7] = [7, 8, 7, 8, 7, 8, 7]  # two that overlap
    rows.astype("<u2").tofile(tmp_path / "b.bin")  # no documents: the border is none
    own, _ = found(tmp_path / "b.bin")
    assert [one.offset for one in own.spots] == [8, 24, 39, 41]
    table = pl.DataFrame({"tokens": rows.tolist()})
    table.write_parquet(tmp_path / "c.parquet")
    own, _ = found(tmp_path / "c.parquet")
    assert [one.offset for one in own.spots] == [8, 0, 2]
    assert own.spots[0].unit == "tokens"


@given(data=st.data(), width=st.integers(1, 7), chunk=st.integers(1, 9))
def test_ids_are_where_a_plain_search_finds_them(data, width, chunk, tmp_path_factory):
    ids = st.integers(0, 2)
    rows = data.draw(st.lists(st.lists(ids, min_size=width, max_size=width), min_size=1))
    wanted = data.draw(st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=3))
    path = tmp_path_factory.getbasetemp() / "rows.npy"
    np.save(path, np.array(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnemoscope.data.corpus._FLAT_CHUNK_TOKENS", chunk)
        corpus = open_corpus(path, tokenizer=None, dtype=None)
        found = find_in_corpus([Needle("", np.array(one)) for one in wanted], corpus)
    for needle, origin in zip(wanted, found, strict=True):
        assert [(one.document, one.offset) for one in origin.spots] == [
            (f"{path}#{number}", at)
            for number, row in enumerate(rows, start=1)
            for at in range(width)
            if row[at : at + len(needle)] == needle
        ][:MOST_PLACES]


def test_beyond_the_listed_places_they_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text(f"{PASSAGE}\n" * 250, encoding="utf-8")
    own, _ = found(tmp_path / "a.txt", tokenizer=Letters())
    assert own.n == 250
    assert len(own.spots) == MOST_PLACES
