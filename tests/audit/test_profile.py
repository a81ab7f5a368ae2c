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

from mnemoscope.audit import profile as module
from mnemoscope.audit.documents import Document, tokenize
from mnemoscope.audit.page import heat_maps, summarize_profile
from mnemoscope.audit.profile import PROFILE_COLUMNS, profile_documents
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.embedded import model_path
from mnemoscope.files import file_sha256, read_parquet, read_record, write_parquet, write_record


def document(text, name="a"):
    return Document(name, text, "")


def profiled(lm, texts, kept=None, **values):
    settings = AuditSettings(profile=True, **values)
    documents = [document(text, str(number)) for number, text in enumerate(texts)]
    tokens = [tokenize(text, lm.tokenizer) for text in texts]
    frame = profile_documents(lm, documents, tokens, settings, kept)
    return frame, documents, tokens, settings


@pytest.fixture(scope="module")
def trained_on():
    """The head of a file that the embedded model was trained on."""
    return Path(difflib.__file__).read_text(encoding="utf-8")[:12_000]


@pytest.fixture(scope="module")
def held_out(sequences):
    rows = sequences.filter(pl.col("held_out") & (pl.col("genre") != "template"))
    return "\n".join(rows["text"].head(60))


@pytest.fixture(scope="module")
def plain():
    return AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)


@pytest.mark.parametrize("prefix", ["window", "all"])
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 40), (0.7, 0)])
def test_chances_are_those_of_plain_logits(lm, plain, trained_on, prefix, temperature, top_k):
    frame, _, (tokens,), settings = profiled(
        lm, [trained_on[:2500]], profile_prefix=prefix, temperature=temperature, top_k=top_k
    )
    assert dict(frame.schema) == PROFILE_COLUMNS
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
    frame, *_ = profiled(lm, [trained_on[:2000]], profile_prefix="all", stride=4)
    window, *_ = profiled(lm, [trained_on[:2000]], stride=4)
    assert frame["token"].to_list() == window["token"].to_list()
    room = lm.max_positions - len(lm.before)
    own = frame["prefix_tokens"].to_numpy()
    assert own.max() > 64
    late = own[frame["token"].to_numpy() + 64 > room]
    assert late.min() >= min(room // 2, room - 32)


def test_what_was_trained_on_comes_out_and_what_was_not_does_not(lm, trained_on, held_out):
    frame, documents, _, settings = profiled(lm, [trained_on, held_out])
    best = dict(frame.group_by("document").agg(pl.col("extraction_logprob").max()).iter_rows())
    assert best["0"] > math.log(0.1)
    assert best["1"] < math.log(1e-6)
    shares = {}
    for one in documents:
        own = summarize_profile(frame.filter(document=one.name), [one], settings)["extractable"]
        shares[one.name] = [row["share"] for row in own]
    assert shares["0"] == sorted(shares["0"])
    assert shares["0"][-1] > 0.01
    assert not any(shares["1"])


def test_equal_windows_are_read_once_and_a_stopped_profile_goes_on(
    lm, trained_on, tmp_path, monkeypatch
):
    unit = lm.tokenizer.decode(tokenize(trained_on, lm.tokenizer).ids[:8])
    asked = []
    judge = module._judge
    monkeypatch.setattr(module, "_judge", lambda *a: asked.append(len(a[2])) or judge(*a))
    frame, _, (tokens,), _ = profiled(lm, [unit * 60], stride=8)
    n = len({tuple(tokens.ids[first : first + 64]) for first in frame["token"]})
    assert sum(asked) == n < frame.height / 2

    values = {"batch_size": 8, "stride": 8}
    whole, *_ = profiled(lm, [trained_on[:3000]], tmp_path, **values)
    kept = sorted(tmp_path.glob("profile-*.parquet"))
    assert len(kept) > 2
    kept[1].unlink()
    asked.clear()
    again, *_ = profiled(lm, [trained_on[:3000]], tmp_path, **values)
    assert sum(asked) == 32  # one part of four batches
    assert again.equals(whole)


def test_cells_hold_the_largest_chance_that_reaches_into_them(lm, trained_on):
    text = trained_on[:6000]
    frame, *_ = profiled(lm, [text])
    (found,), n_more = heat_maps(frame, {"0": text})
    assert n_more == 0
    cells = [cell for line in found.lines for cell in line]
    assert (cells[0].start, cells[-1].end) == (0, len(text))
    assert cells[0].level is None  # nothing stands before it
    for cell in cells[:: len(cells) // 20]:
        inside = frame.filter(pl.col("suffix_start") < cell.end, pl.col("end") > cell.start)
        assert cell.logprob == inside["extraction_logprob"].max()
        if cell.logprob is not None:
            limits = np.array([0.001, 0.01, 0.1, 0.5])
            assert cell.level == int((math.exp(cell.logprob) >= limits - 1e-15).sum())
    ends = [(row["suffix_start"], row["end"]) for row in found.likeliest]
    assert all(a[1] <= b[0] or b[1] <= a[0] for a in ends for b in ends if a is not b)
    assert found.likeliest[0]["extraction_logprob"] == frame["extraction_logprob"].max()


def test_an_audit_draws_it_and_verify_reads_it_again(lm, audited, trained_on, verify, tmp_path):
    settings = AuditSettings(profile=True, n_prefixes=0, edits=0, near_length=0)
    record, _ = audited(tmp_path, trained_on[:2000], settings=settings)
    out = tmp_path / "out"
    frame = read_parquet(out / "profile.parquet")
    assert record["profile"]["windows"] == frame.height > 50
    page = (out / "audit.html").read_text()
    n_cells = len(re.findall("<rect ", page))
    assert 0 < n_cells <= frame.height + 1
    assert page.count("characters</title>") == 0
    assert verify(out, lm).problems == []
    write_parquet(out / "profile.parquet", frame.with_columns(pl.col("run") + 1))
    assert verify(out, lm).problems == ["profile.parquet was changed after the audit."]
    likelier = pl.col("extraction_logprob").clip(math.log(0.9))
    write_parquet(out / "profile.parquet", frame.with_columns(likelier))
    again = read_record(out / "audit.json", remedy="")
    again["profile_sha256"] = file_sha256(out / "profile.parquet")
    write_record(out / "audit.json", again)
    (problem,) = verify(out, lm).problems
    assert "do not come out again" in problem
