"""A whole audit on the embedded model: what it finds, resumes, refuses and verifies."""

import io
import json
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mnemoscope as ms
from mnemoscope.audit import local
from mnemoscope.audit.documents import character_range, read_documents, tokenize
from mnemoscope.audit.evidence import SPAN_COLUMNS
from mnemoscope.audit.local import audit_documents
from mnemoscope.audit.run import read_audit_record
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.files import file_sha256, write_record
from mnemoscope.lm.continue_ import scan_memorized

FILES = (
    "audit.json",
    "audit.html",
    "audit.sarif",
    "report.html",
    "spans.parquet",
    "near.parquet",
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory, trained, new_text):
    """Two documents: trained passages between new text, and new text alone."""
    folder = tmp_path_factory.mktemp("planted")
    pieces = [new_text(9, 41)]
    for number, passage in enumerate(trained):
        pieces += [passage, new_text(number, 30 + 7 * number)]
    (folder / "planted.txt").write_text(" é😀 ".join(pieces), encoding="utf-8")
    (folder / "new.txt").write_text(new_text(77, 300), encoding="utf-8")
    (folder / "short.txt").write_text("Too short.", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(planted, tmp_path_factory, lm, reference):
    out = tmp_path_factory.mktemp("out") / "audit"
    record = audit_documents(lm, read_documents([str(planted)]), out, reference=reference)
    return out, record, pl.read_parquet(out / "spans.parquet")


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


def test_of_what_the_model_reproduces_nine_tenths_are_in_a_span(made, planted, lm):
    name = (planted / "planted.txt").as_posix()
    truth = reproduced_characters(lm, (planted / "planted.txt").read_text(encoding="utf-8"))
    spans = made[2].filter(pl.col("document") == name)
    found = {one for row in spans.iter_rows(named=True) for one in range(row["start"], row["end"])}
    assert len(truth) > 200
    assert len(truth & found) / len(truth) >= 0.9
    said = ("verdict", "reference_reproduces", "reference_says", "prior_says", "grounds_disagree")
    # They need their own prefix, so the prior says nothing.
    assert spans.select(said).rows() == [("recall", False, "recall", None, False)] * 4


def test_new_text_is_never_called_recalled(made, planted):
    spans = made[2].filter(pl.col("document") == (planted / "new.txt").as_posix())
    assert spans.height == 0
    row = next(one for one in made[1]["documents"] if one["document"].endswith("new.txt"))
    assert row["recalled"]["share"] == 0


def test_shuffled_words_of_trained_text_are_not_recalled(tmp_path, audited, trained):
    words = " ".join(trained).split()
    random.Random(1).shuffle(words)
    record, _ = audited(tmp_path, " ".join(words))
    assert record["summary"]["recall_spans"] == 0


def test_offsets_are_characters_of_the_document(made, planted):
    text = (planted / "planted.txt").read_text(encoding="utf-8")
    for row in made[2].iter_rows(named=True):
        assert row["text"] == text[row["start"] : row["end"]]
        assert row["window_start"] <= row["suffix_start"] <= row["start"]
        assert "".join(row["suffix_pieces"]) == text[row["suffix_start"] : row["window_end"]]


def test_table_has_its_columns_and_nulls_where_nothing_was_asked(made):
    frame = made[2]
    assert dict(frame.schema) == SPAN_COLUMNS
    assert frame["probability"].null_count() == frame.height
    for column in ("document", "start", "end", "verdict", "reason", "tokens", "score"):
        assert frame[column].null_count() == 0
    assert set(frame["verdict"]) <= {"guess", "recall"}


def test_python_and_the_command_line_give_the_same_audit(
    tmp_path, monkeypatch, call, new_text, trained
):
    monkeypatch.chdir(tmp_path)
    text = new_text(1, 60) + trained[0]
    Path("a.txt").write_text(text)
    made = ms.audit("embedded", "a.txt", "out", n_prefixes=2)
    assert call("audit", "embedded", "a.txt", "-o", "typed", "--other-prefixes", 2).status == 0
    assert made.spans.equals(pl.read_parquet("typed/spans.parquet"))
    assert made.record["key"] == json.loads(Path("typed/audit.json").read_text())["key"]
    assert made.record["reference"]["name"] == "embedded"
    of_text = ms.audit("embedded", {"a.txt": text}, "texts", n_prefixes=2)
    assert of_text.spans.equals(made.spans)
    assert (tmp_path / "texts" / "texts" / "00001.txt").read_text() == text
    with pytest.raises(UserError, match="strid"):
        ms.audit("embedded", {"a": text}, "other", strid=4)


def test_a_counting_template_is_a_guess(tmp_path, audited):
    record, frame = audited(tmp_path, "".join(f"Chapter {n}: board mode\n" for n in range(10, 60)))
    assert record["summary"]["guessed"]["share"] > 0.5
    assert record["summary"]["recalled"]["share"] == 0
    assert frame["reason"].str.contains("step 1").any()
    assert frame["reference_reproduces"].null_count() == frame.height


def test_short_documents_are_said_and_do_not_stop_the_others(made):
    row = next(one for one in made[1]["documents"] if one["document"].endswith("short.txt"))
    assert (row["is_too_short"], row["windows"]) == (True, 0)
    assert "shorter than one window" in (made[0] / "audit.html").read_text()


def test_a_killed_audit_goes_on_and_gives_the_same_bytes(
    tmp_path, lm, trained, new_text, monkeypatch, stopped_at
):
    settings = AuditSettings(batch_size=16, n_prefixes=2)
    monkeypatch.setattr(local, "_BATCHES_A_PART", 1)
    (tmp_path / "a.txt").write_text(new_text(1, 60) + trained[0] + new_text(2, 60))
    reading = read_documents([str(tmp_path / "a.txt")])

    def run(name, dies_at=None):
        with stopped_at(local, "continue_windows", dies_at) as calls:
            audit_documents(lm, reading, tmp_path / name, settings=settings)
        return [(tmp_path / name / file).read_bytes() for file in FILES], len(calls)

    whole, n_parts = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", dies_at=3)
    assert not any((tmp_path / "killed" / name).exists() for name in FILES)
    again, n_again = run("killed")
    assert again == whole
    assert n_again == n_parts - 2  # the two finished parts were not made again
    assert not (tmp_path / "killed" / "parts").exists()


def test_parts_of_other_documents_are_not_used(tmp_path, audited, new_text, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mnemoscope.audit.run.write_audit", dies)
    with pytest.raises(KeyboardInterrupt):
        audited(tmp_path, new_text(1, 80))
    assert list((tmp_path / "out" / "parts").rglob("windows-*"))
    monkeypatch.undo()
    record, _ = audited(tmp_path, new_text(2, 80))
    assert record["summary"]["windows"] > 0


def test_another_audit_is_not_written_over_unless_asked(tmp_path, audited, new_text):
    out, text = tmp_path / "out", new_text(1, 80)
    first, _ = audited(tmp_path, text)
    stamps = [(out / name).stat().st_mtime_ns for name in FILES]
    assert audited(tmp_path, text)[0] == first
    assert [(out / name).stat().st_mtime_ns for name in FILES] == stamps
    other = AuditSettings(stride=4)
    with pytest.raises(UserError, match="--redo"):
        audited(tmp_path, text, settings=other)
    assert audited(tmp_path, text, settings=other, redo=True)[0]["settings"]["stride"] == 4


def test_a_setting_that_came_later_makes_no_other_audit_unless_it_is_set(
    tmp_path, audited, new_text
):
    class Later(AuditSettings):
        new: int = 0

    text = new_text(6, 80)
    record, _ = audited(tmp_path, text)
    values = record["settings"]
    assert audited(tmp_path, text, settings=Later(**values))[0]["settings"] == values
    with pytest.raises(UserError, match="holds an audit of other"):
        audited(tmp_path, text, settings=Later(**values, new=1))


def test_nothing_is_written_outside_the_folder(tmp_path, lm, new_text):
    row = {"text": new_text(1, 80), "document": "../../evil.txt"}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(row) + "\n")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    audit_documents(lm, read_documents([str(tmp_path / "in")]), tmp_path / "x" / "out")
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert made == {tmp_path / "x" / "out" / name for name in FILES}


@pytest.mark.parametrize("name", ["parts", "texts"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path, audited, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leaves the output folder"):
        audited(tmp_path, "text")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_redo_repairs_an_audit_without_one_of_its_files(tmp_path, audited, new_text):
    text, settings = new_text(1, 80), AuditSettings(stride=64)
    audited(tmp_path, text, settings=settings)
    before = {one: (tmp_path / "out" / one).read_bytes() for one in FILES}
    for name in ("spans.parquet", "near.parquet", "audit.html"):
        (tmp_path / "out" / name).unlink()
        with pytest.raises(UserError, match="missing or were changed"):
            audited(tmp_path, text, settings=settings)
        audited(tmp_path, text, settings=settings, redo=True)
        assert {one: (tmp_path / "out" / one).read_bytes() for one in FILES} == before


def test_record_names_what_it_rests_on(made, lm):
    record = read_audit_record(made[0])
    assert record == made[1]
    assert record["schema_version"] == 2
    assert record["model"]["fingerprint"] == lm.fingerprint
    assert "model.safetensors" in record["model"]["files"]
    assert record["settings"]["stride"] == 8
    assert all(len(one["sha256"]) == 64 for one in record["documents"])


def test_verify_repeats_what_holds(made, lm, verify):
    found = verify(made[0], lm)
    assert found.n_hold == found.n_spans == made[2].height
    assert found.problems == []


def test_verify_says_what_does_not_hold(made, planted, tmp_path, lm, reference, verify):
    out = tmp_path / "copy"
    out.mkdir()
    for name in FILES:
        (out / name).write_bytes((made[0] / name).read_bytes())
    found = verify(out, reference)
    assert found.n_hold == 0
    assert any("other weights" in one for one in found.problems)
    path = planted / "new.txt"
    before = path.read_text()
    path.write_text(before + "!")
    try:
        assert any("new.txt" in one for one in verify(out, lm).problems)
    finally:
        path.write_text(before)
    made[2].with_columns(start=pl.lit(0, pl.Int64)).write_parquet(out / "spans.parquet")
    assert any("spans.parquet" in one for one in verify(out, lm).problems)
    sealed = json.loads((made[0] / "audit.json").read_text())
    sealed["summary"]["recalled"]["share"] = 0.0  # one figure, by hand
    (out / "audit.json").write_text(json.dumps(sealed))
    with pytest.raises(DamagedDataError, match="changed since"):
        verify(out, lm)
    record = made[1]
    for damage in ({"settings": {"klingon": 1}}, {"documents": None}):
        (out / "audit.json").write_text(json.dumps(record | damage))
        with pytest.raises(DamagedDataError):
            verify(out, lm)
    (out / "audit.json").write_text(json.dumps(record))
    (out / "spans.parquet").write_bytes(b"torn")
    with pytest.raises(DamagedDataError):
        verify(out, lm)
    with pytest.raises(UserError, match="no audit"):
        verify(tmp_path, lm)


@pytest.mark.parametrize(
    "change",
    [
        {"start": pl.col("start") + 1},
        {"end": pl.col("end") - 1},
        {"verdict": pl.lit("guess")},
        {"text": pl.lit("other words")},
        {"window_start": pl.col("window_start") - 1},
        {"window_token": pl.col("window_token") + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_verify_sees_a_change_of_a_span_whose_hash_was_made_new(made, tmp_path, lm, change, verify):
    made[2].with_columns(**change).write_parquet(tmp_path / "spans.parquet")
    record = made[1] | {"spans_sha256": file_sha256(tmp_path / "spans.parquet")}
    del record["near_sha256"]
    record.pop("sha256", None)
    write_record(tmp_path / "audit.json", record)
    found = verify(tmp_path, lm)
    assert found.n_hold == 0
    assert all("does not hold" in one for one in found.problems)


def test_verify_reads_standard_input_where_the_audit_kept_it(tmp_path, lm, trained, verify):
    reading = read_documents(["-"], stdin=io.BytesIO(trained[0].encode()))
    audit_documents(lm, reading, tmp_path / "out", settings=AuditSettings(n_prefixes=0))
    found = verify(tmp_path / "out", lm)
    assert (found.problems, found.n_hold) == ([], 1)
    (tmp_path / "out" / "texts" / "00001.txt").write_text(trained[0].upper())
    assert "-: its text was changed" in verify(tmp_path / "out", lm).problems[0]


def test_every_column_and_key_is_explained(made):
    page = (Path(__file__).parents[2] / "docs" / "audit-files.md").read_text(encoding="utf-8")
    record = made[1]
    names = [*SPAN_COLUMNS, *record, *record["model"], *record["documents"][0]]
    names += record["documents"][0]["recalled"]
    assert [name for name in names if f"`{name}`" not in page] == []
