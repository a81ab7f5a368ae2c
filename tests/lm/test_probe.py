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


def forward(lm, tokens, **options):
    ids = prepend_bos(lm, torch.as_tensor(tokens).long())
    with torch.inference_mode():
        return lm.model(input_ids=ids, use_cache=False, **options)


def _logits(lm, tokens):
    """Of the tokens themselves, behind a BOS token where the model has one."""
    return forward(lm, tokens).logits[:, len(lm.before) :]


def test_states_are_those_of_output_hidden_states(lm, tokens):
    """The BOS token is read and not counted; the last state alone is the default."""
    table = tokens(5, length=12)
    theirs = torch.stack(forward(lm, table, output_hidden_states=True).hidden_states, dim=1)
    theirs = theirs[:, :, len(lm.before) :].numpy()
    mine = np.concatenate([*hidden_states(lm, table, batch_size=5, layers=range(lm.n_layers + 1))])
    assert mine.shape == (5, lm.n_layers + 1, 12, 32)
    np.testing.assert_array_equal(mine, theirs)
    last = np.concatenate([*hidden_states(lm, table, batch_size=2, positions=slice(4, None))])
    np.testing.assert_allclose(last[:, 0], theirs[:, -1, 4:], rtol=1e-4, atol=1e-5)
    assert n_hooks(lm) == 0


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
    with collected_states(lm, [layer]) as found:
        forward(lm, table)
    return found[layer][:, len(lm.before) :]


def test_a_replaced_state_changes_what_it_should_at_any_layer(lm, tokens):
    """Another sequence's states give its logits; one's own nothing, and others nothing before."""
    table, other = tokens(4, length=12), tokens(4, length=12, seed=9)
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


def test_what_cannot_be_given_is_refused_in_one_line_and_leaves_no_hooks(build, tokens):
    lm, table = build("gpt_neox"), tokens(2, length=8)
    with pytest.raises(UserError, match="no hidden state 4; it has 0 to 3"):
        hidden_states(lm, table, batch_size=2, layers=[4])
    for layer, position, n, words in (
        (3, 0, 1, "no hidden state 3; it has 0 to 2"),
        (0, 0, 2, "wanted"),
        (1, 20, 1, "forward is of"),
    ):
        patch = patched_states(lm, layer, torch.tensor([[position]]), torch.zeros(n, 1, 32))
        with pytest.raises(UserError, match=words), patch:
            _logits(lm, tokens(1, length=12))
    with pytest.raises(ZeroDivisionError), collected_states(lm, [0, 2]):
        raise ZeroDivisionError
    assert n_hooks(lm) == 0
    assert len(decoder_layers(lm)) == 3


def activations(lm, table):
    return np.concatenate(list(neuron_activations(lm, table, batch_size=2)))


def test_what_a_familys_matrix_makes_of_its_neurons_is_what_it_gives_in_the_model(lm, tokens):
    table = tokens(3, length=8)
    matrices, found, given = output_matrices(lm), activations(lm, table), []
    assert found.shape[:2] == (3, 3)
    handle = matrices[2].register_forward_hook(lambda _, __, out: given.append(out.clone()))
    forward(lm, table)
    handle.remove()
    with torch.inference_mode():
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


def test_logprobs_are_those_of_a_plain_forward(lm, tokens):
    table = tokens(5)[:, :33]
    logprobs = _logits(lm, table)[:, :-1].double().log_softmax(dim=-1)
    wanted = torch.from_numpy(table[:, 1:, None]).long()
    own, best = logprobs.gather(2, wanted).squeeze(2), logprobs.amax(dim=-1)
    suffix = suffix_logprobs(lm, table, batch_size=2, prefix=20)
    found = (*next_tokens(lm, table, batch_size=2), suffix)
    for values, wanted in zip(found, (own, best, own[:, 19:]), strict=True):
        assert values.dtype == np.float32
        # Logits up to about 20 in float32 against float64.
        np.testing.assert_allclose(values, wanted.numpy(), atol=5e-5)


def test_of_places_that_nobody_reads_the_last_mlp_is_not_asked(build, tokens):
    lm, table = build("llama"), tokens(4, length=12)
    whole = _logits(lm, table)[:, 7:-1].log_softmax(dim=-1)
    wanted = whole.gather(2, torch.as_tensor(table[:, 8:]).long()[..., None])[..., 0]
    down, asked = decoder_layers(lm)[-1].mlp.down_proj, []
    own = down.forward
    down.forward = lambda state: asked.append(state.shape[1]) or own(state)
    assert np.allclose(suffix_logprobs(lm, table, batch_size=4, prefix=8), wanted, atol=1e-5)
    handle = down.register_forward_pre_hook(lambda _module, args: None)
    assert np.allclose(suffix_logprobs(lm, table, batch_size=4, prefix=8), wanted, atol=1e-5)
    handle.remove()
    assert asked == [4, 11]  # whoever looks inside sees all places
    assert "forward" not in vars(decoder_layers(lm)[-1].mlp)
