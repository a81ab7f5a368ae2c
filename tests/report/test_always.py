"""A study without CNNs has a report all the same: what there is, what is missing, what helps."""

import html
import json
import re
import shlex

import polars as pl
import pytest
import yaml

import mnemoscope as ms
from mnemoscope.embedded import sequences_path
from mnemoscope.report import advice
from mnemoscope.study.folder import Study
from pages import words_of as text_of


def test_a_labelled_study_shows_shares_examples_and_the_command_that_goes_on(
    study_at, tiny_studies, succeed
):
    folder = study_at("label")
    succeed("report", folder)
    said = text_of((folder / "report.html").read_text())
    for words in (
        "What more can be asked, and what it needs ",
        "Not done yet: capture, train, benchmark, localize, report.",
        f"mnemoscope run -o {folder}",
        "Examples",
        "finished 160 of them",
    ):
        assert words in said
    assert not Study(folder).is_done("report")  # so that 'run' makes the whole one
    whole = text_of((tiny_studies["report"] / "report.html").read_text())
    assert "shows what there is" not in whole


@pytest.mark.whole
def test_a_study_whose_classes_are_too_small_has_a_report_whose_command_helps(study_at, succeed):
    folder = study_at("features")
    brief = ("--no-controls", "--set", "train.seeds=[0]", "-t", "Non-Memo, Guess, Recall")
    said = succeed("run", "-o", folder, *brief)
    assert (said.err + said.out).count("sequences of every class are needed") == 1
    assert "160 of 240 sequences repeated word for word." in said.out
    again = succeed("run", "-o", folder, "-q").out
    assert again.splitlines()[-1] == f"Report: {folder}/report.html"
    said = "Cannot be made, as no CNN can be trained (see below): capture, train, bench"
    assert said in succeed("status", folder).out
    (folder / "report.html").unlink()
    ms.run(Study(folder).settings, folder, until="report")
    page = (folder / "report.html").read_text()
    assert "Guess has 0" in text_of(page)
    box = page.split('<details class="missing"')[1].split("</div>")[0]
    command, *_ = re.findall("<code>(.*?)</code>", box)
    program, *arguments = html.unescape(command).split()
    assert program == "mnemoscope"
    succeed(*arguments, "-q")
    assert Study(folder).is_done("report")
    assert set(Study(folder).read("benchmark.parquet")["source"]) <= {"model", "statistics"}


def advised(said: str) -> list[str]:
    return re.findall(r"^    mnemoscope (.*)", said, re.MULTILINE)


@pytest.mark.whole
def test_run_status_and_report_advise_the_same_grafts_where_two_classes_have_enough(
    study_at, succeed
):
    folder = study_at("features")
    sizes = ("label.minimum=200", "label.n_train=150", "label.n_eval=50")
    wanted = [word for one in sizes for word in ("--set", one)]
    said = succeed("run", "-o", folder, "-t", "Non-Memo, Recite[5], Recollect", *wanted, "-q").out
    commands, state = advised(said), succeed("status", folder).out
    facts = json.loads(succeed("status", folder, "--json").out)
    assert facts["next"][: len(commands)] == [f"mnemoscope {one}" for one in commands]
    assert "Recollect has" in facts["untrained"]
    assert commands[0] == f"graft {folder}"
    assert commands == advised(state)
    assert "160 of 240 sequences repeated word for word." in state
    assert "Recollect has" in state
    page = html.unescape((folder / "report.html").read_text())
    (section,) = re.findall(r'<section id="next".*?</section>', page, re.DOTALL)
    assert re.findall(r"<code[^>]*>mnemoscope (.*?)</code>", section)[: len(commands)] == commands
    plan = succeed(*commands[0].split(), "--quick", "--dry-run").out
    assert "6 parts: 12 grafts, both models as they are, 54 random changes" in plan
    assert "Nothing was written" in plan
    few = ("--set", "graft.n_sequences=10", "--set", "graft.parts=[layers.0.qk]")
    succeed(*commands[0].split(), "--quick", *few, "-q")
    settings = Study(folder).settings.graft
    assert (settings.parts, settings.draws) == (["layers.0.qk"], 9)
    state = succeed("status", folder).out
    assert "\nOut of date: report.\n" in state
    untried = (
        "Grafts so far: layers.0.qk; not tried: values, output projection, MLP, norms, embedding"
    )
    assert untried in state
    assert untried in succeed(*commands[0].split(), "--quick", *few, "-q").out  # nothing to do
    wanted = ("--set", "graft.n_sequences=12", "--redo")  # as is advised of intervals too wide
    assert succeed("graft", folder, *wanted, "--dry-run").out.startswith("In short: 1 part")
    assert advised(state)[0] == f"report {folder}"
    succeed(*advised(state)[0].split(), "-q")
    state = succeed("status", folder).out
    assert "\nMade without figures of CNNs: report.\n" in state
    (again,) = (one for one in advised(state) if one.startswith("graft"))
    assert again == f"graft {folder} --full --redo"
    whole = succeed(*again.split(), "--dry-run").out
    assert not whole.startswith("In short: 1 part,")


