"""Flags shared by the verbs, and how they become settings: flag, then file, then default."""

import functools
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from mnemoscope.cnn.presets import GRIDS
from mnemoscope.errors import MnemoscopeError, UserError, nearest, printable
from mnemoscope.parse import parse_yaml
from mnemoscope.study.settings import StudySettings, parse_settings
from mnemoscope.version import __version__

if TYPE_CHECKING:
    from mnemoscope.cluster.units import Share
    from mnemoscope.conditions import GateResult

GATE_FAILED = 3
"""Exit status of a gate whose condition holds."""
Out = Annotated[Path, Option("-o", "--out", help="Where the result goes.")]
StudyFolder = Annotated[Path, Argument(help="A study folder.")]
Sequences = Annotated[
    str | None,
    Option(
        "--sequences",
        help="Folder of text or code, text file, .jsonl (.gz, .zst), .csv, .parquet, "
        "NAME_prefix.npy, a data set of the hub OWNER/NAME[:CONFIG][@REVISION][#SPLIT], "
        "'embedded', or with --split 'usvsnsp/semantic-filters'.",
    ),
]
Columns = Annotated[
    list[str] | None,
    Option(
        "--column",
        metavar="NAME=PATH",
        help="Take a column from a path in the source: duplicates=meta.duplicates (into JSON "
        "texts, too), held_out=meta.duplicates==0, group=@row; repeatable.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    Option(
        "--exclude",
        metavar="PATTERN",
        help="Leave out files, by a path within the folder or a glob such as '*.csv'; repeatable.",
        hidden=True,
    ),
]
Split = Annotated[
    str | None,
    Option(
        "--split",
        help="Split of the paper's data set: deduped_12b, memories_deduped_12b or others.",
    ),
]
Dtype = Annotated[str | None, Option("--dtype", help="auto, float32 (default), bfloat16, float16.")]
Device = Annotated[str | None, Option("--device", help="Device: auto (default), cpu, cuda, mps.")]
Reference = Annotated[
    str | None,
    Option("--reference", help="A model with the same tokenizer that never saw the texts."),
]
Taxonomies = Annotated[
    list[str] | None,
    Option(
        "-t",
        "--taxonomy",
        help="A taxonomy, 'catalogue' (54), 'rho' (27) or a YAML file; repeatable.",
    ),
]
Set = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting of the YAML file, for example train.preset=as_run; repeatable.",
    ),
]
Redo = Annotated[bool, Option("--redo", help="Redo stages that were made with other settings.")]
Quiet = Annotated[bool, Option("-q", "--quiet", help="No progress; the result is printed.")]
QuietOrWordy = Annotated[
    bool, Option("-q", "--quiet", help="No progress (--verbose: all that fails).")
]
TrustRemoteCode = Annotated[
    bool, Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
Verbose = Annotated[bool, Option("--verbose", help="Say more of each step.")]
Wordy = Annotated[
    bool, Option("--verbose", help="Where a gate fails, say all that is found.", hidden=True)
]
NoControls = Annotated[
    bool,
    Option(
        "--no-controls", help="Leave out the controls: permuted labels, blind baseline, reference."
    ),
]
DropSmallClasses = Annotated[
    bool, Option("--drop-small-classes", help="Train without classes that are too small.")
]
Scan = Annotated[
    bool, Option("--scan", help="Find memorized sequences by teacher forcing (large tables).")
]
By = Annotated[
    str | None,
    Option(
        "--by",
        help="What ranks the edges: delta, weights, value_norm, contribution or total_effect, the "
        "last four also with _contrast.",
    ),
]
PartOption = Annotated[
    str | None,
    Option(
        "--part",
        metavar="I/N",
        help="Do only every N-th unit of the work, from the I-th; then run without --part.",
    ),
]
Patterns = Annotated[
    str | None,
    Option(
        "--patterns", help="Rules for counting and repeating text: published (default) or strict."
    ),
]


Flag = str | int | Path | Sequence[str] | Mapping[str, str] | None
"""What a flag may give as a setting; None, False or an empty one: it was not given."""


@dataclass(frozen=True)
class ModelFlags:
    """Flags of every verb that loads a model."""

    model: Annotated[
        str | None,
        Option("--model", help="The model: a folder, hub name, .gguf file, or 'embedded'."),
    ] = None
    revision: Annotated[str | None, Option("--revision", help="Hub revision of the model.")] = None
    dtype: Dtype = None
    device: Device = None
    batch_size: Annotated[
        int | None, Option("--batch-size", help="Sequences in a forward pass (default 64).")
    ] = None
    trust_remote_code: TrustRemoteCode = False

    def settings(self) -> dict[str, Flag]:
        """The settings they stand for, by dotted name."""
        return {
            "model.name" if key == "model" else f"model.{key}": value
            for key, value in vars(self).items()
        }


@dataclass(frozen=True)
class EngineFlags:
    """Flags that say where a verb's work runs: this machine, or the workers of a Ray cluster."""

    engine: Annotated[
        str, Option("--engine", help="local, or ray: use the workers of a cluster.")
    ] = "local"
    ray_address: Annotated[
        str | None,
        Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="A running cluster, or auto (default: RAY_ADDRESS, else one on this machine).",
        ),
    ] = None
    ray_workers: Annotated[
        int | None,
        Option("--ray-workers", min=1, help="Workers to use (default: as many as fit)."),
    ] = None
    storage: Annotated[
        str | None,
        Option(
            "--storage",
            metavar="URL",
            help="Where workers put finished units: a folder or bucket that all machines see "
            "(default: in the study).",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse, before anything is done, another engine, or flags of Ray without it."""
        if self.engine not in ("local", "ray"):
            hint = nearest(self.engine, ("local", "ray"))
            raise UserError(f"--engine {self.engine}: choose local or ray.{hint}")
        if self.engine == "local" and any((self.ray_address, self.ray_workers, self.storage)):
            raise UserError("--ray-address, --ray-workers and --storage need --engine ray.")


@dataclass(frozen=True)
class StageFlags:
    """Flags of every verb that changes a study."""

    set_: Set = None
    redo: Redo = False
    quiet: Quiet = False
    verbose: Verbose = False


@dataclass(frozen=True)
class JsonAnswer:
    """The flag of every verb whose result can be printed as JSON, and that result."""

    as_json: Annotated[
        bool,
        Option("--json", help="Print JSON; all else to standard error."),
    ] = False
    facts: dict[str, Any] = field(default_factory=dict, init=False)


@dataclass(frozen=True)
class GateFlags:
    """Flags of every verb whose result can fail a build."""

    fail_if: Annotated[
        list[str] | None,
        Option("--fail-if", metavar="WHEN", help="Status 3 if, say, 'recalled > 0.5%'."),
    ] = None
    baseline: Annotated[
        Path | None, Option("--baseline", help="An older result: only what is new counts.")
    ] = None
    strict: Annotated[
        bool,
        Option("--strict", help="Also fail on what was left out or mixed up."),
    ] = False
    junit: Annotated[Path | None, Option("--junit", help="Write a JUnit report.")] = None
    sarif: Annotated[
        Path | None, Option("--sarif", help="Write SARIF: what fails, what is new.")
    ] = None


@dataclass(frozen=True)
class WatchGateFlags(GateFlags):
    """The same of a watch."""

    fail_if: Annotated[
        list[str] | None,
        Option(
            "--fail-if",
            metavar="WHEN",
            help="Status 3 if the last checkpoint reproduces too much: 'recalled > 1%' (of the "
            "windows whose text does not give them away), 'reproduced >= 3 windows'; also guessed, "
            "and 'in doc' for each document. Repeatable.",
        ),
    ] = None
    baseline: Annotated[
        Path | None,
        Option("--baseline", help="An older folder of watch: only texts that are new there count."),
    ] = None


MODEL, LOCAL, STAGE, ANSWER = ModelFlags(), EngineFlags(), StageFlags(), JsonAnswer()
GATE, WATCH_GATE = GateFlags(), WatchGateFlags()
_GROUPS = (ModelFlags, EngineFlags, StageFlags, JsonAnswer, GateFlags, WatchGateFlags)


def expanded(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb as Typer reads it: each group among its parameters stands for the flags in it."""
    signature = inspect.signature(verb)
    groups = {
        one.name: one.annotation
        for one in signature.parameters.values()
        if one.annotation in _GROUPS
    }
    flags: list[inspect.Parameter] = []
    for one in signature.parameters.values():
        inside = (
            inspect.signature(groups[one.name]).parameters.values() if one.name in groups else [one]
        )
        flags += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inside]

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        made = {
            name: group(**{one.name: given.pop(one.name) for one in fields(group) if one.init})
            for name, group in groups.items()
        }
        answer = next((one for one in made.values() if isinstance(one, JsonAnswer)), None)
        with _answering(answer):
            verb(**given, **made)

    called.__signature__ = signature.replace(parameters=flags)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in flags}
    return called


