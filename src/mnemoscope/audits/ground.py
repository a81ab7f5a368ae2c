"""What a study's CNNs say of a passage: the calibrated probability that it is Recall.

They look at the attention with which the audited model reads the window that speaks for a span,
as they did at the study's sequences: prefix and the document's own suffix, pooled over heads.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mnemoscope.audits.settings import AuditSettings
from mnemoscope.cnn.calibration import (
    AS_IT_IS,
    Calibration,
    apply_calibration,
    brier,
    choose_calibration,
    cross_fitted,
    ece,
    fit_calibration,
    over_groups,
    reliability,
)
from mnemoscope.cnn.presets import INPUTS
from mnemoscope.cnn.training import TrainedCnn, predict_logits
from mnemoscope.data.table import write_table
from mnemoscope.embedded.texts import audit_texts
from mnemoscope.errors import UserError
from mnemoscope.flow.run import run
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.tokenizer import load_tokenizer
from mnemoscope.maps.shape import POOLED
from mnemoscope.maps.triangle import pack_layer
from mnemoscope.maps.views import TensorMaps
from mnemoscope.pipeline.label import SAMPLES_FILE, SampleEntry, aliases_of, samples_of
from mnemoscope.pipeline.train import Job, jobs_of, load_outcome, trained_cnn
from mnemoscope.pipeline.trainings import PREDICTIONS_FILE
from mnemoscope.progress import say
from mnemoscope.stats import resampled_auc
from mnemoscope.study.folder import Study, is_study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import EMBEDDED, SequenceSettings, StudySettings, parse_settings
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.names import match_classes, parse_taxonomy, taxonomy_or_none
from mnemoscope.taxonomy.sample import SampleKey

USABLE_INPUTS = tuple(name for name, one in INPUTS.items() if one.serves_audits)
"""What the audited model alone gives; every head and a reference's maps are not kept."""

ENOUGH_A_CLASS = 40
"""Held-out sequences of each class that a calibration and its measurement take at least."""

MEMORIZED_A_CLASS = 3 * ENOUGH_A_CLASS
"""What `--study auto` asks for: 80 to train on, and 40 to calibrate and to measure with."""

_GROUPS_A_CLASS = 4  # for a choice among calibrations within every fold
_LEAST = 1e-7  # a float32 softmax gives 0 below


@dataclass(frozen=True)
class CnnGround:
    """The CNNs of a study of the audited model, or why they give no probability.

    Attributes:
        facts: what `audit.json` holds under `cnn`; `reason` says why there is no probability.
        cnns: settings and seeds of one taxonomy; none where there is a reason.
        guess, recall: class indices in their outputs.
        calibration: fitted on evaluation sequences of the study.
    """

    facts: dict[str, Any]
    cnns: tuple[TrainedCnn, ...] = field(default=(), repr=False)
    guess: int = 0
    recall: int = 1
    calibration: Calibration | None = None


def recall_probabilities(
    ground: CnnGround,
    lm: LanguageModel,
    windows: npt.NDArray[np.int32],
    *,
    batch_size: int,
) -> list[float | None]:
    """Calibrated probability of Recall, against Guess, of each window; None without calibration.

    `windows` are token ids, shape (n, length), of the length that the CNNs were trained on.
    """
    if ground.calibration is None or not len(windows):
        return [None] * len(windows)
    packed: dict[str, list[torch.Tensor]] = {name: [] for name in POOLED}
    for batch in capture_pooled(lm, windows, batch_size=batch_size, pack=pack_layer):
        for name, kept in packed.items():  # at the precision in which a study keeps them
            kept.append(getattr(batch, name))
    maps = {name: TensorMaps(torch.cat(kept)) for name, kept in packed.items()}
    softmax = []
    for cnn in ground.cnns:
        seen = INPUTS[cnn.setting.pooling]
        logits = predict_logits(cnn, seen.view_of([maps[name] for name in seen.reads]))
        softmax.append(logits.softmax(dim=1))
    average = torch.stack(softmax).mean(dim=0).double().numpy()
    odds = _log_odds(average, ground.guess, ground.recall)
    return [float(value) for value in apply_calibration(ground.calibration, odds)]


def _log_odds(
    probabilities: npt.NDArray[np.float64], guess: int, recall: int
) -> npt.NDArray[np.float64]:
    """Log-odds of Recall against Guess from class probabilities (n, classes); shape (n,)."""
    kept = np.maximum(np.asarray(probabilities, dtype=np.float64), _LEAST)
    return np.asarray(np.log(kept[:, recall]) - np.log(kept[:, guess]))


def check_study(folder: Path, lm: LanguageModel, settings: AuditSettings) -> Study:
    """Open a study and refuse it where its CNNs cannot speak of this audit.

    `lm` is the audited model. Raises UserError: no study, not trained, of another model, of other
    windows, or of plain text where the audit speaks in a chat.
    """
    study = Study(folder)
    study.require("label")
    if not all(entry.impossible for entry in samples_of(study).values()):
        study.require("train")
    known = study.record["models"]["model"]
    if (known["fingerprint"], known["bos_id"]) != (lm.fingerprint, lm.bos_id):
        raise UserError(
            f"--study {folder}: a study of another model ({known['name']}, {known['dtype']}, "
            f"weights {known['fingerprint'][:12]}; audited is {lm.name}, {lm.dtype}, "
            f"{lm.fingerprint[:12]}). Give one of this model, or --study auto."
        )
    check_windows(str(folder), study.settings.sequences, settings)
    return study


