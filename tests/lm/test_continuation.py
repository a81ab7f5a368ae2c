"""Continuations are those of transformers' greedy search; a scan gives their verdict without them.

So does the forward of a capture.
"""

import numpy as np
import pytest
import torch
from tiny_families import HYBRIDS, joined

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import (
    capture_and_scan,
    continue_guided,
    continue_sequences,
    draw_continuations,
    scan_memorized,
)
from mnemoscope.lm.model import wrap_model
from mnemoscope.lm.probe import next_token_entropy
from refusals import refusal


def decode(lm, tokens, batch_size=4, prefix=32):
    return joined(continue_sequences(lm, tokens, batch_size=batch_size, prefix=prefix))


def scan(lm, tokens, batch_size=16):
    return joined(scan_memorized(lm, tokens, batch_size=batch_size))


def both(lm, tokens, batch_size=4):
    maps, scans = zip(*capture_and_scan(lm, tokens, batch_size=batch_size), strict=True)
    return *joined(maps), *joined(scans)


def generate(lm, tokens, prefix=32):
    """The oracle: `generate` without sampling, without a stop, in one batch."""
    ids = torch.from_numpy(tokens[:, :prefix]).long()
    if lm.bos_id is not None:
        ids = torch.cat([torch.full((len(ids), 1), lm.bos_id), ids], dim=1)
    out = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens.shape[1] - prefix,
        eos_token_id=None,
        pad_token_id=0,
        repetition_penalty=1.0,
    )
    return out[:, ids.shape[1] :].numpy()


def lead(lm, tokens):
    """The best logit's lead over the second before each suffix token, without a cache."""
    with torch.no_grad():
        logits = lm.model(input_ids=torch.from_numpy(tokens).long()).logits[:, 31:-1]
    best, second = logits.sort(dim=-1, descending=True).values[..., :2].unbind(dim=-1)
    return (best - second).numpy(), logits.argmax(dim=-1).numpy()


@pytest.fixture(scope="module")
def mixed(memorizer, tokens):
    """The 24 sequences the model was trained on, 24 new ones, 8 seen but for one suffix token."""
    seen, new = tokens(24, seed=5), tokens(24, seed=6)
    changed = seen[:8].copy()
    for row, position in enumerate((32, 33, 35, 36, 37, 48, 62, 63)):
        changed[row, position] = 3 + (changed[row, position] + 1) % 90
    return np.random.default_rng(0).permutation(np.concatenate([seen, new, changed]))


def test_every_family_continues_as_generate_and_is_scanned_and_captured_so(lm, tokens):
    """Every other one behind a BOS token, which is read and not judged."""
    table = tokens(6)
    decoded, _, _ = decode(lm, table)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, generate(lm, table))
    assert len(np.unique(decoded)) > 5  # no trivial agreement on one token
    if lm.bos_id is not None:
        without = wrap_model(lm.model, lm.tokenizer, bos="never")
        assert (decoded != decode(without, table)[0]).any()
    table[::2, 32:] = decoded[::2]
    assert scan(lm, table)[0].tolist() == [True, False] * 3
    mean, largest, is_memorized, _ = both(lm, table)
    for found, wanted in zip(
        (mean, largest), joined(capture_pooled(lm, table, batch_size=4)), strict=True
    ):
        assert torch.equal(found, wanted)
    assert is_memorized.tolist() == [True, False] * 3
    assert not lm.model.base_model.config._attn_implementation.startswith("mnemoscope")


