"""What the page says and draws of grafts: parts, their findings, and dose curves."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from mnemoscope.pipeline.causes import (
    CURVES_FILE,
    FINDINGS,
    GRAFT_FILE,
    GRAFT_SPECIFICITY_FILE,
    INTO_MODEL,
    INTO_TWIN,
    PATCHES_FILE,
    SAME_SIZE,
    TRUTH,
    by_weight,
    finding_of,
    graft_statements,
)
from mnemoscope.stats import NO_ESTIMATE, Estimate, rows_of
from mnemoscope.store import Facts
from mnemoscope.study.folder import Study

MOST_CURVES = 6
"""Parts whose dose curves are drawn."""
_GRID = np.linspace(0, 1, 41)

_SHARE = ["survive", "low", "high"]


def graft_of(study: Study, taxonomy: str) -> Facts | None:
    """What parts of the twin break of each class of a taxonomy; None where that was not tried.

    `classes` are the memorized ones and `counts` the sequences tried of each. `rows` are parts,
    those first whose finding says most: `cells` the survival of each class with the twin's part,
    `random` under random changes as large, `found` the row of its strongest finding (None with one
    class). `first` is that of all parts (None where no two classes can be compared), `doses` are as
    `_doses` gives them, `truth` the sentence by truth and `by_truth` the row that it rests on
    (None: not known), `patches`, None where there are none, as `_patches_of`.
    """
    manifest = study.manifest("graft")
    if manifest is None or not study.is_done("graft"):
        return None
    of_truth, rows = (
        _shares(study.read(GRAFT_FILE).filter(taxonomy=one)) for one in (TRUTH, taxonomy)
    )
    if rows.is_empty():
        return None
    inside = rows.filter(pl.col("part") != "", direction=INTO_MODEL)
    counts = dict(inside.select("class", "n").unique(maintain_order=True).iter_rows())
    every = study.read(GRAFT_SPECIFICITY_FILE)
    specific, by_truth = (every.filter(taxonomy=one) for one in (taxonomy, TRUTH))
    found: dict[str, Facts] = {}
    for row in by_weight(list(rows_of(specific))):
        found.setdefault(row["part"], dict(row) | {"words": FINDINGS[finding_of(row)]})
    curves = study.read(CURVES_FILE).filter(taxonomy=taxonomy)
    first = None if curves.is_empty() else next(iter(found.values()), None)
    shown = list(_parts(inside, curves, found, manifest["counts"]["heldout_loss"]))
    brought = rows.filter(direction=INTO_TWIN)
    plain_twin = dict(brought.filter(part="").select("class", "survive").iter_rows())
    appear = brought.filter(pl.col("part") != "").sort("survive", descending=True)
    return {
        "classes": list(counts),
        "counts": counts,
        "rows": shown,
        "first": first,
        "doses": [
            _doses(inside, curves, row["found"], first)
            for row in shown[:MOST_CURVES]
            if first and row["found"]
        ],
        "controls": study.settings.graft.controls,
        "draws": study.settings.graft.draws,
        "statement": " ".join(graft_statements(specific, rows)),
        "truth": " ".join(graft_statements(by_truth, of_truth)),
        "has_interval": any(one.low is not None for row in shown for one in row["cells"]),
        "by_truth": next(iter(by_weight(list(rows_of(by_truth)))), None),
        "appear": [
            {name: row[name] for name in ("class", "part", "survive")}
            | {"alone": plain_twin[row["class"]]}
            for row in appear.unique("class", keep="first", maintain_order=True).to_dicts()
        ],
        "patches": _patches_of(study, taxonomy),
    }


def _shares(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the share that survives and its ends as the columns `_SHARE`."""
    return rows.unnest("survive").rename({"value": "survive"})


