"""Evidence: chances by the model's own logits and over all texts; what decides, what acquits."""

import copy
import importlib.metadata
import itertools
import math
from dataclasses import replace
from email.message import Message

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from transformers import TemperatureLogitsWarper, TopKLogitsWarper

from experiments.audits.tables import counts_of
from experiments.pages import HERE, results_of
from mnemoscope.audits.chance import tries_needed
from mnemoscope.audits.documents import make_document
from mnemoscope.audits.dry_run import weights_apart
from mnemoscope.audits.edit_search import chance_within
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.passages import join_passages, span_schema, with_verdicts
from mnemoscope.audits.questions import EditSettings, audit_settings
from mnemoscope.audits.reference import apart
from mnemoscope.audits.rule import VERDICTS
from mnemoscope.audits.run import ask_questions, find_passages
from mnemoscope.audits.sampling import sampling_logprobs, score_rows
from mnemoscope.audits.tokens import tokenize
from mnemoscope.audits.verdict import (
    EVIDENCE_PAGE,
    RULES,
    is_nearly_same,
    reference_beside,
    verdict_of,
)
from mnemoscope.embedded import model_path
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import prepend_bos, wrap_model
from mnemoscope.lm.probe import suffix_logprobs
from tests.audits.conftest import BRIEF
from tests.lm.tiny_families import make_model
from tiny_models import save_model


@pytest.fixture(scope="module")
def windows(sequences):
    return np.array(sequences["tokens"].head(6).to_list(), dtype=np.int32)


def by_hand(lm, row, temperature, top_k):
    """Chance of sampling the suffix: transformers' usual order, temperature, top k, softmax."""
    with torch.inference_mode():
        logits = lm.model(torch.tensor(row[None].astype(np.int64))).logits[0, 31:-1].double()
    logits = logits / temperature
    kept = logits >= logits.topk(top_k, dim=-1).values[:, -1:]
    probs = logits.masked_fill(~kept, -torch.inf).softmax(dim=-1)
    chosen = probs[torch.arange(32), torch.tensor(row[32:].astype(np.int64))]
    return math.prod(chosen.tolist())


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 40), (0.7, 5), (1.5, 2048)])
def test_extraction_probability_is_the_product_of_sampling_chances(lm, windows, temperature, top_k):
    rows = np.concatenate([windows, windows[:, ::-1]])  # read backwards no text is likely
    settings = audit_settings(temperature=temperature, top_k=top_k)
    found = score_rows(lm, rows, settings)
    for row, logprob in zip(rows, found.sampling, strict=True):
        # 1e-4: the model computes in float32, in batches of another shape
        wanted = by_hand(lm, row, temperature, top_k)
        assert math.exp(logprob) == pytest.approx(wanted, rel=1e-3)
        assert (logprob == -math.inf) == (wanted == 0)
    assert np.isfinite(found.sampling).any()
    assert (found.sampling == -math.inf).any() == (top_k < 2048)  # never among the likeliest
    every = score_rows(lm, rows, audit_settings(top_k=0))
    assert np.isfinite(every.sampling).all()


def test_token_logprobs_and_alternatives_are_the_model_s(lm, windows):
    found = score_rows(lm, windows, audit_settings())
    assert found.logprobs == pytest.approx(suffix_logprobs(lm, windows, batch_size=2), abs=1e-4)
    for row, window in enumerate(windows):
        places = found.choices(row)
        wanted = lm.tokenizer.batch_decode([[one] for one in window[32:]])
        is_best = [place[0]["text"] == text for place, text in zip(places, wanted, strict=True)]
        assert all(is_best) == found.is_whole[row]
        assert np.array([place[0]["logprob"] for place in places])[is_best] == pytest.approx(
            found.logprobs[row][is_best]
        )
        assert (np.diff([[one["logprob"] for one in place] for place in places]) <= 0).all()


