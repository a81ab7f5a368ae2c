"""Verbs that work on a study: init, run, and one for each stage."""

import inspect
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from mnemoscope.cli import options
from mnemoscope.errors import DamagedDataError, UserError, nearest
from mnemoscope.files import hold_file, made_folder
from mnemoscope.progress import say, show_progress
from mnemoscope.study.folder import SETTINGS_FILE, Study, check_free, is_study
from mnemoscope.study.settings import (
    EMBEDDED,
    NO_MODEL,
    StudySettings,
    check_names,
    check_new_reference,
    check_reference,
    find_study,
    settings_template,
    shipped_text,
)
from mnemoscope.study.stages import STAGES, Stage, stage_named

if TYPE_CHECKING:
    from mnemoscope.plan import Plan

_STUDY = Path("study")


def shown(quiet: bool, *, verbose: bool = False) -> AbstractContextManager[None]:
    """Progress on, unless it was asked to be quiet."""
    return nullcontext() if quiet else show_progress(verbose=verbose)


def init(
    path: Path = Argument(Path("study.yaml"), help="File to write."),
    force: bool = Option(False, "--force", help="Replace a file that is there."),
    from_: str | None = Option(
        None, "--from", help="Copy a shipped study, for example pythia-12b."
    ),
) -> None:
    """Write a commented YAML file with every setting, or a copy of a shipped study.

    Example: mnemoscope init study.yaml
    """
    from mnemoscope.files import write_text

    text = shipped_text(from_) if from_ else settings_template()
    if path.exists() and not force:
        raise UserError(f"{path}: exists. Choose another name, or --force to replace it.")
    write_text(path, text)
    print(f"Wrote {path}. Edit it, then: mnemoscope run {path} -o STUDY")


