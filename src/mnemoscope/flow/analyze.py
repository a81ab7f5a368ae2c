"""The verb `analyze`: the neighbouring analyses on a study, each kept under what decided it.

A second call with the same settings and inputs does nothing; another setting makes it anew.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisSettings, OtherModel, parse_settings
from mnemoscope.analysis.registry import ENTRIES, Entry, Need, Use, run_analysis
from mnemoscope.analysis.store import (
    StoredResult,
    load_result,
    result_folder,
    shelf_of,
    store_result,
)
from mnemoscope.data.corpus import Corpus, open_corpus
from mnemoscope.data.table import PUBLISHED_VERDICT
from mnemoscope.errors import UserError
from mnemoscope.lm.checkpoints import describe_lacking, find_checkpoints
from mnemoscope.maps.store import MapStore
from mnemoscope.pipeline.capture import maps_folder
from mnemoscope.pipeline.label import LABELS_FILE
from mnemoscope.pipeline.published_split import VERDICT_NAME, is_plain
from mnemoscope.progress import say
from mnemoscope.report.gather import report_stage
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models, reference_name
from mnemoscope.study.settings import NO_MODEL

# Which rows of a study an analysis looks at, and whose verdict says what is memorized.

_LABELS = (
    "No model was asked (model.name none): memorized or not is the data set's own label, and "
    "perplexities are its own, each half by its own number of tokens."
)


@dataclass(frozen=True)
class Rows:
    """What an analysis is given.

    Attributes:
        table: its rows, with `is_memorized` and `memorization_score`.
        lines: what is to be said of the choice; empty where all rows are given as they are.
        facts: the same as plain values, for the key of the result.
    """

    table: pl.DataFrame
    lines: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def has_model(study: Study) -> bool:
    """Whether the study has a language model at all."""
    return study.settings.model.name != NO_MODEL


def rows_for(study: Study, entry: Entry) -> Rows:
    """Choose the rows for an analysis.

    Args:
        study: with its table.
        entry: one that needs classes compares them and gets all that was kept of each.
    """
    table, lines, facts = study.sequences, [], {}
    if not has_model(study):
        table = table.with_columns(
            pl.col(PUBLISHED_VERDICT).alias("is_memorized"),
            pl.col("published_memorization_score").alias("memorization_score"),
        )
        lines.append(_LABELS)
        facts["labels"] = "published"
    if study.settings.sequences.split is not None and "classes" not in entry.needs:
        plain = table.filter(is_plain(table, study.settings))
        lines.append(_of_split(study, plain, table.height))
        table, facts["rows"] = plain, "uniform by label"
    return Rows(table, tuple(lines), facts)


def _of_split(study: Study, plain: pl.DataFrame, n_kept: int) -> str:
    """What a sample by label is, and what it is not."""
    manifest = study.manifest("sequences")
    assert manifest is not None
    counts = manifest["counts"]["split"]["classes"][VERDICT_NAME]
    n_memorized = counts["memorized"]
    share = n_memorized / max(n_memorized + counts["Non-Memo"], 1)
    here = plain["is_memorized"].mean() or 0.0
    return (
        f"Of the split, a uniform sample of each label: {plain.height:,} of the {n_kept:,} "
        f"sequences that the study keeps. Memorized are {100 * float(here):.1f} % of them and "  # type: ignore[arg-type]
        f"{100 * share:.1f} % of the whole split; what depends on that share (precision, F1, PR "
        "AUC, calibration) holds for the former."
    )


# The verb `analyze`: the neighbouring analyses on a study, each kept under what decided it.


@dataclass(frozen=True)
class Asked:
    """What the user asked of an analysis.

    Attributes:
        second: a second model with the same tokenizer: folder, hub name, NAME@REVISION.
        checkpoints: checkpoints of one run in their order, or one folder of them.
        corpus: the training texts.
        values: settings by name, checked by the analysis.
        redo: make it anew although it is there.
    """

    second: str | None = None
    checkpoints: tuple[str, ...] = ()
    corpus: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    redo: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of asking for one analysis: a result, or why there is none."""

    entry: Entry
    result: StoredResult | None
    was_done: bool = False
    refused: str = ""
    folder: Path = Path()


