"""Who is let in, this machine under its own names alone, and what a visitor may bring."""

import asyncio
import json
import socket

import pytest
from starlette.testclient import TestClient

from mnemoscope.app import HOST, check_host
from mnemoscope.app import page as module
from mnemoscope.app.page import MOST_BYTES, MOST_CHARACTERS, read_visit
from mnemoscope.app.serve import Guard, find_socket, make_app, open_target
from mnemoscope.errors import UserError


def answer(**headers: str) -> tuple[int, dict[str, str]]:
    """What the guard lets an app say that always says 200."""
    sent = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    async def send(message) -> None:
        sent.append(message)

    given = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    asyncio.run(Guard(app)({"type": "http", "path": "/", "headers": given}, None, send))
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], found


OWN = "127.0.0.1:7860"
ANSWERS = [
    *((200, {"host": one}) for one in (OWN, "localhost:7860", "127.0.0.1", "localhost")),
    *((403, {"host": one}) for one in ("evil.example:7860", "evil.example", "[::1]:80", "")),
    *((403, {"host": one}) for one in ("127.0.0.1.evil.example:80", "10.0.0.1:7860")),
    (200, {"host": OWN, "origin": f"http://{OWN}"}),  # another site may not ask for a visitor
    *(
        (403, {"host": host, "origin": origin})
        for host in (OWN, "localhost:7860")
        for origin in ("http://evil.example", "http://127.0.0.1:8000", "null")
    ),
    (200, {"host": OWN, "content_length": "4100000"}),
    (413, {"host": OWN, "content_length": "99000000"}),
    (413, {"host": OWN, "content_length": "-1"}),
    (413, {"host": OWN, "transfer_encoding": "chunked"}),
]


@pytest.mark.parametrize(("status", "headers"), ANSWERS)
def test_this_machine_is_let_in_with_bounded_bodies_and_asks_nothing_of_others(status, headers):
    found, said = answer(**headers)
    assert found == status
    if status == 200:
        parts = said["content-security-policy"].split(";")
        policy = dict(part.strip().split(" ", 1) for part in parts)
        assert policy["default-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert "http" not in said["content-security-policy"]


def test_what_no_page_asks_for_is_refused_in_a_line(caplog):
    client = TestClient(make_app(None, None, "cpu"), base_url=f"http://{OWN}")
    for path in ("/openapi.json", "/gradio_api/openapi.json", "/docs", "/redoc"):
        assert client.get(path).status_code == 404
    wrong = {"fn_index": 9999, "data": [], "session_hash": "a"}
    for path in ("queue/join", "run/predict"):
        answer = client.post(f"/gradio_api/{path}", json=wrong)
        assert answer.status_code == 500
        said = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
        assert said.pop().startswith(f"mnemoscope app: POST /gradio_api/{path}: ")
        assert "\n" not in "".join(said)


def test_another_host_is_refused_and_other_machines_cannot_connect():
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org", ""):
        with pytest.raises(UserError, match=r"this machine alone.*SSH tunnel"):
            check_host(host)
    check_host("localhost")
    with find_socket(0) as made, socket.socket() as other:
        other.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", made.getsockname()[1]))


def test_a_port_in_use_is_said_and_without_a_wish_the_next_is_taken():
    with find_socket(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == HOST
        with pytest.raises(UserError, match=f"port {port} is in use"):
            find_socket(port)
    with find_socket(None) as first, find_socket(None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
    with pytest.raises(UserError, match="port"):
        find_socket(700_000)


def test_what_is_no_study_and_no_audit_is_refused(tmp_path, tiny_studies):
    assert open_target(None) == (None, None)
    for target, said in (
        (tmp_path / "none", "no such folder"),
        (tmp_path, "neither a study"),
        (tiny_studies["features"], "label"),
    ):
        with pytest.raises(UserError, match=said):
            open_target(target)


ROWS = b'{"text": "a"}\n{"text": ""}\n'


@pytest.mark.parametrize(
    ("pasted", "name", "data", "read"),
    [
        ("a\r\nb \u202e é", "", b"", {"pasted text": "a\r\nb \u202e é"}),
        ("a\ud800b", "", b"", {"pasted text": "a?b"}),
        ("pasted", "notes.md", b"from the file", {"notes.md": "from the file"}),
        (None, "rows.jsonl", ROWS + ROWS, {"rows.jsonl#1": "a", "rows.jsonl#3": "a"}),
        ("x" * MOST_CHARACTERS, "", b"", {"pasted text": "x" * MOST_CHARACTERS}),
    ],
)
def test_an_upload_goes_before_what_is_pasted_and_has_its_own_name(
    tmp_path, pasted, name, data, read
):
    path = tmp_path / (name or "nothing")
    path.write_bytes(data)
    found = read_visit(pasted, str(path) if name else None)
    assert {one.name: one.text for one in found.documents} == read
    empty = {"rows.jsonl": ["rows.jsonl#2", "rows.jsonl#4"]}.get(name, [])
    assert [one.name for one in found.skipped] == empty


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        *(("", pasted, "paste a text") for pasted in (None, "", " \n\t")),
        ("", "x" * 10_000_000, r"10\.0 MB, more than the 4 MB"),
        ("", "x" * (MOST_CHARACTERS + 1), f"{MOST_CHARACTERS + 1:,} characters"),
        ("line.txt", b"x" * 10_000_000, r"10\.0 MB, more than the 4 MB"),
        ("run.exe", b"MZ", "'.exe' are not accepted"),
        ("plain", b"text", "'' are not accepted"),
        ("bad.txt", b"caf\xe9 \xff\xfe", "unknown encoding"),
        ("binary.txt", b"a\0b", "binary file"),
        ("empty.txt", b"", "empty"),
        ("broken.pdf", b"%PDF-1.4 nothing", "PDF"),
    ],
)
def test_what_cannot_be_read_is_refused_without_the_path_of_the_copy(tmp_path, name, data, words):
    path = tmp_path / name
    if name:
        path.write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read_visit(*((None, path) if name else (data, None)))
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).startswith(name)


def test_characters_of_all_documents_count_together(tmp_path, monkeypatch):
    assert MOST_CHARACTERS < MOST_BYTES
    monkeypatch.setattr(module, "MOST_CHARACTERS", 10)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 6}) + "\n" for _ in range(2)))
    with pytest.raises(UserError, match="12 characters"):
        read_visit(None, path)
