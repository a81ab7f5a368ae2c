"""Forwards that begin at a layer give what whole ones give, in every family."""

import numpy as np
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
    scanned = joined(scan_memorized(lm, table, batch_size=2, use_cache=False))
    assert calls
    calls.clear()
    with kept.resuming():
        found = suffix_logprobs(lm, table[::-1].copy(), batch_size=2)[::-1]
        again = joined(scan_memorized(lm, table, batch_size=2, use_cache=False))
        assert not calls
        suffix_logprobs(lm, tokens(5, seed=9), batch_size=2)  # others, of which nothing is kept
        assert calls
    assert np.allclose(found, wanted, atol=1e-5)
    assert (again[0] == scanned[0]).all()
    assert n_hooks(lm) == hooks
    assert not any("forward" in vars(one) for one in decoder_layers(lm))


def test_a_scan_from_a_layer_of_what_is_memorized_is_the_scan(memorizer, tokens):
    table = np.concatenate([tokens(24, seed=5), tokens(8, seed=6)])
    whole = joined(scan_memorized(memorizer, table, batch_size=8))
    kept = keep_states(memorizer, table, 1, batch_size=8)
    with kept.resuming():
        found = joined(scan_memorized(memorizer, table, batch_size=8, use_cache=False))
        cached = joined(scan_memorized(memorizer, table, batch_size=8))
    for one in (found, cached):
        assert one[0].tolist() == whole[0].tolist() == [True] * 24 + [False] * 8
    assert np.allclose(found[1], whole[1], atol=1e-4)


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
