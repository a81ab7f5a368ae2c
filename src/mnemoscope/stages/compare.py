"""A study's figures beside the published ones, and two of its taxonomies on shared sequences."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.atomic_write import write_json
from mnemoscope.benchmark.comparison import (
    Comparison,
    OurFigures,
    compare_with_published,
    ours_of_row,
)
from mnemoscope.benchmark.conclusions import Conclusion
from mnemoscope.benchmark.correlation import RankCorrelation
from mnemoscope.benchmark.paired import (
    FigureName,
    PairedDifference,
    compare_pair,
    resample_jointly,
)
from mnemoscope.benchmark.votes import Votes, collect_votes
from mnemoscope.errors import DamagedDataError, UserError, nearest
from mnemoscope.stages.labels import aliases_of, samples_of
from mnemoscope.stages.training import PREDICTIONS_FILE, RUNS_FILE
from mnemoscope.study import Study
from mnemoscope.taxonomy.names import Taxonomy, parse_taxonomy

__all__ = [
    "COMPARISON_FILE",
    "CONCLUSIONS_FILE",
    "compare_study",
    "compare_taxonomies",
    "find_sample",
    "has_comparison",
    "load_comparison",
    "main_draws",
    "model_votes",
    "write_comparison",
]

COMPARISON_FILE = "comparison.parquet"
CONCLUSIONS_FILE = "conclusions.json"
_RUN_KEY = ["taxonomy", "source", "setting", "seed"]


def compare_study(study: Study, table: pl.DataFrame) -> Comparison:
    """Put a study's taxonomies beside the published ones, each as it was drawn first.

    Args:
        study: with the train stage done.
        table: its benchmark table.
    """
    rows = table.filter(pl.col("source") == "model").rows_by_key("taxonomy", named=True)
    return compare_with_published(list(_our_figures(study, rows, main_draws(study))))


def write_comparison(study: Study, comparison: Comparison) -> None:
    """Write `comparison.parquet` and `conclusions.json`."""
    study.write(COMPARISON_FILE, comparison.frame)
    write_json(study.folder / CONCLUSIONS_FILE, comparison.as_json())


def has_comparison(study: Study) -> bool:
    """False where the benchmark was made by a version that did not compare yet."""
    return all((study.folder / name).is_file() for name in (COMPARISON_FILE, CONCLUSIONS_FILE))


def load_comparison(study: Study) -> Comparison:
    """Read what `write_comparison` has written.

    Raises:
        UserError: it is not there.
        DamagedDataError: it cannot be read.
    """
    study.require("benchmark")
    if not has_comparison(study):
        raise UserError(
            f"{study.folder}: its benchmark was made before figures were compared with the "
            f"published ones. Run 'mnemoscope benchmark {study.folder} --redo'."
        )
    path = study.folder / CONCLUSIONS_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        correlations = {
            kind: RankCorrelation(**one) for kind, one in values["correlations"].items()
        }
        conclusions = tuple(Conclusion(**one) for one in values["conclusions"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedDataError(
            f"{path}: damaged. Run 'mnemoscope benchmark {study.folder} --redo'."
        ) from None
    return Comparison(study.read(COMPARISON_FILE), correlations, conclusions)


def model_votes(study: Study, samples: list[str]) -> dict[str, Votes]:
    """Predictions from the model's attention by the CNNs that left chance.

    Args:
        study: with the train stage done.
        samples: names of samples; one whose CNNs all stayed at chance is left out.
    """
    entries = samples_of(study)
    trained = study.read(RUNS_FILE).filter(
        (pl.col("source") == "model")
        & pl.col("did_train")
        & pl.col("taxonomy").is_in([name for name in samples if "impossible" not in entries[name]])
    )
    counted = study.read(PREDICTIONS_FILE).drop("probabilities", strict=False)
    parts = counted.join(trained, on=_RUN_KEY, how="semi")
    by_name = parts.partition_by("taxonomy", as_dict=True)
    return {
        name: collect_votes(part, len(entries[name]["trained_classes"]), where=f"'{name}', model")
        for name in samples
        if (part := by_name.get((name,))) is not None
    }


def main_draws(study: Study, *, stream: int = 0) -> dict[str, np.ndarray]:
    """Resampled confusions of every taxonomy as it was drawn first, all with the same weights.

    Args:
        study: with the train stage done.
        stream: keeps the draws of several studies apart.
    """
    settings = study.settings.benchmark
    names = [name for name, entry in samples_of(study).items() if entry["taxonomy"] == name]
    votes = model_votes(study, names)
    if not votes:
        return {}
    seed = settings.seed * _STREAMS + stream
    return resample_jointly(votes, n_resamples=settings.n_resamples, seed=seed)


_STREAMS = 1000
"""Studies that may be put together without sharing draws."""


def compare_taxonomies(
    study: Study, first: str, second: str, *, figure: FigureName = "min_f1"
) -> PairedDifference:
    """Compare two of a study's taxonomies on the evaluation sequences that they share.

    Args:
        study: with the train stage done.
        first: name of a taxonomy or sample, in any spelling.
        second: another.
        figure: `min_f1` or `mean_f1`.

    Returns:
        Figure of the first minus that of the second, with its paired interval.

    Raises:
        UserError: not in the study, impossible, not trained, or twice the same.
    """
    study.require("train")
    names = [find_sample(study, name) for name in (first, second)]
    if names[0] == names[1]:
        raise UserError(f"'{first}' and '{second}' are one partition: there is no difference.")
    votes = model_votes(study, names)
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
    """Find a sample by its name, or by any name of its partition.

    Raises:
        UserError: there is none, with the nearest.
    """
    entries = samples_of(study)
    if name in entries:
        return name
    known = {sample for sample, entry in entries.items() if entry["taxonomy"] == sample}
    keys = {_partition(entries[sample]["published_name"]): sample for sample in sorted(known)}
    key = _partition(name)
    if key is not None and key in keys:
        return keys[key]
    hint = nearest(name, list(entries)) or f" There are: {'; '.join(entries)}."
    raise UserError(f"{study.folder}: no taxonomy '{name}'.{hint}")


def _parsed(name: str) -> Taxonomy | None:
    """A taxonomy from its name; None for one that cannot be read from it."""
    try:
        return parse_taxonomy(name)
    except UserError:
        return None


def _partition(name: str) -> str | None:
    """Key of a taxonomy's partition; None for one that cannot be read from its name."""
    taxonomy = _parsed(name)
    return None if taxonomy is None else taxonomy.partition_key


def _our_figures(
    study: Study, rows: dict[Any, Any], draws: dict[str, np.ndarray]
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
            yield ours_of_row(sample, name, rows[sample][0], draws.get(sample))
    yield from _alias_figures(study, rows, draws)


def _alias_figures(
    study: Study, rows: dict[Any, Any], draws: dict[str, np.ndarray]
) -> Iterator[OurFigures]:
    """Figures of a taxonomy that divides these sequences as a trained one does, by other rules."""
    for name, alias in aliases_of(study).items():
        taxonomy = _parsed(name)
        if alias.reason == "same rule" or taxonomy is None or alias.of not in rows:
            continue
        order = list(alias.classes)
        drawn = draws.get(alias.of)
        if drawn is not None:
            drawn = drawn[:, order][:, :, order]
        one = ours_of_row(name, taxonomy.published_name, rows[alias.of][0], drawn)
        if one.confusion is None:
            yield replace(one, same_as=alias.of)
        else:
            confusion = one.confusion[np.ix_(order, order)]
            yield replace(one, state="alias", same_as=alias.of, confusion=confusion)
