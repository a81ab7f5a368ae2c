"""Dimensions of the manifold memorization hypothesis: its authors' toy, with trained networks.

    python -m experiments.dimension.run [--seeds 0 1 2] [--steps 2000]

A circle (von Mises), a point of great mass and a ball of full dimension, in the plane and in three
dimensions. A diffusion network (an MLP that denoises at every noise level) is trained on fresh
draws of all three: it should have dimension 1 on the circle, 0 at the point (DD-Mem) and 2 or 3 in
the ball. Others see a few points of the circle alone, again and again: 0 at these (OD-Mem) where
the data's manifold has 1. Beside each estimate stand the truth and the same estimator on the exact
score of what the network was trained on.
Source: Ross et al. 2024, arXiv 2411.00113, section 3.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnemoscope.diffusion.measures import Score, flipd
from mnemoscope.stats import Floats

_NORMAL = 0.5  # between 0 and 1, the singular values of tangents and normals
SIGMA = 0.1
POINT = [3.0, 0.0]
BALL = [0.0, 4.0]
_SPREAD = 0.7  # of the ball
_BANDS = 5  # waves of each coordinate that a network reads: without, it is too smooth to learn this
_ASKED = 60  # points a place
_NOISE = (0.05, 3.0)
_DRAWN = 4000  # points that stand for an endless circle in the exact score


def normal_bundle(
    score: Score,
    points: npt.ArrayLike,
    sigma: float,
    *,
    scale: float = 1.0,
    n_scores: int | None = None,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Count the directions, (n,), in which scores around points (n, D) do not point back.

    Of `n_scores` scores around a point (None: 4 D, at least 256) the singular values, times
    σ / √n_scores, are near 1 along normals and near 0 along tangents; those below ½ are counted.

    Source: Stanczuk et al. 2022, arXiv 2212.12611, algorithm 1. There the largest drop between
        singular values is looked for, which can never give dimension 0.
    """
    at = scale * np.asarray(points, dtype=np.float64)
    n, width = at.shape
    many = max(4 * width, 256) if n_scores is None else n_scores
    noise = np.random.default_rng(seed).normal(0, sigma, (n, many, width))
    scores = score((at[:, None] + noise).reshape(-1, width)).reshape(n, many, width)
    values = np.linalg.svd(scores, compute_uv=False) * sigma / np.sqrt(many)
    return np.asarray(width - (values >= _NORMAL).sum(axis=1))


class Denoiser(nn.Module):
    """The point expected behind a noisy one, from points (n, D) and noise levels (n, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width * (1 + 2 * _BANDS) + 1, 128, 128, 128]
        layers = [part for pair in pairwise(sizes) for part in unit(*pair)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], width))

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Coordinates, their waves and the logarithm of the noise go through the layers."""
        waves = (noisy[..., None] * 2.0 ** torch.arange(_BANDS)).flatten(1)
        read = torch.cat([noisy, waves.sin(), waves.cos(), sigma.log()], dim=1)
        made: torch.Tensor = self.layers(read)
        return made


