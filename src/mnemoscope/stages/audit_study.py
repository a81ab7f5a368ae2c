"""Take from a finished study what an audit asks of it: trained CNNs and their calibration.

The evaluation sequences of the study never trained its CNNs. They choose and fit the calibration,
and say how good it is by cross-fitting: each is judged by a calibration that neither it nor a near
duplicate of it took part in.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from mnemoscope.audit.cnn_ground import USABLE_POOLINGS, CnnGround, log_odds
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.cnn.calibration import (
    AS_IT_IS,
    apply_calibration,
    brier,
    ece,
    fit_calibration,
    reliability,
)
from mnemoscope.cnn.calibration_choice import choose_calibration, cross_fitted
from mnemoscope.cnn.files import load_cnn
from mnemoscope.config import PAPER_NAME
from mnemoscope.errors import UserError
from mnemoscope.stages.jobs import Job, jobs_of, load_outcome
from mnemoscope.stages.labels import SAMPLES_FILE, aliases_of, samples_of
from mnemoscope.stages.training import PREDICTIONS_FILE
from mnemoscope.study import Study
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.taxonomy.partition import match_classes

__all__ = ["ENOUGH_A_CLASS", "check_study", "check_windows", "read_ground"]

ENOUGH_A_CLASS = 40
"""Held-out sequences of each class that a calibration and its measurement take at least."""

_GROUPS_A_CLASS = 4  # for a choice among calibrations within every fold


def check_study(folder: Path, model: dict[str, Any], settings: AuditSettings) -> Study:
    """Open a study and refuse it where its CNNs cannot speak of this audit.

    Args:
        folder: a finished study.
        model: `fingerprint`, `bos_id`, `dtype` and `name` of the audited model.
        settings: of the audit.

    Raises:
        UserError: no study, not trained, of another model, of other windows, or of plain text
            where the audit speaks in a chat.
    """
    study = Study(folder)
    study.require("label")
    if any("impossible" not in entry for entry in samples_of(study).values()):
        study.require("train")
    known = study.record["models"]["model"]
    if (known["fingerprint"], known["bos_id"]) != (model["fingerprint"], model["bos_id"]):
        raise UserError(
            f"--study {folder}: a study of another model ({known['name']}, {known['dtype']}, "
            f"weights {known['fingerprint'][:12]}; audited is {model['name']}, {model['dtype']}, "
            f"{model['fingerprint'][:12]}). Give one of this model, or --study auto."
        )
    check_windows(str(folder), study.settings.sequences.length, settings)
    return study


def check_windows(name: str, length: int, settings: AuditSettings) -> None:
    """Refuse an audit whose windows are not those of a study.

    Args:
        name: what the user called the study.
        length: tokens of its sequences.
        settings: of the audit.

    Raises:
        UserError: windows of another length, or in a chat.
    """
    half = length // 2
    if (settings.prefix, settings.suffix) != (half, half):
        raise UserError(
            f"--study {name}: its CNNs read {length} tokens, half of them the prefix; this audit "
            f"shows {settings.prefix} and asks for {settings.suffix}. Give both as {half}."
        )
    if settings.chat_template:
        raise UserError(
            f"--study {name}: its CNNs read plain text. Leave out --chat-template or --study."
        )


def read_ground(study: Study) -> CnnGround:
    """Load the CNNs of the paper's taxonomy and calibrate them.

    Args:
        study: from `check_study`.

    Returns:
        The ground; without CNNs, and with its reason, where they cannot give a probability.

    Raises:
        DamagedDataError: a file of the study cannot be read.
    """
    facts: dict[str, Any] = {"study": str(study.folder), "taxonomy": None, "reason": None}
    facts["sequences"] = _counts_by_rule(study)
    found = _find_sample(study)
    if isinstance(found, str):
        return CnnGround(facts | {"reason": found})
    facts["taxonomy"] = found.sample
    jobs = [job for job in jobs_of(study) if (job.sample, job.source) == (found.sample, "model")]
    usable = [job for job in jobs if job.setting and job.setting.pooling in USABLE_POOLINGS]
    usable = [job for job in usable if load_outcome(job).facts["did_train"]]
    if not usable:
        return CnnGround(facts | {"reason": _why_no_cnn(jobs)})
    rows = _evaluation_rows(study, found, usable)
    if not _is_enough(rows):
        return CnnGround(facts | {"reason": _why_too_few(rows)})
    odds, truth = rows["odds"].to_numpy(), rows["is_recall"].to_numpy()
    if fit_calibration(odds, truth, "temperature").temperature == math.inf:
        return CnnGround(facts | {"reason": "on held-out sequences its CNNs are at chance"})
    choice = choose_calibration(odds, truth, rows["group"].to_numpy())
    chosen = asdict(choice.calibration) | {"brier_by_method": choice.brier}
    facts |= {
        "cnns": [{"setting": one.setting_name, "seed": one.seed, "key": one.key} for one in usable],
        "calibration": chosen | _counts(rows),
        "measured": _measure(rows) | _counts(rows),
    }
    cnns = tuple(load_cnn(job.cnn_path) for job in usable)
    return CnnGround(facts, cnns, found.guess, found.recall, choice.calibration)


def _counts_by_rule(study: Study) -> dict[str, int]:
    """How many sequences of the study are of each class of the paper's taxonomy."""
    for entry in samples_of(study).values():
        if _match(entry["taxonomy"]) is not None:
            return dict(entry["counts"])
    return {}


class _Found(NamedTuple):
    """The sample whose CNNs tell Guess from Recall, and which of its classes those are."""

    sample: str
    guess: int
    recall: int


