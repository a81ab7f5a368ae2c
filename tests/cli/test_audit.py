"""The verb audit: exit statuses, one-line errors, nothing half written."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import polars as pl
import pytest

from mnemoscope.audits.library import LocalChoice
from mnemoscope.audits.records import read_audit, read_audit_record
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.spans import coarse_starts
from mnemoscope.audits.verdict import error_rate
from mnemoscope.cli import main
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.files import file_sha256
from sarif_logs import check_sarif
from study_files import rewrite_record


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    rows = pl.read_parquet(sequences_path()).filter(
        (pl.col("duplicates") > 5) & (pl.col("genre") == "prose") & (pl.col("form") == "plain")
    )
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    path.write_text("The lamp on the hill.\n" + "\nA ferry crossed.\n".join(rows["text"].head(1)))
    return path


BRIEFLY = ("--edits", 0, "--near-length", 0)


@pytest.mark.whole
def test_an_audit_is_answered_kept_repeated_and_verified(call, call_light, document, tmp_path):
    own, out = shutil.copy(document, tmp_path / "own.txt"), tmp_path / "out"
    asked = ("audit", "embedded", own, "-o", out, *BRIEFLY)
    done = call(*asked, "--fail-if", "recalled > 0.5%", "--json")
    assert done.status == 3
    found, record = json.loads(done.out), read_audit_record(out)
    assert record["model"]["name"] == record["reference"]["name"] == "embedded"
    assert LocalChoice("of-ones-own").beside(None) is None
    assert {key: found[key] for key in record} == record
    (judged,) = found["gate"]["conditions"]
    assert (judged["text"], judged["failed"], found["gate"]["failed"]) == (
        *("recalled > 0.5%", True), True
    )  # fmt: skip
    spans = pl.read_parquet(out / "spans.parquet")
    assert spans["reference_reproduces"].null_count() == 0
    assert found["spans"] == spans.select(found["spans"][0].keys()).to_dicts()
    before = {path: path.read_bytes() for path in out.iterdir()}
    done = call(*asked, "--fail-if", "recalled > 99%")
    assert (done.status, "Passed" in done.out) == (0, True)
    assert "How far to trust this: " in done.out
    brief = call(*asked, "--fail-if", "recalled > 99%", "-q").out
    trust = f"Read {out / 'report.html'} (the summary, and how far to trust it), then "
    assert (trust in brief, "How far to trust this" in brief, "For prog" in brief) == (
        *(True, False, False),
    )
    for verb in ("audit", "audit gate", "watch"):
        assert "--verbose" in call(*verb.split(), "--help").out
    assert "this audit is already there" in call(*asked).err
    assert "The reference is far enough apart to count.\n" in done.out
    assert "nats a token" not in done.out
    done = call(*asked, "--fail-if", "recalled > 0.5%", "-q")
    failed, title, worst, page, *steps = done.out.splitlines()
    assert (done.status, failed[:26]) == (3, "Failed (recalled > 0.5%): ")
    assert failed.endswith("% recalled, at most 0.5 % allowed.")
    assert title == "What the model repeats of the documents (1 passage):"
    (row,) = spans.filter(verdict="recall").rows(named=True)
    beginning = " ".join(row["text"].split())[:60]
    assert re.fullmatch(rf"  {own}, lines? \d.*: {re.escape(beginning)}…", worst)
    assert page.endswith(f": {out / 'audit.html'}")
    assert [one[:15] for one in steps] == ["What to do: loo", "If you do not t", "If it may write"]
    assert f"{out / 'audit.html'} holds the documents, also those of which nothing came" in steps[1]
    told, *given = shlex.split(steps[1].partition("without the texts: ")[2])
    shared = call(*(tmp_path / one if one == "shared" else one for one in given))
    assert (told, shared.status, len([*(tmp_path / "shared").iterdir()])) == ("mnemoscope", 0, 2)
    (out / "redacted.json").unlink()
    done = call(*asked, "--fail-if", "recalled > 0.5%", "--verbose")
    assert f"\n{failed}\n{title}\n" in done.out
    named = {word.strip("(),.") for line in done.out.splitlines() for word in line.split()}
    files = ("report.html", "audit.html", "audit.json", "spans.parquet", "audit.sarif")
    assert {str(out / name) for name in files} <= named
    assert record["verdict"]["sentence"] in done.out.splitlines()
    tested = f"{error_rate(record['verdict'])} report.html says more."
    assert tested in done.out.splitlines()
    assert tested in call(*asked).out.splitlines()
    regions = [
        one["locations"][0]["physicalLocation"]["region"]
        for one in check_sarif(json.loads((out / "audit.sarif").read_text()))
        if one["ruleId"] == "recalled-passage"
    ]
    text = own.read_text()  # a passage that ends with its line does not stand on the next one
    ends = [(one["charOffset"], one["charOffset"] + one["charLength"]) for one in regions]
    lines = {
        n for a, b in ends for n in range(text.count("\n", 0, a), text.count("\n", 0, b - 1) + 1)
    }
    assert f"Recalled on {len(lines)} line" in done.out
    (folder := tmp_path / "folder").mkdir()
    (binary := folder / "b.bin").write_bytes(b"\0")  # what nobody reads counts in a gate
    others = ("--reference: embedded there, none here", f"other documents ({binary})")
    commands = [(*asked, "--reference", "none"), (*asked, folder)]
    for said, refused in zip(others, call_light(commands), strict=True):
        assert f"{out}: holds another audit ({said}" in refused.err
    assert f"{binary}: a binary file, not a text. Or leave" in call(*asked, binary).err
    plan = ("audit", "embedded", own, "-o", tmp_path / "new", "--dry-run")
    (others := tmp_path / "others").mkdir()
    for name in ("copy", "new"):
        (others / name).write_text(own.read_text() + "It ends." * (name == "new"))
    planned = call(*plan, "--unread", others, "--read").out
    assert "--unread: 1 of 2 left out, as they are audited or stand twice." in planned
    assert "1 document of --unread is asked in the same way: " in planned
    again = call(*asked, "--dry-run").out
    assert "is finished and stays as it is: nothing is added.\nNothing was written." in again
    more = call(*asked, "--dry-run", "--unread", others, "--read").out
    assert "stays as it is: --unread and --read are added.\n1 document of --unread" in more
    n_new = re.search(r"in the same way: ([\d,]+) windows more", more)[1]
    assert f"of the {n_new} windows" in more
    few = "--read: 1 unread document is too few for the document: 19 are needed, 18 more, so"
    assert few in planned
    assert "--read without --unread: of no document will it say" in call(*plan, "--read").out
    assert "--read: No reference" in call(*plan, "--read", "--reference", "none").out
    alone = ("--unread", own)
    for refused in call_light([(*plan, *alone), (*plan[:-1], *alone)]):
        assert (refused.status, "nothing but the audited documents" in refused.err) == (2, True)
    grafts, needs = "whether parts of the reference break it; ", "which earlier tokens it needs"
    itself = "what the reference itself repeats"
    assert f"what the reference says; {grafts}{needs}; {itself}" in planned
    said = call(*plan, "--study", "auto").out
    assert f"{grafts}what the CNNs of a study say; {needs}" in said
    assert "no such folder. Make a study" in call(*plan, "--study", tmp_path / "nowhere").err
    n_tokens = record["documents"][0]["tokens"]
    assert f": {len(coarse_starts(n_tokens, AuditSettings())):,} windows of 64 " in planned
    assert record["reference"]["beside"]["windows"] == -(-(n_tokens - 63) // 64)
    assert "The reference reads them all too, and is asked where it has most of a w" in planned
    names = f"{own}\n{own}"  # a gate would pass on a list of names, read as a text
    assert (
        f"{own} …: 2 names in one argument" in call(*("audit", "embedded", names), *plan[3:5]).err
    )
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    gate = ("audit", "gate", out, "--fail-if", "recalled >= 1 passage in doc")
    (failed,) = call_light([gate], ("torch", "transformers"))
    assert (failed.status, ": 1 of 1 checked document has too" in failed.out) == (
        3,
        True,
    )
    junit, sarif = out / "gate.xml", out / "gate.sarif"  # as a refusal advises
    assert f"--baseline {out}: the folder that is judged" in call(*gate, "--baseline", out).err
    again = call(*asked, "--redo", "--baseline", out, "--fail-if", "recalled > 0%")
    assert (again.status, {path: path.read_bytes() for path in out.iterdir()}) == (2, before)
    both = ("--fail-if", "guessed > 99%", "--fail-if", "recalled > 1%")
    said = call(*gate[:3], *both, "-q").out.splitlines()  # any of them fails, and each is named
    words = ["Failed (recalled > 1%", "Passed (guessed > 99%", "What the model repeat"]
    assert [one[:21] for one in said[:3]] == words
    older = shutil.copytree(out, tmp_path / "older")
    copied = call(*gate, "--baseline", older)
    assert (copied.status, f"{older}: a copy of what is judged (of 2" in copied.err) == (2, True)
    before_more = shutil.copytree(out, tmp_path / "before_more")  # a question was added since
    rewrite_record(before_more / "audit.json", added={"read": "2020-01-01T00:00:00+00:00"})
    assert "a copy of what is judged" in call(*gate, "--baseline", before_more).err
    rewrite_record(older / "audit.json", command=["mnemoscope", "of the same second"])
    assert f"; {older} audited the same model." in call(*gate, "--baseline", older).out
    rewrite_record(older / "audit.json", date="2020-01-01T00:00:00+00:00")
    beside = ("--baseline", older, "--junit", junit, "--sarif", sarif)
    passed = call(*gate, *beside)  # nothing that was not there before
    assert (
        passed.status,
        "): 0 new passages recalled in any document; none " in passed.out,
    ) == (0, True)
    assert f"; {older} audited the same model.\n" in passed.out
    assert 'failures="0"' in junit.read_text()
    assert "recalled passages: 1 known, 0 new" in junit.read_text()
    rewrite_record(older / "audit.json", date="2099-01-01T00:00:00+00:00")
    assert f"; {older} was made later (2099-01-01T" in call(*gate, "--baseline", older).out
    rewrite_record(older / "audit.json", date="2020-01-01T00:00:00+00:00")
    results = check_sarif(json.loads(sarif.read_text()))
    assert [one["baselineState"] for one in results] == ["unchanged"] * len(results) != []
    assert {one["level"] for one in results} == {"warning"}  # known, so the gate passes
    assert call(*gate, "--sarif", sarif).status == 3
    log = (older / "audit.sarif").rename(tmp_path / "kept.sarif")
    assert "audit.sarif: missing, and needed for --sarif only. " in call(*gate, *beside).err
    assert call(*gate, *beside[:-2]).status == 0
    log.rename(older / "audit.sarif")
    results = check_sarif(json.loads(sarif.read_text()))
    assert {one["level"] for one in results if one["ruleId"] == "recalled-passage"} == {"error"}
    shown = call("audit", "--help").out
    assert len(shown.splitlines()) <= 40
    assert "Of a finished one: mnemoscope audit gate, audit verify, audit redact." in shown
    (out / "report.html").write_text("nothing was found")
    assert "report.html: damaged (its content has changed" in call(*gate).err
    (out / "report.html").write_bytes(before[out / "report.html"])
    verify = ("audit", "verify", out, "-q")
    (out / "audit.json").write_bytes(
        before[out / "audit.json"].replace(b'"operator"', b'"0perator"')
    )
    changed = call(*verify)
    assert (changed.status, "its content has changed since" in changed.out) == (3, True)
    (out / "audit.json").write_bytes(before[out / "audit.json"])
    assert "parts were asked again, and wrote the same" in call(*verify).out
    assert "parts wrote: by checksum alone" in call(*verify, "--reference", "none").out
    other = call(*verify, "--reference", model_path())
    assert (other.status, "other weights than those that were asked" in other.out) == (3, True)
    verified = json.loads(call(*verify, "--json").out)
    assert verified["n_hold"] == verified["n_spans"] == spans.height
    last = call(*verify).out.splitlines()[-1]
    assert (": verified. " in last, last.split()[-1]) == (True, file_sha256(out / "audit.json"))
    assert call(*verify, "--model", model_path()).out.splitlines()[-1] == last
    gone = call(*verify, "--model", tmp_path / "gone")
    assert (gone.status, "Say where it is now with --model DIR." in gone.err) == (2, True)
    own.rename(tmp_path / "moved.txt")
    lost = call(*verify)
    assert (lost.status, "say where they are now with --documents DIR." in lost.out) == (2, True)
    assert call(*verify, "--documents", tmp_path / "moved.txt").out.splitlines()[-1] == last
    assert "no such file" in call(*verify, "--documents", tmp_path / "none").err.lower()
    (tmp_path / "moved.txt").rename(own)
    own.write_text(own.read_text() + "!")
    done = call(*verify)
    assert (done.status, "changed" in done.out) == (3, True)
    assert done.out.splitlines()[-1] == f"{out} does not hold: 1 problem, named above."


@pytest.mark.whole
def test_a_dry_run_fails_for_strict_as_the_audit_would(call, document, tmp_path):
    (texts := tmp_path / "texts").mkdir()
    shutil.copy(document, texts)
    plan = ("audit", "embedded", texts, "--dry-run", "--fail-if", "recalled > 0%")
    (texts / "b.bin").write_bytes(b"\0")
    (texts / "short.txt").write_text("few words")
    lax, strict = call(*plan), call(*plan, "--strict")
    assert (lax.status, strict.status) == (0, 3)
    failed, (way,) = strict.out.splitlines()[-1], re.findall(r" \((--exclude .*)\)", strict.out)
    assert failed == (
        "Failed (--strict): of 2 documents nothing would be asked: "
        f"{texts / 'b.bin'}, {texts / 'short.txt'}. Mend them, or leave out ({way})."
    )
    whole = call(*plan, "--strict", *shlex.split(way))
    assert (whole.status, "Failed" in whole.out) == (0, False)
    for name in ("b.bin", "short.txt"):
        assert f"Left out (--exclude {texts / name}): {texts / name}.\n" in whole.out


def test_a_column_by_its_bare_name_and_one_of_texts_are_refused_with_what_to_write(
    refused, tmp_path
):
    """As it is read: the example names a column that the table has."""
    (folder := tmp_path / "texts").mkdir()
    (folder / "a.txt").write_text("a text")
    (table := tmp_path / "t.csv").write_text("Name,Note\nHugo,takes omeprazole\n")
    out = ("-o", tmp_path / "out")
    both = [
        ("audit", "embedded", table, *out),
        ("watch", model_path(), "--sequences", table, *out),
    ]
    for verb in both:
        said = refused(*verb, "--column", "Note")
        assert "--column Note: needs NAME=PATH, for example --column text=Note." in said
        said = refused(*verb, "--column", "Nota")
        assert "such as text=NAME. " in said
        assert "no 'Nota'. Did you mean 'Note'? There are: Name, Note." in said
    columns = ("--column", "text=Name")
    assert "only tables have columns. Leave out" in refused(
        "audit", "embedded", folder, *out, *columns
    )
    shutil.copy(table, folder)
    left = ("--exclude", "*.csv")
    assert "only tables have" in refused("audit", "embedded", folder, *out, *columns, *left)
    assert not (tmp_path / "out").exists()


def terminated(*_, **__):
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, terminated])
def test_who_stops_before_anything_is_kept_is_told_so(call, document, tmp_path, monkeypatch, stop):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asked = ("audit", "embedded", document, "-o", tmp_path / "out", *BRIEFLY)
    monkeypatch.setattr("mnemoscope.audits.scan._part", Mock(side_effect=stop))
    stopped = call(*asked)
    signal.signal(signal.SIGTERM, before)
    assert (stopped.status, (tmp_path / "out").exists()) == (130, False)
    assert f"{tmp_path / 'out'}: nothing was kept yet." in stopped.err
    assert "mnemoscope: stopped. Run the same command again: " in stopped.err


def run_saying(errors, words):
    os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
    main(words)


def test_of_two_audits_of_one_folder_one_is_refused_and_the_other_is_whole(
    document, tmp_path, forkserver
):
    asked = ("audit", "embedded", document, "-o", tmp_path / "out", *BRIEFLY, "--stride", 64, "-q")
    files = [tmp_path / "first", tmp_path / "second"]
    both = [forkserver.Process(target=run_saying, args=(one, [*map(str, asked)])) for one in files]
    for process in both:
        process.start()
    for process in both:
        process.join()
    said = {one.exitcode: path.read_text() for one, path in zip(both, files, strict=True)}
    assert sorted(said) == [0, 2]
    assert re.search(r"out: in use by process \d+\. Wait until it ends", said[2])
    assert said[2].count("\n") == 1
    assert read_audit(tmp_path / "out")[0]["settings"]["stride"] == 64
    assert not list((tmp_path / "out").glob(".lock*"))


def test_what_another_process_makes_is_in_use(document, refused, tmp_path):
    out, table = tmp_path / "out", tmp_path / "t.jsonl"
    out.mkdir()
    table.write_text('{"text": "a"}\n')
    code = (
        "import sys; from pathlib import Path; from mnemoscope import files\n"
        "with files.hold_folder(Path(sys.argv[1])), files.hold_file(Path(sys.argv[2])):\n"
        "    print(1, flush=True); input()"
    )
    other = tmp_path / "o.parquet"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(out), str(other)], **pipes) as owner:
        owner.stdout.readline()
        for verb in (
            ("audit", "embedded", document, "-o", out),
            ("audit", "api", "http://localhost:9/v1", "x", document, "-o", out),
            ("audit", "rank", "embedded", document, "-o", out),
        ):
            assert f"{out}: in use by process {owner.pid}." in refused(*verb)
        for verb in (
            ("features", table, "-o", other),
            ("label", table, "-t", "Non-Memo, Guess, Recall", "-o", other),
            ("data", "texts", "--model", "embedded", "-o", other),
            ("data", "duplicates", "--sequences", table, "--corpus", table, "-o", other),
            ("distill", "embedded", "--texts", document, "-o", other),
            ("watch", model_path(), model_path(), "--sequences", document, "-o", other),
            ("localize", out, out, "-o", other),
            ("benchmark", out, out, "-o", other),
        ):
            assert f"{other}: in use by another process" in refused(*verb)
        owner.kill()
    assert "no column" in refused("label", table, "-t", "Non-Memo, Guess, Recall", "-o", other)
    assert {one.name for one in tmp_path.iterdir()} == {"out", "t.jsonl"}


def test_a_folder_that_may_not_be_written_is_refused(refused, document, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    line = refused("audit", "embedded", document, "-o", tmp_path / "out", "-q")
    assert "no permission to write" in line
