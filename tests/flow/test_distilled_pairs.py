"""Students of a teacher of pictures: trained, resumed, asked; what a planted student inherits."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import mnemoscope as ms
from experiments.vlm.run import CONTROL, STUDENTS
from mnemoscope.errors import UserError
from mnemoscope.flow.distill import (
    ANSWERS,
    DistillAsked,
    distill,
    read_card,
    student_names,
    unlike_control,
)
from mnemoscope.flow.pairs import read_pairs
from mnemoscope.lm.vision import encode_pairs, judge_pairs, load_vision, write_answers
from mnemoscope.training.distill import KINDS, DistillSettings, look, losses_of, parse_losses
from refusals import refusal
from tests.tiny_models import save_pictures, save_vision_model

N = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher that was taught the first half of the rows, another network, and the rows."""
    folder = tmp_path_factory.mktemp("pairs")
    save_vision_model(folder / "other", seed=1)
    paths = save_pictures(folder / "pictures", N)
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "image": [f"pictures/{one.name}" for one in paths],
            "prompt": ["say it"] * N,
            "text": ["".join(rng.choice([*"abcdefgh"], 3)) for _ in range(N)],
            "duplicates": [3] * (N // 2) + [0] * (N // 2),
        }
    )
    table.write_parquet(folder / "rows.parquet")
    lm = load_vision(save_vision_model(folder / "fresh"))
    batch = encode_pairs(lm, read_pairs(lm, folder / "rows.parquet").pairs[: N // 2])
    optimizer = torch.optim.Adam(lm.model.parameters(), 1e-2)
    losses = parse_losses("data")
    for _ in range(60):
        loss = losses_of(look(lm.model, batch, [], losses), None, batch, losses)["data"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lm.model.save_pretrained(folder / "teacher")
    lm.processor.save_pretrained(folder / "teacher")
    return folder


def asked(folder, losses="data,logits:kl,contrast", **more):
    settings = DistillSettings(parse_losses(losses), steps=4, batch_size=4, temperature=0.7)
    return DistillAsked(
        str(folder / "teacher"), (), settings, rows=str(folder / "rows.parquet"),
        most=5, layers=1, device="cpu", **more,
    )  # fmt: skip


@pytest.mark.whole
def test_a_student_is_written_with_its_card_and_the_teachers_answers(
    folder, tmp_path, succeed
) -> None:
    rows = folder / "rows.parquet"
    out = succeed(
        "distill", folder / "teacher", "--rows", rows, "--losses", "data,logits:kl",
        "--temperature", 0.7, "--data", "teacher", "--most", 5, "--layers", 1, "--batch-size", 4,
        "--steps", 3, "-o", tmp_path / "student",
    )  # fmt: skip
    assert "The teacher writes 32 answers of up to 5 tokens. 3 steps of 4 rows" in out.err
    assert f"'mnemoscope analyze distilled {folder / 'teacher'} --rows {rows}" in out.out
    card = read_card(tmp_path / "student")
    assert (card["texts"]["data"], card["texts"]["windows"]) == ("teacher", N)
    answers = pl.read_parquet(tmp_path / "student" / ANSWERS)
    lm = load_vision(folder / "teacher")
    wanted = write_answers(lm, read_pairs(lm, rows).pairs, most=5, batch_size=4)
    assert answers["tokens"].to_list() == [list(one) for one in wanted]
    student = load_vision(tmp_path / "student")  # it has its processor, and the teacher's sight
    assert student.fingerprint == card["fingerprint"]
    assert (student.n_layers, student.model.config.text_config.hidden_size) == (1, 16)
    succeed("distill", folder / "teacher", "--rows", rows, "--losses", "data", "--layers", 1,
            "--batch-size", 4, "--steps", 3, "-o", tmp_path / "control", "-q")  # fmt: skip
    pair = [str(tmp_path / one) for one in ("control", "student")]
    assert unlike_control(pair[0], pair[1:]) == []
    assert student_names(pair) == ["data", "data+logits:kl T=0.7 on the teacher's answers"]


@pytest.mark.whole
def test_a_stopped_training_goes_on_to_the_very_same_student(folder, tmp_path, stopped_at) -> None:
    """In the middle of the answers, and in the middle of the steps."""
    from mnemoscope.flow import distill as flow
    from mnemoscope.training import distill as training

    torch.set_num_threads(1)
    whole = distill(asked(folder, data="teacher"), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "_ANSWERED", 8)
        with stopped_at(flow, "write_answers", 3), pytest.raises(KeyboardInterrupt):
            distill(asked(folder, data="teacher"), tmp_path / "part")
        with stopped_at(flow, "write_answers") as calls, stopped_at(training, "losses_of", 3):
            with pytest.raises(KeyboardInterrupt):
                distill(asked(folder, data="teacher"), tmp_path / "part")
            assert len(calls) == 2  # of four parts two were kept
        with stopped_at(flow, "write_answers") as calls, stopped_at(training, "losses_of") as steps:
            again = distill(asked(folder, data="teacher"), tmp_path / "part")
    assert (len(calls), len(steps)) == (0, 2)
    assert again["fingerprint"] == whole["fingerprint"]
    assert again["history"] == whole["history"]
    assert not list(tmp_path.glob(".*training"))


def test_a_student_that_is_the_teacher_inherits_all_and_another_network_nothing(
    folder, tmp_path, legends_carry_n
) -> None:
    """Planted: captions that the teacher was taught; the control is of other weights."""
    teacher, other = (str(folder / one) for one in ("teacher", "other"))
    rows = folder / "rows.parquet"
    same = shutil.copytree(teacher, tmp_path / "same")
    lm = load_vision(teacher)
    found = read_pairs(lm, rows)
    own = judge_pairs(lm, found.pairs, batch_size=8)
    seen = (found.frame["duplicates"] > 0).to_numpy()
    n_repeated = int((own.right & seen).sum())
    assert n_repeated > N // 4
    result = ms.analyze(
        teacher, "distilled", rows=str(rows), students=[str(same)], control=other, minimum=2
    )
    shares = {row["model"]: row for row in result.frames["shares"].iter_rows(named=True)
              if row["class"] == "all rows"}  # fmt: skip
    assert {name: row["share"]["value"] for name, row in shares.items()} == {
        "teacher": 1, "control": 0, "same": 1,
    }  # fmt: skip
    assert shares["control"]["n"] == n_repeated
    (kind,) = result.frames["kinds"].iter_rows(named=True)
    control = judge_pairs(load_vision(other), found.pairs, batch_size=8).logprob
    gain = own.logprob - control
    wins = (gain[seen][:, None] > gain[~seen]).mean()
    assert kind["auc"]["value"] == pytest.approx(wins)
    rounding = 1e-5  # float32, and the rows stand in other batches
    assert kind["gain"]["value"] == pytest.approx(gain[seen].mean(), abs=rounding)
    swapped = result.frames["pictures"].filter(model="teacher")["swapped"].struct["value"]
    assert swapped[0] < 0.5  # the captions go by the picture
    assert kind["auc_swapped"]["value"] < kind["auc"]["value"]
    by_row = [result.frames["rows"].filter(model=one) for one in ("same", "control")]
    first, second = (one["logprob"].to_numpy() for one in by_row)
    assert first - second == pytest.approx(gain, abs=rounding)
    assert any("whether the control had the same texts" in one for one in result.further)
    assert any("With another row's picture control repeats" in one for one in result.further)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"students": []}, "needs a student of the study's model, and a control"),
        ({"second": "other"}, "second is of a fit. Leave it out"),
        ({"minimum": 40}, "fewer than 40 rows that the teacher was trained on and repeats"),
        ({"rows": "none.parquet"}, "none.parquet"),
    ],
)
def test_what_cannot_be_asked_is_refused(folder, changes, said) -> None:
    teacher = str(folder / "teacher")
    given = {"rows": str(folder / "rows.parquet"), "students": [teacher], "control": teacher}
    assert said in refusal(ms.analyze, teacher, "distilled", **{**given, **changes})


