"""Which classes need to copy: their copy edges cut, beside as many others of every sequence.

mnemoscope demo -o demo
python -m experiments.knockout.copy_trial demo --write docs/appendix/knockout-more.md

A copy edge goes to the key one past an earlier occurrence of the query's token. Classes differ in
how many such edges their sequences have; so every sequence is held against as many random keys of
the same queries, and against as many of its other edges that hold about as much of its attention,
and Guess and Recall are compared among sequences with about as many copy edges, and about as much
attention on them, as well.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

import mnemoscope as ms
from experiments.pages import figure, show_tables, table_of
from mnemoscope.data.table import token_matrix
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.model import LanguageModel
from mnemoscope.localize.cut import (
    cut_and_continue,
    equal_mass_edges,
    mean_share,
    random_keys,
)
from mnemoscope.maps.shape import copy_edges
from mnemoscope.study.models import Models

PRASHANTH, PAPER = "Non-Memo, Recite[16], Reconstruct, Recollect", "Non-Memo, Guess, Recall"
NATURAL = pl.col("genre") != "template"
GROUPS = {
    "Guess": pl.col(PAPER) == "Guess",
    "Guess, natural": (pl.col(PAPER) == "Guess") & NATURAL,
    "Reconstruct": pl.col(PRASHANTH) == "Reconstruct",
    "Recall": pl.col(PAPER) == "Recall",
    "Recite[16]": pl.col(PRASHANTH) == "Recite[16]",
    "Recollect": pl.col(PRASHANTH) == "Recollect",
}
CONTROLS = ("random keys", "equal mass")
NUMBERS = (0.0, 0.5, 1.0, 2.0, 4.0, np.inf)  # copy edges a query
SHARES = (0.0, 2.0, 4.0, 8.0, 16.0, np.inf)  # attention on them, per cent
LEAST = 5  # sequences of a stratum


class Trial(NamedTuple):
    """What the cuts did to each sequence.

    Attributes:
        per_query: copy edges a query and layer, (n,).
        survives: for each cut, bool (draws, n).
        mass: for each cut, share of the sequence's attention on the edges, (draws, n).
    """

    per_query: np.ndarray
    survives: dict[str, np.ndarray]
    mass: dict[str, np.ndarray]


def drawn(study: ms.Study, n: int) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """Up to n sequences of each group; a sequence may stand for several groups.

    Returns:
        The sequences, and for each group which of them are its.
    """
    table = study.sequences.join(study.read("labels.parquet"), on="sequence_id")
    table = table.sample(fraction=1.0, shuffle=True, seed=0).with_row_index("order")
    found = {name: table.filter(rule).head(n)["order"] for name, rule in GROUPS.items()}
    chosen = table.filter(pl.col("order").is_in(pl.concat(found.values()).implode()))
    return chosen, {
        name: chosen["order"].is_in(rows.implode()).to_numpy() for name, rows in found.items()
    }


def tried(lm: LanguageModel, tokens: np.ndarray, draws: int, batch_size: int) -> Trial:
    """Cut every sequence's copy edges, and `draws` of each control."""
    attention = torch.cat([maps.mean for maps in capture_pooled(lm, tokens, batch_size=batch_size)])
    copies = copy_edges(torch.from_numpy(tokens), lm.n_layers)
    cuts = {"nothing": [torch.zeros_like(copies)], "copy": [copies]}
    cuts |= {
        name: [beside(name, copies, attention, draw) for draw in range(draws)] for name in CONTROLS
    }
    survives, mass = {}, {}
    for name, edges in cuts.items():
        cut = partial(cut_and_continue, lm, tokens, renormalize=False, batch_size=batch_size)
        survives[name] = np.stack([cut(one).survives for one in edges])
        mass[name] = np.stack([held(one, attention) for one in edges])
    n_queries = copies.shape[1] * (copies.shape[2] - 1)
    return Trial(copies.sum(dim=(1, 2, 3)).numpy() / n_queries, survives, mass)


