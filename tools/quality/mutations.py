"""Small faults put into the core rooms one at a time: which test finds each of them?

Run: python -m tools.quality.mutations make --tree TREE --out mutations.json
     python -m tools.quality.mutations run --tree TREE --list mutations.json --out results.json
Results are saved after every fault, and a run that was stopped goes on. A fault is kept as its
lines and the function that holds them, so that it is found again where modules have been moved.
`--before results.json` of an earlier run tries first the test that found the fault there, wherever
that test stands now; what has been rewritten is `not found`, and `--equivalents FILE` gives a like
fault for it by its id: {"id": {"file": ..., "function": ..., "line": ..., "new": ...}}.
"""

import argparse
import ast
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOMS = ("data", "taxonomy", "lm", "maps", "cnn", "benchmark", "localize")
TEST_FOLDERS = {"sequences": ("data",), "taxonomy": ("taxonomy", "search")}
"""Where the tests of a room may stand, if not in a folder of its name."""
LAST_TESTS = ("test_config.py", "test_folder.py")
"""Settings and whole studies: only for a fault that nothing else has found."""
LEFT_OUT = ("test_ray.py", "test_app_browser.py", "test_browser.py", "test_ddp.py")
TIMEOUT = 240
"""Seconds of a processor that a run of tests may take; five times as many by the clock, which
goes slowly beside other work."""
NOT_CHANGED = {"say", "track", "print", "advance", "show_progress", "warn", "debug", "info"}
"""Calls that only tell the user something: neither they nor their arguments are changed."""
COMPARISONS = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
}
OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
SWAPPED_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin"}
LIBRARIES = {"np", "torch", "pl", "math"}
DROPPED = {"sorted", "abs", "sort", "unique", "clip", "clamp", "reversed", "round", "cumsum"}
"""Calls in place of which their only argument, or what the method is of, can stand."""


@dataclass(frozen=True)
class Fault:
    """One change of one line; `number` tells which of equal lines of the function it is."""

    id: str
    kind: str
    module: str
    function: str
    line: str
    new: str
    number: int
    around: tuple[str, str]


# -- making the list ------------------------------------------------------------------------------


