"""What a model says after a prefix: greedy tokens, and how close each choice was.

Not `generate`: a model's generation settings may sample, penalise repetition or stop early, and
the gap between the two best logits is wanted.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.errors import UserError
from mnemoscope.lm.attention import Pack, PooledMaps, capture_batch, pooled_attention
from mnemoscope.lm.model import (
    LanguageModel,
    RowSpan,
    best_two,
    brought,
    check_finite,
    check_fits,
    check_tokens,
    last_logits,
    new_cache,
    prepend_bos,
    run_batches,
    run_sequences,
    with_rows,
    within_logits,
)
from mnemoscope.lm.probe import of_logits
from mnemoscope.lm.resume import KeptStates

# Suffix tokens after which those sequences are asked on that are still right. Half of all texts
# fail on the first one, most on the first four; a step costs a forward of few rows.
_STEPS = (1, 4)
# A family without a key-value cache reads the prefix again in every step.
_STEPS_WITHOUT_CACHE = (4,)

Decoding = Literal["plain", "published"]


class Continuations(NamedTuple):
    """One batch of continuations.

    `tokens` are (batch, T - prefix), int32, -1 where the suffix is padded; `score` is the share of
    positions that agree with the suffix, 1.0 is memorized; `smallest_gap` the smallest difference
    between the two best logits of any step: near 0 a label may flip with rounding.
    """

    tokens: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    smallest_gap: npt.NDArray[np.float32]


def continue_sequences(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    prefix: int = 32,
    attention_mask: npt.ArrayLike | None = None,
    decoding: Decoding = "plain",
) -> Iterator[Continuations]:
    """Continue the prefix of every sequence (n, T) greedily and compare with its suffix.

    The model shows `prefix` tokens and continues T - prefix more by its native attention. Batches
    are in row order, and halved, with a log message, when memory runs out. `attention_mask` (n, T)
    is 1 for a token, 0 for padding on either side: prefix and suffix are then the tokens before and
    from column `prefix` on. `decoding` as `greedy_tokens`. Raises UserError: tokens that do not fit
    the model, or no end-of-text token to decode as published (at once), non-finite logits (on the
    way). NoRoomError: not even one sequence fits into memory.
    """
    end = end_of_text(lm) if decoding == "published" else None

    def step(batch: torch.Tensor, span: RowSpan) -> Continuations:
        n_shown = prefix - span.first
        suffixes = batch[:, n_shown:]
        decoded, gap = greedy_tokens(lm, batch[:, :n_shown], suffixes.shape[1], end=end)
        score = (decoded == suffixes).float().mean(dim=1)
        decoded, score, gap = brought(decoded.int(), score, gap)  # the batch's one wait
        check_finite(lm, gap)
        # As many tokens as the table's suffix has columns.
        around = ((0, 0), (0, span.padding[1]))
        whole = np.pad(decoded.numpy(), around, constant_values=-1)
        return Continuations(whole, score.numpy(), gap.numpy())

    return run_sequences(lm, tokens, batch_size, step, attention_mask=attention_mask, prefix=prefix)


def end_of_text(lm: LanguageModel) -> int:
    """The model's end-of-text token, by its configuration; UserError where it names none."""
    named = lm.model.config.get_text_config().eos_token_id
    if named is None:
        raise UserError(
            f"{lm.name}: its configuration names no end-of-text token, which decoding as published "
            "hides and leaves out. Set continue.decoding: plain."
        )
    return int(named[0] if isinstance(named, list) else named)


