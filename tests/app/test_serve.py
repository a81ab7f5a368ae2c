"""Who is let in: this machine under its own names, with bodies of bounded size, and no one else."""

import asyncio
import socket

import pytest

from mnemoscope.app import HOST, check_host
from mnemoscope.app.serve import Guard, find_socket, open_target
from mnemoscope.errors import UserError


def answer(headers: dict[str, str], kind: str = "http") -> tuple[int, dict[str, str]]:
    """What the guard lets an app say that always says 200."""
    sent = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    async def send(message) -> None:
        sent.append(message)

    given = [(key.encode(), value.encode()) for key, value in headers.items()]
    asyncio.run(Guard(app)({"type": kind, "headers": given}, None, send))
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], found


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "127.0.0.1", "localhost"])
def test_this_machine_is_let_in_and_may_ask_nothing_of_others(host) -> None:
    status, headers = answer({"host": host})
    assert status == 200
    parts = headers["content-security-policy"].split(";")
    policy = dict(part.strip().split(" ", 1) for part in parts)
    assert policy["default-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "http" not in headers["content-security-policy"]


def test_another_name_for_this_machine_is_not_let_in() -> None:
    for host in (
        "evil.example:7860",
        "evil.example",
        "[::1]:80",
        "127.0.0.1.evil.example:80",
        "",
        "10.0.0.1:7860",
    ):
        assert answer({"host": host})[0] == 403


def test_another_site_may_not_ask_for_a_visitor() -> None:
    own, other = {"host": "127.0.0.1:7860"}, {"host": "localhost:7860"}
    assert answer(own | {"origin": "http://127.0.0.1:7860"})[0] == 200
    for origin in ("http://evil.example", "http://127.0.0.1:8000", "null"):
        assert answer(own | {"origin": origin})[0] == 403
        assert answer(other | {"origin": origin})[0] == 403


def test_bodies_without_bound_are_not_let_in() -> None:
    own = {"host": "127.0.0.1:1"}
    for length in ("99000000", "-1"):
        assert answer(own | {"content-length": length})[0] == 413
    assert answer(own | {"transfer-encoding": "chunked"})[0] == 413
    assert answer(own | {"content-length": "4100000"})[0] == 200


def test_another_host_is_refused() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org", ""):
        with pytest.raises(UserError, match=r"this machine alone.*SSH tunnel"):
            check_host(host)
    check_host("localhost")


def test_a_port_in_use_is_said_and_without_a_wish_the_next_is_taken() -> None:
    with find_socket(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == HOST
        with pytest.raises(UserError, match=f"port {port} is in use"):
            find_socket(port)
    with find_socket(None) as first, find_socket(None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
    with pytest.raises(UserError, match="--port"):
        find_socket(700_000)


def test_other_machines_cannot_connect() -> None:
    with find_socket(0) as made, socket.socket() as other:
        other.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", made.getsockname()[1]))


def test_what_is_no_study_and_no_audit_is_refused(tmp_path, tiny_studies) -> None:
    assert open_target(None) == (None, None)
    with pytest.raises(UserError, match="no such folder"):
        open_target(tmp_path / "none")
    with pytest.raises(UserError, match="neither a study"):
        open_target(tmp_path)
    with pytest.raises(UserError, match="benchmark"):
        open_target(tiny_studies["capture"])
