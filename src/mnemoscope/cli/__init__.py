"""The command line: parse, call one function, print. `mnemoscope --help` lists the verbs.

Exit status 2 for the user's mistakes, 1 for ours, 130 where it was stopped by Ctrl-C or SIGTERM; no
traceback unless `--debug`.
"""

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["main"]

_INTERRUPTED = 130
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # in no text, as line ends are
_LONGEST_LINE = 2000  # characters of an error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # we fork no tokenizers; no warning
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch
    # Threads that wait for each other asleep: spinning ones starve on a machine that is shared
    # (one forward pass took 14 ms so, and 50 ms with the default, beside another busy process).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # who stops it so is told as much
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in arguments
    from mnemoscope.errors import flags_as_typed

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of an encoding that lacks '…', as Latin-1
    with flags_as_typed():
        status = _run([one for one in arguments if one != "--debug"], is_debug=is_debug)
    sys.exit(status)


def _run(arguments: list[str], *, is_debug: bool) -> int:
    """Exit status of one command; errors are printed as one line."""
    from mnemoscope.errors import MnemoscopeError

    try:
        status = _call(arguments)
        _flush()
        return status
    except MnemoscopeError as error:
        if is_debug:
            raise
        return _complain(str(error), status=2)
    except KeyboardInterrupt:
        again = "it goes on from what was kept, or begins anew where nothing was"
        return _complain(f"stopped. Run the same command again: {again}.", status=_INTERRUPTED)
    except SystemExit as error:  # of a library or plugin; nothing of ours leaves so
        if isinstance(error.__context__, BrokenPipeError):  # whoever read the output, as `head`
            return 1
        return _complain(f"stopped by code that is not ours (exit {error.code}).", status=2)
    except BrokenPipeError:
        return 1
    except MemoryError:
        return _complain("out of memory. Try a smaller --batch-size.", status=2)
    except Exception as error:
        if is_debug:
            raise
        if isinstance(error, OSError) and error.errno is not None:
            # The system refuses, which is no fault of the program: a name too long, a file gone.
            where = f"{error.filename}: " if error.filename else ""
            if error.errno == errno.EROFS:
                said = "can only be read (read-only file system). Copy it, or write elsewhere."
                return _complain(f"{where or 'a file: '}{said}", status=2)
            return _complain(f"{where}{error.strerror} (--debug shows where).", status=2)
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            wanted = "this command needs PyTorch, as all do but audits of a service"
            return _complain(f"{wanted}. Install it: pip install torch", status=2)
        text = " ".join(str(error).split()) or "no message"
        return _complain(
            f"internal error, {type(error).__name__}: {text[:300]} "
            "(please report this bug; --debug shows where)",
            status=1,
        )


def _flush() -> None:
    """Write what was printed; OSError where it cannot be, as on a full disk."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try once more as it ends, and say so in its own way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error


def _call(arguments: list[str]) -> int:
    """Parse and run; usage errors become `UserError`."""
    import typer

    from mnemoscope.cli.app import command, verbs
    from mnemoscope.errors import UserError, nearest, printable

    for before, one in pairwise(["", *arguments]):
        if not one:
            of = f"{before}: " * before.startswith("-")
            raise UserError(f"{of}an empty argument (''). Name a file, a folder or a value.")
        is_there = os.path.exists(one)  # noqa: PTH110 - no error where a text is no name
        is_name = is_there or before in ("-o", "--out") or one.startswith("--out=")
        if (is_name and printable(one) != one) or _NO_TEXT.search(one):
            raise UserError(f"{one!r}: control characters in a name. Rename it.")
        if any("\ud800" <= character <= "\udfff" for character in one):
            raise UserError(f"{one!r}: not UTF-8. Rename it, or name the folder that it is in.")
    usage_error: Any = typer.BadParameter.__mro__[1]  # click's, wherever typer keeps it
    verb = next((one for one in arguments if not one.startswith("-")), None)
    both = " ".join(arguments[:2])
    if verb is not None and arguments[0] == verb and not {verb, both} & {*verbs()}:
        further = [one.removeprefix(f"{verb} ") for one in verbs() if one.startswith(f"{verb} ")]
        if further:
            raise UserError(f"{verb}: say what: {verb} {f', {verb} '.join(further)}.")
        under = [one for one in verbs() if one.endswith(f" {verb}")]
        if under:
            from mnemoscope.store import held_said

            folder = next((one for one in arguments[1:] if not one.startswith("-")), "")
            if verb == "gate" and (held := folder and held_said(Path(folder))):
                raise UserError(f"gate: {folder} holds {held}")
            more = " A watch has --fail-if itself." * (verb == "gate")
            raise UserError(f"{verb}: of what? Write mnemoscope {' or '.join(under)}.{more}")
        hint = nearest(verb, verbs()) or " See 'mnemoscope --help'."
        raise UserError(f"{verb}: no such verb.{hint}")
    try:
        status = command()(arguments or ["--help"], prog_name="mnemoscope", standalone_mode=False)
    except usage_error as error:
        meant = getattr(error, "option_name", "").replace("_", "-")
        possible = getattr(error, "possibilities", None) or []
        if meant in possible:
            error.possibilities = [meant]
        elif possible:  # which dashes alone make alike
            name = meant.strip("-")
            error.possibilities = [one for one in possible if nearest(name, [one.strip("-")])]
        message = " ".join(error.format_message().split())
        name = next((one for one in (both, verb) if one in verbs()), "")
        said = f"mnemoscope {name}".strip()
        message += "" if message.endswith((".", "?", "!")) else "."
        raise UserError(f"{message} See '{said} --help'.") from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def _complain(message: str, *, status: int) -> int:
    """Print one line to stderr, the middle of a very long one left out."""
    from mnemoscope.errors import printable

    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    print(f"mnemoscope: {line}", file=sys.stderr)
    return status