def analyze(study: Study, entry: Entry, asked: Asked, models: Models) -> Outcome:
    """Run one analysis unless its result is there; the study is to be locked.

    Args:
        study: with what the analysis needs.
        entry: which one.
        asked: settings and inputs.
        models: the study's.

    Raises:
        UserError: a need that the study does not meet, a setting or input that cannot be used.
    """
    where = f"analyze {entry.name}"
    settings = parse_settings(entry.settings_kind(), asked.values, where=where)
    if settings.published and not entry.published:
        raise UserError(f"{where}: --published: there is no other variant. Leave it out.")
    names = _other_names(study, entry, asked)
    _check_needs(study, entry, names)
    rows = rows_for(study, entry)
    inputs = rows.facts | _facts(study, entry, asked, names, settings)
    key = _key(entry, settings, inputs)
    folder = result_folder(study, entry, published=settings.published)
    known = None if asked.redo else load_result(folder)
    if known is not None and known.key == key:
        return Outcome(entry, known, was_done=True, folder=folder)
    say(f"{entry.name}: {entry.answers}")
    result = run_analysis(entry, _inputs(study, entry, asked, names, models, rows), settings)
    result = replace(result, further=(*rows.lines, *result.further, *_gaps(entry, asked)))
    stored = store_result(
        folder,
        result,
        name=entry.name,
        key=key,
        settings=settings.model_dump(mode="json"),
        inputs=inputs,
    )
    return Outcome(entry, stored, folder=folder)


def analyze_all(study: Study, asked: Asked, models: Models) -> Iterator[Outcome]:
    """Run every analysis whose needs are met; the others say what they lack.

    Args:
        study: locked.
        asked: inputs for all; of the settings, those that every analysis has.
        models: the study's.
    """
    for entry in ENTRIES:
        if asked.values.get("published") and not entry.published:
            yield Outcome(entry, None, refused="there is no published variant.")
            continue
        try:
            yield analyze(study, entry, asked, models)
        except UserError as error:
            yield Outcome(entry, None, refused=str(error))


def refuse_unused(entry: Entry, asked: Asked) -> None:
    """Refuse an input that an analysis named alone does not look at; of all, each takes its own.

    Args:
        entry: which one.
        asked: what was given.

    Raises:
        UserError: a model, checkpoints or a corpus that it has no use for.
    """
    given: dict[str, tuple[bool, Use]] = {
        "--second": (asked.second is not None, "second model"),
        "--checkpoint": (bool(asked.checkpoints), "second model"),
        "--corpus": (asked.corpus is not None, "corpus"),
    }
    for option, (is_given, what) in given.items():
        if is_given and not _wants(entry, what):
            raise UserError(
                f"analyze {entry.name}: {option}: it has no use for it. Leave it out "
                "('mnemoscope analyze --list' says what each uses)."
            )


def refresh_report(study: Study, models: Models) -> bool:
    """Write the report again where the study has one; False where it has none yet."""
    if not study.is_done("report"):
        return False
    report_stage(study, models)
    return True


# -- needs ----------------------------------------------------------------------------------


def _check_needs(study: Study, entry: Entry, names: tuple[str, ...]) -> None:
    """Refuse in one line what the study lacks, with how to get it."""
    missing = next((need for need in entry.needs if not _has(study, need, names)), None)
    if missing is None:
        return
    lacking = _LACKING[missing]
    if not has_model(study) and missing in ("classes", "scores"):
        lacking = _LACKING["model"]
    raise UserError(f"analyze {entry.name}: needs {lacking.format(study=study.folder)}")


def _has(study: Study, need: Need, names: tuple[str, ...]) -> bool:
    """Whether a need is met."""
    if need in _STAGES:
        has_labels = need == "scores" and not has_model(study)
        return study.is_done(_STAGES[need]) or has_labels
    if need == "perplexities":
        return has_model(study) or "published_sequence_perplexity" in study.sequences.columns
    if need == "second model":
        return bool(names)
    return has_model(study)


_STAGES: dict[str, str] = {
    "scores": "continue",
    "features": "features",
    "classes": "label",
}
_LACKING: dict[Need, str] = {
    "scores": "memorization scores. Run 'mnemoscope continue {study}' first.",
    "features": "features. Run 'mnemoscope features {study}' first.",
    "classes": "classes. Run 'mnemoscope label {study}' first.",
    "perplexities": "perplexities, and {study} has neither a model nor the columns of the data set "
    "(prompt_perplexity, generation_perplexity, sequence_perplexity). Found a study with a model: "
    "--model NAME.",
    "model": "the model, and {study} has none (model.name none). Found a study with one: --model "
    "NAME.",
    "second model": "a second model with the same tokenizer. Give one: --second MODEL, or "
    "--checkpoint MODEL@REVISION.",
}


# -- inputs ---------------------------------------------------------------------------------


def _wants(entry: Entry, what: Use) -> bool:
    return what in {*entry.needs, *entry.uses}


