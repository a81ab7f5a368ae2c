"""Stage `benchmark`: score every taxonomy with its controls and compare with published figures.

Also compares two taxonomies of a study, and sums several studies into one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from mnemoscope.benchmark.levels import LEVELS_SCHEMA, levels_of, score_level
from mnemoscope.benchmark.published import (
    Comparison,
    Conclusion,
    OurFigures,
    State,
    compare_with_published,
    guessed_share,
    has_columns,
    ours_of_row,
)
from mnemoscope.benchmark.sources import MEMORY_FREE, of_reader
from mnemoscope.benchmark.table import (
    RUN_KEY,
    TOGETHER_SCHEMA,
    score_benchmark,
    score_by_input,
    score_together,
    settings_of_runs,
    trained_votes,
)
from mnemoscope.cluster.run import run_units
from mnemoscope.cluster.units import Opened
from mnemoscope.data.table import look_up
from mnemoscope.errors import UserError
from mnemoscope.files import made_folder, write_json, write_parquet
from mnemoscope.parse import read_json
from mnemoscope.pipeline.label import SAMPLES_FILE, aliases_of, samples_of
from mnemoscope.pipeline.train import CHOICE_FILE, PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.progress import Progress
from mnemoscope.stats import NO_ESTIMATE, Estimate, RankCorrelation, frame_of, rows_of
from mnemoscope.study.folder import Study, is_study
from mnemoscope.study.models import Models
from mnemoscope.study.stages import stage_named
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.names import find_taxonomy, taxonomy_or_none

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
_ALSO = ("features.patterns", "sequences.length")


@dataclass(frozen=True)
class Scoring:
    """One taxonomy to score, a unit of work; `options` are of `score_benchmark`."""

    predictions: pl.DataFrame
    runs: pl.DataFrame
    classes: dict[str, list[str]]
    choice: dict[str, dict[str, float]]
    options: dict[str, Any]
    key = ""  # not kept
    size = 1

    def run(self, _: Any, progress: Progress) -> dict[str, pl.DataFrame]:  # noqa: ARG002
        """Its rows of the benchmark, and those of each input."""
        known = self.predictions, self.runs, self.classes
        frame = score_benchmark(*known, choice=self.choice, **self.options)
        return {"rows": frame, "inputs": score_by_input(*known, whole=frame, **self.options)}


def benchmark_stage(study: Study, models: Models) -> None:  # noqa: ARG001 - all are called alike
    """Write `benchmark.parquet` (see `benchmark.table`), `inputs.parquet`, `comparison.parquet`.

    `inputs.parquet` has the same figures for each CNN input separately, `levels.parquet` those of
    each level of duplicates if these are a few set ones. `conclusions.json` has rank correlations
    and the paper's conclusions. On a cluster, taxonomies are scored in parallel.
    """
    study.require("train")
    settings = study.settings.benchmark
    with study.finishing("benchmark") as counts:
        runs, predictions = study.read(RUNS_FILE), _predictions(study)
        options: dict[str, Any] = {
            "n_resamples": settings.n_resamples,
            "seed": settings.seed,
            "control_settings": settings_of_runs(runs.filter(source="control")) or None,
        }
        chosen = _choice(study)
        possible = {k: one for k, one in samples_of(study).items() if "impossible" not in one}
        tasks = [
            Scoring(
                predictions.filter(pl.col("taxonomy") == name),
                runs.filter(pl.col("taxonomy") == name),
                {name: entry["trained_classes"]},
                {name: chosen.get(entry["taxonomy"], {})},
                options,
            )
            for name, entry in possible.items()
        ]
        scored = list(run_units(tasks, None, Opened(dict), label="Scoring", noun="taxonomies"))
        frame = pl.concat((one.values["rows"] for one in scored), rechunk=True)
        inputs = pl.concat((one.values["inputs"] for one in scored), rechunk=True)
        study.write(INPUTS_FILE, inputs)
        study.write(BENCHMARK_FILE, frame)
        rows = {row["taxonomy"]: row for row in rows_of(frame.filter(source="model"))}
        ours = list(_our_figures(study, rows, _main_draws(study)))
        comparison = compare_with_published(ours, _guessed(study))
        study.write(COMPARISON_FILE, comparison.frame)
        study.write(CONCLUSIONS_FILE, json.dumps(comparison.as_json(), indent=2).encode())
        if levels := levels_of(study.sequences):
            names = [name for name, entry in possible.items() if entry["taxonomy"] == name]
            found = [_by_level(study, tasks, frame, name, levels) for name in names]
            study.write(LEVELS_FILE, pl.concat([pl.DataFrame(schema=LEVELS_SCHEMA), *found]))
        counts["rows"] = frame.height


def _by_level(
    study: Study, tasks: Sequence[Scoring], frame: pl.DataFrame, name: str, levels: Sequence[int]
) -> pl.DataFrame:
    """The headline's figures of one taxonomy at each level; no rows where it did not train."""
    task = next(one for one in tasks if name in one.classes)
    classes = task.classes[name]
    votes = trained_votes(task.predictions, task.runs, name, len(classes))
    rows = frame.filter(taxonomy=name, is_headline=True, did_train=True)
    if rows.is_empty() or rows["source"][0] not in votes:
        return pl.DataFrame(schema=LEVELS_SCHEMA)
    source = rows["source"][0]
    ids = pl.DataFrame({"sequence_id": votes[source].sequence_ids})
    level = look_up(ids, study.sequences, "duplicates")["duplicates"]
    settings = study.settings.benchmark
    of_level = {one: (level == one).fill_null(False).to_numpy() for one in levels}
    made = [
        {"taxonomy": name, "duplicates": one}
        | score_level(
            votes,
            of_level[one],
            classes,
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


def _choice(study: Study) -> dict[str, dict[str, float]]:
    """What the headline is chosen by, by taxonomy."""
    found: dict[str, dict[str, float]] = {}
    for row in study.read(CHOICE_FILE).iter_rows(named=True):
        found.setdefault(row["taxonomy"], {})[row["source"]] = row["min_f1"]
    return found


def _predictions(study: Study) -> pl.DataFrame:
    """All predictions, with the group of near duplicates that each sequence is in."""
    groups = study.read(SAMPLES_FILE).select(
        pl.col("sample").alias("taxonomy"), "sequence_id", "group"
    )
    keys = ["taxonomy", "sequence_id"]
    found = study.read(PREDICTIONS_FILE).join(
        groups.unique(keys), on=keys, how="left", maintain_order="left"
    )
    return found.with_columns(pl.col("group").fill_null(pl.col("sequence_id")))


def _model_votes(study: Study, samples: list[str]) -> dict[str, Votes]:
    """Predictions of these samples by CNNs on the model's attention that are above chance."""
    entries = samples_of(study)
    trained = study.read(RUNS_FILE).filter(
        (pl.col("source") == "model")
        & pl.col("did_train")
        & pl.col("taxonomy").is_in([name for name in samples if "impossible" not in entries[name]])
    )
    counted = _predictions(study).drop("probabilities", strict=False)
    parts = counted.join(trained, on=RUN_KEY, how="semi")
    by_name = parts.partition_by("taxonomy", as_dict=True)
    return {
        name: collect_votes(part, len(entries[name]["trained_classes"]), where=f"'{name}', model")
        for name in samples
        if (part := by_name.get((name,))) is not None
    }


def _main_draws(study: Study, *, stream: int = 0) -> dict[str, np.ndarray]:
    """Resampled confusion matrices of each taxonomy's first draw, all with the same weights."""
    settings = study.settings.benchmark
    names = [name for name, entry in samples_of(study).items() if entry["taxonomy"] == name]
    votes = _model_votes(study, names)
    if not votes:
        return {}
    seed = settings.seed * _STREAMS + stream
    return resample_jointly(votes, n_resamples=settings.n_resamples, seed=seed)


def compare_taxonomies(
    study: Study, first: str, second: str, *, figure: FigureName = "min_f1"
) -> PairedDifference:
    """Figure of the first of a study's taxonomies minus that of the second, on shared sequences.

    Names may be spelled in any way. Raises UserError: a taxonomy is unknown, impossible or not
    trained, or both are the same.
    """
    study.require("train")
    names = [find_sample(study, name) for name in (first, second)]
    if names[0] == names[1]:
        raise UserError(f"'{first}' and '{second}' are one partition: there is no difference.")
    votes = _model_votes(study, names)
    for name in names:
        if name not in votes:
            reason = samples_of(study)[name].get("impossible", "none of its CNNs left chance")
            raise UserError(f"{study.folder}: '{name}' has no figure: {reason}")
    settings = study.settings.benchmark
    return compare_pair(
        votes[names[0]],
        votes[names[1]],
        n_resamples=settings.n_resamples,
        seed=settings.seed * _STREAMS,
        figure=figure,
    )


def find_sample(study: Study, name: str) -> str:
    """Find a sample by its name or by any name of its partition."""
    entries = samples_of(study)
    main = [sample for sample, entry in entries.items() if entry["taxonomy"] == sample]
    names = {entries[sample]["published_name"]: sample for sample in main}
    return find_taxonomy(name, names | {one: one for one in entries}, where=str(study.folder))


def _our_figures(
    study: Study, rows: Mapping[str, dict[str, Any]], draws: dict[str, np.ndarray]
) -> Iterator[OurFigures]:
    """Every taxonomy of the study, with its figures or why it has none."""
    for sample, entry in samples_of(study).items():
        if entry["taxonomy"] != sample:
            continue
        name = entry["published_name"]
        if "impossible" in entry:
            yield OurFigures(sample, name, "impossible", entry["impossible"])
        elif entry["dropped"]:
            note = f"trained without {', '.join(entry['dropped'])}, which is another taxonomy"
            yield OurFigures(sample, name, "dropped", note)
        elif sample in rows:
            yield ours_of_row(sample, name, rows[sample], draws.get(sample))
    for name, alias in aliases_of(study).items():
        taxonomy = taxonomy_or_none(name)
        if alias.reason == "same rule" or taxonomy is None or alias.of not in rows:
            continue
        order = list(alias.classes)
        drawn = draws.get(alias.of)
        if drawn is not None:
            drawn = drawn[:, order][:, :, order]
        one = ours_of_row(name, taxonomy.published_name, rows[alias.of], drawn)
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
    tables = [_model_rows(study) for study in studies]
    draws = [_main_draws(study, stream=stream) for stream, study in enumerate(studies)]
    entries = [samples_of(study) for study in studies]
    rows: list[dict[str, Any]] = []
    ours: list[OurFigures] = []
    for sample, entry in entries[0].items():
        if entry["taxonomy"] != sample:
            continue
        notes = [_why_not(table, own[sample]) for table, own in zip(tables, entries, strict=True)]
        for model, table, note in zip(models, tables, notes, strict=True):
            row = table.get(sample, {}) if note is None else {}
            rows.append({**row, "taxonomy": sample, "model": model, "note": note})
        total = _sum(sample, models, tables, draws, notes)
        rows.append(total)
        ours.append(_as_ours(sample, entry["published_name"], total, draws, entries))
    known = [{name: row.get(name) for name in TOGETHER_SCHEMA} for row in rows]
    frame = frame_of(known, TOGETHER_SCHEMA)
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


def _rules(study: Study, also: Sequence[str]) -> dict[str, Any]:
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
    for name in sorted(set(samples_of(here)) - set(samples_of(there))):
        alias = aliases_of(there).get(name)
        why = f" (in {there.folder} it labels as '{alias.of}' does)" if alias else ""
        yield f"'{name}' is in {here.folder} alone{why}"


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


def _model_rows(study: Study) -> dict[str, dict[str, Any]]:
    """Benchmark rows of the model's attention, by sample."""
    return {row["taxonomy"]: row for row in rows_of(study.benchmark.filter(source="model"))}


def _why_not(table: dict[str, dict[str, Any]], entry: dict[str, Any]) -> str | None:
    """Why one model has no figure; None if it has one."""
    if "impossible" in entry:
        return f"impossible: {entry['impossible']}"
    if entry["dropped"]:
        return f"trained without {', '.join(entry['dropped'])}"
    row = table.get(entry["taxonomy"])
    if row is None or row["min_f1"].value is None:
        return "none of its CNNs left chance on its own training set"
    return None


def _sum(
    sample: str,
    models: Sequence[str],
    tables: Sequence[dict[str, dict[str, Any]]],
    draws: Sequence[dict[str, np.ndarray]],
    notes: Sequence[str | None],
) -> dict[str, Any]:
    row: dict[str, Any] = {"taxonomy": sample, "model": TOGETHER, "note": None}
    if all(notes) and len(set(notes)) == 1:
        return row | {"note": f"on every model: {notes[0]}"}
    if any(notes):
        missing = [f"{model}: {note}" for model, note in zip(models, notes, strict=True) if note]
        return row | {"note": "; ".join(missing)}
    own = [table[sample] for table in tables]
    row |= {name: sum(one[name] for one in own) for name in ("n_eval", "n_runs")}
    drawn = [one[sample] for one in draws if sample in one]
    return row | score_together([one["confusion"] for one in own], drawn)


def _as_ours(
    sample: str,
    published_name: str,
    total: dict[str, Any],
    draws: Sequence[dict[str, np.ndarray]],
    entries: Sequence[dict[str, dict[str, Any]]],
) -> OurFigures:
    """The sum as figures to compare with the published ones."""
    if total["note"] is None:
        drawn = [one[sample] for one in draws if sample in one]
        summed = np.sum(drawn, axis=0) if len(drawn) == len(draws) else None
        return ours_of_row(sample, published_name, total, summed)
    is_impossible = any("impossible" in own[sample] for own in entries)
    state: State = "impossible" if is_impossible else "untrained"
    return OurFigures(sample, published_name, state, total["note"])
