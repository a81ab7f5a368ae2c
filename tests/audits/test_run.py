"""A whole audit on the embedded model: what it finds, resumes, refuses and verifies."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.audits import library, local, run, scan
from mnemoscope.audits.documents import make_document, read_documents
from mnemoscope.audits.gate import PASSAGES, judge
from mnemoscope.audits.local import local_audit
from mnemoscope.audits.passages import span_schema
from mnemoscope.audits.questions import audit_settings
from mnemoscope.audits.records import SCHEMA_VERSION, read_audit, read_verdicts
from mnemoscope.audits.tokens import character_range, tokenize
from mnemoscope.audits.verify import gone_of
from mnemoscope.conditions import parse_gate
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import file_sha256, write_parquet
from mnemoscope.lm.continue_ import scan_memorized
from mnemoscope.version import __version__
from study_files import admit, rewrite_record
from tests.audits.conftest import BRIEF, audit_documents, with_word

SPANS = audit_settings(**BRIEF)
FIRST_DAY, NEXT_DAY = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
FILES = ("audit.json", "audit.html", "audit.sarif", "report.html", "spans.parquet")


def reproduced_characters(lm, text):
    """Characters inside some 32 tokens that the model writes: every start, by another way."""
    tokens = tokenize(text, lm.tokenizer)
    starts = range(len(tokens.ids) - 63)
    windows = np.stack([tokens.ids[start : start + 64] for start in starts])
    batches = scan_memorized(lm, windows, batch_size=128)
    is_hit = np.concatenate([batch.is_memorized for batch in batches])
    found = set()
    for start in np.flatnonzero(is_hit):
        found.update(range(*character_range(tokens, start + 32, start + 64)))
    return found


def test_of_what_the_model_reproduces_nine_tenths_are_in_a_span(made, lm, trained):
    text = made.texts["<b>&.txt"]
    truth = reproduced_characters(lm, text[: text.index(trained[1]) + len(trained[1])])
    spans = made.spans.filter(document=made.names["<b>&.txt"])
    found = {one for row in spans.iter_rows(named=True) for one in range(row["start"], row["end"])}
    assert len(truth) > 150
    assert len(truth & found) / len(truth) >= 0.9
    said = ("verdict", "reference_reproduces", "reference_says")
    assert spans.select(said).rows() == [("recall", False, "recall")] * 2
    for row in spans.iter_rows(named=True):
        assert row["text"] == text[row["start"] : row["end"]]
        assert row["window_start"] <= row["suffix_start"] <= row["start"]
        assert "".join(row["suffix_pieces"]) == text[row["suffix_start"] : row["window_end"]]


def test_windows_of_a_passage_are_counted_again_as_they_were(lm, trained, new_text):
    text = f"{trained[0]} {new_text(1, 12)} {trained[1]}"
    audit = local_audit(lm, [make_document("a", text)], SPANS)
    run.find_passages(audit)
    assert audit.passages.height >= 2
    for row in audit.passages.rows(named=True):
        assert scan.count_windows(audit, "a", row["start"], row["end"]) == row["windows"]


def test_of_each_document_the_record_says_what_it_is(made, lm):
    frame, record = made.spans, made.record
    assert dict(frame.schema) == span_schema()
    assert frame["probability"].null_count() == frame.height
    for column in ("document", "start", "end", "verdict", "reason", "tokens", "score"):
        assert frame[column].null_count() == 0
    rows = {one["document"].rpartition("/")[2]: one for one in record["documents"]}
    for name in ("new.txt", "shuffled.txt", "short.txt"):
        assert frame.filter(document=made.names[name]).is_empty()
        assert rows[name]["recalled"]["share"] == rows[name]["near"]["characters"] == 0
    assert rows["counting.txt"]["guessed"]["share"] > 0.5
    assert rows["counting.txt"]["recalled"]["share"] == 0
    guessed = frame.filter(document=made.names["counting.txt"])
    assert guessed["reason"].str.contains("step 1").any()
    assert (rows["short.txt"]["is_too_short"], rows["short.txt"]["windows"]) == (True, 0)
    assert "shorter than one window" in made.page
    assert record["model"]["fingerprint"] == lm.fingerprint
    assert "model.safetensors" in record["model"]["files"]
    assert all(len(one["sha256"]) == 64 for one in record["documents"])
    docs = (Path(__file__).parents[2] / "docs" / "audit-files.md").read_text(encoding="utf-8")
    names = [*record, *record["model"], *record["documents"][0]]
    names += record["documents"][0]["recalled"]
    assert [name for name in names if f"`{name}`" not in docs] == []
    assert f'"mnemoscope audit", {SCHEMA_VERSION}; raised' in docs


def test_a_recalled_passage_lists_its_places_in_a_corpus(made, audited, lm, tmp_path, monkeypatch):
    first, *others = made.spans.filter(verdict="recall").rows(named=True)
    assert [first["origin_count"], *(one["origin_count"] for one in others)] == [2, 0]
    corpus = made.folder / "corpus" / "a.txt"
    text = corpus.read_text(encoding="utf-8")
    rows = made.origins.filter(span=1, found="passage")
    place = text.index(first["text"])
    assert rows["offset"].to_list() == [place, text.index(first["text"], place + 1)]
    assert set(rows["in"]) == {str(corpus)}
    assert "In the corpus 2 times:" in made.page
    assert made.page.count("Not in the corpus") == made.spans.height - 1
    copied = shutil.copytree(corpus.parent, tmp_path / "corpus")
    asked = local_audit(lm, [], audit_settings(corpus=str(copied)))
    before = run.audit_key(asked)
    (copied / "more.txt").write_text(text)
    assert run.audit_key(asked) != before
    monkeypatch.setattr(run, "scan_windows", lambda _: pytest.fail("asked"))
    with pytest.raises(UserError, match="gone"):
        audited(tmp_path, text, settings=audit_settings(corpus=str(tmp_path / "gone")))


@pytest.mark.whole
def test_python_and_the_command_line_give_the_same_audit(tmp_path, monkeypatch, succeed, trained):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(trained[0])
    few = BRIEF | {"suffix": 8}
    made = ms.audit("embedded", "a.txt", "out", **few)
    flags = ("--edits", 0, "--near-length", 0, "--suffix", 8)
    succeed("audit", "embedded", "a.txt", "-o", "typed", *flags)
    assert made.passages.equals(pl.read_parquet("typed/spans.parquet"))
    assert made.record["key"] == json.loads(Path("typed/audit.json").read_text())["key"]
    assert made.record["reference"]["name"] == "embedded"
    lines = {"case": " 12/3:\n<b> ", "operator": "J. Doe"}
    of_text = ms.audit("embedded", {"a.txt": trained[0]}, "texts", **lines, **few)
    assert [of_text.record[one] for one in lines] == ["12/3: <b>", "J. Doe"]
    assert (made.record["case"], made.record["operator"]) == (None, None)
    for wrong in ("", " \n", "x" * 301, 3):
        with pytest.raises(UserError, match="operator: give a line"):
            ms.audit("embedded", "a.txt", "other", operator=wrong)
    assert not made.passages.is_empty()
    assert of_text.passages.equals(made.passages)
    assert (tmp_path / "texts" / "texts" / "00001.txt").read_text() == trained[0]
    with pytest.raises(UserError, match="strid"):
        ms.audit("embedded", {"a": "text"}, "other", strid=4)


@pytest.mark.whole
def test_a_killed_audit_goes_on_and_gives_the_same_bytes(
    tmp_path, lm, trained, new_text, monkeypatch, stopped_at
):
    settings = audit_settings(**BRIEF | {"batch_size": 8, "suffix": 8})
    monkeypatch.setattr(scan, "BATCHES_A_PART", 1)
    for name, text in (("a.txt", trained[0] + new_text(2, 40)), ("b.txt", new_text(3, 80))):
        (tmp_path / name).write_text(text)

    # What goes on asks for no date; the text that nobody asked about before is begun later.
    begun = iter([FIRST_DAY] * 3 + [NEXT_DAY] * 2)
    monkeypatch.setattr(run, "_now", lambda: next(begun))

    def audit(out, dies_at=None, text="a.txt"):
        reading = read_documents([str(tmp_path / text)])
        with stopped_at(local, "continue_windows", dies_at) as calls:
            audit_documents(lm, reading, tmp_path / out, settings=settings)
        return [(tmp_path / out / file).read_bytes() for file in FILES], len(calls)

    whole, n_parts = audit("whole")
    for out in ("killed", "taken"):
        with pytest.raises(KeyboardInterrupt):
            audit(out, dies_at=3)
        assert not any((tmp_path / out / name).exists() for name in FILES)
    again, n_again = audit("killed")
    assert again == whole
    assert n_again == n_parts - 2  # the two finished parts were not made again
    assert not (tmp_path / "killed" / "parts").exists()
    assert audit("taken", text="b.txt") == audit("fresh", text="b.txt")  # parts of another text
    days = [read_audit(tmp_path / one)[0]["date"] for one in ("whole", "killed", "taken", "fresh")]
    assert days == [FIRST_DAY] * 2 + [NEXT_DAY] * 2
    assert next(begun, None) is None


WHERE = ("in_both", "only_here", "only_there")


def test_status_of_an_audit_that_is_not_finished_says_how_to_go_on(tmp_path, refused):
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    assert "neither a study, nor a maps folder" in refused("status", out)  # of another work
    run._founded(out, "0" * 64, ["mnemoscope", "audit", "embedded", "a b.txt", "-o", "out"])
    said = "an audit that was begun and is not finished. Run the command that began it again: it"
    for verb in (("status",), ("audit", "verify"), ("audit", "gate", "--fail-if", "recalled > 1%")):
        found = refused(*verb, out)
        assert f"{out}: {said} goes on from what was kept." in found
        assert found.endswith("was given: mnemoscope audit embedded 'a b.txt' -o out")


def test_another_audit_is_not_written_over_unless_asked(tmp_path, audited, new_text, monkeypatch):
    monkeypatch.setattr(run, "_now", lambda: FIRST_DAY)
    out, text, plain = tmp_path / "out", new_text(1, 80), audit_settings(stride=64)
    files = [*FILES, "near.parquet"]
    first, _ = audited(tmp_path, text, settings=plain)
    before = {one: (out / one).read_bytes() for one in files}
    stamps = [(out / name).stat().st_mtime_ns for name in files]
    assert audited(tmp_path, text, settings=plain)[0] == first
    assert [(out / name).stat().st_mtime_ns for name in files] == stamps
    audited(tmp_path, text, settings=plain, redo=True)  # done again, to the same bytes
    assert {one: (out / one).read_bytes() for one in files} == before
    assert all(
        (out / name).stat().st_mtime_ns != at for name, at in zip(files, stamps, strict=True)
    )
    for other, said in (
        (
            {"settings": audit_settings(stride=4)},
            r"other settings \(stride: 64 there, 4 here\)",
        ),
        ({"settings": plain, "case": "mine"}, "another case or operator"),
    ):
        with pytest.raises(UserError, match=rf"out: holds another audit \({said}\)\. .*redo"):
            audited(tmp_path, text, **other)
    older = shutil.copytree(out, tmp_path / "older")
    rewrite_record(older / "audit.json", key="", settings=first["settings"] | {"threshold": 0.3})
    gate = parse_gate("recalled > 1%", PASSAGES)
    passages = read_verdicts(out)[1]
    said = judge(gate, first, passages, older).said
    assert said.endswith(
        f" allowed; {older} audited the same model; {older} was made with threshold 0.3"
    )
    own = first["documents"]
    others = [{**own[0], "document": f"{n}.txt", "sha256": str(n)} for n in (1, 2)]
    rewrite_record(older / "audit.json", settings=first["settings"], documents=[*own, *others])
    asked = first | {"documents": [*own, others[0], {**others[0], "document": "3", "sha256": "3"}]}
    for here, there, words in (
        (first["model"], None, "asked no reference and this audit did"),
        (None, first["model"], "asked a reference and this audit none"),
        (first["model"], first["model"] | {"fingerprint": "x"}, "asked another reference"),
    ):
        rewrite_record(older / "audit.json", reference=there)
        result = judge(gate, asked | {"reference": here}, passages, older)
        assert f"; {older} {words}, so recalled is not decided alike; 1 document of 3 is" in (
            result.said
        )
        assert result.said.endswith(f"not in {older}; 1 document of {older} is not in this audit")
        beside = [result.as_json()["baseline"][f"documents_{one}"] for one in WHERE]
        assert beside == [2, 1, 1]
    for name in ("spans.parquet", "near.parquet", "audit.html"):
        (out / name).unlink()
        with pytest.raises(UserError, match="missing or were changed"):
            audited(tmp_path, text, settings=plain)
        audited(tmp_path, text, settings=plain, redo=True)
        assert {one: (out / one).read_bytes() for one in files} == before
    again, _ = audited(tmp_path, text, settings=audit_settings(stride=32), redo=True)
    assert again["settings"]["stride"] == 32


def test_nothing_is_written_outside_the_folder(tmp_path, lm, audited, new_text):
    row = {"text": new_text(1, 80), "document": "../../evil.txt"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    reading = read_documents([str(tmp_path / "a.jsonl")])
    audit_documents(lm, reading, tmp_path / "x" / "out", settings=SPANS)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / "a.jsonl"}
    assert made == {tmp_path / "x" / "out" / name for name in FILES}
    (tmp_path / "elsewhere").mkdir()
    for name in ("parts", "texts"):
        (tmp_path / name / "out").mkdir(parents=True)
        (tmp_path / name / "out" / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match="leaves the output folder"):
            audited(tmp_path / name, "text")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_verify_repeats_what_holds_and_another_version_is_refused(made, lm, verify, tmp_path):
    found = verify(made.out, lm)
    assert (found.problems, found.n_hold) == ([], made.spans.height)
    shutil.copytree(made.out, tmp_path / "out")
    rewrite_record(tmp_path / "out" / "audit.json", schema_version=2)
    with pytest.raises(
        UserError, match=r"made by another state of mnemoscope 0.*\(format 2\).*: make "
    ):
        read_audit(tmp_path / "out")


@pytest.mark.whole
def test_a_search_finds_the_passages_that_an_audit_left_out(
    audited, trained, new_text, tmp_path, lm, verify, monkeypatch
):
    text = f"{trained[0]} {new_text(1, 6)} {trained[3]}"
    (tmp_path / "whole").mkdir()
    _, spans = audited(tmp_path / "whole", text, settings=SPANS)
    found = verify(tmp_path / "whole" / "out", lm, search=True)
    assert found.problems == []
    assert any("no passage was left out" in one for one in found.checked)
    (tmp_path / "forged").mkdir()
    monkeypatch.setattr("mnemoscope.audits.run.spans_of", lambda *_: [])
    record, none = audited(tmp_path / "forged", text, settings=SPANS)
    monkeypatch.undo()
    assert (none.height, record["summary"]["recall_spans"]) == (0, 0)
    out = tmp_path / "forged" / "out"
    found = verify(out, lm)
    assert found.problems == []
    assert not any("passage" in one and "written again" in one for one in found.checked)
    left_out = verify(out, lm, search=True).problems
    assert len(left_out) == spans.height > 0
    assert all("comes out, and is no passage of the audit" in one for one in left_out)
    out = tmp_path / "whole" / "out"
    last = pl.col("window_end")  # beyond the window that is asked again: only a search sees it
    beyond = pl.concat_list(pl.struct(start=last, end=last + 2, written=pl.lit("x")))
    write_parquet(out / "spans.parquet", spans.with_columns(otherwise=beyond))
    admit(out / "audit.json", out / "spans.parquet")
    said = "what no window has right ('otherwise') is not what is recorded"
    assert any(said in one for one in verify(out, lm, search=True).problems)


@pytest.fixture(scope="module")
def small(tmp_path_factory, audited, trained, new_text):
    """The audit of one passage and a near copy: its folder, its record, its span."""
    folder = tmp_path_factory.mktemp("small")
    settings = audit_settings(edits=0, profile=True)
    text = f"{trained[0]} {new_text(1, 6)} {with_word(trained[3])}"
    record, spans = audited(folder, text, settings=settings)
    assert (spans.height, record["summary"]["near_spans"]) == (1, 1)
    return folder, record, spans


def test_verify_says_what_does_not_hold(audited, trained, tmp_path, lm, reference, verify):
    folder = tmp_path / "in"
    folder.mkdir()
    record, spans = audited(folder, trained[0], settings=SPANS)
    assert spans.height == 1
    out = Path(shutil.copytree(folder / "out", tmp_path / "out"))
    found = verify(out, reference)
    assert found.n_hold == 0
    assert any("other weights" in one for one in found.problems)
    text = (folder / "a.txt").read_text()
    (folder / "a.txt").write_text(text + "!")
    assert any("a.txt: its text was changed" in one for one in verify(out, lm).problems)
    (folder / "a.txt").write_text(text)
    spans.with_columns(start=pl.lit(0, pl.Int64)).write_parquet(out / "spans.parquet")
    assert any("spans.parquet" in one for one in verify(out, lm).problems)
    sealed = json.loads((out / "audit.json").read_text())
    sealed["summary"]["recalled"]["share"] = 0.0  # one figure, by hand
    (out / "audit.json").write_text(json.dumps(sealed))
    (problem,) = verify(out, lm).problems
    assert "changed since" in problem
    for damage in ({"settings": {"klingon": 1}}, {"documents": None}):
        (out / "audit.json").write_text(json.dumps(record))
        rewrite_record(out / "audit.json", **damage)
        with pytest.raises(DamagedDataError):
            verify(out, lm)
    (out / "audit.json").write_text(json.dumps(record))
    (out / "spans.parquet").write_bytes(b"torn")
    with pytest.raises(DamagedDataError, match=r"spans\.parquet: .* the audit again with redo"):
        verify(out, lm)
    with pytest.raises(UserError, match="no audit"):
        verify(tmp_path, lm)


WRONG_OF_ALL = pl.concat_list(pl.struct("start", "end", written=pl.lit("x")))


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("spans", {"start": pl.col("start") + 1}, "does not hold"),
        ("spans", {"end": pl.col("end") - 1}, "does not hold"),
        ("spans", {"verdict": pl.lit("guess")}, "does not hold"),
        ("spans", {"text": pl.lit("other words")}, "does not hold"),
        ("spans", {"window_start": pl.col("window_start") - 1}, "does not hold"),
        ("spans", {"window_token": pl.col("window_token") + 1}, "does not hold"),
        ("spans", {"otherwise": WRONG_OF_ALL}, "does not hold"),
        ("near", {"written": pl.col("written") + "!", "continuation_tokens": []}, "near copy does"),
        ("profile", {"extraction_logprob": pl.col("extraction_logprob") - 1}, "come out again"),
    ],
)
def test_verify_sees_a_change_whose_hash_was_made_new(
    small, tmp_path, lm, name, change, said, verify
):
    out = Path(shutil.copytree(small[0] / "out", tmp_path / "out"))
    path = out / f"{name}.parquet"
    write_parquet(path, pl.read_parquet(path).with_columns(**change))
    if name != "spans":
        (problem,) = verify(out, lm).problems
        assert problem.startswith(f"{path}: damaged (its content has changed since it was written)")
    admit(out / "audit.json", path)
    found = verify(out, lm)
    assert found.n_hold == (name != "spans")
    assert found.problems
    assert all(said in one for one in found.problems)


@pytest.mark.whole
def test_verify_counts_again_and_compares_the_pages(small, tmp_path, lm, verify):
    out, record = Path(shutil.copytree(small[0] / "out", tmp_path / "out")), small[1]
    assert verify(out, lm).problems == []
    more = record["summary"] | {"recall_spans": 280}
    sentence = record["verdict"] | {"sentence": "It learned everything."}
    for forged in ({"summary": more}, {"verdict": sentence}):
        shutil.copy(small[0] / "out" / "audit.json", out)
        rewrite_record(out / "audit.json", **forged)
        assert "do not follow from the passages" in verify(out, lm).problems[0]
    for file in ("audit.html", "report.html", "audit.sarif"):
        page = (out / file).read_bytes()
        (out / file).write_bytes(page.replace(b"recall", b"RECALL"))
        shutil.copy(small[0] / "out" / "audit.json", out)
        admit(out / "audit.json", out / file)
        (problem,) = verify(out, lm).problems
        assert problem.startswith(f"{file}: is not what mnemoscope {__version__} makes of the")
        other = record["versions"] | {"mnemoscope": "0.1.9"}  # it may word its pages so
        rewrite_record(out / "audit.json", versions=other)
        found = verify(out, lm)
        assert found.problems == []
        assert found.notes[-1].startswith("made by mnemoscope 0.1.9; this is")
        assert not any(file in one for one in found.checked)
        (out / file).write_bytes(page)


@pytest.mark.whole
def test_an_audit_that_moved_is_verified_where_its_documents_are_now(
    audited, trained, new_text, tmp_path, lm, verify
):
    folder = tmp_path / "in"
    folder.mkdir()
    _, spans = audited(folder, trained[0], settings=SPANS)
    out, there = tmp_path / "out", tmp_path / "there"
    (folder / "out").rename(out)
    there.mkdir()
    (there / "b.txt").write_text(new_text(1, 80))
    (note,) = verify(out, lm, [str(there)]).notes
    assert note.startswith("1 document not among those of --documents: ")
    assert note.endswith("a.txt, compared where the audit read them.")
    (there / "a.txt").write_text(f"{trained[0]} and a line")  # beside the one that is as it was
    (edited,) = verify(out, lm, [str(there)]).problems
    assert edited.endswith(f"its text was changed after the audit, in {there / 'a.txt'}.")
    (there / "a.txt").unlink()
    (folder / "a.txt").rename(there / "renamed.txt")
    lost = verify(out, lm)
    assert (lost.problems, lost.n_hold, lost.n_open, lost.checked) == ([], 0, spans.height, [])
    assert "a.txt: not found from " in lost.unchecked[0]
    record = json.loads((out / "audit.json").read_text())
    assert gone_of(record) == ["--documents"]  # what is said with --model, where that is gone too
    gone = {"name": "gone/model", "files": {"a": "b"}}, {"texts": [{"document": "gone/a.txt"}]}
    beside = dict(zip(("reference", "unread"), gone, strict=True))
    assert gone_of(record | beside) == ["--documents", "--reference", "--unread"]
    for documents in ([str(there)], [str(there / "renamed.txt")]):
        found = verify(out, lm, documents)
        assert (found.problems, found.unchecked, found.n_hold) == ([], [], spans.height)
        assert any("audit.html" in one for one in found.checked)
    assert found.sha256 == file_sha256(out / "audit.json")
    (there / "renamed.txt").rename(there / "a.txt")
    (there / "a.txt").write_text("X" + trained[0])
    (problem,) = verify(out, lm, [str(there)]).problems
    assert "a.txt: its text was changed after the audit, in " in problem
    made = ms.audit("embedded", {"a text": trained[0]}, tmp_path / "kept", **BRIEF)
    assert "a text: not there; its text was read from texts/00001.txt." in ms_verify(made.folder)


def ms_verify(folder):
    found = library.verify(folder)
    assert (found.problems, found.unchecked) == ([], [])
    return found.notes


def test_verify_reads_standard_input_where_the_audit_kept_it(tmp_path, lm, trained, verify):
    reading = read_documents(["-"], stdin=io.BytesIO(trained[0].encode()))
    audit_documents(lm, reading, tmp_path / "out", settings=SPANS)
    found = verify(tmp_path / "out", lm)
    assert (found.problems, found.n_hold) == ([], 1)
    (tmp_path / "out" / "texts" / "00001.txt").write_text(trained[0].upper())
    assert "-: its text was changed" in verify(tmp_path / "out", lm).problems[0]
