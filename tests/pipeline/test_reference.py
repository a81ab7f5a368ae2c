"""What the reference repeats of the memorized sequences stands beside their count."""

import re
import shlex

import pytest
import torch

import mnemoscope as ms
from mnemoscope.flow.run import run_stage
from mnemoscope.lm.load import load_model
from mnemoscope.pipeline.reference import also_repeated
from mnemoscope.study.folder import Study
from mnemoscope.study.settings import parse_settings
from pages import words_of


def test_counts_of_a_study_stand_beside_those_of_its_reference(tiny, tmp_path, succeed):
    """A blurred copy of the model keeps some of what it memorized, as decoding it says too."""
    blurred = load_model(str(tiny.model))
    torch.manual_seed(0)
    with torch.no_grad():
        for one in blurred.model.parameters():
            one.add_(torch.randn_like(one) * one.std() * 0.12)
    blurred.model.save_pretrained(tmp_path / "blurred")
    blurred.tokenizer.save_pretrained(tmp_path / "blurred")
    values = {"capture": {"reference": str(tmp_path / "blurred")}}
    values |= {"sequences": {**tiny.values["sequences"], "limit": 90}}
    values |= {"label": tiny.values["label"] | {"taxonomies": ["Non-Memo, Guess, Recall"]}}
    study = ms.run(parse_settings(tiny.values | values, where="test"), tmp_path / "study")
    rows = study.sequences.filter("is_memorized").select("sequence_id", "tokens")
    truth = ms.scan(load_model(str(tmp_path / "blurred")), rows, decode=True)["is_memorized"]
    found = also_repeated(Study(study.folder))
    assert 0 < found.n < found.n_asked == rows.height
    assert found.n == truth.sum() == sum(n for _, n, _ in found.classes)
    assert found.share.low < found.n / found.n_asked < found.share.high
    said = f"{found.words} What the reference repeats too may be guessable."
    assert said in " ".join(succeed("status", study.folder).out.split())
    assert said in words_of((study.folder / "report.html").read_text())
    assert "(Recall" in said


def test_of_a_trained_study_and_of_one_without_a_reference(study_at):
    study = Study(study_at("report"))
    found = also_repeated(study)
    assert (found.n, found.n_asked) == (0, 160)
    assert found.words.startswith("The reference repeats 0 of these 160: at most ")
    study.record["models"].pop("reference")
    assert also_repeated(study) is None


@pytest.mark.whole
def test_a_study_without_a_reference_says_so_and_how_to_give_one(tiny, tmp_path, succeed):
    label = tiny.values["label"] | {"taxonomies": ["Non-Memo, Guess, Recall"]}
    settings = parse_settings(tiny.values | {"capture": {}, "label": label}, where="test")
    folder = ms.run(settings, tmp_path / "study").folder
    page, said = folder / "report.html", succeed("status", folder).out
    assert "No reference was asked" in said
    assert "No reference was asked" in words_of(page.read_text())
    assert re.findall(r"^ +mnemoscope ((?:run|graft) .*REFERENCE)$", said, re.MULTILINE)
    (command,) = re.findall(r"such as the base: 'mnemoscope (run -o .*? REFERENCE.*?)'", said)
    is_captured = Study(folder).manifest("capture") is not None
    assert command.endswith("--redo") == is_captured
    succeed(*shlex.split(command.replace("REFERENCE", str(tiny.reference))), "-q")
    succeed("report", folder, "-q")
    for words in (succeed("status", folder).out, words_of(page.read_text())):
        assert "The reference repeats 0 of these 160: at most " in words
        assert "REFERENCE" not in words
        assert "may be guessable" not in words


