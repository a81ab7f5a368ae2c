"""All verbs in one place; each lives in a module named for what it works on."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from mnemoscope.cli import analyze, audit, forget, images, items, study, tables
from mnemoscope.cli.options import expanded
from mnemoscope.errors import UserError
from mnemoscope.study.stages import STAGES
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
    """A verb; `--help-all` also shows the flags that it hides."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Print the help with every flag where that is asked for."""
        hidden: list[Any] = [one for one in self.params if getattr(one, "hidden", False)]
        if "--help-all" not in args:
            self._refuse_twice(ctx, args)
            return super().parse_args(ctx, args)
        for is_hidden in (False, True):
            for one in hidden:
                one.hidden = is_hidden
            if not is_hidden:
                print(self.get_help(ctx))
        raise typer.Exit

    def _refuse_twice(self, ctx: Any, args: list[str]) -> None:
        """Refuse a value that is given twice: click would take the last, and say nothing."""
        *_, order = self.make_parser(ctx).parse_args(args=[*args])
        for one, n in Counter(order).items():
            if n > 1 and not (one.multiple or getattr(one, "is_flag", False)):
                raise UserError(
                    f"{one.opts[0]}: given {n} times, and only one would count. Leave one."
                )


class _Root(_Switches, TyperGroup):
    """The command itself. A verb may be two words: `audit api` stands beside `audit`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take two words for one verb where there is such a verb."""
        both = " ".join(args[:2])
        return super().resolve_command(ctx, [both, *args[2:]] if both in self.commands else args)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mnemoscope {__version__}")
        raise typer.Exit


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


_OWN_FLAGS: dict[str, Callable[..., None]] = {
    "sequences": study.sequences,
    "continue": study.continue_,
    "features": tables.features,
    "label": tables.label,
    "capture": study.capture,
    "train": study.train,
    "benchmark": study.benchmark,
    "localize": study.localize,
    "knockout": study.knockout,
    "graft": study.graft,
    "search": study.search,
}
"""Verbs of stages that have flags of their own."""


_STAGE_NAMES = [one.name for one in STAGES if not one.is_optional]


def panels() -> dict[str, dict[str, Callable[..., None]]]:
    """All verbs by the heading that they stand under in the help; every stage has one."""

    def of_stages(*, is_optional: bool) -> dict[str, Callable[..., None]]:
        return {
            one.name: _OWN_FLAGS.get(one.name) or study.plain_verb(one)
            for one in STAGES
            if one.is_optional == is_optional
        }

    return {
        "Start here": {
            "demo": study.demo,
            "run": study.run,
            "audit": audit.with_settings(audit.audit),
            "audit api": audit.with_settings(audit.audit_api),
            "audit gate": audit.audit_gate,
            "audit verify": audit.audit_verify,
            "audit redact": audit.audit_redact,
            "audit rank": audit.with_settings(audit.audit_rank),
            "items": items.items,
            "items api": items.items_api,
            "items gate": items.items_gate,
            "forget": forget.forget,
            "forget gate": forget.forget_gate,
            "images": images.images,
            "images gate": images.images_gate,
            "app": audit.app,
        },
        "Stages of a run": of_stages(is_optional=False),
        "Further questions to a study": {
            **of_stages(is_optional=True),
            "analyze": analyze.analyze,
            "watch": analyze.watch,
        },
        "Tools": {
            "init": study.init,
            "status": tables.status,
            "data duplicates": tables.duplicates,
            "data convert": tables.convert,
            "data texts": tables.texts,
            "distill": analyze.distill,
            "export push": tables.push,
            "export lm-eval-task": tables.lm_eval_task,
        },
    }


def make_command() -> Any:
    """The whole command: each verb's flags are read from its signature."""
    app = typer.Typer(
        name="mnemoscope",
        cls=_Root,
        help="How a language model memorized what it repeats: guessed or recalled, and where in "
        "the attention it is decided.\n\nStart with: mnemoscope demo",
        epilog=f"One stage at a time, each with a --help of its own: {', '.join(_STAGE_NAMES)}. "
        "mnemoscope STAGE STUDY, or mnemoscope run -o STUDY --only STAGE.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for panel, group in panels().items():
        for name, verb in group.items():
            is_stage = name in _STAGE_NAMES
            app.command(name, cls=_Verb, rich_help_panel=panel, hidden=is_stage)(expanded(verb))
    return get_command(app)


command = cache(make_command)


def verbs() -> list[str]:
    """Names of all verbs."""
    return [*command().commands]