def beside(name: str, copies: torch.Tensor, attention: torch.Tensor, draw: int) -> torch.Tensor:
    """One draw of a control's edges, of each sequence its own."""
    found = []
    for row in range(len(copies)):
        generator = torch.Generator().manual_seed(draw * len(copies) + row)
        if name == "random keys":
            found.append(random_keys(copies[row], generator))
        else:
            found.append(equal_mass_edges(copies[row], attention[row], generator))
    return torch.stack(found)


def held(edges: torch.Tensor, attention: torch.Tensor) -> np.ndarray:
    """Share of each sequence's attention that is on the edges; the last query is not cut."""
    kept = attention[:, :, :-1]
    return ((kept * edges[:, :, :-1]).sum(dim=(1, 2, 3)) / kept.sum(dim=(1, 2, 3))).numpy()


def said(draws: list[np.ndarray]) -> str:
    """The share of sequences over some draws, (n,) each, in per cent."""
    return figure(*mean_share(draws, n_resamples=1000, seed=0), digits=0)


def group_rows(trial: Trial, groups: dict[str, np.ndarray]) -> Iterator[list[str]]:
    """What survives each cut in each group, and what copy edges break beyond equal mass."""
    for name, rows in groups.items():
        survives = {cut: draws[:, rows] for cut, draws in trial.survives.items()}
        mass = {cut: f"{100 * draws[:, rows].mean():.1f}" for cut, draws in trial.mass.items()}
        more = survives["equal mass"].mean(axis=0) - survives["copy"][0]
        yield [
            name,
            str(rows.sum()),
            f"{trial.per_query[rows].mean():.1f}",
            mass["copy"],
            *(said(list(survives[cut])) for cut in ("nothing", "copy", *CONTROLS)),
            mass["random keys"],
            mass["equal mass"],
            said([more]),
        ]


def stratum_rows(
    trial: Trial, groups: dict[str, np.ndarray], values: np.ndarray, bounds: tuple[float, ...]
) -> Iterator[list[str]]:
    """Guess beside Recall among sequences whose value lies between two bounds."""
    for low, high in pairwise(bounds):
        cells = [f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more"]
        for rows in (groups["Guess"] | groups["Guess, natural"], groups["Recall"]):
            within = rows & (values >= low) & (values < high)
            cells.append(str(within.sum()))
            for cut in ("copy", "equal mass"):
                draws = list(trial.survives[cut][:, within])
                cells.append(said(draws) if within.sum() >= LEAST else "–")
        yield cells


def tables(trial: Trial, groups: dict[str, np.ndarray]) -> str:
    """By class, by number of copy edges, and by the attention on them."""
    by_class = [
        *("class", "sequences", "copy edges a query", "attention on them, %"),
        *("survive, nothing cut, %", "copy edges cut", "as many random keys cut"),
        *("as many edges of equal mass cut", "attention on the random keys, %"),
        *("attention on those of equal mass, %", "broken beyond equal mass, points"),
    ]
    beside = [
        f"{name}: {words}"
        for name in ("Guess", "Recall")
        for words in ("sequences", "copy edges cut, survive, %", "equal mass cut, survive, %")
    ]
    share = 100 * trial.mass["copy"][0]
    numbers = stratum_rows(trial, groups, trial.per_query, NUMBERS)
    shares = stratum_rows(trial, groups, share, SHARES)
    return "\n".join(
        [
            table_of(by_class, group_rows(trial, groups)),
            table_of(["copy edges a query", *beside], numbers),
            table_of(["attention on them, %", *beside], shares),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--sequences", type=int, default=300, help="of each class")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    study = ms.Study(options.study)
    chosen, groups = drawn(study, options.sequences)
    model = Models(study.settings).model(study)
    trial = tried(model, token_matrix(chosen), options.draws, study.settings.rows_at_once)
    show_tables(tables(trial, groups), options.write, "copy trial")
