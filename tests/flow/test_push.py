"""What is pushed: the folder as the hub's own library reads it, and the upload to a server."""

import base64
import hashlib
import html
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard, close_session, constants

from mnemoscope.errors import NoRoomError
from mnemoscope.flow.push import _last, without_texts, write_dataset
from mnemoscope.study.folder import Study

pytestmark = pytest.mark.whole

NAME = "someone/memories"


def test_a_study_is_pushed_without_texts_unless_they_are_asked_for(
    tiny_studies, tiny, tmp_path, succeed
):
    folder, out = tiny_studies["report"], tmp_path / "out"
    done = succeed("export", "push", folder, NAME, "--dry-run", "-o", out, "--license", "cc-by-4.0")
    assert "Nothing was uploaded" in done.out
    found = pl.read_parquet(out / "data" / "sequences.parquet")
    study = Study(folder)
    assert not {"text", "tokens", "continuation", "genre"} & set(found.columns)
    first = hashlib.sha256(np.array(study.sequences["tokens"][0], "<i4").tobytes()).hexdigest()
    assert found["tokens_sha256"][0] == first
    assert found["is_memorized"].equals(study.sequences["is_memorized"])
    page = (out / "report.html").read_text()
    assert "min-F1" in page
    assert 'class="examples"' not in page
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert str(tiny.folder).encode() not in everything  # nor where it lies
    for text in study.sequences["text"]:
        assert text.encode() not in everything
        assert html.escape(text[:20]).encode() not in everything
    for genre in study.sequences["genre"].unique():
        assert f">{genre}<" not in page
        assert f">{genre}, " not in page
    shown = tmp_path / "shown"
    succeed("export", "push", folder, NAME, "--dry-run", "-o", shown, "--with-texts")
    table = pl.read_parquet(shown / "data" / "sequences.parquet")
    assert table.equals(study.sequences)
    assert (shown / "report.html").read_bytes() == (folder / "report.html").read_bytes()
    check_by_the_hubs_library(out, study, tmp_path)


