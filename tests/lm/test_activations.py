"""Neurons' activations against the MLPs computed by hand, in every family; hooks are removed."""

import numpy as np
import pytest
import torch
from tiny_families import n_hooks

from mnemoscope.errors import UserError
from mnemoscope.lm.probe import neuron_activations, output_matrices


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
