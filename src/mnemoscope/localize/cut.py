"""Which attention edges to cut, what they are held against, and what the model then does.

An edge is (layer, query, key) with key ≤ query; edges are bool tensors (layers, T, T), True is
cut. The last query is never cut: what it reads decides the token after the sequence.
What ranks edges is in `localize.rankings`.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import neg
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import greedy_tokens
from mnemoscope.lm.intervene import cut_attention
from mnemoscope.lm.model import LanguageModel, check_finite, check_tokens, run_batches
from mnemoscope.lm.probe import TeacherForced, judge
from mnemoscope.localize.rankings import Measure
from mnemoscope.stats import Estimate, draw_within, estimate_of, not_of_none

_NEAREST = 32  # an edge's stand-in is drawn among so many of about the same mass


def count_edges(percent: float, n_layers: int, length: int) -> int:
    """`percent` of all edges of the causal half, at least one; `UserError` outside (0, 100]."""
    if not 0 < percent <= 100:
        raise UserError(f"strength {percent:g}: must be above 0 and at most 100 per cent of edges.")
    return max(1, round(percent / 100 * (n_layers * length * (length - 1) // 2)))


def largest_edges(values: Tensor, n: int) -> Tensor:
    """The n edges with the largest values (layers, T, T), ties in the order (layer, query, key)."""
    ranked = values.masked_fill(~_possible(values), -torch.inf).flatten()
    return _chosen(ranked.argsort(descending=True, stable=True)[:n], values)


def random_edges(like: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """N edges drawn evenly; `like` gives the shape (layers, T, T)."""
    possible = _possible(like).flatten().nonzero()[:, 0]
    order = torch.randperm(len(possible), generator=generator)
    return _chosen(possible[order[:n]], like)


def same_layer_edges(edges: Tensor, generator: torch.Generator) -> Tensor:
    """Random edges, as many in each layer as `edges` has there: the layers alone are kept."""
    return torch.stack(
        [random_edges(layer[None], int(layer.sum()), generator)[0] for layer in edges]
    )


def equal_mass_edges(edges: Tensor, mass: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for each edge another of nearly its mean attention, none of them among `edges`.

    Gives as many edges where that many others exist. Their mass is the nearest reachable: less,
    where `edges` holds all the attention there is. `mass` is (layers, T, T).
    """
    free = (_possible(edges) & ~edges).flatten().nonzero()[:, 0]
    wanted = mass.flatten()[edges.flatten()].sort(descending=True).values
    order = free[mass.flatten()[free].argsort(descending=True, stable=True)].tolist()
    values = mass.flatten()[order].tolist()
    chosen = []
    for target in wanted.tolist()[: len(order)]:
        place = _draw_near(values, target, generator)
        chosen.append(order.pop(place))
        values.pop(place)
    return _chosen(torch.tensor(chosen, dtype=torch.int64), edges)


def random_keys(edges: Tensor, generator: torch.Generator) -> Tensor:
    """For every query as many other keys, drawn evenly, if there are; bool (..., T, T)."""
    causal = torch.ones(edges.shape[-2:], dtype=torch.bool).tril()
    score = torch.rand(edges.shape, generator=generator).masked_fill(~causal | edges, -1.0)
    rank = score.argsort(dim=-1, descending=True).argsort(dim=-1)
    return (rank < edges.sum(dim=-1, keepdim=True)) & (score >= 0)