def greedy_tokens(
    lm: LanguageModel, prefixes: torch.Tensor, n_tokens: int, *, end: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode greedily with a key-value cache; an end-of-text token is a token like any other.

    With its id, `end`, as the code of arXiv 2508.02573 calls `generate`: the token is never written
    (a least length of all tokens), and where it stands in the prefix it is hidden by the attention
    mask and has no position of its own.

    From prefixes (batch, prefix) int64 on the model's device, without BOS, to tokens
    (batch, n_tokens) int64 and smallest gaps (batch,) float32, on the device.
    """
    cache = new_cache(lm, prefixes.shape[1] + n_tokens - 1, by_token=True)
    fed = prepend_bos(lm, prefixes)
    shown = None if end is None else (fed != end).long()
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.inference_mode():
        for _ in range(n_tokens):
            logits = last_logits(lm, fed, 1, cache, shown=shown)
            if shown is not None:
                logits[..., end] = -torch.inf
                shown = torch.nn.functional.pad(shown, (0, 1), value=1)
            best, gap = best_two(logits)
            steps.append((best, gap))
            # Families without a cache read everything again.
            fed = best if cache is not None else torch.cat([fed, best], dim=1)
    chosen, gaps = (torch.cat(each, dim=1) for each in zip(*steps, strict=True))
    return chosen, gaps.amin(dim=1)


def continue_guided(
    lm: LanguageModel,
    twin: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    strength: float,
    plausible: float = 0.0,
    batch_size: int,
    prefix: int = 32,
) -> npt.NDArray[np.int32]:
    """Continue the prefix of sequences (n, T) where the model goes beyond its twin.

    Each token is the one of largest ln p + `strength` · (ln p - ln p of the twin): 0 is greedy
    decoding. Only tokens with at least the share `plausible` of the largest p are written (Li et
    al. 2022, arXiv 2210.15097): where the twin finds a token impossible, the difference says
    little. Int32 (n, T - prefix). The twin is a model alike that never read the sequences. Raises
    UserError: tokens that do not fit the models, or a twin with another number of tokens.
    NoRoomError: not even one sequence fits into memory.
    """
    if twin.vocab_size != lm.vocab_size:
        raise UserError(
            f"{twin.name}: {twin.vocab_size:,} tokens, where {lm.name} has {lm.vocab_size:,}. Give "
            "a twin with the same tokenizer."
        )
    check_tokens(twin, tokens, prefix=prefix)
    table = check_tokens(lm, tokens, prefix=prefix)
    models = lm, twin

    def step(batch: torch.Tensor) -> npt.NDArray[np.int32]:
        shown, chosen, scores = batch[:, :prefix], list[torch.Tensor](), list[torch.Tensor]()
        caches = [new_cache(one, batch.shape[1] - 1, by_token=True) for one in models]
        fed = [prepend_bos(one, shown) for one in models]
        with torch.inference_mode():
            for _ in range(batch.shape[1] - prefix):
                own, beside = (
                    last_logits(one, read.to(one.device), 1, cache)[:, 0].float().log_softmax(dim=1)
                    for one, read, cache in zip(models, fed, caches, strict=True)
                )
                score = own + strength * (own - beside.to(own.device))
                scores.append(score.amax(dim=1))
                if plausible:
                    is_far = own < own.amax(dim=1, keepdim=True) + math.log(plausible)
                    score = score.masked_fill(is_far, -torch.inf)
                best = score.argmax(dim=1, keepdim=True)
                chosen.append(best)
                # Families without a cache read everything again.
                fed = [
                    best if cache is not None else torch.cat([read, best], dim=1)
                    for read, cache in zip(fed, caches, strict=True)
                ]
        written, best_scores = brought(torch.cat(chosen, dim=1).int(), torch.stack(scores))
        check_finite(lm, best_scores)
        return written.numpy()

    none = np.empty((0, table.shape[1] - prefix), dtype=np.int32)
    return np.concatenate([none, *run_batches(lm, table, batch_size, step)])


class Draws(NamedTuple):
    """One batch of continuations drawn at random, int32 (batch, steps).

    `entropy` is that of the distribution each token was drawn from, nats, float32; the mean of its
    sum over many draws is the entropy of the continuation.
    """

    tokens: npt.NDArray[np.int32]
    entropy: npt.NDArray[np.float32]


def draw_continuations(
    lm: LanguageModel,
    prefixes: npt.ArrayLike,
    uniforms: npt.NDArray[np.float64],
    *,
    batch_size: int,
    temperature: float = 1.0,
) -> Iterator[Draws]:
    """Draw one continuation of every prefix (n, prefix), from all tokens.

    Gives batches in row order: `tokens`, int32, and `entropy` of the distribution that each was
    drawn from, nats, float32, both (batch, steps). `uniforms`, float64 (n, steps) in [0, 1),
    are all the randomness: a token is the first at which the distribution function passes its
    number, so draws do not depend on the batch size, and two models that are told the same
    numbers differ in what they know alone. Raises UserError: tokens that do not fit the model
    (at once), non-finite logits (on the way). NoRoomError: not even one sequence fits into
    memory.
    """
    n_steps = uniforms.shape[1]
    check_fits(lm, np.asarray(prefixes).shape[1] + n_steps - 1)  # the last token is not read
    table = check_tokens(lm, prefixes)
    numbered = torch.cat([torch.arange(len(table))[:, None], table], dim=1)
    numbers = torch.from_numpy(uniforms).to(lm.device)

    def step(batch: torch.Tensor) -> Draws:
        wanted = numbers[batch[:, 0]]
        cache = new_cache(lm, batch.shape[1] - 1 + n_steps - 1, by_token=True)
        fed, chosen, entropies, largest = prepend_bos(lm, batch[:, 1:]), [], [], []
        with torch.inference_mode():
            for at in range(n_steps):
                logits = last_logits(lm, fed, 1, cache)[:, 0].double()
                logprobs = (logits / temperature).log_softmax(dim=1)
                largest.append(logprobs.amax(dim=1))
                shares = logprobs.exp()
                entropies.append(-(shares * logprobs).nan_to_num(0.0).sum(dim=1))
                reached = shares.cumsum(dim=1)
                goal = wanted[:, at, None] * reached[:, -1:]
                found = torch.searchsorted(reached, goal, right=True)
                found = found.clamp(max=shares.shape[1] - 1)
                chosen.append(found)
                fed = found if cache is not None else torch.cat([fed, found], dim=1)
        drawn = torch.cat(chosen, dim=1).int(), torch.stack(entropies, dim=1).float()
        tokens, entropy, tops = brought(*drawn, torch.stack(largest))
        check_finite(lm, tops)
        return Draws(tokens.numpy(), entropy.numpy())

    return run_batches(lm, numbered, batch_size, step)


class Scan(NamedTuple):
    """The verdict for one batch: greedy decoding gives the whole suffix, bool (batch,).

    `smallest_gap`, float32, is between the two best logits, up to the first wrong token.
    """

    is_memorized: npt.NDArray[np.bool_]
    smallest_gap: npt.NDArray[np.float32]


def scan_memorized(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    prefix: int = 32,
    attention_mask: npt.ArrayLike | None = None,
    states: KeptStates | None = None,
) -> Iterator[Scan]:
    """Say for every sequence whether the model continues its prefix with its suffix.

    Works in steps: prefix and first suffix token of all sequences, then three more tokens and then
    the rest for those still right, on top of their key-value cache. With `states`, inside their
    `resuming`, each step begins where they do. Arguments and errors as `continue_sequences`. With a
    large vocabulary the rest is asked in several steps, so that their logits take at most
    `lm.model.LOGIT_BYTES`.
    """

    def step(batch: torch.Tensor, span: RowSpan) -> Scan:
        return _scan_batch(lm, batch, prefix - span.first, states)

    return run_sequences(lm, tokens, batch_size, step, attention_mask=attention_mask, prefix=prefix)


def _scan_batch(
    lm: LanguageModel, batch: torch.Tensor, prefix: int, states: KeptStates | None = None
) -> Scan:
    length = batch.shape[1]
    gap = torch.full((len(batch),), torch.inf, device=batch.device)
    alive = torch.arange(len(batch), device=batch.device)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        cache = None
        if states is not None:
            cache = stack.enter_context(states.following(batch[:, :-1]))
        if states is None or not (cache is not None or states.holds(batch[:, :-1])):
            cache = new_cache(lm, length - 1)
        begin = prefix
        steps = _STEPS_WITHOUT_CACHE if cache is None else _STEPS
        ends = iter([*(prefix + step for step in steps if prefix + step < length), length])
        goal = next(ends)
        while begin < length:
            end = goal
            if cache is not None:  # so many places that their logits stay within bounds
                end = min(goal, begin + within_logits(lm, len(alive)))
            is_right, gap_here = _step(lm, batch[alive, :end], begin, prefix, cache)
            gap[alive] = torch.minimum(gap[alive], gap_here)
            right = is_right.nonzero().squeeze(1)  # the step's one wait: how many go on
            if len(right) < len(alive):
                alive = alive[right]
                if cache is not None and end < length:
                    cache = with_rows(lm, cache, right)
                if states is not None:
                    states.drop_all_but(right)
            if not len(alive):
                break
            begin, goal = end, goal if end < goal else next(ends, length)
    is_memorized = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    is_memorized[alive] = True
    return _scan_of(lm, is_memorized, gap)


def _scan_of(lm: LanguageModel, is_memorized: torch.Tensor, gap: torch.Tensor) -> Scan:
    is_memorized, gap = brought(is_memorized, gap)
    check_finite(lm, gap)
    return Scan(is_memorized.numpy(), gap.numpy())


def _step(
    lm: LanguageModel, tokens: torch.Tensor, begin: int, prefix: int, cache: Any | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Judge the tokens (batch, length) from `begin` on, which follow those in the cache."""
    fed = tokens[:, begin - 1 : -1]
    if cache is None or begin == prefix:
        fed = prepend_bos(lm, tokens[:, :-1])
    logits = last_logits(lm, fed, tokens.shape[1] - begin, cache)
    return compare(logits, tokens[:, begin:])


def compare(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give (batch,) all right, and (batch,) the smallest gap up to the first wrong token."""
    best, gap = best_two(logits)
    agrees = best == wanted
    right_before = torch.ones_like(agrees)
    right_before[:, 1:] = agrees[:, :-1].cumprod(dim=1).bool()
    return agrees.all(dim=1), gap.masked_fill(~right_before, torch.inf).amin(dim=1)


def best_tokens(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int = 1
) -> npt.NDArray[np.int32]:
    """Give the token that the model finds best at every place from `prefix` on.

    Each after the true tokens before it, of sequences (n, T): int32 (n, T - prefix). One forward a
    sequence. Raises UserError: tokens that do not fit the model. NoRoomError: not even one sequence
    fits into memory.
    """

    def best(logits: torch.Tensor, _: torch.Tensor) -> Iterable[torch.Tensor]:
        return (logits.argmax(dim=-1).int(),)

    (found,) = of_logits(lm, tokens, best, batch_size, prefix)
    return found


def right_tokens(
    lm: LanguageModel, tokens: npt.ArrayLike, *, batch_size: int, prefix: int
) -> npt.NDArray[np.bool_]:
    """Say of every token after the prefix whether it is the best of `best_tokens`.

    Bool (n, T - prefix); a row right throughout is memorized, up to ties. Errors as there.
    """
    best = best_tokens(lm, tokens, batch_size=batch_size, prefix=prefix)
    return best == np.asarray(tokens)[:, prefix:]  # type: ignore[no-any-return]


def run_lengths(is_right: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count the right tokens in a row from the first on, int64 (...); of bool (..., n).

    >>> run_lengths([[True, True, False, True]]).tolist()
    [2]
    """
    right = np.asarray(is_right, dtype=np.int64)
    found: npt.NDArray[np.int64] = np.cumprod(right, axis=-1).sum(axis=-1)
    return found


def capture_and_scan(
    lm: LanguageModel,
    tokens: npt.ArrayLike,
    *,
    batch_size: int,
    prefix: int = 32,
    pack: Pack | None = None,
) -> Iterator[tuple[PooledMaps, Scan]]:
    """Capture the attention of whole sequences and scan them for memorization, in one forward.

    Arguments and errors as `capture_pooled` and `scan_memorized`. Maps equal those of
    `capture_pooled`, bit for bit at equal batch size. Verdicts come from eager attention, those of
    `scan_memorized` from the native one: rounding may flip a near tie, see `Scan.smallest_gap`.
    Where the logits of a batch would take more than `lm.model.LOGIT_BYTES`, both are asked one by
    one.
    """
    table = check_tokens(lm, tokens, prefix=prefix)

    def step(batch: torch.Tensor) -> tuple[PooledMaps, Scan]:
        wanted = batch[:, prefix:]
        if len(batch) > within_logits(lm, wanted.shape[1] + 1):
            return capture_batch(lm, batch, pack=pack), _scan_batch(lm, batch, prefix)
        with pooled_attention(lm, pack=pack) as pool:
            with torch.inference_mode():
                logits = last_logits(
                    lm,
                    prepend_bos(lm, batch),
                    wanted.shape[1] + 1,
                    output_attentions=lm.attention_route == "hooks",
                )
                # Nobody asks what follows the last token.
                is_memorized, gap = compare(logits[:, :-1], wanted)
            maps = pool.maps()  # which waits for the device, so that what follows need not
        return maps, _scan_of(lm, is_memorized, gap)

    return run_batches(lm, table, batch_size, step)
