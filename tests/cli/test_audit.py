"""The verb audit: exit statuses, one-line errors, nothing half written."""

import io
import json
import subprocess
import sys

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


def loads_torch(*arguments) -> tuple[int, str, bool]:
    """Exit status, all that is said, and whether torch was imported, in a process of its own."""
    code = (
        "import sys; from mnemoscope.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    *said, last = done.stdout.splitlines()
    return done.returncode, "\n".join([*said, done.stderr]), last == "True"


def test_a_repeat_and_refusals_need_no_torch(capsys, document, tmp_path):
    out, study, empty = tmp_path / "out", tmp_path / "study", tmp_path / "empty.txt"
    study.mkdir()
    (study / "study.yaml").write_text("title: mine\n")
    empty.touch()
    assert run(capsys, "embedded", document, "-o", out, "-q")[0] == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    status, said, is_heavy = loads_torch("audit", "embedded", document, "-o", out)
    assert (status, is_heavy) == (0, False), said
    assert "this audit is already there" in said
    for arguments, words in (
        (("audit", "embedded", document, "-o", out, "--stride", 16), "holds an audit of other"),
        (("audit", "embedded", document, "-o", out, "--reference", "none"), "holds an audit of"),
        (("audit", "embedded", document, "-o", study), "a study stands here"),
        (("audit", "embedded", empty, "-o", tmp_path / "new"), "empty"),
        (("audit", "embedded", document, "-o", out, "--dtype", "float64"), "dtype 'float64'"),
        (("audit", "embedded", document, "-o", out, "--device", "gpu"), "device 'gpu'"),
        (("audit", "--verify", study), "no audit in it"),
    ):
        status, said, is_heavy = loads_torch(*arguments)
        assert (status, is_heavy) == (2, False), said
        assert words in said
    assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_what_files_alone_cannot_show_is_left_to_the_loaded_model(document, tmp_path):
    from mnemoscope.audit.documents import read_documents
    from mnemoscope.audit.run import AskedModel, standing_audit
    from mnemoscope.audit.settings import AuditSettings

    folder, out = tmp_path / "model", tmp_path / "out"
    folder.mkdir()
    for path in model_path().iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SystemExit) as left:
        main(["audit", str(folder), str(document), "-o", str(out), "-q"])
    assert left.value.code == 0
    reading, settings = read_documents([str(document)]), AuditSettings()
    asked = AskedModel(folder, None, "float32")

    def standing(model=asked, reference=None, **options):
        return standing_audit(out, reading, settings, model, reference, redo=False, **options)

    assert standing() == json.loads((out / "audit.json").read_text())
    assert standing(asked._replace(dtype="auto")) is None
    assert standing(asked._replace(revision="main")) is None
    assert standing(asked._replace(place=tmp_path / "elsewhere")) is None
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert standing() is None
    (folder / "config.json").write_bytes((model_path() / "config.json").read_bytes())
    assert standing() is not None
    (out / "spans.parquet").write_bytes(b"")
    assert standing() is None
