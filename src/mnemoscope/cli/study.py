"""Verbs that work on a study: init, run, and one for each stage."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mnemoscope.cli.engine import (
    EngineFlags,
    EngineOption,
    RayAddress,
    RayWorkers,
    Storage,
    working_with,
)
from mnemoscope.cli.options import (
    BatchSize,
    CheckLabels,
    Device,
    DropSmallClasses,
    Dtype,
    Model,
    NoControls,
    Out,
    PartOption,
    Patterns,
    Quiet,
    Redo,
    Reference,
    Revision,
    RunOut,
    Scan,
    Sequences,
    Set,
    Split,
    StudyFolder,
    Taxonomies,
    merge_flags,
)
from mnemoscope.config import EMBEDDED, NO_MODEL, StudySettings, settings_template
from mnemoscope.errors import UserError
from mnemoscope.progress import say, show_progress
from mnemoscope.stages.shipped_studies import find_study_file, shipped_path
from mnemoscope.study import STAGES, Study, is_study, stage_named

__all__ = [
    "capture",
    "continue_",
    "init",
    "knockout",
    "report",
    "run",
    "sequences",
    "shown",
    "stage_verb",
    "train",
]


LOCAL = EngineFlags()
_STUDY = Path("study")


def shown(quiet: bool) -> AbstractContextManager[None]:
    """Progress on, unless it was asked to be quiet."""
    return nullcontext() if quiet else show_progress()


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Copy a shipped study, for example pythia-12b."),
    ] = None,
) -> None:
    """Write a commented YAML file with every setting, or a copy of a shipped study.

    Example: mnemoscope init study.yaml
    """
    from mnemoscope.atomic_write import write_text

    text = shipped_path(from_).read_text(encoding="utf-8") if from_ else settings_template()
    if path.exists() and not force:
        raise UserError(f"{path}: exists. Choose another name, or --force to replace it.")
    write_text(path, text)
    print(f"Wrote {path}. Edit it, then: mnemoscope run {path} -o STUDY")


def run(
    settings: Annotated[
        Path | None,
        typer.Argument(
            help="YAML file, or the name of a shipped study such as pythia-12b.", show_default=False
        ),
    ] = None,
    out: RunOut = None,
    model: Model = None,
    sequences: Sequences = None,
    split: Split = None,
    taxonomy: Taxonomies = None,
    reference: Reference = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    batch_size: BatchSize = None,
    scan: Scan = False,
    patterns: Patterns = None,
    no_controls: NoControls = False,
    drop_small_classes: DropSmallClasses = False,
    set_: Set = None,
    redo: Redo = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")
    ] = False,
    check_labels: CheckLabels = False,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = None,
    storage: Storage = None,
    quiet: Quiet = False,
) -> None:
    """Do what is missing of all stages, up to the report.

    Example: mnemoscope run --model gpt2 --sequences texts/ -o my-study
    """
    if not any((settings, out, model, sequences, set_)) and not is_study(_STUDY):
        raise UserError(
            "run: of what? Give --model and --sequences, or a study file, and -o for the result. "
            "'mnemoscope demo' does it on the shipped model."
        )
    out = out or _STUDY
    flags = _model_flags(model, revision, dtype, device, batch_size) | {
        "sequences.source": sequences,
        "sequences.split": split,
        "label.taxonomies": taxonomy,
        "capture.reference": reference,
        "continue.scan": scan,
        "features.patterns": patterns,
        "label.drop_small_classes": drop_small_classes,
    }
    base, assignments = (
        find_study_file(settings) if settings else None,
        _with_controls(set_, no_controls),
    )

    def change(present: StudySettings) -> StudySettings:
        return merge_flags(base or present, flags, assignments)

    chosen = change(Study(out).settings if is_study(out) else StudySettings())
    if dry_run:
        from mnemoscope.cli.plan import print_plan
        from mnemoscope.stages.plan import plan

        print_plan(plan(chosen, out, redo=redo))
        return
    with shown(quiet):
        _announce(chosen, out)
    from mnemoscope.cli.summary import print_summary
    from mnemoscope.stages.run import run as run_study

    where = EngineFlags(engine, ray_address, ray_workers, storage)
    with shown(quiet), working_with(where):
        if check_labels:
            _check_labels(change, out, redo)
            return
        study = run_study(change, out, redo=redo)
    print_summary(study)


def _announce(settings: StudySettings, out: Path) -> None:
    """Refuse names that stand for nothing, and say what will be done, before torch is loaded."""
    if is_study(out):
        say(f"Going on with the study {out}.")
        return
    if settings.model.name == NO_MODEL:
        raise UserError(
            f"run: model.name '{NO_MODEL}': what follows features needs a language model. Give "
            "--model NAME, or found a study for the analyses that need none: 'mnemoscope sequences "
            f"SOURCE --split SPLIT --model {NO_MODEL} -o STUDY'."
        )
    from mnemoscope.stages.presence import check_names

    check_names(settings)
    source = settings.sequences.source
    say(
        f"A new study in {out}: {settings.model.name} on "
        f"{'the shipped sequences' if source == EMBEDDED else source}, up to {out}/report.html. "
        "--dry-run says what it takes."
    )


def sequences(
    source: Annotated[str, typer.Argument(help="Folder, text file, .jsonl or .parquet.")],
    out: Out,
    split: Split = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    batch_size: BatchSize = None,
    set_: Set = None,
    quiet: Quiet = False,
) -> None:
    """Cut texts into 64-token sequences with the model's tokenizer and found a study.

    Example: mnemoscope sequences texts/ --model gpt2 -o my-study
    """
    from mnemoscope.stages.presence import check_names

    flags = _model_flags(model, revision, dtype, device, batch_size)
    flags |= {"sequences.source": source, "sequences.split": split}
    chosen = merge_flags(None, flags, set_)
    with shown(quiet):
        check_names(chosen)
    from mnemoscope.stages.models import Models
    from mnemoscope.stages.sequences import found_study

    with shown(quiet):
        study = found_study(out, chosen, Models(chosen))
    verb = "features" if chosen.model.name == NO_MODEL else "continue"
    print(f"{study.sequences.height:,} sequences in {out}. Next: mnemoscope {verb} {out}")


def continue_(
    study: StudyFolder,
    scan: Scan = False,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    batch_size: BatchSize = None,
    part: PartOption = None,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = None,
    storage: Storage = None,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Let the model continue every prefix greedily: which sequences are memorized?

    Example: mnemoscope continue my-study
    """
    flags = _model_flags(model, revision, dtype, device, batch_size) | {"continue.scan": scan}
    where = EngineFlags(engine, ray_address, ray_workers, storage)
    stage_verb(study, "continue", flags, set_, redo=redo, quiet=quiet, part=part, where=where)