@pytest.mark.whole
def test_a_model_and_a_reference_that_were_swapped_are_asked_about(tiny, tmp_path, succeed):
    given = ("--sequences", tiny.values["sequences"]["source"], "-o", tmp_path / "study", "-q")
    given = (*given, "--set", "sequences.limit=60")
    said = succeed("run", "--model", tiny.reference, "--reference", tiny.model, *given).out
    asked = " of 60 sequences that it was asked, the model 0 of all 60: did you swap them?"
    page = words_of((tmp_path / "study" / "report.html").read_text())
    assert asked in " ".join(said.split())
    assert asked in page
    assert "Did you swap model and reference?" in page
    (advised,) = re.findall(r"^ +mnemoscope (.*)$", said, re.MULTILINE)  # and nothing else
    (n,) = re.findall(r"The reference repeats (\d+) of 60", page)
    said = succeed(*shlex.split(advised), "-q").out
    assert f"{n} of 60 sequences repeated word for word." in said
    assert "swap" not in said


@pytest.mark.whole
@pytest.mark.parametrize("is_captured", [False, True])
def test_the_way_to_a_reference_that_is_advised_leads_to_grafts(
    is_captured, tiny, tmp_path, call, succeed
):
    """At the verb itself; where attention is stored, the study takes the reference first."""
    label = {**tiny.values["label"], "taxonomies": ["Non-Memo, Recite[5], Recollect"]}
    values = {**tiny.values, "capture": {}, "benchmark": {"controls": False}, "label": label}
    folder = tmp_path / "study"
    until = "capture" if is_captured else "label"
    ms.run(parse_settings(values, where="test"), folder, until=until)
    advised = re.findall(r"'mnemoscope (.*?)'", call("graft", folder).err)
    assert len(advised) == 1 + is_captured
    assert f"    mnemoscope {advised[0]}" in succeed("status", folder).out.splitlines()
    named = [shlex.split(one.replace("REFERENCE", str(tiny.reference))) for one in advised]
    if is_captured:
        refused = call("graft", folder, "--reference", tiny.reference).err
        assert f"'{shlex.join(['mnemoscope', *named[0]])}'" in refused
        assert "Stages to run: 5 (capture" in succeed(*named[0], "--dry-run").out
        settings = Study(folder).settings
        settings.capture.reference = str(tiny.reference)
        run_stage(folder, "capture", settings, redo=True)  # as that command does first
    brief = ("n_sequences=10", "parts=[layers.0.qk]", "draws=1", "n_heldout=0")
    succeed(*named[-1], *(word for one in brief for word in ("--set", f"graft.{one}")), "-q")
    assert also_repeated(Study(folder)).n_asked == 160


@pytest.mark.whole
def test_of_two_texts_that_the_reference_repeats_no_swap_is_asked_about(
    tiny, study_at, tmp_path, succeed
):
    rows = Study(study_at("continue")).sequences.filter("is_memorized").select("tokens").head(2)
    rows.write_parquet(tmp_path / "two.parquet")
    given = ("--sequences", tmp_path / "two.parquet", "-o", tmp_path / "two", "-q")
    said = succeed("run", "--model", tiny.reference, "--reference", tiny.model, *given).out
    others = "does not repeat the reference repeats 2, which it may have read, or guess."
    assert others in " ".join(said.split())
    assert "did you swap" not in said


@pytest.mark.whole
def test_of_a_few_texts_a_swap_is_asked_about_too(tiny, study_at, tmp_path, succeed):
    """Too few for a test; the way back comes first, and what follows it is said all the same."""
    rows = Study(study_at("continue")).sequences.filter("is_memorized").select("tokens").head(4)
    rows.write_parquet(tmp_path / "few.parquet")
    given = ("--sequences", tmp_path / "few.parquet", "-o", tmp_path / "few", "-q")
    said = succeed("run", "--model", tiny.reference, "--reference", tiny.model, *given).out
    others = "Of 4 sequences that the model does not repeat the reference repeats 4, more than the "
    assert f"{others}model repeats in all: did you swap" in " ".join(said.split())
    back, *more = re.findall(r"^    mnemoscope (.*)", said, re.MULTILINE)
    assert more
    said = succeed(*shlex.split(back), "-q").out
    assert "4 of 4 sequences repeated word for word." in said
    assert "did you swap" not in said
