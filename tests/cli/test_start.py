"""The command line answers at once, and what its help shows can be typed."""

import re
import shlex

import pytest

from mnemoscope import __version__
from mnemoscope.cli import main
from mnemoscope.cli.app import command, verbs

HEAVY = ("torch", "transformers", "polars", "sklearn", "scipy", "numpy", "safetensors")
COMMAND = command()


def test_help_loads_nothing_heavy(call_light) -> None:
    results = call_light([["--help"], ["run", "--help"], ["--version"], ["descrbe"]], HEAVY)
    assert [one.status for one in results] == [0, 0, 0, 2]


def test_help_lists_every_verb(call) -> None:
    for arguments in (["--help"], ["-h"], []):
        result = call(*arguments)
        assert result.status == 0
        for verb in verbs():
            assert re.search(rf"\b{verb}\b", result.out)
    assert call("--version").out == f"mnemoscope {__version__}\n"


def test_the_help_of_a_verb_has_an_example_that_parses(call, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for verb in verbs():
        shown, n = call(*verb.split(), "--help"), 1 + len(verb.split())
        assert shown.status == 0
        example = COMMAND.commands[verb].help.partition("Example: ")[2].strip()
        assert example in shown.out
        words = shlex.split(example)
        assert words[:n] == ["mnemoscope", *verb.split()]
        context = COMMAND.make_context("mnemoscope", ["--version"], resilient_parsing=True)
        COMMAND.commands[verb].make_context(verb, words[n:], parent=context)  # may raise


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt, 130, "Run the same command again"),
        (MemoryError, 2, "--batch-size"),
        (
            ZeroDivisionError,
            1,
            "internal error, ZeroDivisionError: no message (please report this bug",
        ),
    ],
)
def test_what_ends_a_command_says_how_to_go_on(
    error, status, said, refused, monkeypatch, tmp_path
) -> None:
    def end(_):
        raise error

    monkeypatch.setattr("mnemoscope.cli.tables.is_study", end)
    assert said in refused("describe", tmp_path, status=status)
    if status == 1:  # has a traceback where one is asked for
        with pytest.raises(error):
            main(["describe", str(tmp_path), "--debug"])