def merge_flags(
    base: StudySettings | None, flags: Mapping[str, Flag], assignments: list[str] | None
) -> StudySettings:
    """Lay flags (by dotted setting name) and assignments over settings, and check the result.

    `assignments` are texts of `--set`. Raises UserError: an unknown key or a bad value, named as
    the user wrote it.
    """
    values = (base or StudySettings()).as_dict()
    given = {
        key: value
        for key, value in flags.items()
        if value is not None and value is not False and value not in ([], {})  # a 0 was given
    }
    placed = [*given.items(), *map(assignment, assignments or [])]
    names = {key for key, _ in placed}
    if "train.preset" in names:  # with it goes what is of the former one's grid
        former, grid = values["train"], GRIDS[values["train"]["preset"]]._asdict()
        values["train"] = {k: v for k, v in former.items() if v != list(grid.get(k, ()))}
    for key, value in placed:
        _place(values, key, value)
    if names & {"sequences.prefix", "sequences.suffix"} and "sequences.length" not in names:
        cut = values["sequences"]  # a length that they made gives way where one of them is changed
        if cut.get("prefix") is not None and cut.get("suffix") is not None:
            cut.pop("length", None)
    return parse_settings(values, where="settings")


def parse_columns(given: list[str] | None, sources: Sequence[str] = ()) -> dict[str, str]:
    """Texts of `--column` by the column that each makes; empty where none is given.

    `sources` are those whose texts are taken from a column, for what to write in place of a bare
    name.
    """
    columns = {}
    for text in given or []:
        name, separator, path = text.partition("=")
        if not separator or not name.strip() or not path.strip():
            example = "for example --column duplicates=meta.count."
            example = _column_of(text.strip(" ="), sources) if sources else example
            raise UserError(f"--column {text}: needs NAME=PATH, {example}")
        if path.strip() == "*" and name.strip() != "text":
            raise UserError(f"--column {text}: * stands for the lines of a file. Give 'text=*'.")
        columns[name.strip()] = path.strip()
    return columns


