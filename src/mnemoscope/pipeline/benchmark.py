"""Stage `benchmark`: score every taxonomy with its controls and compare with published figures.

Also compares two taxonomies of a study, and sums several studies into one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mnemoscope.benchmark.excess import (
    FigureName,
    PairedDifference,
    Votes,
    collect_votes,
    compare_pair,
    resample_jointly,
)
from mnemoscope.benchmark.levels import LEVEL_COLUMNS, LEVELS_SCHEMA, levels_of, score_level
from mnemoscope.benchmark.published import (
    COMPARISON_COLUMNS,
    Comparison,
    Conclusion,
    OurFigures,
    State,
    compare_with_published,
    guessed_share,
    has_columns,
    ours_of,
)
from mnemoscope.benchmark.sources import MEMORY_FREE, of_reader
from mnemoscope.benchmark.table import (
    BENCHMARK_COLUMNS,
    INPUT_COLUMNS,
    RUN_KEY,
    TOGETHER_SCHEMA,
    Scores,
    score_benchmark,
    score_by_input,
    score_together,
    scores_of,
    settings_of_runs,
    trained_votes,
)
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Opened
from mnemoscope.cnn.presets import CnnSetting
from mnemoscope.data.table import look_up
from mnemoscope.errors import UserError
from mnemoscope.files import made_folder, write_json, write_parquet
from mnemoscope.parse import read_json
from mnemoscope.pipeline.label import SAMPLES_FILE, SampleEntry, aliases_of, samples_of
from mnemoscope.pipeline.trainings import CHOICE_FILE, PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.progress import Progress
from mnemoscope.stats import NO_ESTIMATE, Estimate, RankCorrelation, frame_of
from mnemoscope.study.folder import Study, is_study
from mnemoscope.study.models import Models
from mnemoscope.study.stages import stage_named
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.names import find_taxonomy, taxonomy_or_none
from mnemoscope.taxonomy.sample import MAIN, SampleKey

BENCHMARK_FILE = "benchmark.parquet"
INPUTS_FILE = "inputs.parquet"
LEVELS_FILE = "levels.parquet"
"""By level of duplicates, where these are few and set."""
COMPARISON_FILE = "comparison.parquet"
CONCLUSIONS_FILE = "conclusions.json"
TOGETHER_FILE = "together.parquet"
TOGETHER = "together"
_STREAMS = 1000
"""Most studies that can be summed without sharing random draws."""
_FREE = ("label.taxonomies", "label.seed")
"""Settings that may differ: taxonomies are matched one by one, draws are per model."""
_ALSO = (
    *("features.patterns", "sequences.length"),
    *("continue.labels", "continue.decoding", "benchmark.untrained"),
)


@dataclass(frozen=True)
class Scoring:
    """One sample to score, a unit of work; arguments as of `score_benchmark`."""

    predictions: pl.DataFrame
    runs: pl.DataFrame
    classes: Sequence[str]
    choice: dict[str, float]
    n_resamples: int
    seed: int
    control_settings: list[CnnSetting] | None
    key = ""  # not kept
    size = 1

    def run(self, _: object, progress: Progress) -> dict[str, pl.DataFrame]:  # noqa: ARG002
        """Its rows of the benchmark, and those of each input."""
        score, by_input = (
            partial(
                one,
                self.predictions,
                self.runs,
                self.classes,
                n_resamples=self.n_resamples,
                seed=self.seed,
                control_settings=self.control_settings,
            )
            for one in (score_benchmark, score_by_input)
        )
        frame = score(choice=self.choice)
        return {"rows": frame, "inputs": by_input(whole=frame)}


def benchmark_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all are called alike
    """Write `benchmark.parquet` (see `benchmark.table`), `inputs.parquet`, `comparison.parquet`.

    `inputs.parquet` has the same figures for each CNN input separately, `levels.parquet` those of
    each level of duplicates if these are a few set ones. `conclusions.json` has rank correlations
    and the paper's conclusions. On a cluster, taxonomies are scored in parallel.
    """
    study.require("train")
    settings = study.settings.benchmark
    with study.finishing("benchmark") as counts:
        runs, predictions = counted_runs(study), _predictions(study)
        chosen = study.read(CHOICE_FILE)
        tasks = {
            key: Scoring(
                predictions.filter(**key._asdict()),
                runs.filter(**key._asdict()),
                entry.trained_classes,
                dict(chosen.filter(taxonomy=key.taxonomy).select("source", "min_f1").iter_rows()),
                settings.n_resamples,
                settings.seed,
                settings_of_runs(runs.filter(source="control")) or None,
            )
            for key, entry in samples_of(study).items()
            if not entry.impossible
        }
        units = list(tasks.values())
        scored = list(run_units(units, None, Opened(dict), label="Scoring", noun="samples"))
        frame = pl.concat((one.values["rows"] for one in scored), rechunk=True)
        inputs = pl.concat((one.values["inputs"] for one in scored), rechunk=True)
        study.write(INPUTS_FILE, inputs, INPUT_COLUMNS)
        study.write(BENCHMARK_FILE, frame, BENCHMARK_COLUMNS)
        ours = list(_our_figures(study, _main_scores(frame), _main_draws(study)))
        comparison = compare_with_published(ours, _guessed(study))
        study.write(COMPARISON_FILE, comparison.frame, COMPARISON_COLUMNS)
        study.write(CONCLUSIONS_FILE, json.dumps(comparison.as_json(), indent=2).encode())
        if levels := levels_of(study.sequences):
            found = [
                _by_level(study, task, frame.filter(**key._asdict()), key, levels)
                for key, task in tasks.items()
                if key.is_main
            ]
            rows = pl.concat([pl.DataFrame(schema=LEVELS_SCHEMA), *found])
            study.write(LEVELS_FILE, rows, LEVEL_COLUMNS)
        counts["rows"] = frame.height
        counts["trainings_at_chance"] = int((~study.read(RUNS_FILE)["did_train"]).sum())


def counted_runs(study: Study) -> pl.DataFrame:
    """The trainings; `did_train` says which count, all with `benchmark.untrained: count`."""
    runs = study.read(RUNS_FILE)
    counts_all = study.settings.benchmark.untrained == "count"
    return runs.with_columns(did_train=pl.lit(True)) if counts_all else runs


def _by_level(
    study: Study, task: Scoring, rows: pl.DataFrame, key: SampleKey, levels: Sequence[int]
) -> pl.DataFrame:
    """The headline's figures of one sample at each level; no rows where it did not train."""
    votes = trained_votes(task.predictions, task.runs, len(task.classes))
    rows = rows.filter(is_headline=True, did_train=True)
    if rows.is_empty() or rows["source"][0] not in votes:
        return pl.DataFrame(schema=LEVELS_SCHEMA)
    source = rows["source"][0]
    ids = pl.DataFrame({"sequence_id": votes[source].sequence_ids})
    level = look_up(ids, study.sequences, "duplicates")["duplicates"]
    settings = study.settings.benchmark
    of_level = {one: (level == one).fill_null(False).to_numpy() for one in levels}
    made = [
        {**key._asdict(), "duplicates": one}
        | score_level(
            votes,
            of_level[one],
            task.classes,
            at_zero=of_level[0] if one else None,
            source=source,
            controls=of_reader(MEMORY_FREE, source),
            n_resamples=settings.n_resamples,
            seed=settings.seed,
        )
        for one in levels
    ]
    return frame_of(made, LEVELS_SCHEMA)