def check_windows(name: str, read: SequenceSettings, settings: AuditSettings) -> None:
    """Refuse an audit whose windows are not those of a study, or stand in a chat."""
    suffix = read.length - read.n_prefix
    if (settings.prefix, settings.suffix) != (read.n_prefix, suffix):
        raise UserError(
            f"--study {name}: its CNNs read {read.n_prefix} + {suffix} tokens; this audit "
            f"shows {settings.prefix} and asks for {settings.suffix}. Give "
            f"--prefix {read.n_prefix} --suffix {suffix}."
        )
    if settings.chat_template:
        raise UserError(
            f"--study {name}: its CNNs read plain text. Leave out --chat-template or --study."
        )


def read_ground(study: Study) -> CnnGround:
    """Load the CNNs of the paper's taxonomy and calibrate them; `study` is from `check_study`."""
    by_rule = (
        dict(entry.counts)
        for entry in samples_of(study).values()
        if _match(entry.taxonomy) is not None
    )
    found = _find_sample(study)
    facts = {"study": str(study.folder), "taxonomy": None, "sequences": next(by_rule, {})}
    if isinstance(found, str):
        return CnnGround(facts | {"reason": found})
    facts |= {"taxonomy": found.sample.taxonomy, "reason": None}
    jobs = [job for job in jobs_of(study) if (job.sample, job.source) == (found.sample, "model")]
    usable = [job for job in jobs if job.setting and job.setting.pooling in USABLE_INPUTS]
    usable = [job for job in usable if load_outcome(job).facts.did_train]
    if not usable:
        reason = (
            "the study's CNNs did not train: on their own training sequences they are at chance"
        )
        poolings = {job.setting.pooling for job in jobs if job.setting}
        if not poolings & set(USABLE_INPUTS):
            seen = ", ".join(sorted(poolings))
            reason = f"the study's CNNs see {seen}, an audit gives mean and max"
        return CnnGround(facts | {"reason": reason})
    rows = _evaluation_rows(study, found, usable)
    odds, truth, groups = (rows[one].to_numpy() for one in ("odds", "is_recall", "group"))
    held = {"n_guess": int((~truth).sum()), "n_recall": int(truth.sum())}
    n_groups = rows.group_by("is_recall").agg(pl.col("group").n_unique())["group"].to_list()
    if min(held.values()) < ENOUGH_A_CLASS or min(n_groups) < _GROUPS_A_CLASS:
        reason = (
            f"too few held-out sequences: {held['n_guess']} Guess and {held['n_recall']} Recall; "
            f"calibration and its measurement want {ENOUGH_A_CLASS} of either, in at least "
            f"{_GROUPS_A_CLASS} groups of near duplicates"
        )
        return CnnGround(facts | {"reason": reason})
    if fit_calibration(odds, truth, "temperature").temperature == math.inf:
        return CnnGround(facts | {"reason": "on held-out sequences its CNNs are at chance"})
    choice = choose_calibration(odds, truth, groups)
    # Probabilities that the sequences had no part in, and those without a calibration.
    said, raw = cross_fitted(odds, truth, groups), apply_calibration(AS_IT_IS, odds)
    cnns = tuple(trained_cnn(job) for job in usable)
    whole = {
        **facts,
        "cnns": [
            {"setting": one.setting and one.setting.slug, "seed": one.seed, "key": one.key}
            for one in usable
        ],
        "calibration": asdict(choice.calibration) | {"brier_by_method": choice.brier} | held,
        "measured": {
            "auc": over_groups(resampled_auc, odds, truth, groups)._asdict(),
            "ece": ece(said, truth),
            "brier": over_groups(brier, said, truth, groups)._asdict(),
            "ece_uncalibrated": ece(raw, truth),
            "brier_uncalibrated": over_groups(brier, raw, truth, groups)._asdict(),
            "n_groups": min(n_groups),
            "bins": [one._asdict() for one in reliability(said, truth)],
            **held,
        },
    }
    return CnnGround(whole, cnns, found.guess, found.recall, choice.calibration)


class _Found(NamedTuple):
    """The sample whose CNNs tell Guess from Recall, and which of its classes those are."""

    sample: SampleKey
    guess: int
    recall: int


def _find_sample(study: Study) -> _Found | str:
    entries, aliases = samples_of(study), aliases_of(study)
    for name in [*(key.taxonomy for key in entries), *aliases]:
        places = _match(name)
        if places is None:
            continue
        if name in aliases:
            name, alias = aliases[name].of, aliases[name]
            places = (alias.classes[places[0]], alias.classes[places[1]])
        return _place(entries[SampleKey(name)], places)
    return f"no taxonomy of the study tells Guess from Recall as '{PAPER}' does"