def unit(n_in: int, n_out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(n_in, n_out), nn.SiLU()


def circle(generator: np.random.Generator, n: int, width: int) -> Floats:
    """Points of the unit circle in the first two of so many dimensions, von Mises of 1."""
    angle = generator.vonmises(0, 1, n)
    return np.pad(np.stack([np.cos(angle), np.sin(angle)], axis=1), ((0, 0), (0, width - 2)))


def placed(place: list[float], width: int) -> Floats:
    return np.pad(np.array([place]), ((0, 0), (0, width - 2)))


def everything(generator: np.random.Generator, n: int, width: int) -> Floats:
    """Half circle, a quarter the point, a quarter the ball."""
    ball = placed(BALL, width) + generator.normal(0, _SPREAD, (n // 4, width))
    return np.concatenate(
        [circle(generator, n // 2, width), placed(POINT, width).repeat(n // 4, axis=0), ball]
    )


def few_points(generator: np.random.Generator, n: int, width: int) -> Floats:
    """As many points of the circle, at even angles with some play."""
    angle = 2 * math.pi * (np.arange(n) + generator.uniform(-0.25, 0.25, n)) / n
    return np.pad(np.stack([np.cos(angle), np.sin(angle)], axis=1), ((0, 0), (0, width - 2)))


def train(draw: Callable[[], Floats], width: int, steps: int, seed: int) -> Score:
    """A denoiser of what `draw` gives, and its score at `SIGMA` of points (n, D)."""
    torch.manual_seed(seed)
    network = Denoiser(width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    low, high = (math.log(one) for one in _NOISE)
    for _ in range(steps):
        clean = torch.from_numpy(draw()).float()
        sigma = torch.empty(len(clean), 1).uniform_(low, high).exp()
        noisy = clean + sigma * torch.randn_like(clean)
        errors = (network(noisy, sigma) - clean) ** 2
        loss = (errors / sigma**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()

    @torch.no_grad()
    def score(points: Floats) -> Floats:
        noisy = torch.from_numpy(points).float()
        found = network(noisy, torch.full((len(noisy), 1), SIGMA))
        away: Floats = (found.double().numpy() - points) / SIGMA**2
        return away

    return score


def exact(centres: Floats, spread: Floats | float = 0.0, weights: Floats | float = 1.0) -> Score:
    """The score at `SIGMA` of Gaussians of a spread (n,) about centres (n, D)."""
    variance = np.broadcast_to(spread, len(centres)) ** 2 + SIGMA**2
    logs = np.log(weights) - centres.shape[1] / 2 * np.log(variance)

    def score(points: Floats) -> Floats:
        found = []
        for some in np.array_split(points, max(1, len(points) // 500)):
            apart = centres - some[:, None]
            log = logs - 0.5 * (apart**2).sum(-1) / variance
            share = np.exp(log - log.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            found.append(((share / variance)[..., None] * apart).sum(axis=1))
        return np.concatenate(found)

    return score


def asked(
    width: int, seed: int, steps: int, few: tuple[int, ...]
) -> Iterator[tuple[str, int | None, Floats, Score, Score]]:
    """Place, truth, points to ask, network's score and exact score."""
    generator = np.random.default_rng(seed)
    ring = circle(generator, _DRAWN, width)
    centres = np.concatenate([ring, placed(POINT, width), placed(BALL, width)])
    weights = np.concatenate([np.ones(_DRAWN), [_DRAWN / 2, _DRAWN / 2]])
    spread = np.concatenate([np.zeros(_DRAWN + 1), [_SPREAD]])
    fitted = train(lambda: everything(generator, 512, width), width, steps, seed)
    truth = exact(centres, spread, weights)
    ball = placed(BALL, width) + generator.normal(0, _SPREAD / 2, (_ASKED, width))
    yield "circle", 1, circle(generator, _ASKED, width), fitted, truth
    yield "point of great mass (DD-Mem)", 0, placed(POINT, width), fitted, truth
    yield "ball", width, ball, fitted, truth
    for n in few:
        points = few_points(generator, n, width)
        score = train(partial(points.repeat, 512 // n, axis=0), width, steps, seed)
        is_few = n <= 8  # far apart beside the noise
        kind = " (OD-Mem)" if is_few else ""
        yield f"{n} points of the circle{kind}", 0 if is_few else None, points, score, exact(points)
        if is_few:
            yield f"the same {n}, network of all three", 1, points, fitted, truth


def spread_of(values: list[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    print(f"Noise {SIGMA}; {wanted.steps} steps a network; seeds {wanted.seeds}; mean ± sd of them")
    print("| dimensions | where | truth | FLIPD, network | FLIPD, exact score | normal bundle, "
          "network | normal bundle, exact score |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for width, few in ((2, (8, 32)), (3, (8,))):
        found = dict[tuple[str, int | None], list[list[float]]]()
        for seed in wanted.seeds:
            for place, truth, points, network, score in asked(width, seed, wanted.steps, few):
                row = found.setdefault((place, truth), [[], [], [], []])
                for column, one in zip(row[::2], (network, score), strict=False):
                    column.append(float(np.median(flipd(one, points, SIGMA))))
                for column, one in zip(row[1::2], (network, score), strict=False):
                    bundle = normal_bundle(one, points, SIGMA, n_scores=128, seed=seed)
                    column.append(float(bundle.mean()))
        for (place, truth), (flips, bundles, flips_exact, bundles_exact) in found.items():
            told = "between 0 and 1" if truth is None else truth
            shown = " | ".join(map(spread_of, (flips, flips_exact, bundles, bundles_exact)))
            print(f"| {width} | {place} | {told} | {shown} |", flush=True)
    print(f"{time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    main()
