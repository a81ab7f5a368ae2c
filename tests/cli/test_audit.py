"""The verb audit: exit statuses, one-line errors, nothing half written."""

import json
import shutil

import polars as pl
import pytest

from mnemoscope.audits.library import LocalChoice
from mnemoscope.audits.records import read_audit_record
from mnemoscope.audits.verdict import error_rate
from mnemoscope.embedded import sequences_path


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    rows = pl.read_parquet(sequences_path()).filter(
        (pl.col("duplicates") > 5) & (pl.col("genre") == "prose") & (pl.col("form") == "plain")
    )
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    path.write_text("The lamp on the hill.\n" + "\nA ferry crossed.\n".join(rows["text"].head(1)))
    return path


BRIEFLY = ("--edits", 0, "--near-length", 0)


def test_an_audit_is_answered_kept_repeated_and_verified(call, call_light, document, tmp_path):
    own, out = shutil.copy(document, tmp_path / "own.txt"), tmp_path / "out"
    asked = ("audit", "embedded", own, "-o", out, *BRIEFLY)
    done = call(*asked, "--fail-if", "recalled > 0.5%", "--json")
    assert done.status == 3
    found, record = json.loads(done.out), read_audit_record(out)
    assert record["model"]["name"] == record["reference"]["name"] == "embedded"
    assert LocalChoice("of-ones-own").beside(None) is None
    assert {key: found[key] for key in record} == record
    assert (found["gate"]["text"], found["gate"]["failed"]) == ("recalled > 0.5%", True)
    spans = pl.read_parquet(out / "spans.parquet")
    assert spans["reference_reproduces"].null_count() == 0
    assert found["spans"] == spans.select(found["spans"][0].keys()).to_dicts()
    before = {path: path.read_bytes() for path in out.iterdir()}
    done = call(*asked, "--fail-if", "recalled > 99%")
    assert (done.status, "Passed" in done.out) == (0, True)
    assert "this audit is already there" in call(*asked).err
    done = call(*asked, "--fail-if", "recalled > 0.5%", "-q")
    assert (done.status, "Failed: recalled > 0.5%" in done.out) == (3, True)
    named = {word.strip("(),.") for line in done.out.splitlines()[-3:-1] for word in line.split()}
    files = ("report.html", "audit.html", "audit.json", "spans.parquet", "audit.sarif")
    assert {str(out / name) for name in files} <= named
    assert record["verdict"]["sentence"] in done.out.splitlines()
    assert error_rate(record["verdict"]) in done.out.splitlines()
    assert "holds an audit of other" in call(*asked, "--reference", "none").err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    gate = ("audit", "gate", out, "--fail-if", "recalled >= 1 passage in doc")
    (failed,) = call_light([gate], ("torch", "transformers"))
    assert (failed.status, "; so in 1 document)" in failed.out) == (3, True)
    passed = call(*gate, "--baseline", out)  # nothing that was not there before
    assert (passed.status, ": 0 passages; so in 0 documents" in passed.out) == (0, True)
    verify = ("audit", "verify", out, "-q")
    verified = json.loads(call(*verify, "--json").out)
    assert verified["n_hold"] == verified["n_spans"] == spans.height
    own.write_text(own.read_text() + "!")
    done = call(*verify)
    assert (done.status, "changed" in done.out) == (3, True)
    assert done.out.splitlines()[-1] == f"{out} does not hold: 1 problem, named above."


def test_a_folder_that_may_not_be_written_is_refused(refused, document, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    line = refused("audit", "embedded", document, "-o", tmp_path / "out", "-q")
    assert "no permission to write" in line
