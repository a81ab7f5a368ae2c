"""Which ranking of edges names those that a class of memorized sequences needs.

python -m experiments.rankings.run WORK --write docs/appendix/rankings.md
python -m experiments.rankings.run WORK --quick
python -m experiments.rankings.run PLANTED --study planted/study --write docs/appendix/rankings.md

On the embedded model, or on passages planted in SmolLM2 beside templates (`planted/run.py`): a
study with a taxonomy of two classes beside Non-Memo, without Δ. Up to 300 sequences of
each class are dealt by group (near duplicates stay together) into two halves, anew for every seed.
Edges are ranked on one half and cut in sequences of the other: all rankings are compared that way,
and the best are confirmed the other way round. Δ is that of one CNN a seed, whose training may have
seen the sequences that are cut. Every cut stands beside edges of equal mass. Then each sequence's
own few edges, beside as heavy ones of its own and those of another sequence. What is done is kept
in WORK: a stopped run goes on.
"""

import argparse
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

import mnemoscope as ms
from experiments.pages import figure, show_tables, table_of
from mnemoscope.data.table import token_matrix
from mnemoscope.lm.model import LanguageModel
from mnemoscope.localize.cut import (
    class_mean,
    contrasted,
    count_edges,
    cut_and_judge,
    equal_mass_edges,
    largest_edges,
)
from mnemoscope.localize.rankings import RANKINGS, Measure
from mnemoscope.pipeline.deltas import load_deltas
from mnemoscope.progress import say
from mnemoscope.stats import Estimate, draw_counts, interval_of, resampled_ratio
from mnemoscope.study.models import Models
from mnemoscope.study.settings import parse_settings
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.names import NON_MEMO

OWN_EDGES = (2, 8)
OWN_RANKINGS = ("total_effect", "contribution")
HALVES = ("compared", "confirmed")
N_CONFIRMED = 1  # the best, and beside it Δ and what needs nothing that is not stored
BESIDE = ("delta", "weights_contrast")
BATCH_SIZE = 50


class Setup(NamedTuple):
    """Which classes are held against each other, and how much is tried."""

    classes: tuple[str, str] = ("Guess", "Recall")
    n: int = 300  # sequences of each class, both halves together
    n_tried: int = 150  # of each class of a half and seed: in these edges are cut
    n_own: int = 150  # of these: each cut in edges of its own
    rotates: bool = False  # each seed first tries those that earlier seeds cut least often
    strengths: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)  # at 10 % nearly everything breaks
    seeds: int = 3
    rankings: tuple[str, ...] = ("delta", *RANKINGS)
    beside: tuple[str, ...] = BESIDE

    @property
    def taxonomy(self) -> str:
        """The column of labels."""
        return f"{NON_MEMO}, {', '.join(self.classes)}"


PLANTED = Setup(
    classes=("Template", "Passage"),
    n_tried=100,
    n_own=20,
    rotates=True,  # in three seeds all of a class are cut
    rankings=tuple(RANKINGS),
    beside=(),
)


class Half(NamedTuple):
    """Sequences of both classes: `sequence_id`, `class`, `group`; tokens (n, T) in that order."""

    rows: pl.DataFrame
    tokens: np.ndarray

    def of(self, name: str) -> np.ndarray:
        """Tokens of one class."""
        found: np.ndarray = self.tokens[(self.rows["class"] == name).to_numpy()]
        return found

    def rarest(self, n: int, times: Counter[int]) -> "Half":
        """The n of each class that were cut least often so far, `times` by id; counts them."""
        cut = pl.Series("cut", [times[one] for one in self.rows["sequence_id"]])
        order = self.rows.with_columns(cut).with_row_index("row").sort("cut", maintain_order=True)
        taken = order.filter(pl.int_range(pl.len()).over("class") < n)["row"].sort().to_numpy()
        chosen = Half(self.rows[taken], self.tokens[taken])
        times.update(chosen.rows["sequence_id"])
        return chosen