@pytest.mark.parametrize("of", ["gpt_neox", "gpt2", "llama"])
def test_published_decoding_is_generate_with_a_least_length_and_the_end_hidden(build, tokens, of):
    """The oracle is called as the paper's code calls it; the end of text is token 2 here.

    Where it ends the prefix, versions of transformers differ: 4.46, which that code pins, counts
    the tokens that are shown in every step, later ones go on from the last position.
    """
    lm, table = build(of), tokens(12)
    end = lm.model.config.eos_token_id
    table[3, 5], table[4, 0], table[5, 31], table[6, 7:9] = end, end, end, end
    usual = np.bincount(decode(lm, table)[0].ravel()).argmax()
    with torch.no_grad():  # the end of text is likely, so that it matters whether it is banned
        head = lm.model.get_output_embeddings().weight
        head[end] = 1.2 * head[usual]
    prompt = torch.from_numpy(table[:, :32]).long()
    wanted = lm.model.generate(
        prompt,
        attention_mask=(prompt != end).long(),
        do_sample=False,
        max_length=64,
        min_length=64,
        pad_token_id=end,
    )[:, 32:].numpy()
    whole = prompt[5:6]
    for _ in range(32):  # without a cache
        shown = torch.nn.functional.pad(
            (prompt[5:6] != end).long(), (0, whole.shape[1] - 32), value=1
        )
        places = (shown.cumsum(-1) - 1).masked_fill(shown == 0, 1)
        with torch.no_grad():
            logits = lm.model(whole, attention_mask=shown, position_ids=places).logits[:, -1]
        logits[:, end] = -torch.inf
        whole = torch.cat([whole, logits.argmax(dim=-1, keepdim=True)], dim=1)
    wanted[5] = whole[0, 32:]
    for size in (12, 5):
        found = joined(continue_sequences(lm, table, batch_size=size, decoding="published"))
        np.testing.assert_array_equal(found[0], wanted)
    plain, *_ = decode(lm, table)
    assert (plain == end).any()
    assert not (wanted == end).any()
    untouched = ~(plain == end).any(axis=1) & ~(table[:, :32] == end).any(axis=1)
    np.testing.assert_array_equal(plain[untouched], wanted[untouched])
    lm.model.config.eos_token_id = None
    said = refusal(lambda: next(continue_sequences(lm, table, batch_size=3, decoding="published")))
    assert "names no end-of-text token" in said


@pytest.mark.parametrize("of", [*HYBRIDS, "deepseek_v4"])
def test_where_a_state_is_kept_one_forward_without_a_cache_says_the_same(build, tokens, of):
    lm, table = build(of), tokens(6, 24)
    decoded, _, _ = decode(lm, table, prefix=12)
    np.testing.assert_array_equal(decoded, generate(lm, table, prefix=12))
    table[[0, 2], 12:] = decoded[[0, 2]]
    table[4, 12:14] = decoded[4, :2]
    with torch.no_grad():
        logits = lm.model(input_ids=torch.from_numpy(table).long(), use_cache=False).logits
    best = logits[:, 11:-1].argmax(dim=-1).numpy()
    assert (best == table[:, 12:]).all(axis=1).tolist() == [True, False, True, False, False, False]
    is_memorized, _ = joined(scan_memorized(lm, table, batch_size=6, prefix=12))
    np.testing.assert_array_equal(is_memorized, (best == table[:, 12:]).all(axis=1))


@pytest.mark.parametrize("family_name", ["gpt_neox", "gemma2", "bloom"])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_draw_is_where_the_distribution_function_passes_its_number(
    build, tokens, family_name, adds_bos
):
    """The oracle reads the whole text again for every token, without a cache."""
    lm, prefixes = build(family_name, adds_bos=adds_bos), tokens(6)[:, :32]
    uniforms = np.random.default_rng(0).random((6, 5))
    uniforms[:2, 0] = 0.0, 1 - 2**-53
    drawn, entropy = joined(draw_continuations(lm, prefixes, uniforms, batch_size=6))
    before = np.full((6, 1), lm.bos_id) if adds_bos else np.empty((6, 0), dtype=int)
    read = np.concatenate([before, prefixes, drawn], axis=1)
    with torch.no_grad():
        shares = lm.model(input_ids=torch.from_numpy(read).long()).logits[:, -6:-1].double()
    reached = shares.softmax(dim=-1).cumsum(dim=-1).numpy()
    last = shares.shape[-1] - 1
    passed = (reached[..., :last] <= uniforms[..., None]).sum(axis=-1)
    np.testing.assert_array_equal(passed, drawn)
    whole = np.concatenate([prefixes, drawn], axis=1)
    expected = next_token_entropy(lm, whole, batch_size=6)[:, -5:]
    np.testing.assert_allclose(entropy, expected, atol=1e-4)
    single, _ = joined(draw_continuations(lm, prefixes, uniforms, batch_size=1))
    np.testing.assert_array_equal(single, drawn)
    assert drawn[:2, 0].tolist() == [0, last]
    if lm.max_positions is not None:  # the last token is drawn and not read
        n_fits = lm.max_positions - 32 - adds_bos + 1
        drawn, _ = joined(draw_continuations(lm, prefixes, np.zeros((6, n_fits)), batch_size=6))
        assert drawn.shape == (6, n_fits)
        with pytest.raises(UserError, match="positions"):
            draw_continuations(lm, prefixes, np.zeros((6, n_fits + 1)), batch_size=6)


