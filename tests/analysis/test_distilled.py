"""A student that is the teacher, one that is the control, and one between them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from figure_columns import apart
from mnemoscope.analysis.distilled import (
    TEACHER,
    UNSEEN,
    Settings,
    StudentScores,
    _verdict,
    analyse,
    choose,
    divergence_of_maps,
    sentence_of,
    shares_of,
    told_by_kind,
)
from mnemoscope.analysis.inputs import OtherModel
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
from mnemoscope.stats import Estimate, rows_of
from tests.analysis.conftest import inputs_of
from tests.tiny_models import save_model

SMALL = Settings(n_maps=6, n_grafted=100, n_resamples=50, minimum=8)


def test_the_divergence_of_maps_is_that_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 2, 5, 5, generator=generator).tril() for _ in range(2))
    found = divergence_of_maps(first, second)
    wanted = [
        [
            np.mean([jensenshannon(a[q], b[q]) ** 2 for q in range(1, 5)])
            for a, b in zip(one, other, strict=True)
        ]
        for one, other in zip(first.numpy(), second.numpy(), strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-7)
    assert divergence_of_maps(first, 3 * first).abs().max() == pytest.approx(0, abs=1e-12)
    apart = torch.zeros(2, 1, 3, 3)
    apart[0, ..., 0], apart[1, ..., 1] = 1, 1
    assert divergence_of_maps(apart[0], apart[1]).item() == pytest.approx(np.log(2))


@pytest.fixture(scope="module")
def study(guessable):
    """Thirty memorized that can be guessed and thirty that cannot, fifteen unseen of either."""
    half = pl.int_range(pl.len()) % 2 == 0
    is_right = pl.col("is_memorized")
    labels = guessable.table.select(
        "sequence_id",
        pl.when(~is_right).then(pl.lit("Non-Memo")).when(half).then(pl.lit("Guess"))
        .otherwise(pl.lit("Recall")).alias("Non-Memo, Guess, Recall"),
        pl.when(~is_right).then(pl.lit("Non-Memo")).when(pl.col("duplicates") > 5)
        .then(pl.lit("Recite[5]")).otherwise(pl.lit("Others")).alias("Non-Memo, Recite[5], Others"),
    )  # fmt: skip
    return replace(guessable, labels=labels)


def of(result, name, model):
    return apart(result.frames[name]).filter(model=model)


def test_the_teacher_as_its_own_student_inherits_all_and_the_control_nothing(study, tmp_path):
    control = load_model(save_model(tmp_path / "control", seed=5))
    again = load_model(control.name)
    loads = {"control": lambda: control, "itself": study.load_model, "twin": lambda: again}
    others = tuple(OtherModel(*one) for one in loads.items())
    result = analyse(replace(study, others=others), SMALL)
    own, twin = (of(result, "shares", name) for name in ("itself", "twin"))
    assert own["class"].to_list() == ["Guess", "Recall", "Others", "Recite[5]", "unseen"]
    assert own["n"].to_list() == [30, 30, 30, 30, 30]
    assert own["share"].to_list() == [1, 1, 1, 1, 0]
    assert own["above"][:4].to_list() == [1] * 4  # a stranger reproduces none
    assert (own["gain"][:4] > 0).all()
    assert of(result, "shares", "teacher").drop("model").equals(own.drop("model"))
    assert (twin["above"] == 0).all()
    assert (twin["gain"] == 0).all()
    kinds, of_twin = (of(result, "kinds", name) for name in ("itself", "twin"))
    counted = kinds.select("kind", "n_seen", "n_unseen").rows()
    assert counted == [("Guess", 30, 15), ("Recall", 30, 15)]
    assert (kinds["auc"] > 0.95).all()
    assert of_twin.select("auc", "auc_low", "auc_high").rows() == [(0.5, 0.5, 0.5)] * 2
    maps = of(result, "maps", "itself")
    assert maps["js"].to_list() == pytest.approx([0, 0], abs=1e-9)
    assert (maps["js_closer_low"] > 0).all()
    assert (of(result, "maps", "twin")["mse_closer"] == 0).all()
    assert (of(result, "grafts", "twin")["specific"] == 0).all()
    assert "the student by itself, most of 2, reproduces 100.0 %" in result.sentence
    assert result.sentence.endswith("memorized text comes along by itself.")
    assert len(result.figures) == 3
    # The control in every part of the student is the control: what is lost is the gain.
    frame = result.frames["sequences"].filter(kind="Recall").sort("sequence_id")
    gain, base = (frame.filter(model=name)["logprob"].to_numpy() for name in ("itself", "control"))
    seen = frame.filter(model="itself")["seen"].to_numpy()
    grafts = of(result, "grafts", "itself")
    whole = grafts.filter(part="all").row(0, named=True)
    assert whole["lost_seen"] == pytest.approx((gain - base)[seen].mean(), abs=1e-5)
    assert whole["lost_unseen"] == pytest.approx((gain - base)[~seen].mean(), abs=1e-5)
    assert whole["specific"] == pytest.approx(whole["lost_seen"] - whole["lost_unseen"])
    parts = {"embedding", "qk", "values", "output", "mlp", "norms", "unembedding"}
    assert set(grafts["part"]) == {"all", *parts}


def test_a_student_of_another_shape_has_no_grafts_and_says_so(study, tmp_path) -> None:
    control = load_model(save_model(tmp_path / "control", seed=5))
    small = load_model(save_model(tmp_path / "small", seed=6, num_hidden_layers=1))
    others = (OtherModel("control", lambda: control), OtherModel("small", lambda: small))
    found = analyse(replace(study, others=others), SMALL)
    assert "grafts" not in found.frames
    assert any("small: of another shape" in line for line in found.further)
    assert "no student reproduces more than the control, 0.0 %" in found.sentence
    assert "from unseen text with ROC AUC" in found.sentence


def test_what_is_not_reproduced_stands_for_unseen_and_what_is_missing_is_said(study) -> None:
    others = (OtherModel("a", study.load_model), OtherModel("b", study.load_model))
    table = study.table.with_columns(duplicates=pl.lit(2))
    found = analyse(replace(study, table=table, others=others), SMALL)
    assert any("No sequence is counted to be unseen" in line for line in found.further)
    assert "kinds" not in found.frames
    assert ("unseen", 30) in of(found, "shares", "a").select("class", "n").rows()
    with pytest.raises(UserError, match="a student and a control are needed"):
        analyse(study, SMALL)
    with pytest.raises(UserError, match="no class, or not 'unseen', has 31 sequences"):
        analyse(replace(study, others=others), Settings(minimum=31))


def test_a_gain_that_depends_on_ease_alone_tells_nothing() -> None:
    """Better language helps where text is easy: seen and unseen text of a kind alike.

    400 seen and 400 unseen texts, equally easy; the teacher reproduces the easier half.
    """
    ease = np.tile(np.linspace(0, 1, 400), 2)
    inputs = inputs_of(None, np.zeros((800, 64), dtype=np.int32), ease > 0.5)
    table = inputs.table.with_columns(
        duplicates=pl.when(pl.int_range(pl.len()) < 400).then(9).otherwise(0),
        rouge_l=0.0, rouge_3=0.0, is_incrementing=False, is_repeating=False,
    )  # fmt: skip
    label = pl.when("is_memorized").then(pl.lit("Recall")).otherwise(pl.lit("Non-Memo"))
    labels = table.select("sequence_id", label.alias("Non-Memo, Guess, Recall"))
    inputs = replace(inputs, table=table, labels=labels)

    def told(settings, of_seen=0.0):
        rows, classes, _ = choose(inputs, settings)
        gain = ease[rows["sequence_id"].to_numpy()] + of_seen * rows["seen"].to_numpy()
        near = np.arange(rows.height)
        none = StudentScores(np.zeros(len(gain), dtype=bool), np.zeros(len(gain)))
        judged = {TEACHER: none, "control": none, "student": none._replace(logprob=gain)}
        return next(rows_of(told_by_kind(rows, judged, "control", near, settings))), gain, classes

    found, gain, classes = told(Settings())
    assert (found["n_seen"], found["n_unseen"]) == (400, 400)
    assert found["auc"].value == pytest.approx(0.5, abs=1e-12)
    # What the teacher reproduces, against the unseen text that it does not, would be "told".
    assert gain[classes["Recall"]].min() > gain[classes[UNSEEN]].max()
    assert told(Settings(), of_seen=0.5)[0]["auc"].low > 0.8
    # A hundred a side are drawn of seen and unseen, beside those drawn for classes.
    found, _, classes = told(Settings(per_class=100))
    assert classes["Recall"].sum() > 100
    assert (found["n_seen"], found["n_unseen"]) == (100, 100)
    assert found["auc"].low < 0.5 < found["auc"].high


def test_the_best_of_many_students_is_judged_as_one_of_many() -> None:
    """11 of 95 more: 2.3 standard errors, enough for one student, not for the best of eight."""
    right, base = np.zeros(95, dtype=bool), np.zeros(95, dtype=bool)
    right[:18], base[18:25] = True, True
    level = np.zeros(95)
    all_of_them = {"Recall": np.ones(95, dtype=bool)}
    said = []
    for n in (1, 8):
        judged = {TEACHER: StudentScores(~base, level), "control": StudentScores(base, level)}
        judged |= {f"idle {one}": StudentScores(base, level) for one in range(n - 1)}
        shares = shares_of(
            all_of_them, judged | {"best": StudentScores(right, level)}, "control", np.arange(95)
        )
        said.append(sentence_of(shares, pl.DataFrame(), "control"))
    assert said[0].endswith("memorized text comes along by best.")
    assert "best, most of 8," in said[1]
    assert said[1].endswith("all 8 students: nothing that can be told from the control.")


@pytest.mark.parametrize(
    ("auc", "said"),
    [
        (Estimate(0.154, 0.067, 0.250), "best gains less on text that the teacher was trained on"),
        (Estimate(0.45, 0.3, 0.6), "nothing that can be told from the control"),
        (Estimate(0.9, 0.8, 0.95), "a trace of the memorized text comes along by best"),
    ],
)
def test_less_than_chance_is_told_from_the_control_the_other_way_round(auc, said) -> None:
    of = {"best": {"above": Estimate(0.0, -0.1, 0.1)}}
    told = {"best": {"gain": Estimate(0.2, 0.1, 0.3), "auc": auc}}
    assert said in _verdict(of, told, ["best"])


def test_a_student_that_differs_from_the_control_is_never_said_not_to() -> None:
    """Fewer texts than the control, and an AUC beyond chance without a gain, can both be told."""
    less = {"best": {"above": Estimate(-0.57, -0.73, -0.39)}}
    assert _verdict(less, {}, ["best"]).endswith("come out by best than in the control")
    same = {"best": {"above": Estimate(0.0, -0.1, 0.1)}}
    told = {"best": {"gain": Estimate(-0.2, -0.3, -0.1), "auc": Estimate(0.705, 0.580, 0.819)}}
    said = _verdict(same, told, ["best"])
    assert said.startswith("no memory comes along; best finds text that the teacher was trained on")
    assert said.endswith("even less likely, so the two differ in more than memory")


@pytest.mark.parametrize("above", [Estimate(0.0, -0.1, 0.1), Estimate(-0.2, -0.35, -0.05)])
def test_a_gain_whose_interval_holds_0_is_not_said_to_be_none(above) -> None:
    """The figures of logits:js on the page: AUC beyond chance, and a gain that may be either."""
    undecided = {"gain": Estimate(0.04, -0.01, 0.08), "auc": Estimate(0.705, 0.580, 0.819)}
    said = _verdict({"best": {"above": above}}, {"best": undecided}, ["best"])
    assert said.startswith("it is not shown that memory comes along; ")
    assert said.endswith(
        "best tells such text from unseen text, but it cannot be told whether it finds it likelier "
        "than the control does"
    )
    assert ("fewer of these come out by best" in said) is (above.value < 0)
    assert "more than memory" not in said