def _other_names(study: Study, entry: Entry, asked: Asked) -> tuple[str, ...]:
    """Models beside the study's own: checkpoints, else the second one, else the reference."""
    if not _wants(entry, "second model"):
        return ()
    if asked.checkpoints:
        found = find_checkpoints(asked.checkpoints, least=1)
        return tuple(f"{one.name}@{one.revision}" if one.revision else one.name for one in found)
    second = asked.second or reference_name(study.settings)
    return (second,) if second is not None else ()


def _gaps(entry: Entry, asked: Asked) -> list[str]:
    """What is to be said of checkpoints that seem to be missing among those that were named."""
    if not (asked.checkpoints and _wants(entry, "second model")):
        return []
    return describe_lacking([one.step for one in find_checkpoints(asked.checkpoints, least=1)])


def _corpus_path(study: Study, asked: Asked) -> str | None:
    return asked.corpus or study.settings.features.corpus


def _open_corpus(study: Study, asked: Asked, models: Models) -> Corpus | None:
    path = _corpus_path(study, asked)
    return (
        None if path is None else open_corpus(Path(path), tokenizer=models.tokenizer(), dtype=None)
    )


def _inputs(
    study: Study,
    entry: Entry,
    asked: Asked,
    names: tuple[str, ...],
    models: Models,
    rows: Rows,
) -> AnalysisInputs:
    """What the analysis works on."""
    has_labels, has_maps = study.is_done("label"), study.is_done("capture")
    given = asked.checkpoints or asked.second
    return AnalysisInputs(
        where=str(study.folder),
        table=rows.table,
        labels=study.read(LABELS_FILE) if has_labels else None,
        length=study.settings.sequences.length,
        batch_size=study.settings.model.batch_size,
        load_model=lambda: models.model(study),
        others=tuple(
            OtherModel(
                name if given else "the reference",
                (lambda name=name: models.other(name))  # type: ignore[misc]
                if given
                else (lambda: _reference(models, study)),
            )
            for name in names
        ),
        corpus=_open_corpus(study, asked, models) if _wants(entry, "corpus") else None,
        split=study.settings.sequences.split,
        has_model=has_model(study),
        maps=_open_maps(study) if has_maps and _wants(entry, "maps") else None,
        shelf=shelf_of(study),
    )


def _open_maps(study: Study) -> MapStore:
    return MapStore(maps_folder(study, "model"), verify=False)


def _reference(models: Models, study: Study) -> Any:
    loaded = models.reference(study)
    if loaded is None:  # its name was there when the needs were checked
        raise UserError(f"{study.folder}: no reference model. Give one: --second MODEL.")
    return loaded


# -- keys -----------------------------------------------------------------------------------


def _facts(
    study: Study,
    entry: Entry,
    asked: Asked,
    names: tuple[str, ...],
    settings: AnalysisSettings,
) -> dict[str, Any]:
    """Which inputs decide the result, as plain values that the result records."""
    facts: dict[str, Any] = {
        "model": study.record["models"].get("model", {}).get("fingerprint"),
        "table": _table_hash(study),
        "stages": {stage: study.key(stage) for stage in ("continue", "features", "label")},
    }
    if _wants(entry, "second model"):
        facts["others"] = [[name, _signature(name)] for name in names]
    if _wants(entry, "corpus") and (path := _corpus_path(study, asked)):
        facts["corpus"] = [path, _signature(path)]
    if _wants(entry, "maps"):
        facts["maps"] = study.key("capture")
    if (name := getattr(settings, "sentence_model", None)) is not None:
        facts["sentence_model"] = [name, _signature(name)]
    return facts


_DECISIVE = ("sequence_id", "tokens", "is_memorized", "memorization_score", "duplicates", "genre")


def _table_hash(study: Study) -> str:
    """Hash of what stands in the table, without the columns that other verbs may add."""
    table = study.sequences
    chosen = table.select([name for name in _DECISIVE if name in table.columns])
    digest = hashlib.sha256()
    for name in chosen.columns:
        column = chosen[name]
        values = column.explode() if column.dtype == pl.List else column
        digest.update(name.encode())
        digest.update(json.dumps(values.to_list()).encode())
    return digest.hexdigest()


def _signature(name: str) -> str | None:
    """Names, sizes and times of the files of a local folder or file; None for a hub name."""
    path = Path(name)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    stats = [
        [str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns] for one in files
    ]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _key(entry: Entry, settings: AnalysisSettings, inputs: dict[str, Any]) -> str:
    """Hash of all that decides a result."""
    basis = [entry.name, entry.version, settings.model_dump(mode="json"), inputs]
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()