def test_without_a_prefix_only_the_suffix_is_read(lm, windows):
    made = score_rows(lm, windows[:, 32:], audit_settings()).logprobs
    assert np.isnan(made[:, 0]).all()  # this model begins with no token of its own
    with torch.inference_mode():
        logits = lm.model(torch.tensor(windows[:, 32:-1].astype(np.int64))).logits
    known = torch.tensor(windows[:, 33:].astype(np.int64))[..., None]
    again = logits.float().log_softmax(dim=-1).gather(-1, known).squeeze(-1).numpy()
    assert made[:, 1:] == pytest.approx(again, abs=1e-4)


@given(st.floats(1e-9, 1.0), st.floats(0.01, 0.99))
def test_tries_are_the_fewest_that_reach_the_probability(chance, wanted):
    n = tries_needed(math.log(chance), wanted)
    miss = math.log1p(-chance) if chance < 1 else -math.inf
    assert -math.expm1(n * miss) >= wanted - 1e-6  # rounding of the logarithm
    assert n == 1 or -math.expm1((n - 1) * miss) < wanted + 1e-6
    assert tries_needed(-math.inf, wanted) is None  # what never comes out needs no number
    assert tries_needed(-1000.0, wanted) is None


def test_where_rule_and_reference_differ_it_cannot_be_told_unless_the_third_test_says_recall():
    some = (None, "guess", "recall")
    says = [*itertools.product(some[1:], some, some, some, some)]
    names = ("rule_says", "reference_says", "grafts_say", "cnn_says", "needs_say")
    frame = pl.DataFrame(says, schema=dict.fromkeys(names, pl.String), orient="row")
    plain = frame.with_columns(reason=pl.lit("because"))
    for said, row in zip(says, with_verdicts(plain).iter_rows(named=True), strict=True):
        rule, reference, *others = said
        third = next((one for one in others if one), None)
        if reference in (None, rule):
            wanted = rule
        else:
            is_backed = (rule, third) == ("recall", "recall")
            wanted = "recall" if is_backed else "cannot be told"
        assert row["verdict"] == wanted
        assert (row["reason"] == "because") == (reference in (None, rule))
        is_read = wanted == "cannot be told" and rule == "recall"
        assert ("if the reference read it, it counts as recalled" in row["reason"]) == is_read


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(VERDICTS), st.booleans()), max_size=8))
@example([(1, "recall", False), (1, "cannot be told", False), (9, "guess", False)])
def test_passages_that_touch_and_have_one_verdict_are_one(pieces):
    text, rows, start = "".join(map(chr, range(97, 197))), [], 0
    for length, verdict, is_apart in pieces:
        start += is_apart
        row = dict.fromkeys(span_schema()) | {
            "document": "a", "start": start, "end": start + length, "tokens": length, "windows": 1,
            "verdict": verdict, "reason": "so", "is_copied": False, "otherwise": [],
            "text": text[start : start + length], "verbatim_length": length,
            "suffix_pieces": ["x"] * 8,
        }  # fmt: skip
        rows.append(row)
        start += length
    wanted = [row["verdict"] for row in rows]
    for _, (at, row) in itertools.product(rows, enumerate(rows)):  # until nothing changes
        touching = [
            wanted[one]
            for one in (at - 1, at + 1)
            if 0 <= one < len(rows) and rows[max(one, at)]["start"] == rows[min(one, at)]["end"]
        ]
        if row["tokens"] < 4:  # below half an answer: an edge of what is said less of
            wanted[at] = max([wanted[at], *touching], key=VERDICTS.index)
    before = pl.DataFrame(rows, schema=span_schema())
    after = join_passages(before, lambda *_: 7)
    found = after.rows(named=True)
    for left, right in itertools.pairwise(found):
        assert left["end"] < right["start"] or left["verdict"] != right["verdict"]
    for row in found:
        own = [one for one in rows if row["start"] <= one["start"] < row["end"]]
        verdicts = {one for one, piece in zip(wanted, rows, strict=True) if piece in own}
        assert (row["start"], row["end"]) == (own[0]["start"], own[-1]["end"])
        assert row["text"] == text[row["start"] : row["end"]]
        assert row["tokens"] == sum(one["tokens"] for one in own) == row["end"] - row["start"]
        assert verdicts == {row["verdict"]}
        assert "edge" not in row["reason"]  # the guess itself speaks
        assert row["windows"] == (7 if len(own) > 1 else 1)
        assert row["verbatim_length"] == max(one["tokens"] for one in own)
    assert after["tokens"].sum() == before["tokens"].sum()


