"""PSMI against integration on Gaussian classes, AUC against sklearn, a planted relation found."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from transformers import AutoModelForCausalLM

from mnemoscope.analysis.psmi import (
    Settings,
    _labelled,
    _sentence,
    analyse,
    sliced_information,
    within_labels,
)
from mnemoscope.analysis.registry import entry_named
from mnemoscope.data.table import read_table, without_padding
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.errors import UserError
from mnemoscope.flow.analyze import AnalysisRequest, run_or_read
from mnemoscope.flow.run import run
from mnemoscope.stats import FIGURE, Estimate, frame_of, rows_of, separation
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import parse_settings
from tests.analysis.conftest import assert_copies_tell_nothing_new

FAST = {"n_directions": 200, "n_resamples": 50, "minimum": 5}


def gaussian_classes(n: int, gap: float, width: int = 1, seed: int = 0):
    """Two classes of n rows each, unit spread, means 0 and (gap, 0, …)."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n)
    vectors = generator.standard_normal((2 * n, width))
    vectors[n:, 0] += gap
    return vectors, labels


def information(gap: float) -> float:
    """Mutual information of two equal unit normals `gap` apart and their label, integrated."""

    def part(z: float) -> float:
        mixed = 0.5 * norm.pdf(z) + 0.5 * norm.pdf(z, gap)
        return norm.pdf(z) * (norm.logpdf(z) - np.log(mixed))

    return quad(part, -12, 12 + gap)[0]  # the other class is its mirror image


def test_in_the_plane_it_is_the_mean_over_angles() -> None:
    """A direction at angle a sees the gap times cos a."""
    wanted = quad(lambda a: information(2.5 * np.cos(a)), 0, np.pi / 2)[0] / (np.pi / 2)
    found = sliced_information(*gaussian_classes(2_000, 2.5, width=2), seed=1, n_directions=500)
    # 500 directions: standard error .009; 4,000 rows: .007
    assert found.values.mean() == pytest.approx(wanted, abs=0.03)


def test_each_row_is_its_own_logarithm_of_densities() -> None:
    """On one axis, row by row, from scipy's densities with the labels' own mean and spread."""
    vectors, labels = gaussian_classes(40, 1.5)
    labels[:7] = 1  # unequal classes
    z = vectors[:, 0]
    parts = [z[labels == one] for one in (0, 1)]
    density = np.stack([norm.pdf(z, part.mean(), part.std()) for part in parts])
    share = np.array([len(part) / 80 for part in parts])
    wanted = np.log(density[labels, np.arange(80)] / (share @ density))
    found = sliced_information(vectors, labels, seed=3, n_directions=3)
    np.testing.assert_allclose(found.values, wanted, atol=1e-5)  # the mixture is in float32


def test_the_automatic_stop_is_near_many_directions() -> None:
    """The published bar: the mean error against 20,000 directions is below .01."""
    vectors, labels = gaussian_classes(60, 2.0, width=16)
    found = sliced_information(vectors, labels, seed=0)
    many = sliced_information(vectors, labels, seed=9, n_directions=20_000)
    assert found.settled
    assert 1_000 <= found.n_directions <= 6_000
    assert found.n_directions % 500 == 0
    assert np.abs(found.values - many.values).mean() < 0.01
    few = sliced_information(*gaussian_classes(60, 0.0, width=16), seed=0, max_directions=500)
    assert (few.settled, few.n_directions) == (False, 500)
    # One axis of 64 tells: more are needed. The change of a mean from half of K directions to all
    # is .8 spread / sqrt(K) on average, and the rule stops somewhat before that is 5 %.
    vectors, labels = gaussian_classes(60, 2.0, width=64)
    found = sliced_information(vectors, labels, seed=0)
    lowest = np.argsort(found.values)[:6]
    each = [sliced_information(vectors, labels, seed=i, n_directions=1) for i in range(300)]
    spread = np.std([one.values[lowest] for one in each], axis=0)
    needed = (0.8 * (spread / np.abs(found.values[lowest])).mean() / 0.05) ** 2
    assert found.settled
    assert max(6_000, needed / 4) < found.n_directions < 2 * needed


def test_what_would_underflow_is_finite_and_what_has_no_answer_is_refused() -> None:
    """A row 200 spreads off, and a label whose rows are all one point."""
    vectors, labels = gaussian_classes(2_000, 1.0)
    for rows, value in ((labels * 0 == np.arange(4_000), 200.0), (labels == 1, 2.0)):
        vectors[rows] = value
        found = sliced_information(vectors, labels, seed=0, n_directions=2)
        assert np.isfinite(found.values).all()
    vectors, labels = gaussian_classes(10, 1.0)
    torn = np.where(np.arange(20)[:, None] == 3, np.nan, vectors)
    for bad, of, words in (
        (vectors, np.zeros(20), "1 labels"),
        (vectors, [*labels[:-1], 7], "smallest of 1"),
        (vectors, labels[:-1], "do not fit"),
        (torn, labels, "not finite"),
    ):
        with pytest.raises(UserError, match=words):
            sliced_information(bad, of, seed=0)