def _guessed(study: Study) -> Estimate:
    """The guessed share of the memorized sequences; none where a feature is missing."""
    table = study.sequences
    if not has_columns(table, PAPER):
        return NO_ESTIMATE
    return guessed_share(table, find_groups(table))


class _Correlations(TypedDict):
    catalogue: RankCorrelation
    rho: RankCorrelation


def load_comparison(study: Study) -> Comparison:
    """Read the comparison; UserError before the stage has run, else errors as `Study.read`."""
    study.require("benchmark")
    values = read_json(study.path(CONCLUSIONS_FILE))
    correlations: Any = TypeAdapter(_Correlations).validate_python(values["correlations"])
    conclusions = TypeAdapter(tuple[Conclusion, ...]).validate_python(values["conclusions"])
    return Comparison(study.read(COMPARISON_FILE), correlations, conclusions)


def _predictions(study: Study) -> pl.DataFrame:
    """All predictions, with the group of near duplicates that each sequence is in."""
    keys = [*SampleKey._fields, "sequence_id"]
    groups = study.read(SAMPLES_FILE).select(*keys, "group").unique(keys)
    found = study.read(PREDICTIONS_FILE).join(groups, on=keys, how="left", maintain_order="left")
    return found.with_columns(pl.col("group").fill_null(pl.col("sequence_id")))


