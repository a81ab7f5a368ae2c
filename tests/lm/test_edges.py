"""What edges move and what logits owe to them: finite differences, and the model itself."""

from contextlib import contextmanager

import pytest
import torch
from tiny_families import FAMILIES, MORE_FAMILIES, named, random_tokens

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.edges import contributions, moved_values, total_effects, value_norms
from mnemoscope.lm.intervene import scaled_attention
from mnemoscope.lm.model import attention_modules, last_logits, prepend_bos

T, PREFIX, LAYERS = 12, 5, 3
NAMES = sorted({*FAMILIES, *MORE_FAMILIES})
STEP = 2e-2  # most families normalize in float32: a smaller step drowns in its rounding
PROJECTIONS = {"o_proj", "dense", "out_proj", "c_proj"}
EXPERTS = ("gpt_oss", "mixtral")
SMOOTH = {
    "opt": {"activation_function": "gelu"},
    **{name: {"num_local_experts": 2, "num_experts_per_tok": 2} for name in EXPERTS},
}


def smooth(build, name):
    """A tiny model without kinks, of small weights; every other one with BOS."""
    changes = {"initializer_range": 0.1} | SMOOTH.get(name, {})
    lm = build(name, adds_bos=NAMES.index(name) % 2 == 1, **changes)
    if name not in EXPERTS:  # their grouped products are not made in float64
        lm.model.double()
    return lm


def logits_of(lm, tokens, factors):
    """Of the next token at every query from the end of the prefix on, (n, suffix)."""
    table = torch.from_numpy(tokens).long()
    with torch.no_grad(), scaled_attention(lm, factors):
        logits = last_logits(lm, prepend_bos(lm, table[:, :-1]), T - PREFIX)
    return logits.gather(2, table[:, PREFIX:, None])[..., 0].double()


def slopes(lm, tokens, direction):
    """Central differences of the logits along a direction of edges, extrapolated to no step."""

    def central(step):
        ends = [logits_of(lm, tokens, 1.0 + one * direction) for one in (step, -step)]
        return (ends[0] - ends[1]) / (2 * step)

    return (4 * central(STEP / 2) - central(STEP)) / 3


def directions(*queries):
    """One edge; a third of the edges of these queries, by random signs."""
    generator = torch.Generator().manual_seed(3)
    one = torch.zeros(LAYERS, T - 1, T - 1, dtype=torch.float64)
    one[1, 8, 3] = 1.0
    yield one
    signs = torch.randint(-1, 2, one.shape, generator=generator)
    kept = torch.zeros_like(one)
    kept[:, list(queries or range(T - 1))] = 1.0
    yield signs * kept


def all_of(capture, lm, tokens, **options):
    return torch.cat(list(capture(lm, tokens, batch_size=2, **options)))


def along(effects, direction):
    return (effects[:, :, :-1, :-1].double() * direction).sum(dim=(1, 2, 3))


