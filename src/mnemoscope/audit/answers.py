"""Answers that a model of this machine draws to prompts, as a chat service would."""

from collections.abc import Sequence
from itertools import groupby, takewhile
from typing import Any

import numpy as np
import torch

from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.within import sampling_table
from mnemoscope.errors import UserError
from mnemoscope.lm.model import LanguageModel, check_finite, in_chat, last_logits, new_cache
from mnemoscope.progress import track


def is_chat_model(lm: LanguageModel) -> bool:
    """Whether a prompt can be put as a user's question: the tokenizer has a chat template."""
    return bool(getattr(lm.tokenizer, "chat_template", None))


def draw_answers(lm: LanguageModel, prompts: Sequence[str], settings: AuditSettings) -> list[str]:
    """One answer to each prompt, of at most `settings.answer_tokens` tokens.

    A chat-tuned model is asked in its template; a base model goes on with the prompt as a text.
    Drawn at `temperature` from the `top_k`; the same seed and batch size draw the same.

    Raises:
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

    Raises:
        UserError: a chat template that cannot be filled in, or a prompt that leaves no room for an
            answer in the model's positions.
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
    cache, fed, drawn = new_cache(lm, rows.shape[1] + n), rows, []
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
