"""The states a token hangs on, found in a network in which they are built in."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from experiments.circuits.networks import COPYING_LAYER, copying_network
from experiments.circuits.run import FEWEST, states
from figure_columns import apart
from mnemoscope.analysis.trigger import Changes, Settings, analyse, find_changes
from mnemoscope.errors import UserError
from mnemoscope.progress import SILENT
from mnemoscope.taxonomy.groups import other_rows
from tests.analysis.conftest import inputs_of

VOCABULARY, LENGTH, PREFIX = 24, 16, 8
# Suffix tokens 0 to 3 are copied from positions 0, 2, 4, 6 of the prefix, 4 to 7 from the suffix.
SOURCES = {7: 0, 8: 2, 9: 4, 10: 6, 11: 8, 12: 9, 13: 10, 14: 11}


@pytest.fixture(scope="module")
def lm():
    return copying_network(SOURCES, vocabulary=VOCABULARY, length=LENGTH)


def _sequences(n: int, seed: int = 0) -> np.ndarray:
    """Sequences that the network has by heart: each suffix token is its source's."""
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.permutation(VOCABULARY)[:LENGTH] for _ in range(n)])
    for query, source in SOURCES.items():
        tokens[:, query + 1] = tokens[:, source]
    return tokens


def _wanted(tokens: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """What is built in, (n, layers, prefix, suffix), from the tokens alone."""
    changed = np.zeros((len(tokens), 3, PREFIX, LENGTH - PREFIX), dtype=bool)
    for query, source in SOURCES.items():
        if source < PREFIX:
            differs = tokens[:, source] != donors[:, source]
            for layer in range(COPYING_LAYER + 1):
                changed[:, layer, source, query - 7] = differs
    # After the copying layer the asking position holds what the donor's would say.
    changed[:, COPYING_LAYER + 1, 7, 0] = tokens[:, 0] != donors[:, 0]
    return changed


def test_the_states_that_are_built_in_are_found_and_no_others(lm) -> None:
    tokens, donors = _sequences(12), _sequences(12, seed=5)[:, :PREFIX]
    found = find_changes(lm, tokens, donors, batch_size=7, progress=SILENT)
    assert found.is_right.all()
    wanted = _wanted(tokens, donors)
    assert wanted.sum() > 80
    np.testing.assert_array_equal(found.one, wanted)
    # all states of a layer at once: up to the copying layer all sources are replaced
    np.testing.assert_array_equal(found.all_of_layer[:, :2], wanted[:, :2].any(axis=2))
    np.testing.assert_array_equal(found.all_of_layer[:, 2], wanted[:, 2].any(axis=1))
    # The first token of the suffix is another than the network says: it never counts as changed.
    tokens[:, PREFIX] = (tokens[:, PREFIX] + 1) % VOCABULARY
    found = find_changes(lm, tokens, donors, batch_size=64, progress=SILENT)
    assert (found.is_right[:, :4] == [False, True, True, True]).all()
    assert not found.all_of_layer[..., 0].any()
    wanted[..., 0] = False
    np.testing.assert_array_equal(found.one[..., :4], wanted[..., :4])


def test_half_the_tokens_depend_on_none(lm) -> None:
    """The analysis on a study: 4 of 8 tokens are copied from the suffix itself."""
    tokens = _sequences(30)
    inputs = inputs_of(lm, tokens, True, length=LENGTH)
    result = analyse(inputs, Settings(n_sequences=None, seed=3))
    donors = tokens[other_rows(np.arange(30), 1, seed=3)[0], :PREFIX]
    wanted = 1 - _wanted(tokens, donors).any(axis=(1, 2)).mean()
    shares = apart(result.frames["shares"]).filter(group="all")
    assert shares["share"].to_list() == pytest.approx([wanted, wanted, 0.0])
    assert 0.5 <= wanted < 0.56  # a donor may hold the same token by chance
    tokens_frame = result.frames["tokens"]
    assert tokens_frame["no_single_state"].to_list()[4:] == [1.0] * 4
    assert max(tokens_frame["no_single_state"].to_list()[:4]) < 0.2
    touched = result.frames["by_token"].filter(pl.col("n_changed") > 0)
    assert set(touched.select("state", "position", "token").rows()) == {
        *((layer, 2 * token + 1, token + 1) for layer in (0, 1) for token in range(4)),
        (2, 8, 1),
    }
    named = result.frames["changes"].filter(state=0, position=3)
    assert named["tokens"].to_list() == [[2]] * named.height
    assert f"{100 * wanted:.1f} %" in result.sentence


def test_tokens_that_need_several_states_are_told_from_those_that_need_none() -> None:
    """Five tokens: one needs a state, two need both together, one is not right, one needs none."""
    one = np.zeros((1, 1, 2, 5), dtype=bool)
    one[0, 0, 1, 0] = True
    whole = np.array([[[True, True, True, False, False]]])
    fewest = np.array([[1, 2, 2, 0, 0]], dtype=np.int16)
    found = Changes(one, whole, np.array([[True, True, True, False, True]]), fewest).shares()
    assert {name: values.tolist() for name, values in found.items()} == {
        "depend on no single state": [0.75],
        "depend on no state at all": [0.25],
        "depend on several together": [0.5],
    }


def test_a_token_that_four_states_hold_together_changes_with_all_four_alone() -> None:
    """Built in: token 9 stands four times in the prefix, and each place gives a fourth of it.

    Where two of them are another prefix's, half is left, above a fourth of either other token.
    """
    lm = copying_network({8: (0, 1, 2, 3), 9: 4}, vocabulary=VOCABULARY, length=LENGTH)
    rng = np.random.default_rng(0)
    tokens, donors = (
        np.stack([rng.permutation(VOCABULARY)[:LENGTH] for _ in range(30)]) for _ in range(2)
    )
    tokens[:, 1:4], tokens[:, 9], tokens[:, 10] = tokens[:, :1], tokens[:, 0], tokens[:, 4]
    donors = donors[:, :PREFIX]
    new = (donors[:, :4] != tokens[:, :1]).all(axis=1) & (donors[:, 4] != tokens[:, 4])
    assert new.sum() > 15
    for widths, least in (((), PREFIX), ((2,), PREFIX), ((2, 4), 4), ((4, 2, 99), 4)):
        found = find_changes(lm, tokens, donors, batch_size=16, progress=SILENT, widths=widths)
        assert found.is_right[:, 1:3].all()
        assert not found.one[new, :, :, 1].any()
        assert (found.fewest[new, 1] == least).all()
        assert (found.fewest[new, 2] == 1).all()  # of one source alone


def test_the_figures_of_the_page_are_what_is_built_in() -> None:
    """One state, three or five by majority, and the suffix: `experiments/circuits`."""
    found = {row["held"]: row for row in states(3)}
    assert {*found} == {*FEWEST}
    for held, row in found.items():
        assert row["n"] > 85
        assert (row["other"].value, row["as_built"].value) == (0, 1)
        assert row["own"] is None or row["own"].value == (held == "1 state")


@pytest.mark.parametrize("n_groups", [3, 10])
def test_no_near_duplicate_is_a_donor_and_few_groups_have_no_interval(lm, n_groups) -> None:
    kept = []

    def shelf(name, basis, make):
        kept.append(make())
        return kept[-1]

    inputs = inputs_of(lm, _sequences(30), True, length=LENGTH, shelf=shelf)
    group = np.arange(30) % n_groups
    table = inputs.table.with_columns(near_duplicates=pl.Series(group))
    result = analyse(replace(inputs, table=table), Settings(n_sequences=None))
    drawn = pl.concat(one for one in kept if "donor_id" in one.columns)
    assert (group[drawn["sequence_id"]] != group[drawn["donor_id"]]).all()
    assert drawn["donor_id"].n_unique() > 10
    assert set(result.frames["shares"]["n_groups"]) == {n_groups}
    for name in ("shares", "states"):
        n_without = apart(result.frames[name])["share_low"].null_count()
        assert n_without == (result.frames[name].height if n_groups < 10 else 0)


def test_too_few_are_refused(lm) -> None:
    inputs = inputs_of(lm, [[0] * LENGTH] * 2, [True, False], length=LENGTH)
    with pytest.raises(UserError, match="1 sequences are memorized, 2 are needed"):
        analyse(inputs, Settings())