class Finder(ast.NodeVisitor):
    """Every place of a module that can be changed, as (kind, function, line number, new line)."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.names: list[str] = []
        self.found: list[tuple[str, str, int, str]] = []

    def add(self, kind: str, node: ast.AST, begin: int, end: int, new: str) -> None:
        """Note that columns of a node's first line, which count bytes, become `new`."""
        number = node.lineno  # type: ignore[attr-defined]
        line = self.lines[number - 1]
        if line.isascii() and self.names:
            changed = line[:begin] + new + line[end:]
            self.found.append((kind, ".".join(self.names), number, changed))

    def within(self, name: str, nodes: list[ast.AST]) -> None:
        """Look through nodes that stand under a name."""
        self.names.append(name)
        for node in nodes:
            self.visit(node)
        self.names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Look at defaults and body, not at annotations and decorators."""
        if node.name not in {"__repr__", "__str__"}:
            defaults = [one for one in (*node.args.defaults, *node.args.kw_defaults) if one]
            self.within(node.name, [*defaults, *node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Look at what stands under the name of a class."""
        self.within(node.name, list(node.body))

    def visit_Assign(self, node: ast.Assign) -> None:
        """Let names of the module count as its functions do; `__all__` stays."""
        first = node.targets[0]
        if isinstance(first, ast.Name) and first.id == "__all__":
            return
        if self.names or not isinstance(first, ast.Name):
            self.generic_visit(node)
        else:
            self.within(first.id, [node.value])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """As an assignment, without the annotation."""
        if node.value is None:
            return
        if self.names or not isinstance(node.target, ast.Name):
            self.visit(node.value)
        else:
            self.within(node.target.id, [node.value])

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages of errors stay."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Words that are said stay."""

    def visit_If(self, node: ast.If) -> None:
        """Negate a condition, unless only type checkers see its branch."""
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self.negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        """Negate the condition of a loop."""
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Negate the condition of an expression."""
        self.negate(node.test)
        self.generic_visit(node)

    def negate(self, test: ast.expr) -> None:
        """Turn a condition round, which swaps its branches."""
        if test.lineno == test.end_lineno and not isinstance(test, ast.Constant):
            words = self.lines[test.lineno - 1][test.col_offset : test.end_col_offset]
            end = test.end_col_offset or 0
            self.add("condition", test, test.col_offset, end, f"not ({words})")

    def between(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Change the operator between two operands of one line."""
        if left.end_lineno == right.lineno == left.lineno:
            begin, end = left.end_col_offset or 0, right.col_offset
            words = self.lines[left.lineno - 1][begin:end]
            place = re.search(rf"(?<![<>=!*/]){re.escape(old)}(?![<>=*/])", words)
            if place:
                start = begin + place.start()
                self.add(kind, left, start, start + len(old), new)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Move or turn round a comparison."""
        operands = [node.left, *node.comparators]
        for one, operator, two in zip(operands, node.ops, operands[1:], strict=False):
            old, others = COMPARISONS[type(operator)]
            for new in others:
                self.between("comparison", one, two, old, new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Put another operator of numbers or masks."""
        text = any(
            isinstance(one, ast.JoinedStr | ast.Constant)
            and not isinstance(getattr(one, "value", ""), int | float)
            for one in (node.left, node.right)
        )
        if type(node.op) in OPERATORS and not text:
            self.between("operator", node.left, node.right, *OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Let `and` be `or`, and the other way round."""
        for one, two in zip(node.values, node.values[1:], strict=False):
            self.between("operator", one, two, *OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Put another number or truth."""
        value = node.value
        new = None
        if isinstance(value, bool):
            new = str(not value)
        elif isinstance(value, int):
            new = str(value + 1)
        elif isinstance(value, float):
            new = repr(value * 2 if value else 1.0)
        if new is not None:
            self.add("constant", node, node.col_offset, node.end_col_offset or 0, new)

    def visit_Slice(self, node: ast.Slice) -> None:
        """Let an end of a slice be one further."""
        for end in (node.lower, node.upper):
            if end is not None and not isinstance(end, ast.Constant | ast.UnaryOp):
                column = end.end_col_offset or 0
                if end.lineno == end.end_lineno:
                    self.add("off by one", end, column, column, " + 1")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Leave out a call that is made for what it does."""
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return
        is_call = isinstance(value, ast.Call) and called(value) not in NOT_CHANGED
        if is_call and node.lineno == node.end_lineno:
            self.add("dropped call", node, node.col_offset, node.end_col_offset or 0, "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Shorten a range, swap a function for its opposite, leave out a step."""
        name = called(node)
        if name in NOT_CHANGED or name.endswith(("Error", "Warning")):
            return
        if name == "range" and len(node.args) == 1 and node.lineno == node.end_lineno:
            column = node.args[0].end_col_offset or 0
            self.add("off by one", node, column, column, " - 1")
        function = node.func
        if function.lineno == function.end_lineno and name in SWAPPED_NAMES:
            end = function.end_col_offset or 0
            self.add("swapped", node, end - len(name), end, SWAPPED_NAMES[name])
        if name in DROPPED and node.lineno == node.end_lineno:
            kept = node.args[0] if node.args else function
            if isinstance(function, ast.Attribute) and ast.unparse(function.value) not in LIBRARIES:
                kept = function.value
            words = self.lines[node.lineno - 1][kept.col_offset : kept.end_col_offset]
            if kept.lineno == node.lineno:
                self.add("dropped call", node, node.col_offset, node.end_col_offset or 0, words)
        self.generic_visit(node)


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def candidates(tree: Path, room: str) -> list[Fault]:
    """All faults that could be put into a room, without those that leave no valid Python."""
    found = []
    for path in sorted((tree / "src" / "mnemoscope" / room).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        finder = Finder(text)
        finder.visit(ast.parse(text))
        lines = text.splitlines()
        for kind, function, number, new in finder.found:
            try:
                ast.parse("\n".join([*lines[: number - 1], new, *lines[number:]]))
            except SyntaxError:
                continue
            found.append(fault_at(path, tree, lines, kind, function, number, new))
    return found


def fault_at(
    path: Path, tree: Path, lines: list[str], kind: str, function: str, number: int, new: str
) -> Fault:
    """A fault with what is needed to find its place again."""
    module = str(path.relative_to(tree / "src" / "mnemoscope"))
    line = lines[number - 1].strip()
    same = [one for one in places_in(path, function.split(".")[-1]) if one[1] == line]
    order = [one[0] for one in same].index(number)
    around = (lines[number - 2].strip(), lines[number].strip() if number < len(lines) else "")
    return Fault("", kind, module, function, line, new.strip(), order, around)


def make(tree: Path, out: Path, n: int, seed: int) -> None:
    """Draw faults, of each room in proportion to its lines, at most two of a function."""
    draw = random.Random(seed)
    sizes = {room: lines_of_room(tree, room) for room in ROOMS}
    shares = {room: n * size / sum(sizes.values()) for room, size in sizes.items()}
    counts = {room: int(share) for room, share in shares.items()}
    largest = sorted(ROOMS, key=lambda room: counts[room] - shares[room])
    for room in largest[: n - sum(counts.values())]:
        counts[room] += 1
    chosen: list[Fault] = []
    for room in ROOMS:
        by_kind: dict[str, list[Fault]] = {}
        for fault in candidates(tree, room):
            by_kind.setdefault(fault.kind, []).append(fault)
        own: list[Fault] = []
        while len(own) < counts[room]:  # a kind first, so that constants do not crowd out the rest
            fault = draw.choice(by_kind[draw.choice(sorted(by_kind))])
            in_function = [one for one in own if one.function == fault.function]
            if len(in_function) < 2 and fault.line not in {one.line for one in own}:
                own.append(fault)
        chosen += own
    named = [asdict(one) | {"id": f"{i:02}"} for i, one in enumerate(chosen, start=1)]
    out.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {out}: {len(named)} faults, {counts}")


def lines_of_room(tree: Path, room: str) -> int:
    """Lines of all modules of a room."""
    paths = (tree / "src" / "mnemoscope" / room).rglob("*.py")
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


# -- finding a fault's place, and its tests -------------------------------------------------------


def places_in(path: Path, name: str) -> list[tuple[int, str]]:
    """Numbers and lines, without indentation, of all that has this name in a module."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = {}
    for node in ast.walk(ast.parse(text)):
        names = [getattr(node, "name", "")]
        if isinstance(node, ast.Assign):
            names = [one.id for one in node.targets if isinstance(one, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        if name in names and hasattr(node, "lineno"):
            for number in range(node.lineno, (node.end_lineno or 0) + 1):  # type: ignore[attr-defined]
                found[number] = lines[number - 1].strip()
    return sorted(found.items())


def find_place(tree: Path, fault: Fault) -> tuple[Path, int] | None:
    """File and line number of a fault in a tree where modules may have other names."""
    best: tuple[int, Path, int] | None = None
    name = fault.function.split(".")[-1]
    for path in sorted((tree / "src" / "mnemoscope").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if fault.line not in text or name not in text:
            continue
        places = [number for number, line in places_in(path, name) if line == fault.line]
        lines = ["", *map(str.strip, text.splitlines()), "", ""]
        for order, number in enumerate(places):
            is_near = [lines[number - 1] == fault.around[0], lines[number + 1] == fault.around[1]]
            likeness = 4 * sum(is_near) + 2 * (order == fault.number)
            likeness += str(path).endswith(fault.module)
            if best is None or likeness > best[0]:
                best = (likeness, path, number)
    return None if best is None else best[1:]


def test_files(tree: Path) -> list[Path]:
    """All files of tests that may be run."""
    paths = sorted((tree / "tests").rglob("test_*.py"))
    return [path for path in paths if path.name not in LEFT_OUT]


def rounds(tree: Path, fault: Fault, killer: str | None) -> Iterator[list[str]]:
    """Arguments of pytest, one run after the other until a test fails.

    First the test that found the fault before; then the files that mirror its module or speak of
    its function; then the room; then other files that import the module; last whole studies.
    """
    files = test_files(tree)
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    if killer is not None and re.fullmatch(r"test_\w+", killer):
        holding = [str(path) for path, text in texts.items() if f"def {killer}(" in text]
        if holding:
            yield [*holding, "-k", killer]
    room, _, module = fault.module.removesuffix(".py").partition("/")
    folders = [tree / "tests" / name for name in TEST_FOLDERS.get(room, (room,))]
    own = [path for path in files if any(folder in path.parents for folder in folders)]
    names = {part for part in fault.function.split(".") if not part.startswith("__")}
    words = re.compile(r"\b(" + "|".join([*map(re.escape, names), rf"{room}\.{module}"]) + r")\b")
    near = [one for one in own if one.stem == f"test_{module}" or words.search(texts[one])]
    near.sort(key=lambda one: one.stem != f"test_{module}")
    telling = [name for name in names if "_" in name.strip("_")] + [f"{room}.{module}"]
    others = [one for one in files if one not in own and any(x in texts[one] for x in telling)]
    dear = ("small_demo", "tiny_studies")
    light = [one for one in others if not any(word in texts[one] for word in dear)]
    last = [[one for one in files if one.name == name] for name in LAST_TESTS]
    seen: set[Path] = set()
    for paths in (near, own, light, *last):
        fresh = [path for path in paths if path not in seen]
        seen |= set(fresh)
        if fresh:
            yield [str(path) for path in fresh]


# -- trying them ----------------------------------------------------------------------------------


def run(tree: Path, list_: Path, out: Path, before: Path | None, equivalents: Path | None) -> None:
    """Try every fault that has no result yet, in a copy of the tree."""
    faults = [Fault(**one) for one in json.loads(list_.read_text(encoding="utf-8"))]
    done: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    earlier = json.loads(before.read_text(encoding="utf-8")) if before else {}
    given = json.loads(equivalents.read_text(encoding="utf-8")) if equivalents else {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(tree, copy, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__"))
        for fault in faults:
            if done.get(fault.id, {}).get("result", "not found") != "not found":
                continue
            started = time.monotonic()
            killer = earlier.get(fault.id, {}).get("test")
            result = try_fault(copy, fault, killer, given.get(fault.id))
            result["seconds"] = round(time.monotonic() - started, 1)
            done[fault.id] = result
            out.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            said = ", ".join(str(value) for value in result.values())
            print(f"{fault.id} {fault.module} {fault.function}: {said}", flush=True)
    print(summary(done))


def try_fault(
    tree: Path, fault: Fault, killer: str | None, other: dict[str, str] | None
) -> dict[str, Any]:
    """Put a fault in, run tests until one fails, and put the file right again."""
    new = fault.new
    if other is None:
        place = find_place(tree, fault)
    else:
        new, path = other["new"].strip(), tree / other["file"]
        inside = places_in(path, other["function"].split(".")[-1])
        numbers = [number for number, line in inside if line == other["line"].strip()]
        place = (path, numbers[0]) if numbers else None
    if place is None:
        return {"result": "not found"}
    path, number = place
    original = path.read_text(encoding="utf-8")
    lines = original.splitlines(keepends=True)
    indent = lines[number - 1][: len(lines[number - 1]) - len(lines[number - 1].lstrip())]
    lines[number - 1] = f"{indent}{new}\n"
    where = {"file": str(path.relative_to(tree)), "line": number}
    n_runs = 0
    try:
        path.write_text("".join(lines), encoding="utf-8")
        for arguments in rounds(tree, fault, killer):
            n_runs += 1
            failed = failing_test(tree, arguments)
            if failed is not None:
                result = "timeout" if failed == "timeout" else "killed"
                return {"result": result, "test": failed, "runs": n_runs, **where}
    finally:
        path.write_text(original, encoding="utf-8")
    return {"result": "survived", "test": None, "runs": n_runs, **where}


def failing_test(tree: Path, arguments: list[str]) -> str | None:
    """Name of the first test that fails (of a file that cannot be read, its name), or None."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not gpu and not browser", "--hypothesis-seed=0", "--tb=no"]
    once = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    once |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree / "src")}
    process = subprocess.Popen(
        command + arguments,
        cwd=tree,
        env=os.environ | once,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=limit_processor,
    )
    try:
        said, _ = process.communicate(timeout=5 * TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "timeout"
    if process.returncode in {0, 5}:  # 5: no test was selected
        return None
    if process.returncode == -signal.SIGXCPU:
        return "timeout"
    found = re.search(r"(?m)^(?:FAILED|ERROR) (\S+?)(?:\[.*)?(?: - .*)?$", said)
    return found[1].split("::")[-1] if found else f"status {process.returncode}: {said[-300:]}"


def limit_processor() -> None:
    """Let a process end when it has had its time of a processor."""
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT, TIMEOUT + 10))


def summary(done: dict[str, Any]) -> str:
    """How many of each result."""
    results = [one["result"] for one in done.values()]
    return ", ".join(f"{results.count(one)} {one}" for one in sorted(set(results)))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make", help="draw faults of a tree")
    making.add_argument("--n", type=int, default=60)
    making.add_argument("--seed", type=int, default=0)
    running = verbs.add_parser("run", help="try them")
    running.add_argument("--list", dest="list_", type=Path, required=True)
    running.add_argument("--before", type=Path, help="results of an earlier run")
    running.add_argument("--equivalents", type=Path, help="for lines that are there no more")
    for verb in (making, running):
        verb.add_argument("--tree", type=Path, required=True)
        verb.add_argument("--out", type=Path, required=True)
    given = vars(parser.parse_args())
    (make if given.pop("verb") == "make" else run)(**given)


if __name__ == "__main__":
    main()