def _parts(
    inside: pl.DataFrame, curves: pl.DataFrame, found: Mapping[str, Facts], plain: float | None
) -> Iterator[Facts]:
    """Each part with its classes: first those of findings, then by what it breaks beyond random.

    `loss` is how much the loss of what is held out rises, `random_loss` how much under random
    changes that leave as much of the spared class; where none is spared, of those of the same size.
    """
    own, same = (
        {part: rows for (part,), rows in of.group_by("part", maintain_order=True)}
        for of in (inside.filter(control=one, share=1.0) for one in ("twin", SAME_SIZE))
    )

    def left(rows: pl.DataFrame) -> float:
        """The share of all memorized sequences that is left."""
        return float((rows["survive"] * rows["n"]).sum()) / float(rows["n"].sum())

    def beside(part: str) -> tuple[float, float]:
        """How much more is left than under random changes of the same size, then what is left."""
        kept = left(own[part])
        return kept - (left(same[part]) if part in same else 1.0), kept

    most_broken = sorted(own, key=beside)
    for part in [*found, *(one for one in most_broken if one not in found)]:
        loss, row, random = own[part]["heldout_loss"][0], found.get(part), None
        if row and plain is not None:
            of = curves.filter(pl.col("class") == row["spared"], part=part)
            walks = [
                [(1.0, plain), *rows.sort("scale").select("survive", "heldout_loss").iter_rows()]
                for _, rows in of.drop_nulls("heldout_loss").group_by("draw", maintain_order=True)
            ]
            spared = own[part].filter(pl.col("class") == row["spared"])["survive"].to_numpy()
            random = next((y - plain for _, y in _mean(walks, spared)), None)
        elif part in same and plain is not None and same[part]["heldout_loss"][0] is not None:
            random = same[part]["heldout_loss"][0] - plain
        yield {
            "part": part,
            "cells": [Estimate(*one) for one in own[part].select(_SHARE).iter_rows()],
            "random": [Estimate(*one) for one in same[part].select(_SHARE).iter_rows()]
            if part in same
            else [],
            "found": row,
            "loss": None if loss is None or plain is None else loss - plain,
            "random_loss": random,
        }


def _doses(
    inside: pl.DataFrame, curves: pl.DataFrame, row: Mapping[str, Any], first: Mapping[str, Any]
) -> Facts:
    """A part's dose curves: share kept of one class (x) against another's (y).

    The classes are those of its finding, `first` of all findings saying which is which. Points
    (x, y) of each of its `walks` from the whole model on, of their `mean`, of the `twin` at growing
    shares, and of the `flip`; kinds of text are not held equal.
    """
    pair = row["spared"], row["broken"]
    if pair == (first["broken"], first["spared"]):
        pair = pair[::-1]
    own = curves.filter(part=row["part"])
    walks = [
        [(1.0, 1.0), *_points(rows, pair, "scale")]
        for _, rows in own.group_by("draw", maintain_order=True)
    ]
    of_part = inside.filter(part=row["part"])
    return {
        **{"row": row, "x": pair[0], "y": pair[1]},
        "walks": walks,
        "mean": _mean(walks),
        "twin": _points(of_part.filter(control="twin"), pair, "share"),
        "flip": _points(of_part.filter(control="flip"), pair, "share"),
    }


def _points(rows: pl.DataFrame, pair: tuple[str, str], dose: str) -> list[tuple[float, float]]:
    """Shares kept of two classes, by falling harm."""
    kept = rows.pivot("class", index=dose, values="survive", aggregate_function="first")
    return list(kept.sort(dose).select(pair).iter_rows())


def _mean(
    walks: Sequence[Sequence[tuple[float, float]]], at: np.ndarray = _GRID
) -> list[tuple[float, float]]:
    """Mean over walks (x, y) of y at each x of `at`, where at least half of them come there."""
    found = np.full((len(walks), len(at)), np.nan)
    for walk, ys in zip(walks, found, strict=True):
        for (x, y), (next_x, next_y) in pairwise(walk):
            is_here = (at <= max(x, next_x)) & (at >= min(x, next_x)) & np.isnan(ys)
            part = (at[is_here] - x) / (next_x - x) if next_x != x else 0.0
            ys[is_here] = y + part * (next_y - y)
    reached = np.isfinite(found).sum(axis=0)
    is_drawn = reached >= max(1, len(walks) / 2)
    means = np.nansum(found, axis=0)[is_drawn] / reached[is_drawn]
    return list(zip(at[is_drawn].tolist(), means.tolist(), strict=True))


def _patches_of(study: Study, taxonomy: str) -> Facts | None:
    """What the twin's activations break: `rows` are places, `columns` classes and positions.

    Each of a row's `cells` is survival with the twin's activations and, `control`, with those of
    its run on other sequences.
    """
    if not study.settings.graft.patch:
        return None
    rows = study.read(PATCHES_FILE).filter(taxonomy=taxonomy, direction=INTO_MODEL)
    rows = _shares(rows)
    keys = ("class", "positions")
    columns = rows.select(keys).unique(maintain_order=True).to_dicts()
    means = rows.group_by("part", *keys, "control").agg(pl.col(_SHARE).mean())
    found = {
        (row["part"], row["class"], row["positions"], row["control"]): row
        for row in means.iter_rows(named=True)
    }
    shown = []
    for part in rows["part"].unique(maintain_order=True):
        cells = []
        for column in columns:
            twin, other = (found.get((part, *column.values(), name)) for name in ("twin", "other"))
            left = NO_ESTIMATE if twin is None else Estimate(*(twin[name] for name in _SHARE))
            cells.append({"twin": left, "control": other and other["survive"]})
        shown.append({"part": part, "cells": cells})
    return {"columns": columns, "rows": shown} if shown else None
