"""Near copies: planted passages with a word put in or left out are found, unseen text is not."""

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from mnemoscope.audit.near import NEAR_COLUMNS, align
from mnemoscope.files import read_parquet, write_parquet


def with_word(text):
    """A word more, in what the model is to write: at two thirds of a passage."""
    places = [one.start() for one in re.finditer(" ", text)]
    cut = next(one for one in places if one > 2 * len(text) / 3)
    return f"{text[:cut]} velvet{text[cut:]}"


@pytest.fixture(scope="module")
def made(audited, trained, new_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("near")
    changed = [with_word(one) for one in trained]
    text = "\n\n".join(one for n, own in enumerate(changed) for one in (new_text(n, 30), own))
    record, strict = audited(folder, text + "\n\n" + new_text(9, 30))
    return folder, text, changed, record, strict, read_parquet(folder / "out" / "near.parquet")


def test_a_passage_with_a_word_more_is_found_where_it_stands(made):
    _, text, changed, record, strict, near = made
    assert dict(near.schema) == NEAR_COLUMNS
    found = 0
    for passage in changed:
        place = text.index(passage)
        word = place + passage.index(" velvet")
        rows = near.filter(pl.col("start") < word, pl.col("end") > word + len(" velvet"))
        assert not strict.filter(pl.col("start") < word, pl.col("end") > word + 7).height
        for row in rows.iter_rows(named=True):
            found += 1
            assert row["text"] == text[row["start"] : row["end"]]
            assert place <= row["start"] < row["end"] <= place + len(passage) + 2
            assert "velvet" in row["text"]
            assert "velvet" not in row["written"]
            assert row["matched"] >= 24
            assert row["edits"] >= len(" velvet")
            assert Levenshtein.distance(row["text"].strip(), row["written"].strip()) <= 20
    assert found >= 2
    assert record["summary"]["near_spans"] == near.height
    assert record["summary"]["near"]["share"] > record["summary"]["recalled"]["share"]


def test_pieces_give_both_texts_back(made):
    for row in made[-1].iter_rows(named=True):
        written = "".join(one["text"] for one in row["pieces"] if one["kind"] != "document")
        own = "".join(one["text"] for one in row["pieces"] if one["kind"] != "written")
        assert written == row["written"]
        assert own in row["text"]


def test_unseen_text_has_none(audited, new_text, tmp_path):
    record, _ = audited(tmp_path, new_text(5, 400))
    assert record["summary"]["near_spans"] == 0
    assert record["summary"]["near"]["characters"] == 0


def test_page_shows_both_and_verify_asks_again(made, lm, verify):
    folder, *_, near = made
    page = (folder / "out" / "audit.html").read_text()
    assert "<h2>Near copies</h2>" in page
    assert "<del> velvet</del>" in re.sub("<del>.*?velvet</del>", "<del> velvet</del>", page)
    assert verify(folder / "out", lm).problems == []
    other = near.with_columns(pl.col("written") + "!")
    write_parquet(folder / "out" / "near.parquet", other)
    assert verify(folder / "out", lm).problems == ["near.parquet was changed after the audit."]
    write_parquet(folder / "out" / "near.parquet", near)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(3, 20), st.integers(3, 20))
def test_what_is_put_between_two_blocks_is_bridged_up_to_the_gap(middle, before, after):
    head, tail = list(range(100, 100 + before)), list(range(200, 200 + after))
    plain, longer = head + tail, [*head, *middle, *tail]
    (one,) = align(plain, longer, gap=12)
    assert (one.first, one.last, one.matched) == (0, len(plain), len(plain))
    assert (one.other_first, one.other_last) == (0, len(longer))
    assert one.longest == (before + after if not middle else max(before, after))
    if len(middle) > 3:
        assert [x.matched for x in align(plain, longer, gap=3)] == [before, after]
