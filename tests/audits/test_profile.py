"""The chance by position: transformers' own logits; text trained on, and text never seen."""

import difflib
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from mnemoscope.audits import profile_chances as module
from mnemoscope.audits.documents import Document
from mnemoscope.audits.heat import heat_maps
from mnemoscope.audits.profile import TABLE, profile_documents, summarize_profile
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.tokens import ModelTokens, cut_texts, tokenize
from mnemoscope.embedded import model_path


def profiled(lm, texts, kept=None, **values):
    settings = audit_settings(**{"profile": True, "stride": 16} | values)
    documents = [Document(str(number), text, "") for number, text in enumerate(texts)]
    cut = cut_texts(ModelTokens(lm.tokenizer, None), documents)
    return profile_documents(lm, cut, settings, kept), cut, [one.tokens for one in cut], settings


@pytest.fixture(scope="module")
def trained_on():
    """The middle of a file that the embedded model was trained on."""
    return Path(difflib.__file__).read_text(encoding="utf-8")[2_000:4_000]


@pytest.fixture(scope="module")
def held_out(sequences):
    rows = sequences.filter(pl.col("held_out") & (pl.col("form") == "plain"))
    return "\n".join(rows["text"].head(5))


@pytest.fixture(scope="module")
def plain():
    return AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)


@pytest.mark.parametrize(("prefix", "temperature", "top_k"), [("window", 1.0, 40), ("all", 0.7, 0)])
def test_chances_are_those_of_plain_logits(lm, plain, trained_on, prefix, temperature, top_k):
    frame, _, (tokens,), settings = profiled(
        lm, [trained_on[:1500]], profile_prefix=prefix, temperature=temperature, top_k=top_k
    )
    assert frame.columns == [*TABLE]
    for row in frame.sample(12, seed=0).iter_rows(named=True):
        begin = row["token"] + settings.prefix
        ids = tokens.ids[begin - row["prefix_tokens"] : begin + settings.suffix].tolist()
        fed = torch.tensor([[*lm.before, *ids]])
        with torch.inference_mode():
            logits = plain(fed[:, :-1]).logits[0, -settings.suffix :].double()
        wanted = fed[0, -settings.suffix :]
        logprob = logits.log_softmax(-1).gather(1, wanted[:, None]).sum().item()
        if top_k:
            limit = logits.topk(top_k).values[:, -1:]
            logits = logits.masked_fill(logits < limit, -torch.inf)
        drawn = (logits / temperature).log_softmax(-1).gather(1, wanted[:, None]).sum().item()
        right = (logits.argmax(-1) == wanted).tolist()
        assert row["logprob"] == pytest.approx(logprob, abs=1e-3)
        assert row["extraction_logprob"] == pytest.approx(drawn, abs=1e-3)
        assert row["run"] == (right.index(False) if False in right else settings.suffix)


def test_whole_blocks_read_no_less_than_half_of_what_the_model_holds(lm, trained_on):
    frame, *_ = profiled(lm, [trained_on[:1500]], profile_prefix="all")
    window, *_ = profiled(lm, [trained_on[:1500]])
    assert frame["token"].to_list() == window["token"].to_list()
    room = lm.max_positions - len(lm.before)
    own = frame["prefix_tokens"].to_numpy()
    assert own.max() > 64
    late = own[frame["token"].to_numpy() + 64 > room]
    assert late.min() >= min(room // 2, room - 32)


def test_what_was_trained_on_comes_out_and_cells_hold_the_largest_chance(lm, often, held_out):
    text = "\n".join(often)
    frame, documents, _, settings = profiled(lm, [text, held_out], stride=8)
    best = dict(frame.group_by("document").agg(pl.col("extraction_logprob").max()).iter_rows())
    assert best["0"] > math.log(0.1)
    assert best["1"] < math.log(1e-6)
    shares = []
    for one in documents:
        own = summarize_profile(frame.filter(document=one.name), [one], settings)["extractable"]
        shares.append([row["share"] for row in own])
    assert shares[0] == sorted(shares[0])
    assert shares[0][-1] > 0.01
    assert not any(shares[1])

    own = frame.filter(document="0")
    (found,), n_more = heat_maps(own, {"0": text})
    assert n_more == 0
    cells = [cell for line in found.lines for cell in line]
    assert (cells[0].start, cells[-1].end) == (0, len(text))
    assert cells[0].level is None  # nothing stands before it
    for cell in cells[:: len(cells) // 20]:
        inside = own.filter(pl.col("suffix_start") < cell.end, pl.col("end") > cell.start)
        assert cell.logprob == inside["extraction_logprob"].max()
        if cell.logprob is not None:
            limits = np.array([0.001, 0.01, 0.1, 0.5])
            assert cell.level == int((math.exp(cell.logprob) >= limits - 1e-15).sum())
    ends = [(row.suffix_start, row.end) for row in found.likeliest]
    assert all(a[1] <= b[0] or b[1] <= a[0] for a in ends for b in ends if a is not b)
    assert found.likeliest[0].extraction_logprob == own["extraction_logprob"].max()


def test_equal_windows_are_read_once_and_a_stopped_profile_goes_on(
    lm, trained_on, tmp_path, monkeypatch
):
    unit = lm.tokenizer.decode(tokenize(trained_on, lm.tokenizer).ids[:8])
    asked = []
    score_tokens = module.score_tokens
    monkeypatch.setattr(
        module, "score_tokens", lambda *a: asked.append(len(a[2])) or score_tokens(*a)
    )
    frame, _, (tokens,), _ = profiled(lm, [unit * 40], stride=8)
    n = len({tuple(tokens.ids[first : first + 64]) for first in frame["token"]})
    assert sum(asked) == n < frame.height / 2

    values = {"batch_size": 4, "stride": 8}
    whole, *_ = profiled(lm, [trained_on[:1500]], tmp_path, **values)
    kept = sorted(tmp_path.glob("profile-*.parquet"))
    assert len(kept) > 2
    kept[1].unlink()
    asked.clear()
    again, *_ = profiled(lm, [trained_on[:1500]], tmp_path, **values)
    assert sum(asked) == 16  # one part of four batches
    assert again.equals(whole)


def test_an_audit_draws_it(made):
    assert made.record["profile"]["windows"] == made.profile.height > 50
    assert 0 < len(re.findall("<rect ", made.page)) <= made.profile.height + 1
    assert made.page.count("characters</title>") == 0