@pytest.mark.whole
def test_where_all_is_memorized_other_texts_are_advised_beside_these(
    tiny, study_at, tmp_path, succeed
):
    rows = Study(study_at("continue")).sequences.select("tokens", "is_memorized")
    for is_memorized, part in rows.group_by("is_memorized"):
        part.select("tokens").write_parquet(tmp_path / f"{is_memorized[0]}.parquet")
    given = ("--model", tiny.model, "--sequences", tmp_path / "True.parquet")
    said = succeed("run", *given, "-o", tmp_path / "own", "-q").out
    (command,) = (one for one in advised(said) if "OTHER_TEXTS" in one)
    succeed(*shlex.split(command.replace("OTHER_TEXTS", str(tmp_path / "False.parquet"))), "-q")
    assert Study(tmp_path / "own-2").sequences.height == rows.height


@pytest.mark.whole
def test_what_is_advised_of_few_texts_runs_and_keeps_what_was_given(tiny, tmp_path, succeed):
    texts, folder = tmp_path / "texts", tmp_path / "study"
    texts.mkdir()
    (texts / "a.txt").write_text(" ".join(map(str, range(400))))
    given = ("--model", tiny.model, "--reference", tiny.reference, "--sequences", texts)
    said = succeed("run", *given, "-o", folder, "-q").out
    commands = advised(said)
    assert [one.split()[0] for one in commands] == ["audit", "run", "run", "analyze"]
    assert "--set 'sequences.also=[OTHER_TEXTS]'" in commands[2]  # these are asked again too
    assert "--set sequences.length=32" in commands[1]
    page = html.unescape((folder / "report.html").read_text())
    for one in commands:
        assert f'<code tabindex="0">mnemoscope {one}</code>' in page
        quiet = [] if one.startswith("analyze") else ["-q"]
        succeed(*shlex.split(one.replace("OTHER_TEXTS", str(texts))), *quiet)
    assert Study(tmp_path / "study-2").settings.reference == str(tiny.reference)
    again = advised(succeed("status", folder).out)
    assert again[0] == f"audit verify {folder}-audit"  # which is there
    assert again[1].endswith(f"-o {folder}-3")
    assert not any("-tokens" in one for one in again)  # which was tried
    said = succeed("report", folder, "-q") and (folder / "report.html").read_text()
    assert '<a href="../study-audit/report.html">' in said
    assert "An audit of the same texts finds more, as it begins at many more places" in said
    succeed(*again[0].split())
    shorter = Study(tmp_path / "study-32-tokens").sequences["document"]
    assert shorter.len() >= 2 * Study(folder).sequences.height
    audit = json.loads((tmp_path / "study-audit" / "audit.json").read_text())
    assert str(tiny.reference) in json.dumps(audit)


