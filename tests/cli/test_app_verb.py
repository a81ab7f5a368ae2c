"""The verb app: bad input is one line and status 2, and a good one says where to look."""

import re
import signal
import subprocess
import sys
import urllib.request


def test_without_gradio_it_says_what_to_install(refused, hide) -> None:
    hide("gradio")
    assert "pip install 'mnemoscope[app]'" in refused("app")


def test_it_says_its_address_answers_there_and_ends_when_interrupted(tmp_path) -> None:
    errors = tmp_path / "stderr"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "mnemoscope", "app", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        with urllib.request.urlopen(address, timeout=120) as answer:
            assert answer.status == 200
            assert b"mnemoscope" in answer.read()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    finally:
        process.kill()
    said = errors.read_text()
    assert "Traceback" not in said
    imported = set(re.findall(r"\| +(\w+)$", said, re.MULTILINE))
    assert "gradio" in imported
    assert "torch" not in imported  # the page is there before what asks a model
