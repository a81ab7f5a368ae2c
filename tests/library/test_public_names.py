"""What is public keeps its form: every signature stands in a list, and renaming is announced."""

import ast
import dataclasses
import inspect
import re
import tempfile
import warnings
from itertools import chain
from pathlib import Path

import pytest

import mnemoscope as ms
from mnemoscope import plugin

LIST = Path(__file__).parent / "public_names.txt"


def signatures() -> str:
    """Every public name with its arguments, and the attributes and methods of a class."""
    lines = []
    public = [(name, getattr(ms, name)) for name in sorted(ms.__all__)]
    public += [(f"plugin.{name}", getattr(plugin, name)) for name in sorted(plugin.__all__)]
    for name, what in public:
        if not inspect.isclass(what):
            lines.append(f"{name}{plain(what) if callable(what) else ''}")
            continue
        lines.append(name if issubclass(what, Exception) else f"{name}{arguments(what)}")
        if not issubclass(what, Exception) and not hasattr(what, "model_fields"):
            lines += [f"    {one}" for one in members(what)]
    return "\n".join(lines) + "\n"


def arguments(kind: type) -> str:
    """Of a record its fields, whose types may be named in other ways; else those of the call."""
    if dataclasses.is_dataclass(kind):
        return f"({', '.join(one.name for one in dataclasses.fields(kind) if one.init)})"
    return f"({', '.join(kind.model_fields)})" if hasattr(kind, "model_fields") else plain(kind)


def plain(function: object) -> str:
    """Arguments with their defaults; how types are spelled depends on the version of Python."""
    signature = inspect.signature(function)
    bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return re.sub(r" at 0x\w+", "", str(inspect.Signature(bare)))


def members(kind: type) -> list[str]:
    """Methods and properties of our own without a leading underscore; of a study what it offers."""
    found = set()
    for base in kind.__mro__:
        if base.__module__.startswith("mnemoscope"):
            found |= {one for one in vars(base) if not one.startswith("_")}
    if kind is ms.Study:
        with tempfile.TemporaryDirectory() as folder:
            found &= {*dir(ms.Study.create(Path(folder) / "study", ms.StudySettings()))}
    shown = []
    for one in sorted(found):
        is_method = callable(inspect.getattr_static(kind, one))
        shown.append(f"{one}{plain(getattr(kind, one))}" if is_method else one)
    return shown


def test_signatures_are_those_of_the_list() -> None:
    """After a change on purpose: python tests/library/test_public_names.py, and the changelog."""
    assert signatures() == LIST.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "rooms"),
    [(ms, ms._ROOMS.items()), (plugin, chain(*(one.items() for one in plugin.SECTIONS.values())))],
)
def test_a_module_says_twice_alike_where_a_name_is(module, rooms) -> None:
    """To type checkers in imports, to whoever uses it in a table; `__all__` has every name."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (one for one in tree.body if isinstance(one, ast.If))
    typed = {(one.module, alias.asname) for one in block.body for alias in one.names}
    found = {(f"mnemoscope.{room}", name) for room, names in rooms for name in names.split()}
    assert typed == found
    assert {name for _, name in found} == set(module.__all__)


def test_the_tool_box_has_no_name_of_the_library_and_no_attic() -> None:
    assert (
        len(plugin.__all__) <= 107
    )  # five count the cost of an analysis, six change prompts, four ask classifiers
    assert not set(plugin.__all__) & set(ms.__all__)
    with pytest.raises(AttributeError, match="plugin' has no attribute 'fit'"):
        plugin.fit  # noqa: B018


def test_every_public_name_is_explained_and_importing_is_light() -> None:
    from tools.reference import said_of  # not where this file writes the list

    for rooms in plugin.SECTIONS.values():
        for room, names in rooms.items():
            for name in names.split():
                assert len(said_of(room, name)) > 20, name
    for name in ms.__all__:
        said = inspect.getdoc(getattr(ms, name)) or ""
        assert len(said.splitlines()[0]) > 20, name
    for function in (ms.scan, ms.capture, ms.fit, ms.windows, ms.classify, ms.run, ms.audit):
        for section in ("Args:", "Returns:", "Raises:"):
            assert section in inspect.getdoc(function), (function, section)


def test_a_renamed_name_still_works_and_says_what_to_use(monkeypatch) -> None:
    monkeypatch.setitem(ms._RENAMED, "scan_windows", ("scan", "2.0"))
    with pytest.warns(DeprecationWarning, match=r"use mnemoscope\.scan$"):
        assert ms.scan_windows is ms.scan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ms.scan
    with pytest.raises(AttributeError, match="scna"):
        ms.scna  # noqa: B018


if __name__ == "__main__":
    LIST.write_text(signatures(), encoding="utf-8")