def _column_of(name: str, sources: Sequence[str]) -> str:
    """How texts are taken from a column of this name; which there are, where a table lacks it."""
    from mnemoscope.data.formats import list_files, table_ending
    from mnemoscope.data.table import read_table

    files = (list_files(path) if path.is_dir() else [path] for path in map(Path, sources))
    tables = (one for found in files for one in found if table_ending(one) and one.is_file())
    said = "for example --column text=NAME."
    for table in tables:
        try:
            read_table(table, {"text": name})
        except MnemoscopeError as error:
            said = f"such as text=NAME. {str(error).removeprefix(f'--column text={name}: ')}"
        else:
            return f"for example --column text={name}."
    return said


def assignment(text: str) -> tuple[str, Any]:
    """`train.seeds=[0, 1]` as a dotted key and a value."""
    key, separator, value = text.partition("=")
    if not separator:
        raise UserError(f"--set {text}: needs KEY=VALUE, for example --set train.preset=as_run.")
    try:
        return key.strip(), parse_yaml(value)
    except ValueError as error:
        reason = str(error).removeprefix("line 1: ")
        raise UserError(f"--set {text[:100]}: {reason}. Put it in quotes.") from None


def _place(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a nested value; an unknown section is left for the settings' own check to name."""
    head, _, tail = dotted.partition(".")
    if not tail:
        values[head] = value
        return
    section = values.setdefault(head, {})
    if not isinstance(section, dict):
        raise UserError(f"--set {dotted}: '{head}' is a single setting. Write {head}=VALUE.")
    _place(section, tail, value)


@contextmanager
def working_with(flags: EngineFlags) -> Iterator[None]:
    """Let the engine that was asked for run the work of this block.

    Raises UserError: as `RayExecutor`.
    """
    if flags.engine == "local":
        yield
        return
    from mnemoscope.cluster.ray import RayExecutor
    from mnemoscope.cluster.run import use_executor

    ray = RayExecutor(flags.ray_address, n_workers=flags.ray_workers or 0, storage=flags.storage)
    with ray, use_executor(ray):
        yield


def parse_share(text: str) -> "Share":
    """Parse `3/8`; UserError if malformed or out of range."""
    from mnemoscope.cluster.units import Share

    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        from mnemoscope.words import PART_KINDS

        said = f"--part {text}: needs I/N with I from 1 to N, for example --part 3/8."
        kind = "mlp" if text == "mlps" else text
        if kind in (*PART_KINDS, "embedding", "unembedding"):
            said += f" Parts of a model to graft: --set 'graft.parts=[{kind}]'."
        raise UserError(said)
    return Share(int(match[1]), int(match[2]))


@contextmanager
def _answering(answer: JsonAnswer | None) -> Iterator[None]:
    """Print an answer as one JSON document; all that the block prints goes to standard error.

    An error leaves standard output empty; a verb that leaves with a status of its own has its
    document.
    """
    if answer is None or not answer.as_json:
        yield
        return
    try:
        with redirect_stdout(sys.stderr):
            yield
    except Exit:
        _print_json(answer.facts)
        raise
    _print_json(answer.facts)


def is_failed(found: "Sequence[GateResult]") -> bool:
    """Whether any condition of a gate holds."""
    return any(one.is_failed for one in found)


def judged(
    found: "Sequence[GateResult]", answer: JsonAnswer, *, is_said: bool = False, **more: Any
) -> None:
    """Say which conditions of a gate hold, unless it is said, and leave with its status if any."""
    from mnemoscope.conditions import to_do_of

    conditions = [one.as_json() for one in found]
    answer.facts["gate"] = {"failed": is_failed(found), "conditions": conditions, **more}
    if not is_said:
        for line in (*to_do_of(found), *(one.line for one in found)):  # which stays the last
            print(printable(line))
    if is_failed(found):
        raise Exit(GATE_FAILED)


def _print_json(facts: Mapping[str, Any]) -> None:
    document = {"mnemoscope": __version__, **facts}
    print(json.dumps(_plain(document), ensure_ascii=False, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """As JSON has it: frames as lists of rows, what is no number as null, paths as texts."""
    if hasattr(value, "to_dicts"):
        value = value.to_dicts()
    elif hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