def test_auc_and_fpr_are_sklearns() -> None:
    generator = np.random.default_rng(0)
    memorized = generator.random(300) < 0.4
    values = np.round(generator.standard_normal(300) - 0.8 * memorized, 1)  # with ties
    found = separation(values, memorized, seed=0, n_resamples=100)
    assert found.auc.value == pytest.approx(roc_auc_score(memorized, -values))
    fpr, tpr, _ = roc_curve(memorized, -values, drop_intermediate=False)
    assert found.fpr.value == pytest.approx(fpr[np.argmax(tpr >= 0.75)])
    assert found.auc.low < found.auc.value < found.auc.high
    assert found.fpr.low <= found.fpr.value <= found.fpr.high
    assert np.isnan(separation(values, np.ones(300), seed=0, n_resamples=50).auc.value)


def test_within_labels_a_label_alone_gives_nothing_and_pairs_are_drawn_by_group() -> None:
    """Values that only tell the label: AUC far from .5 over all, .5 within."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 4, 800)
    memorized = generator.random(800) < 0.2 * (labels + 1)
    values = -labels + 1e-3 * generator.standard_normal(800)
    assert separation(values, memorized, seed=0, n_resamples=50).auc.low > 0.6
    inside = within_labels(values, memorized, labels, seed=0, n_resamples=50)
    assert inside.low < 0.5 < inside.high
    # by hand: the mean of sklearn's AUCs, weighted by pairs
    parts = [labels == one for one in range(4)]
    weights = [memorized[p].sum() * (~memorized[p]).sum() for p in parts]
    wanted = np.average([roc_auc_score(memorized[p], -values[p]) for p in parts], weights=weights)
    assert inside.value == pytest.approx(wanted)
    labels, memorized = generator.integers(0, 3, 90), np.arange(90) % 2 == 0
    values = generator.standard_normal(90) - 0.6 * memorized

    def measure(rows, groups):
        asked = {"seed": 0, "n_resamples": 300, "groups": groups}
        return [within_labels(values[rows], memorized[rows], labels[rows], **asked)]

    assert_copies_tell_nothing_new(measure, 90)


@pytest.fixture
def planted(monkeypatch, inputs_with):
    """States that tell the token well, but where the sequence is memorized: then they mislead."""
    generator = np.random.default_rng(2)
    n = 400
    token = generator.integers(0, 2, n)
    memorized = generator.random(n) < 0.3
    seen = np.where(memorized, 1 - token, token)
    states = generator.standard_normal((n, 2, 4, 6)).astype(np.float32)
    states[:, 1, -1, 0] += 3.0 * seen  # layer 1 and earlier tokens know nothing, layer 2 does

    def given(lm, tokens, *, batch_size, layers, positions, attention_mask):
        assert attention_mask is None
        assert np.asarray(tokens).shape == (n, 4)
        assert list(layers) == [1, 2]
        return iter([states[:, :, positions]])

    monkeypatch.setattr("mnemoscope.analysis.psmi.hidden_states", given)
    tokens = [[0, 0, 0, 0, one, 0, 0, 0] for one in token]
    table = pl.DataFrame({"sequence_id": range(n), "tokens": tokens, "is_memorized": memorized})
    model = SimpleNamespace(n_layers=2)
    return inputs_with(table, model, {"other": model}, length=8)


@pytest.mark.parametrize(
    ("beyond", "said"),
    [
        (Estimate(-0.188, -0.263, -0.107), "mislabelled, but less so than before: ROC AUC"),
        (Estimate(-0.034, -0.109, 0.045), "but it cannot be told whether more so than before: ROC"),
        (Estimate(0.0, 0.0, 0.0), "but it cannot be told whether more so than before: ROC AUC"),
        (Estimate(0.171, 0.128, 0.215), "low PSMI goes with mislabelled: ROC AUC"),
        (Estimate(None), "low PSMI goes with mislabelled: ROC AUC"),
    ],
)
def test_low_psmi_is_said_to_be_more_or_less_than_beside_only_where_it_is(beyond, said) -> None:
    """The first two are of the page's encoder, fitted and after 8 epochs."""
    means = {"memorized": 0.9, "not_memorized": 1.0, "shuffled": 0.02}
    row = {"model": "this model", "auc": Estimate(0.589, 0.523, 0.654), "beyond": beyond}
    frame = frame_of([row | means], {"model": pl.String, "auc": FIGURE, "beyond": FIGURE}
                     | dict.fromkeys(means, pl.Float64))  # fmt: skip
    assert said in _sentence(frame, "before", "mislabelled")


