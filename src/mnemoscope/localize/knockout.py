"""What breaks when attention edges are cut: which memorized sequences the model still reproduces.

`broken` is the share of memorized sequences whose score is no longer 1 under a cut. The specificity
of a class's edges is how much more of their own class they break than of the other memorized
classes, beyond what random edges of equal attention mass do.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from mnemoscope.cnn.intervals import interval_of
from mnemoscope.lm.continuation import continue_sequences
from mnemoscope.lm.knockout import cut_attention
from mnemoscope.lm.language_model import LanguageModel
from mnemoscope.lm.logprobs import TeacherForced, teacher_forced

__all__ = ["CutOutcome", "Share", "cut_and_continue", "mean_share", "specificity"]

_Answer = TypeVar("_Answer")


class CutOutcome(NamedTuple):
    """What the model does with each sequence while edges are cut.

    Attributes:
        survives: bool (n,): the 32 greedy tokens are still the suffix.
        score: float32 (n,): share of positions that agree.
        logprob: float32 (n,): mean log-probability of the true suffix's tokens, nats.
    """

    survives: np.ndarray
    score: np.ndarray
    logprob: np.ndarray


class Share(NamedTuple):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def cut_and_continue(
    lm: LanguageModel,
    tokens: np.ndarray,
    edges: torch.Tensor,
    *,
    renormalize: bool,
    batch_size: int,
    prefix: int = 32,
) -> CutOutcome:
    """Continue sequences greedily while edges are cut.

    One forward tells log-probabilities and survivors: a sequence survives when each suffix token
    is the argmax after the true ones before it, which is the verdict of decoding up to ties of
    rounding. Only the others are decoded, for their score.

    Args:
        lm: the model.
        tokens: int32, shape (n, T).
        edges: bool, (layers, T, T) for all sequences alike or (n, layers, T, T) for each its own.
        renormalize: as `cut_attention`.
        batch_size: sequences a forward pass.
        prefix: tokens of the prefix.

    Raises:
        UserError: edges that do not fit the model, or a family whose edges cannot be cut.
    """
    ask = partial(_asked, lm, renormalize=renormalize, batch_size=batch_size)
    judged = ask(partial(_judge, lm, prefix=prefix), tokens, edges)
    is_right = np.concatenate([batch.is_right for batch in judged])
    score = np.asarray(is_right.all(axis=1), dtype=np.float32)
    broken = np.flatnonzero(score < 1)
    if len(broken):
        own = edges if edges.ndim == 3 else edges[torch.from_numpy(broken)]
        score[broken] = np.concatenate(
            ask(partial(_decode, lm, prefix=prefix), tokens[broken], own)
        )
    logprobs = np.concatenate([batch.logprobs for batch in judged])
    return CutOutcome(score == 1.0, score, logprobs.mean(axis=1))


def _asked(
    lm: LanguageModel,
    question: Callable[[np.ndarray], _Answer],
    tokens: np.ndarray,
    edges: torch.Tensor,
    *,
    renormalize: bool,
    batch_size: int,
) -> list[_Answer]:
    """What a question gives of each batch of sequences while their edges are cut."""
    answers = []
    for start in range(0, len(tokens), batch_size):
        rows = slice(start, start + batch_size)
        cut = edges if edges.ndim == 3 else edges[rows]
        with cut_attention(lm, cut, renormalize=renormalize):
            answers.append(question(tokens[rows]))
    return answers


def _judge(lm: LanguageModel, tokens: np.ndarray, prefix: int) -> TeacherForced:
    return teacher_forced(lm, tokens, batch_size=len(tokens), prefix=prefix)


def _decode(lm: LanguageModel, tokens: np.ndarray, prefix: int) -> np.ndarray:
    """Memorization scores, (batch,)."""
    found = continue_sequences(lm, tokens, batch_size=len(tokens), prefix=prefix)
    return np.concatenate([batch.score for batch in found])


def mean_share(values: Sequence[np.ndarray], *, n_resamples: int, seed: int) -> Share:
    """Mean over draws and sequences, with an interval over sequences.

    Args:
        values: one array (n,) a draw of random edges, of the same sequences in the same order.
        n_resamples: bootstrap resamples.
        seed: of the resampling.
    """
    per_sequence = np.mean(np.stack(values).astype(np.float64), axis=0)
    resampled = _resample(per_sequence, n_resamples, seed)
    return _share(float(per_sequence.mean()), resampled)


def specificity(
    decisive: Mapping[str, np.ndarray],
    random: Mapping[str, Sequence[np.ndarray]],
    own: str,
    *,
    n_resamples: int,
    seed: int,
) -> Share:
    """How specific a class's decisive edges are to it, beyond random edges of equal mass.

    (broken own − mean broken others) by the decisive edges, minus the same by the random ones: 1
    is every sequence of its own class and none other, 0 no preference, negative the others more.

    Args:
        decisive: for each memorized class, bool (n,): broken by the decisive edges of `own`.
        random: for each such class the same for every draw of random edges.
        own: the class whose edges are cut; at least one other class must be given.
        n_resamples: bootstrap resamples, over the sequences of each class.
        seed: of the resampling.
    """
    gains = {
        name: decisive[name].astype(np.float64) - np.mean(np.stack(random[name]), axis=0)
        for name in decisive
    }
    others = [name for name in gains if name != own]
    resampled = {
        name: _resample(values, n_resamples, seed + place)
        for place, (name, values) in enumerate(gains.items())
    }
    value = gains[own].mean() - np.mean([gains[name].mean() for name in others])
    return _share(
        float(value), resampled[own] - np.mean([resampled[name] for name in others], axis=0)
    )


def _resample(values: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means of bootstrap resamples of (n,)."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), n_resamples)
    means: np.ndarray = weights @ values / len(values)
    return means


def _share(value: float, resampled: np.ndarray) -> Share:
    return Share(value, *interval_of(resampled))
