"""Several studies of one depth as one: Δ averaged over the CNNs of all their models.

`mnemoscope localize STUDY STUDY -o FOLDER` calls it.
"""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mnemoscope.atomic_write import made_folder
from mnemoscope.errors import UserError
from mnemoscope.localize.agreement import mean_agreement
from mnemoscope.localize.regions import Region, region_sentence
from mnemoscope.localize.several import average_models
from mnemoscope.parquet import write_parquet
from mnemoscope.stages.delta_tables import write_delta_tables
from mnemoscope.stages.localize import (
    SOURCES,
    StoredDelta,
    load_deltas,
    mean_copies,
    region_rows,
    write_deltas,
    write_regions,
)
from mnemoscope.stages.several import check_alike, check_different_models, name_models
from mnemoscope.study import Study, is_study

__all__ = [
    "MODELS_FILE",
    "TogetherDelta",
    "localize_together",
    "together_lines",
    "write_localized_together",
]

MODELS_FILE = "models.parquet"
_COUNTS = ("n_used", "n_skipped", "n_wrong")
_SETTINGS = tuple(
    f"localize.{name}" for name in ("attributions", "attribution_sequences", "correct_only")
)
_Key = tuple[str, str, str]  # sample, source, attribution


class TogetherDelta(NamedTuple):
    """What several models give together.

    Attributes:
        deltas: Δ of each sample, source and attribution, counts and CNNs summed over the models.
        models: a row a map, class and model: its counts, its CNNs, and how alike the models' Δ
            are (means over pairs of models; null with no two that can be compared).
        regions: rows of `regions.parquet`.
        names: of the models, in the order of the studies.
        left_out: what not every study has, a line each.
    """

    deltas: tuple[StoredDelta, ...]
    models: pl.DataFrame
    regions: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...]


def localize_together(studies: Sequence[Study]) -> TogetherDelta:
    """Average Δ over the CNNs of several models, each CNN counting alike.

    Args:
        studies: two or more with the localize stage done, of one depth and equal rules.

    Raises:
        UserError: a study named twice, not localized, made by other rules or of a model of
            another depth, or nothing that all of them have.
    """
    for study in studies:
        study.require("localize")
    _check_depth(studies)
    check_alike(studies, _SETTINGS)
    check_different_models(studies)
    stored = [_by_key(study) for study in studies]
    keys, left_out = _shared(studies, stored)
    names = name_models(studies)
    deltas = tuple(_averaged([own[key] for own in stored]) for key in keys)
    return TogetherDelta(
        deltas=deltas,
        models=pl.DataFrame(
            [row for key in keys for row in _model_rows(names, [own[key] for own in stored])]
        ),
        regions=tuple(_regions(studies, deltas, [[own[key] for own in stored] for key in keys])),
        names=names,
        left_out=left_out,
    )


def write_localized_together(folder: Path, together: TogetherDelta) -> list[Path]:
    """Write `decisiveness.safetensors`, and `models`, `regions`, `delta`, `profile` as Parquet.

    Raises:
        UserError: the folder is a study, whose own Δ would be lost, or cannot be made.
    """
    if is_study(folder):
        raise UserError(f"{folder}: is a study. Choose another folder with -o.")
    made_folder(folder)
    written = [*write_delta_tables(together.deltas, folder)]
    written.append(write_regions(folder, together.regions))
    write_parquet(folder / MODELS_FILE, together.models)
    return [*written, folder / MODELS_FILE, write_deltas(folder, together.deltas)]


def together_lines(together: TogetherDelta) -> Iterator[str]:
    """Say how alike the models are and where their Δ lies, by the first attribution."""
    first = together.deltas[0].attribution
    regions = pl.DataFrame(together.regions, infer_schema_length=None)
    for one in together.deltas:
        if (one.source, one.attribution) != ("model", first):
            continue
        yield f"{one.sample} ({first}): Δ of {', '.join(together.names)}, {one.n_cnns} CNNs"
        here = {"sample": one.sample, "source": "model", "attribution": first}
        for name in one.classes:
            rows = regions.filter(**here, **{"class": name}).iter_rows(named=True)
            found = [Region(row["region"], row["share"] or 0.0, row["even"]) for row in rows]
            alike = together.models.filter(**here, **{"class": name}).row(0, named=True)
            yield f"  {region_sentence(name, found)}{_alike(alike)}"
    yield from (f"Left out: {line}." for line in together.left_out)


