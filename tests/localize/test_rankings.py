"""Rankings are what their names say: means of a class, less those of the others."""

from typing import get_args

import numpy as np
import torch

from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.edges import contributions, total_effects, value_norms
from mnemoscope.lm.load import load_model
from mnemoscope.localize.cut import (
    RANKINGS,
    class_mean,
    contrasted,
    cut_and_judge,
    equal_mass_edges,
    largest_edges,
)
from mnemoscope.study.settings import KnockoutSettings, LocalizeSettings


def test_the_settings_know_every_ranking() -> None:
    (named,) = get_args(LocalizeSettings.model_fields["rankings"].annotation)
    assert get_args(named) == tuple(RANKINGS)
    by = get_args(KnockoutSettings.model_fields["by"].annotation)
    assert by == ("delta", *RANKINGS)


def test_a_class_is_held_against_the_other_memorized_ones() -> None:
    means = [torch.full((1, 2, 2), value) for value in (1.0, 10.0, 20.0, 60.0)]
    assert [float(one.mean()) for one in contrasted(means)] == [-29.0, -30.0, -15.0, 45.0]
    assert [float(one.mean()) for one in contrasted(means[:2])] == [-9.0, 9.0]


def test_a_class_mean_is_the_mean_of_its_sequences() -> None:
    lm = load_model(model_path())
    tokens = token_matrix(read_table(sequences_path()).head(7))
    wanted = {
        "weights": torch.cat([one.mean for one in capture_pooled(lm, tokens, batch_size=7)]),
        "value_norm": torch.cat(list(value_norms(lm, tokens, batch_size=7))),
        "contribution": torch.cat(list(contributions(lm, tokens, batch_size=7))),
        "total_effect": torch.cat(list(total_effects(lm, tokens, batch_size=7))),
    }
    for name, values in wanted.items():
        found = class_mean(lm, tokens, RANKINGS[name].measure, 3)
        torch.testing.assert_close(found, values.mean(dim=0), atol=1e-5, rtol=1e-4)
        assert RANKINGS[f"{name}_contrast"].measure is RANKINGS[name].measure
        assert RANKINGS[f"{name}_contrast"].contrast
        assert not RANKINGS[name].contrast


def test_its_own_few_edges_of_largest_effect_break_a_sequence() -> None:
    """On the embedded model; as heavy edges of its own and another sequence's hardly do."""
    lm = load_model(model_path())
    table = read_table(sequences_path())
    tokens = token_matrix(table.filter(table["duplicates"] > 12).head(24))
    effects = torch.cat(list(total_effects(lm, tokens, batch_size=24)))
    (maps,) = capture_pooled(lm, tokens, batch_size=24)
    own = torch.stack([largest_edges(one, 8) for one in effects])
    generator = torch.Generator().manual_seed(0)
    equal = [equal_mass_edges(*pair, generator) for pair in zip(own, maps.mean, strict=True)]

    def broken(edges):
        judged = cut_and_judge(lm, tokens, edges, renormalize=False, batch_size=24)
        return 1 - judged.is_right.all(axis=1).mean()

    assert broken(own) > 0.7
    assert broken(own) > broken(torch.stack(equal)) + 0.4
    assert broken(own) > broken(own.roll(1, dims=0)) + 0.4
    assert np.isclose(broken(torch.zeros_like(own)), 0)
