"""The few error types: the user's mistake, damaged data, no room.

A message is one line: what is wrong, where, and what to do. The library raises, only the
command line prints. Where it says what to give, it names the flag; outside the command line that
is read as the argument: `--set label.minimum=9` as `label.minimum=9`, `--dtype` as `dtype`.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# A command in quotes, which may hold others, stays as it is.
_COMMAND = r"'(?:mnemoscope|hf|ray) .*?'(?! --)(?!\w)"
_SPOKEN = re.compile(_COMMAND + r"| with -o\b|--set |(?<![\w-])--([a-z][\w-]*)")
_flags_are_typed = False


@contextmanager
def flags_as_typed() -> Iterator[None]:
    """Let messages name flags as they are typed, in this process: for the command line."""
    global _flags_are_typed
    before, _flags_are_typed = _flags_are_typed, True
    try:
        yield
    finally:
        _flags_are_typed = before


def as_arguments(message: str) -> str:
    """Flags in a message as the arguments of functions.

    >>> as_arguments("Use --batch-size 8, or run 'mnemoscope label STUDY --redo'.")
    "Use batch_size 8, or run 'mnemoscope label STUDY --redo'."
    """

    def spoken(match: re.Match[str]) -> str:
        found = match[0]
        return found if found.startswith("'") else (match[1] or "").replace("-", "_")

    return _SPOKEN.sub(spoken, message)


class MnemoscopeError(Exception):
    """Anything mnemoscope refuses to do, with a message for the person at the keyboard."""

    def __str__(self) -> str:
        """The message on one line, also where a name in it holds a line break."""
        said = " ".join(super().__str__().splitlines())
        return said if _flags_are_typed else as_arguments(said)


class UserError(MnemoscopeError):
    """What was asked for cannot be done: a wrong path, setting, table or model."""


class UnsupportedModelError(UserError):
    """A model whose family cannot be asked this; others can."""


class MissingError(UserError):
    """Something that was not made yet, or is gone."""


class OutOfDateError(UserError):
    """Something that was made with other settings, sequences or models."""


class DamagedDataError(MnemoscopeError):
    """A file that mnemoscope or the user wrote earlier is torn, altered or unreadable."""


class NoRoomError(MnemoscopeError):
    """The disk (or the memory) is full; what was complete before is still complete."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name the user probably meant, after a space; nothing when none is near.

    Nor where the name is known: what was given is no hint. For the end of a message.

    >>> nearest("batchsize", ["batch_size", "device"])
    " Did you mean 'batch_size'?"
    >>> nearest("device", ["devices", "device"])
    ''
    """
    known = list(known)
    if name in known:
        return ""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f" Did you mean '{by_lower[found[0]]}'?" if found else ""


def a_kind(value: object) -> str:
    """What something is, with its article.

    >>> a_kind(7)
    'an int'
    """
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""One line of text that no character of ends, or turns the terminal; these are escaped.

    >>> printable("a\n::error::b")
    'a\\n::error::b'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def check_installed(what: str, *packages: str, extra: str) -> None:
    """Raise a `UserError` if packages of an extra are missing; `what` ends in "needs"."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{what} {' and '.join(missing)}: {pip_install(extra)}")


def pip_install(extra: str) -> str:
    """The command that installs the packages of an extra, each by its own name.

    >>> pip_install("code")
    "pip install 'magika>=0.6'"
    """
    from packaging.requirements import Requirement

    found = list[str]()
    for line in importlib.metadata.requires("mnemoscope") or ():
        one = Requirement(line)
        if one.marker and one.marker.evaluate({"extra": extra}) > one.marker.evaluate(
            {"extra": ""}
        ):
            if one.name == "mnemoscope":  # an extra that takes another in
                found += [pip_install(name).removeprefix("pip install ") for name in one.extras]
            else:
                found.append(f"'{one.name}{one.specifier}'")
    return f"pip install {' '.join(found)}"
