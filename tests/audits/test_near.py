"""Near copies: passages with a word put in are found where they stand, unseen text is not."""

import re
from types import SimpleNamespace

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from mnemoscope.audits.asking import Auditing
from mnemoscope.audits.documents import Document
from mnemoscope.audits.near import TABLE, align, near_table
from mnemoscope.audits.passages import span_schema
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.tokens import Text, Tokens


def test_a_passage_with_a_word_more_is_found_where_it_stands(made):
    name = made.names["<b>&.txt"]
    near, text = made.near.filter(document=name), made.texts["<b>&.txt"]
    assert list(near.columns) == [*TABLE]
    place = text.index(made.changed)
    word = place + made.changed.index(" velvet")
    is_there = pl.col("document") == name, pl.col("start") < word, pl.col("end") > word + 7
    assert made.spans.filter(*is_there).is_empty()
    (row,) = near.filter(*is_there).iter_rows(named=True)
    assert row["text"] == text[row["start"] : row["end"]]
    assert place <= row["start"] < row["end"] <= place + len(made.changed) + 2
    assert "velvet" in row["text"]
    assert "velvet" not in row["written"]
    assert row["matched"] >= 24
    assert row["edits"] >= len(" velvet")
    pieces = row["pieces"]
    written = "".join(one["text"] for one in pieces if one["kind"] != "document")
    own = "".join(one["text"] for one in pieces if one["kind"] != "written")
    assert written == row["written"]
    assert own in row["text"]
    assert Levenshtein.distance(own.strip(), written.strip()) <= 20
    summary = made.record["summary"]
    assert summary["near_spans"] == made.near.height
    assert summary["near_recall_spans"] == made.near.filter(verdict="recall").height
    assert summary["near"]["share"] > summary["recalled"]["share"]
    assert "<h2>Near copies</h2>" in made.page
    assert re.search("<del>[^<]*velvet</del>", made.page)


def test_copies_that_a_chat_broke_off_at_unequal_lengths_are_ruled_each_as_it_is(lm):
    generator = np.random.default_rng(0)
    ids = generator.permutation(500).astype(np.int32)
    places = np.arange(len(ids))
    asked = audit_settings(near_length=20)
    text = Text(Document("a", "x" * len(ids), ""), Tokens(ids, places, places + 1))
    model = SimpleNamespace(splitter=SimpleNamespace(tokenizer=lm.tokenizer))
    audit = Auditing(model, [text], asked, passages=pl.DataFrame(schema=span_schema()))
    starts, lengths = [0, 100, 200], [28, 30, 40]
    written = [ids[a + 32 : a + 32 + n].tolist() for a, n in zip(starts, lengths, strict=True)]
    found = near_table(audit, [(0, one) for one in starts], written)
    assert found["matched"].to_list() == lengths
    assert found["verdict"].to_list() == ["recall"] * 3  # no token stands in its prefix


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
