"""How often are the verdicts of grafts right? Studies of known truth, simulated.

    python -m experiments.graft_verdicts.run [--studies 400] [--keep]

A sequence breaks when a change's size times its harm to that sequence exceeds the sequence's
firmness. Firmness differs by class and kind of text (`CLASSES`), as in the shipped model. A
direction's harm has a part of its own for each class, so that single directions of one size
differ, one for each group of near duplicates, and one for each sequence. A twin that is
*class-blind* is one more direction, of effective size 0.8 to 2: a verdict of "specific" is false. A
*true difference* makes the twin harm one class more, until that many points more of it are lost at
equal harm.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.graft_verdicts.tables import EFFECTS, SIZES
from experiments.pages import publish
from mnemoscope.localize.grafts import Finding, Part, Specific, Tried, Walk, compare_classes

WALK_STEP = 1.4
LARGEST = 8.0


@dataclass(frozen=True)
class World:
    """What is simulated.

    `n` sequences a class in groups of `group_size`; `n_walks` directions; `firmness` is of each
    class the median size that breaks a sequence, `spread` the deviation of its logarithm;
    `of_class`, `of_group`, `of_row` are deviations of a direction's log harm. `kinds` is of each
    class the share of the first of two kinds of text, `softer` how much less firm that is held.
    """

    n: int = 250
    group_size: int = 2
    n_walks: int = 16
    firmness: tuple[float, float] = (1.6, 1.0)
    spread: float = 0.5
    of_class: float = 0.04
    of_group: float = 0.2
    of_row: float = 0.4
    kinds: tuple[float, float] = (0.5, 0.5)
    softer: float = 1.0


def simulate(
    world: World,
    seed: int,
    *,
    size: float,
    effect: float = 0.0,
    n_parts: int = 1,
    flip: str = "blind",
) -> list[Specific]:
    """One study: `n_parts` parts whose twins are of effective `size`; the first has an `effect`.

    `effect` is a share of class 1 that the first part's twin breaks beyond its direction. The flip
    is another direction of that size (`blind`) or has the effect too (`same`).
    """
    rng = np.random.default_rng([seed, 7])
    classes = np.repeat([0, 1], world.n)
    groups = np.arange(2 * world.n) // world.group_size * 2 + classes
    kinds = (rng.random(2 * world.n) > np.take(world.kinds, classes)).astype(np.int64)
    log_firm = np.log(np.take(world.firmness, classes)) + np.where(
        kinds == 0, -np.log(world.softer), 0
    )
    firm = np.exp(log_firm + world.spread * rng.standard_normal(2 * world.n))
    _, place = np.unique(groups, return_inverse=True)

    def direction() -> np.ndarray:
        own = world.of_class * rng.standard_normal(2)[classes]
        shared = world.of_group * rng.standard_normal(place.max() + 1)[place]
        harm: np.ndarray = np.exp(own + shared + world.of_row * rng.standard_normal(2 * world.n))
        return harm

    def broken_more(survives: np.ndarray, share: float) -> np.ndarray:
        """Break so large a share of class 1 beyond what is broken, at random."""
        chosen = survives.copy()
        left = np.flatnonzero(survives & (classes == 1))
        n_more = min(len(left), round(share * world.n))
        chosen[rng.permutation(left)[:n_more]] = False
        return chosen

    parts = []
    for number in range(n_parts):
        twin, away = (size * direction() < firm for _ in range(2))
        if effect and not number:
            twin = broken_more(twin, effect)
            away = broken_more(away, effect) if flip == "same" else away
        walks = [_walk(firm / direction(), [twin, away], classes) for _ in range(world.n_walks)]
        parts.append(Part(f"part {number}", twin, away, walks))
    return compare_classes(parts, Tried(classes, groups, kinds, 2), seed=seed, n_resamples=200)


def _walk(breaks_at: np.ndarray, points: Sequence[np.ndarray], classes: np.ndarray) -> Walk:
    """Walk one direction as the stage does, until as much of each class is broken."""
    wanted = [min(point[classes == one].mean() for point in points) for one in (0, 1)]
    above = [max(point[classes == one].mean() for point in points) for one in (0, 1)]

    def left(scale: float) -> list[float]:
        return [float((scale < breaks_at)[classes == one].mean()) for one in (0, 1)]

    scales = [1.0]
    while (
        any(a > b for a, b in zip(left(scales[-1]), wanted, strict=True)) and scales[-1] < LARGEST
    ):
        scales.append(scales[-1] * WALK_STEP)
    while any(a < b for a, b in zip(left(scales[0]), above, strict=True)) and scales[0] > 0.125:
        scales.insert(0, scales[0] / WALK_STEP)
    steps = np.array(scales)
    return Walk(steps, steps[:, None] < breaks_at)


def says(found: Sequence[Specific], finding: Finding) -> bool:
    """Whether any pair of any part has this finding."""
    return any(one.finding is finding for one in found)


WORLDS = {
    "classes held alike": World(firmness=(1.0, 1.0)),
    "one held less firmly": World(),
    "one much less firmly": World(firmness=(2.5, 1.0)),
    "unlike kinds of text": World(kinds=(0.8, 0.3), softer=1.6),
    "directions that differ much": World(of_class=0.1),
    "groups of 8": World(group_size=8),
    "heavy tails": World(spread=1.0, of_row=0.8),
    "120 a class, 9 directions": World(n=120, n_walks=9),
}


def rate(world: World, n_studies: int, first: int = 0, **options: object) -> tuple[float, float]:
    """Share of studies that say "specific", and that say so of the part with the effect."""
    found = [simulate(world, first + seed, **options) for seed in range(n_studies)]  # type: ignore[arg-type]
    any_said = np.mean([says(one, Finding.SPECIFIC) for one in found])
    of_first = np.mean(
        [
            any(x.finding is Finding.SPECIFIC and x.part == "part 0" and x.broken == 1 for x in one)
            for one in found
        ]
    )
    return float(any_said), float(of_first)


def false_rows(n_studies: int) -> dict[str, list[float]]:
    """For each world the share of class-blind studies that say "specific", by effective size."""
    return {
        name: [rate(world, n_studies, 1000 * at, size=size)[0] for at, size in enumerate(SIZES)]
        for name, world in WORLDS.items()
    }


def power_rows(n_studies: int) -> dict[str, list[float]]:
    """The share of studies that name the part of a true difference; last, the flip does it too."""
    rows = {}
    for name, world, n_parts in (
        ("one part", WORLDS["one held less firmly"], 1),
        ("one part, directions that differ much", WORLDS["directions that differ much"], 1),
        ("20 parts", WORLDS["one held less firmly"], 20),
        ("20 parts, 32 directions", World(n_walks=32), 20),
        ("one part, 120 a class, 9 directions", WORLDS["120 a class, 9 directions"], 1),
    ):
        n = max(20, n_studies // n_parts)
        asked = [(effect, "blind") for effect in EFFECTS] + [(EFFECTS[-1], "same")]
        rows[name] = [
            rate(world, n, size=1.22, effect=effect, n_parts=n_parts, flip=flip)[1]
            for effect, flip in asked
        ]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    options = parser.parse_args()
    found = {"false": false_rows(options.studies), "power": power_rows(options.studies)}
    publish("graft_verdicts", found, keep=options.keep)
