"""What is probed is what the model itself has in mind; patches change what they should."""

import numpy as np
import pytest
import torch
from tiny_families import n_hooks

from mnemoscope.errors import UserError
from mnemoscope.lm.intervene import patched_states
from mnemoscope.lm.model import prepend_bos
from mnemoscope.lm.probe import (
    collected_states,
    decoder_layers,
    hidden_states,
    neuron_activations,
    next_tokens,
    output_matrices,
    suffix_logprobs,
)


def _logits(lm, tokens):
    with torch.inference_mode():
        return lm.model(input_ids=torch.as_tensor(tokens).long(), use_cache=False).logits


def test_states_are_those_of_output_hidden_states(build, tokens, family):
    lm, table = build(family), tokens(3, length=12)
    with torch.inference_mode():
        theirs = lm.model(
            input_ids=torch.from_numpy(table).long(), output_hidden_states=True, use_cache=False
        ).hidden_states
    theirs = torch.stack(theirs, dim=1).numpy()
    mine = np.concatenate([*hidden_states(lm, table, batch_size=3, layers=range(lm.n_layers + 1))])
    assert mine.shape == (3, lm.n_layers + 1, 12, 32)
    np.testing.assert_array_equal(mine, theirs)
    assert n_hooks(lm) == 0


def test_positions_batches_and_the_bos_token(build, tokens):
    """The BOS token is read and not counted; the last state alone is the default."""
    lm, table = build("llama", adds_bos=True), tokens(5, length=10)
    with_bos = torch.from_numpy(np.concatenate([np.full((5, 1), lm.bos_id), table], axis=1))
    with torch.inference_mode():
        theirs = lm.model(input_ids=with_bos.long(), output_hidden_states=True).hidden_states[-1]
    mine = np.concatenate(list(hidden_states(lm, table, batch_size=2, positions=slice(4, None))))
    assert mine.shape == (5, 1, 6, 32)
    np.testing.assert_allclose(mine[:, 0], theirs[:, 5:].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_padded_row_has_the_states_of_the_row_alone(build, tokens, adds_bos):
    lm, table = build("llama", adds_bos=adds_bos), tokens(4, length=12)
    mask = np.ones_like(table)
    mask[1, :5], mask[2, 9:], mask[3, 2:] = 0, 0, 0
    layers = range(lm.n_layers + 1)
    found = hidden_states(lm, table, batch_size=2, layers=layers, attention_mask=mask)
    states = np.concatenate(list(found))
    for row, its in enumerate(mask.astype(bool)):
        alone = next(hidden_states(lm, table[row : row + 1, its], batch_size=1, layers=layers))
        np.testing.assert_allclose(states[row][:, its], alone[0], rtol=1e-4, atol=1e-5)
        assert not states[row][:, ~its].any()


def states_of(lm, table, layer):
    with torch.inference_mode(), collected_states(lm, [layer]) as found:
        lm.model(input_ids=torch.from_numpy(table).long(), use_cache=False)
    return found[layer]


def test_a_replaced_state_changes_what_it_should_at_any_layer(build, tokens, family):
    """Another sequence's states give its logits; one's own nothing, and others nothing before."""
    lm, table, other = build(family), tokens(4, length=12), tokens(4, length=12, seed=9)
    places = torch.arange(12).expand(4, -1)
    wanted, own = _logits(lm, other), _logits(lm, table)
    positions = torch.tensor([[0], [3], [7], [11]])
    for layer in range(lm.n_layers):
        with patched_states(lm, layer, places, states_of(lm, other, layer)):
            got = _logits(lm, table)
        assert torch.equal(got, wanted)
        assert not torch.equal(got, own)
        there = states_of(lm, table, layer)[torch.arange(4)[:, None], positions]
        with patched_states(lm, layer, positions, there):
            assert torch.equal(_logits(lm, table), own)
        with patched_states(lm, layer, positions, there + 1.0 + torch.rand_like(there)):
            changed = _logits(lm, table)
        for row, position in enumerate(positions[:, 0].tolist()):
            assert torch.equal(changed[row, :position], own[row, :position])
            assert not torch.equal(changed[row, position], own[row, position])
    assert torch.equal(_logits(lm, table), own)  # and as it was


def test_a_replaced_embedding_is_a_replaced_token(build, tokens):
    """Recomputed without any hook: state 0 of rotary models is the token alone."""
    lm, table = build("llama", adds_bos=True), tokens(4, length=12)
    positions, new = torch.tensor([[2], [5], [9], [0]]), torch.tensor([[7], [8], [9], [10]])
    embedded = lm.model.get_input_embeddings()(new)
    with_token = torch.from_numpy(table).long().scatter(1, positions, new)
    bos = torch.full((4, 1), lm.bos_id)
    with patched_states(lm, 0, positions, embedded.detach()):
        got = _logits(lm, torch.cat([bos, torch.from_numpy(table).long()], dim=1))
    torch.testing.assert_close(got, _logits(lm, torch.cat([bos, with_token], dim=1)))


def test_what_cannot_be_given_is_refused_in_one_line_and_leaves_no_hooks(build, tokens):
    lm, table = build("gpt_neox"), tokens(2, length=8)
    with pytest.raises(UserError, match="no hidden state 4; it has 0 to 3"):
        hidden_states(lm, table, batch_size=2, layers=[4])
    one = torch.tensor([[0]])
    last = patched_states(lm, 3, one, torch.zeros(1, 1, 32))
    with pytest.raises(UserError, match="no hidden state 3; it has 0 to 2"), last:
        pass
    misfit = patched_states(lm, 0, one, torch.zeros(2, 1, 32))
    with pytest.raises(UserError, match="wanted"), misfit:
        pass
    beyond = patched_states(lm, 1, torch.tensor([[20]]), torch.zeros(1, 1, 32))
    with pytest.raises(UserError, match="forward is of"), beyond:
        _logits(lm, tokens(1, length=12))
    with pytest.raises(ZeroDivisionError), collected_states(lm, [0, 2]):
        raise ZeroDivisionError
    assert n_hooks(lm) == 0
    assert len(decoder_layers(lm)) == 3


# -- neurons ----------------------------------------------------------------------------------


def activations(lm, table):
    return np.concatenate(list(neuron_activations(lm, table, batch_size=2)))


def test_gated_neurons_by_hand_behind_a_bos_token(build, tokens):
    """Llama: silu(gate) times up, of what really enters each MLP; the BOS token is read."""
    lm, table = build("llama", adds_bos=True), tokens(3, length=10)
    layers, entered = lm.model.base_model.layers, []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _, args: entered.append(args[0][:, -1]))
        for layer in layers
    ]
    with_bos = np.concatenate([np.full((3, 1), lm.bos_id), table], axis=1)
    with torch.inference_mode():
        lm.model(input_ids=torch.from_numpy(with_bos).long())
        wanted = [
            torch.nn.functional.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
            for layer, x in zip(layers, entered, strict=True)
        ]
    for handle in handles:
        handle.remove()
    wanted = torch.stack(wanted, dim=1).numpy()
    np.testing.assert_allclose(activations(lm, table), wanted, rtol=1e-3, atol=1e-4)


