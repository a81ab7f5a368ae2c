"""What a passage needs: its own edges, and parts that the reference lacks; text needs neither."""

import copy
import html
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import transformers

from mnemoscope.audits.documents import Document
from mnemoscope.audits.grafts import standard_parts, survivals
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.needs import copied_shares, find_needs
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.records import read_audit
from mnemoscope.audits.rule import MOST_COPIED
from mnemoscope.errors import UnsupportedModelError, UserError
from mnemoscope.lm import edges
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.edges import total_effects
from mnemoscope.lm.graft import Pair
from mnemoscope.lm.probe import decoder_layers
from tests.audits.conftest import BRIEF

ASKED = {"prefix": 32, "batch_size": 16}


def test_the_tokens_that_a_passage_owes_most_to_have_the_largest_total_effects(lm, made):
    row = made.spans.filter(verdict="recall").row(0, named=True)
    window = np.array([row["window_tokens"]], dtype=np.int32)
    (effects,) = total_effects(lm, window, batch_size=1)
    by_token = effects[0].tril(diagonal=-1).sum(dim=(0, 1)).numpy()
    best = np.argsort(-by_token)[: len(row["needed"])]
    assert [one["token"] for one in row["needed"]] == best.tolist()
    assert [one["effect"] for one in row["needed"]] == pytest.approx(by_token[best], rel=1e-3)
    assert by_token[best].min() > 0
    texts = lm.tokenizer.batch_decode(window[0, best][:, None].tolist())
    assert [one["text"] for one in row["needed"]] == texts


def test_what_is_read_off_the_text_counted_by_hand():
    windows = np.array([[5, 6, 7, 5, 6, 7], [1, 2, 3, 4, 5, 6]], dtype=np.int32)
    effects = torch.ones(2, 1, 6, 6)
    # Tokens 2, 3 and 4 write the last three and look at 2, 3 and 4 earlier ones. Of these 3 finds
    # its next token 6 after the 5 of before, and 4 its next token 7 after the 6.
    assert copied_shares(windows, effects, prefix=3).tolist() == [2 / 9, 0]
    assert copied_shares(windows, -effects, prefix=3).tolist() == [0, 0]
    effects[0, 0, 3, 1], effects[0, 0, 4, 4] = 10, 100  # no token looks back at itself
    assert copied_shares(windows, effects, prefix=3)[0] == 11 / 18


def test_a_guess_reads_off_the_text_and_a_memory_does_not(lm, trained):
    repeating = " ".join(f"item {n}: {n}," for n in range(40))
    ids = [lm.tokenizer(one)["input_ids"][:64] for one in (trained[0], trained[1], repeating)]
    found = [one.copied for one in find_needs(lm, np.array(ids, dtype=np.int32), **ASKED)]
    assert max(found[:2]) < MOST_COPIED
    assert found[2] > 2 * MOST_COPIED


@pytest.mark.parametrize(
    ("error", "is_left_out"),
    [
        (UnsupportedModelError("two softmaxes a layer."), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),  # it fits a scan, no backward pass
        (UserError("non-finite logits"), False),
    ],
)
def test_what_a_model_cannot_be_asked_is_left_out_of_all_passages_and_said(
    lm, audited, trained, tmp_path, monkeypatch, error, is_left_out
):
    calls, ask = [], edges.scaled_attention

    def refuse(*args, **options):
        calls.append(args)
        if len(calls) > 1:  # the first batch goes well
            raise error
        return ask(*args, **options)

    def one_by_one(lm, windows, **options):
        return total_effects(lm, windows, **options | {"batch_size": 1})

    monkeypatch.setattr(edges, "scaled_attention", refuse)
    monkeypatch.setattr(edges, "total_effects", one_by_one)
    settings = audit_settings(**BRIEF, stride=32, refine_from=33)
    text = f"{trained[0]} and so on. {trained[1]}"
    if not is_left_out:
        with pytest.raises(UserError, match="non-finite"):
            audited(tmp_path, text, settings=settings)
        return
    record, frame = audited(tmp_path, text, settings=settings)
    assert frame.height == 2
    assert frame["needed"].null_count() == frame["needs_say"].null_count() == 2
    assert re.search("two softmaxes|one sequence alone does not fit", record["needs"]["reason"])
    page = (tmp_path / "out" / "audit.html").read_text()
    assert f"Not asked: {record['needs']['reason']}"[:60] in html.unescape(page)


