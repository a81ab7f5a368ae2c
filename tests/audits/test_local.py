"""A model that runs here: windows left early, growth, any family, a chat; nothing changes."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mnemoscope.audits import local
from mnemoscope.audits.documents import Document
from mnemoscope.audits.local import continue_windows, local_audit
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.records import read_audit
from mnemoscope.audits.scan import extend, prompts_at
from mnemoscope.audits.tokens import NOTHING, tokenize
from mnemoscope.data import read
from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.model import wrap_model
from tests.audits.conftest import BRIEF
from tests.lm import tiny_families as tiny

N_WRITTEN = 40
FIRST_LETTER = 3  # ids below are special tokens, no characters


@pytest.fixture(scope="module")
def windows(sequences):
    """Memorized, nearly memorized and strange ones; a few shifted by some tokens."""
    rows = np.array(sequences["tokens"].head(18).to_list(), dtype=np.int32)
    return np.concatenate([rows, np.roll(rows[:6], -3, axis=1)])


def run(lm, windows, n_allowed):
    batches = list(
        continue_windows(lm, windows, prefix=32, n_allowed=n_allowed, batch_size=len(windows))
    )
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def test_leaving_early_changes_no_verdict_and_the_end_is_the_study_s_continuation(
    lm, windows, stopped_at
):
    n_allowed = audit_settings().n_allowed
    assert n_allowed == 3  # 29 of 32 tokens are 0.906, 28 are 0.875
    tokens, common, score = run(lm, windows, 32)
    other = next(continue_sequences(lm, windows, batch_size=len(windows)))
    assert (tokens == other.tokens).all()
    assert score == pytest.approx(other.score)
    early_tokens, early_common, early_score = run(lm, windows, n_allowed)
    is_hit = score >= 0.9
    assert 5 < is_hit.sum() < len(windows) - 5  # both kinds are there
    assert (is_hit == (early_score >= 0.9)).all()  # NaN is no hit
    assert (early_common == common).all()
    assert (early_tokens[is_hit] == tokens[is_hit]).all()
    decoded = early_tokens != NOTHING
    assert (early_tokens[decoded] == tokens[decoded]).all()
    assert decoded.mean() < 0.9
    with stopped_at(local, "last_logits") as passes:
        run(lm, windows[score == 1], n_allowed)
    assert len(passes) == 8 + 1  # what is right after eight tokens is finished in one pass


@pytest.mark.parametrize("family", tiny.HYBRIDS)
def test_windows_are_left_early_where_a_state_is_kept(family):
    lm = wrap_model(tiny.make_model(family), fingerprint="")
    rows = tiny.random_tokens(6, length=24)
    rows[:3, 12:] = next(continue_sequences(lm, rows, batch_size=6, prefix=12)).tokens[:3]
    rows[1, 20] = 3 + (rows[1, 20] - 2) % 90  # a hit all the same
    rows[2, 13:18] = 3 + (rows[2, 13:18] - 2) % 90
    written = next(continue_sequences(lm, rows, batch_size=6, prefix=12)).tokens
    found = next(continue_windows(lm, rows, prefix=12, n_allowed=3, batch_size=6))
    assert np.isnan(found.score).tolist() == [False, False, True, True, True, True]
    decoded = found.tokens != NOTHING
    assert (found.tokens[decoded] == written[decoded]).all()
    assert found.score[:2].tolist() == [1, 11 / 12]


def test_every_batch_is_counted_so_that_who_cancels_waits_for_one_alone(lm, new_text):
    counts = []
    progress = SimpleNamespace(advance=lambda n=1: counts.append(n))
    audit = local_audit(lm, [Document("a", new_text(1, 200), "")], audit_settings(batch_size=4))
    prompts = prompts_at(audit, [(0, first) for first in range(10)])
    audit.model.continue_(prompts, until="miss", progress=progress)
    assert counts == [4, 4, 2]


def test_growth_is_where_greedy_decoding_leaves_the_document(lm, trained, new_text):
    text = trained[0] + new_text(1, 60)
    ids = tokenize(text, lm.tokenizer).ids
    audit = local_audit(lm, [Document("a", text, "")], audit_settings(max_growth=32))
    firsts = (0, 1, 4, 40)
    made = extend(audit, [(0, first) for first in firsts])
    for first, growth in zip(firsts, made, strict=True):
        row = ids[None, first : first + 96]
        written = next(continue_sequences(lm, row, batch_size=1)).tokens[0]
        is_right = written == row[0, 32:]
        assert growth.n_tokens == (len(is_right) if is_right.all() else int(is_right.argmin()))
    assert made[0].n_tokens >= 30  # the trained text comes out
    assert made[3].n_tokens < 10  # the new one does not


def letters(ids):
    return "".join(chr(int(one) - FIRST_LETTER + 32) for one in ids)


@pytest.mark.parametrize(
    ("family", "adds_bos"), [("llama", True), ("gpt2", False), ("bloom", False)]
)
def test_its_own_words_are_found_where_they_stand(tmp_path, audited, family, adds_bos):
    model = tiny.make_model(family)
    with torch.no_grad():  # special tokens are no characters of a document: it writes none
        model.get_output_embeddings().weight[:FIRST_LETTER] = 0
    lm = wrap_model(model, tiny.make_tokenizer(adds_bos), name=family)
    assert (lm.bos_id is not None) == adds_bos
    rows = tiny.random_tokens(30, length=32 + N_WRITTEN, seed=1)
    written = next(continue_sequences(lm, rows, batch_size=30)).tokens
    row = int(np.flatnonzero((written >= FIRST_LETTER).all(axis=1))[0])
    before, after = (letters(one) for one in tiny.random_tokens(2, 50, seed=9))
    text = before + letters(rows[row, :32]) + letters(written[row]) + after
    # A random model goes on otherwise after a prefix shifted by one: every start must be tried.
    _, spans = audited(tmp_path, text, model=lm, settings=audit_settings(**BRIEF, stride=1))
    start = len(before) + 32
    covered = {one for a, b in spans.select("start", "end").rows() for one in range(a, b)}
    assert set(range(start, start + N_WRITTEN)) <= covered
    assert len(covered) <= N_WRITTEN + 16
    for row in spans.iter_rows(named=True):
        assert row["text"] == text[row["start"] : row["end"]]


def test_an_audit_in_a_chat_is_recorded_and_holds(tmp_path, lm, audited, verify):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}\n"
    chatty = replace(lm, tokenizer=tokenizer)
    text = "".join(f"Chapter {n}: board mode\n" for n in range(10, 25))
    settings = audit_settings(chat_template=True, **BRIEF)
    audited(tmp_path, text, model=chatty, settings=settings)
    record, frame = read_audit(tmp_path / "out")
    assert record["settings"]["chat_template"]
    assert record["settings"]["instruction"] == "Continue this text."
    assert frame.height
    assert frame["perplexity_without_prefix"].is_finite().all()
    found = verify(tmp_path / "out", chatty)
    assert (found.problems, found.n_hold) == ([], frame.height)
    with pytest.raises(UserError, match=r"other settings \(.*chat_template: yes there, no here"):
        audited(tmp_path, text, settings=audit_settings(**BRIEF))


def test_the_tokenizer_is_copied_once_for_all_documents(lm, monkeypatch):
    """A copy of one with 262,144 tokens takes 1.4 seconds of the processor."""
    copied, make = [], read._copy_backend
    monkeypatch.setattr(read, "_copy_backend", lambda one: copied.append(one) or make(one))
    documents = [Document(f"{n}.txt", f"text {n} " * 80, "") for n in range(5)]
    assert len(local_audit(lm, documents, audit_settings()).texts) == 5
    assert len(copied) == 1