def test_what_a_familys_matrix_makes_of_its_neurons_is_what_it_gives_in_the_model(
    build, tokens, family
):
    lm, table = build(family), tokens(3, length=8)
    matrices, found, given = output_matrices(lm), activations(lm, table), []
    assert found.shape[:2] == (3, 3)
    handle = matrices[2].register_forward_hook(lambda _, __, out: given.append(out.clone()))
    with torch.inference_mode():
        lm.model(input_ids=torch.from_numpy(table).long(), use_cache=False)
        handle.remove()
        mine = matrices[2](torch.from_numpy(found[:, 2]))
    theirs = given[0].reshape(3, -1, given[0].shape[-1])[:, -1]
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert n_hooks(lm) == 0


def test_hooks_are_gone_after_an_error_and_experts_are_refused(build, tokens, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    lm = build("gpt2")
    monkeypatch.setattr(lm.model.base_model.ln_f, "forward", fail)
    with pytest.raises(ZeroDivisionError):
        activations(lm, tokens(2, length=8))
    assert n_hooks(lm) == 0
    with pytest.raises(UserError, match=r"layer 0 has \d+ MLP output matrices"):
        activations(build("mixtral"), tokens(2, length=8))


# -- log-probabilities ------------------------------------------------------------------------


def test_logprobs_are_those_of_a_plain_forward(build, tokens, family):
    lm, table = build(family, adds_bos=family in ("llama", "bloom")), tokens(5)[:, :33]
    ids = torch.from_numpy(table).long()
    with torch.no_grad():
        logits = lm.model(input_ids=prepend_bos(lm, ids)).logits[:, -33:-1]
    logprobs = logits.double().log_softmax(dim=-1)
    own, best = logprobs.gather(2, ids[:, 1:, None]).squeeze(2), logprobs.amax(dim=-1)
    suffix = suffix_logprobs(lm, table, batch_size=2, prefix=20)
    found = (*next_tokens(lm, table, batch_size=2), suffix)
    for values, wanted in zip(found, (own, best, own[:, 19:]), strict=True):
        assert values.dtype == np.float32
        # Logits up to about 20 in float32 against float64.
        np.testing.assert_allclose(values, wanted.numpy(), atol=5e-5)
