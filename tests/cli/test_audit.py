"""The verb audit: exit statuses, one-line errors, nothing half written."""

import io
import json
import shutil

import polars as pl
import pytest

from mnemoscope.embedded import model_path, sequences_path


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    rows = pl.read_parquet(sequences_path()).filter(
        (pl.col("duplicates") > 5) & (pl.col("genre") == "prose")
    )
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    path.write_text("The lamp on the hill.\n" + "\nA ferry crossed.\n".join(rows["text"].head(3)))
    return path


BRIEF = {"edits": 0, "n_prefixes": 0, "near_length": 0}
BRIEFLY = ("--edits", 0, "--other-prefixes", 0, "--near-length", 0)


def test_audit_verify_and_gate(call, document, tmp_path):
    out = tmp_path / "out"
    audit = ("audit", "embedded", document, "-o", out, *BRIEFLY, "-q", "--fail-if")
    done = call(*audit, "recalled > 0.5%")
    assert done.status == 3
    assert "Failed: recalled > 0.5%" in done.out
    assert str(out / "audit.html") in done.out
    assert pl.read_parquet(out / "spans.parquet")["reference_reproduces"].null_count() == 0
    assert json.loads((out / "audit.json").read_text())["model"]["name"] == "embedded"
    done = call(*audit, "recalled > 99%")
    assert done.status == 0
    assert "Passed" in done.out
    done = call("audit", "--verify", out, "-q")
    assert done.status == 0
    assert "hold." in done.out
    document.write_text(document.read_text() + "!")
    done = call("audit", "--verify", out, "-q")
    assert done.status == 3
    assert "changed" in done.out
    assert done.out.splitlines()[-1] == f"{out} does not hold: 1 problem, named above."


def test_standard_input(call, monkeypatch, tmp_path):
    data = io.TextIOWrapper(io.BytesIO(b"one two three " * 60))
    monkeypatch.setattr("sys.stdin", data)
    assert call("audit", model_path(), "-", "-o", tmp_path / "out", "-q").status == 0
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["reference"] is None
    text = (tmp_path / "out" / record["documents"][0]["text_file"]).read_text()
    assert text == "one two three " * 60


@pytest.fixture(scope="module")
def places(document, tmp_path_factory):
    """What the mistakes below name: documents, and models with no tokenizer or another."""
    folder = tmp_path_factory.mktemp("places")
    places = {"DOC": document}
    for name, text in (("SHORT", "Too short."), ("EMPTY", "")):
        places[name] = folder / f"{name}.txt"
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
        ("embedded -o OUT", "audit needs a model and documents"),
        ("embedded DOC", "add -o DIR"),
        ("embedded DOC -o OUT --fail-if recaled>1%", "Did you mean 'recalled'"),
        ("embedded DOC -o OUT --threshold 1.5", "threshold 1.5"),
        ("embedded DOC -o OUT --patterns loose", "patterns loose"),
        ("embedded DOC -o OUT --encoding klingon", "no such encoding"),
        ("embedded DOC -o DOC", "a file is in the way"),
        ("embedded --verify OUT", "and no more"),
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
        ("UNTOKENIZED DOC -o OUT", "tokenizer"),
        ("embedded DOC -o OUT --reference OTHER", "another tokenizer"),
        ("no.gguf DOC -o OUT", "no such model"),
        ("embedded lab/none -o OUT", "the hub cannot be reached"),
    ],
)
def test_mistakes_get_one_line_and_leave_no_folder(
    call, places, tmp_path, monkeypatch, arguments, words
):
    named = places | {"OUT": tmp_path / "out"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = call("audit", *(named.get(one, one) for one in arguments.split()), "-q")
    assert (done.status, done.out) == (2, "")
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_written_is_refused(refused, document, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    line = refused("audit", "embedded", document, "-o", tmp_path / "out", "-q")
    assert "no permission to write" in line


def test_a_repeat_is_said_and_refusals_need_no_torch(call, call_light, document, tmp_path):
    out, study, empty = tmp_path / "out", tmp_path / "study", tmp_path / "empty.txt"
    study.mkdir()
    (study / "study.yaml").write_text("title: mine\n")
    empty.touch()
    assert call("audit", "embedded", document, *BRIEFLY, "-o", out, "-q").status == 0
    before = {path: path.read_bytes() for place in (out, study) for path in place.iterdir()}
    asked = ("audit", "embedded", document, *BRIEFLY, "-o", out)
    assert "this audit is already there" in call(*asked).err
    assert "holds an audit of other" in call(*asked, "--reference", "none").err
    said = {
        (*asked[:-1], study): "already holds a study",
        ("audit", "embedded", empty, "-o", tmp_path / "new"): "empty",
        (*asked, "--dtype", "float64"): "dtype 'float64'",
        (*asked, "--device", "gpu"): "device 'gpu'",
        ("audit", "--verify", study): "contains no audit",
    }
    for arguments, result in zip(said, call_light(list(said), ("torch",)), strict=True):
        assert result.status == 2, result
        assert said[arguments] in result.out + result.err
    after = {path: path.read_bytes() for place in (out, study) for path in place.iterdir()}
    assert after == before
