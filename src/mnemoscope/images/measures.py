"""Measures of what a diffusion model stores, on plain arrays: dimension, guidance, bright ending.

The functions know no network. `model` asks one and gives them what it answers.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mnemoscope.stats import Floats

Score = Callable[[Floats], Floats]
"""Gradient of the log-density at one noise level, of points (n, dimensions) each."""

_STEP = 0.01  # of the noise level: the error of the central difference is its square


def flipd(score: Score, points: npt.ArrayLike, sigma: float, *, scale: float = 1.0) -> Floats:
    """Give the local intrinsic dimension at points, (n, D), from a score function: (n,).

    D + σ² (tr ∇s + |s|²) at `scale` times the point, s the score of scale·x plus noise of σ: the
    rate at which the log-density falls with log σ. The trace is by central differences.

    Source: FLIPD, Kamkari et al. 2024, arXiv 2406.03537 (there the trace is Hutchinson's).
    """
    at = scale * np.asarray(points, dtype=np.float64)
    width, step = at.shape[1], _STEP * sigma
    trace = np.zeros(len(at))
    for axis, shift in enumerate(step * np.eye(width)):
        trace += (score(at + shift) - score(at - shift))[:, axis] / (2 * step)
    return np.asarray(width + sigma**2 * (trace + (score(at) ** 2).sum(axis=1)))


def ending_mask(attention: npt.ArrayLike, last: npt.ArrayLike) -> Floats:
    """Give the bright ending: how much each image patch looks at the last text token, (n, patches).

    `attention` is cross-attention at the last denoising step, softmax over the text's tokens, of
    the conditioned half of a batch, (n, layers, heads, patches, tokens); `last` the place of the
    last token of each text (its end token), a number or (n,).

    Source: Chen et al. 2024, arXiv 2410.21665, as its public code (chenchen-usyd/BE-PRSS) has it:
        the mean over heads and layers (there 8 heads of the two layers of 64 × 64 on the way down),
        a soft mask without a threshold.
    """
    maps = np.asarray(attention, dtype=np.float64).mean(axis=(1, 2))
    return np.asarray(maps[np.arange(len(maps)), :, np.asarray(last)])


def noise_norm(
    text: npt.ArrayLike, empty: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> Floats:
    """Give ‖(ε(text) − ε(empty)) ⊙ m‖₂ / mean(m) of each image, (n,): large where memorized.

    Noise predicted with the text and with the empty one is (n, channels, height, width); m, not
    negative and nowhere all 0, (n, height, width), None to leave it out.

    Source: LD of Chen et al. 2024, arXiv 2410.21665, as its public code has it, of one denoising
        step; without a mask the norm of Wen et al. 2024 (ICLR, "Detecting, Explaining, and
        Mitigating Memorization in Diffusion Models").
    """
    apart = np.asarray(text, dtype=np.float64) - np.asarray(empty, dtype=np.float64)
    return _masked_norm(apart, mask)


def local_similarity(
    generated: npt.ArrayLike, trained: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> Floats:
    """Give −‖(x − y) ⊙ m‖₂ / mean(m) of generated and training images, (n,): 0 where m is copied.

    Shapes as in `noise_norm`. Whatever differs where the mask is dark counts little.

    Source: LS of Chen et al. 2024, arXiv 2410.21665. Its public code holds no LS; the Euclidean
        distance, and the mask scaled as in LD, are our reading.
    """
    apart = np.asarray(generated, dtype=np.float64) - np.asarray(trained, dtype=np.float64)
    return -_masked_norm(apart, mask)


def _masked_norm(apart: Floats, mask: npt.ArrayLike | None) -> Floats:
    if mask is None:
        return np.asarray(np.sqrt((apart**2).sum(axis=(1, 2, 3))))
    soft = np.asarray(mask, dtype=np.float64)
    norm = np.sqrt(((apart * soft[:, None]) ** 2).sum(axis=(1, 2, 3)))
    return np.asarray(norm / soft.mean(axis=(1, 2)))
