"""The verb distill: a whole student with its card, texts left out, refusals, Ctrl-C."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from mnemoscope.data.table import token_matrix
from mnemoscope.errors import DamagedDataError
from mnemoscope.flow import distill as flow
from mnemoscope.flow.distill import exclude_windows, read_card, student_names, unlike_control
from mnemoscope.lm.load import load_model

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Forty windows that no study holds."""
    rows = np.random.default_rng(7).integers(1, 300, (40, 64)).tolist()
    path = tmp_path_factory.mktemp("texts") / "texts.parquet"
    pl.DataFrame({"tokens": pl.Series(rows, dtype=pl.List(pl.Int32))}).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def train(tiny, texts):
    def train(out, *more):
        return ("distill", tiny.model, "--texts", texts, "--batch-size", 4, "--steps", 3,
                "--width", 0.5, "--layers", 1, "-q", "-o", out, *more)  # fmt: skip

    return train


def test_a_student_is_written_with_its_card_and_can_be_analysed(
    train, tiny, study_at, tmp_path, call, succeed
):
    student, control = tmp_path / "a" / "student", tmp_path / "control"
    first = succeed(*train(student, "--losses", "data,logits:kl=2,hidden:mse"))
    assert "1 layers of 16" in first.out
    card = read_card(student)
    assert card["losses"] == ["data", "logits:kl=2", "hidden:mse"]
    assert card["texts"]["windows"] == 40
    assert len(card["texts"]["sha256"]) == 64
    assert card["versions"]["accelerate"]
    lm = load_model(student)
    assert (lm.n_layers, lm.model.config.hidden_size) == (1, 16)
    assert lm.fingerprint == card["fingerprint"] != card["student"]["fingerprint_before"]
    assert sorted(one.name for one in (tmp_path / "a").iterdir()) == ["student"]
    succeed(*train(control, "--losses", "data"))
    assert unlike_control(str(control), [str(student)]) == []
    study = study_at("report")
    asked = ("analyze", "distilled", study, "--student", student, "--control", control,
             "--set", "n_maps=4", "--set", "n_grafted=20", "-q")  # fmt: skip
    found = succeed(*asked)
    assert "the student by data+logits:kl+hidden:mse" in found.out
    stored = json.loads((study / "analysis" / "distilled" / "result.json").read_text())
    assert [name for name, _ in stored["inputs"]["others"]] == [str(control), str(student)]
    assert "nothing to do" in call(*asked).out
    assert read_card(tmp_path / "nothing") is None
    (tmp_path / flow.CARD).write_text("{")
    with pytest.raises(DamagedDataError, match="train the student again"):
        read_card(tmp_path)
    # a student that was made otherwise is made known
    other = tmp_path / "other"
    succeed(*train(other, "--seed", 1))
    (line,) = unlike_control(str(control), [str(other)])
    assert "another beginning and other steps" in line
    (line,) = unlike_control(str(tiny.model), [str(other)])
    assert "is not known" in line
    shutil.copytree(student, tmp_path / "copy")
    names = student_names([str(student), str(tmp_path / "copy"), str(control), str(tiny.model)])
    assert names[2:] == ["data", "model"]
    assert all(name.startswith("data+logits:kl+hidden:mse (") for name in names[:2])


def test_windows_that_share_tokens_are_left_out(train, tiny, texts, study_at, tmp_path, succeed):
    """By brute force: every stretch of every window against every stretch of every sequence."""
    rng = np.random.default_rng(0)
    rows, sequences = (rng.integers(0, 3, (60, 12)).astype(np.int32) for _ in range(2))
    shared = 6

    def stretches(row):
        return {tuple(row[at : at + shared]) for at in range(12 - shared + 1)}

    known = set().union(*map(stretches, sequences[:20]))
    wanted = [row for row in rows if not stretches(row) & known]
    assert 0 < len(wanted) < 60
    found = exclude_windows(rows, [sequences[:10], sequences[10:20]], shared)
    assert np.array_equal(found, wanted)

    # of a study only what is memorized is left out; moved windows are known again
    study = study_at("report")
    from mnemoscope.study.folder import Study

    table = Study(study).sequences
    memorized, others = (
        token_matrix(table.filter(pl.col("is_memorized") == side))[:6] for side in (True, False)
    )
    moved = np.concatenate([memorized[:, 20:], rng.integers(1, 300, (6, 20))], axis=1)
    mixed = np.concatenate([moved, others, token_matrix(pl.read_parquet(texts))])
    path = tmp_path / "mixed.parquet"
    lists = pl.Series("tokens", mixed.astype(np.int32).tolist(), dtype=pl.List(pl.Int32))
    pl.DataFrame({"tokens": lists}).write_parquet(path)
    arguments = list(train(tmp_path / "out", "--exclude", study))
    arguments[arguments.index("--texts") + 1] = path
    succeed(*arguments)
    of = read_card(tmp_path / "out")["texts"]
    assert (of["excluded"], of["windows"], of["shared"]) == (6, 46, 24)


def test_ctrl_c_leaves_no_student_and_a_second_run_goes_on(
    train, tmp_path, call, succeed, stopped_at
):
    out = tmp_path / "out"
    from mnemoscope.training import distill

    with stopped_at(distill, "losses_of", 3):
        stopped = call(*train(out))
    assert stopped.status == 130
    assert "Run the same command again: it goes on" in stopped.err
    assert not out.exists()
    work = tmp_path / ".out.training"
    assert list(work.glob("checkpoint-*"))
    with stopped_at(distill, "losses_of") as calls:
        succeed(*train(out))
    assert len(calls) == 1  # the last of three steps
    assert read_card(out)["steps"] == 3
    assert not work.exists()
    # another training does not go on from it
    with stopped_at(distill, "losses_of", 3):
        assert call(*train(tmp_path / "new")).status == 130
    succeed(*train(tmp_path / "new", "--seed", 3))
    card = read_card(tmp_path / "new")
    assert (card["steps"], card["training"]["seed"]) == (3, 3)