@pytest.mark.parametrize("name", named(NAMES))
def test_a_total_effect_is_the_finite_difference_of_the_edges_weights(build, name):
    lm, tokens = smooth(build, name), random_tokens(3, T)
    effects = all_of(total_effects, lm, tokens, prefix=PREFIX)
    assert effects.shape == (3, LAYERS, T, T)
    for direction in directions():
        found = slopes(lm, tokens, direction).sum(dim=1)
        torch.testing.assert_close(along(effects, direction), found, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("name", named(NAMES))
def test_a_contribution_is_the_finite_difference_with_all_readers_held(build, name):
    """Outside the module: what attention and MLPs read is replaced by what they read before."""
    lm, tokens = smooth(build, name), random_tokens(3, T)
    effects = all_of(contributions, lm, tokens, prefix=PREFIX)
    assert effects[:, :, : PREFIX - 1].abs().max() == 0  # their next token is of the prefix
    for direction in directions():
        with held_fixed(lm, tokens):
            by_query = slopes(lm, tokens, direction)
        found = (effects[:, :, :-1, :-1].double() * direction).sum(dim=(1, 3))[:, PREFIX - 1 :]
        torch.testing.assert_close(found, by_query, atol=5e-3, rtol=5e-3)


@contextmanager
def held_fixed(lm, tokens):
    """Every module of a layer but norms and dropout reads what it read in the plain forward."""
    read, handles = {}, []

    def keep(module, args, kwargs):
        value = args[0] if args else kwargs["hidden_states"]
        if module not in read:
            read[module] = value.clone()
        if args:
            return (read[module], *args[1:]), kwargs
        return args, kwargs | {"hidden_states": read[module]}

    attention = attention_modules(lm.model)
    blocks = [m for m in lm.model.modules() if "MLP" in type(m).__name__ or is_expert(m)]
    if not blocks:  # OPT has its two matrices in the layer itself
        blocks = [m for n, m in lm.model.named_modules() if n.endswith("fc1")]
    assert len(blocks) == len(attention) == LAYERS
    for module in [*attention, *blocks]:
        handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        logits_of(lm, tokens, torch.ones(LAYERS, T - 1, T - 1))
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_expert(module):
    return type(module).__name__ == "MixtralSparseMoeBlock"


@pytest.mark.parametrize("name", named(NAMES))
def test_the_values_moved_add_up_to_the_attentions_output(build, name):
    lm, tokens = build(name), random_tokens(2, T)
    outputs, matrices = [], []
    for module in attention_modules(lm.model):
        (matrix,) = (m for n, m in module.named_modules() if n in PROJECTIONS)
        matrix.register_forward_hook(lambda _m, _args, output: outputs.append(output))
        matrices.append(matrix)
    with torch.no_grad(), moved_values(lm) as moved:
        last_logits(lm, torch.from_numpy(tokens).long(), 1)
    asked = [one for one in outputs if one.shape[0] == 2]  # the others ask for the matrix itself
    for one, output, matrix in zip(moved, asked, matrices, strict=True):
        bias = 0 if matrix.bias is None else matrix.bias
        torch.testing.assert_close(one.sums() + bias, output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_value_norm_is_that_of_the_vector_an_edge_moves(build, adds_bos):
    """By hand: Llama's values, grouped keys repeated, its weights, its output matrix."""
    lm, tokens = build("llama", adds_bos=adds_bos), random_tokens(2, T)
    values = []
    layers = [layer.self_attn for layer in lm.model.model.layers]
    handles = [
        one.v_proj.register_forward_hook(lambda _m, _args, output: values.append(output))
        for one in layers
    ]
    (maps,) = capture_pooled(lm, tokens, batch_size=2, keep_heads=True)
    for handle in handles:
        handle.remove()
    found = all_of(value_norms, lm, tokens)
    heads = maps.heads.reshape(2, LAYERS, 4, T, T)
    for layer, query, key in [(0, 3, 0), (1, 10, 9), (2, 7, 7)]:
        v = values[layer][:, key + adds_bos].reshape(2, 2, 8).repeat_interleave(2, dim=1)
        weighted = heads[:, layer, :, query, key, None] * v
        wanted = layers[layer].o_proj(weighted.reshape(2, 32)).norm(dim=1)
        torch.testing.assert_close(found[:, layer, query, key], wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_a_plain_projection_is_read_and_one_with_hooks_is_asked_for_the_same_matrix(build, name):
    """To rounding: what is asked adds the bias and takes it off."""
    lm, tokens = build(name), random_tokens(2, T)
    projections = [
        next(m for n, m in module.named_modules() if n in PROJECTIONS)
        for module in attention_modules(lm.model)
    ]
    matrices, calls = [], []
    for wanted in (LAYERS, 2 * LAYERS):
        calls.clear()
        with torch.no_grad(), moved_values(lm) as moved, counting(projections, calls):
            last_logits(lm, torch.from_numpy(tokens).long(), 1)
        matrices.append(torch.stack([one.matrix for one in moved]))
        assert len(calls) == wanted
        for one in projections:
            one.register_forward_hook(lambda _module, _args, output: output)
    torch.testing.assert_close(*matrices, rtol=0, atol=1e-6)


@contextmanager
def counting(modules, calls):
    """Count the calls of linear layers, in a way that no hook shows."""
    plain = torch.nn.functional.linear

    def counted(given, weight, bias=None):
        if any(weight is one.weight for one in modules):
            calls.append(weight)
        return plain(given, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", counted)
        yield


def test_an_output_that_is_not_linear_in_the_values_is_refused(build):
    lm = build("llama")
    for layer in lm.model.model.layers:
        layer.self_attn.o_proj = torch.nn.Sequential(torch.nn.LayerNorm(32), layer.self_attn.o_proj)
    with pytest.raises(UserError, match="not weights times values times one matrix"):
        all_of(value_norms, lm, random_tokens(2, T))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


@pytest.mark.parametrize("capture", [total_effects, contributions, value_norms])
@pytest.mark.parametrize("name", ["gemma2", "bloom"])
def test_only_causal_edges_have_values_and_the_model_is_as_before(build, name, capture):
    """Nothing above the diagonal and in the last query; no gradient is left in the model."""
    lm, tokens = build(name, adds_bos=True), random_tokens(2, 40)
    ids = torch.from_numpy(tokens).long()
    with torch.no_grad():
        before = lm.model(ids).logits
        found = all_of(capture, lm, tokens)
        assert torch.equal(lm.model(ids).logits, before)
    assert all(weights.grad is None for weights in lm.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    assert found.shape == (2, LAYERS, 40, 40)
    assert found.triu(diagonal=1).abs().max() == 0
    assert found[:, :, -1].abs().max() == 0
    assert found[:, :, :-1].abs().sum(dim=(2, 3)).min() > 0