def made_study(work: Path, seed: int, *, quick: bool) -> ms.Study:
    """The demo's study with the paper's taxonomy alone, its CNNs of one seed, up to its Δ."""
    values = {
        "title": "rankings",
        "sequences": {"limit": 2500 if quick else None},
        "continue": {"scan": True},
        "label": {"taxonomies": [Setup().taxonomy], "n_train": 240, "n_eval": 120},
        "train": {"poolings": ["mean"], "seeds": [seed]},
        "benchmark": {"controls": False},
        "localize": {"attributions": ["gradient"], "sanity": False},
    }
    folder, first = work / f"study-{seed}", work / "study-0"
    if seed and not folder.is_dir():  # labels and maps are the same
        shutil.copytree(first, folder)
    return ms.run(parse_settings(values, where="rankings"), folder, until="localize", redo=seed > 0)


def dealt(study: ms.Study, seed: int, setup: Setup) -> list[Half]:
    """Two halves of up to n sequences a class, group by group, each class about evenly."""
    table = study.sequences.join(study.read("labels.parquet"), on="sequence_id")
    table = table.with_columns(pl.col(setup.taxonomy).alias("class"), group=find_groups(table))
    table = table.filter(pl.col("class").is_in(setup.classes))
    table = table.sample(fraction=1.0, shuffle=True, seed=seed)
    table = table.filter(pl.int_range(pl.len()).over("class") < setup.n)
    counts, side = np.zeros((2, len(setup.classes))), {}
    for one in table.group_by("group", maintain_order=True).agg("class").to_dicts():
        held = np.array([one["class"].count(name) for name in setup.classes])
        side[one["group"]] = int(counts[0] @ held > counts[1] @ held)
        counts[side[one["group"]]] += held
    sides = table["group"].replace_strict(side)
    parts = [table.filter(sides == place) for place in range(len(HALVES))]
    return [Half(one.select("sequence_id", "class", "group"), token_matrix(one)) for one in parts]


def mean_of(lm: LanguageModel, measured: Half, measure: Measure, name: str) -> torch.Tensor:
    """A measure's mean over one class."""
    return class_mean(lm, measured.of(name), measure, BATCH_SIZE)


def ranked(
    mean: Callable[[Measure, str], torch.Tensor], study: ms.Study, name: str, setup: Setup
) -> dict[str, torch.Tensor]:
    """Values of every edge for each class."""
    if name == "delta":
        delta = next(one for one in load_deltas(study) if one.attribution == "gradient")
        numbers = (delta.classes.index(one) for one in setup.classes)
        values = [torch.from_numpy(delta.delta[one]) for one in numbers]
    else:
        ranking = RANKINGS[name]
        values = [mean(ranking.measure, one) for one in setup.classes]
        if ranking.contrast:
            _, *values = contrasted([torch.zeros_like(values[0]), *values])
    return dict(zip(setup.classes, values, strict=True))


def class_cuts(
    lm: LanguageModel,
    tried: Half,
    values: Callable[[], dict[str, torch.Tensor]],
    mean: Callable[[Measure, str], torch.Tensor],
    strength: float,
    seed: int,
) -> Iterator[pl.DataFrame]:
    """Cut so many edges as one ranking names them, for each class."""
    for own, ranking in values().items():
        mass = mean(RANKINGS["weights"].measure, own)
        edges = largest_edges(ranking, count_edges(strength, *mass.shape[:2]))
        generator = torch.Generator().manual_seed(seed)
        cuts = {"ranked": edges, "equal mass": equal_mass_edges(edges, mass, generator)}
        for choice, cut in cuts.items():
            yield outcome(lm, tried, cut).with_columns(
                edges_of=pl.lit(own), strength=pl.lit(strength), choice=pl.lit(choice)
            )


def own_cuts(lm: LanguageModel, tried: Half, name: str, seed: int) -> Iterator[pl.DataFrame]:
    """Each sequence's own edges, as heavy ones of its own, another sequence's of its class."""
    read = partial(read_all, lm, tried.tokens)
    values, attention = read(name), read("weights")
    classes = tried.rows["class"].to_numpy()
    others = np.arange(len(classes))
    for one in np.unique(classes):
        rows = np.flatnonzero(classes == one)
        others[rows] = np.roll(rows, 1)
    for n in OWN_EDGES:
        edges = torch.stack([largest_edges(one, n) for one in values])
        generator = torch.Generator().manual_seed(seed)
        pairs = zip(edges, attention, strict=True)
        equal = torch.stack([equal_mass_edges(own, mass, generator) for own, mass in pairs])
        cuts = {"own": edges, "equal mass": equal, "another's": edges[torch.from_numpy(others)]}
        for choice, cut in cuts.items():
            yield outcome(lm, tried, cut).with_columns(choice=pl.lit(choice), n_edges=pl.lit(n))