def run(
    settings: Path | None = Argument(
        None, help="YAML file, or the name of a shipped study such as pythia-12b."
    ),
    out: Path | None = Option(None, "-o", "--out", help="Study folder (default: study)."),
    model: options.ModelFlags = options.MODEL,
    sequences: options.Sequences = None,
    column: options.Columns = None,
    split: options.Split = None,
    taxonomy: options.Taxonomies = None,
    reference: options.Reference = None,
    scan: options.Scan = False,
    patterns: options.Patterns = None,
    no_controls: options.NoControls = False,
    drop_small_classes: options.DropSmallClasses = False,
    dry_run: bool = Option(False, "--dry-run", help="Only say what the run would do and take."),
    check_labels: bool = Option(
        False,
        "--check-labels",
        help="Only say how many of the table's labels this model confirms, and how near a "
        "tie the others are.",
    ),
    only: str | None = Option(None, "--only", help="Run one stage of a study and no other."),
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Run every stage that is missing, up to the report.

    Example: mnemoscope run --model gpt2 --sequences texts/ -o my-study
    """
    if not any((settings, out, model.model, sequences, stage.set_)) and not is_study(_STUDY):
        raise UserError(
            "run: nothing to run. Give --model and --sequences, or a study file, and -o for the "
            "result. 'mnemoscope demo' does it on the shipped model."
        )
    out = out or _STUDY
    flags = model.settings() | {
        "sequences.source": sequences,
        "sequences.columns": options.parse_columns(column),
        "sequences.split": split,
        "label.taxonomies": taxonomy,
        "capture.reference": reference,
        "continue.scan": scan,
        "features.patterns": patterns,
        "label.drop_small_classes": drop_small_classes,
    }
    if only is not None:
        known = [one.name for one in STAGES if one.function]
        if only not in known:
            hint = nearest(only, known)
            raise UserError(f"run --only {only}: no such stage.{hint} Choose {', '.join(known)}.")
        stage_verb(out, only, flags, stage, where=where)
        return
    base = find_study(settings) if settings else None
    assignments = _with_controls(stage.set_, no_controls)

    def change(present: StudySettings) -> StudySettings:
        return options.merge_flags(base or present, flags, assignments)

    chosen = change(Study(out).settings if is_study(out) else StudySettings())
    if not (settings or stage.set_ or is_study(out)):
        _refuse_half(model.model, sequences, out)
    if dry_run:
        from mnemoscope.cli.summary import print_plan
        from mnemoscope.plan import plan

        earlier = _study_of(Path(settings)) if settings else None
        print_plan(plan(chosen, out, redo=stage.redo, earlier=earlier), verbose=stage.verbose)
        return
    with shown(stage.quiet):
        _announce(chosen, out, redo=stage.redo)
    from mnemoscope.cli.summary import print_summary
    from mnemoscope.flow.run import run as run_study

    with shown(stage.quiet, verbose=stage.verbose), options.working_with(where):
        if check_labels:
            _check_labels(change, out, stage.redo)
            return
        study = run_study(change, out, redo=stage.redo)
    print_summary(study, verbose=stage.verbose)


def _study_of(settings: Path) -> Study | None:
    """The study that settings are of; None where they stand alone in their folder."""
    if settings.name != SETTINGS_FILE:
        return None
    with suppress(UserError, DamagedDataError):
        study = Study(settings.parent)
        return study if study.record["models"] else None
    return None


def _refuse_half(model: str | None, sequences: str | None, out: Path) -> None:
    """Refuse model or texts without the other, where flags alone say what to study."""
    if model is None and sequences is None:
        raise UserError(
            f"run: no study {out}, and nothing to make one of. Add --model NAME --sequences TEXTS; "
            f"for the shipped model alone --model {EMBEDDED}."
        )
    if model not in (None, EMBEDDED) and sequences is None:
        raise UserError("run: --model without texts. Add --sequences TEXTS: a folder or a table.")
    if model is None and sequences is not None:
        raise UserError(
            f"run: --sequences without a model. Add --model NAME, or --model {EMBEDDED} for the "
            "small one that ships."
        )


def _announce(settings: StudySettings, out: Path, *, redo: bool) -> None:
    """Refuse names that stand for nothing, and say what will be done, before torch is loaded."""
    if is_study(out):
        with suppress(DamagedDataError):  # the run makes that again
            check_new_reference(settings, Study(out).settings)
            Study(out).changed_stages(settings, redo=redo)  # another model's study is named first
        check_reference(settings)
        Study(out).refuse_locked()
        asked = f"{settings.model.name}, {settings.sequences.source}"
        say(f"Going on with the study in the folder {out} ({asked}).")
        return
    if settings.model.name == NO_MODEL:
        raise UserError(
            f"run: model.name '{NO_MODEL}': what follows features needs a language model. Give "
            "--model NAME, or start a study for the analyses that need none: 'mnemoscope sequences "
            f"SOURCE --split SPLIT --model {NO_MODEL} -o STUDY'."
        )
    check_names(settings)
    check_free(out)
    source = settings.sequences.source
    say(
        f"Reading {'the shipped sequences' if source == EMBEDDED else source} for a new study of "
        f"{settings.model.name} in {out}, up to {out}/report.html. --dry-run says what it takes."
    )


def sequences(
    source: Annotated[str, Argument(help="Texts, a table or a data set (see run --sequences).")],
    out: options.Out,
    column: options.Columns = None,
    split: options.Split = None,
    model: options.ModelFlags = options.MODEL,
    set_: options.Set = None,
    quiet: options.Quiet = False,
) -> None:
    """Cut texts into sequences with the model's tokenizer and start a study.

    Example: mnemoscope sequences texts/ --model gpt2 -o my-study
    """
    from mnemoscope.words import plural

    flags = model.settings() | {
        "sequences.source": source,
        "sequences.columns": options.parse_columns(column),
        "sequences.split": split,
    }
    chosen = options.merge_flags(None, flags, set_)
    study = _create(out, chosen, quiet=quiet)
    verb = "features" if chosen.model.name == NO_MODEL else "continue"
    print(f"{plural(study.sequences.height, 'sequence')} in {out}. Next: mnemoscope {verb} {out}")


def continue_(
    study: options.StudyFolder,
    scan: options.Scan = False,
    model: options.ModelFlags = options.MODEL,
    part: options.PartOption = None,
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Let the model continue every prefix greedily: which sequences are memorized?

    Example: mnemoscope continue my-study
    """
    flags = model.settings() | {"continue.scan": scan}
    stage_verb(study, "continue", flags, stage, part=part, where=where)


def capture(
    study: Path | None = Argument(None, help="A study folder."),
    out: Path | None = Option(
        None, "-o", "--out", help="Folder of a new study (with --sequences)."
    ),
    sequences: options.Sequences = None,
    column: options.Columns = None,
    reference: options.Reference = None,
    model: options.ModelFlags = options.MODEL,
    part: options.PartOption = None,
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Store the attention of what is sampled; of every sequence where there are no labels.

    Run again on a finished study it looks through the store and redoes shards that are damaged.

    Example: mnemoscope capture my-study
    """
    flags = model.settings() | {
        "sequences.source": sequences,
        "sequences.columns": options.parse_columns(column),
        "capture.reference": reference,
    }
    folder = study or out
    if folder is None:
        raise UserError("capture: name a study, or give --model, --sequences and -o for a new one.")
    if not is_study(folder) and sequences is not None:
        if part is not None:
            raise UserError(
                f"capture --part: {folder} is not there yet. Create it once with 'mnemoscope "
                f"sequences {sequences} -o {folder}', then run the parts."
            )
        _create(folder, options.merge_flags(None, flags, stage.set_), quiet=stage.quiet)
    stage_verb(folder, "capture", flags, stage, part=part, where=where)


def train(
    study: options.StudyFolder,
    no_controls: options.NoControls = False,
    part: options.PartOption = None,
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Train the CNNs and the controls beside them.

    Example: mnemoscope train my-study --set train.preset=as_run
    """
    stage = replace(stage, set_=_with_controls(stage.set_, no_controls))
    stage_verb(study, "train", {}, stage, part=part, where=where)


def knockout(
    study: options.StudyFolder,
    by: options.By = None,
    dry_run: bool = Option(False, "--dry-run", help="Only say how much there is to do."),
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Cut the edges that decide a class inside the running model: what does it forget?

    Example: mnemoscope knockout my-study --by delta --set 'knockout.strengths=[1,10]'
    """
    flags = {"knockout.by": by}
    if not dry_run:
        stage_verb(study, "knockout", flags, stage)
        return
    from mnemoscope.flow.run import refuse_without_cnns
    from mnemoscope.plan import plan_knockout

    refuse_without_cnns(opened := Study(study), "knockout")
    _print_stage_plan(plan_knockout, opened, flags, stage)


def _print_stage_plan(
    plan: "Callable[..., Plan]",
    study: Study,
    flags: Mapping[str, options.Flag],
    stage: options.StageFlags,
) -> None:
    """Print what one stage of a study would do, with these settings."""
    from mnemoscope.cli.summary import print_plan

    wanted = options.merge_flags(study.settings, flags, stage.set_)
    print_plan(plan(wanted, study, redo=stage.redo), verbose=stage.verbose)


_QUICK = {
    "parts": ["qk", "values", "output", "mlp", "embedding", "unembedding"],
    "draws": 9,
    "shares": [1.0],
    "n_sequences": 50,
}
"""Settings of a first look: kinds of parts in all layers at once, and what is outside them."""


def graft(
    study: options.StudyFolder,
    quick: bool | None = Option(
        None,
        "--quick/--full",
        help="A first look: four kinds of parts in all layers at once, embedding and unembedding, "
        "9 random changes of each, 50 sequences of a class. --full: these and every single "
        "part, with the default's numbers.",
    ),
    reference: options.Reference = None,
    dry_run: bool = Option(False, "--dry-run", help="Only say how much there is to do."),
    part: options.PartOption = None,
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Put parts of the reference into the model: which classes does it forget?

    Example: mnemoscope graft my-study --quick
    """
    if quick is not None:
        usual = StudySettings().as_dict()["graft"]
        values = _QUICK if quick else {name: usual[name] for name in _QUICK}
        chosen = [f"graft.{name}={json.dumps(value)}" for name, value in values.items()]
        stage = replace(stage, set_=[*chosen, *(stage.set_ or [])])
    opened, flags = Study(study), {"capture.reference": reference}
    is_other = reference not in (None, opened.settings.capture.reference)
    if is_other and opened.manifest("capture") is not None:
        from mnemoscope.pipeline.reference import how_to_give

        raise UserError(
            f"graft --reference: the attention of {study} is stored beside another reference, or "
            f"none. Give it to the study: {how_to_give(opened, str(reference))}."
        )
    if not dry_run:
        stage_verb(study, "graft", flags, stage, part=part, where=where)
        from mnemoscope.cli.summary import print_grafts

        print_grafts(Study(study))
        return
    from mnemoscope.plan import plan_grafts

    _print_stage_plan(plan_grafts, opened, flags, stage)


def plain_verb(entry: Stage) -> Callable[..., None]:
    """The verb of a stage that has no flags of its own."""

    def verb(
        study: options.StudyFolder,
        part: options.PartOption = None,
        where: options.EngineFlags = options.LOCAL,
        stage: options.StageFlags = options.STAGE,
    ) -> None:
        stage_verb(study, entry.name, {}, stage, part=part, where=where)

    without = {"part"} if not entry.part else set()
    without |= {"where"} if not entry.has_engine else set()
    signature = inspect.signature(verb)
    kept = [one for one in signature.parameters.values() if one.name not in without]
    verb.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    purpose = entry.purpose[0].upper() + entry.purpose[1:]
    verb.__doc__ = f"{purpose}.\n\nExample: mnemoscope {entry.name} my-study"
    return verb


def stage_verb(
    folder: Path,
    name: str,
    flags: Mapping[str, options.Flag],
    stage: options.StageFlags,
    *,
    part: str | None = None,
    where: options.EngineFlags = options.LOCAL,
) -> None:
    """Run one stage of a study, or a share of its units, and say what comes next."""
    study, share = Study(folder), None if part is None else options.parse_share(part)

    def change(present: StudySettings) -> StudySettings:
        return options.merge_flags(present, flags, stage.set_)

    change(study.settings)  # a mistake is said before torch is loaded and the study held
    if share is None:
        study.refuse_locked()
    from mnemoscope.flow.run import run_part, run_stage

    with shown(stage.quiet, verbose=stage.verbose), options.working_with(where):
        if share is not None:
            was_done = not run_part(study, name, share, change, redo=stage.redo)
        else:
            was_done = not run_stage(study, name, change, redo=stage.redo)
    if share is not None and not was_done:
        print(
            f"Did part {share} of '{name}'. When all {share.n} are done and their folders are "
            f"copied together: mnemoscope {name} {folder}"
        )
        return
    outputs = [one for one in stage_named(name).outputs if (folder / one).exists()]
    made = f"{', '.join(outputs)} in {folder}"
    made = str(folder / outputs[0]) if len(outputs) == 1 else made
    print(f"{'Nothing to do:' if was_done else 'Wrote'} {made}.{next_verb(study, name)}")


def next_verb(study: Study, stage: str) -> str:
    """Say which verb goes on after a stage; nothing where none does."""
    if study.settings.model.name == NO_MODEL:
        return f" Next: mnemoscope analyze predict {study.folder}"
    names = [entry.name for entry in STAGES]
    following = [entry.name for entry in STAGES[names.index(stage) + 1 :] if not entry.is_optional]
    if stage == "capture" and not study.is_done("label"):
        following = ["continue"]  # every sequence was captured, without labels
    if stage == "label":
        from mnemoscope.data.table import whole_mask

        if whole_mask(study.sequences) is not None:  # nothing is trained on padded rows
            following = ["report"]
    return f" Next: mnemoscope {following[0]} {study.folder}" if following else ""


def _create(folder: Path, settings: StudySettings, *, quiet: bool) -> Study:
    """Create a study, once its names are known to stand for something."""
    with shown(quiet):
        check_names(settings)
    from mnemoscope.pipeline.sequences import create_study
    from mnemoscope.study.models import Models

    with shown(quiet):
        return create_study(folder, settings, Models(settings))


def _check_labels(change: Callable[[StudySettings], StudySettings], out: Path, redo: bool) -> None:
    """Create the study if it is not there, scan what has a label, and say what came of it."""
    from mnemoscope.flow.run import run as run_study
    from mnemoscope.pipeline.sequences import CHECK_FILE, check_labels
    from mnemoscope.study.models import Models

    study = run_study(change, out, redo=redo, until="sequences")
    with study.lock():
        lines = check_labels(study, Models(study.settings))
    print("\n".join(lines))
    print(f"Wrote {out / CHECK_FILE}. Next: mnemoscope run -o {out}")


def _with_controls(assignments: list[str] | None, no_controls: bool) -> list[str]:
    """`--no-controls` as the assignment it stands for."""
    return [*(assignments or []), *(["benchmark.controls=false"] if no_controls else [])]


def demo(
    out: Path | None = Option(
        None,
        "-o",
        "--out",
        help="Study folder to make (default: demo, demo-small or demo-thorough).",
    ),
    small: bool = Option(False, "--small", help="A quick check with fewer sequences."),
    thorough: bool = Option(
        False, "--thorough", help="Takes longer: all sequences, larger samples, three seeds."
    ),
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Show the whole method on the shipped model: three minutes on two idle cores.

    Example: mnemoscope demo
    """
    from mnemoscope.cli.summary import print_summary
    from mnemoscope.flow.run import demo_settings, run
    from mnemoscope.report.content import report_content
    from mnemoscope.report.lead import conclusion

    started = time.monotonic()
    out = out or Path("demo-small" if small else "demo-thorough" if thorough else "demo")
    with shown(quiet, verbose=verbose):
        study = run(demo_settings(small=small, thorough=thorough), out, also=("graft",))
    if verbose:
        print_summary(study, verbose=True)
    print(conclusion(report_content(study, None)))
    print(f"Took {time.monotonic() - started:.0f} s. Open {out / 'report.html'} in a browser.")
    print("Next, your own model: mnemoscope run --model MODEL --sequences TEXTS -o STUDY")


def localize(
    studies: Annotated[list[Path], Argument(help="A study. Several of one depth are averaged.")],
    out: Path | None = Option(
        None, "-o", "--out", help="Folder for Δ of several studies together."
    ),
    export: Path | None = Option(
        None, help="Folder for figures at print quality (SVG, PDF, PNG) and the numbers (Parquet)."
    ),
    part: options.PartOption = None,
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Find where in the attention each class is decided.

    Several localized studies are put together: Δ averaged over the CNNs of all their models.

    Example: mnemoscope localize my-study --export figures
    """
    _refuse_out_of_one("localize", studies, out)
    if len(studies) > 1 and out is None:
        raise UserError(
            "localize: several studies need a folder for what they give. Add -o FOLDER."
        )
    if len(studies) > 1 and (stage.set_ or stage.redo or part or where != options.LOCAL):
        raise UserError(
            "localize: --set, --redo, --part and --engine are for one study; several are only "
            "read. Give them in a run of their own."
        )
    if export is not None:
        from mnemoscope.report.pictures import check_print

        check_print()
    if out is not None:
        _localize_together(studies, out, export)
        return
    (study,) = studies
    stage_verb(study, "localize", {}, stage, part=part, where=where)
    if export is not None and part is None:
        from mnemoscope.report.export import export_localization

        written = export_localization(Study(study), export)
        print(f"Wrote {len(written)} figures and tables into {export}.")


def _localize_together(folders: list[Path], out: Path, export: Path | None) -> None:
    """Average, say what came of it, and write what was asked for."""
    from mnemoscope.pipeline.localize import (
        localize_together,
        together_lines,
        write_localized_together,
    )
    from mnemoscope.report.export import draw_deltas
    from mnemoscope.words import plural

    made_folder(out.absolute().parent)
    with hold_file(out.absolute()):
        together = localize_together([Study(folder) for folder in folders])
        if export is not None:
            made_folder(export)  # refused before anything is written
        written = write_localized_together(out, together)
    print("\n".join(together_lines(together)))
    print(f"Wrote {', '.join(map(str, written))}.")
    if export is not None:
        n_drawn = len(list(draw_deltas(together.deltas, export)))
        print(f"Wrote {plural(n_drawn, 'figure')} into {export}.")


def benchmark(
    studies: Annotated[list[Path], Argument(help="A study. Several are summed up as one.")],
    compare: tuple[str, str] | None = Option(
        None,
        metavar="TAXONOMY TAXONOMY",
        help="Compare two taxonomies of the study, paired.",
    ),
    out: Path | None = Option(
        None, "-o", "--out", help="Folder for the tables of several studies together."
    ),
    answer: options.JsonAnswer = options.ANSWER,
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Score every taxonomy beside its controls and beside the published figures.

    Several studies are put together as the paper does: confusion matrices summed over models.

    Example: mnemoscope benchmark my-study
    """
    if compare is not None and len(studies) > 1:
        raise UserError("benchmark: --compare is for the taxonomies of one study. Name one study.")
    _refuse_out_of_one("benchmark", studies, out)
    if (len(studies) > 1 or compare is not None) and (
        stage.set_ or stage.redo or where != options.LOCAL
    ):
        raise UserError(
            "benchmark: --set, --redo and --engine are for scoring a study; several studies and "
            "--compare only read. Give them in a run of their own."
        )
    if len(studies) > 1:
        _score_together(studies, out, answer)
        return
    folder = studies[0]
    if compare is not None:
        _compare(Study(folder), *compare, answer)
        return
    stage_verb(folder, "benchmark", {}, stage, where=where)
    from mnemoscope.cli.summary import print_summary
    from mnemoscope.pipeline.benchmark import load_comparison
    from mnemoscope.pipeline.label import aliases_of, samples_of
    from mnemoscope.report.published import print_comparison

    study = Study(folder)
    print_summary(study, verbose=stage.verbose)
    comparison = load_comparison(study)
    print_comparison(comparison)
    if answer.as_json:
        answer.facts.update(
            {
                "folder": folder,
                "samples": [asdict(one) for one in samples_of(study).values()],
                "aliases": {name: one.of for name, one in aliases_of(study).items()},
                "benchmark": study.benchmark,
                "comparison": comparison.frame.filter(state="measured"),
                **comparison.as_json(),
            }
        )


def _refuse_out_of_one(verb: str, studies: list[Path], out: Path | None) -> None:
    """Reject -o where it would be passed over."""
    if out is not None and len(studies) == 1:
        raise UserError(
            f"{verb}: -o is for several studies together; of one study everything is written "
            "into its own folder. Leave -o out."
        )


def _compare(study: Study, first: str, second: str, answer: options.JsonAnswer) -> None:
    """Print both differences of two taxonomies."""
    from mnemoscope import words
    from mnemoscope.pipeline.benchmark import compare_taxonomies
    from mnemoscope.stats import Estimate

    answer.facts.update(folder=study.folder, first=first, second=second)
    for figure, title in (("min_f1", "min-F1"), ("mean_f1", "mean F1")):
        found = compare_taxonomies(study, first, second, figure=figure)  # type: ignore[arg-type]
        shown = words.figure(Estimate(found.value, *(found.interval or ())), signed=True, gap=" ")
        print(f"{title} of '{first}' minus '{second}': {shown} points")
        answer.facts[figure] = asdict(found)
    print(
        f"95 % intervals, paired over sequences: {found.n_shared:,} of {found.n_first:,} and "
        f"{found.n_second:,} evaluation sequences are shared."
    )


def _score_together(folders: list[Path], out: Path | None, answer: options.JsonAnswer) -> None:
    """Print several studies as one, and write what was asked for."""
    from mnemoscope.pipeline.benchmark import put_together, write_together
    from mnemoscope.report.published import print_comparison, print_together

    if out is not None:
        made_folder(out.absolute().parent)
    with nullcontext() if out is None else hold_file(out.absolute()):
        together = put_together([Study(folder) for folder in folders])
        print_together(together.frame, together.models)
        print_comparison(together.comparison, with_reasons=False)
        if out is not None:
            print(f"Wrote {', '.join(map(str, write_together(out, together)))}.")
    answer.facts.update(
        folders=folders,
        models=together.models,
        together=together.frame,
        comparison=together.comparison.frame.filter(state="measured"),
        **together.comparison.as_json(),
    )


def search(
    study: options.StudyFolder,
    node: list[str] | None = Option(
        None,
        help="A node to build from, such as Recite, Guess, Prior, Entropy[3.5..5], or a YAML "
        "file with nodes of your own; repeatable. All of them unless given.",
    ),
    objective: str | None = Option(
        None, help="What to maximize: excess (default), min_f1, auc or auc_excess."
    ),
    candidates: int | None = Option(None, help="How many taxonomies to try (default 60)."),
    capture_all: bool = Option(
        False, "--capture-all", help="First capture every memorized sequence."
    ),
    where: options.EngineFlags = options.LOCAL,
    stage: options.StageFlags = options.STAGE,
) -> None:
    """Find the taxonomies of 3 and 4 classes with the largest excess alignment.

    The choice is made on one part of the sequences, its figure comes from another.

    Example: mnemoscope search my-study --capture-all
    """
    flags: dict[str, options.Flag] = {
        "search.nodes": node,
        "search.objective": objective,
        "search.candidates": candidates,
        "search.capture_all": capture_all,
    }
    if stage.redo or not Study(study).is_done("search"):
        from mnemoscope.search.space import check_optuna

        check_optuna()
    stage_verb(study, "search", flags, stage, where=where)
    _print_search(Study(study))


def _print_search(study: Study) -> None:
    """The finalists and what stands beside them, then the result in words."""
    from rich.table import Table

    from mnemoscope.report.published import console
    from mnemoscope.report.tables import search_tables
    from mnemoscope.search.found import search_words

    page = console()
    for found in search_tables(study):
        table = Table(title=f"{found.title}, by {study.settings.search.objective}")
        for name in found.columns:
            table.add_column(name, overflow="fold")
        for row in found.rows:
            table.add_row(*map(str, row))
        page.print(table)
    for line in search_words(study):
        page.print(line)
    page.print(f"To use the found ones: -t {study.folder / 'search.yaml'}", soft_wrap=True)