@pytest.mark.parametrize(
    ("strength", "plausible"), [(0.0, 0.0), (0.5, 0.0), (2.0, 0.0), (2.0, 0.3)]
)
def test_guided_tokens_are_those_of_the_formula_step_by_step(build, tokens, strength, plausible):
    pair = build("gpt_neox"), build("gpt_neox", initializer_range=0.4)
    rows = tokens(5)
    found = continue_guided(
        *pair, rows, strength=strength, plausible=plausible, batch_size=2, prefix=12
    )
    shown = torch.from_numpy(rows[:, :12].astype(np.int64))
    while shown.shape[1] < rows.shape[1]:
        with torch.inference_mode():
            own, beside = (lm.model(shown).logits[:, -1].log_softmax(-1) for lm in pair)
        score = own + strength * (own - beside)
        if plausible:
            score[own.exp() < plausible * own.exp().amax(dim=1, keepdim=True)] = -torch.inf
        shown = torch.cat([shown, score.argmax(dim=1, keepdim=True)], dim=1)
    assert found.tolist() == shown[:, 12:].tolist()
    if not strength:
        whole = next(continue_sequences(pair[0], rows, batch_size=5, prefix=12))
        assert found.tolist() == whole.tokens.tolist()


def test_a_twin_with_another_vocabulary_is_refused(build, tokens):
    other = build("gpt_neox", vocab_size=500)
    with pytest.raises(UserError, match="500 tokens, where gpt_neox has"):
        continue_guided(build("gpt_neox"), other, tokens(2), strength=1.0, batch_size=2)


def test_end_of_text_and_the_models_own_settings_change_nothing(build, tokens):
    lm, table = build("gpt_neox"), tokens(4)
    before = decode(lm, table)[0]
    end = int(before[0, 3])
    lm.model.generation_config.eos_token_id = lm.model.config.eos_token_id = end
    lm.model.generation_config.repetition_penalty = 5.0
    lm.model.generation_config.do_sample = True
    np.testing.assert_array_equal(decode(lm, table)[0], before)


def test_score_is_the_share_of_equal_positions_and_the_gap_that_without_a_cache(build, tokens):
    lm, table = build("llama"), tokens(4)
    decoded, _, _ = decode(lm, table)
    table[:2, 32:] = decoded[:2]
    table[1, 40] = (table[1, 40] + 1) % 96
    table[2, 32:] = (decoded[2] + 1) % 96
    again, score, gap = decode(lm, table)
    np.testing.assert_array_equal(again, decoded)
    assert score.dtype == np.float32
    assert score[:3].tolist() == [1.0, 31 / 32, 0.0]
    gaps, _ = lead(lm, np.concatenate([table[:, :32], decoded], axis=1))
    # Logits near 10 in float32, summed in another order with a cache than without.
    np.testing.assert_allclose(gap, gaps.min(axis=1), atol=1e-4)
    assert (gap > 0).all()


def test_every_batch_size_gives_the_same_in_order(build, tokens, memorizer, mixed):
    lm, table = build("qwen2"), tokens(5)
    expected = decode(lm, table, batch_size=5)
    for batch_size in (1, 3, 100):
        for got, want in zip(decode(lm, table, batch_size), expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4)  # gaps round as above
    verdicts = [scan(memorizer, mixed, size)[0].tolist() for size in (5, len(mixed))]
    assert verdicts[0] == verdicts[1]


