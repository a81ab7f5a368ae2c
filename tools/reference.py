"""Write the reference pages of the documentation site from what they document.

    python -m tools.reference docs/reference

The command line from its verbs, the settings from their fields, the Python interface from the
names that `mnemoscope` and `mnemoscope.plugin` export, in the order of use. `make docs` runs it;
the pages are not kept in the repository. The tables of docs/audit-files.md, docs/plugins.md and
docs/tables.md are, and tests compare them.
"""

import ast
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel
from typer import Context
from typer.cli import get_docs_for_click

import mnemoscope
from experiments.pages import split_page, table_of
from mnemoscope import plugin
from mnemoscope.audits.passages import span_columns
from mnemoscope.audits.questions import QUESTIONS, settings_class
from mnemoscope.benchmark import levels, published, table
from mnemoscope.cli.app import make_command
from mnemoscope.columns import Column, Columns
from mnemoscope.data.table import COLUMNS
from mnemoscope.pipeline import (
    benchmark,
    capture,
    causes,
    deltas,
    graft,
    knockout,
    label,
    train,
    trainings,
)
from mnemoscope.search import found
from mnemoscope.stats import FIGURE
from mnemoscope.study.settings import StudySettings

DOCS = Path(__file__).parents[1] / "docs"
AUDIT_PAGE, STUDY_PAGE = DOCS / "audit-files.md", DOCS / "tables.md"
PLUGIN_PAGE = DOCS / "plugins.md"
STUDY_TABLES: dict[str, dict[str, Columns]] = {
    "samples": {label.SAMPLES_FILE: label.SAMPLE_COLUMNS},
    "logprobs": {capture.LOGPROBS_FILE: capture.LOGPROB_COLUMNS},
    "train": {
        trainings.RUNS_FILE: train.TRAINING_COLUMNS,
        trainings.PREDICTIONS_FILE: train.PREDICTION_COLUMNS,
        trainings.CHOICE_FILE: train.CHOICE_COLUMNS,
    },
    "benchmark": {benchmark.BENCHMARK_FILE: table.BENCHMARK_COLUMNS},
    "comparison": {
        benchmark.COMPARISON_FILE: published.COMPARISON_COLUMNS,
        benchmark.TOGETHER_FILE: table.TOGETHER_COLUMNS,
        benchmark.LEVELS_FILE: levels.LEVEL_COLUMNS,
    },
    "localize": {
        deltas.REGIONS_FILE: deltas.REGION_COLUMNS,
        deltas.AGREEMENT_FILE: deltas.AGREEMENT_COLUMNS,
        deltas.SHAPES_FILE: deltas.SHAPE_COLUMNS,
        deltas.MODELS_FILE: deltas.MODEL_COLUMNS,
        "delta.parquet": deltas.DELTA_COLUMNS,
        "profile.parquet": deltas.PROFILE_COLUMNS,
    },
    "knockout": {
        causes.KNOCKOUT_FILE: knockout.KNOCKOUT_COLUMNS,
        causes.SPECIFICITY_FILE: knockout.SPECIFICITY_COLUMNS,
    },
    "graft": {
        causes.GRAFT_FILE: graft.GRAFT_COLUMNS,
        causes.GRAFT_SPECIFICITY_FILE: graft.SPECIFIC_COLUMNS,
        causes.CURVES_FILE: graft.CURVE_COLUMNS,
        causes.SEQUENCES_FILE: graft.SEQUENCE_COLUMNS,
        causes.PATCHES_FILE: graft.PATCH_COLUMNS,
    },
    "search": {found.SEARCH_FILE: found.SEARCH_COLUMNS},
}
"""Tables of docs/tables.md, by section."""
NAMES = {
    "Run, and open a study": (
        "run Study load_settings StudySettings demo_settings run_stage analyze"
    ),
    "Audit documents, ask items": (
        "audit Audit Judgement items Items images Images membership Membership forget Forgetting"
    ),
    "Windows, scan, classes, maps": "windows scan classify capture Maps",
    "Readers of maps": "fit fit_blind Reader excess Excess Estimate",
    "Grafts": "graft_parts grafted patched_activations",
    "Watch a training run": (
        "MemorizationCallback MemorizationWatch make_canaries WatchedWindows read_history"
    ),
    "Figures, progress, errors": (
        "benchmark_figure delta_figure layer_profile_figure graft_figure allocation_figure "
        "show_progress MnemoscopeError UserError DamagedDataError NoRoomError"
    ),
}
"""What `import mnemoscope as ms` offers, in the order of use: a page each."""
FIRST = "run audit scan Study"
PYTHON = """# Python

Everything that `import mnemoscope as ms` offers. These four do most:

```python
import mnemoscope as ms

study = ms.run("gpt2", ["a text", "another"], "my-study")   # a whole study; resumes
ms.audit("gpt2", {"a book": "its text"}).passages           # what the model repeats of a document
ms.Study("demo").report()                                   # open a study that is there
```
"""
TOOL_BOX = """## `mnemoscope.plugin`

For an analysis, a reader or a node of your own: [Plugins](../plugins.md) names every function.
"""
HEAD = {
    "command-line": "# Command line\n\nEvery verb with its options, as `mnemoscope VERB "
    "--help` prints them.\n\n```bash\nmnemoscope --help\n```\n\n",
    "settings": "# Settings\n\nEvery setting of a study file. As a flag: `--set "
    "train.preset=as_run`; a file with all of them:\n\n```bash\nmnemoscope init study.yaml\n```"
    "\n\n",
}


