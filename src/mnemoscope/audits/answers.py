"""Answers that a model of this machine draws, and the chance that one is nearly a passage.

The chance of exactly these tokens is one product. That of any text within k edits is a sum over
far too many texts; beam search finds the likeliest of them, and since they are distinct, their
chances add up to a lower bound. A beginning that no ending can bring within k edits is dropped.

Source: decoding-constrained beam search, Cooper et al., arXiv 2603.24917.
"""

from collections.abc import Sequence
from itertools import groupby, takewhile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.audits.settings import AuditSettings
from mnemoscope.errors import UserError
from mnemoscope.lm.model import (
    LanguageModel,
    check_finite,
    check_tokens,
    in_chat,
    last_logits,
    new_cache,
    prepend_bos,
    reorder_rows,
    run_batches,
)
from mnemoscope.progress import track


def is_chat_model(lm: LanguageModel) -> bool:
    """Whether a prompt can be put as a user's question: the tokenizer has a chat template."""
    return bool(getattr(lm.tokenizer, "chat_template", None))


def draw_answers(lm: LanguageModel, prompts: Sequence[str], settings: AuditSettings) -> list[str]:
    """One answer to each prompt, of at most `settings.answer_tokens` tokens.

    A chat-tuned model is asked in its template; a base model goes on with the prompt as a text.
    Drawn at `temperature` from the `top_k`; the same seed and batch size draw the same. Raises
    UserError: as `prompts_shown`, or logits that are not finite.
    """
    shown = prompts_shown(lm, prompts)
    generator = torch.Generator().manual_seed(settings.seed)
    answers: dict[int, list[int]] = {}
    order = sorted(range(len(shown)), key=lambda one: len(shown[one]))
    with track("Asking everyday prompts", total=len(shown), unit="prompts") as progress:
        for length, group in groupby(order, key=lambda one: len(shown[one])):
            members = list(group)
            n = settings.answer_tokens
            if lm.max_positions is not None:
                n = min(n, lm.max_positions - length)
            for start in range(0, len(members), settings.batch_size):
                some = members[start : start + settings.batch_size]
                rows = torch.tensor([shown[one] for one in some], device=lm.device)
                answers |= zip(some, _draw(lm, rows, n, settings, generator), strict=True)
                progress.advance(len(some))
    return [
        str(lm.tokenizer.decode(answers[one], skip_special_tokens=True))
        for one in range(len(shown))
    ]