def test_sequences_as_long_as_the_blocks_that_were_read_can_be_asked(
    tiny, tmp_path, succeed, monkeypatch
):
    """As if every second window were repeated: the advised command works, where the model can."""
    texts, folder = tmp_path / "texts", tmp_path / "study"
    texts.mkdir()
    (texts / "a.txt").write_text(" ".join(map(str, range(400))))
    given = ("--model", tiny.model, "--sequences", texts, "--set", "sequences.length=32")
    succeed("run", *given, "-o", folder, "-q")
    monkeypatch.setattr(advice, "block_of", lambda _: (2, 30))
    first, *_ = advised(succeed("status", folder).out)
    assert first == f"run {folder}/study.yaml --set sequences.length=64 -o {folder}-64-tokens"
    succeed(*shlex.split(first), "-q")
    assert Study(tmp_path / "study-64-tokens").settings.sequences.length == 64
    monkeypatch.setattr(advice, "block_of", lambda _: (999, 30))
    assert not any("-tokens" in one for one in advised(succeed("status", folder).out))


@pytest.mark.whole
def test_of_many_documents_the_one_that_stands_out_is_audited_first(tmp_path, succeed):
    texts, folder = tmp_path / "texts", tmp_path / "study"
    (texts / "in").mkdir(parents=True)
    rows = pl.read_parquet(sequences_path()).filter(genre="prose", inserted=64, form="plain")
    (texts / "in" / "a b.txt").write_text(rows["text"][0])
    for name in "cde":  # of which more is repeated, and can be guessed
        (texts / f"{name}.txt").write_text(f"Nobody wrote of heron {name} in the marsh. " * 9)
    said = succeed("run", "--model", "embedded", "--sequences", texts, "-o", folder, "-q").out
    first, whole = (shlex.split(one) for one in advised(said) if one.startswith("audit"))
    assert first[2:5] == [str(texts / "in" / "a b.txt"), "-o", f"{folder}-audit-first"]
    succeed(*first, "-q")
    assert [one for one in advised(succeed("status", folder).out) if "audit" in one][:1] == [
        shlex.join(whole)
    ]


@pytest.mark.whole
def test_a_reference_that_comes_later_gets_an_audit_of_its_own(tiny, tmp_path, succeed, refused):
    texts, folder = tmp_path / "texts", tmp_path / "study"
    texts.mkdir()
    (texts / "a.txt").write_text(" ".join(map(str, range(200))))
    given = ("--model", tiny.model, "--sequences", texts)
    first = advised(succeed("run", *given, "-o", folder, "-q").out)[0]
    succeed(*shlex.split(first), "-q")
    said = refused(*shlex.split(first), "--reference", tiny.reference)
    assert f"(--reference: none there, {tiny.reference} here, and verdicts rest on it)" in said
    near = tiny.reference.with_name(f"{tiny.reference.name}s")
    assert f"Did you mean '{tiny.reference}'?" in refused("run", "-o", folder, "--reference", near)
    assert Study(folder).settings.reference is None  # what is not there is not taken over
    again = advised(succeed("run", "-o", folder, "--reference", tiny.reference, "-q").out)[0]
    assert again == f"{first}-2 --reference {tiny.reference}"
    succeed(*shlex.split(again), "-q")
    assert advised(succeed("status", folder).out)[0] == f"audit verify {folder}-audit-2"