def _model_votes(study: Study, samples: Sequence[SampleEntry]) -> dict[SampleKey, Votes]:
    """Predictions of these samples by those CNNs on the model's attention that count."""
    trained = counted_runs(study).filter(pl.col("did_train"), source="model")
    counted = _predictions(study).drop("probabilities", strict=False)
    parts = counted.join(trained, on=RUN_KEY, how="semi").partition_by(
        SampleKey._fields, as_dict=True
    )
    return {
        one.key: collect_votes(parts[one.key], len(one.trained_classes), where=f"'{one.shown}'")
        for one in samples
        if one.key in parts
    }


def _main_draws(study: Study, *, stream: int = 0) -> dict[str, np.ndarray]:
    """Resampled confusion matrices of each taxonomy's main sample, all with the same weights."""
    settings = study.settings.benchmark
    votes = _model_votes(study, _main_samples(study))
    if not votes:
        return {}
    seed = settings.seed * _STREAMS + stream
    by_taxonomy = {key.taxonomy: one for key, one in votes.items()}
    return resample_jointly(by_taxonomy, n_resamples=settings.n_resamples, seed=seed)


def _main_samples(study: Study) -> list[SampleEntry]:
    return [entry for key, entry in samples_of(study).items() if key.is_main]


def compare_taxonomies(
    study: Study, first: str, second: str, *, figure: FigureName = "min_f1"
) -> PairedDifference:
    """Figure of the first of a study's taxonomies minus that of the second, on shared sequences.

    Names may be spelled in any way. Raises UserError: a taxonomy is unknown, impossible or not
    trained, or both are the same.
    """
    study.require("train")
    pair = [find_sample(study, name) for name in (first, second)]
    if pair[0] == pair[1]:
        raise UserError(f"'{first}' and '{second}' are one partition: there is no difference.")
    votes = _model_votes(study, pair)
    for one in pair:
        if one.key not in votes:
            reason = one.impossible or "none of its CNNs left chance"
            raise UserError(f"{study.folder}: '{one.shown}' has no figure: {reason}")
    settings = study.settings.benchmark
    return compare_pair(
        *(votes[one.key] for one in pair),
        n_resamples=settings.n_resamples,
        seed=settings.seed * _STREAMS,
        figure=figure,
    )


def find_sample(study: Study, name: str) -> SampleEntry:
    """Find a sample by the name that is shown of it, or by any name of its partition."""
    entries = {one.shown: one for one in samples_of(study).values()}
    names = {one.published_name: one.shown for one in _main_samples(study)}
    names |= {one: one for one in entries}
    return entries[find_taxonomy(name, names, where=str(study.folder))]


