"""PSMI and memorization: AUC and FPR against sklearn, a planted relation, refusals."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from mnemoscope.analysis.inputs import AnalysisInputs, OtherModel
from mnemoscope.analysis.psmi import Settings, analyse, separation, within_labels
from mnemoscope.errors import UserError

FAST = {"n_directions": 200, "n_resamples": 50, "minimum": 5}


def test_auc_and_fpr_are_sklearns() -> None:
    generator = np.random.default_rng(0)
    memorized = generator.random(300) < 0.4
    values = np.round(generator.standard_normal(300) - 0.8 * memorized, 1)  # with ties
    found = separation(values, memorized, seed=0, n_resamples=100)
    assert found.auc == pytest.approx(roc_auc_score(memorized, -values))
    fpr, tpr, _ = roc_curve(memorized, -values, drop_intermediate=False)
    assert found.fpr == pytest.approx(fpr[np.argmax(tpr >= 0.75)])
    assert found.auc_low < found.auc < found.auc_high
    assert found.fpr_low <= found.fpr <= found.fpr_high
    assert np.isnan(separation(values, np.ones(300), seed=0, n_resamples=50).auc)


def test_within_labels_a_label_alone_gives_nothing() -> None:
    """Values that only tell the label: AUC far from .5 over all, .5 within."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 4, 800)
    memorized = generator.random(800) < 0.2 * (labels + 1)
    values = -labels + 1e-3 * generator.standard_normal(800)
    over_all = separation(values, memorized, seed=0, n_resamples=50)
    inside = within_labels(values, memorized, labels, seed=0, n_resamples=50)
    assert over_all.auc_low > 0.6
    assert inside[1] < 0.5 < inside[2]
    # by hand: the mean of sklearn's AUCs, weighted by pairs
    parts = [labels == one for one in range(4)]
    weights = [memorized[p].sum() * (~memorized[p]).sum() for p in parts]
    wanted = np.average([roc_auc_score(memorized[p], -values[p]) for p in parts], weights=weights)
    assert inside[0] == pytest.approx(wanted)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> AnalysisInputs:
    """States that tell the token well, but where the sequence is memorized: then they mislead."""
    generator = np.random.default_rng(2)
    n = 400
    token = generator.integers(0, 2, n)
    memorized = generator.random(n) < 0.3
    seen = np.where(memorized, 1 - token, token)
    states = generator.standard_normal((n, 2, 4, 6)).astype(np.float32)
    states[:, 1, -1, 0] += 3.0 * seen  # layer 1 and earlier tokens know nothing, layer 2 does

    def given(lm, tokens, *, batch_size, layers, positions):
        assert np.asarray(tokens).shape == (n, 4)
        assert list(layers) == [1, 2]
        return iter([states[:, :, positions]])

    monkeypatch.setattr("mnemoscope.lm.probe.hidden_states", given)
    monkeypatch.setattr("mnemoscope.analysis.inputs.count_forwards", lambda lm, forwards: lm)
    table = pl.DataFrame(
        {
            "sequence_id": range(n),
            "tokens": [[0, 0, 0, 0, one, 0, 0, 0] for one in token],
            "is_memorized": memorized,
        }
    )
    model = type("Model", (), {"n_layers": 2})()
    return AnalysisInputs(
        where="s",
        table=table,
        load_model=lambda: model,
        length=8,
        others=(OtherModel("other", lambda: model),),
    )


def test_a_planted_relation_is_found_at_its_layer(planted: AnalysisInputs) -> None:
    result = analyse(planted, Settings(**FAST))
    layers = result.frames["layers"].filter(model="this model")
    assert layers["auc_low"][1] > 0.7
    assert layers["auc_low"][0] < 0.52  # in-sample fit of two labels gives next to nothing
    assert layers["auc_high"][0] > 0.48
    assert abs(layers["shuffled"][1]) < 0.02
    assert layers["memorized"][1] < 0 < layers["not_memorized"][1]
    assert result.sentence.startswith("At the last layer low PSMI goes with memorization")
    assert result.frames["sequences"].height == 400
    models = result.frames["layers"]["model"].unique(maintain_order=True)
    assert models.to_list() == ["this model", "other"]


def test_the_class_as_label_gives_no_auc(planted: AnalysisInputs) -> None:
    with pytest.raises(UserError, match="mnemoscope label"):
        analyse(planted, Settings(label="class", **FAST))
    word = pl.when("is_memorized").then(pl.lit("Recall")).otherwise(pl.lit("Non-Memo"))
    labels = planted.table.select("sequence_id", T=word)
    inputs = AnalysisInputs(**{**planted.__dict__, "labels": labels})
    result = analyse(inputs, Settings(label="class", **FAST))
    assert "tells the class" in result.sentence
    assert result.frames["layers"]["within"].is_nan().all()
    with pytest.raises(UserError, match="not labelled"):
        analyse(inputs, Settings(taxonomy="U", **FAST))


def test_too_few_of_a_label_or_one_sided_is_refused(planted: AnalysisInputs) -> None:
    with pytest.raises(UserError, match="fewer than two labels"):
        analyse(planted, Settings(minimum=300, n_resamples=50))
    table = planted.table.with_columns(is_memorized=pl.lit(True))
    inputs = AnalysisInputs(**{**planted.__dict__, "table": table})
    with pytest.raises(UserError, match="all are memorized, or none"):
        analyse(inputs, Settings(**FAST))