def read_all(lm: LanguageModel, tokens: np.ndarray, name: str) -> torch.Tensor:
    """One measure of every sequence, (n, layers, T, T)."""
    return torch.cat(list(RANKINGS[name].measure(lm, tokens, BATCH_SIZE, 32)))


def outcome(lm: LanguageModel, tried: Half, edges: torch.Tensor) -> pl.DataFrame:
    """Which sequences break."""
    judged = cut_and_judge(lm, tried.tokens, edges, renormalize=False, batch_size=BATCH_SIZE)
    return tried.rows.with_columns(broken=pl.Series(~judged.is_right.all(axis=1)))


def compared(
    work: Path, subjects: list[ms.Study], setup: Setup
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Outcomes of the classes' edges: all rankings on one half, the best few on the other; own."""
    lm = Models(subjects[0].settings).model(subjects[0])
    halves = [dealt(study, seed, setup) for seed, study in enumerate(subjects)]
    times = Counter[int]()
    cut_in = [
        [half.rarest(setup.n_tried, times if setup.rotates else Counter()) for half in both]
        for both in halves
    ]

    def cut(place: int, names: Iterable[str]) -> Iterator[pl.DataFrame]:
        for seed, study in enumerate(subjects):
            measured, tried = halves[seed][1 - place], cut_in[seed][place]
            mean = cache(partial(mean_of, lm, measured))
            for name in names:
                values = cache(partial(ranked, mean, study, name, setup))
                for strength in setup.strengths:
                    path = work / f"{seed}-{HALVES[place]}-{name}-{strength:g}.parquet"
                    make = partial(class_cuts, lm, tried, values, mean, strength, seed)
                    yield kept(path, make, seed=seed, half=HALVES[place], ranking=name)

    def own(place: int) -> Iterator[pl.DataFrame]:
        for seed in range(len(subjects)):
            for name in OWN_RANKINGS:
                path = work / f"{seed}-{HALVES[place]}-{name}-own.parquet"
                tried = cut_in[seed][place].rarest(setup.n_own, Counter())
                make = partial(own_cuts, lm, tried, name, seed)
                yield kept(path, make, seed=seed, half=HALVES[place], ranking=name)

    first = pl.concat(cut(0, setup.rankings))
    best = [name for name, _ in in_order(first)][:N_CONFIRMED]
    second = pl.concat(cut(1, dict.fromkeys([*best, *setup.beside])))
    return pl.concat([first, second]), pl.concat(own(0))


def kept(path: Path, make: partial[Iterator[pl.DataFrame]], **names: object) -> pl.DataFrame:
    """Read outcomes, or make and keep them."""
    if not path.is_file():
        columns = {name: pl.lit(value) for name, value in names.items()}
        pl.concat(list(make())).with_columns(**columns).write_parquet(path)
        say(f"{path.name} done")
    return pl.read_parquet(path)


# Figures: every sequence is broken or not; intervals draw groups, the same in all seeds.


def gains(cuts: pl.DataFrame) -> pl.DataFrame:
    """Broken by the ranked edges less broken by those of equal mass, a row a sequence and cut."""
    keys = ["seed", "half", "ranking", "edges_of", "strength", "sequence_id", "class", "group"]
    wide = cuts.pivot("choice", index=keys, values="broken")
    return wide.with_columns(
        gain=pl.col("ranked").cast(pl.Float64) - pl.col("equal mass").cast(pl.Float64)
    )


def specificity_of(rows: pl.DataFrame, seed: int = 0) -> Estimate:
    """Gain in the edges' own class less that in the other, its interval over groups.

    Rows of several seeds, strengths or classes of edges are averaged.
    """
    signed = rows.with_columns(own=pl.col("class") == pl.col("edges_of"))
    units = signed.group_by("group", maintain_order=True).agg(
        pl.col("gain").filter(pl.col("own")).sum().alias("own_sum"),
        pl.col("own").sum().alias("own_n"),
        pl.col("gain").filter(~pl.col("own")).sum().alias("other_sum"),
        (~pl.col("own")).sum().alias("other_n"),
    )
    sums = units.select("own_sum", "own_n", "other_sum", "other_n").to_numpy().astype(float)

    def figure(weights: np.ndarray) -> np.ndarray:
        own_sum, own_n, other_sum, other_n = (weights @ sums).T
        found: np.ndarray = own_sum / own_n - other_sum / other_n
        return found

    drawn = draw_counts(np.random.default_rng(seed), len(sums), 1000)
    return Estimate(float(figure(np.ones((1, len(sums))))[0]), *interval_of(figure(drawn)))


def in_order(cuts: pl.DataFrame) -> list[tuple[str, Estimate]]:
    """Rankings from the best: mean specificity over classes, strengths and seeds."""
    rows = gains(cuts)
    found = [(name, specificity_of(rows.filter(ranking=name))) for name in names_of(rows)]
    return sorted(found, key=lambda one: -(one[1].value or 0.0))


def names_of(rows: pl.DataFrame) -> list[str]:
    """Rankings in the order of the table."""
    return rows["ranking"].unique(maintain_order=True).to_list()


def share(found: Estimate) -> str:
    """A difference of shares."""
    return figure(*found, scale=1, digits=2)


def by_seed(rows: pl.DataFrame) -> str:
    """The specificity of each seed."""
    parts = rows.partition_by("seed", maintain_order=True)
    return ", ".join(figure(specificity_of(part).value, scale=1, digits=2) for part in parts)


def of_rankings(cuts: pl.DataFrame, setup: Setup) -> str:
    """A line a ranking and half; specificity by strength and class of the edges."""
    heads = [f"{own}, {strength:g} %" for own in setup.classes for strength in setup.strengths]
    lines = []
    for half in HALVES:
        own = cuts.filter(half=half)
        for name, whole in in_order(own) if own.height else []:
            rows = gains(own.filter(ranking=name))
            cells = [
                share(specificity_of(rows.filter(edges_of=one, strength=strength)))
                for one in setup.classes
                for strength in setup.strengths
            ]
            lines.append([name, half, share(whole), by_seed(rows), *cells])
    return table_of(["ranking", "half", "all", "by seed", *heads], lines)


def broken(cuts: pl.DataFrame, strength: float, setup: Setup) -> str:
    """What breaks at one strength: of each class, by the ranked edges and by equal mass."""
    columns, lines = ["ranking", "half", "edges of"], []
    for one in setup.classes:
        columns += [f"{one} breaks, %", "by equal mass, %"]
    keys = ("half", "ranking", "edges_of")
    tried_at = gains(cuts.filter(strength=strength))
    for (half, name, own), rows in tried_at.group_by(*keys, maintain_order=True):
        cells = []
        for one in setup.classes:
            tried = rows.filter(pl.col("class") == one)
            means = (tried[kind].to_numpy().mean() for kind in ("ranked", "equal mass"))
            cells += [f"{100 * one:.0f}" for one in means]
        lines.append([name, half, own, *cells, share(specificity_of(rows)), by_seed(rows)])
    return table_of([*columns, "specificity", "by seed"], lines)


def broken_by_own(own: pl.DataFrame) -> str:
    """What each sequence's own edges break, per cent, over all seeds."""
    choices, lines = ("own", "equal mass", "another's"), []
    for (name, n, one), rows in own.group_by("ranking", "n_edges", "class", maintain_order=True):
        cells = []
        for choice in choices:
            tried = rows.filter(choice=choice)
            units = tried.group_by("group", maintain_order=True).agg(
                pl.col("broken").sum(), n=pl.len()
            )
            found = resampled_ratio(units["broken"].to_numpy(), units["n"].to_numpy())
            cells.append(figure(*found, digits=0))
        lines.append([name, str(n), one, *cells])
    return table_of(["own edges by", "edges", "class", *(f"{one}, %" for one in choices)], lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder in which outcomes are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, 40 sequences a class")
    parser.add_argument("--study", type=Path, help="of the planted SmolLM2")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    setup = Setup(seeds=options.seeds)
    if options.quick:
        setup = Setup(seeds=1, n=40)
    if options.study:
        setup = PLANTED._replace(seeds=options.seeds)
        studies = [ms.Study(options.study)] * setup.seeds
    else:
        studies = [made_study(options.work, one, quick=options.quick) for one in range(setup.seeds)]
    by_class, by_sequence = compared(options.work, studies, setup)
    tables = of_rankings(by_class, setup), broken(by_class, 1.0, setup), broken_by_own(by_sequence)
    page = "\n".join(tables)
    show_tables(page, options.write, "planted" if options.study else "rankings")