def test_a_planted_relation_is_found_at_its_layer(planted) -> None:
    result = analyse(planted, Settings(**FAST))
    first, second = rows_of(result.frames["layers"].filter(model="this model"))
    assert second["auc"].low > 0.7
    # in-sample fit of two labels gives next to nothing
    assert first["auc"].low < 0.52
    assert first["auc"].high > 0.48
    assert abs(second["shuffled"]) < 0.02
    assert second["memorized"] < 0 < second["not_memorized"]
    assert result.sentence.startswith("At the last layer low PSMI goes with memorization")
    # the other model has the same states
    assert [(*one,) for one in (first["beyond"], second["beyond"])] == [(0, 0, 0)] * 2
    assert "(+0.000 [0.000, 0.000] beside other)" in result.sentence
    assert result.frames["sequences"].height == 400
    models = result.frames["layers"]["model"].unique(maintain_order=True)
    assert models.to_list() == ["this model", "other"]
    turned = planted.table.with_columns(pl.col("is_memorized").not_())
    result = analyse(replace(planted, table=turned), Settings(**FAST))
    assert "high PSMI, not low, goes with memorization" in result.sentence


def test_too_few_of_a_label_and_an_unknown_taxonomy_are_refused(planted) -> None:
    word = pl.when("is_memorized").then(pl.lit("Recall")).otherwise(pl.lit("Non-Memo"))
    labelled = replace(planted, labels=planted.table.select("sequence_id", T=word))
    one_sided = replace(planted, table=planted.table.with_columns(is_memorized=pl.lit(True)))
    for inputs, settings, said in (
        (planted, {"taxonomy": "T"}, "mnemoscope label"),
        (labelled, {"taxonomy": "U"}, "not labelled"),
        (one_sided, {}, "all are memorized, or none"),
    ):
        with pytest.raises(UserError, match=said):
            analyse(inputs, Settings(**FAST | settings))


def test_the_minimum_that_is_advised_works(planted) -> None:
    few = r"fewer than two labels .* It works with minimum=\d+\.$"
    with pytest.raises(UserError, match=few) as told:
        analyse(planted, Settings(**FAST | {"minimum": 300}))
    advised = int(re.search(r"minimum=(\d+)", str(told.value))[1])
    assert analyse(planted, Settings(**FAST | {"minimum": advised})).frames["layers"].height
    with pytest.raises(UserError, match="fewer than two labels"):
        analyse(planted, Settings(**FAST | {"minimum": advised + 1}))
    # All that share the two larger labels are memorized: the third one's size is advised.
    labels = [1] * 9 + [2] * 8 + [3] * 4
    table = pl.DataFrame({"tokens": [[0, one] for one in labels]}).with_columns(
        is_memorized=pl.int_range(pl.len()) < 19
    )
    for minimum, said in ((9, "fewer than two"), (8, "all are memorized")):
        with pytest.raises(UserError, match=f"{said}.*minimum=4\\."):
            _labelled(table, 1, Settings(minimum=minimum))
    found, shared = _labelled(table, 1, Settings(minimum=4))
    assert (found.height, shared) == (21, 4)
    assert _labelled(table, 1, Settings())[1] == 4  # no two have 20: the most that serves
    with pytest.raises(UserError, match=r"share\. Take more sequences\."):
        _labelled(table[:9], 1, Settings())


PROMPT = 31


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Prompts of 8 to 31 tokens of the shipped model, each with an answer of one token."""
    table, rng = read_table(sequences_path()), np.random.default_rng(0)
    named = table.with_columns(pl.col("tokens").list.get(PROMPT).alias("answer"))
    common = named["answer"].value_counts(sort=True)["answer"].head(4)
    kept = [row for one in common for row in named.filter(answer=one)["tokens"].head(10).to_list()]
    rows = [row[rng.integers(0, 24) : PROMPT + 1] for row in kept]
    folder = tmp_path_factory.mktemp("questions")
    source = folder / "questions.jsonl"
    source.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    asked = {"source": str(source), "prefix": PROMPT, "suffix": 1, "pad": "left"}
    study = run(
        parse_settings({"sequences": asked}, where="test"), folder / "study", until="continue"
    )
    assert without_padding(study.sequences) == rows
    return study


def test_prompts_of_many_lengths_are_each_read_alone(questions: Study) -> None:
    """Oracle: transformers' own hidden states of each prompt by itself, and its argmax."""
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32).eval()
    states, right = [], []
    for *prompt, answer in without_padding(questions.sequences):
        with torch.inference_mode():
            found = model(torch.tensor([prompt]), output_hidden_states=True)
        right.append(int(found.logits[0, -1].argmax()) == answer)
        states.append(found.hidden_states[-1][0, -1].numpy())
    assert questions.sequences["is_memorized"].to_list() == right
    values = {"n_directions": 50, "n_resamples": 50, "minimum": 2}
    psmi, models = entry_named("psmi"), Models(questions.settings)
    done = run_or_read(questions, psmi, AnalysisRequest(values=values), models)
    table = questions.sequences.with_columns(answer=pl.col("tokens").list.get(PROMPT))
    kept = table.select(pl.len().over("answer") >= 2).to_series().to_numpy()
    answers = table["answer"].cast(pl.String).to_numpy()[kept]
    wanted = sliced_information(np.stack(states)[kept], answers, seed=0, n_directions=50)
    ours = pl.read_parquet(done.folder / "sequences.parquet")["this model, layer 4"].to_numpy()
    assert ours == pytest.approx(wanted.values, abs=1e-4)
