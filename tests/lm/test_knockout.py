"""Cut edges are gone wherever the model runs; nothing else changes; the model is left as it was."""

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES, MORE_FAMILIES, named, random_tokens

from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.intervene import AtSoftmax, _Scaling, cut_attention
from mnemoscope.lm.model import last_logits, prepend_bos

T = 64
LAYERS = 3
# Makes its own bias of positions out of the mask and takes no mask of four axes.
TAKES_NO_MASK = {"bloom"}


def no_edges(*batch):
    return torch.zeros((*batch, LAYERS, T, T), dtype=torch.bool)


def some_edges(share=0.3, *batch, seed=0):
    torch.manual_seed(seed)
    edges = torch.rand((*batch, LAYERS, T, T)).tril() > 1 - share
    return edges.tril(diagonal=-1)  # every row keeps itself


def logits_of(lm, tokens, edges=None, **options):
    ids = prepend_bos(lm, torch.from_numpy(tokens).long())
    with torch.no_grad():
        if edges is None:
            lm.model.set_attn_implementation("eager")
            return last_logits(lm, ids, T)
        with cut_attention(lm, edges, **options):
            return last_logits(lm, ids, T)


@pytest.mark.parametrize("name", sorted({*FAMILIES, *MORE_FAMILIES} - TAKES_NO_MASK))
def test_a_cut_is_a_mask_where_rows_are_renormalized(build, tokens, name):
    """Outside oracle: transformers' own additive mask before the softmax, the same in all layers.

    It stands after a soft-cap, beside windows and sinks, so the cut has to fit all of these.
    """
    lm, table = build(name), tokens(3)
    edges = some_edges()[:1]  # one mask serves all layers
    ids, cut = torch.from_numpy(table).long(), edges.expand(LAYERS, T, T)
    lm.model.set_attn_implementation("eager")
    # OPT counts positions along the mask unless it is told them.
    positions = {"position_ids": torch.arange(T).expand(3, T)} if name == "opt" else {}
    masks = {"attention_mask": masks_without(edges[0], lm.model.config)}
    with torch.no_grad():
        masked = lm.model(input_ids=ids, **masks, **positions).logits
    # Division by the sum that is left instead of a smaller softmax: float32 rounding.
    torch.testing.assert_close(logits_of(lm, table, cut, renormalize=True), masked,
                               atol=2e-4, rtol=1e-4)  # fmt: skip
    assert (logits_of(lm, table) - masked).abs().amax() > 0.1


def masks_without(edges, config):
    """Additive masks of four axes, (query, key) edges masked; one a kind of layer where several."""
    steps_back = torch.arange(T)[:, None] - torch.arange(T)
    full = (steps_back >= 0) & ~edges
    window = getattr(config, "sliding_window", None)
    if not window:
        return additive(full)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    masks = {
        "full_attention": additive(full),
        "sliding_attention": additive(full & (steps_back < window)),
    }
    return masks if len(kinds) > 1 else masks[kinds.pop()]


def additive(allowed):
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(3, 1, T, T).masked_fill(~allowed, lowest)


@pytest.mark.parametrize("n_sinks", [0, 1])
def test_a_row_attends_to_what_is_left_of_it(build, n_sinks):
    """Closed form: all keys but the first cut; the rest of the weight goes, or goes to that key."""
    edges = torch.ones(LAYERS, T, T).tril().bool()
    edges[:, :, 0] = False
    scores = torch.rand(2, 4, T, T).masked_fill(~torch.ones(T, T).tril().bool(), -torch.inf)
    scores = torch.nn.functional.pad(scores, (0, n_sinks))
    weights = scores.softmax(dim=-1)
    for renormalize in (False, True):
        scaling = _Scaling(build("gpt_neox"), ~edges, renormalize=renormalize)
        with AtSoftmax(lambda _, after, own=scaling: own.change(after, T)):
            left = torch.softmax(scores, dim=-1)
        whole = weights[..., 0] + (weights[..., T:].sum(-1) if n_sinks else 0)
        ratio = 1 / whole if renormalize else torch.ones(())
        torch.testing.assert_close(left[..., 0], weights[..., 0] * ratio)
        torch.testing.assert_close(left[..., T:], weights[..., T:] * ratio[..., None])
        assert left[..., 1:T].abs().max() == 0.0


@pytest.mark.parametrize(
    "name", [*named([*FAMILIES, "gpt_oss", "gemma3_text", "olmo2", "gptj"]), "a short window"]
)
def test_decoding_with_a_cut_is_full_recomputation_with_that_cut(build, tokens, name):
    """Each step's query row is cut with a cache as it is when everything is read again."""
    is_short = name == "a short window"  # drops keys from the cache
    lm = build("mistral", sliding_window=8) if is_short else build(name)
    edges, table = some_edges(0.4 if is_short else 0.2), tokens(3)
    with cut_attention(lm, edges):
        cached = next(continue_sequences(lm, table, batch_size=3, prefix=44)).tokens
    ids = torch.from_numpy(table[:, :44]).long()
    with torch.no_grad(), cut_attention(lm, edges):
        for _ in range(20):
            ids = torch.cat([ids, last_logits(lm, ids, 1)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert np.array_equal(cached, ids[:, 44:].numpy())
    whole = next(continue_sequences(lm, table, batch_size=3, prefix=44)).tokens
    assert not np.array_equal(cached, whole)


def test_edges_of_each_sequence_cut_that_sequence_alone(lm, tokens):
    table, edges = tokens(3), some_edges(0.3, 3)
    together = logits_of(lm, table, edges)
    for row in range(3):
        alone = logits_of(lm, table[row : row + 1], edges[row])
        torch.testing.assert_close(together[row : row + 1], alone, atol=2e-4, rtol=1e-4)


def test_the_bos_token_is_never_cut_and_moves_no_edge(build, tokens):
    lm, table = build("llama", adds_bos=True), tokens(2)
    assert torch.equal(logits_of(lm, table, no_edges()), logits_of(lm, table))
    edges = torch.ones(LAYERS, T, T).tril().bool()
    with torch.no_grad(), cut_attention(lm, edges, renormalize=True):
        out = lm.model(prepend_bos(lm, torch.from_numpy(table).long())).logits
    assert out.isfinite().all()  # all that is left is the BOS token: every row attends to it


@pytest.mark.parametrize("name", ["gpt_neox", "bloom"])
def test_the_model_is_as_before_also_after_an_error(build, tokens, name):
    lm, table = build(name), tokens(2)
    before = logits_of(lm, table)
    forwards = [type(m).forward for m in lm.model.modules()]
    with pytest.raises(ArithmeticError), cut_attention(lm, some_edges()):
        raise ArithmeticError
    assert torch.equal(logits_of(lm, table), before)
    assert [type(m).forward for m in lm.model.modules()] == forwards
    assert not any("forward" in vars(m) for m in lm.model.modules())


def test_edges_that_fit_no_model_are_refused(build):
    lm, tokens = build("gpt_neox"), torch.from_numpy(random_tokens(6)).long()
    later = no_edges()
    later[0, 1, 2] = True
    for edges, said in (
        (no_edges()[:2], "2 layers, but gpt_neox has 3"),
        (no_edges().float(), "wanted bool"),
        (later, "later key"),
        (no_edges()[:, :16, :16], "edges are given for 16"),
        (no_edges(2), r"of 2 sequences.* 6 rows"),
    ):
        with pytest.raises(UserError, match=said), cut_attention(lm, edges):
            last_logits(lm, tokens, 1)
