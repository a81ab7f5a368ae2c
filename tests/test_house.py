"""What a reviewer would forget: imports between rooms, circles, docstrings, light start-up."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from mnemoscope.analysis.registry import ENTRIES

SOURCE = Path(__file__).parents[1] / "src" / "mnemoscope"
MODULES = sorted(SOURCE.rglob("*.py"))

PAGE = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip(" |") for cell in line.split(" | ")]
    for line in PAGE.partition("## The stages")[0].splitlines()
    if line.startswith("| `")
]
LEAVES = {name for row in ROWS if row[2] == "leaves" for name in re.findall(r"\w+", row[0])}
# What each room may import besides leaves, as docs/architecture.md has it.
MAY_IMPORT = {
    row[0].strip("`/"): {*re.findall(r"\w+", row[2])} for row in ROWS if row[2] != "leaves"
}
MAY_IMPORT["analyses"] = MAY_IMPORT["analyses"] - {"mnemoscope"} | {"__init__"}
MAY_IMPORT["cli"] = {*MAY_IMPORT}  # "all"
ANYTHING = {"__init__", "__main__"}


DOTTED = {
    ".".join(["mnemoscope", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in MODULES
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def statements_of(path: Path) -> list[ast.stmt]:
    """All of a module, also those inside functions."""
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.stmt)]


def holds_an_analysis(path: Path) -> bool:
    names = {one.name for one in tree_of(path).body if isinstance(one, ast.FunctionDef)}
    return path.parent == SOURCE / "analysis" and "analyse" in names


@cache
def room_of(path: Path) -> str:
    room = path.relative_to(SOURCE).with_suffix("").parts[0]
    return "analyses" if holds_an_analysis(path) else room


@cache
def imported_modules(path: Path) -> set[Path]:
    """Modules of ours that a module imports, also inside functions and for types."""
    found = set()
    for node in statements_of(path):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: a relative import, which this test cannot follow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if not all(name in DOTTED for name in names):  # a name of the module itself
                names.append(node.module)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {DOTTED[name] for name in names if name in DOTTED}
    return found


def test_rooms_import_what_the_page_says_and_nothing_is_granted_that_none_uses():
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    beyond = []
    for path in MODULES:
        room = room_of(path)
        if room in ANYTHING:
            continue
        assert room in LEAVES or room in MAY_IMPORT, f"{room}: a room that the page does not know"
        allowed = LEAVES | {room} | MAY_IMPORT.get(room, set())
        if room == "analyses":  # the public surface alone, as a plugin would
            allowed = MAY_IMPORT[room]
        for other in imported_modules(path):
            used.get(room, set()).add(room_of(other))
            if room_of(other) not in allowed:
                beyond.append(f"{path.relative_to(SOURCE)} imports {other.relative_to(SOURCE)}")
    assert not beyond, "\n".join(sorted(beyond))
    unused = [f"{room}: {may - used[room]}" for room, may in MAY_IMPORT.items() if may - used[room]]
    assert [one for one in unused if not one.startswith("cli: ")] == []


def test_rooms_import_in_no_circle():
    assert not circle({room: allowed - {room} for room, allowed in MAY_IMPORT.items()})


def test_modules_import_in_no_circle():
    left = circle({path: imported_modules(path) - {path} for path in MODULES})
    assert not left, sorted(str(path.relative_to(SOURCE)) for path in left)


def circle(graph: dict) -> set:
    """What is left of a graph when whatever needs nothing that is left is taken out."""
    left = dict(graph)
    while free := [one for one, needs in left.items() if not needs & left.keys()]:
        for one in free:
            del left[one]
    return set(left)


def test_modules_say_their_job():
    first = {one: (ast.get_docstring(tree_of(one)) or "").split("\n")[0] for one in MODULES}
    assert not [path for path, line in first.items() if not line.endswith((".", ":", "?"))]


def test_light_imports_load_neither_torch_nor_transformers():
    code = (
        "import importlib, sys\n"
        "for name in ('', '.cli.app', '.study.folder', '.analysis.registry', '.embedded'):\n"
        "    importlib.import_module('mnemoscope' + name)\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules), name\n"
        "from mnemoscope import plugin\n"
        "for name in ('Entry', 'AnalysisInputs', 'AnalysisResult', 'Chart', 'Node', 'frame_of'):\n"
        "    getattr(plugin, name)\n"
        "plugin.make_node('Link', 'strpos(text, 1) > 0', 'a link')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_project_speaks_of_itself_alone():
    """No path of a machine, and no host of a package registry, in anything that ships."""
    words = ["/" + "work/", "/" + "root/", "files.python" + "hosted", "pypi" + ".org/simple"]
    root = SOURCE.parents[1]
    files = [*MODULES, *root.glob("*.md"), *(root / "docs").rglob("*.md"), root / "Makefile"]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], path


def test_functions_are_short_and_types_are_said():
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = {
        f"{path.relative_to(SOURCE)}: {node.name}"
        for path in MODULES
        for node in statements_of(path)
        if isinstance(node, functions) and node.end_lineno - node.lineno >= 90
    }
    assert not long
    untyped = sum(path.read_text("utf-8").count("dict[str, Any]") for path in MODULES)
    assert untyped <= 60


def test_every_analysis_is_registered():
    assert {path.stem for path in MODULES if holds_an_analysis(path)} == {
        entry.name for entry in ENTRIES
    }


def test_the_example_plugin_needs_nothing_internal():
    text = (SOURCE.parents[1] / "examples/mnemoscope-example/mnemoscope_example.py").read_text()
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [(node.module, name.name) for node in nodes for name in node.names]
    assert [one for one in ours if one[0].startswith("mnemoscope")] == [("mnemoscope", "plugin")]
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 30