def command_line() -> str:
    """Typer's own page of all verbs, its first heading left out, options folded."""
    root = make_command()  # changed below
    for verb in root.commands.values():
        verb.short_help = verb.help.split("\n\n")[0]  # Typer cuts it to 45 characters
    page = get_docs_for_click(obj=root, ctx=Context(root), name="mnemoscope")
    parts = page.split("\n", 1)[1].strip().split("`")
    parts[::2] = [text.replace("][", "]\\[") for text in parts[::2]]  # no link of two brackets
    return "".join(map(_folded, re.split(r"^(?=## )", "`".join(parts), flags=re.M)))


def _folded(verb: str) -> str:
    """A verb whose usage, arguments and options open below what it does."""
    does, usage, options = verb.rstrip().partition("**Usage**")
    opened = '<details markdown="1"><summary>Usage and options</summary>'
    return f"{does}{opened}\n\n{usage}{options}\n\n</details>\n\n"


def settings() -> str:
    """A table a section: setting, default, what it decides."""
    parts = []
    for key, field in StudySettings.model_fields.items():
        name = field.alias or key
        section = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
        if isinstance(section, BaseModel):
            title = (type(section).__doc__ or "").strip()
            parts.append(f"## `{name}`\n\n{title}\n\n{_table(name, type(section))}")
    return "\n\n".join(parts)


