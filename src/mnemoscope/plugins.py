"""Plugins: what other packages add, found by their entry points.

A package adds an analysis, a reader or a node by an entry point in the group
`mnemoscope.analyses`, `mnemoscope.readers` or `mnemoscope.nodes`. One that cannot be used costs a
warning that names its package; everything else goes on.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any, Literal, TypeVar

from mnemoscope.errors import MnemoscopeError, UserError, first_line, printable

Group = Literal["analyses", "readers", "nodes"]
_Kind = TypeVar("_Kind")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """One thing that a package adds: its name, and the package with its version."""

    name: str
    package: str
    version: str
    entry: EntryPoint = field(repr=False)

    @property
    def facts(self) -> list[str]:
        """Name, package and version, for the hash of what it made."""
        return [self.name, self.package, self.version]


@cache
def find_plugins(
    group: Group, taken: frozenset[str], usable: Callable[[str], object]
) -> dict[str, Plugin]:
    """The plugins of a group by name, none of them loaded.

    Left out, with a warning: a name among `taken` (lower case) or that is not `usable`, and the
    second of two packages with one name.
    """
    found: dict[str, Plugin] = {}
    entries = [
        ((one.dist.name, one.dist.version) if one.dist else ("an unknown package", ""), one)
        for one in _entries(f"mnemoscope.{group}")
    ]
    for (package, version), entry in sorted(entries, key=lambda one: (one[0], one[1].name)):
        reason = ""
        if not usable(entry.name):
            reason = "this cannot be its name"
        elif entry.name.lower() in taken:
            reason = "mnemoscope has this name itself"
        elif entry.name in found:
            reason = f"{found[entry.name].package} brings the same name"
        if reason:
            _warn(entry.group, entry.name, package, version, reason)
            continue
        found[entry.name] = Plugin(entry.name, package, version, entry)
    return found


def _entries(group: str) -> Iterable[EntryPoint]:
    """Entry points of a group, without those of packages whose list nobody can read."""
    try:
        return entry_points(group=group)
    except Exception:  # one of hundreds of packages is broken, whatever it raises
        found: list[EntryPoint] = []
        for package in distributions():
            try:
                found += package.entry_points.select(group=group)
            except Exception as error:
                _log.debug("%s: no entry points, %s", package.metadata["Name"], error)
        return found


@cache
def load_plugin(plugin: Plugin, check: Callable[[Any], str]) -> Any:
    """The object of the entry point, unless `check` says what is wrong; None after one warning."""
    try:
        found = plugin.entry.load()
        wrong = check(found)
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        wrong = f"{type(error).__name__}: {first_line(error)}"
    if wrong:
        _warn(plugin.entry.group, plugin.name, plugin.package, plugin.version, wrong)
        return None
    return found


def call_plugin(plugin: Plugin, where: str, call: Callable[[], Any], kind: type[_Kind]) -> _Kind:
    """What a plugin gives; UserError at `where` if it fails or gives nothing of this kind."""
    try:
        found = call()
    except MnemoscopeError:
        raise
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{where}: {plugin.package} fails ({said}).") from error
    if not isinstance(found, kind):
        raise UserError(f"{where}: {plugin.package} gives no {kind.__name__}.")
    return found


def lower(names: Iterable[str]) -> frozenset[str]:
    """Names in lower case, to be compared with."""
    return frozenset(name.lower() for name in names)


def _warn(group: str, name: str, package: str, version: str, reason: str) -> None:
    said = f"{package} {version} left out, {group} '{name}': {' '.join(reason.split())}"
    _log.warning("mnemoscope: %s", printable(said))
