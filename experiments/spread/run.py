"""How far is the spread of `analyze dimension` from a dimension, on shapes of known dimension?

    python -m experiments.spread.run [--keep]

Points of a circle, of a sphere, and independent normal draws in 10, 23 and 256 dimensions: as many
as the analysis draws of a prefix (24), and 1,000, where what is left is no bias of few draws.
"""

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from experiments.pages import publish
from mnemoscope.analysis.dimension import participation_ratio, two_nn
from mnemoscope.stats import resampled_mean

NAME = "spread"
DRAWS, REPEATS = (24, 1000), 200
Draw = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]


def ball_surface(dimension: int) -> Draw:
    """Points of the unit ball's surface, which has a dimension less than the space around it."""

    def draw(rng: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
        points = rng.normal(size=(n, dimension + 1))
        return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))

    return draw


def normal(dimension: int) -> Draw:
    """Independent normal coordinates."""
    return lambda rng, n: rng.normal(size=(n, dimension))


SHAPES: dict[str, tuple[int, Draw]] = {
    "circle": (1, ball_surface(1)),
    "sphere": (2, ball_surface(2)),
    **{f"normal draws in {one}": (one, normal(one)) for one in (10, 23, 256)},
}


def measure(n: int, repeats: int = REPEATS) -> list[dict[str, object]]:
    """Of each shape the mean of both figures of n draws, with intervals over the repeats."""
    rows = []
    for name, (dimension, draw) in SHAPES.items():
        clouds = [draw(np.random.default_rng([n, seed]), n) for seed in range(repeats)]
        found = {
            which.__name__: resampled_mean([which(one) for one in clouds])
            for which in (participation_ratio, two_nn)
        }
        rows.append({"shape": name, "dimension": dimension, "draws": n, **found})
    return rows


def main() -> None:
    """Draw, measure, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="store the results, write the page")
    given = parser.parse_args()
    publish(NAME, {"rows": [row for n in DRAWS for row in measure(n)]}, keep=given.keep)


if __name__ == "__main__":
    main()