def capture(
    study: Annotated[
        Path | None, typer.Argument(help="A study folder.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A new study, with --sequences.")
    ] = None,
    sequences: Sequences = None,
    reference: Reference = None,
    model: Model = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    batch_size: BatchSize = None,
    part: PartOption = None,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = None,
    storage: Storage = None,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Store the attention of what is sampled; of every sequence where there are no labels.

    Run again on a finished study it looks through the store and redoes shards that are damaged.

    Example: mnemoscope capture my-study
    """
    flags = _model_flags(model, revision, dtype, device, batch_size)
    flags |= {"sequences.source": sequences, "capture.reference": reference}
    folder = study or out
    if folder is None:
        raise UserError("capture: name a study, or give --model, --sequences and -o for a new one.")
    if not is_study(folder) and sequences is not None:
        if part is not None:
            raise UserError(
                f"capture --part: {folder} is not there yet. Found it once with 'mnemoscope "
                f"sequences {sequences} -o {folder}', then run the parts."
            )
        _found(folder, flags, set_, quiet)
    where = EngineFlags(engine, ray_address, ray_workers, storage)
    stage_verb(folder, "capture", flags, set_, redo=redo, quiet=quiet, part=part, where=where)


def train(
    study: StudyFolder,
    no_controls: NoControls = False,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    ray_workers: RayWorkers = None,
    storage: Storage = None,
    set_: Set = None,
    redo: Redo = False,
    quiet: Quiet = False,
) -> None:
    """Train the CNNs and the controls beside them.

    Example: mnemoscope train my-study --set train.preset=paper
    """
    where = EngineFlags(engine, ray_address, ray_workers, storage)
    chosen = _with_controls(set_, no_controls)
    stage_verb(study, "train", {}, chosen, redo=redo, quiet=quiet, where=where)


def knockout(
    study: StudyFolder, set_: Set = None, redo: Redo = False, quiet: Quiet = False
) -> None:
    """Cut the edges that decide a class inside the running model: what does it forget?

    Example: mnemoscope knockout my-study --set knockout.strengths=[1,10]
    """
    stage_verb(study, "knockout", {}, set_, redo=redo, quiet=quiet)


def report(study: StudyFolder, set_: Set = None, redo: Redo = False, quiet: Quiet = False) -> None:
    """Write report.html, one page that opens offline.

    Example: mnemoscope report my-study
    """
    stage_verb(study, "report", {}, set_, redo=redo, quiet=quiet)


def stage_verb(
    folder: Path,
    stage: str,
    flags: dict[str, Any],
    assignments: list[str] | None,
    *,
    redo: bool,
    quiet: bool,
    part: str | None = None,
    where: EngineFlags = LOCAL,
) -> None:
    """Run one stage of a study, or a part of it, and say what comes next."""
    study = Study(folder)

    def change(present: StudySettings) -> StudySettings:
        return merge_flags(present, flags, assignments)

    change(study.settings)  # a mistake is said before torch is loaded and the study held
    if part is not None:
        if where != LOCAL:
            raise UserError("--part: a part is one process. Leave out --engine, or --part.")
        _run_part(study, stage, part, change, redo=redo, quiet=quiet)
        return
    from mnemoscope.stages.run import run_stage

    with shown(quiet), working_with(where):
        was_done = not run_stage(study, stage, change, redo=redo)
    outputs = stage_named(stage).outputs
    made = ", ".join(str(folder / name) for name in outputs) or str(folder / "sequences.parquet")
    print(f"{'Nothing to do:' if was_done else 'Wrote'} {made}.{next_verb(study, stage)}")


def next_verb(study: Study, stage: str) -> str:
    """Say which verb goes on after a stage; nothing where none does."""
    if study.settings.model.name == NO_MODEL:
        return f" Next: mnemoscope analyze predict {study.folder}"
    names = [entry.name for entry in STAGES]
    following = [entry.name for entry in STAGES[names.index(stage) + 1 :] if not entry.optional]
    if stage == "capture" and not study.is_done("label"):
        from mnemoscope.stages.padding import whole_mask

        # Every sequence was captured, without labels; padded ones nothing else reads.
        following = ["continue"] if whole_mask(study.sequences) is None else []
    return f" Next: mnemoscope {following[0]} {study.folder}" if following else ""


def _run_part(
    study: Study,
    stage: str,
    text: str,
    change: Callable[[StudySettings], StudySettings],
    *,
    redo: bool,
    quiet: bool,
) -> None:
    """Do one part of a stage and say where it stands."""
    from mnemoscope.stages.part_work import run_part
    from mnemoscope.stages.parts import parse_part

    part = parse_part(text)
    with shown(quiet):
        made = run_part(study, stage, part, change, redo=redo)
    if made is None:
        print(f"Nothing to do: '{stage}' of {study.folder} is done.")
    else:
        print(f"Wrote {made}. When all {part.n} parts are done: mnemoscope merge {study.folder}")


def _found(folder: Path, flags: dict[str, Any], assignments: list[str] | None, quiet: bool) -> None:
    """Found a study on the way to another stage."""
    from mnemoscope.stages.presence import check_names

    settings = merge_flags(None, flags, assignments)
    with shown(quiet):
        check_names(settings)
    from mnemoscope.stages.models import Models
    from mnemoscope.stages.sequences import found_study

    with shown(quiet):
        found_study(folder, settings, Models(settings))


def _check_labels(change: Callable[[StudySettings], StudySettings], out: Path, redo: bool) -> None:
    """Found the study where it is not there, scan what has a label, and say what came of it."""
    from mnemoscope.stages.check_labels import CHECK_FILE, check_labels
    from mnemoscope.stages.models import Models
    from mnemoscope.stages.run import run as run_study

    study = run_study(change, out, redo=redo, until="sequences")
    with study.lock():
        check = check_labels(study, Models(study.settings))
    print("\n".join(check.lines))
    print(f"Wrote {out / CHECK_FILE}. Next: mnemoscope run -o {out}")


def _model_flags(
    model: str | None,
    revision: str | None,
    dtype: str | None,
    device: str | None,
    batch_size: int | None,
) -> dict[str, Any]:
    """The flags of every verb that loads a model, by the settings they stand for."""
    return {
        "model.name": model,
        "model.revision": revision,
        "model.dtype": dtype,
        "model.device": device,
        "model.batch_size": batch_size,
    }


def _with_controls(assignments: list[str] | None, no_controls: bool) -> list[str]:
    """`--no-controls` as the assignment it stands for."""
    return [*(assignments or []), *(["benchmark.controls=false"] if no_controls else [])]
