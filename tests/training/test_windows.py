"""What is watched: right tokens, right classes, the same draw for the same seed."""

import inspect
import json
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.data.read import read_sequences
from mnemoscope.data.rouge import rouge_3, rouge_l
from mnemoscope.embedded import sequences_path
from mnemoscope.errors import UserError
from mnemoscope.training import watch
from mnemoscope.training.watch import MemorizationWatch, make_canaries
from mnemoscope.training.windows import WatchedWindows
from refusals import refusal


def test_counting_text_is_guess_and_drawn_words_are_recall(windows):
    found = dict(windows.table.group_by("source").agg(pl.col("class").unique()).iter_rows())
    assert found == {"canary": ["Recall"], "control": ["Recall"], "document": ["Guess"]}


def test_class_is_the_papers_rule_on_the_embedded_sequences(tokenizer):
    windows = WatchedWindows.from_table(sequences_path(), tokenizer, most=400, seed=3)
    halves = np.split(windows.tokens, 2, axis=1)
    by_rouge = (rouge_l(*halves) >= 0.5) | (rouge_3(*halves) >= 0.5)
    is_guess = (windows.table["class"] == "Guess").to_numpy()
    assert by_rouge.any()
    assert is_guess[by_rouge].all()  # the others are Guess by pattern or not at all
    table = pl.read_parquet(sequences_path()).with_columns(pl.col("sequence_id").cast(pl.String))
    joined = windows.table.join(table, left_on="window", right_on="sequence_id")
    assert joined.height == 400
    assert joined["tokens"].to_list() == joined["tokens_right"].to_list()


