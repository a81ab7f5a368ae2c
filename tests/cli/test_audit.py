"""The verb audit: exit statuses, one-line errors, nothing half written."""

import io
import json

import polars as pl
import pytest

from mnemoscope.cli import main
from mnemoscope.embedded import model_path, sequences_path


def run(capsys, *arguments):
    """Exit status, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as left:
        main(["audit", *map(str, arguments)])
    printed = capsys.readouterr()
    return left.value.code, printed.out, printed.err


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    rows = pl.read_parquet(sequences_path()).filter(
        (pl.col("duplicates") > 5) & (pl.col("genre") == "prose")
    )
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    path.write_text("The lamp on the hill.\n" + "\nA ferry crossed.\n".join(rows["text"].head(3)))
    return path


def test_audit_verify_and_gate(capsys, document, tmp_path):
    out = tmp_path / "out"
    status, said, _ = run(
        capsys, "embedded", document, "-o", out, "-q", "--fail-if", "recalled > 0.5%"
    )
    assert status == 3
    assert "Failed: recalled > 0.5%" in said
    assert f"In {out / 'audit.html'}" in said
    assert pl.read_parquet(out / "spans.parquet")["reference_reproduces"].null_count() == 0
    assert json.loads((out / "audit.json").read_text())["model"]["name"] == "embedded"
    status, said, _ = run(
        capsys, "embedded", document, "-o", out, "-q", "--fail-if", "recalled > 99%"
    )
    assert status == 0
    assert "Passed" in said
    status, said, _ = run(capsys, "--verify", out, "-q")
    assert status == 0
    assert "hold." in said
    document.write_text(document.read_text() + "!")
    status, said, _ = run(capsys, "--verify", out, "-q")
    assert status == 3
    assert "changed" in said
    assert said.splitlines()[-1] == f"{out} does not hold: 1 problem, named above."


def test_standard_input(capsys, monkeypatch, tmp_path):
    data = io.TextIOWrapper(io.BytesIO(b"one two three " * 60))
    monkeypatch.setattr("sys.stdin", data)
    status, _, _ = run(capsys, model_path(), "-", "-o", tmp_path / "out", "-q")
    assert status == 0
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert record["reference"] is None
    text = (tmp_path / "out" / record["documents"][0]["text_file"]).read_text()
    assert text == "one two three " * 60


BAD = {
    "no document": (["embedded", "-o", "OUT"], "audit wants a model and documents"),
    "no folder": (["embedded", "DOC"], "add -o DIR"),
    "missing": (["embedded", "nowhere.txt", "-o", "OUT"], "no such file"),
    "gate": (
        ["embedded", "DOC", "-o", "OUT", "--fail-if", "recaled > 1%"],
        "Did you mean 'recalled'",
    ),
    "threshold": (["embedded", "DOC", "-o", "OUT", "--threshold", "1.5"], "threshold 1.5"),
    "patterns": (["embedded", "DOC", "-o", "OUT", "--patterns", "loose"], "patterns loose"),
    "encoding": (["embedded", "DOC", "-o", "OUT", "--encoding", "klingon"], "no such encoding"),
    "file in the way": (["embedded", "DOC", "-o", "DOC"], "a file is in the way"),
    "no model": (["./nothing/here", "DOC", "-o", "OUT"], "no such model"),
    "verify nothing": (["--verify", "OUT"], "no audit in it"),
    "verify and more": (["embedded", "--verify", "OUT"], "and no more"),
    "no such study": (["embedded", "DOC", "-o", "OUT", "--study", "nowhere"], "no such folder"),
    "no template": (["embedded", "DOC", "-o", "OUT", "--chat-template"], "no chat template"),
    "report nowhere": (
        ["embedded", "DOC", "-o", "OUT", "--junit", "no/where/x.xml"],
        "no such folder",
    ),
    "auto in a chat": (
        ["embedded", "DOC", "-o", "OUT", "--study", "auto", "--chat-template"],
        "plain text",
    ),
    "too long a window": (["embedded", "DOC", "-o", "OUT", "--prefix", "500"], "positions"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_get_one_line_and_status_2(capsys, document, tmp_path, name):
    arguments, words = BAD[name]
    places = {"DOC": document, "OUT": tmp_path / "out"}
    status, said, complaint = run(capsys, *(places.get(one, one) for one in arguments), "-q")
    assert status == 2
    assert words in complaint
    assert complaint.count("\n") == 1
    assert said == ""
    assert not (tmp_path / "out" / "audit.json").exists()


@pytest.mark.parametrize("texts", [["Too short."], ["Too short.", "This one as well.", ""]])
def test_where_nothing_can_be_asked_the_status_is_2(capsys, tmp_path, texts):
    paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    out = tmp_path / "out"
    status, said, complaint = run(
        capsys, "embedded", *paths, "-o", out, "-q", "--reference", "none"
    )
    assert status == 2
    assert said == ""
    assert "shorter than one window of 64 tokens" in complaint
    assert not out.exists()


def test_a_model_without_tokenizer_is_refused(capsys, document, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((model_path() / name).read_bytes())
    status, _, complaint = run(capsys, folder, document, "-o", tmp_path / "out", "-q")
    assert status == 2
    assert "tokenizer" in complaint


def test_a_folder_that_may_not_be_written_is_refused(capsys, document, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    status, _, complaint = run(capsys, "embedded", document, "-o", tmp_path / "out", "-q")
    assert status == 2
    assert "no permission to write" in complaint


def test_a_reference_of_another_tokenizer_is_refused(capsys, document, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in model_path().iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    status, _, complaint = run(
        capsys, "embedded", document, "-o", tmp_path / "out", "-q", "--reference", other
    )
    assert status == 2
    assert "another tokenizer" in complaint


def test_a_study_is_no_place_for_an_audit(capsys, document, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.yaml").write_text("title: mine\n")
    status, _, said = run(capsys, "embedded", document, "-o", study, "-q")
    assert status == 2
    assert "a study stands here" in said
    assert [one.name for one in study.iterdir()] == ["study.yaml"]


def test_a_refusal_leaves_no_empty_folder(capsys, document, tmp_path):
    for arguments in (("embedded", tmp_path / "none.txt"), (tmp_path / "no.gguf", document)):
        status, _, said = run(capsys, *arguments, "-o", tmp_path / "out", "-q")
        assert status == 2, said
        assert not (tmp_path / "out").exists()
