"""The verb audit: exit statuses, one-line errors, nothing half written."""

import json
import shutil
from io import BytesIO, TextIOWrapper

import polars as pl
import pytest

from mnemoscope.audits.library import LocalChoice
from mnemoscope.audits.records import read_audit_record
from mnemoscope.embedded import model_path, sequences_path


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    rows = pl.read_parquet(sequences_path()).filter(
        (pl.col("duplicates") > 5) & (pl.col("genre") == "prose") & (pl.col("form") == "plain")
    )
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    path.write_text("The lamp on the hill.\n" + "\nA ferry crossed.\n".join(rows["text"].head(1)))
    return path


BRIEFLY = ("--edits", 0, "--near-length", 0)


def test_an_audit_is_answered_kept_repeated_and_verified(call, document, tmp_path):
    own, out = shutil.copy(document, tmp_path / "own.txt"), tmp_path / "out"
    asked = ("audit", "embedded", own, "-o", out, *BRIEFLY)
    done = call(*asked, "--fail-if", "recalled > 0.5%", "--json")
    assert done.status == 3
    found, record = json.loads(done.out), read_audit_record(out)
    assert record["model"]["name"] == record["reference"]["name"] == "embedded"
    assert LocalChoice("of-ones-own").beside(None) is None
    assert {key: found[key] for key in record} == record
    assert found["gate"] == {"text": "recalled > 0.5%", "failed": True}
    spans = pl.read_parquet(out / "spans.parquet")
    assert spans["reference_reproduces"].null_count() == 0
    assert found["spans"] == spans.select(found["spans"][0].keys()).to_dicts()
    before = {path: path.read_bytes() for path in out.iterdir()}
    done = call(*asked, "--fail-if", "recalled > 99%")
    assert (done.status, "Passed" in done.out) == (0, True)
    assert "this audit is already there" in call(*asked).err
    done = call(*asked, "--fail-if", "recalled > 0.5%", "-q")
    assert (done.status, "Failed: recalled > 0.5%" in done.out) == (3, True)
    assert str(out / "audit.html") in done.out
    assert "holds an audit of other" in call(*asked, "--reference", "none").err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    verify = ("audit", "verify", out, "-q")
    verified = json.loads(call(*verify, "--json").out)
    assert verified["n_hold"] == verified["n_spans"] == spans.height
    own.write_text(own.read_text() + "!")
    done = call(*verify)
    assert (done.status, "changed" in done.out) == (3, True)
    assert done.out.splitlines()[-1] == f"{out} does not hold: 1 problem, named above."


@pytest.fixture(scope="module")
def places(document, tmp_path_factory):
    """What the mistakes below name: documents, and models with no tokenizer or another."""
    folder = tmp_path_factory.mktemp("places")
    places = {"DOC": document}
    for name, text in (("SHORT", "Too short."), ("EMPTY", ""), ("ROWS", '{"content": "words"}')):
        places[name] = folder / f"{name}.{'jsonl' if name == 'ROWS' else 'txt'}"
        places[name].write_text(text)
    for name in ("UNTOKENIZED", "OTHER"):
        places[name] = shutil.copytree(model_path(), folder / name)
    (places["UNTOKENIZED"] / "tokenizer.json").unlink()
    tokenizer = json.loads((places["OTHER"] / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (places["OTHER"] / "tokenizer.json").write_text(json.dumps(tokenizer))
    return places


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("embedded -o OUT", "Missing argument 'documents"),
        ("embedded DOC", "add -o DIR"),
        ("embedded DOC -o OUT --fail-if recaled>1%", "Did you mean 'recalled'"),
        ("embedded DOC -o OUT --threshold 1.5", "--threshold: Input should be"),
        ("embedded DOC -o OUT --patterns loose", "--patterns: Input should be"),
        ("embedded DOC -o OUT --encoding klingon", "no such encoding"),
        ("embedded DOC -o DOC", "cannot be made (File exists)"),
        ("verify", "Missing argument 'folder"),
        ("rank embedded DOC", "add -o DIR"),
        ("embedded DOC -o OUT --chat-template", "no chat template"),
        ("embedded DOC -o OUT --junit no/where/x.xml", "no such folder"),
        ("embedded DOC -o OUT --junit /", "a folder. Name a file"),
        ("embedded DOC -o OUT --study auto --chat-template", "plain text"),
        ("embedded DOC -o OUT --prefix 500", "positions"),
        ("embedded DOC -o OUT --answer-tokens 9", "--answer-tokens: only with --ordinary"),
        ("embedded DOC -o OUT --overlap 9", "--overlap: only with --ordinary"),
        ("embedded DOC -o OUT --corpus-dtype uint16", "--corpus-dtype: only with --corpus"),
        ("embedded DOC -o OUT --profile-prefix window", "--profile-prefix: only with --profile"),
        ("embedded DOC -o OUT --instruction Go", "--instruction: only with --chat-template"),
        ("embedded SHORT -o OUT --reference none", "shorter than one window of 64 tokens"),
        ("embedded SHORT EMPTY -o OUT --reference none", "shorter than one window of 64 tokens"),
        ("embedded - -o OUT --reference none", "shorter than one window of 64 tokens"),
        ("UNTOKENIZED DOC -o OUT", "tokenizer"),
        ("embedded DOC -o OUT --reference OTHER", "uses a different tokenizer"),
        ("no.gguf DOC -o OUT", "no such model"),
        ("embedded lab/none -o OUT", "the hub cannot be reached"),
        ("embedded ROWS -o OUT", "--column text=NAME; it has content"),
    ],
)
def test_mistakes_get_one_line_and_leave_no_folder(
    call, places, tmp_path, monkeypatch, arguments, words
):
    named = places | {"OUT": tmp_path / "out"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"Too short.")))
    done = call("audit", *(named.get(one, one) for one in arguments.split()), "-q")
    assert (done.status, done.out) == (2, "")
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_written_is_refused(refused, document, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    line = refused("audit", "embedded", document, "-o", tmp_path / "out", "-q")
    assert "no permission to write" in line