def _match(name: str) -> tuple[int, int] | None:
    """Classes of a taxonomy that are the paper's Guess and Recall; None: it divides otherwise."""
    taxonomy, paper = taxonomy_or_none(name), parse_taxonomy(PAPER)
    if taxonomy is None or taxonomy.partition_key != paper.partition_key:
        return None
    classes = match_classes(taxonomy, paper)
    return classes[1], classes[2]


def _place(entry: SampleEntry, places: tuple[int, int]) -> _Found | str:
    if entry.impossible:
        why = entry.impossible.partition(". ")[0]  # what follows is advice to who makes a study
        return f"the study could not train {entry.taxonomy}: {why}"
    if entry.split_by == "row":
        return "the study is split by row: near duplicates of what is held out trained its CNNs"
    if entry.split_by == "folds":
        return "the study asks its sequences in folds, so no CNN speaks for all of them"
    wanted = [entry.classes[one] for one in places]
    missing = [one for one in wanted if one not in entry.trained_classes]
    if missing:
        return f"class {missing[0]} was too small in the study, so no CNN was trained on it"
    guess, recall = (entry.trained_classes.index(one) for one in wanted)
    return _Found(entry.key, guess, recall)


def _evaluation_rows(study: Study, found: _Found, jobs: list[Job]) -> pl.DataFrame:
    """Memorized evaluation sequences: `group`, `is_recall`, `odds` (averaged over the CNNs)."""
    asked = pl.DataFrame([{**job.setting_columns, "seed": job.seed} for job in jobs])
    said = study.read(PREDICTIONS_FILE).filter(source="model", **found.sample._asdict())
    said = said.filter(pl.col("epoch") == pl.col("epoch").max())  # the final weights
    said = said.join(asked, on=asked.columns, how="semi")
    said = said.group_by("sequence_id", maintain_order=True).agg("probabilities")
    odds = [
        float(_log_odds(np.array(one).mean(axis=0)[None], found.guess, found.recall)[0])
        for one in said["probabilities"].to_list()  # of each CNN those of the classes
    ]
    rows = study.read(SAMPLES_FILE).filter(
        pl.col("class_index").is_in([found.guess, found.recall]),
        split="eval",
        **found.sample._asdict(),
    )
    is_recall = (pl.col("class_index") == found.recall).alias("is_recall")
    joined = rows.join(
        said.select("sequence_id").with_columns(odds=pl.Series(odds, dtype=pl.Float64)),
        on="sequence_id",
        how="inner",
        maintain_order="left",
    )
    return joined.select("group", is_recall, "odds")


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
    """Make the study, or finish it, up to its trained CNNs, in the audit's folder.

    Where one class has fewer than `MEMORIZED_A_CLASS` sequences no CNN is trained, and its label
    stage says why. `dtype` is the audit's: another one is another model. Raises UserError: windows
    of another length, or in a chat; or a study of other settings is there.
    """
    check_windows("auto", SequenceSettings(), audit)
    folder = out / "study"
    if not is_study(folder):
        say(f"{folder}: making a study of this model first")
    elif Study(folder).is_done(_last_stage(Study(folder))):
        say(f"{folder}: the study of this model is already there")
    else:
        say(f"{folder}: going on with the study that was begun")
    source, texts = EMBEDDED, out / "study-texts.parquet"
    if model != EMBEDDED:
        source = str(texts)
        if not texts.is_file():
            say("Gathering free texts for a study of this model")
            write_table(texts, audit_texts(load_tokenizer(model, revision=revision)))
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
    entry = samples_of(study)[SampleKey(PAPER)]
    counts = entry.counts
    say(
        f"Of {sum(counts.values()):,} sequences the model has memorized "
        f"{counts['Guess'] + counts['Recall']:,}: {counts['Guess']:,} Guess, "
        f"{counts['Recall']:,} Recall."
    )
    if entry.impossible:
        say(f"No probabilities: each needs {MEMORIZED_A_CLASS} of them.")
        return study
    return run(settings, folder, until="train", models=models)


def _last_stage(study: Study) -> str:
    """The stage that ends it: where too few sequences are memorized nothing is trained."""
    if not study.is_done("label"):
        return "train"
    return "label" if samples_of(study)[SampleKey(PAPER)].impossible else "train"


def study_settings(source: str, *, limit: int | None = None, **model: object) -> StudySettings:
    """Settings of such a study; `model` holds its name and further settings of `model`."""
    name = model.pop("model")
    values: dict[str, object] = {
        "title": "Made by mnemoscope audit",
        "model": {"name": name, **model},
        "sequences": {"source": source, "limit": limit},
        "continue": {"scan": True},
        "label": {
            "taxonomies": [PAPER],
            "n_train": 400,
            "n_eval": 200,
            "minimum": MEMORIZED_A_CLASS,
        },
        "train": {"poolings": ["mean"]},
        "benchmark": {"controls": False},
    }
    return parse_settings(values, where="--study auto")