VOCABULARY, PREFIX, SUFFIX = 5, 3, 5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model of five tokens, with much spread between their chances."""
    lm = load_model(save_model(tmp_path_factory.mktemp("tiny")), device="cpu")
    inputs, outputs = lm.model.get_input_embeddings(), lm.model.get_output_embeddings()
    with torch.no_grad():
        inputs.weight.data = inputs.weight[:VOCABULARY]
        outputs.weight.data = 3 * outputs.weight[:VOCABULARY]
    lm.model.config.vocab_size = VOCABULARY
    return replace(lm, vocab_size=VOCABULARY)


def every_text(lm, prefix, top_k):
    """All texts and their chances by plain logits, one forward over all of them."""
    texts = np.array(list(itertools.product(range(VOCABULARY), repeat=SUFFIX)))
    rows = torch.tensor(np.hstack([np.tile(prefix, (len(texts), 1)), texts]))
    with torch.inference_mode():
        logits = lm.model(prepend_bos(lm, rows[:, :-1])).logits[:, -SUFFIX:].double()
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    chances = logits.log_softmax(-1).gather(2, rows[:, PREFIX:, None])[..., 0].sum(1).exp()
    return texts, chances.numpy()


def settings(**values):
    return audit_settings(prefix=PREFIX, suffix=SUFFIX, **values)


@pytest.mark.parametrize(
    ("family", "edits", "top_k"), [("", 1, 3), ("", 2, 0), ("", 3, 3), ("lfm2", 1, 0)]
)
def test_with_room_for_all_texts_it_is_the_sum_over_all_texts(tiny, family, edits, top_k):
    if family:  # one that keeps a state
        tiny = wrap_model(make_model(family, vocab_size=VOCABULARY), fingerprint="")
    windows = np.random.default_rng(edits).integers(0, VOCABULARY, (6, PREFIX + SUFFIX))
    windows = windows.astype(np.int32)
    whole = chance_within(tiny, windows, settings(top_k=top_k, edits=edits, beams=4000))
    few = chance_within(tiny, windows, settings(top_k=top_k, edits=edits, beams=4))
    own = score_rows(tiny, windows, settings(top_k=top_k)).sampling
    n_looser = 0
    for row, window in enumerate(windows):
        texts, chances = every_text(tiny, window[:PREFIX], top_k)
        suffix = window[PREFIX:].tolist()
        is_near = np.array([Levenshtein.distance(suffix, one.tolist()) <= edits for one in texts])
        truth = chances[is_near].sum()
        assert math.exp(whole.logprob[row]) == pytest.approx(truth, rel=1e-4, abs=1e-12)
        assert whole.n_texts[row] == (chances[is_near] > 0).sum()
        assert few.n_texts[row] <= 4
        assert few.logprob[row] <= whole.logprob[row] + 1e-4
        assert few.logprob[row] >= own[row] - 1e-4
        n_looser += few.logprob[row] < whole.logprob[row] - 1e-3
    assert n_looser or edits == 1  # four beams are too few somewhere, so the bound is one


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(0, 7),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_chances_of_drawing_are_those_of_transformers_however_many_tie(rows, top_k, temperature):
    logits, asked = torch.tensor(rows).float(), settings(top_k=top_k, temperature=temperature)
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    every = torch.arange(6).expand_as(logits)
    found = [sampling_logprobs(logits, token, asked).exp() for token in every.T]
    assert torch.stack(found, 1).float() == pytest.approx(scores.softmax(-1), abs=1e-6)


def test_no_edit_is_the_passage_and_more_edits_are_never_less(lm, trained, new_text, made):
    rows = [tokenize(one, lm.tokenizer).ids[:64] for one in (*trained[:2], new_text(1, 90))]
    windows = np.stack(rows)
    own = score_rows(lm, windows, audit_settings()).sampling
    bounds = [chance_within(lm, windows, EditSettings(edits=k, beams=6)).logprob for k in (0, 1, 3)]
    assert np.allclose(bounds[0], own, atol=1e-3)
    assert (bounds[1] >= bounds[0] - 1e-3).all()
    assert (bounds[2] > bounds[0] + 1e-3)[:2].all()
    assert (bounds[2] <= 0).all()
    assert bounds[2][-1] < math.log(1e-6)  # what nobody trained on stays out of reach
    spans = made.spans  # an audit writes it beside the chance
    assert (spans["within_edits"] == 2).all()
    assert (spans["within_logprob"] >= spans["extraction_logprob"] - 1e-3).all()
    assert "within 2 edits, at least" in made.page


def test_the_error_rates_that_audits_show_were_measured_on_the_model_that_ships(lm):
    found = results_of("audits")
    assert found["model"] == lm.fingerprint  # of another one they must be measured again
    never = sum(half["sequences"] - half["trained"] for half in found["halves"])
    forms = sum(half["groups_never"] for half in found["halves"])  # which share no form
    plain = [found["unread"][one] for one in ("prose", "code")]
    out = {"plain": sum(one["sequences"] for one in plain)}
    out["plain_out"] = sum(one["came_out"] for one in plain)
    given = {"never": never, "forms": forms, **out}
    measured = {name: counts_of(found["trained"], name) | given for name in RULES}
    assert {name: one.tested for name, one in RULES.items()} == measured
    assert (HERE.parent / EVIDENCE_PAGE).is_file()


def copy_of(lm, change):
    """The model with each of its weights changed."""
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(change(weights))
    return replace(lm, model=model)


def noisy(lm, share):
    draw = torch.Generator().manual_seed(0)
    return copy_of(lm, lambda w: w + share * w.std() * torch.randn(w.shape, generator=draw))


def test_a_copy_of_the_model_is_no_control_and_the_rule_alone_decides(lm, reference, trained):
    rounded = copy_of(lm, lambda w: (w / (w.abs().max() / 127)).round() * w.abs().max() / 127)
    for other in (rounded, noisy(lm, 0.01), reference):
        is_copy = other is not reference
        settings = audit_settings(**BRIEF, stride=16)
        audit = local_audit(lm, [make_document("a", trained[0])], settings, reference=other)
        audit.apart = apart(audit)
        assert is_nearly_same(audit.apart) == is_copy
        if other is rounded:
            continue
        find_passages(audit)
        ask_questions(audit)
        (row,) = audit.passages.rows(named=True)
        assert (row["verdict"], row["reference_reproduces"]) == ("recall", is_copy)
        assert row["reference_says"] == (None if is_copy else "recall")
        record = {"name": "y", "apart": audit.apart}
        beside = reference_beside("x", record, audit.passages)["sentence"]
        assert ("cannot serve as a control" in beside) == is_copy


def test_a_dry_run_warns_of_a_reference_with_nearly_the_weights_of_the_model(lm, tmp_path):
    draw = torch.Generator().manual_seed(0)
    for name, share in (("near", 0.01), ("far", 0.3)):
        noisy = copy_of(
            lm, lambda w, s=share: w + s * w.std() * torch.randn(w.shape, generator=draw)
        )
        noisy.model.save_pretrained(tmp_path / name)
        assert weights_apart(model_path(), tmp_path / name) == pytest.approx(share, rel=0.5)
    assert weights_apart(model_path(), model_path()) == 0
    assert weights_apart(model_path(), tmp_path) is None


@pytest.mark.parametrize(
    ("owner", "address"),
    [("OWNER", EVIDENCE_PAGE), ("a-lab", f"https://git.host/a-lab/m/blob/main/{EVIDENCE_PAGE}")],
)
def test_the_page_with_the_evidence_has_its_address_once_the_package_names_it(
    made, monkeypatch, owner, address
):
    said = Message()
    said["Project-URL"] = "Issues, https://git.host/issues"
    said["Project-URL"] = f"Repository, https://git.host/{owner}/m"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: said)
    verdict = verdict_of("m", None, made.record["summary"], pl.DataFrame(schema=span_schema()))
    assert verdict["page"] == address