def test_prefix_and_suffix_may_have_any_length(build, tokens):
    lm, table = build("gpt_neox"), tokens(3)
    decoded, score, _ = decode(lm, table, prefix=50)
    assert decoded.shape == (3, 14)
    np.testing.assert_array_equal(decoded, generate(lm, table, prefix=50))
    np.testing.assert_array_equal(score, (decoded == table[:, 50:]).mean(axis=1, dtype=np.float32))
    decoded, _, _ = decode(lm, table, prefix=62)  # shorter than the scan's first step
    table[:2, 62:] = decoded[:2]
    table[2, 63] = (decoded[2, 1] + 1) % 96
    verdict = next(scan_memorized(lm, table, batch_size=3, prefix=62)).is_memorized
    assert verdict.tolist() == [True, True, False]


def test_native_attention_backend_is_used(build, tokens):
    lm, seen = build("llama"), []
    lm.model.register_forward_pre_hook(
        lambda module, _: seen.append(module.config._attn_implementation)
    )
    decode(lm, tokens(2))
    assert set(seen) == {"sdpa"}


def test_scan_and_capture_give_the_verdict_of_decoding_and_the_gaps_to_it(memorizer, mixed):
    """Of others the gap is over what decoding shares with the text, and the first wrong token."""
    is_memorized, gap = scan(memorizer, mixed)
    _, score, decoded_gap = decode(memorizer, mixed, batch_size=16)
    assert is_memorized.dtype == np.bool_
    np.testing.assert_array_equal(is_memorized, score == 1.0)
    assert 12 <= is_memorized.sum() <= 40  # both verdicts are there
    gaps, best = lead(memorizer, mixed)
    wrong = best != mixed[:, 32:]
    first_wrong = [gaps[row, : int(wrong[row].argmax()) + 1].min() for row in range(len(mixed))]
    # Logits up to about 20 in float32, summed in another order.
    wanted = np.where(is_memorized, decoded_gap, first_wrong)
    np.testing.assert_allclose(gap, wanted, atol=1e-4)
    _, _, captured, captured_gap = both(memorizer, mixed, batch_size=16)
    np.testing.assert_array_equal(captured, is_memorized)
    np.testing.assert_allclose(captured_gap, gap, atol=1e-4)  # by another attention code


def test_verdicts_and_maps_do_not_depend_on_how_many_logits_are_held(memorizer, mixed, monkeypatch):
    alone, captured = scan(memorizer, mixed), both(memorizer, mixed, batch_size=16)
    budget = 4 * memorizer.vocab_size * 16  # of one place in a batch of 16
    monkeypatch.setattr("mnemoscope.lm.model.LOGIT_BYTES", budget)
    held, forward = [], memorizer.model.forward

    def watched(*arguments, **options):
        found = forward(*arguments, **options)
        held.append(found.logits.numel())
        return found

    monkeypatch.setattr(memorizer.model, "forward", watched)
    (verdicts, gaps), again = scan(memorizer, mixed), both(memorizer, mixed, batch_size=16)
    assert max(held) * 4 <= budget
    for found in (verdicts, again[2]):
        np.testing.assert_array_equal(found, alone[0])
    for found in (gaps, again[3]):
        np.testing.assert_allclose(found, alone[1], atol=1e-4)  # other steps round otherwise
    for found, wanted in zip(again[:2], captured[:2], strict=True):
        assert torch.equal(found, wanted)


def entropies(lm, tokens):
    return next_token_entropy(lm, tokens, batch_size=2)


@pytest.mark.parametrize("ask", [decode, scan, both, entropies])
def test_non_finite_logits_are_refused(build, tokens, ask):
    lm = build("gpt_neox")
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[5] = float("nan")
    assert "gpt_neox: non-finite logits in float32" in refusal(ask, lm, tokens(2))


@pytest.mark.parametrize("ask", [continue_sequences, capture_and_scan])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:, :32], "leave no suffix"),
        (lambda t: t.astype(np.float32), "of integers"),
        (lambda t: t[0], r"wanted \(n, T\)"),
        (lambda t: np.where(t == t[1, 2], 96, t), "row .*id 96 is outside the vocabulary"),
        (lambda t: np.concatenate([t, t], axis=1), "has 80 positions, sequences of 128 tokens"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_at_once(build, tokens, ask, change, message):
    with pytest.raises(UserError, match=message):
        ask(build("gpt_neox"), change(tokens(3)), batch_size=2)