def _our_figures(
    study: Study, scores: Mapping[str, Scores], draws: Mapping[str, np.ndarray]
) -> Iterator[OurFigures]:
    """Every taxonomy of the study, with its figures or why it has none."""
    for entry in _main_samples(study):
        taxonomy, name = entry.taxonomy, entry.published_name
        if entry.impossible:
            yield OurFigures(taxonomy, name, "impossible", entry.impossible)
        elif entry.dropped:
            note = f"trained without {', '.join(entry.dropped)}, which is another taxonomy"
            yield OurFigures(taxonomy, name, "dropped", note)
        elif taxonomy in scores:
            yield ours_of(taxonomy, name, scores[taxonomy], draws.get(taxonomy))
    for name, alias in aliases_of(study).items():
        known = taxonomy_or_none(name)
        if alias.reason == "same rule" or known is None or alias.of not in scores:
            continue
        order = list(alias.classes)
        drawn = draws.get(alias.of)
        if drawn is not None:
            drawn = drawn[:, order][:, :, order]
        one = ours_of(name, known.published_name, scores[alias.of], drawn)
        if one.confusion is None:
            yield replace(one, same_as=alias.of)
        else:
            confusion = one.confusion[np.ix_(order, order)]
            yield replace(one, state="alias", same_as=alias.of, confusion=confusion)


class Together(NamedTuple):
    """Several models summed; `frame` has for each taxonomy one row per model, then the sum."""

    frame: pl.DataFrame
    models: tuple[str, ...]
    comparison: Comparison


def put_together(studies: Sequence[Study]) -> Together:
    """Sum the confusion matrices of two or more benchmarked studies, taxonomy by taxonomy.

    Uses each taxonomy's first draw. A taxonomy without a figure on any model has no sum. Raises
    UserError: a study is named twice, not benchmarked, or made with other settings.
    """
    for study in studies:
        study.require("benchmark")
    check_alike(studies)
    check_different_models(studies)
    models = name_models(studies)
    tables = [_main_scores(study.benchmark) for study in studies]
    draws = [_main_draws(study, stream=stream) for stream, study in enumerate(studies)]
    rows: list[dict[str, object]] = []
    ours: list[OurFigures] = []
    for entry in _main_samples(studies[0]):
        taxonomy, name = entry.taxonomy, entry.published_name
        own = [samples_of(study)[entry.key] for study in studies]
        found = [table.get(taxonomy) for table in tables]
        notes = [_why_not(scores, one) for scores, one in zip(found, own, strict=True)]
        known = [one for one, note in zip(found, notes, strict=True) if one and note is None]
        drawn = [one[taxonomy] for one in draws if taxonomy in one]
        total, why = None, _why_no_sum(models, notes)
        if why is None:
            total = replace(
                score_together([one.confusion or [] for one in known], drawn),
                n_eval=sum(one.n_eval or 0 for one in known),
                n_runs=sum(one.n_runs or 0 for one in known),
            )
            summed = np.sum(drawn, axis=0) if len(drawn) == len(draws) else None
            ours.append(ours_of(taxonomy, name, total, summed))
        else:
            is_impossible = any(one.impossible for one in own)
            state: State = "impossible" if is_impossible else "untrained"
            ours.append(OurFigures(taxonomy, name, state, why))
        lines = [*zip(models, found, notes, strict=True), (TOGETHER, total, why)]
        rows += [
            {"taxonomy": taxonomy, "model": model, "note": note}
            | (vars(scores) if scores and note is None else {})
            for model, scores, note in lines
        ]
    frame = frame_of(rows, TOGETHER_SCHEMA)
    return Together(frame, models, compare_with_published(ours))


def write_together(folder: Path, together: Together) -> list[Path]:
    """Write `together.parquet`, `comparison.parquet` and `conclusions.json`; returns their paths.

    Raises UserError: the folder cannot be created, or is a study, whose comparison would be lost.
    """
    if is_study(folder):
        raise UserError(f"{folder}: is a study. Choose another folder with -o.")
    made_folder(folder)
    paths = [folder / name for name in (TOGETHER_FILE, COMPARISON_FILE, CONCLUSIONS_FILE)]
    write_parquet(paths[0], together.frame)
    write_parquet(paths[1], together.comparison.frame)
    write_json(paths[2], {"models": list(together.models)} | together.comparison.as_json())
    return paths


