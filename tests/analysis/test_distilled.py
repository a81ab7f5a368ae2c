"""A student that is the teacher, one that is the control, and one between them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from mnemoscope.analysis.distilled import Settings, analyse, divergence_of_maps
from mnemoscope.analysis.inputs import OtherModel
from mnemoscope.errors import UserError
from mnemoscope.lm.load import load_model
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
def study(taught):
    """The first 45 can be guessed; thirty memorized of either kind, fifteen unseen."""
    half = pl.int_range(pl.len()) < 45
    table = taught.table.with_columns(
        rouge_l=pl.when(half).then(1.0).otherwise(0.0),
        is_incrementing=False,
        is_repeating=False,
        rouge_3=0.0,
    )
    is_right = pl.col("is_memorized")
    labels = table.select(
        "sequence_id",
        pl.when(~is_right).then(pl.lit("Non-Memo")).when(half).then(pl.lit("Guess"))
        .otherwise(pl.lit("Recall")).alias("Non-Memo, Guess, Recall"),
        pl.when(~is_right).then(pl.lit("Non-Memo")).when(pl.col("duplicates") > 5)
        .then(pl.lit("Recite[5]")).otherwise(pl.lit("Others")).alias("Non-Memo, Recite[5], Others"),
    )  # fmt: skip
    return replace(taught, table=table, labels=labels)


@pytest.fixture(scope="module")
def result(study, tmp_path_factory):
    """Students: the teacher itself, and the control itself."""
    control = load_model(save_model(tmp_path_factory.mktemp("c") / "control", seed=5))
    again = load_model(control.name)
    others = (
        OtherModel("control", lambda: control),
        OtherModel("itself", study.load_model),
        OtherModel("twin", lambda: again),
    )
    return analyse(replace(study, others=others), SMALL)


def test_the_teacher_as_its_own_student_inherits_all(result) -> None:
    shares = result.frames["shares"]
    own = shares.filter(pl.col("model") == "itself")
    assert own["class"].to_list() == ["Guess", "Recall", "Others", "Recite[5]", "unseen"]
    assert own["n"].to_list() == [30, 30, 30, 30, 30]
    assert own["share"].to_list() == [1, 1, 1, 1, 0]
    assert own["above"][:4].to_list() == [1] * 4  # a stranger reproduces none
    assert (own["gain"][:4] > 0).all()
    assert (own["auc"][:4] > 0.95).all()
    teacher = shares.filter(model="teacher").drop("model")
    assert teacher.equals(own.drop("model"))
    maps = result.frames["maps"].filter(model="itself")
    assert maps["js"].to_list() == pytest.approx([0, 0], abs=1e-9)
    assert (maps["js_closer_low"] > 0).all()
    assert (
        "the student by itself, which reproduces most of 2, reproduces 100.0 %" in result.sentence
    )
    assert result.sentence.endswith("memorized text comes along.")
    assert len(result.figures) == 3


def test_the_control_as_a_student_inherits_nothing(result) -> None:
    own = result.frames["shares"].filter(model="twin")
    assert (own["above"] == 0).all()
    assert (own["gain"] == 0).all()
    assert (own["auc"].drop_nulls() == 0.5).all()
    assert (own["auc_low"].drop_nulls() == 0.5).all()
    maps = result.frames["maps"].filter(model="twin")
    assert (maps["mse_closer"] == 0).all()
    grafts = result.frames["grafts"].filter(model="twin")
    assert (grafts["specific"] == 0).all()


def test_a_graft_of_all_takes_the_whole_gain(result) -> None:
    """The control in every part of the student is the control: what is lost is the gain."""
    frame = result.frames["sequences"].filter(kind="Recall").sort("sequence_id")
    own, base = (frame.filter(model=name)["logprob"].to_numpy() for name in ("itself", "control"))
    seen = frame.filter(model="itself")["seen"].to_numpy()
    whole = result.frames["grafts"].filter(model="itself", part="all").row(0, named=True)
    assert whole["lost_seen"] == pytest.approx((own - base)[seen].mean(), abs=1e-5)
    assert whole["lost_unseen"] == pytest.approx((own - base)[~seen].mean(), abs=1e-5)
    assert whole["specific"] == pytest.approx(whole["lost_seen"] - whole["lost_unseen"])
    parts = set(result.frames["grafts"]["part"])
    assert parts == {
        "all", "embedding", "qk", "values", "output", "mlp", "norms", "unembedding"
    }  # fmt: skip


def test_a_student_of_another_shape_has_no_grafts_and_says_so(study, tmp_path) -> None:
    control = load_model(save_model(tmp_path / "control", seed=5))
    small = load_model(save_model(tmp_path / "small", seed=6, num_hidden_layers=1))
    others = (OtherModel("control", lambda: control), OtherModel("small", lambda: small))
    found = analyse(replace(study, others=others), SMALL)
    assert "grafts" not in found.frames
    assert any("small: of another shape" in line for line in found.further)
    assert "no student reproduces more than the control, 0.0 %" in found.sentence
    assert "from unseen ones with ROC AUC" in found.sentence


def test_what_is_not_reproduced_stands_for_unseen_where_none_is_counted(study) -> None:
    others = (OtherModel("a", study.load_model), OtherModel("b", study.load_model))
    table = study.table.with_columns(duplicates=pl.lit(2))
    found = analyse(replace(study, table=table, others=others), SMALL)
    assert any("No sequence is counted to be unseen" in line for line in found.further)
    counts = found.frames["shares"].filter(model="a").select("class", "n").rows()
    assert ("unseen", 30) in counts


def test_what_is_missing_is_said(study) -> None:
    with pytest.raises(UserError, match="a student and a control are needed"):
        analyse(study, SMALL)
    others = (OtherModel("a", study.load_model), OtherModel("b", study.load_model))
    with pytest.raises(UserError, match="no class, or not 'unseen', has 31 sequences"):
        analyse(replace(study, others=others), Settings(minimum=31))
