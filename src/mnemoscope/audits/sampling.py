"""How likely a model of this machine draws tokens, and the answers that it draws."""

from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mnemoscope.audits.asking import Choices, TokenScores
from mnemoscope.audits.questions import OrdinarySettings
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.tokens import token_texts
from mnemoscope.errors import UserError
from mnemoscope.lm.model import (
    LanguageModel,
    check_finite,
    check_tokens,
    in_chat,
    last_logits,
    new_cache,
    prepend_bos,
    run_batches,
)
from mnemoscope.progress import SILENT, Progress


def is_chat_model(lm: LanguageModel) -> bool:
    """Whether a prompt can be put as a user's question: the tokenizer has a chat template."""
    return bool(getattr(lm.tokenizer, "chat_template", None))


def draw_answers(
    lm: LanguageModel,
    prompts: Sequence[str],
    settings: OrdinarySettings,
    progress: Progress = SILENT,
) -> list[str]:
    """One answer to each prompt, of at most `settings.answer_tokens` tokens.

    A chat-tuned model is asked in its template; a base model goes on with the prompt as a text.
    Drawn at `temperature` from the `top_k`; the same seed and batch size draw the same. Raises
    UserError: as `prompts_shown`, or logits that are not finite.
    """
    shown = prompts_shown(lm, prompts)
    generator = torch.Generator().manual_seed(settings.seed)
    answers: dict[int, list[int]] = {}
    for length, members in by_length(shown):
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


def prompts_shown(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    as_chat: bool | None = None,
    room: Sequence[int] = (),
) -> list[list[int]]:
    """Token ids of prompts as the model is shown them, each in its chat or after its first token.

    In a chat if `as_chat`; by default where there is a template. `room` is how many tokens the
    answer to each takes, by default one. Raises UserError: a chat template that cannot be filled
    in, or a prompt that leaves no room for an answer in the model's positions.
    """
    in_template = is_chat_model(lm) if as_chat is None else as_chat
    before, shown = [] if lm.bos_id is None else [lm.bos_id], []
    for prompt, size in zip(prompts, room or [1] * len(prompts), strict=True):
        if in_template:
            shown.append(list(in_chat(lm, prompt).chat))
        else:
            ids = lm.tokenizer(prompt, add_special_tokens=False).input_ids
            shown.append([*before, *ids])
        if lm.max_positions is not None and len(shown[-1]) + size > lm.max_positions:
            raise UserError(
                f"{lm.name}: the prompt '{prompt[:40]}…' leaves no room for an answer in "
                f"{lm.max_positions} positions. Shorten it."
            )
    return shown


def by_length(rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
    """Places of rows of the same length, with that length, the shortest first."""
    order = sorted(range(len(rows)), key=lambda one: len(rows[one]))
    for length, group in groupby(order, key=lambda one: len(rows[one])):
        yield length, list(group)


def _draw(
    lm: LanguageModel,
    rows: torch.Tensor,
    n: int,
    settings: AuditSettings,
    generator: torch.Generator,
) -> list[list[int]]:
    """Tokens drawn after prompts of one length (rows, length), up to the one that ends a text."""
    ends = answer_ends(lm)
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


def answer_ends(lm: LanguageModel) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model names, as of a turn."""
    named: Any = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    every = [getattr(lm.tokenizer, "eos_token_id", None), *np.atleast_1d(named)]
    return sorted({int(one) for one in every if one is not None})


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
    ids, values = drawable(logits, settings)
    return values.masked_fill(ids != wanted[:, None], -torch.inf).amax(dim=-1)


def drawable(logits: torch.Tensor, settings: AuditSettings) -> tuple[torch.Tensor, torch.Tensor]:
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


class Chances(NamedTuple):
    """What a model says of given tokens, arrays of one shape (..., tokens).

    The natural logarithm of the chance of drawing each (-inf: never), that of its probability, and
    whether it is the likeliest.
    """

    sampled: npt.NDArray[np.float64]
    logprobs: npt.NDArray[np.float64]
    is_best: npt.NDArray[np.bool_]


def score_tokens(
    lm: LanguageModel, logits: torch.Tensor, wanted: torch.Tensor, settings: AuditSettings
) -> Chances:
    """Chances of tokens (n, places) from logits (n, places, vocabulary), place by place."""
    made = []
    for at in range(wanted.shape[1]):  # of a large vocabulary no second copy of all logits is made
        here, token = logits[:, at].float(), wanted[:, at]
        logprob = here.log_softmax(dim=-1).gather(1, token[:, None])[:, 0]
        check_finite(lm, logprob)
        made.append((sampling_logprobs(here, token, settings), logprob, here.argmax(-1) == token))
    sampled, logprobs, is_best = (torch.stack(one, 1).cpu() for one in zip(*made, strict=True))
    return Chances(sampled.numpy(), logprobs.double().numpy(), is_best.numpy())


N_ALTERNATIVES = 3


def score_rows(lm: LanguageModel, rows: npt.ArrayLike, settings: AuditSettings) -> TokenScores:
    """Ask how likely a model finds the suffix of each row, from one teacher-forced forward.

    `rows` are token ids, shape (n, length), n at least 1; of the suffix's length it stands alone.
    Raises UserError: logits that are not finite.
    """
    table = check_tokens(lm, rows)

    def ask(batch: torch.Tensor) -> tuple[Any, ...]:
        wanted = batch[:, -settings.suffix :]
        if not lm.before and batch.shape[1] == settings.suffix:
            wanted = wanted[:, 1:]  # nothing is read before the first
        with torch.inference_mode():
            logits = last_logits(lm, prepend_bos(lm, batch[:, :-1]), wanted.shape[1])
            found = score_tokens(lm, logits, wanted, settings)
            n, places = min(N_ALTERNATIVES, logits.shape[-1]), range(wanted.shape[1])
            tops = [logits[:, at].float().log_softmax(dim=-1).topk(n) for at in places]
        best, ids = (torch.stack(one, 1).cpu().numpy() for one in zip(*tops, strict=True))
        missing = np.full((len(ids), settings.suffix - len(places)), np.nan)
        values = np.hstack([missing, found.logprobs])
        return values, found.sampled.sum(axis=1), found.is_best.all(axis=1), ids, best

    made = run_batches(lm, table, settings.batch_size, ask, places=settings.suffix)
    batches = zip(*made, strict=True)
    logprobs, sampled, is_whole, ids, values = map(np.concatenate, batches)

    def choices(row: int) -> Choices:
        texts = iter(token_texts(lm.tokenizer, ids[row]))
        return [
            [{"text": next(texts), "logprob": float(one)} for one in place] for place in values[row]
        ]

    return TokenScores(logprobs, sampled, is_whole, choices)