def _table(section: str, model: type[BaseModel]) -> str:
    rows = ["| setting | default | |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        words = " ".join((field.description or "").split())
        rows.append(
            f"| `{section}{'.' * bool(section)}{name}` | `{_yaml(default)}` | {_cell(words)} |"
        )
    return "\n".join(rows)


def _yaml(value: Any) -> str:
    known = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return known[value]
    if isinstance(value, BaseModel):
        return "see the file"
    return _cell(str(value))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[")


def python() -> dict[str, str]:
    """The pages of the Python interface by file name: an overview, then a page a use."""
    tool_box = {title: " ".join(rooms.values()) for title, rooms in plugin.SECTIONS.items()}
    uses = {"mnemoscope": NAMES, "mnemoscope.plugin": tool_box}
    pages: dict[str, str] = {}
    place: dict[str, str] = {}
    for package, sections in uses.items():
        for title, names in sections.items():
            file = "-".join([*package.split(".")[1:], *re.findall(r"\w+", title.lower())])
            pages[f"python-{file}"] = _page_of(title, package, names.split())
            place |= dict.fromkeys(names.split(), f"python-{file}.md")
    parts = [PYTHON, _names_table(FIRST, place)]
    parts += [f"## {title}\n\n{_names_table(names, place)}" for title, names in NAMES.items()]
    links = [f"- [{title}]({place[names.split()[0]]})" for title, names in tool_box.items()]
    return {"python": "\n".join([*parts, TOOL_BOX, *links, ""])} | pages


def _page_of(title: str, package: str, names: Sequence[str]) -> str:
    """A directive for each name."""
    return "\n\n".join([f"# {title}", *(f"::: {package}.{name}" for name in names)]) + "\n"


def _names_table(names: str, place: Mapping[str, str]) -> str:
    """Public names of `mnemoscope`, each with what it says of itself."""
    rows = []
    for name in names.split():
        room = getattr(mnemoscope, name).__module__.removeprefix("mnemoscope.")
        rows.append([f"[`{name}`]({place[name]}#mnemoscope.{name})", _cell(said_of(room, name))])
    return table_of(["name", "what it is"], rows)


def filled_audit_page(page: str) -> str:
    """The text of docs/audit-files.md, its tables as the code has them."""
    asked = {name: one.part("TABLE") for name, one in QUESTIONS.items() if one.part("TABLE")}
    tables = {
        "spans": _columns(span_columns()),
        "questions": "\n".join(
            f"## `{name}.parquet`\n\n{_columns(one)}" for name, one in asked.items()
        ),
        "settings": _table("", settings_class()) + "\n",
    }
    return _filled(page, tables)


def filled_study_page(page: str) -> str:
    """The text of docs/tables.md, its tables as the code has them."""
    sequences = {name: Column(one.dtype, one.meaning) for name, one in COLUMNS.items()}
    tables = {"sequences": _folded_columns(sequences)}
    for section, files in STUDY_TABLES.items():
        parts = [f"### `{name}`\n\n{_folded_columns(one)}" for name, one in files.items()]
        tables[section] = "\n".join(parts)
    return _filled(page, tables)


def _folded_columns(columns: Columns) -> str:
    """A table of columns that opens below their number."""
    opened = f'<details markdown="1"><summary>{len(columns)} columns</summary>'
    return f"{opened}\n\n{_typed_columns(columns)}\n</details>\n"


def filled_plugin_page(page: str) -> str:
    """The text of docs/plugins.md, its list of names as `mnemoscope.plugin` has them."""
    parts = []
    for section, rooms in plugin.SECTIONS.items():
        names = [(name, room) for room, names in rooms.items() for name in names.split()]
        rows = [[f"`{name}`", _cell(said_of(room, name))] for name, room in names]
        parts.append(f"### {section}\n\n{table_of(['name', 'what it is'], rows)}")
    return _filled(page, {"tool box": "\n".join(parts)})


def said_of(room: str, name: str) -> str:
    """The first line that a public name says of itself; of a constant that of the text below it."""
    module = import_module(f"mnemoscope.{room}")
    found = getattr(module, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        return (inspect.getdoc(found) or "").split("\n")[0]
    for one, below in pairwise(ast.parse(inspect.getsource(module)).body):
        targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
        if any(getattr(target, "id", "") == name for target in targets):
            text = getattr(getattr(below, "value", None), "value", "")
            return str(text).split("\n")[0]
    return ""


def _filled(page: str, tables: Mapping[str, str]) -> str:
    for name, text in tables.items():
        before, _, after = split_page(page, name)
        page = before + text + after
    return page


def _typed_columns(columns: Columns) -> str:
    rows = [
        [f"`{name}`", _type(one.type), one.meaning.replace("|", "\\|")]
        for name, one in columns.items()
    ]
    return table_of(["column", "type", "content"], rows)


def _type(dtype: Any) -> str:
    if dtype == FIGURE:
        return "figure"
    if isinstance(dtype, pl.List):
        return f"list of {_type(dtype.inner)}".replace("figure", "figures")
    return {"Boolean": "bool"}.get(str(dtype), str(dtype).lower())


def _columns(columns: Columns) -> str:
    rows = [[f"`{name}`", _cell(one.meaning)] for name, one in columns.items()]
    return table_of(["column", "content"], rows)


def main(folder: Path) -> None:
    """Write the pages, and the tables of those that are kept."""
    for place, filled in (
        (AUDIT_PAGE, filled_audit_page),
        (PLUGIN_PAGE, filled_plugin_page),
        (STUDY_PAGE, filled_study_page),
    ):
        place.write_text(filled(place.read_text("utf-8")), encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"command-line": command_line(), "settings": settings()}
    for name, text in {
        **{name: HEAD[name] + body for name, body in pages.items()},
        **python(),
    }.items():
        (folder / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