def check_alike(studies: Sequence[Study], also: Sequence[str] = ()) -> None:
    """Raise UserError if studies are named twice or differ in what must be equal, or in `also`."""
    first = studies[0]
    folders = [study.folder.resolve() for study in studies]
    for place, study in enumerate(studies[1:], 1):
        if folders[place] in folders[:place]:
            raise UserError(f"{study.folder}: named twice, and would count twice. Name it once.")
        ours, theirs = _rules(first, also), _rules(study, also)
        lines = [
            f"{key}: {ours[key]!r} in {first.folder}, {theirs[key]!r} in {study.folder}"
            for key in ours
            if ours[key] != theirs[key]
        ]
        if lines:
            raise UserError(
                f"these studies cannot be put together: {'; '.join(lines)}. "
                "Make one of them anew by the other's rules."
            )
        lines = [*_alone(first, study), *_alone(study, first)]
        if lines:
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            raise UserError(
                f"these studies cannot be put together: {'; '.join(lines[:3])}{more}. "
                "Give both the same label.taxonomies."
            )


def _rules(study: Study, also: Sequence[str]) -> dict[str, object]:
    """Settings that decide how classes are drawn and CNNs trained, and those in `also`."""
    values = study.settings.as_dict()
    names = [f"label.{key}" for key in values["label"]]
    names += [name for name in stage_named("train").settings if name.startswith("train.")]
    found = {}
    for name in [one for one in (*names, *_ALSO, *also) if one not in _FREE]:
        head, _, tail = name.partition(".")
        found[name] = values[head][tail]
    return found


def _alone(here: Study, there: Study) -> Iterator[str]:
    """Samples that only one study has; some cannot be trained in the other."""
    ours, theirs = samples_of(here), samples_of(there)
    for key in sorted(set(ours) - set(theirs)):
        alias = aliases_of(there).get(key.taxonomy) if key.is_main else None
        why = f" (in {there.folder} it labels as '{alias.of}' does)" if alias else ""
        yield f"'{ours[key].shown}' is in {here.folder} alone{why}"


def check_different_models(studies: Sequence[Study]) -> None:
    """Reject a model that is counted twice, as from a copied study."""
    seen: dict[str, Study] = {}
    for study in studies:
        fingerprint = study.record["models"]["model"]["fingerprint"]
        other = seen.setdefault(fingerprint, study)
        if other is not study:
            raise UserError(
                f"{study.folder}: made of the same model as {other.folder}, which would count "
                "twice. Name one study a model."
            )


def name_models(studies: Sequence[Study]) -> tuple[str, ...]:
    """Names of the models without folders; the study's name where two are equal."""
    names = [Path(study.record["models"]["model"]["name"]).name for study in studies]
    if len(set(names)) < len(names):
        names = [study.folder.name for study in studies]
    if len(set(names)) < len(names):
        names = [str(study.folder) for study in studies]
    return tuple(names)


def _main_scores(benchmark: pl.DataFrame) -> dict[str, Scores]:
    """Scores of the CNNs on the model's attention, of each taxonomy's main sample."""
    chosen = scores_of(benchmark.filter(source="model", variant=MAIN))
    return {key.taxonomy: one for key, one in chosen.items()}


def _why_not(scores: Scores | None, entry: SampleEntry) -> str | None:
    """Why one model has no figure; None if it has one."""
    if entry.impossible:
        return f"impossible: {entry.impossible}"
    if entry.dropped:
        return f"trained without {', '.join(entry.dropped)}"
    if scores is None or scores.min_f1.value is None:
        return "none of its CNNs left chance on its own training set"
    return None


def _why_no_sum(models: Sequence[str], notes: Sequence[str | None]) -> str | None:
    """Why several models have no figure together; None if they have one."""
    if all(notes) and len(set(notes)) == 1:
        return f"on every model: {notes[0]}"
    missing = [f"{model}: {note}" for model, note in zip(models, notes, strict=True) if note]
    return "; ".join(missing) or None