def _find_sample(study: Study) -> _Found | str:
    """The sample that tells Guess from Recall, or why there is none."""
    entries, aliases = samples_of(study), aliases_of(study)
    for name in [*(entry["taxonomy"] for entry in entries.values()), *aliases]:
        places = _match(name)
        if places is None:
            continue
        sample = name
        if name in aliases:
            sample, alias = aliases[name].of, aliases[name]
            places = (alias.classes[places[0]], alias.classes[places[1]])
        return _place(sample, entries[sample], places)
    return f"no taxonomy of the study tells Guess from Recall as '{PAPER_NAME}' does"


def _match(name: str) -> tuple[int, int] | None:
    """Classes of a taxonomy that are the paper's Guess and Recall; None: it divides otherwise."""
    try:
        taxonomy = parse_taxonomy(name)
    except UserError:  # with nodes of the user's own
        return None
    paper = parse_taxonomy(PAPER_NAME)
    if taxonomy.partition_key != paper.partition_key:
        return None
    classes = match_classes(taxonomy, paper)
    return classes[1], classes[2]


def _place(sample: str, entry: dict[str, Any], places: tuple[int, int]) -> _Found | str:
    """The classes' indices in what the CNNs were trained on."""
    if "impossible" in entry:
        why = entry["impossible"].partition(". ")[0]  # what follows is advice to who makes a study
        return f"the study could not train {sample}: {why}"
    if entry.get("split_by") == "row":
        return "the study is split by row: near duplicates of what is held out trained its CNNs"
    wanted = [entry["classes"][one] for one in places]
    missing = [one for one in wanted if one not in entry["trained_classes"]]
    if missing:
        return f"class {missing[0]} was too small in the study, so no CNN was trained on it"
    guess, recall = (entry["trained_classes"].index(one) for one in wanted)
    return _Found(sample, guess, recall)


def _why_no_cnn(every: list[Job]) -> str:
    """Why none of the trained CNNs can be asked."""
    poolings = {job.setting.pooling for job in every if job.setting}
    if not poolings & set(USABLE_POOLINGS):
        return f"the study's CNNs see {', '.join(sorted(poolings))}, an audit gives mean and max"
    return "the study's CNNs did not train: on their own training sequences they are at chance"


def _evaluation_rows(study: Study, found: _Found, jobs: list[Job]) -> pl.DataFrame:
    """Memorized evaluation sequences: `group`, `is_recall`, `odds` (averaged over the CNNs)."""
    asked = pl.DataFrame(
        [{"setting": job.setting_name, "seed": job.seed} for job in jobs],
        schema_overrides={"seed": pl.Int64},
    )
    said = study.read(PREDICTIONS_FILE).filter(
        pl.col("taxonomy") == found.sample, pl.col("source") == "model"
    )
    said = said.filter(pl.col("epoch") == pl.col("epoch").max())  # the final weights
    said = said.join(asked, on=["setting", "seed"], how="semi")
    said = said.group_by("sequence_id", maintain_order=True).agg("probabilities")
    odds = [_odds(one, found) for one in said["probabilities"].to_list()]
    rows = study.read(SAMPLES_FILE).filter(
        pl.col("sample") == found.sample,
        pl.col("split") == "eval",
        pl.col("class_index").is_in([found.guess, found.recall]),
    )
    is_recall = (pl.col("class_index") == found.recall).alias("is_recall")
    joined = rows.join(
        said.select("sequence_id").with_columns(odds=pl.Series(odds, dtype=pl.Float64)),
        on="sequence_id",
        how="inner",
        maintain_order="left",
    )
    return joined.select("group", is_recall, "odds")


def _odds(probabilities: list[list[float]], found: _Found) -> float:
    """Log-odds of one sequence, its class probabilities averaged over the CNNs."""
    average = np.array(probabilities, dtype=np.float64).mean(axis=0)[None]
    return float(log_odds(average, guess=found.guess, recall=found.recall)[0])


def _is_enough(rows: pl.DataFrame) -> bool:
    """Whether calibration and its measurement have enough of either class, in enough groups."""
    by_class = rows.group_by("is_recall").agg(pl.col("group").n_unique())["group"].to_list()
    return min(_counts(rows).values()) >= ENOUGH_A_CLASS and min(by_class) >= _GROUPS_A_CLASS


def _counts(rows: pl.DataFrame) -> dict[str, int]:
    n_recall = int(rows["is_recall"].sum())
    return {"n_guess": rows.height - n_recall, "n_recall": n_recall}


def _why_too_few(rows: pl.DataFrame) -> str:
    counts = _counts(rows)
    return (
        f"too few held-out sequences: {counts['n_guess']} Guess and {counts['n_recall']} Recall; "
        f"calibration and its measurement want {ENOUGH_A_CLASS} of either, in at least "
        f"{_GROUPS_A_CLASS} groups of near duplicates"
    )


def _measure(rows: pl.DataFrame) -> dict[str, Any]:
    """How good probabilities are that the sequences had no part in, and were without."""
    odds, truth, groups = (rows[one].to_numpy() for one in ("odds", "is_recall", "group"))
    said, raw = cross_fitted(odds, truth, groups), apply_calibration(AS_IT_IS, odds)
    return {
        "auc": float(roc_auc_score(truth, odds)),
        "ece": ece(said, truth),
        "brier": brier(said, truth),
        "ece_uncalibrated": ece(raw, truth),
        "brier_uncalibrated": brier(raw, truth),
        "bins": [one._asdict() for one in reliability(said, truth)],
    }
