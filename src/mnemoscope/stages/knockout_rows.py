"""What the cuts of a knockout did: rows of its two tables, and the result in words."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mnemoscope.localize.knockout import mean_share, specificity

__all__ = ["Cut", "cut_rows", "specificity_rows", "statements"]

_N_RESAMPLES = 1000


@dataclass(frozen=True)
class Cut:
    """One set of edges to cut.

    Attributes:
        sample: the sample whose Δ it comes from.
        choice: `decisive`, `highest mass`, `random`, `equal mass`, `same layers`, `copy`,
            `copy, random`, `copy, equal mass` or `nothing`.
        edges_of: the class whose Δ or mass ranks the edges, empty where none does; of Non-Memo
            only the decisive edges are tried, on the memorized classes.
        strength: per cent of all edges; null where each sequence has its own edges.
        draw: number of the random draw.
    """

    sample: str
    choice: str
    edges_of: str
    strength: float | None
    draw: int


Outcomes = Mapping[Cut, pl.DataFrame]
"""What each cut did to each sequence: `sequence_id`, `class`, `survives`, `score`, `logprob`."""
Sizes = Mapping[Cut, Mapping[str, tuple[float, float]]]
"""Of each cut and class: edges cut, and the share of all attention on them."""


def cut_rows(
    names: Sequence[str], outcomes: Outcomes, sizes: Sizes, *, seed: int
) -> Iterator[dict[str, object]]:
    """One row a kind of cut and tried class, over its draws.

    Args:
        names: classes whose sequences were tried.
        outcomes: of every cut of one sample.
        sizes: of the same cuts, by class.
        seed: of the bootstrap.
    """
    for (choice, edges_of, strength), draws in _by_kind(outcomes).items():
        for name in names:
            parts = [outcomes[cut].filter(pl.col("class") == name) for cut in draws]
            survival = mean_share(
                [part["survives"].to_numpy() for part in parts],
                n_resamples=_N_RESAMPLES,
                seed=seed,
            )
            yield {
                "sample": draws[0].sample,
                "choice": choice,
                "edges_of": edges_of,
                "strength": strength,
                "class": name,
                "n": parts[0].height,
                "draws": len(draws),
                "n_edges": float(np.mean([sizes[cut][name][0] for cut in draws])),
                "mass": float(np.mean([sizes[cut][name][1] for cut in draws])),
                "survival": survival.value,
                "low": survival.low,
                "high": survival.high,
                "score": float(np.mean([part["score"].to_numpy().mean() for part in parts])),
                "logprob": float(np.mean([part["logprob"].to_numpy().mean() for part in parts])),
            }


def specificity_rows(
    names: Sequence[str], outcomes: Outcomes, *, seed: int
) -> Iterator[dict[str, object]]:
    """For each class and strength: broken by its decisive edges, and by random ones as heavy.

    Args:
        names: classes whose sequences were tried.
        outcomes: of every cut of one sample.
        seed: of the bootstrap.
    """
    kinds = _by_kind(outcomes)
    for choice, own, strength in kinds:
        if choice != "decisive" or own not in names:
            continue
        (decisive,) = kinds[choice, own, strength]
        broken = {name: _broken(outcomes[decisive], name) for name in names}
        by_equal_mass = {
            name: [_broken(outcomes[cut], name) for cut in kinds["equal mass", own, strength]]
            for name in names
        }
        others = {name: float(broken[name].mean()) for name in names if name != own}
        row: dict[str, object] = {
            "sample": decisive.sample,
            "class": own,
            "strength": strength,
            "broken_own": float(broken[own].mean()),
            "broken_own_equal_mass": float(np.mean(by_equal_mass[own])),
            "broken_others": json.dumps(others),
            "specificity": None,
            "low": None,
            "high": None,
        }
        if others:
            index = specificity(broken, by_equal_mass, own, n_resamples=_N_RESAMPLES, seed=seed)
            row |= {"specificity": index.value, "low": index.low, "high": index.high}
        yield row


def statements(indices: list[dict[str, object]]) -> Iterator[str]:
    """Say the result in words, a line a class and strength.

    Args:
        indices: rows of `specificity.parquet`.
    """
    for row in indices:
        others = json.loads(str(row["broken_others"]))
        said = " and ".join(f"{share:.0%} of {name}" for name, share in others.items())
        yield (
            f"{row['sample']}: cutting the {row['strength']:g} % edges most decisive for "
            f"{row['class']} breaks {row['broken_own']:.0%} of {row['class']}"
            + (f" and {said}" if said else "")
            + f"; random edges of equal mass break {row['broken_own_equal_mass']:.0%} of it."
        )


def _by_kind(cuts: Iterable[Cut]) -> dict[tuple[str, str, float | None], list[Cut]]:
    """The draws of each kind of cut, by choice, class of the edges and strength, in order."""
    kinds: dict[tuple[str, str, float | None], list[Cut]] = {}
    for cut in cuts:
        kinds.setdefault((cut.choice, cut.edges_of, cut.strength), []).append(cut)
    return kinds


def _broken(frame: pl.DataFrame, name: str) -> np.ndarray:
    """Which sequences of a class are no longer reproduced."""
    return ~frame.filter(pl.col("class") == name)["survives"].to_numpy()
