"""The verb app: bad input is one line and status 2, and a good one says where to look."""

import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from mnemoscope.app.serve import find_socket


def test_another_host_is_refused(call) -> None:
    result = call("app", "--host", "0.0.0.0")
    assert result.status == 2
    assert "listens to this machine alone" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_port_in_use_is_refused(call) -> None:
    with find_socket(0) as taken:
        result = call("app", "--port", str(taken.getsockname()[1]))
    assert result.status == 2
    assert "is in use" in result.err


@pytest.mark.parametrize(("name", "words"), [("none", "no such folder"), ("", "neither a study")])
def test_what_is_neither_study_nor_audit_is_refused(call, tmp_path, name, words) -> None:
    result = call("app", str(tmp_path / name))
    assert result.status == 2
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_without_gradio_it_says_what_to_install(call, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = call("app")
    assert result.status == 2
    assert "pip install 'mnemoscope[app]'" in result.err


def test_it_says_its_address_answers_there_and_ends_when_interrupted() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mnemoscope", "app", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        with urllib.request.urlopen(address, timeout=120) as answer:
            assert answer.status == 200
            assert b"mnemoscope" in answer.read()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in said