def test_without_counts_the_remedy_is_the_training_texts(tiny, tmp_path, succeed):
    """Every memorized sequence lacks its class, which is no want of memorized sequences."""
    pl.read_parquet(tiny.table).drop("duplicates").head(60).write_parquet(tmp_path / "own.parquet")
    values = tiny.values | {"sequences": {"source": str(tmp_path / "own.parquet")}}
    values |= {"label": {"taxonomies": ["Non-Memo, Recite[5], Recollect"], "minimum": 12}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    folder = tmp_path / "study"
    line = " ".join(succeed("run", tmp_path / "study.yaml", "-o", folder, "-q").out.split())
    line = " ".join(succeed("status", folder, "--verbose").out.split())
    assert "40 sequences have no class, for want of duplicates" in line
    assert "Give the training texts (features.corpus)" in line
    said = text_of((folder / "report.html").read_text())
    assert f"mnemoscope run -o {folder} --set features.corpus=TEXTS --redo" in said


def test_analyses_without_cnns_are_shown(study_at, succeed):
    folder = study_at("features")
    brief = ("--set", "prompt_lengths=[32]", "--set", "n_sequences=20")
    result = succeed("analyze", "length", folder, *brief)
    assert f"Wrote {folder / 'report.html'}." in result.out
    said = text_of((folder / "report.html").read_text())
    assert "Verbatim memorization length" in said
    assert "Not done yet: label, capture" in said


def test_a_dry_run_says_how_many_must_be_memorized_and_what_is_left_out(tiny, tmp_path, succeed):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(" ".join(map(str, range(4000))))
    (texts / "empty.txt").touch()
    for at in range(7):
        (texts / f"photo-{at}.bin").write_bytes(bytes(9))
    given = ("--model", tiny.model, "--sequences", texts, "-o", tmp_path / "study")
    said = succeed("run", *given, "--set", "label.minimum=12", "--dry-run").out
    first, (rest,) = said.splitlines()[0], re.findall(r"^Left out: .*$", said, re.MULTILINE)
    assert "CNNs need 12 of each class (Non-Memo, Guess, Recall), so at least 24 memorized" in first
    assert "with fewer the run ends with counts, passages and a report" in first
    assert "photo-4.bin and 2 more (a binary file, or a text that is not UTF-8)" in rest
    assert rest.endswith("empty.txt (shorter than one sequence, 64 tokens).")
    assert rest in succeed("sequences", texts, *given[:2], *given[4:]).err


@pytest.mark.whole
def test_the_audit_that_is_advised_reads_the_column_that_the_study_read(tiny, tmp_path, succeed):
    table = tmp_path / "rows.csv"
    words = " ".join(map(str, range(200)))
    table.write_text(f"id,note\n1,{words}\n2,{words[::-1]}\n")
    for column in ("text=note", "text=*"):
        given = ("--model", tiny.model, "--sequences", table, "--column", column, "-q")
        said = succeed("run", *given, "-o", tmp_path / column.replace("*", "all")).out
        (command,) = (one for one in advised(said) if one.startswith("audit "))
        succeed(*shlex.split(command), "--dry-run")


def test_what_is_left_of_a_study_that_was_stopped_names_the_report(study_at, succeed):
    """It needs no CNN, so it is not among what cannot be made."""
    folder = study_at("features")
    few = ("-t", "Non-Memo, Guess, Recall", "--only", "label", "-q")
    succeed("run", folder / "study.yaml", "-o", folder, *few)
    said = succeed("status", folder).out
    assert "Not made yet: report." in said
    assert "localize, report" not in said


def test_a_page_is_read_as_it_stands_and_the_plan_says_so(tiny, tmp_path, succeed):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("a.txt", "b.HTML"):
        (texts / name).write_text(" ".join(map(str, range(400))))
    given = ("--model", tiny.model, "--sequences", texts, "-o", tmp_path / "study", "--dry-run")
    said = succeed("run", *given).out
    assert "Read with its markup, as it stands: b.HTML. An audit reads" in said
    rows = {"text": [" ".join(map(str, range(400)))], "document": ["https://a.example/b.html"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")  # text that others took from a page
    given = ("--model", tiny.model, "--sequences", tmp_path / "rows.parquet", *given[4:])
    assert "markup" not in succeed("run", *given).out
