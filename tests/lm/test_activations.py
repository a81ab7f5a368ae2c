"""Neurons' activations against the MLPs computed by hand, in every family; hooks are removed."""

import numpy as np
import pytest
import torch
from tiny_families import n_hooks

from mnemoscope.errors import UserError
from mnemoscope.lm.probe import neuron_activations, output_matrices


def _all(lm, table, **arguments):
    return np.concatenate(list(neuron_activations(lm, table, batch_size=2, **arguments)))


def test_the_first_layers_neurons_by_hand(build, tokens):
    """GPT-NeoX adds attention and MLP side by side, so layer 0 reads the embedding alone."""
    lm, table = build("gpt_neox"), tokens(5, length=10)
    layer = lm.model.base_model.layers[0]
    with torch.inference_mode():
        state = lm.model.base_model.embed_in(torch.from_numpy(table[:, -1]).long())
        mlp = layer.mlp
        wanted = mlp.act(mlp.dense_h_to_4h(layer.post_attention_layernorm(state)))
    np.testing.assert_allclose(_all(lm, table)[:, 0], wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_gated_neurons_by_hand_behind_a_bos_token(build, tokens):
    """Llama: silu(gate) times up, of what really enters each MLP; the BOS token is read."""
    lm, table = build("llama", adds_bos=True), tokens(3, length=10)
    entered = []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _, args: entered.append(args[0][:, -1]))
        for layer in lm.model.base_model.layers
    ]
    with_bos = np.concatenate([np.full((3, 1), lm.bos_id), table], axis=1)
    with torch.inference_mode():
        lm.model(input_ids=torch.from_numpy(with_bos).long())
        wanted = [
            torch.nn.functional.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
            for layer, x in zip(lm.model.base_model.layers, entered, strict=True)
        ]
    for handle in handles:
        handle.remove()
    found = _all(lm, table)
    np.testing.assert_allclose(found, torch.stack(wanted, dim=1).numpy(), rtol=1e-3, atol=1e-4)


def test_every_family_has_one_matrix_a_layer_and_gives_its_neurons(build, tokens, family):
    lm, table = build(family), tokens(3, length=8)
    matrices = output_matrices(lm)
    found = _all(lm, table)
    assert found.shape[:2] == (3, 3)
    assert found.shape[2] > 32 or family not in ("gpt_neox", "llama", "gpt2")
    # what the matrix makes of them at the last token is what it gives in the model
    given = []
    handle = matrices[2].register_forward_hook(lambda _, __, out: given.append(out.clone()))
    with torch.inference_mode():
        lm.model(input_ids=torch.from_numpy(table).long(), use_cache=False)
        handle.remove()
        mine = matrices[2](torch.from_numpy(found[:, 2]))
    theirs = given[0].reshape(3, -1, given[0].shape[-1])[:, -1]
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert n_hooks(lm) == 0


def test_hooks_are_gone_after_an_error(build, tokens, monkeypatch):
    lm = build("gpt2")

    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(lm.model.base_model.ln_f, "forward", fail)
    with pytest.raises(ZeroDivisionError):
        _all(lm, tokens(2, length=8))
    assert n_hooks(lm) == 0


def test_experts_are_refused_in_one_line(build, tokens):
    with pytest.raises(UserError, match=r"layer 0 has \d+ MLP output matrices"):
        neuron_activations(build("mixtral"), tokens(2, length=8), batch_size=2)
