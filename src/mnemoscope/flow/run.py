"""Run a study: all missing stages in order, or one stage."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mnemoscope.cluster.local import n_processes, start_server
from mnemoscope.cluster.run import keeping_workers
from mnemoscope.cluster.units import Share
from mnemoscope.data.rows import name_of
from mnemoscope.errors import UserError
from mnemoscope.pipeline.label import nothing_to_train, why_without_cnns
from mnemoscope.pipeline.reference import ask_reference
from mnemoscope.pipeline.sequences import create_study
from mnemoscope.pipeline.stored_maps import damaged_maps
from mnemoscope.pipeline.trainings import check_wanted
from mnemoscope.progress import noted, say
from mnemoscope.study.folder import Study, as_study, is_study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import StudySettings, check_new_reference, parse_settings
from mnemoscope.study.stages import STAGES, Stage, stage_named
from mnemoscope.taxonomy import PAPER, SHIPPED

# Settings, or a function of the settings of an existing study.
Wanted = StudySettings | Callable[[StudySettings], StudySettings]


def run(
    settings: Wanted,
    folder: Path | str,
    *,
    redo: bool = False,
    until: str | None = None,
    also: Collection[str] = (),
    models: Models | None = None,
    sequences: Any = None,
) -> Study:
    """Create a study in a new or empty folder, or finish one: run every missing stage in order.

    Settings are those of the whole study, or a function of an existing study's; with `redo` stages
    whose settings have changed run again. `until` names the last stage; `models` were loaded
    before for these settings. `sequences` is a frame of Polars or pandas, or a `datasets.Dataset`,
    in place of `sequences.source`.

    Raises:
        MnemoscopeError: an error the user can fix, damaged data, or a full disk; finished stages
            and finished parts of the current one are kept.

    Where no taxonomy can be trained, capture and what follows it are left out, and the report
    shows what can be said without CNNs: the counts of each class and the passages.
    """
    folder = Path(folder)
    if sequences is not None:
        settings = _of_frame(_settle(settings, StudySettings()), name_of(sequences))
    if is_study(folder):
        study = Study(folder)
        if (changed := _settle(settings, study.settings)) != study.settings:
            check_wanted(changed, until)
        if models is None:  # else it may be one in memory
            check_new_reference(changed, study.settings)
    else:
        settings = _settle(settings, StudySettings())
        check_wanted(settings, until)
        if until is None and n_processes(settings.train.workers) > 1:
            start_server()  # the workers of the trainings are ready when the model has been asked
        models = models or Models(settings)
        study = create_study(folder, settings, models, needs_both_sides=True, source=sequences)
    with study.lock(), keeping_workers():
        _drop_damaged(study)
        study.adopt(_settle(settings, study.settings), redo=redo)
        models = models or Models(study.settings)
        wanted = [one for one in STAGES if not one.is_optional or one.name in also]
        names = [one.name for one in wanted]
        wanted = wanted[: names.index(until) + 1 if until else len(names)]
        missing = [one for one in wanted if one.function and not study.is_done(one.name)]
        for stage in wanted:
            is_whole = until in (None, "report")
            if stage.name == "capture" and is_whole and nothing_to_train(study):
                say("No CNN can be trained; what needs none goes into the report, with the reason.")
                _report_without_cnns(study, models)
                break
            if stage.function and not study.is_done(stage.name):  # also what one before forgot
                place = f" {missing.index(stage) + 1} of {len(missing)}" if stage in missing else ""
                say(f"Stage{place}, {stage.name}: {stage.purpose}")
                _do(stage, study, models)
    return study


def _do(stage: Stage, study: Study, models: Models) -> None:
    """Run a stage, and note for `status` how far it is."""
    with noted(study.note_path(stage.name), stage=stage.name):
        stage.load()(study, models)


def _drop_damaged(study: Study) -> None:
    """Say what is missing or damaged; what a run makes is forgotten, so that it is made again."""
    made = [one.name for one in STAGES if one.function and not one.is_optional]
    found = study.drop_damaged(made)
    if study.is_done("capture") and (lost := damaged_maps(study, is_quick=True)):
        found += lost
        study.store.forget("manifests/capture")  # which then captures what is missing alone
    for error in found:
        say(f"Redoing what is damaged: {error}")
    for one in STAGES:
        for error in study.damaged(one.name) if one.is_optional else ():
            say(f"Not redone by a run: {error}")


def _report_without_cnns(study: Study, models: Models) -> None:
    from mnemoscope.report.content import report_content
    from mnemoscope.report.page import write_without_cnns

    ask_reference(study, models)
    write_without_cnns(study, report_content(study, models.tokenizer()))


def run_stage(
    study: Study | str | Path,
    stage: str,
    settings: Wanted | None = None,
    *,
    redo: bool = False,
    models: Models | None = None,
) -> bool:
    """Run one stage of a study, or of its folder, unless it is done; False if nothing was to do.

    `settings` are changed ones, or a function of the study's. A finished capture is verified, and
    damaged shards are captured again; `redo` runs a stage that is done; `models` were loaded
    before. Grafts and knockouts that are done stay, with their settings, until the new are there;
    with the same settings all of them are made anew, with others those that are missing.

    Raises:
        UserError: an earlier stage is missing, or was made with other settings; or the stage needs
            CNNs, and none can be trained.
        MnemoscopeError: as `run`.
    """
    study = as_study(study)
    with study.lock():
        wanted, was = _settle(settings or study.settings, study.settings), study.settings
        if models is None:
            check_new_reference(wanted, was)
        changed = study.changed_stages(wanted, redo=redo)
        stays = (
            redo and stage_named(stage).is_leaf and {*changed} <= {stage} and study.is_done(stage)
        )
        stays = stays and wanted.capture.reference == was.capture.reference
        if redo and study.starts_afresh(stage, changed):
            study.drop_units(stage)
        if stays:
            study.settings = wanted  # of this process; the folder keeps its own
        else:
            study.adopt(wanted, redo=redo)
        if redo and not stays:
            study.drop([stage])
        for error in study.drop_damaged([stage]):
            say(f"Redoing what is damaged: {error}")
        refuse_without_cnns(study, stage)
        if stays or not study.is_done(stage):
            try:
                _do(stage_named(stage), study, models or Models(study.settings))
            finally:
                if stays and not study.is_done(stage):
                    study.settings = was
            if stays:
                study.adopt(wanted)
        elif stage == "capture" and (damaged := damaged_maps(study)):
            from mnemoscope.pipeline.capture import repair_maps

            for error in damaged:
                say(f"Repairing: {error}")
            repair_maps(study, models or Models(study.settings))
        else:
            return False
    return True


def refuse_without_cnns(study: Study, stage: str) -> None:
    """Raise UserError where a stage needs CNNs and none can be trained; it says what needs none."""
    if (reason := why_without_cnns(study, stage)) is None:
        return
    from mnemoscope.report.advice import works_at_once

    instead = "; or ".join(f"'{one.command}'" for one in works_at_once(study))
    instead = f" Without CNNs: {instead}." if instead else ""
    raise UserError(f"{reason} So '{stage}' cannot be made.{instead}")


def run_part(
    study: Study, stage: str, share: Share, settings: Wanted, *, redo: bool = False
) -> bool:
    """Do a share of a stage's units; False when the stage is done.

    The study takes the settings over, which must be the same for every share; its other files stay,
    so several processes may each do a share, also in copies of the folder. Once the folders are
    copied together, the stage finds all results. Errors as `run_stage`.
    """
    with study.lock(shared=True):
        wanted = _settle(settings, study.settings)
        check_new_reference(wanted, study.settings)
        study.changed_stages(wanted, redo=redo)
        if redo or wanted != study.settings:
            study.adopt(wanted, redo=redo)
        if redo:
            study.drop([stage])
        if study.is_done(stage):
            return False
        study.require("sequences")
        stage_named(stage).load_part()(study, Models(study.settings), share)
    return True


def _of_frame(settings: StudySettings, name: str) -> StudySettings:
    sequences = settings.sequences.model_copy(update={"source": name})
    return settings.model_copy(update={"sequences": sequences})


def _settle(wanted: Wanted, present: StudySettings) -> StudySettings:
    return wanted(present) if callable(wanted) else wanted


# Where the first two layers of the embedded model look.
_DEMO_PARTS = ["layers.0.qk", "layers.1.qk"]


def demo_settings(*, small: bool = False, thorough: bool = False) -> StudySettings:
    """Settings of the demo, a study like any other.

    `small` takes fewer sequences, for a quick check of an installation, `thorough` all, larger
    samples, three seeds (so that a verdict may take sides), a repetition on one genre and every
    part in grafts.
    """
    n_train, n_eval = (120, 60) if small else (400, 200) if thorough else (240, 120)
    title = "a quick check, too small for findings" if small else "the embedded model"
    values: dict[str, object] = {
        "title": f"mnemoscope demo: {title}",
        "sequences": {"limit": 2500 if small else None if thorough else 5000},
        "continue": {"scan": True},
        "label": {
            "taxonomies": [SHIPPED, PAPER],
            "n_train": n_train,
            "n_eval": n_eval,
            "match": "genre" if thorough else None,
        },
        "train": {"poolings": ["mean"], "seeds": [0, 1, 2] if thorough else [0]},
        "graft": {
            "parts": None if thorough else _DEMO_PARTS,
            "draws": 16 if thorough else 9,
            "shares": [0.25, 0.5, 0.75, 1.0] if thorough else [0.5, 1.0],
            "n_sequences": 30 if small else 250 if thorough else 70,
            "n_heldout": 40,
        },
    }
    return parse_settings(values, where="demo")
