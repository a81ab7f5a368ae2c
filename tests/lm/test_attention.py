"""Captured maps are the model's own attention, pooled; and the model is left as it was.

`test_families` holds the maps of every family against its own attention.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from tiny_families import joined, own_attention
from transformers import BertConfig, BertLMHeadModel

from mnemoscope.errors import UserError
from mnemoscope.lm import attention
from mnemoscope.lm.attention import capture_pooled, pooled_attention
from mnemoscope.lm.model import wrap_model
from mnemoscope.maps.triangle import pack_layer, pack_triangle


def capture(lm, tokens, batch_size=4):
    return joined(capture_pooled(lm, tokens, batch_size=batch_size))


def assert_is_own(lm, tokens, mean, largest):
    weights = own_attention(lm, tokens).float()
    assert torch.equal(mean, weights.mean(dim=2))
    assert torch.equal(largest, weights.amax(dim=2))


def state_of(model):
    return (
        [(id(m), m.training) for m in model.modules()],
        [len(m._forward_hooks) for m in model.modules()],
        [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")],
        len(attention._pools),
    )


@pytest.mark.parametrize("family_name", ["gpt_neox", "bloom", "falcon", "gpt_neo"])
def test_capture_leaves_no_trace_also_after_an_error_in_the_middle(build, tokens, family_name):
    lm = build(family_name)
    lm.model.train()
    lm.model.base_model.eval()  # a mixed state must come back mixed

    def fail(*_):
        raise ArithmeticError("in the middle")

    last_layer = next(m for m in lm.model.modules() if isinstance(m, torch.nn.ModuleList))[-1]
    handle = last_layer.register_forward_hook(fail)
    before = state_of(lm.model)
    with pytest.raises(ArithmeticError, match="in the middle"):
        capture(lm, tokens(2))
    assert state_of(lm.model) == before
    handle.remove()
    before = state_of(lm.model)
    for _ in capture_pooled(lm, tokens(4), batch_size=2):
        assert state_of(lm.model) == before
    lm.model.eval()
    assert_is_own(lm, tokens(2), *capture(lm, tokens(2)))


def test_a_forward_ends_early_only_where_nothing_is_missed(build, tokens):
    """And never with the head."""
    lm = build("gpt_neox")
    ended, head = [], []
    lm.model.base_model.final_layer_norm.register_forward_hook(lambda *_: ended.append(1))
    lm.model.get_output_embeddings().register_forward_hook(lambda *_: head.append(1))
    capture(lm, tokens(6), batch_size=2)
    assert len(ended) == 1  # the first batch, whole: it shows one map a layer
    assert head == []


def test_bos_is_seen_by_the_model_and_left_out_of_the_maps(build, tokens):
    lm, table = build("llama", adds_bos=True), tokens(4)
    mean, maximum = capture(lm, table)
    with_bos = np.concatenate([np.ones((4, 1), np.int32), table], axis=1)
    weights = own_attention(lm, with_bos)[..., 1:, 1:]
    assert lm.bos_id == 1
    assert mean.shape == (4, 3, 64, 64)
    assert torch.equal(mean, weights.mean(dim=2))
    assert torch.equal(maximum, weights.amax(dim=2))
    assert mean.sum(dim=-1).min() < 0.99  # what went to the BOS token is missing


@pytest.mark.parametrize("block", [None, 100])
def test_layers_are_packed_one_by_one_as_a_store_packs_them_all(monkeypatch, build, tokens, block):
    """Blocks or not, with a BOS token, padded rows and an error's layer as without."""
    if block:
        monkeypatch.setattr(attention, "WHOLE_QUERIES", 8)
        monkeypatch.setattr(attention, "BLOCK_BYTES", {"cpu": 4 * block * 16, "": 0})
    lm, rows, mask = build("mistral", adds_bos=True), tokens(5), np.ones((5, 64), dtype=int)
    mask[1, 50:], mask[4, :20] = 0, 0
    options = {"batch_size": 3, "attention_mask": mask}
    whole = joined(capture_pooled(lm, rows, **options))
    packed = joined(capture_pooled(lm, rows, **options, pack=pack_layer))
    for one, maps in zip(packed, whole, strict=True):
        assert torch.equal(one, pack_triangle(maps).half())
    alone = next(capture_pooled(lm, rows[1:2, :50], batch_size=1))
    torch.testing.assert_close(whole[0][1, :, :50, :50], alone.mean[0], atol=1e-6, rtol=0)


def test_maps_may_take_part_in_a_gradient(build, tokens):
    mean, _, _ = next(capture_pooled(build("gpt_neox"), tokens(2), batch_size=2))
    scale = torch.ones((), requires_grad=True)
    (mean * scale).sum().backward()
    assert scale.grad == mean.sum()


def test_two_threads_capture_two_models_at_once_and_do_not_mix(build, tokens):
    """Every attention of either waits until the other computes one too."""
    models = [build("llama"), build("llama", num_hidden_layers=3, num_attention_heads=2)]
    both, left = Barrier(2, timeout=60), [3, 3]

    def meet(which: int):
        def wait(*_):
            if left[which]:
                left[which] -= 1
                both.wait()

        return wait

    for which, lm in enumerate(models):
        for layer in lm.model.base_model.layers:
            layer.self_attn.register_forward_pre_hook(meet(which))
    before = [state_of(lm.model) for lm in models]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda lm: capture(lm, tokens(2)), models))
    assert left == [0, 0]
    assert [state_of(lm.model) for lm in models] == before
    for lm, maps in zip(models, found, strict=True):
        assert_is_own(lm, tokens(2), *maps)
    twice = pooled_attention(models[0])
    with pooled_attention(models[0]), pytest.raises(RuntimeError, match="already being"), twice:
        pass
    assert not attention._pools


@pytest.mark.parametrize("whole", [128, 8])
def test_attention_that_cannot_be_pooled_is_refused_by_layer(monkeypatch, build, tokens, whole):
    monkeypatch.setattr(attention, "WHOLE_QUERIES", whole)
    broken = build("gpt_neox")
    with torch.no_grad():
        broken.model.gpt_neox.layers[1].attention.query_key_value.bias.fill_(float("nan"))
    bert = BertConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=80,
    )  # fmt: skip
    for lm, words in (
        (broken, r"gpt_neox: non-finite attention in layer 1 .*float32"),
        (dataclasses.replace(build("llama"), n_layers=5), "attention of 3 of its 5 layers"),
        (wrap_model(BertLMHeadModel(bert), name="bert"), r"layer 0 .* looks at later tokens"),
    ):
        with pytest.raises(UserError, match=words):
            capture(lm, tokens(2))


def test_gpt2_that_upcasts_its_attention_is_captured_from_its_own_code(build, tokens):
    lm = build("gpt2", reorder_and_upcast_attn=True)
    assert lm.attention_route == "hooks"
    assert_is_own(lm, tokens(2), *capture(lm, tokens(2)))
