"""A part of the twin in the model does what that part does in the twin, and leaves no trace."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_families import NAMED
from tiny_families import make_model, named, random_tokens

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import greedy_tokens
from mnemoscope.lm.graft import (
    PLACES,
    Anatomy,
    Pair,
    _like,
    _orthonormal,
    graft_parts,
    grafted,
    scan_patched,
)
from mnemoscope.lm.graft import (
    patched_activations as patched,
)
from mnemoscope.lm.model import wrap_model
from mnemoscope.lm.probe import suffix_logprobs
from refusals import refusal

IDS = torch.from_numpy(random_tokens(2, 24)).long()


def changed(model, wanted=lambda _: True, seed=0):
    """A copy whose weights of these names differ a little."""
    twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if wanted(name):
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return twin


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def logits_with(model, twin, parts):
    with grafted(model, twin, parts):
        return logits(model)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def is_same(before, model):
    return all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.fixture(scope="module", params=named(NAMED))
def pair(request):
    model = make_model(request.param)
    return model, changed(model)


def test_all_parts_make_the_twin_and_none_the_model_bit_for_bit(pair):
    model, twin = pair
    before, own = weights(model), logits(model)
    for parts in ("all", graft_parts(model)):
        with grafted(model, twin, parts):
            assert torch.equal(logits(model), logits(twin))
            assert is_same(weights(twin), model)
    assert torch.equal(logits_with(model, twin, []), own)
    assert is_same(before, model)
    counted = {name: torch.zeros(weight.shape) for name, weight in model.named_parameters()}
    for name, axis, places in (one for part in Anatomy(model).parts.values() for one in part):
        rows = counted[name].movedim(axis, 0)
        rows[slice(None) if places is None else places] += 1
    assert all(bool((one == 1).all()) for one in counted.values())  # each weight is in one part


def test_queries_and_keys_alone_decide_where_a_layer_looks(pair):
    """Outside oracle: the maps of the twin. Values and what follows change no map of theirs."""
    model, twin = pair
    lm = wrap_model(model)

    def first_map(one):
        return next(capture_pooled(one, IDS.numpy(), batch_size=2)).mean[:, 0]

    theirs, own = first_map(wrap_model(twin)), first_map(lm)
    with grafted(model, twin, ["embedding", "norms", "layers.0.norms", "layers.0.qk"]):
        assert torch.equal(first_map(lm), theirs)
    for part in ("layers.0.values", "layers.0.output", "layers.0.mlp"):
        with grafted(model, twin, part):
            assert torch.equal(first_map(lm), own)
    with grafted(model, twin, "layers.0.qk"):
        assert not torch.equal(first_map(lm), own)


@pytest.mark.parametrize("of", ["gpt2", "gpt_neox", "codegen", "llama", "phi3", "bloom"])
def test_a_head_owns_its_map_and_no_other(of):
    """With the twin's head in the model, that head alone looks elsewhere; grouped keys stay."""
    model = make_model(of)
    twin, lm = changed(model), wrap_model(model)

    def heads():
        found = next(capture_pooled(lm, IDS.numpy(), batch_size=2, keep_heads=True)).heads
        return found[:, : lm.n_heads]

    own = heads()
    with grafted(model, twin, "layers.0.heads.1"):
        differs = (heads() != own).flatten(2).any(dim=2).any(dim=0)
    assert differs.tolist() == [False, True, False, False]


HEADS = [f"layers.0.heads.{head}" for head in range(4)]
BLOCKS = [f"layers.2.neurons.{block}/4" for block in (1, 2, 3, 4)]
ATTENTION = ["layers.0.qk", "layers.0.values", "layers.0.output"]


@pytest.mark.parametrize(
    ("of", "parts", "whole"),
    [
        *((of, HEADS, ATTENTION) for of in ("gpt2", "codegen", "gpt_neox", "opt")),
        ("llama", BLOCKS, "layers.2.mlp"),
    ],
)
def test_heads_and_blocks_of_neurons_are_all_of_attention_and_mlp(of, parts, whole):
    """Where keys are not grouped; but for the bias after attention, which is of no head."""
    model = make_model(of)
    twin = changed(model, lambda name: not name.endswith("bias"))
    assert torch.equal(logits_with(model, twin, parts), logits_with(model, twin, whole))


