"""Entropy and information against sklearn, scipy and closed forms; planted classes found."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from figure_columns import apart
from mnemoscope.analysis.neurons import (
    Settings,
    analyse,
    binned,
    draw_halves,
    entropies,
    mean_information,
    measure_group,
)
from mnemoscope.errors import UserError
from mnemoscope.stats import rows_of

N = 300


def test_entropy_and_information_are_scipys_and_sklearns() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 5, (300, 6))
    codes[:, 1] = (codes[:, 0] + generator.integers(0, 2, 300)) % 5
    codes[:, 2] = 3
    wanted = [entropy(np.bincount(column)) for column in codes.T]
    np.testing.assert_allclose(entropies(codes, 5), wanted, atol=1e-12)
    pairs = [mutual_info_score(codes[:, i], codes[:, j]) for i in range(6) for j in range(i)]
    assert mean_information(codes, 5) == pytest.approx(np.mean(pairs), rel=1e-9)


@pytest.mark.parametrize("most", [5, 9])
def test_the_bias_of_copies_is_that_of_their_groups(most) -> None:
    """Independent neurons, each row five times: above the null is nothing. One to nine: less."""
    generator = np.random.default_rng(4)
    copies = generator.integers(10 - most, most + 1, 300)
    groups = np.repeat(np.arange(300), copies)
    codes = generator.integers(0, 6, (300, 40))[groups]
    found, alone = (
        measure_group(codes, of, np.empty((0, len(of)), bool), np.arange(40), n_bins=6, seed=0)
        for of in (groups, np.arange(len(groups)))
    )
    # (bins - 1)² / 2 of as many as Kish's effective sample size.
    bias = 25 / 2 * (copies**2).sum() / copies.sum() ** 2
    assert found.information.value == pytest.approx(bias, rel=0.12)
    assert abs(found.above.value) < (0.05 if most == 5 else 0.5) * bias
    assert alone.above.value > 0.75 * bias


def test_bins_are_even_or_of_even_width_and_hold_every_value() -> None:
    values = np.random.default_rng(3).exponential(size=(800, 3))
    even, wide = binned(values, 8, "quantile"), binned(values, 8, "width")
    assert (np.stack([np.bincount(column) for column in even.T]) == 100).all()
    theirs = np.histogram(values[:, 1], bins=8)[0]  # its last bin takes the greatest value
    assert np.bincount(wide[:, 1], minlength=8).tolist() == theirs.tolist()
    assert entropies(binned(np.ones((10, 1)), 4, "quantile"), 4).tolist() == [0.0]


@pytest.fixture
def planted_inputs(monkeypatch, inputs_with):
    """A study whose models give these activations, found by the first token of a row."""

    def planted_inputs(activations, classes, n_models=2, near=None):
        def given(lm, tokens, *, batch_size):
            assert np.asarray(tokens).shape[1] == 2
            yield activations[lm.number][np.asarray(tokens)[:, 0]]

        monkeypatch.setattr("mnemoscope.analysis.neurons.neuron_activations", given)
        model, *others = (SimpleNamespace(number=number) for number in range(n_models))
        ids = range(len(classes))
        table = pl.DataFrame({"sequence_id": ids, "tokens": [[i, 0, 0, 0] for i in ids]})
        if near is not None:
            table = table.with_columns(near_duplicates=pl.Series(near))
        labels = pl.DataFrame({"sequence_id": ids, "T": classes})
        named = {f"step {one.number}": one for one in others}
        return inputs_with(table, model, named, labels=labels, length=4)

    return planted_inputs


def test_a_shared_cause_and_a_narrow_range_are_found_in_their_class(planted_inputs) -> None:
    """Guess: neurons that share a cause (ρ = .8) and keep to a narrow range; Recall as Non-Memo."""
    generator = np.random.default_rng(0)
    classes = ["Non-Memo"] * N + ["Guess"] * N + ["Recall"] * (N + 40) + ["Rare"] * 9
    free = generator.standard_normal((2, len(classes), 2, 20)).astype(np.float32)
    cause = generator.standard_normal((N, 2, 1))
    free[0, N : 2 * N] = 0.3 * (np.sqrt(0.8) * cause + np.sqrt(0.2) * free[0, N : 2 * N])
    result = analyse(planted_inputs(free, classes), Settings(n_halves=10))
    frame = result.frames["differences"]

    def difference(measure, name, of):
        (row,) = rows_of(frame.filter(measure=measure, of=of, **{"class": name}))
        return row["difference"]

    for of in ("under this model", "beyond step 1"):
        assert difference("entropy", "Guess", of).high < -0.2
        assert difference("information", "Guess", of).low > 0.1
    for measure, name, of in (
        ("information", "Recall", "under this model"),
        ("information", "Recall", "beyond step 1"),
        ("entropy", "Guess", "under step 1"),
    ):
        none = difference(measure, name, of)
        assert none.low < 0.01
        assert none.high > -0.01
    measures = apart(result.frames["measures"])
    own = measures.filter(model="this model").group_by("class").agg(pl.col("above_shuffled").mean())
    above = dict(own.rows())
    said = difference("information", "Guess", "under this model").value
    assert said == pytest.approx(above["Guess"] - above["Non-Memo"], rel=1e-12)
    assert (measures["above_shuffled"] == measures["information"] - measures["shuffled"]).all()
    assert measures["n"].unique().to_list() == [N]
    assert set(measures["class"]) == {"Non-Memo", "Guess", "Recall"}
    assert any("Rare (9)" in line for line in result.further)


def test_the_interval_of_halves_is_the_spread_of_new_samples() -> None:
    """Ten neurons, 200 draws of a class anew: the standard error is within a third."""
    generator = np.random.default_rng(1)
    chosen = np.arange(10)

    def draw(n_halves: int):
        codes = (generator.random((200, 10)) ** 2 * 5).astype(np.int64)
        rows, seed = np.arange(200), int(generator.integers(1 << 30))
        halves = draw_halves(rows, np.zeros(200, int), n_halves=n_halves, seed=seed)
        return measure_group(codes, rows, halves, chosen, n_bins=5, seed=0)

    fresh = [draw(1) for _ in range(100)]
    own = [draw(40) for _ in range(10)]
    for name in ("entropy", "information"):
        wanted = np.std([getattr(one, name).value for one in fresh])
        found = np.mean([getattr(one, name).halves.std(ddof=1) for one in own])
        # half of the samples have twice the bias and, of information, more spread: never less
        assert 0.67 * wanted < found < 2.5 * wanted


def test_every_row_five_times_does_not_narrow_the_interval(planted_inputs) -> None:
    classes = np.repeat(["Non-Memo", "Guess"], 60)
    free = np.random.default_rng(0).standard_normal((2, 120, 2, 20)).astype(np.float32)
    five = np.repeat(np.arange(120), 5)

    def found(near, rows=five):
        inputs = planted_inputs(free[:, rows], classes[rows].tolist(), near=near)
        return analyse(inputs, Settings(n_halves=40))

    def width(result):
        found = apart(result.frames["differences"])
        return (found["difference_high"] - found["difference_low"]).mean()

    once = width(found(None, np.arange(120)))
    assert width(found(five)) > 0.85 * once > 1.2 * width(found(None))
    few = found(five % 9)
    assert not apart(few.frames["differences"])["difference_low"].count()
    assert few.frames["measures"]["n_groups"].unique().to_list() == [9]
    assert "[" not in few.sentence


def test_groups_too_small_and_neurons_that_do_not_vary_are_refused(planted_inputs) -> None:
    classes = ["Non-Memo"] * 60 + ["Guess"] * 10
    still = np.ones((2, 120, 1, 4), dtype=np.float32)
    with pytest.raises(UserError, match="groups too small"):
        analyse(planted_inputs(still, classes), Settings())
    inputs = planted_inputs(still, ["Non-Memo"] * 60 + ["Guess"] * 60)
    with pytest.raises(UserError, match="0 of 4 neurons vary"):
        analyse(inputs, Settings())
    with pytest.raises(UserError, match="not labelled"):
        analyse(inputs, Settings(taxonomy="U"))


@pytest.mark.parametrize(("n_models", "n_groups"), [(3, 300), (5, 300), (5, 9)])
def test_checkpoints_are_ranked_by_what_they_reproduce(
    monkeypatch, planted_inputs, n_models, n_groups
) -> None:
    """Neurons of model k share a cause ever more strongly, and it reproduces ever more: τ = 1.

    Entropy is the same for all (quantile bins), so its order is noise alone.
    """
    generator = np.random.default_rng(7)
    classes = ["Non-Memo"] * 150 + ["Recall"] * 150
    cause = generator.standard_normal((300, 1, 1))
    noise = generator.standard_normal((300, 1, 12))
    activations = np.stack([k * cause + noise for k in range(n_models)]).astype(np.float32)

    def right_tokens(lm, tokens, *, batch_size, prefix):
        return np.repeat(np.arange(len(tokens))[:, None] < 40 * lm.number, 2, axis=1)

    monkeypatch.setattr("mnemoscope.analysis.neurons.right_tokens", right_tokens)
    inputs = planted_inputs(activations, classes, n_models, near=np.arange(300) % n_groups)
    frames = analyse(inputs, Settings(n_neurons=12, n_per_group=150)).frames
    assert ("ranking" in frames) == (n_models >= 4)
    if n_models >= 4:
        reproduced = frames["checkpoints"]["reproduced"].to_list()
        assert reproduced == [40 * k / 300 for k in range(n_models)]
        (row,) = rows_of(frames["ranking"].filter(measure="information"))
        assert row["kendall"][:2] == (1, None if n_groups < 10 else 1)
        assert row["n"] == n_models
