"""Forwards that begin at a layer give what whole ones give, in every family."""

import numpy as np
import pytest
import torch
from tiny_families import joined, n_hooks

from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.lm.probe import decoder_layers, suffix_logprobs
from mnemoscope.lm.resume import keep_states


def counting(lm):
    """Count the calls of what is inside the first layer."""
    calls = []
    inside = next(one for one in decoder_layers(lm)[0].modules() if not [*one.children()])
    inside.register_forward_hook(lambda *_: calls.append(1))
    return calls


@torch.no_grad()
def shake(layer):
    for weight in layer.parameters():
        weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))


def test_a_changed_layer_is_asked_from_there_and_answers_as_the_whole_model(lm, tokens, family):
    table, layer = tokens(5), lm.n_layers - 1
    kept = keep_states(lm, table, layer, batch_size=2)
    calls, hooks = counting(lm), n_hooks(lm)
    shake(decoder_layers(lm)[layer])
    wanted = suffix_logprobs(lm, table, batch_size=2)
    scanned = joined(scan_memorized(lm, table, batch_size=2))
    assert calls
    calls.clear()
    with kept.resuming(list(decoder_layers(lm)[layer].parameters())):
        found = suffix_logprobs(lm, table[::-1].copy(), batch_size=2)[::-1]
        again = joined(scan_memorized(lm, table, batch_size=2, states=kept))
        assert not calls
        suffix_logprobs(lm, tokens(5, seed=9), batch_size=2)  # others, of which nothing is kept
        assert calls
    assert np.allclose(found, wanted, atol=1e-5)
    assert (again[0] == scanned[0]).all()
    assert n_hooks(lm) == hooks
    assert not any("forward" in vars(one) for one in decoder_layers(lm))


def test_a_scan_from_a_layer_of_what_is_memorized_is_the_scan(memorizer, tokens, monkeypatch):
    table = np.concatenate([tokens(24, seed=5), tokens(8, seed=6)])
    whole = joined(scan_memorized(memorizer, table, batch_size=8))
    kept = keep_states(memorizer, table, 1, batch_size=8)
    with kept.resuming():
        calls = counting(memorizer)
        found = joined(scan_memorized(memorizer, table, batch_size=8, states=kept))
        assert not calls
        cached = joined(scan_memorized(memorizer, table, batch_size=8))
    monkeypatch.setattr(kept, "_new_cache", lambda _: None)  # a family whose cache is no plain one
    with kept.resuming():
        uncached = joined(scan_memorized(memorizer, table, batch_size=8, states=kept))
    for one in (found, cached, uncached):
        assert one[0].tolist() == whole[0].tolist() == [True] * 24 + [False] * 8
    assert np.allclose(found[1], whole[1], atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
def test_what_is_unchanged_beside_the_attention_is_asked_once(build, tokens, layer):
    """Where both read the same state; what is changed, or reads something else, is asked."""
    lm, table = build("gpt_neox"), tokens(6)
    module = decoder_layers(lm)[layer]
    kept, calls = keep_states(lm, table, layer, batch_size=4), []
    module.mlp.register_forward_hook(lambda *_: calls.append(1))
    inside = next(module.mlp.children())
    inside.register_forward_hook(lambda *_: calls.append(1))

    def asked(changed):
        shake(changed)
        wanted = suffix_logprobs(lm, table, batch_size=6)
        with kept.resuming(list(changed.parameters())):
            calls.clear()
            assert (suffix_logprobs(lm, table, batch_size=6) == wanted).all()
            scanned = joined(scan_memorized(lm, table, batch_size=6, states=kept))
        n_asked = len(calls)
        assert (scanned[0] == joined(scan_memorized(lm, table, batch_size=6))[0]).all()
        return n_asked

    without = asked(module.attention)
    assert without < asked(module.mlp)


def test_states_that_take_too_much_are_not_kept(memorizer, tokens, monkeypatch):
    monkeypatch.setattr("mnemoscope.lm.resume.MOST_BYTES", 1000)
    assert keep_states(memorizer, tokens(4), 1, batch_size=2) is None


def test_another_model_below_is_not_resumed_by_mistake(memorizer, tokens, monkeypatch):
    """A family that reads something else than the state: the first batch tells."""
    first = decoder_layers(memorizer)[0]
    second = decoder_layers(memorizer)[1]
    seen = []
    with first.register_forward_hook(lambda *_: seen.append(1)):
        handle = second.register_forward_hook(
            lambda _m, _a, output: output + len(seen) if torch.is_tensor(output) else output
        )
        assert keep_states(memorizer, tokens(4), 1, batch_size=4) is None
        handle.remove()
