"""What is public keeps its form: every signature stands in a list, and renaming is announced."""

import dataclasses
import inspect
import tempfile
import warnings
from pathlib import Path

import pytest

import mnemoscope as ms

LIST = Path(__file__).parent / "public_names.txt"


def signatures() -> str:
    """Every public name with its arguments, and the attributes and methods of a class."""
    lines = []
    for name in sorted(ms.__all__):
        what = getattr(ms, name)
        if not inspect.isclass(what):
            lines.append(f"{name}{plain(what)}")
            continue
        lines.append(name if issubclass(what, Exception) else f"{name}{arguments(what)}")
        if not issubclass(what, Exception) and not hasattr(what, "model_fields"):
            lines += [f"    {one}" for one in members(what)]
    return "\n".join(lines) + "\n"


def arguments(kind: type) -> str:
    """Of a record its fields, whose types may be named in other ways; else those of the call."""
    if dataclasses.is_dataclass(kind):
        return f"({', '.join(one.name for one in dataclasses.fields(kind) if one.init)})"
    return "(...)" if hasattr(kind, "model_fields") else plain(kind)


def plain(function: object) -> str:
    """Arguments with their defaults; how types are spelled depends on the version of Python."""
    signature = inspect.signature(function)
    bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(inspect.Signature(bare))


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


def test_every_public_name_is_explained_and_importing_is_light() -> None:
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
