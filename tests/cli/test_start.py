"""The command line answers at once, and what its help shows can be typed."""

import re
import shlex
import subprocess
import sys

import pytest
import typer

from mnemoscope import __version__
from mnemoscope.cli import main
from mnemoscope.cli.app import app, verbs

HEAVY = (
    "torch",
    "transformers",
    "polars",
    "sklearn",
    "scipy",
    "numpy",
    "safetensors",
)
COMMAND = typer.main.get_command(app)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["descrbe"]])
def test_help_loads_nothing_heavy(arguments) -> None:
    code = (
        "import sys\n"
        "from mnemoscope.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as left:\n"
        "    print(left.code)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    status, loaded = done.stdout.splitlines()[-2:]
    assert loaded == "[]"
    assert status == ("2" if arguments == ["descrbe"] else "0")


def test_help_lists_every_verb(call) -> None:
    for arguments in (["--help"], ["-h"], []):
        result = call(*arguments)
        assert result.status == 0
        for verb in verbs():
            assert re.search(rf"\b{verb}\b", result.out)
    assert call("--version").out == f"mnemoscope {__version__}\n"


@pytest.mark.parametrize("verb", verbs())
def test_the_help_of_a_verb_has_an_example_that_parses(verb, call, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = call(verb, "--help")
    assert shown.status == 0
    example = COMMAND.commands[verb].help.partition("Example: ")[2].strip()
    assert example in shown.out
    words = shlex.split(example)
    assert words[:2] == ["mnemoscope", verb]
    context = COMMAND.make_context("mnemoscope", ["--version"], resilient_parsing=True)
    COMMAND.commands[verb].make_context(verb, words[2:], parent=context)  # raises where it cannot


def test_an_error_of_ours_has_status_1_and_no_traceback_unless_asked(
    refused, monkeypatch, tmp_path
) -> None:
    from mnemoscope.cli import tables as describe

    monkeypatch.setattr(describe, "is_study", lambda _: 1 / 0)
    line = refused("describe", tmp_path, status=1)
    assert "internal error, ZeroDivisionError" in line
    assert "--debug shows where" in line
    with pytest.raises(ZeroDivisionError):
        main(["describe", str(tmp_path), "--debug"])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(KeyboardInterrupt, 130, "Run the same command again"), (MemoryError, 2, "--batch-size")],
)
def test_what_ends_a_command_says_how_to_go_on(
    error, status, said, refused, monkeypatch, tmp_path
) -> None:
    from mnemoscope.cli import tables as describe

    def end(_):
        raise error

    monkeypatch.setattr(describe, "is_study", end)
    assert said in refused("describe", tmp_path, status=status)