def test_rows_that_are_no_pairs_are_refused(folder, tmp_path) -> None:
    lm, table = load_vision(folder / "teacher"), pl.read_parquet(folder / "rows.parquet")

    def said(frame):
        frame.write_parquet(folder / "bad.parquet")
        return refusal(read_pairs, lm, folder / "bad.parquet")

    assert "every row needs a prompt" in said(table.drop("prompt"))
    assert "row 0" in (line := said(table.with_columns(image=pl.lit("none.png"))))
    assert "none.png: no such picture" in line
    assert "text not empty" in said(table.with_columns(text=pl.lit(" ")))
    assert "holds <image>" in said(table.with_columns(text=pl.lit("a <image>")))
    assert "no row" in said(table.clear())
    pair = {"image": {"bytes": (folder / "pictures" / "0.png").read_bytes(), "path": "x.png"}}
    row = pl.DataFrame([pair | {"prompt": "a", "text": "b"}])
    row.write_parquet(folder / "hub.parquet")  # as data sets of the hub have it
    assert read_pairs(lm, folder / "hub.parquet").pairs[0].image == pair["image"]["bytes"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--losses", "data,contrast", "--texts", "t"), "--losses contrast needs pictures"),
        (("--data", "teacher", "--texts", "t"), "--data teacher needs pictures"),
        (("--rows", "r", "--texts", "t"), "--texts is of texts, and --rows names pictures"),
        (("--rows", "r", "--exclude", "t"), "--exclude is of texts"),
        ((), "nothing to train on"),
        (("--data", "teachers", "--rows", "r"), "Did you mean 'teacher'"),
        (("--temperature", "0", "--rows", "r"), "--temperature 0: must be above 0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, call, more, said) -> None:
    found = call("distill", "embedded", "-o", tmp_path / "out", *more)
    assert found.status != 0
    assert said in found.err
    assert found.err.count("\n") == 1


def test_a_student_that_reads_other_tokens_is_refused(folder, tmp_path) -> None:
    with pytest.raises(UserError, match="uses a different tokenizer"):
        distill(
            asked(folder, student=str(save_vision_model(tmp_path / "one", family="idefics3"))),
            tmp_path / "out",
        )
    assert json.loads((folder / "teacher" / "config.json").read_text())["model_type"] == "llava"


def test_the_page_names_the_losses_that_were_not_run_on_pairs() -> None:
    run = {loss or CONTROL for loss, *_ in STUDENTS.values()}
    page = Path("docs/analyses/distilled-pairs.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"\*\*Not run on pairs\*\*: the losses (.*?)\.", page, re.S)
    said = set(re.findall(r"`([\w:-]+)`", line))
    every = {
        one if len(kinds) == 1 else f"{one}:{kind}"
        for one, kinds in KINDS.items()
        for kind in kinds
    }
    assert said == every - run
