"""Ordinary use: planted answers are found in the documents, drawn ones follow plain logits."""

import copy
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.audits.documents import Document
from mnemoscope.audits.local import continue_windows, local_audit
from mnemoscope.audits.ordinary import (
    SHIPPED,
    depends,
    find_overlaps,
    read_prompts,
    summarize_ordinary,
)
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.sampling import draw_answers
from mnemoscope.errors import UserError
from tests.audits.conftest import BRIEF


@given(st.integers(0, 2**32 - 1), st.integers(4, 12), st.integers(0, 20))
def test_the_longest_run_is_that_of_comparing_everything(seed, n, planted):
    generator = np.random.default_rng(seed)
    documents = [generator.integers(0, 3, 60).astype(np.int32) for _ in range(3)]
    answer = generator.integers(0, 3, 40).astype(np.int32)
    answer[10 : 10 + planted] = documents[1][5 : 5 + planted]
    (found, nothing) = find_overlaps([answer, answer[: n - 1]], documents, n=n)
    match = SequenceMatcher(None, autojunk=False)
    match.set_seq2(answer.tolist())
    longest = 0
    for one in documents:
        match.set_seq1(one.tolist())
        longest = max(longest, match.find_longest_match().size)
    assert nothing is None
    assert (found.length if found else 0) == (longest if longest >= n else 0)
    if found:
        own = documents[found.number][found.first : found.first + found.length]
        assert (np.lib.stride_tricks.sliding_window_view(answer, len(own)) == own).all(1).any()


def test_prompts_are_ours_or_the_users(tmp_path):
    ours = read_prompts(SHIPPED)
    assert len(ours) == len(set(ours)) == 100
    (tmp_path / "p.txt").write_text("one\n\n  two \none\n", encoding="utf-8")
    assert read_prompts(str(tmp_path / "p.txt")) == ["one", "two"]
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "gone.txt"):
        with pytest.raises(UserError, match=name):
            read_prompts(str(tmp_path / name))


def test_what_prompts_cannot_be_put_in_is_refused_before_any_window(lm, tmp_path):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('only turns of two') }}"
    broken, documents = replace(lm, tokenizer=tokenizer), [Document("a", "some text " * 40, "")]
    asked = audit_settings(ordinary=SHIPPED)
    for model, other in ((broken, lm), (lm, broken)):
        with pytest.raises(UserError, match=r"only turns of two.*ordinary"):
            depends(local_audit(model, documents, asked, reference=other))
    prompts = tmp_path / "p.txt"
    prompts.write_text("short\n" + "a long one " * 200)
    with pytest.raises(UserError, match="leaves no room for an answer"):
        depends(local_audit(lm, documents, audit_settings(ordinary=str(prompts))))


def test_answers_are_drawn_as_plain_logits_say_and_end_at_any_token_that_ends_one(lm, monkeypatch):
    prompt, n = "def add(", 1500
    drawn = {"ordinary": SHIPPED, "answer_tokens": 1}
    settings = audit_settings(**drawn, top_k=5, temperature=0.8, batch_size=500)
    answers = draw_answers(lm, [prompt] * n, settings)
    ids = [*lm.before, *lm.tokenizer(prompt, add_special_tokens=False).input_ids]
    with torch.inference_mode():
        logits = lm.model(torch.tensor([ids])).logits[0, -1].double()
    best = logits.topk(5)
    chances = (best.values / 0.8).softmax(0)
    for token, chance in zip(best.indices.tolist(), chances.tolist(), strict=True):
        share = answers.count(lm.tokenizer.decode([token])) / n
        assert share == pytest.approx(chance, abs=4 * (chance * (1 - chance) / n) ** 0.5 + 1e-9)
    assert draw_answers(lm, [prompt] * 40, settings) == answers[:40]

    settings = audit_settings(ordinary=SHIPPED, answer_tokens=12, top_k=1)
    (whole,) = draw_answers(lm, [prompt], settings)
    ids = lm.tokenizer(whole, add_special_tokens=False).input_ids
    end = next(one for one in ids[1:] if one != ids[0])
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", [lm.vocab_size - 1, end])
    (cut,) = draw_answers(lm, [prompt], settings)
    assert cut == lm.tokenizer.decode(ids[: ids.index(end)])


@pytest.mark.whole
def test_an_audit_says_how_often_answers_repeat_beside_the_reference(
    lm, reference, audited, sequences, tmp_path, verify
):
    rows = sequences.filter(pl.col("inserted") >= 16, genre="prose", form="plain").head(64)
    windows = np.array(rows["tokens"].to_list(), dtype=np.int32)
    made = continue_windows(lm, windows, prefix=32, n_allowed=0, batch_size=64)
    scores = np.concatenate([one.score for one in made])
    begun, text = next(
        (shown, text)
        for ids, text, score in zip(windows, rows["text"], scores, strict=True)
        if score == 1
        and "\n" not in (shown := lm.tokenizer.decode(ids[:32]))
        and lm.tokenizer(shown.strip()).input_ids == ids[:32].tolist()
    )
    (tmp_path / "prompts.txt").write_text(f"{begun}\nWhat is a heron?\n", encoding="utf-8")
    asked = {"ordinary": str(tmp_path / "prompts.txt"), "answer_tokens": 24, "overlap": 12}
    settings = audit_settings(**BRIEF, **asked, top_k=1)
    record, _ = audited(tmp_path, text, settings=settings, reference=reference)
    frame = pl.read_parquet(tmp_path / "out" / "ordinary.parquet")
    assert frame["by"].to_list() == ["model"] * 2 + ["reference"] * 2
    first = frame.row(0, named=True)
    assert first["overlap"] >= 12
    assert text[first["start"] : first["end"]] == first["text"]
    assert first["text"] in first["answer"]
    own = record["ordinary"]
    assert (own["model"]["repeating"], own["model"]["answers"]) == (1, 2)
    assert own["model"]["low"] == pytest.approx(0.0126, abs=1e-3)  # Clopper and Pearson's, 1 of 2
    assert own["is_chat"] is False
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "In ordinary use" in page
    assert "no chat template" in page
    assert summarize_ordinary(frame, settings, is_chat=False) == own
    (tmp_path / "prompts.txt").unlink()
    assert verify(tmp_path / "out", lm).problems == []  # asks no prompts