def _draw_near(values: list[float], target: float, generator: torch.Generator) -> int:
    """A random one of the places whose values (falling) lie nearest to the target."""
    place = bisect_left(values, -target, key=neg)
    first = max(0, min(place - _NEAREST // 2, len(values) - _NEAREST))
    last = min(len(values), first + _NEAREST)
    return first + int(torch.randint(last - first, (), generator=generator))


def _possible(like: Tensor) -> Tensor:
    """Edges that can matter, for the shape of `like` (layers, T, T)."""
    possible = torch.ones(like.shape, dtype=torch.bool).tril()
    possible[:, -1] = False
    return possible


def _chosen(places: Tensor, like: Tensor) -> Tensor:
    """Flat places as a mask."""
    edges = torch.zeros(like.numel(), dtype=torch.bool)
    edges[places] = True
    return edges.reshape(like.shape)


class CutOutcome(NamedTuple):
    """What the model does with each sequence while edges are cut, each (n,).

    `survives`: the greedy tokens are still the suffix; `score`: share of positions that agree;
    `logprob`: mean log-probability of the true suffix's tokens, nats.
    """

    survives: np.ndarray
    score: np.ndarray
    logprob: np.ndarray


def cut_and_continue(
    lm: LanguageModel,
    tokens: np.ndarray,
    edges: torch.Tensor,
    *,
    renormalize: bool,
    batch_size: int,
    prefix: int = 32,
) -> CutOutcome:
    """Continue sequences (n, T) greedily while edges are cut.

    One forward gives log-probabilities and survivors: sequences whose suffix tokens are all the
    argmax after the true ones before, as in decoding up to ties of rounding. Only the others are
    decoded, for their score. Edges are (layers, T, T), or (n, layers, T, T) for each its own.
    Raises UserError: edges that do not fit the model, or a family whose edges cannot be cut.
    """

    def decode(batch: torch.Tensor) -> np.ndarray:
        decoded, gap = greedy_tokens(lm, batch[:, :prefix], batch.shape[1] - prefix)
        check_finite(lm, gap)
        return (decoded == batch[:, prefix:]).float().mean(dim=1).cpu().numpy()

    judged = cut_and_judge(
        lm, tokens, edges, renormalize=renormalize, batch_size=batch_size, prefix=prefix
    )
    score = np.asarray(judged.is_right.all(axis=1), dtype=np.float32)
    broken = np.flatnonzero(score < 1)
    if len(broken):
        own = edges if edges.ndim == 3 else edges[torch.from_numpy(broken)]
        table = check_tokens(lm, tokens[broken], prefix=prefix)
        score[broken] = np.concatenate(_ask(lm, decode, table, own, batch_size, renormalize))
    return CutOutcome(score == 1.0, score, judged.logprobs.mean(axis=1))


def cut_and_judge(
    lm: LanguageModel,
    tokens: np.ndarray,
    edges: torch.Tensor,
    *,
    renormalize: bool,
    batch_size: int,
    prefix: int = 32,
) -> TeacherForced:
    """Judge suffixes of sequences (n, T) by one forward under a cut, as `cut_and_continue`."""
    table, question = check_tokens(lm, tokens, prefix=prefix), partial(judge, lm, prefix=prefix)
    places = table.shape[1] - prefix
    judged = _ask(lm, question, table, edges, batch_size, renormalize, places)
    return TeacherForced(*map(np.concatenate, zip(*judged, strict=True)))


def _ask(
    lm: LanguageModel,
    question: Callable[[Tensor], Any],
    table: Tensor,
    edges: Tensor,
    batch_size: int,
    renormalize: bool,
    places: int = 1,
) -> list[Any]:
    """What a question gives of each batch of sequences while their edges are cut.

    Each attempt cuts anew: rows that do not fit into memory go again in smaller batches.
    """

    def step(numbers: Tensor) -> Any:
        rows = numbers[:, 0].cpu()
        cut = edges if edges.ndim == 3 else edges[rows]
        with cut_attention(lm, cut, renormalize=renormalize):
            return question(table[rows].to(lm.device))

    numbered = torch.arange(len(table))[:, None]
    return list(run_batches(lm, numbered, batch_size, step, places=places))


def mean_share(
    values: Sequence[np.ndarray], *, n_resamples: int, seed: int, groups: np.ndarray | None = None
) -> Estimate:
    """Mean over draws and sequences, one array (n,) per draw, its interval over `groups` (n,).

    That of none or all is Wilson's over the groups, for all resamples are then alike.
    """
    per_sequence = np.mean(np.stack(values).astype(np.float64), axis=0)
    drawn = _resample(per_sequence, groups, n_resamples, seed)
    n_units = len(per_sequence) if groups is None else len(np.unique(groups))
    return not_of_none(estimate_of(float(per_sequence.mean()), drawn), n_units)


def specificity(
    decisive: Mapping[str, np.ndarray],
    random: Mapping[str, Sequence[np.ndarray]],
    own: str,
    *,
    n_resamples: int,
    seed: int,
    groups: Mapping[str, np.ndarray] | None = None,
) -> Estimate:
    """How specific a class's decisive edges are to it, beyond random edges of equal mass.

    (broken own − mean broken others) by the decisive edges, minus the same by the random ones: 1
    is every sequence of its own class and no other, 0 no preference, negative the others more.
    `decisive` and each draw of `random` say for every memorized class, at least two, which
    sequences break, bool (n,), and `groups` which near duplicates they belong to. These are
    resampled within their class; no interval where one has too few.
    """
    gains = {
        name: decisive[name].astype(np.float64) - np.mean(np.stack(random[name]), axis=0)
        for name in decisive
    }
    others = [name for name in gains if name != own]
    resampled = {
        name: _resample(values, groups[name] if groups else None, n_resamples, seed + place)
        for place, (name, values) in enumerate(gains.items())
    }
    value = gains[own].mean() - np.mean([gains[name].mean() for name in others])
    if not all(len(one) for one in resampled.values()):
        return Estimate(float(value))
    drawn = resampled[own] - np.mean([resampled[name] for name in others], axis=0)
    return estimate_of(float(value), drawn)


def _resample(
    values: np.ndarray, groups: np.ndarray | None, n_resamples: int, seed: int
) -> np.ndarray:
    """Means of bootstrap resamples of (n,), drawn by group."""
    generator = np.random.default_rng(seed)
    weights = draw_within(np.zeros(len(values)), generator, n_resamples, groups=groups)
    means: np.ndarray = weights @ values / weights.sum(axis=1)
    return means


def class_mean(
    lm: LanguageModel, tokens: np.ndarray, measure: Measure, batch_size: int, prefix: int = 32
) -> Tensor:
    """Average a measure over the sequences (n, T) of one class: float32 (layers, T, T)."""
    total: Tensor | float = 0.0
    for batch in measure(lm, tokens, batch_size, prefix):
        total = total + batch.double().sum(dim=0)
    assert isinstance(total, Tensor)
    return (total / len(tokens)).float()


def contrasted(means: Sequence[Tensor]) -> list[Tensor]:
    """Each class's mean less the mean of the others' means.

    The first class is Non-Memo: it counts among the others only of a single memorized class.
    """
    memorized = list(means[1:])
    found = [means[0] - torch.stack(memorized).mean(dim=0)]
    for place, own in enumerate(memorized):
        others = memorized[:place] + memorized[place + 1 :]
        found.append(own - (torch.stack(others).mean(dim=0) if others else means[0]))
    return found
