"""Make the study that `mnemoscope audit --study auto` asks: free texts, by the main path.

It stands in the audit's folder and goes on where it was stopped.
"""

from pathlib import Path

from mnemoscope.audit.settings import AuditSettings
from mnemoscope.config import EMBEDDED, PAPER_NAME, SequenceSettings, StudySettings, parse_settings
from mnemoscope.embedded.audit_texts import audit_texts
from mnemoscope.lm.loading import LanguageModel, load_tokenizer
from mnemoscope.progress import say
from mnemoscope.sequences.schema import write_table
from mnemoscope.stages.audit_study import ENOUGH_A_CLASS, check_windows
from mnemoscope.stages.labels import samples_of
from mnemoscope.stages.models import Models
from mnemoscope.stages.run import run
from mnemoscope.study import Study, is_study

__all__ = ["MEMORIZED_A_CLASS", "make_study", "study_settings"]

MEMORIZED_A_CLASS = 3 * ENOUGH_A_CLASS
"""Guess and Recall each: 80 to train on, and 40 to calibrate and to measure with."""

_FOLDER = "study"
_TEXTS = "study-texts.parquet"


def make_study(
    out: Path,
    audit: AuditSettings,
    *,
    model: str,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    lm: LanguageModel | None = None,
    limit: int | None = None,
) -> Study:
    """Make the study, or finish it, up to its trained CNNs.

    Args:
        out: the audit's folder, which exists.
        audit: settings of the audit; its windows must be the study's.
        model: folder, hub name, .gguf file or `embedded`.
        revision: of the hub.
        dtype: as the model is audited; another one is another model.
        device: where it runs.
        lm: the model itself, where it is loaded already.
        limit: sequences at most; None takes all.

    Returns:
        The study; where one class has fewer than `MEMORIZED_A_CLASS` sequences no CNN is trained,
        and its label stage says why.

    Raises:
        UserError: windows of another length, or in a chat; or a study of other settings is there.
        MnemoscopeError: as `stages.run.run`.
    """
    check_windows("auto", SequenceSettings().length, audit)
    folder = out / _FOLDER
    _announce(folder)
    source = EMBEDDED if model == EMBEDDED else str(_write_texts(out, model, revision))
    settings = study_settings(
        source,
        model=model,
        revision=revision,
        dtype=dtype,
        device=device,
        batch_size=audit.batch_size,
        limit=limit,
    )
    models = Models(settings, lm)
    study = run(settings, folder, until="label", models=models)
    entry = samples_of(study)[PAPER_NAME]
    counts = entry["counts"]
    say(
        f"Of {sum(counts.values()):,} sequences the model has memorized "
        f"{counts['Guess'] + counts['Recall']:,}: {counts['Guess']:,} Guess, "
        f"{counts['Recall']:,} Recall."
    )
    if "impossible" in entry:
        say(f"No probabilities: each wants {MEMORIZED_A_CLASS} of them.")
        return study
    return run(settings, folder, until="train", models=models)


def _announce(folder: Path) -> None:
    """Say whether a study is made, finished or asked again."""
    if not is_study(folder):
        say(f"{folder}: making a study of this model first")
    elif Study(folder).is_done(_last_stage(Study(folder))):
        say(f"{folder}: the study of this model is already there")
    else:
        say(f"{folder}: going on with the study that was begun")


def _last_stage(study: Study) -> str:
    """The stage that ends it: where too few sequences are memorized nothing is trained."""
    if not study.is_done("label"):
        return "train"
    return "label" if "impossible" in samples_of(study)[PAPER_NAME] else "train"


def study_settings(source: str, *, limit: int | None = None, **model: object) -> StudySettings:
    """Settings of such a study.

    Args:
        source: of the sequences.
        limit: sequences at most.
        model: `model` (its name) and further settings of `model`.
    """
    name = model.pop("model")
    values: dict[str, object] = {
        "title": "Made by mnemoscope audit",
        "model": {"name": name, **model},
        "sequences": {"source": source, "limit": limit},
        "continue": {"scan": True},
        "label": {
            "taxonomies": [PAPER_NAME],
            "n_train": 400,
            "n_eval": 200,
            "minimum": MEMORIZED_A_CLASS,
        },
        "benchmark": {"controls": False},
    }
    return parse_settings(values, where="--study auto")


def _write_texts(out: Path, model: str, revision: str | None) -> Path:
    """The table of texts, once an audit."""
    path = out / _TEXTS
    if not path.is_file():
        say("Gathering free texts for a study of this model")
        write_table(path, audit_texts(load_tokenizer(model, revision=revision)))
    return path