def check_by_the_hubs_library(out, study, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    card = DatasetCard.load(out / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.size_categories == ["n<1K"]
    assert "@article{dentan2025guess" in card.text
    labels = study.read("labels.parquet")
    for name in labels.columns[1:]:
        for label, n in labels[name].value_counts().iter_rows():
            assert f"| {name} | {label} | {n:,} |" in card.text
    for config in ("sequences", "labels", "benchmark"):
        rows = datasets.load_dataset(str(out), config, cache_dir=str(tmp_path / "cache"))["train"]
        assert rows.num_rows == pl.read_parquet(out / "data" / f"{config}.parquet").height
    settings = yaml.safe_load((out / "settings.yaml").read_text())
    assert settings["model"]["name"] == "model"
    assert settings["label"] == study.settings.as_dict()["label"]


def test_a_study_without_cnns_goes_without_its_place_and_own_columns(tmp_path, call, succeed):
    tokens = [list(range(one, one + 64)) for one in range(8)]
    own = {name: ["marker"] * 8 for name in ("class", "Non-Memo, own")}
    known = {"sequence_id": range(8), "duplicates": [1] * 8, "is_code": [False] * 8}
    pl.DataFrame({**known, "tokens": tokens, **own}).write_parquet(tmp_path / "rows.parquet")
    study, out = tmp_path / "place" / "study", tmp_path / "out"
    flags = ("--sequences", tmp_path / "rows.parquet", "--set", "title=a / b", "-o", study, "-q")
    assert "no CNN can be trained" in call("run", *flags).out
    succeed("export", "push", study, NAME, "--dry-run", "-o", out)
    page = (out / "report.html").read_text()
    assert "o taxonomy can be trained" in page
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in everything
    assert not own.keys() & set(pl.read_parquet(out / "data" / "sequences.parquet").columns)
    assert yaml.safe_load((out / "settings.yaml").read_text())["title"] == "a / b"


def test_a_table_keeps_its_classes_and_loses_columns_that_may_tell_a_text():
    own = {"text": ["secret", "word"], "tokens": [[1, 2], None], "note": ["secret", ""]}
    own["document"] = ["/home/me/secret.txt", None]
    classes = {"class": ["Recall", None], "Non-Memo, Guess, Recall": ["Recall", "Guess"]}
    found = without_texts(pl.DataFrame({"sequence_id": [1, 2], **own, **classes}))
    assert found.columns == ["sequence_id", "class", "Non-Memo, Guess, Recall", "tokens_sha256"]
    assert found["tokens_sha256"][1] is None


def test_an_audit_goes_only_with_its_documents(tmp_path, succeed, refused):
    audit, out = tmp_path / "audit", tmp_path / "out"
    (tmp_path / "a.txt").write_text("one two three " * 60)
    succeed("audit", "embedded", tmp_path / "a.txt", "-o", audit, "--profile", "-q")
    assert "--with-documents" in refused("export", "push", audit, NAME, "--dry-run", "-o", out)
    assert not out.exists()
    succeed("export", "push", audit, NAME, "--dry-run", "-o", out, "--with-documents")
    assert (out / "audit.html").read_bytes() == (audit / "audit.html").read_bytes()
    tables = {path.name for path in audit.glob("*.parquet")}
    assert {"spans.parquet", "near.parquet", "profile.parquet"} <= tables
    every = {path.name for path in audit.iterdir()}
    assert {path.name for path in out.iterdir()} == every | {"README.md"}
    card = DatasetCard.load(out / "README.md")
    assert card.data.license == "unknown"
    assert "`audit.json`" in card.text  # it holds paths of this machine
    asked = ("export", "push", audit, NAME, "--dry-run", "-o", tmp_path / "o", "--with-documents")
    own = (audit / "audit.json").read_text()
    changed = own.replace('"share": 0.0', '"share": 0.5')
    assert changed != own
    for damaged in ("{}", "[]", "[" * 5000, '{"summary": 3}', changed):
        (audit / "audit.json").write_text(damaged)
        assert "damaged" in refused(*asked)
    (audit / "audit.json").write_text(own)
    spans = (audit / "spans.parquet").read_bytes()
    pl.DataFrame({"of": ["another audit"]}).write_parquet(audit / "spans.parquet")
    line = refused(*asked)
    assert "spans.parquet: damaged (its content has changed since it was written)" in line
    (audit / "spans.parquet").write_bytes(spans)
    (tmp_path / "secret.txt").write_text("secret")
    links = [audit / "texts" / "0.txt", audit / "profile.parquet"]
    links[0].parent.mkdir(exist_ok=True)
    links[1].unlink()
    for link in links:
        link.symlink_to(tmp_path / "secret.txt")
        assert f"{link}: a link" in refused(*asked)
        assert not [path for path in tmp_path.iterdir() if "o" in path.name.split(".")]
        link.unlink()


def test_a_folder_stands_whole_or_not_at_all(tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()  # an empty one is filled
    assert (write_dataset(tiny.table, out) / "README.md").is_file()

    def full(*_) -> None:
        raise NoRoomError("the disk is full")

    monkeypatch.setattr("mnemoscope.flow.push._write_card", full)
    with pytest.raises(NoRoomError):
        write_dataset(tiny.table, tmp_path / "other")
    assert list(tmp_path.iterdir()) == [out]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files asks for."""

    def log_message(self, *_) -> None: ...

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        server = self.server
        if "/tree/" in self.path:
            old = [{"type": "file", "path": one, "size": 1, "oid": "0"} for one in server.there]
            self.answer(200, old)
        else:
            here = {"id": NAME, "sha": "0" * 40, "tags": server.tags, "private": server.private}
            here["siblings"] = [{"rfilename": one} for one in server.there]
            self.answer(200, here)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        server.asked.append((self.path, self.headers["Authorization"], body))
        if self.path == "/api/repos/create":
            self.answer(200, {"url": f"{server.address}/datasets/{NAME}", "id": NAME})
        elif "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            page = f"{server.address}/datasets/{NAME}/commit/{'1' * 40}"
            self.answer(200, {"commitUrl": page, "commitOid": "1" * 40, "success": True})
        else:
            self.answer(200, {})


@pytest.fixture
def hub():
    """A server of this machine that takes commits, with a file of an earlier push."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.there = [], ["data/old.parquet", "notes.txt", ".gitattributes"]
    server.tags, server.private = ["mnemoscope"], True
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def push(hub, call, monkeypatch):
    """Run the verb with the hub's client pointed at the server of this machine."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    close_session()  # a client made offline stays so
    yield lambda *arguments: call("export", "push", *arguments)
    close_session()


def test_upload_is_one_commit_of_these_files_into_a_private_data_set(hub, push, tiny, tmp_path):
    out = tmp_path / "out"
    done = push(tiny.table, NAME, "-o", out)
    assert done.status == 0, done.err
    assert f"{hub.address}/datasets/{NAME}" in done.out
    by_path = {path.partition("?")[0]: body for path, _, body in hub.asked}
    made = json.loads(by_path["/api/repos/create"])
    assert made["type"] == "dataset"
    assert made.get("private") is True or made.get("visibility") == "private"
    (commit,) = [body for path, body in by_path.items() if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {
        one["value"]["path"]: base64.b64decode(one["value"]["content"])
        for one in lines
        if one["key"] == "file"
    }
    files = {path for path in out.rglob("*") if path.is_file()}
    assert sent == {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
    gone = [one["value"]["path"] for one in lines if one["key"] == "deletedFile"]
    assert gone == ["data/old.parquet"]  # not what somebody else put there
    assert {token for _, token, _ in hub.asked} == {"Bearer hf_test"}


def test_a_data_set_of_others_or_a_public_one_is_left_alone_without_its_flag(hub, push, tiny):
    for tags, private, said in (([], True, "not made by"), (["mnemoscope"], False, "everybody")):
        hub.tags, hub.private = tags, private
        done = push(tiny.table, NAME)
        assert done.status == 2
        assert said in done.err
    assert not any("/commit/" in path for path, _, _ in hub.asked)
    assert push(tiny.table, NAME, "--public").status == 0
    hub.there, hub.tags, hub.private = [".gitattributes"], [], True  # as the hub makes it
    assert push(tiny.table, NAME).status == 0


def test_paths_are_cut_and_names_of_the_hub_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "emails").mkdir(parents=True)
    values = {
        "/home/me/model": "model",
        "acme/secret/rows.jsonl": "rows.jsonl",
        "acme/emails": "emails",
        "acme/secret/model": "model",
        "C:/Users/me/model": "model",
        "file:///home/me/model": "model",
        "OWNER/NAME-1.7b": "OWNER/NAME-1.7b",
        "OWNER/NAME:config@main#train": "OWNER/NAME:config@main#train",
        "Non-Memo, Guess, Recall": "Non-Memo, Guess, Recall",
    }
    assert [_last(one) for one in values] == list(values.values())


def test_a_hub_that_refuses_is_one_line_and_a_dry_run_asks_nobody(hub, push, tiny, monkeypatch):
    done = push(tiny.table, NAME, "--dry-run")
    assert done.status == 0, done.err
    assert not hub.asked
    monkeypatch.setattr(Hub, "do_POST", lambda self: self.answer(403, {"error": "not yours"}))
    done = push(tiny.table, NAME)
    assert done.status == 2
    assert done.err.strip().splitlines()[-1].startswith(f"mnemoscope: {NAME}: the hub refused")
