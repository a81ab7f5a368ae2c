"""Entropy and information of classes of neurons against planted distributions."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.analysis.inputs import AnalysisInputs, OtherModel
from mnemoscope.analysis.neurons import Settings, analyse, measure_group
from mnemoscope.errors import UserError

N = 300


def planted_inputs(monkeypatch, activations, classes) -> AnalysisInputs:
    """A study whose model gives these activations, found by the first token of a row."""

    def given(lm, tokens, *, batch_size):
        assert np.asarray(tokens).shape[1] == 2
        yield activations[lm.number][np.asarray(tokens)[:, 0]]

    monkeypatch.setattr("mnemoscope.lm.probe.neuron_activations", given)
    monkeypatch.setattr("mnemoscope.analysis.inputs.count_forwards", lambda lm, forwards: lm)
    model, other = (type("Model", (), {"number": number})() for number in range(2))
    n = len(classes)
    table = pl.DataFrame({"sequence_id": range(n), "tokens": [[i, 0, 0, 0] for i in range(n)]})
    labels = pl.DataFrame({"sequence_id": range(n), "T": classes})
    return AnalysisInputs(
        where="s",
        table=table,
        load_model=lambda: model,
        labels=labels,
        length=4,
        others=(OtherModel("other", lambda: other),),
    )


@pytest.fixture
def planted(monkeypatch) -> AnalysisInputs:
    """Guess: neurons that share a cause (ρ = .8) and keep to a narrow range; Recall as Non-Memo."""
    generator = np.random.default_rng(0)
    classes = ["Non-Memo"] * N + ["Guess"] * N + ["Recall"] * (N + 40) + ["Rare"] * 9
    free = generator.standard_normal((2, len(classes), 2, 20)).astype(np.float32)
    cause = generator.standard_normal((N, 2, 1))
    free[0, N : 2 * N] = 0.3 * (np.sqrt(0.8) * cause + np.sqrt(0.2) * free[0, N : 2 * N])
    return planted_inputs(monkeypatch, free, classes)


def test_a_shared_cause_and_a_narrow_range_are_found_in_their_class(planted) -> None:
    result = analyse(planted, Settings(n_halves=10))
    frame = result.frames["differences"]

    def ends(measure, name, of):
        found = frame.filter(measure=measure, of=of, **{"class": name})
        return found.select("low", "high").row(0)

    for of in ("under this model", "beyond other"):
        assert ends("entropy", "Guess", of)[1] < -0.2
        assert ends("information", "Guess", of)[0] > 0.1
        low, high = ends("information", "Recall", of)
        assert low < 0.01
        assert high > -0.01
    low, high = ends("entropy", "Guess", "under other")
    assert low < 0.01
    assert high > -0.01
    measures = result.frames["measures"]
    own = measures.filter(model="this model").group_by("class").agg(pl.col("above_shuffled").mean())
    above = dict(own.rows())
    said = frame.filter(measure="information", of="under this model", **{"class": "Guess"})
    assert said["difference"][0] == pytest.approx(above["Guess"] - above["Non-Memo"], rel=1e-12)
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
        halves = np.array([generator.permutation(200)[:100] for _ in range(n_halves)])
        return measure_group(codes, halves, chosen, n_bins=5, seed=0)

    fresh = [draw(1) for _ in range(200)]
    own = [draw(40) for _ in range(10)]
    for value, halves in (("entropy", "entropy_halves"), ("information", "information_halves")):
        wanted = np.std([getattr(one, value) for one in fresh])
        found = np.mean([getattr(one, halves).std(ddof=1) for one in own])
        # half of the samples have twice the bias and, of information, more spread: never less
        assert 0.67 * wanted < found < 2.5 * wanted


def test_the_printed_equation_is_another_number(planted) -> None:
    ours = analyse(planted, Settings(n_halves=10)).frames["measures"]
    theirs = analyse(planted, Settings(n_halves=10, published=True)).frames["measures"]
    assert (theirs["entropy"] < 0.6 * ours["entropy"]).all()  # p ln 1/p is at most 1/e
    assert theirs["information"].to_list() == ours["information"].to_list()


def test_groups_too_small_and_neurons_that_do_not_vary_are_refused(monkeypatch) -> None:
    classes = ["Non-Memo"] * 60 + ["Guess"] * 10
    still = np.ones((2, 120, 1, 4), dtype=np.float32)
    with pytest.raises(UserError, match="groups too small"):
        analyse(planted_inputs(monkeypatch, still, classes), Settings())
    inputs = planted_inputs(monkeypatch, still, ["Non-Memo"] * 60 + ["Guess"] * 60)
    with pytest.raises(UserError, match="0 of 4 neurons vary"):
        analyse(inputs, Settings())
    with pytest.raises(UserError, match="not labelled"):
        analyse(inputs, Settings(taxonomy="U"))
