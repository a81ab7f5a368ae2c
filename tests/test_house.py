"""What a reviewer would forget: imports between rooms, docstrings, names, light start-up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mnemoscope"
MODULES = sorted(SOURCE.rglob("*.py"))

LEAVES = {"errors", "atomic_write", "parquet", "progress"}
# What each room may import, as CONTRIBUTING and the design have it; leaves go without saying.
MAY_IMPORT = {
    "sequences": set(),
    "taxonomy": {"sequences"},
    "lm": set(),
    "maps": set(),
    "cnn": {"maps"},
    "benchmark": {"taxonomy", "lm", "maps", "cnn"},
    "localize": {"cnn", "maps", "lm"},
    "analysis": {"sequences", "taxonomy", "lm", "maps"},
    "training": {"sequences", "taxonomy", "lm"},
    "report": {"sequences", "taxonomy", "lm", "maps", "cnn", "benchmark", "localize", "analysis"},
    "engine": set(),
    "audit": {"sequences", "taxonomy", "lm", "maps", "cnn"},
    "embedded": {"lm", "sequences", "taxonomy"},
    # A front of the house, as the command line is: it reads studies through their stages.
    "app": {"taxonomy", "lm", "maps", "report", "audit", "embedded", "stages", "study", "config"},
}
ANYTHING = {"stages", "cli", "study", "flow", "config", "__init__", "__main__"}
LONGEST_MODULE = 500


def room_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_rooms(path: Path) -> set[str]:
    """Rooms of ours that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "mnemoscope":
                names = [f"mnemoscope.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("mnemoscope.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_module_keeps_to_its_room_and_says_its_job(path: Path) -> None:
    room = room_of(path)
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{path}: no docstring that says its one job"
    assert docstring.splitlines()[0].strip().endswith((".", ":", "?")), f"{path}: first line"
    assert text.count("\n") <= LONGEST_MODULE, f"{path}: longer than {LONGEST_MODULE} lines"
    if room in ANYTHING:
        return
    if room in LEAVES:
        allowed = LEAVES
    else:
        assert room in MAY_IMPORT, f"{room}: a room that the table does not know"
        allowed = MAY_IMPORT[room] | LEAVES | {room}
    assert imported_rooms(path) - {"__version__"} <= allowed, f"{path}: imports beyond its room"


def test_rooms_import_in_no_circle() -> None:
    graph = {room: allowed - {room} for room, allowed in MAY_IMPORT.items()}
    while graph:
        free = [room for room, needs in graph.items() if not needs & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for room in free:
            del graph[room]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_name_in_all_exists(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = set()
    exported: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            defined |= {one.id for one in node.targets if isinstance(one, ast.Name)}
            if any(isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets):
                exported = [
                    one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)
                ]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    if "__getattr__" in defined:  # a shop window resolves its names on first use
        name = ".".join(["mnemoscope", *path.relative_to(SOURCE).parts[:-1]])
        module = __import__(name, fromlist=["x"])
        assert all(hasattr(module, one) for one in exported)
        return
    assert set(exported) <= defined, f"{path}: {set(exported) - defined} is in __all__ only"


def test_documented_arguments_are_those_of_the_signature() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            documented = _documented(ast.get_docstring(node) or "")
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = {one.arg for one in every}
            names |= {one.arg for one in (node.args.vararg, node.args.kwarg) if one}
            assert documented <= names, f"{path.name}, {node.name}: documents {documented - names}"


def _documented(docstring: str) -> set[str]:
    """Argument names under `Args:` of a Google docstring."""
    lines = docstring.splitlines()
    if "Args:" not in lines:
        return set()
    found = set()
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if line.startswith("    ") and not line.startswith("     ") and ":" in line:
            head = line.strip().split(":")[0].split(" (")[0]
            found |= {part.strip(" *") for part in head.split(",")}
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "import mnemoscope",
        "import mnemoscope.cli.app",
        "import mnemoscope.study",
        "import mnemoscope.analysis.registry",
        "import mnemoscope.embedded",
    ],
)
def test_light_imports_load_neither_torch_nor_transformers(statement: str) -> None:
    code = f"{statement}; import sys; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of a machine, and no host of a package registry, in anything that ships."""
    words = ["/" + "work/", "/" + "root/", "files.python" + "hosted", "pypi" + ".org/simple"]
    root = SOURCE.parents[1]
    files = [*MODULES, *root.glob("*.md"), *(root / "docs").rglob("*.md"), root / "Makefile"]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], path