def _alike(row: dict[str, Any]) -> str:
    """How alike the maps of the models are."""
    if row["pearson"] is None:
        return ""
    return (
        f" Between models: correlation {row['pearson']:.2f}, of ranks {row['spearman']:.2f}, "
        f"{row['overlap']:.0%} of the top 1 % of edges in common."
    )


def _check_depth(studies: Sequence[Study]) -> None:
    """Refuse models of different depth: layer 7 of 12 is not layer 7 of 24."""
    depths = [int(study.record["models"]["model"]["n_layers"]) for study in studies]
    for study, depth in zip(studies, depths, strict=True):
        if depth != depths[0]:
            raise UserError(
                f"{study.folder}: model of another depth: {depth} layers, where the model of "
                f"{studies[0].folder} has {depths[0]}. Put models of one depth together."
            )


def _by_key(study: Study) -> dict[_Key, StoredDelta]:
    """All of a study's Δ.

    Raises:
        UserError: none, or written before it was kept how many CNNs each mean is over.
    """
    found = {
        (one.sample, source, one.attribution): one
        for source in SOURCES
        for one in load_deltas(study, source)
    }
    if not found:
        raise UserError(f"{study.folder}: no Δ, since no CNN trained. Train on more sequences.")
    if any(not one.n_says for one in found.values()):
        raise UserError(
            f"{study.folder}: localized by an older version, which did not keep how many CNNs "
            f"each Δ rests on. Run: mnemoscope localize {study.folder} --redo"
        )
    return found


def _shared(
    studies: Sequence[Study], stored: Sequence[dict[_Key, StoredDelta]]
) -> tuple[list[_Key], tuple[str, ...]]:
    """What every study has with the same classes, and lines that name the rest."""
    keys, left_out = [], []
    for key in dict.fromkeys(key for own in stored for key in own):
        parts = [own.get(key) for own in stored]
        missing = [str(s.folder) for s, one in zip(studies, parts, strict=True) if one is None]
        classes = {one.classes for one in parts if one is not None}
        if missing:
            left_out.append(f"{', '.join(key)}: no Δ in {', '.join(missing)}")
        elif len(classes) > 1:
            left_out.append(f"{', '.join(key)}: trained with other classes in some")
        else:
            keys.append(key)
    if not any(source == "model" for _, source, _ in keys):
        raise UserError(f"nothing to put together: {'; '.join(left_out)}.")
    return keys, tuple(left_out)


def _averaged(parts: Sequence[StoredDelta]) -> StoredDelta:
    """One map of all models."""
    delta, n_says = average_models([one.delta for one in parts], [one.n_says for one in parts])
    counts = {
        name: tuple(int(n) for n in np.sum([getattr(one, name) for one in parts], axis=0))
        for name in _COUNTS
    }
    return StoredDelta(
        sample=parts[0].sample,
        attribution=parts[0].attribution,
        classes=parts[0].classes,
        delta=delta,
        n_cnns=sum(one.n_cnns for one in parts),
        source=parts[0].source,
        n_says=n_says,
        **counts,
    )


def _model_rows(names: Sequence[str], parts: Sequence[StoredDelta]) -> Iterator[dict[str, Any]]:
    """Counts of every model, and how alike their maps are."""
    for index, class_name in enumerate(parts[0].classes):
        known = [one.delta[index] for one in parts if one.n_says[index]]
        alike = mean_agreement(known)._asdict()
        for name, one in zip(names, parts, strict=True):
            yield {
                "sample": one.sample,
                "source": one.source,
                "attribution": one.attribution,
                "class": class_name,
                "model": name,
                **{count: getattr(one, count)[index] for count in _COUNTS},
                "n_cnns": one.n_cnns,
                "n_says": one.n_says[index],
                **alike,
            }


def _regions(
    studies: Sequence[Study],
    deltas: Sequence[StoredDelta],
    parts: Sequence[Sequence[StoredDelta]],
) -> Iterator[dict[str, Any]]:
    """Where the averaged Δ lies; copy edges are averaged over the models as Δ is."""
    found = [cache(partial(mean_copies, study)) for study in studies]
    for one, own in zip(deltas, parts, strict=True):

        def copies(
            name: str, one: StoredDelta = one, own: Sequence[StoredDelta] = own
        ) -> np.ndarray:
            each = np.stack([of(one.sample, name) for of in found])
            weights = np.array([model.n_says[one.classes.index(name)] for model in own])
            mean: np.ndarray = np.average(each, axis=0, weights=weights if weights.any() else None)
            return mean

        yield from region_rows(one, copies)
