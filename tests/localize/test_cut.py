"""Edges to cut are as many as asked and what their names say; figures of cuts in closed form."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from mnemoscope.benchmark.baselines import blind_maps
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.errors import UserError
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.edges import contributions, total_effects, value_norms
from mnemoscope.lm.intervene import cut_attention
from mnemoscope.lm.load import load_model
from mnemoscope.localize.cut import (
    class_mean,
    contrasted,
    count_edges,
    cut_and_continue,
    equal_mass_edges,
    largest_edges,
    mean_share,
    random_edges,
    random_keys,
    same_layer_edges,
    specificity,
)
from mnemoscope.localize.rankings import RANKINGS
from mnemoscope.maps.shape import copy_edges
from mnemoscope.maps.triangle import unpack_triangle
from mnemoscope.stats import share_of
from mnemoscope.study.settings import KnockoutSettings, LocalizeSettings

L, T = 3, 16
N_EDGES = L * T * (T - 1) // 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def values(seed=0):
    return torch.rand(L, T, T, generator=generator(seed)).tril()


def is_possible(edges):
    return not edges.triu(diagonal=1).any() and not edges[..., -1, :].any()


@given(st.floats(0.01, 100))
@settings(max_examples=50)
def test_a_strength_is_that_share_of_the_edges_and_the_largest_are_the_largest(percent):
    n, held = count_edges(percent, L, T), values()
    assert n == max(1, round(percent / 100 * N_EDGES)) or abs(n - percent / 100 * N_EDGES) < 1
    largest = largest_edges(held, n)
    for edges in (largest, random_edges(held, n, generator())):
        assert int(edges.sum()) == n
        assert is_possible(edges)
    held[:, -1] = 0
    assert n == N_EDGES or held[largest].min() > held[~largest].max()


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_a_strength_that_is_no_share_is_refused(percent):
    with pytest.raises(UserError, match="at most 100 per cent"):
        count_edges(percent, L, T)


def test_same_layers_have_as_many_edges_each():
    edges = largest_edges(values() * torch.tensor([1.0, 3.0, 2.0])[:, None, None], 60)
    others = same_layer_edges(edges, generator())
    assert torch.equal(others.sum(dim=(1, 2)), edges.sum(dim=(1, 2)))
    assert is_possible(others)
    assert not torch.equal(others, edges)


def test_equal_mass_is_reached_by_other_edges():
    mass = values(3) ** 4  # most edges hold little, as attention does
    edges = random_edges(mass, 60, generator(1))
    found = [equal_mass_edges(edges, mass, generator(seed)) for seed in range(8)]
    for others in found:
        assert int(others.sum()) == 60
        assert not (others & edges).any()
        assert is_possible(others)
    # Draws differ, and their masses lie around the wanted one, within the spread of near edges.
    assert len({tuple(others.flatten().tolist()) for others in found}) == 8
    reached = np.mean([float(mass[others].sum()) for others in found])
    assert reached == pytest.approx(float(mass[edges].sum()), rel=0.1)
    largest = largest_edges(mass, 100)  # their mass is out of reach: the rest is the nearest
    others = equal_mass_edges(largest, mass, generator())
    assert int(others.sum()) == 100
    assert float(mass[others].sum()) < float(mass[largest].sum())


def test_copy_edges_are_the_induction_channel_of_the_blind_baseline():
    tokens = np.random.default_rng(0).integers(0, 6, (4, 64)).astype(np.int32)
    channel = unpack_triangle(blind_maps(tokens).read(torch.arange(4)))[:, 1] > 0
    edges = copy_edges(torch.from_numpy(tokens), 2)
    assert edges.shape == (4, 2, 64, 64)
    assert torch.equal(edges[:, 0, :-1], channel[:, :-1])
    assert is_possible(edges)
    assert torch.equal(edges[:, 0], edges[:, 1])


def test_random_keys_keep_every_querys_number():
    tokens = torch.randint(0, 9, (3, 32), generator=generator())
    edges = copy_edges(tokens, 1)
    others = random_keys(edges, generator())
    room = torch.arange(1, 33) - edges.sum(-1)
    assert torch.equal(others.sum(-1), torch.minimum(edges.sum(-1), room))
    assert not (others & edges).any()
    assert not others.triu(diagonal=1).any()


HALF, ALL, NONE = np.arange(40) % 2 == 0, np.ones(40, dtype=bool), np.zeros(40, dtype=bool)


@pytest.mark.parametrize(
    ("own", "others", "by_chance", "expected"),
    [
        (ALL, NONE, NONE, 1.0),
        (ALL, ALL, NONE, 0.0),
        (NONE, ALL, NONE, -1.0),
        (ALL, NONE, ALL, 0.0),
        (ALL, HALF, HALF, (1 - 0.5) - (0.5 - 0.0)),
        (ALL, NONE, HALF, 1 - 0.5),
    ],
)
def test_specificity_is_how_much_more_of_the_own_class_breaks_than_by_equal_mass(
    own, others, by_chance, expected
) -> None:
    decisive = {"Recall": own, "Guess": others, "Recite": others}
    drawn = {"Recall": [by_chance, by_chance], "Guess": [NONE], "Recite": [NONE]}
    found = specificity(decisive, drawn, "Recall", n_resamples=500, seed=0)
    assert found.value == pytest.approx(expected)
    varies = any(one is HALF for one in (others, by_chance))
    assert found.low < found.value < found.high if varies else found == (expected,) * 3


def test_an_interval_over_sequences_is_scipys() -> None:
    values = np.random.default_rng(0).random(60) < 0.3
    found = mean_share([values], n_resamples=4000, seed=1)
    ours = np.array([found.low, found.high])
    theirs = bootstrap(
        (values.astype(float),), np.mean, method="percentile", n_resamples=4000, random_state=2
    ).confidence_interval
    # Two sets of 4,000 resamples: percentiles differ by their own noise, about 0.01 here.
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.02)
    # Draws are averaged before: every sequence is a half, and nothing varies between them.
    assert mean_share([ALL, NONE], n_resamples=100, seed=0) == (0.5, 0.5, 0.5)
    # None and all have Wilson's, for all resamples are alike.
    for values in (ALL, NONE):
        found = mean_share([values], n_resamples=100, seed=0)
        assert found == share_of(int(values.sum()), len(values))


@pytest.fixture(scope="module")
def lm():
    return load_model(model_path())


@pytest.fixture(scope="module")
def tokens():
    """Sequences that the embedded model is known to reproduce."""
    table = read_table(sequences_path())
    return token_matrix(table.filter(form="plain", inserted=64).head(24))


def test_cutting_nothing_breaks_nothing_and_cutting_everything_breaks_all(lm, tokens) -> None:
    shape = (lm.n_layers, 64, 64)
    cut = {"renormalize": False, "batch_size": 8}
    whole = cut_and_continue(lm, tokens, torch.zeros(shape, dtype=torch.bool), **cut)
    broken = cut_and_continue(lm, tokens, torch.ones(shape).tril().bool(), **cut)
    assert whole.survives.mean() > 0.9
    assert (whole.score == 1).tolist() == whole.survives.tolist()
    assert broken.survives.sum() == 0
    assert broken.logprob.mean() < whole.logprob.mean() - 1
    each = torch.zeros(len(tokens), *shape, dtype=torch.bool)
    each[12:] = torch.ones(shape).tril().bool()
    own = cut_and_continue(lm, tokens, each, **cut)
    np.testing.assert_array_equal(own.score[:12], whole.score[:12])
    np.testing.assert_array_equal(own.score[12:], broken.score[12:])


def test_a_batch_that_memory_splits_keeps_each_sequence_its_own_edges(
    lm, tokens, monkeypatch
) -> None:
    """Also after a forward that died behind the first layer's attention: no layer is shifted."""
    n = len(tokens)
    each = torch.stack(
        [random_edges(torch.zeros(lm.n_layers, 64, 64), 60, generator(row)) for row in range(n)]
    )
    each[::3] = False
    cut = {"renormalize": False, "batch_size": n}
    whole = cut_and_continue(lm, tokens, each, **cut)
    monkeypatch.setattr("mnemoscope.lm.model.LOGIT_BYTES", 4 * 32 * lm.vocab_size * (n // 4))
    mlp = lm.model.base_model.layers[0].mlp
    real, died = mlp.forward, []

    def forward(states):
        if len(states) > 3:
            died.append(len(states))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(states)

    monkeypatch.setattr(mlp, "forward", forward)
    split = cut_and_continue(lm, tokens, each, **cut)
    assert died[0] == n // 4
    np.testing.assert_array_equal(split.score, whole.score)
    np.testing.assert_allclose(split.logprob, whole.logprob, atol=1e-4)


def test_survivors_and_scores_are_those_of_decoding_every_sequence(lm, tokens) -> None:
    """One forward says who survives; here all are decoded under the same cut."""
    edges = random_edges(torch.zeros(lm.n_layers, 64, 64), 400, generator())
    found = cut_and_continue(lm, tokens, edges, renormalize=False, batch_size=9)
    with cut_attention(lm, edges):
        decoded = [batch.score for batch in continue_sequences(lm, tokens, batch_size=24)]
    assert 0 < found.survives.sum() < len(tokens)
    np.testing.assert_array_equal(found.score, np.concatenate(decoded))


# -- rankings -----------------------------------------------------------------------------------


def test_the_settings_know_every_ranking() -> None:
    (named,) = get_args(LocalizeSettings.model_fields["rankings"].annotation)
    assert get_args(named) == tuple(RANKINGS)
    by = get_args(KnockoutSettings.model_fields["by"].annotation)
    assert by == ("delta", *RANKINGS)


def test_a_class_is_held_against_the_other_memorized_ones() -> None:
    means = [torch.full((1, 2, 2), value) for value in (1.0, 10.0, 20.0, 60.0)]
    assert [float(one.mean()) for one in contrasted(means)] == [-29.0, -30.0, -15.0, 45.0]
    assert [float(one.mean()) for one in contrasted(means[:2])] == [-9.0, 9.0]


def test_a_class_mean_is_the_mean_of_its_sequences(lm, tokens) -> None:
    few = tokens[:7]
    wanted = {
        "weights": torch.cat([one.mean for one in capture_pooled(lm, few, batch_size=7)]),
        "value_norm": torch.cat(list(value_norms(lm, few, batch_size=7))),
        "contribution": torch.cat(list(contributions(lm, few, batch_size=7))),
        "total_effect": torch.cat(list(total_effects(lm, few, batch_size=7))),
    }
    for name, values in wanted.items():
        found = class_mean(lm, few, RANKINGS[name].measure, 3)
        torch.testing.assert_close(found, values.mean(dim=0), atol=1e-5, rtol=1e-4)
        assert RANKINGS[f"{name}_contrast"].measure is RANKINGS[name].measure
        assert RANKINGS[f"{name}_contrast"].contrast
        assert not RANKINGS[name].contrast