def prompts_shown(lm: LanguageModel, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts as the model is shown them, each in its chat or after its first token.

    Raises UserError: a chat template that cannot be filled in, or a prompt that leaves no room for
    an answer in the model's positions.
    """
    shown = [_tokens_of(lm, prompt) for prompt in prompts]
    for prompt, tokens in zip(prompts, shown, strict=True):
        if lm.max_positions is not None and len(tokens) >= lm.max_positions:
            raise UserError(
                f"{lm.name}: the prompt '{prompt[:40]}…' leaves no room for an answer in "
                f"{lm.max_positions} positions. Shorten it."
            )
    return shown


def _tokens_of(lm: LanguageModel, prompt: str) -> list[int]:
    if is_chat_model(lm):
        return list(in_chat(lm, prompt).chat)
    before = [] if lm.bos_id is None else [lm.bos_id]
    return before + list(lm.tokenizer(prompt, add_special_tokens=False).input_ids)


def _draw(
    lm: LanguageModel,
    rows: torch.Tensor,
    n: int,
    settings: AuditSettings,
    generator: torch.Generator,
) -> list[list[int]]:
    """Tokens drawn after prompts of one length (rows, length), up to the one that ends a text."""
    ends = _ends(lm)
    cache, fed, drawn = new_cache(lm, rows.shape[1] + n, by_token=True), rows, []
    is_over = torch.zeros(len(rows), dtype=torch.bool)
    with torch.inference_mode():
        for _ in range(n):
            logits = last_logits(lm, fed, 1, cache)[:, 0].double()
            check_finite(lm, logits.amax(dim=-1))
            chances = sampling_table(logits, settings).exp().cpu()
            new = chances.multinomial(1, generator=generator)
            drawn.append(new)
            is_over |= torch.isin(new[:, 0], torch.tensor(ends, dtype=new.dtype))
            if bool(is_over.all()):
                break
            there = new.to(rows.device)
            fed = there if cache is not None else torch.cat([fed, there], dim=1)
    found = torch.cat(drawn, dim=1).tolist()
    return [list(takewhile(lambda one: one not in ends, row)) for row in found]


def _ends(lm: LanguageModel) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model names, as of a turn."""
    named: Any = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    every = [getattr(lm.tokenizer, "eos_token_id", None), *np.atleast_1d(named)]
    return sorted({int(one) for one in every if one is not None})


class EditNeighbourhood(NamedTuple):
    """What n suffixes come to with `settings.edits` edits.

    The natural logarithm of the summed chances of the texts found, (n,) float64, -inf where none
    can be drawn, and how many texts that are, (n,).
    """

    logprob: npt.NDArray[np.float64]
    n_texts: npt.NDArray[np.int64]


def chance_within(
    lm: LanguageModel, windows: npt.NDArray[np.int32], settings: AuditSettings
) -> EditNeighbourhood:
    """Bound the chance that the tokens drawn after each prefix are the suffix, nearly.

    `windows` are token ids, (n, length), n at least 1. Counted are answers whose first `suffix`
    tokens have a Levenshtein distance in tokens of at most `settings.edits` from the suffix, drawn
    at `temperature` from the `top_k`. The suffix itself is always among them, so the bound is at
    least its chance; with as many beams as there are such texts it is exact. Raises UserError:
    logits that are not finite, or tokens that do not fit the model. NoRoomError: the beams of one
    window do not fit into memory.
    """
    table = check_tokens(lm, windows, prefix=settings.prefix)
    n_windows = max(1, settings.batch_size // settings.beams)
    made = run_batches(
        lm,
        table,
        n_windows,
        lambda batch: _search(lm, batch, settings),
        places=2 * settings.beams,  # in float64
    )
    return EditNeighbourhood(*map(np.concatenate, zip(*made, strict=True)))


def _search(lm: LanguageModel, batch: torch.Tensor, settings: AuditSettings) -> EditNeighbourhood:
    """Beams of a batch of windows (w, length), all of one window side by side."""
    n, n_steps = len(batch), batch.shape[1] - settings.prefix
    wanted = batch[:, None, settings.prefix :]  # (w, 1, steps), for every beam
    rows = torch.arange(n, device=batch.device)[:, None]
    totals = torch.zeros(n, 1, dtype=torch.float64, device=batch.device)
    distances = torch.arange(n_steps + 1, device=batch.device).expand(n, 1, -1)
    cache, fed = new_cache(lm, batch.shape[1] - 1), prepend_bos(lm, batch[:, : settings.prefix])
    shared = fed.shape[1]
    with torch.inference_mode():
        for step in range(n_steps):
            logits = last_logits(lm, fed, 1, cache)[:, 0]
            check_finite(lm, logits.amax(dim=-1))
            ids, values = (one.reshape(*totals.shape, -1) for one in _drawable(logits, settings))
            is_left = _leads_on(ids, distances, wanted, step, settings.edits)
            drawn = values.masked_fill(~is_left, -torch.inf) + totals[..., None]
            # The passage itself stays, in the first beam, as long as it can be drawn.
            is_own = (ids[:, 0] == wanted[:, 0, [step]]) & (drawn[:, 0] > -torch.inf)
            order = drawn.clone()
            order[:, 0].masked_fill_(is_own, 1.0)
            chosen = order.flatten(1).topk(min(settings.beams, order[0].numel()), dim=1).indices
            totals = drawn.flatten(1).gather(1, chosen)
            beams, tokens = chosen // drawn.shape[2], ids.flatten(1).gather(1, chosen)
            distances = _advance(distances[rows, beams], tokens, wanted)
            parents = (rows * drawn.shape[1] + beams).flatten()
            new = tokens.flatten()[:, None]
            if cache is None:  # such families read everything again
                fed = torch.cat([fed[parents], new], dim=1)
            else:
                reorder_rows(cache, parents, shared=shared)
                fed = new
    found = totals.logsumexp(dim=1).clamp(max=0.0)
    return EditNeighbourhood(found.cpu().numpy(), (totals > -torch.inf).sum(dim=1).cpu().numpy())


def sampling_table(logits: torch.Tensor, settings: AuditSettings) -> torch.Tensor:
    """Log-probabilities of drawing each token, (rows, vocabulary); -inf outside the top k.

    Several tokens that tie for the last place may all be drawn, as transformers does it.
    """
    scaled = logits / settings.temperature
    if not 0 < settings.top_k < scaled.shape[-1]:
        return scaled.log_softmax(dim=-1)
    last = scaled.topk(settings.top_k, dim=-1).values[:, -1:]  # and all that tie with it
    return scaled.masked_fill(scaled < last, -torch.inf).log_softmax(dim=-1)


def sampling_logprobs(
    logits: torch.Tensor, wanted: torch.Tensor, settings: AuditSettings
) -> torch.Tensor:
    """Log-probability of drawing one token of each row of logits, (rows,) float64."""
    ids, values = _drawable(logits, settings)
    return values.masked_fill(ids != wanted[:, None], -torch.inf).amax(dim=-1)


def _drawable(logits: torch.Tensor, settings: AuditSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids that can be drawn and their log-probabilities, float64, both (rows, k).

    As many as the row with most has: more than `top_k` where several tie for the last place, and
    the others of a row have -inf. Of a large vocabulary only these are worked on.
    """
    if not 0 < settings.top_k < logits.shape[-1]:
        table = sampling_table(logits.double(), settings)
        return torch.arange(table.shape[1], device=table.device).expand_as(table), table
    best = logits.topk(settings.top_k, dim=-1)
    most = int((logits >= best.values[:, -1:]).sum(dim=-1).amax())
    if most > settings.top_k:
        best = logits.topk(most, dim=-1)
    return best.indices, sampling_table(best.values.double(), settings)


def _leads_on(
    ids: torch.Tensor, distances: torch.Tensor, wanted: torch.Tensor, step: int, edits: int
) -> torch.Tensor:
    """Which tokens (w, beams, k) leave a way to end within the edits, bool of that shape.

    Only the tokens that the passage has near this place can lead on better than any other token.
    """
    near = wanted[..., max(step - edits, 0) : step + edits + 1].expand(*ids.shape[:2], -1)
    tried = torch.cat([near, torch.full_like(near[..., :1], -1)], dim=-1)  # -1 matches no token
    starts = distances[:, :, None].expand(-1, -1, tried.shape[-1], -1)
    can = _least(_advance(starts, tried, wanted[:, :, None]), step) <= edits
    matches = (ids[..., None] == near[..., None, :]) & can[..., None, :-1]
    return matches.any(dim=-1) | can[..., -1:]


def _advance(distances: torch.Tensor, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Levenshtein distances to each beginning of the passage, after one more token.

    (..., steps + 1) from the same, tokens (...) and the passage (..., steps), which broadcasts.
    """
    exchanged = distances[..., :-1] + (tokens[..., None] != wanted)
    put_in = distances + 1
    least = torch.cat([put_in[..., :1], torch.minimum(put_in[..., 1:], exchanged)], dim=-1)
    places = torch.arange(least.shape[-1], device=least.device)
    return (least - places).cummin(dim=-1).values + places


def _least(distances: torch.Tensor, step: int) -> torch.Tensor:
    """The least distance of whole texts that go on from here: `step` + 1 tokens are written."""
    places = torch.arange(distances.shape[-1], device=distances.device)
    return (distances + (places - step - 1).abs()).amin(dim=-1)
