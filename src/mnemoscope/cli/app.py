"""All verbs in one place; each lives in a module named for what it works on."""

from collections.abc import Callable
from functools import cache
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from mnemoscope.cli import analyze, audit, study, tables
from mnemoscope.cli.options import expanded
from mnemoscope.version import __version__


class _Switches:
    """A command whose switches show no type in the help: they take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, those that Typer adds too."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in params:
            if getattr(one, "is_flag", False):
                one.metavar = ""
        return params


class _Verb(_Switches, TyperCommand):
    """A verb."""


class _Root(_Switches, TyperGroup):
    """The command itself."""


app = typer.Typer(
    name="mnemoscope",
    cls=_Root,
    help="How a language model memorized what it repeats: guessed or recalled, and where in the "
    "attention it is decided.\n\nStart with: mnemoscope demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mnemoscope {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the version.",
    ),
    debug: bool = typer.Option(
        False, "--debug", help="Show tracebacks; works anywhere in the command."
    ),
) -> None:
    """Options before the verb."""


_VERBS: dict[str, dict[str, Callable[..., None]]] = {
    "Start here": {"demo": study.demo, "run": study.run, "audit": audit.audit, "app": audit.app},
    "Stages of a run": {
        "sequences": study.sequences,
        "continue": study.continue_,
        "features": tables.features,
        "label": tables.label,
        "capture": study.capture,
        "merge": study.merge,
        "train": study.train,
        "benchmark": study.benchmark,
        "localize": study.localize,
        "report": study.report,
    },
    "Further questions to a study": {
        "graft": study.graft,
        "knockout": study.knockout,
        "search": study.search,
        "analyze": analyze.analyze,
        "track": analyze.track,
    },
    "Tools": {
        "init": study.init,
        "describe": tables.describe,
        "duplicates": tables.duplicates,
        "convert": tables.convert,
        "texts": tables.texts,
        "distill": analyze.distill,
        "lm-eval-task": tables.lm_eval_task,
        "push": tables.push,
    },
}
for _panel, _group in _VERBS.items():
    for _name, _function in _group.items():
        app.command(_name, cls=_Verb, rich_help_panel=_panel)(expanded(_function))


@cache
def command() -> Any:
    """The whole command, made once: each verb's flags are read from its signature."""
    return get_command(app)


def verbs() -> list[str]:
    """Names of all verbs."""
    return [name for group in _VERBS.values() for name in group]