def test_what_was_trained_breaks_and_what_counts_stands(made, lm, reference):
    frame = made.spans
    assert made.record["grafts"] == {"parts": standard_parts(4), "reason": None}
    kept = dict(frame.group_by("rule_says").agg(pl.col("grafts_survived").mean()).iter_rows())
    assert kept["recall"] < 4 < kept["guess"]
    for row in frame.iter_rows(named=True):
        assert row["grafts"] == 8 == row["grafts_survived"] + len(row["broken_by"])
        says = "recall" if row["grafts_survived"] <= 4 else "guess"
        assert row["grafts_say"] == says
    exact = frame.filter(pl.col("score") == 1)
    windows = np.array(exact["window_tokens"].to_list(), dtype=np.int32)
    with Pair(lm.model, reference.model).grafted("layers.0.qk"):
        scans = list(scan_memorized(lm, windows, batch_size=64))
    stands = np.concatenate([one.is_memorized for one in scans])
    broken = np.array(["layers.0.qk" in one for one in exact["broken_by"]])
    assert broken.any()
    assert not (stands & broken).any()  # what a scan reproduces whole has no wrong token at all


def test_the_model_breaks_nothing_of_itself_and_another_shape_is_named(
    lm, audited, trained, tmp_path
):
    text, settings = trained[0] + " and so on.", audit_settings(**BRIEF)
    _, frame = audited(tmp_path, text, reference=lm, settings=settings)
    assert frame["grafts_survived"].to_list() == frame["grafts"].to_list() == [8] * frame.height
    assert set(frame["grafts_say"]) == {"guess"}
    config = transformers.GPTNeoXConfig(**lm.model.config.to_dict() | {"num_hidden_layers": 2})
    small = replace(lm, model=transformers.GPTNeoXForCausalLM(config).eval(), name="small")
    (tmp_path / "small").mkdir()
    record, frame = audited(tmp_path / "small", text, reference=small, settings=settings)
    assert "num_hidden_layers is 4 in the model and 2" in record["grafts"]["reason"]
    assert frame["grafts"].null_count() == frame.height
    assert frame["reference_says"].null_count() == frame["needs_say"].null_count() == 0
    assert read_audit(tmp_path / "small" / "out")[1]["grafts_say"].null_count() == frame.height


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_graft_that_gives_no_finite_logits_is_refused_not_counted_as_breaking(
    lm, reference, trained, value
):
    broken = copy.deepcopy(reference.model)
    with torch.no_grad():
        decoder_layers(replace(reference, model=broken))[1].mlp.dense_4h_to_h.bias.fill_(value)
    document, settings = Document("a", trained[0], ""), audit_settings(**BRIEF)
    audit = local_audit(lm, [document], settings)
    audit.passages = pl.DataFrame({"document": ["a"], "window_token": [0]})
    pair = Pair(lm.model, broken)
    with pytest.raises(UserError, match="non-finite logits in float32 on cpu"):
        survivals(audit, pair, standard_parts(4))


def test_want_of_memory_halves_batches(lm, trained, monkeypatch):
    windows = np.array([lm.tokenizer(one)["input_ids"][:64] for one in trained[:2]], np.int32)
    mlp = decoder_layers(lm)[0].mlp
    real = mlp.forward

    def forward(states):
        if len(states) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(states)

    monkeypatch.setattr(mlp, "forward", forward)
    assert all(one.needed for one in find_needs(lm, windows, **ASKED))
