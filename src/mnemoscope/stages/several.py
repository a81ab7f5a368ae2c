"""Several studies as one: the same taxonomies on several models, confusion matrices summed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.atomic_write import made_folder, write_json
from mnemoscope.benchmark.comparison import (
    Comparison,
    OurFigures,
    State,
    compare_with_published,
    ours_of_row,
)
from mnemoscope.benchmark.several import TOGETHER_SCHEMA, score_together
from mnemoscope.errors import UserError
from mnemoscope.parquet import write_parquet
from mnemoscope.stages.compare import COMPARISON_FILE, CONCLUSIONS_FILE, main_draws
from mnemoscope.stages.labels import aliases_of, samples_of
from mnemoscope.study import Study, is_study, stage_named

__all__ = [
    "TOGETHER_FILE",
    "Together",
    "check_alike",
    "check_different_models",
    "name_models",
    "put_together",
    "write_together",
]

TOGETHER_FILE = "together.parquet"
TOGETHER = "together"
_FREE = ("label.taxonomies", "label.seed")
"""Taxonomies are compared by what they are; the draw of each model's sequences is its own."""
_ALSO = ("features.patterns", "sequences.length")


class Together(NamedTuple):
    """What several models give together.

    Attributes:
        frame: columns as in `TOGETHER_SCHEMA`; for each taxonomy a row a model, then the sum.
        models: names of the models, in the order of the studies.
        comparison: the sums beside the published figures.
    """

    frame: pl.DataFrame
    models: tuple[str, ...]
    comparison: Comparison


def put_together(studies: Sequence[Study]) -> Together:
    """Sum the confusion matrices of several models, taxonomy by taxonomy.

    Args:
        studies: two or more with the benchmark stage done and equal rules.

    Returns:
        Figures per model and together; each taxonomy as it was drawn first. One that lacks a
        figure on any model has none together.

    Raises:
        UserError: a study named twice, not benchmarked, or made by other rules, with the
            difference.
    """
    for study in studies:
        study.require("benchmark")
    check_alike(studies)
    check_different_models(studies)
    models = name_models(studies)
    tables = [_model_rows(study) for study in studies]
    draws = [main_draws(study, stream=stream) for stream, study in enumerate(studies)]
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
    frame = pl.DataFrame(
        [{name: row.get(name) for name in TOGETHER_SCHEMA} for row in rows], schema=TOGETHER_SCHEMA
    )
    return Together(frame, models, compare_with_published(ours))


def write_together(folder: Path, together: Together) -> list[Path]:
    """Write `together.parquet`, `comparison.parquet` and `conclusions.json`.

    Returns:
        Paths of the three.

    Raises:
        UserError: the folder is a study, whose own comparison would be lost, or cannot be made.
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
    """Refuse studies whose figures are not of one kind.

    Args:
        studies: two or more.
        also: further settings that have to be equal, `section.key`.

    Raises:
        UserError: a study named twice, or made by other rules, with the difference.
    """
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
        _check_taxonomies(first, study)


def _check_taxonomies(first: Study, other: Study) -> None:
    """The same taxonomies, whatever their order."""
    ours, theirs = set(samples_of(first)), set(samples_of(other))
    if ours == theirs:
        return
    lines = [
        f"'{name}' is in {here.folder} alone{_shared_there(name, there)}"
        for here, there, names in ((first, other, ours - theirs), (other, first, theirs - ours))
        for name in sorted(names)
    ]
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    raise UserError(
        f"these studies cannot be put together: {'; '.join(lines[:3])}{more}. "
        "Give both the same label.taxonomies."
    )


def _shared_there(name: str, study: Study) -> str:
    """Say of a taxonomy that is missing that it was not trained for its labels' sake."""
    alias = aliases_of(study).get(name)
    return "" if alias is None else f" (in {study.folder} it labels as '{alias.of}' does)"


def _rules(study: Study, also: Sequence[str]) -> dict[str, Any]:
    """The settings that decide how classes are drawn and CNNs trained, and those named."""
    values = study.settings.as_dict()
    names = [f"label.{key}" for key in values["label"]]
    names += [name for name in stage_named("train").settings if name.startswith("train.")]
    found = {}
    for name in [one for one in (*names, *_ALSO, *also) if one not in _FREE]:
        head, _, tail = name.partition(".")
        found[name] = values[head][tail]
    return found


def check_different_models(studies: Sequence[Study]) -> None:
    """Refuse one model counted twice, as from a copied study."""
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
    """What each model is called: its name without a folder; the study's where two are equal."""
    names = [Path(study.record["models"]["model"]["name"]).name for study in studies]
    if len(set(names)) < len(names):
        names = [study.folder.name for study in studies]
    if len(set(names)) < len(names):
        names = [str(study.folder) for study in studies]
    return tuple(names)


def _model_rows(study: Study) -> dict[str, dict[str, Any]]:
    """Rows of the benchmark table that are of the model's attention, by sample."""
    table = study.read("benchmark.parquet").filter(pl.col("source") == "model")
    return {row["taxonomy"]: row for row in table.iter_rows(named=True)}


def _why_not(table: dict[str, dict[str, Any]], entry: dict[str, Any]) -> str | None:
    """Why one model has no figure, None where it has."""
    if "impossible" in entry:
        return f"impossible: {entry['impossible']}"
    if entry["dropped"]:
        return f"trained without {', '.join(entry['dropped'])}"
    row = table.get(entry["taxonomy"])
    if row is None or row["min_f1"] is None:
        return "none of its CNNs left chance on its own training set"
    return None


def _sum(
    sample: str,
    models: Sequence[str],
    tables: Sequence[dict[str, dict[str, Any]]],
    draws: Sequence[dict[str, np.ndarray]],
    notes: Sequence[str | None],
) -> dict[str, Any]:
    """The row of all models together."""
    row: dict[str, Any] = {"taxonomy": sample, "model": TOGETHER, "note": None}
    if all(notes) and len(set(notes)) == 1:
        return row | {"note": f"on every model: {notes[0]}"}
    if any(notes):
        missing = [f"{model}: {note}" for model, note in zip(models, notes, strict=True) if note]
        return row | {"note": "; ".join(missing)}
    own = [table[sample] for table in tables]
    row |= {name: sum(one[name] for one in own) for name in ("n_eval", "n_runs")}
    drawn = [one[sample] for one in draws]
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
        summed = np.sum([one[sample] for one in draws], axis=0)
        return ours_of_row(sample, published_name, total, summed)
    is_impossible = any("impossible" in own[sample] for own in entries)
    state: State = "impossible" if is_impossible else "untrained"
    return OurFigures(sample, published_name, state, total["note"])