def test_complements_are_sums_of_parts_and_the_first_block_of_neurons_differs_most():
    """All but a part is that part of the model in the twin."""
    model = make_model("llama")
    twin, changes = changed(model), []
    there = logits_with(twin, model, "layers.1.mlp")
    assert torch.equal(logits_with(model, twin, "all but layers.1.mlp"), there)
    for block in (1, 4):
        found = change_by_name(model, twin, f"layers.2.neurons.{block}/4")
        changes.append(sum(float(change.square().sum()) for change, _ in found.values()))
    assert changes[0] > changes[1] > 0


@pytest.mark.parametrize(("of", "width"), [("llama", 32), ("llama", 16), ("gpt2", 32)])
def test_neurons_are_found_where_the_mlp_is_as_wide_as_the_model_or_half_as_wide(of, width):
    """By hand: a neuron's weights are a column of what reads it, and a row of what makes it."""
    options = {"intermediate_size": width} if of == "llama" else {"n_inner": width}
    model = make_model(of, **options)
    twin = changed(model, lambda name: "mlp" in name)
    for name, (change, _) in change_by_name(model, twin, "layers.0.neurons.1/4").items():
        is_other = change != 0
        if "0.mlp" not in name:
            assert not is_other.any()
        elif change.ndim == 2:
            axis = 1 if "down_proj" in name or name.endswith("c_fc.weight") else 0
            is_other = is_other.movedim(axis, 0).flatten(1)
            assert is_other.all(dim=1).sum() == is_other.any(dim=1).sum() == width // 4
        else:
            assert int(is_other.sum()) == (width // 4 if "c_fc" in name else 0)


CONTROLS = ("random", "spectrum", "permuted")


def change_by_name(model, twin, part, **options):
    """What a graft adds to each weight, and what the twin's would; weights it leaves are zero."""
    before = weights(model)
    with grafted(model, twin, part, **options):
        now = weights(model)
    assert is_same(before, model)
    theirs = weights(twin)
    return {name: (now[name] - own, theirs[name] - own) for name, own in before.items()}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_change_that_knows_nothing_of_the_twin_has_its_norm(control):
    model = make_model("gpt2")
    twin = changed(model)
    found, again, other = (
        change_by_name(model, twin, "layers.0.mlp", control=control, seed=seed)
        for seed in (4, 4, 5)
    )
    for name, (change, theirs) in found.items():
        assert torch.equal(change, again[name][0])
        if not name.startswith("transformer.h.0.mlp"):
            assert not change.any()
            continue
        assert not torch.equal(change, other[name][0])
        torch.testing.assert_close(change.norm(), theirs.norm(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("control", [*CONTROLS, "flip", "twin"])
def test_a_change_has_one_direction_at_every_size(control):
    """That of the twin goes straight to it, that of `flip` straight away from it."""
    model = make_model("llama")
    twin = changed(model)
    parts = ["layers.0.qk", "norms"]
    walk = Pair(model, twin).walk(parts, control=control, seed=3)
    once = change_by_name(model, twin, parts, control=control, seed=3)
    before = weights(model)
    for share in (0.125, 1.0, 2.5):
        at_once = change_by_name(model, twin, parts, control=control, seed=3, share=share)
        with walk(share):
            now = weights(model)
        assert is_same(before, model)
        for name, own in before.items():
            change, theirs = once[name]
            if change.any() and control in ("flip", "twin"):
                change = theirs if control == "twin" else -theirs
            for found in (now[name] - own, at_once[name][0]):
                torch.testing.assert_close(found, share * change, rtol=1e-3, atol=1e-5)


def test_the_same_spectrum_with_other_singular_vectors():
    """Outside oracle: numpy's decomposition. The directions are uniform: their overlaps are."""
    model = make_model("llama")
    twin = changed(model, lambda name: "layers.0.mlp" in name)
    with torch.no_grad():  # of rank 2: a Gaussian has every rank
        weight = twin.model.layers[0].mlp.up_proj.weight
        low = torch.randn(weight.shape[0], 2) @ torch.randn(2, weight.shape[1])
        weight.copy_(model.model.layers[0].mlp.up_proj.weight + low)
    found = change_by_name(model, twin, "layers.0.mlp", control="spectrum")
    for name, (change, theirs) in found.items():
        if "layers.0.mlp" in name:
            own, wanted = (np.linalg.svd(one.numpy().astype(float)) for one in (change, theirs))
            np.testing.assert_allclose(own[1], wanted[1], rtol=1e-3, atol=1e-4)
            assert abs(own[0][:, 0] @ wanted[0][:, 0]) < 0.6
    stack = torch.randn(3, 8, 5)
    made = _like(stack, "spectrum", torch.Generator().manual_seed(0))
    for one, other in zip(made.numpy(), stack.numpy(), strict=True):
        wanted = np.linalg.svd(other, compute_uv=False)
        np.testing.assert_allclose(np.linalg.svd(one, compute_uv=False), wanted, rtol=1e-4)


def test_singular_vectors_are_uniform():
    """Of a Haar matrix of size n each entry has mean 0, variance 1/n and no favoured sign."""
    generator = torch.Generator().manual_seed(0)
    drawn = _orthonormal((4000, 6, 6), generator)
    is_one = torch.eye(6).expand(4000, 6, 6)
    torch.testing.assert_close(drawn.mT @ drawn, is_one, rtol=0, atol=1e-5)
    assert float(drawn.mean(dim=0).abs().max()) < 5 / (6 * 4000) ** 0.5
    variance = drawn.square().mean(dim=0)
    torch.testing.assert_close(variance, torch.full((6, 6), 1 / 6), rtol=0.1, atol=0)
    assert float(drawn.diagonal(dim1=1, dim2=2).sum(dim=1).mean().abs()) < 0.1  # tr: mean 0, var 1


def test_permuted_changes_have_the_twins_rows_and_columns_in_another_order():
    """Those of a vector go up or down: a shift of all gains must be found in its control too."""
    model, signs = make_model("llama"), set()
    twin = changed(model)
    for seed in range(12):
        found = change_by_name(model, twin, "norms", control="permuted", seed=seed)
        change, theirs = found["model.norm.weight"]
        sign = float(change.sum().sign() * theirs.sum().sign())
        assert not torch.equal(change, sign * theirs)
        entries = (one.sort().values for one in (change, sign * theirs))
        torch.testing.assert_close(*entries, rtol=0, atol=1e-5)
        signs.add(sign)
    assert signs == {-1.0, 1.0}
    found = change_by_name(model, twin, "layers.0.mlp", control="permuted")
    for change, theirs in (both for name, both in found.items() if "layers.0.mlp" in name):
        assert not torch.equal(change, theirs)
        for axis in (0, 1):
            norms = (one.norm(dim=axis).sort().values for one in (change, theirs))
            torch.testing.assert_close(*norms, rtol=1e-3, atol=1e-4)
        entries = (one.flatten().sort().values for one in (change, theirs))
        torch.testing.assert_close(*entries, rtol=0, atol=1e-5)


@pytest.mark.parametrize("control", CONTROLS)
def test_in_half_precision_the_norm_is_that_after_rounding(control):
    """A twin less than half a step of bfloat16 away: noise of that size would be rounded off."""
    model = make_model("llama").to(torch.bfloat16)
    twin, before = copy.deepcopy(model), weights(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in twin.parameters():
            steps = torch.rand(weight.shape, generator=generator) < 0.3
            weight.copy_(torch.where(steps, weight.float() * 1.008, weight.float()))
    theirs = weights(twin)
    for share in (1.0, 2.0):
        with grafted(model, twin, "layers.0.mlp", control=control, share=share):
            for name in (one for one in before if "layers.0.mlp" in one):
                change, wanted = (
                    (one[name].float() - before[name].float()).norm()
                    for one in (weights(model), theirs)
                )
                assert float(change / wanted) == pytest.approx(share, rel=0.05)
    assert is_same(before, model)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_single_number_is_changed_as_a_vector_of_one(control):
    """Some families scale by weights without an axis."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        found = _like(torch.tensor(0.5), control, generator)
        assert found.shape == ()
        assert float(found.abs()) == pytest.approx(0.5)


def test_parts_are_found_where_no_gradient_is_kept_and_a_training_model_stays_one():
    model = make_model("llama").train()
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            assert graft_parts(model)
    assert all(module.training for module in model.modules())


def test_both_directions_take_the_same_weights():
    """A twin whose queries are zero reads its keys nowhere; the model does."""
    model = make_model("gpt_neox")
    twin = changed(model)
    with torch.no_grad():
        for layer in twin.gpt_neox.layers:
            layer.attention.query_key_value.weight.zero_()
            layer.attention.query_key_value.bias.zero_()
    parts = [Pair(*both).anatomy.parts["layers.0.qk"] for both in ((model, twin), (twin, model))]
    for ours, theirs in zip(*parts, strict=True):
        assert torch.equal(ours.places, theirs.places)


def test_buffers_that_are_saved_go_with_their_part():
    """A router's correction is no parameter; without it the twin's experts are others."""
    model = make_model("deepseek_v3", first_k_dense_replace=0)
    twin = changed(model)
    for name, buffer in twin.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(logits_with(model, twin, "all"), logits(twin))


def test_the_model_is_whole_again_after_an_error():
    model = make_model("gpt2")
    twin, before = changed(model), weights(model)
    parts = ["qk", "layers.0-1.mlp"]
    with pytest.raises(ZeroDivisionError, match="False"), grafted(model, twin, parts):
        raise ZeroDivisionError(is_same(before, model))
    assert is_same(before, model)


def with_lora(base, **options):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, **options)
    model = peft.get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_()
    return model


def test_an_adapter_off_part_by_part_is_the_base_model():
    base = make_model("llama")
    model, plain = with_lora(base, target_modules=["q_proj", "v_proj", "down_proj"]), logits(base)
    adapted = logits(model)
    assert not torch.equal(adapted, plain)
    for parts, wanted in (
        ("all", plain),
        (["qk", "values", "mlp"], plain),
        (["output", "norms", "embedding"], adapted),
    ):
        assert torch.equal(logits_with(model, None, parts), wanted)
    assert not torch.equal(logits_with(model, None, "layers.0.values"), adapted)


def test_half_of_an_adapter_is_half_of_its_change():
    base = make_model("gpt2")
    model = with_lora(base, target_modules=["c_attn"], fan_in_fan_out=True)

    def change():
        module = model.base_model.model.transformer.h[0].attn.c_attn
        return module.get_delta_weight("default").detach().clone()

    whole = change()
    with grafted(model, None, "all", share=0.5):
        torch.testing.assert_close(change(), whole / 2)
    with grafted(model, None, "layers.0.qk"):  # columns: queries, keys, values
        assert not change()[:, :64].any()
        assert torch.equal(change()[:, 64:], whole[:, 64:])
    for more in ({"use_dora": True}, {"trainable_token_indices": [1, 2]}, {"bias": "all"}):
        adapted = with_lora(base, target_modules=["c_attn"], fan_in_fan_out=True, **more)
        with pytest.raises(UserError, match="DoRA"), grafted(adapted, None, "all"):
            pass


def test_a_head_of_an_adapter_reads_nothing_where_the_output_is_adapted():
    """PEFT's own change of the weights: without the head's columns, and all heads are all of it."""
    model = with_lora(make_model("llama"), target_modules=["o_proj"])
    module = model.base_model.model.model.layers[0].self_attn.o_proj
    whole = module.get_delta_weight("default").detach().clone()
    with grafted(model, None, "layers.0.heads.1"):
        now = module.get_delta_weight("default").detach()
    assert not now[:, 8:16].any()
    is_own = torch.arange(32) // 8 == 1
    assert torch.equal(now[:, ~is_own], whole[:, ~is_own])
    base = make_model("gpt2")
    both = with_lora(base, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True)
    with grafted(both, None, HEADS):
        for module in both.base_model.model.transformer.h[0].attn.children():
            if hasattr(module, "get_delta_weight"):
                assert not module.get_delta_weight("default").any()


def test_an_adapter_of_the_head_is_no_embedding():
    base = make_model("llama")
    model = with_lora(base, target_modules=["lm_head", "embed_tokens"])
    assert graft_parts(model) == graft_parts(base)
    adapted = {name: with_lora(base, target_modules=[name]) for name in ("lm_head", "embed_tokens")}
    for part, name in (("unembedding", "lm_head"), ("embedding", "embed_tokens")):
        own = logits(adapted[name])
        for other in ("embedding", "unembedding"):
            wanted = logits(base) if other == part else own
            assert torch.equal(logits_with(adapted[name], None, other), wanted)


def test_what_the_twin_has_at_a_layer_makes_the_twin_from_there_on():
    """Residual of the twin and the twin's later layers are the twin; its parts add up to it."""
    model = make_model("llama")
    twin = changed(model)
    later = ["layers.1-2", "norms", "unembedding"]
    with grafted(model, twin, later), patched(model, twin, "residual", 1):
        assert torch.equal(logits(model), logits(twin))
    for place, part in (("attention", "layers.0.self_attn"), ("mlp", "layers.0.mlp")):
        other = changed(model, lambda name, part=part: part in name)
        with patched(model, other, place, 0):
            assert torch.equal(logits(model), logits(other))


@pytest.mark.parametrize(
    ("of", "attention", "mlp"),
    [
        ("llama", "o_proj", "down_proj"),
        ("openai-gpt", "attn.c_proj", "mlp.c_proj"),
        ("bloom", "self_attention.dense", "dense_4h_to_h"),
        ("mpt", "out_proj", "down_proj"),
        ("bert", "1.attention.output.dense", "1.output.dense"),
    ],
)
def test_a_patch_takes_over_what_attention_or_mlp_adds_and_no_residual_stream(of, attention, mlp):
    """A twin that adds nothing there, and differs everywhere, is the model that adds nothing."""
    model = make_model(of)
    for place, last in (("attention", attention), ("mlp", mlp)):
        silent = [copy.deepcopy(model), changed(model)]
        for one in silent:
            module = next(m for n, m in one.named_modules() if "1" in n and n.endswith(last))
            with torch.no_grad():
                for weight in module.parameters():
                    weight.zero_()
        with patched(model, silent[1], place, 1):
            assert torch.equal(logits(model), logits(silent[0]))
        assert not torch.equal(logits(model), logits(silent[0]))


def test_a_patch_at_late_positions_changes_nothing_before(pair):
    model, twin = pair
    own = logits(model)
    for place in PLACES:
        with patched(model, twin, place, 1, positions=[10, 11]):
            found = logits(model)
        # Of experts, how many tokens are multiplied at once decides the last bits.
        near = 1e-5 if hasattr(model.config, "num_experts") else 0.0
        torch.testing.assert_close(found[:, :10], own[:, :10], rtol=0, atol=near)
        assert not torch.equal(found[:, 10], own[:, 10])
        assert torch.equal(logits(model), own)


def test_the_ids_are_found_whatever_stands_before_them():
    model, others = make_model("llama"), IDS.flip(0, 1)
    twin, mask = changed(model), torch.ones_like(IDS)
    with torch.no_grad(), patched(model, twin, "mlp", 1, tokens=others):
        wanted = model(input_ids=IDS, attention_mask=mask).logits
        assert torch.equal(model(attention_mask=mask, input_ids=IDS).logits, wanted)
        assert torch.equal(model(IDS, mask).logits, wanted)


def memorized(bos_id=None):
    """A model, and sequences that it continues: (6, 16) tokens of which 8 are its own."""
    lm = replace(wrap_model(make_model("llama"), bos="never", fingerprint=""), bos_id=bos_id)
    prefixes = torch.from_numpy(random_tokens(6, 8)).long()
    tokens = torch.cat([prefixes, greedy_tokens(lm, prefixes, 8)[0]], dim=1)
    return lm, tokens.numpy()


def scanned(lm, twin, tokens, *where, **options):
    model = replace(lm, model=twin)
    found = scan_patched(lm, model, tokens, *where, batch_size=4, prefix=8, **options)
    return [np.concatenate(one) for one in zip(*found, strict=True)]


def test_a_scan_under_a_patch_is_that_of_what_the_patch_makes():
    """What enters layer 1 is the twin's: all of a twin that differs below, nothing of one above.

    The control holds what the twin has on other sequences.
    """
    lm, tokens = memorized()
    below = changed(lm.model, lambda name: "layers.0" in name or "embed" in name)
    above = changed(lm.model, lambda name: "layers.1" in name or "layers.2" in name)
    for twin, like, is_memorized in ((above, lm.model, True), (below, below, False)):
        survives, gap, logprob = scanned(lm, twin, tokens, "residual", 1)
        wanted = suffix_logprobs(replace(lm, model=like), tokens, batch_size=4, prefix=8)
        np.testing.assert_allclose(logprob, wanted.mean(axis=1), atol=1e-6)
        assert survives.all() == is_memorized
        assert (gap > 0).all()
    others = tokens[[3, 4, 5, 0, 1, 2]]
    _, _, logprob = scanned(lm, below, tokens, "residual", 1, others=others)
    with torch.no_grad():
        logits = below(input_ids=torch.from_numpy(others[:, :-1])).logits[:, 7:]
    wanted = torch.from_numpy(tokens[:, 8:])[..., None]
    by_hand = logits.log_softmax(dim=-1).gather(2, wanted).squeeze(2).mean(dim=1)
    np.testing.assert_allclose(logprob, by_hand.numpy(), atol=1e-5)


@pytest.mark.parametrize("bos_id", [None, 1])
def test_a_patch_at_the_last_token_that_is_read_breaks_the_last_alone(bos_id):
    lm, tokens = memorized(bos_id)
    twin = changed(lm.model)
    survives, _, _ = scanned(lm, twin, tokens, "residual", 2, [14])
    before = [] if bos_id is None else [bos_id]
    read = torch.tensor([[*before, *row[:-1]] for row in tokens.tolist()])
    with patched(lm.model, twin, "residual", 2, [14 + len(before)]), torch.no_grad():
        best = lm.model(input_ids=read).logits[:, -8:].argmax(dim=-1).numpy()
    assert (best[:, :-1] == tokens[:, 8:-1]).all()
    assert survives.tolist() == (best[:, -1] == tokens[:, -1]).tolist()
    assert not survives.all()


def test_parts_that_are_not_there_and_models_that_cannot_lend_them_are_refused():
    model = make_model("llama")
    twin, away = changed(model), changed(model)
    away.to("meta")
    narrow = make_model("llama", hidden_size=16)
    rope = {"rope_type": "default", "rope_theta": 1.0e6}
    turned = make_model("llama", rope_parameters=rope)
    for other, part, words in (
        (twin, "layers.0.kq", "Did you mean"),
        (twin, "layers.9.mlp", "the model has no such part"),
        (twin, "layers.0.heads.4", "the model has no such part"),
        (twin, "layers.0.neurons.9/8", "the model has no such part"),
        (twin, "all but nothing", "the model has no such part"),
        (narrow, "qk", "in the model and"),
        (None, "qk", "no LoRA adapter"),
        (turned, "qk", "rope_parameters is"),
    ):
        with pytest.raises(UserError, match=words), grafted(model, other, part):
            pass
    assert "offloaded" in refusal(graft_parts, away)
    for share in (0.0, -1.0, float("inf")):
        with pytest.raises(UserError, match="positive"), grafted(model, twin, "qk", share=share):
            pass
    with pytest.raises(UserError, match="one object"), patched(model, model, "mlp", 0):
        pass
    for options, words in (
        ({"positions": [40]}, "position 40 of 24"),
        ({"tokens": torch.ones(1, 3, dtype=torch.long)}, r"shape \(1, 3\) for an input of"),
    ):
        with (
            pytest.raises(UserError, match=words),
            patched(model, twin, "mlp", 0, **options),
        ):
            logits(model)
    with (
        pytest.raises(UserError, match="use_cache=False"),
        patched(model, twin, "mlp", 0),
    ):
        model.generate(IDS, max_new_tokens=2)
