"""All verbs in one place; each lives in a module named for what it works on."""

from collections.abc import Callable

import typer

from mnemoscope.cli import analyze, audit, study, tables
from mnemoscope.cli.options import expanded
from mnemoscope.version import __version__

app = typer.Typer(
    name="mnemoscope",
    help="How a language model memorized what it repeats: guessed or recalled, and where in the "
    "attention it is decided.\n\nStart with: mnemoscope demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        print(f"mnemoscope {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False,
        "--version",
        metavar="",
        callback=_print_version,
        is_eager=True,
        help="Print the version.",
    ),
    debug: bool = typer.Option(
        False, "--debug", metavar="", help="Show tracebacks; may stand anywhere."
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
        app.command(_name, rich_help_panel=_panel)(expanded(_function))


def verbs() -> list[str]:
    """Names of all verbs."""
    return [name for group in _VERBS.values() for name in group]
