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
    add_completion=False,
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
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks; may stand anywhere."),
) -> None:
    """Options before the verb."""


_VERBS: dict[str, Callable[..., None]] = {
    "demo": study.demo,
    "init": study.init,
    "run": study.run,
    "sequences": study.sequences,
    "continue": study.continue_,
    "features": tables.features,
    "duplicates": tables.duplicates,
    "label": tables.label,
    "capture": study.capture,
    "merge": study.merge,
    "train": study.train,
    "benchmark": study.benchmark,
    "localize": study.localize,
    "knockout": study.knockout,
    "graft": study.graft,
    "search": study.search,
    "analyze": analyze.analyze,
    "track": analyze.track,
    "report": study.report,
    "audit": audit.audit,
    "app": audit.app,
    "describe": tables.describe,
}
for _name, _function in _VERBS.items():
    app.command(_name)(expanded(_function))


def verbs() -> list[str]:
    """Names of all verbs."""
    return list(_VERBS)