def test_tokens_are_those_of_the_text(tokenizer, texts):
    windows = WatchedWindows.from_texts({"a": texts.guessable[0]}, tokenizer, stride=16, most=999)
    ids = tokenizer(texts.guessable[0], add_special_tokens=False)["input_ids"]
    assert len(windows) == (len(ids) - 64) // 16 + 1
    for number, row in enumerate(windows.tokens.tolist()):
        assert row == ids[16 * number : 16 * number + 64]


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), most=st.integers(1, 20))
def test_sample_depends_on_the_seed_alone_and_keeps_the_order(tokenizer, seed, most):
    texts = ["\n".join(f"{i}. item number {i}" for i in range(80))]
    draws = [
        WatchedWindows.from_texts(texts, tokenizer, stride=8, most=most, seed=seed)
        for _ in range(2)
    ]
    assert draws[0].digest == draws[1].digest
    assert draws[0].digest != WatchedWindows.from_texts(texts, tokenizer, stride=9).digest
    numbers = [int(name.rsplit(":")[-1]) for name in draws[0].table["window"]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == most


def test_canaries_differ_and_come_back_with_their_seed(tokenizer):
    one, again, other = (make_canaries(tokenizer, 8, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert len({*one, *other}) == 16
    assert all(len(tokenizer(text)["input_ids"]) >= 64 for text in one)


def test_what_cannot_be_watched_is_refused(tokenizer, texts, windows):
    for asked, length, words in (
        (["short"], 64, "no text of 64 tokens among 1"),
        ([], 64, "no text of 64 tokens among 0"),
        (texts.trained, 63, "even number"),
    ):
        assert words in refusal(WatchedWindows.from_texts, asked, tokenizer, length=length)
    with pytest.raises(UserError, match="is duplicated"):
        windows + windows
    with pytest.raises(UserError, match="cannot be watched together"):
        windows + WatchedWindows.from_texts(texts.trained, tokenizer, length=32, source="x")


@settings(max_examples=20)
@given(most=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_draw_takes_one_window_of_each_text_first(tokenizer, most, seed):
    texts = {str(n): " ".join(map(str, range(n, n + 45 * (1 + n)))) for n in range(8)}
    whole, drawn = (
        WatchedWindows.from_texts(texts, tokenizer, most=n, seed=seed) for n in (None, most)
    )
    assert (whole.n_left_out, whole.unasked) == (0, [])
    assert len(drawn) + drawn.n_left_out == len(whole)
    assert len(drawn.unasked) == max(0, len(texts) - most)
    assert {*drawn.unasked, *drawn.table["document"]} == {*texts}


def test_a_control_window_that_is_watched_too_is_none(tokenizer, texts, tmp_path):
    """Also where the draw left it out of what is watched."""
    mixed = [*texts.held_out, texts.trained[0]]
    control = WatchedWindows.from_texts(mixed, tokenizer, source="control", stride=4096)
    for most, n_asked in ((None, 6), (1, 1)):
        watched = WatchedWindows.from_texts(texts.trained, tokenizer, stride=4096, most=most)
        for both in (watched + control, control + watched):
            assert (both.n_copied, len(both)) == (1, n_asked + len(texts.held_out))
            MemorizationWatch(both, folder := tmp_path / f"{most}{both.table['source'][0]}")
            assert json.loads((folder / "watch.json").read_text())["left_out"] == 6 - n_asked


def _folded(text, width):
    """As `fold -s -w`, which leaves the blank at the end of a line."""
    lines = textwrap.wrap(text, width - 1, break_on_hyphens=False)
    return " \n".join(lines)


def test_lines_broken_to_a_width_are_asked_joined_too(tokenizer, texts, monkeypatch, tmp_path):
    """What a model learned unbroken comes out; verse, code and tables stay as they are."""
    text = " ".join(texts.trained)
    windows = WatchedWindows.from_texts([_folded(text, 60)], tokenizer)
    ids = tokenizer(text)["input_ids"]
    learned = {tuple(ids[at : at + 64]) for at in range(len(ids) - 63)}

    def forced(_, tokens, **__):
        is_right = np.array([[tuple(row) in learned] * 32 for row in tokens.tolist()])
        return SimpleNamespace(is_right=is_right, logprobs=-1.0 * ~is_right)

    monkeypatch.setattr(watch, "teacher_forced", forced)
    assert watch.judge(None, windows, batch_size=64)["is_memorized"].all()
    alone = replace(windows, table=windows.table.drop("unwrapped"))
    assert not watch.judge(None, alone, batch_size=64)["is_memorized"].any()
    assert windows.digest != alone.digest
    over = WatchedWindows.from_texts([_folded(text, 60)], tokenizer, stride=8)
    assert len(over) > 7 * (len(windows) - 1)
    assert watch.judge(None, over, batch_size=64)["is_memorized"].all()
    for one in over.table.to_dicts()[:-8]:  # a token that a break cut may be left to the one before
        begins = "".join(one["text"].split())[12:60]
        assert begins in "".join(tokenizer.decode(one["unwrapped"]).split())
    for one in windows.table.to_dicts()[:-1]:  # the last one ends with the text
        begins = "".join(one["text"].split())[:60]
        assert begins in "".join(tokenizer.decode(one["unwrapped"]).split())
    for n, n_asked in ((75, 1), (64, 0)):  # a text of one window: its tail fills it, if it has one
        lines = tokenizer.decode(tokenizer(_folded(text, 60))["input_ids"][:n])
        (tmp_path / "texts" / "a.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "texts" / "a.txt").write_text(lines)
        read = read_sequences(tmp_path / "texts", tokenizer)
        for one in (
            WatchedWindows.from_texts([lines], tokenizer),
            WatchedWindows.from_table(read.frame, tokenizer, tails=read.tails),
        ):
            assert [len(one), len(one.asked()) - 1] == [1, n_asked]
            assert one.table["unwrapped"].list.len().to_list() == [64 * n_asked]
            assert watch.judge(None, one, batch_size=64)["is_memorized"].all() == (n_asked == 1)
    verse = "a line\nof verse\nis short\nas the poet\nwould have it\n"
    for text in (" ".join(texts.trained), inspect.getsource(textwrap), verse * 60):
        assert len(WatchedWindows.from_texts([text], tokenizer).asked()) == 1
