"""Put items to a model: what it writes after each prompt, and how likely it finds the answer."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import polars as pl
import torch

from mnemoscope.audits.client import Client
from mnemoscope.audits.sampling import answer_ends, by_length, is_chat_model, prompts_shown
from mnemoscope.contamination.order import items_with_orders, order_ranks
from mnemoscope.contamination.table import Item, words_of
from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import greedy_tokens
from mnemoscope.lm.model import LanguageModel, check_finite, last_logits, run_batches
from mnemoscope.progress import SILENT, Progress
from mnemoscope.store import kept_in_parts

_PART = 128  # items that are asked and kept together
_OTHERS = 4  # prompts of other items that an answer is put behind
_FURTHER = 8  # tokens more than the answer has: another spelling may take more
_DENIED_BY = 3  # words before an answer that may deny it
_DENIAL = re.compile(r"\b(not|cannot|never|neither|nor|t)\b(?! (only|just|merely))[^.,;:!?]*$")
_PREAMBLE = 48  # tokens that a chat may say before its answer

ANSWERS = pl.Schema(
    {
        "written": pl.String,
        "edits": pl.Int64,
        "logprob": pl.Float64,
        "prior": pl.Float64,
        "order_rank": pl.Int64,
    }
)
"""What a model's answers are: `written`, what it writes; `edits`, words by which that differs from
the answer; `logprob`, ln of the answer's probability after its prompt; `prior`, that after other
prompts or none: the larger of the two; `order_rank`, as `order_ranks`. Null where a model does not
say."""


class AskedModel(Protocol):
    """A model that items are put to.

    Attributes:
        is_chat: it is asked a question, and may say something before its answer.
        identity: what of it decides its answers.
        record: what is written down of it.
    """

    is_chat: bool
    identity: list[Any]
    record: Mapping[str, Any]

    def write(self, items: Sequence[Item], progress: Progress) -> list[str]:
        """What it writes after each prompt, greedily."""

    def logprobs(
        self, pairs: Sequence[tuple[str, str]], *, as_given: bool = False
    ) -> list[float] | None:
        """Log-probabilities (ln) of answers after prompts; None: it does not say.

        An answer may be written with a blank before it or without: that of either, unless it is
        asked `as_given`. After an empty
        prompt nothing but what the tokenizer puts before a text is read; NaN where it puts nothing.
        """


class LocalModel:
    """A model that runs here; one with a chat template is asked in it if `as_chat`.

    Raises UserError: no tokenizer, or no chat template where one is wanted.
    """

    def __init__(
        self, lm: LanguageModel, *, record: Mapping[str, Any], batch_size: int, as_chat: bool
    ) -> None:
        if lm.tokenizer is None:
            raise UserError(f"{lm.name}: has no tokenizer. Save it with the model.")
        if as_chat and not is_chat_model(lm):
            raise UserError(f"{lm.name}: its tokenizer has no chat template. Leave it out.")
        self.lm, self.is_chat, self._batch = lm, as_chat, batch_size
        self.identity: list[Any] = [lm.fingerprint, lm.dtype, lm.bos_id, as_chat]
        self.record = record

    def _tokens(self, text: str) -> list[int]:
        return list(self.lm.tokenizer(text, add_special_tokens=False).input_ids)

    def write(self, items: Sequence[Item], progress: Progress) -> list[str]:
        """As `AskedModel`; prompts of one length go together."""
        more = _PREAMBLE if self.is_chat else _FURTHER
        sizes = [len(self._tokens(one.answer)) for one in items]
        prompts = [one.prompt.rstrip(" ") for one in items]
        shown = prompts_shown(self.lm, prompts, as_chat=self.is_chat, room=sizes)
        wanted = [size + more for size in sizes]
        bare, ends = replace(self.lm, bos_id=None, chat=()), {*answer_ends(self.lm)}
        found: dict[int, str] = {}
        for length, members in by_length(shown):
            n = max(wanted[one] for one in members)
            if self.lm.max_positions is not None:
                n = min(n, self.lm.max_positions - length)
            table = torch.tensor([shown[one] for one in members])

            def step(batch: torch.Tensor, n: int = n) -> torch.Tensor:
                return greedy_tokens(bare, batch, n)[0].cpu()

            made = run_batches(bare, table, self._batch, step)
            for one, row in zip(members, (row for batch in made for row in batch), strict=True):
                ids = row.tolist()[: wanted[one]]
                end = next((at for at, token in enumerate(ids) if token in ends), len(ids))
                found[one] = str(self.lm.tokenizer.decode(ids[:end], skip_special_tokens=True))
            progress.advance(len(members))
        return [found[one] for one in range(len(items))]

    def logprobs(
        self, pairs: Sequence[tuple[str, str]], *, as_given: bool = False
    ) -> list[float] | None:
        """As `AskedModel`, from one teacher-forced forward; rows of one length go together.

        None in a chat, which may say anything before its answer.
        """
        if self.is_chat:
            return None
        forms = [
            (at, *one) for at, pair in enumerate(pairs) for one in self._forms(*pair, as_given)
        ]
        rows, answers = [before + own for _, before, own in forms], [len(one[2]) for one in forms]
        bare, scores = replace(self.lm, bos_id=None, chat=()), np.full(len(rows), np.nan)
        for _, members in by_length(rows):
            n = max(answers[one] for one in members)
            table = torch.tensor([rows[one] for one in members])

            def ask(batch: torch.Tensor, n: int = n) -> torch.Tensor:
                with torch.inference_mode():
                    logits = last_logits(bare, batch[:, :-1], n).float().log_softmax(dim=-1)
                    of_token = logits.gather(2, batch[:, -n:, None])[..., 0]
                check_finite(bare, of_token)
                return of_token.double().cpu()

            made = run_batches(bare, table, self._batch, ask, places=n)
            for one, row in zip(members, (row for batch in made for row in batch), strict=True):
                scores[one] = float(row[-answers[one] :].sum())
        found = np.full(len(pairs), np.nan)  # where nothing is read before an answer
        for (at, *_), score in zip(forms, scores, strict=True):
            found[at] = np.logaddexp(found[at], score) if found[at] == found[at] else score
        return cast(list[float], found.tolist())

    def _forms(
        self, prompt: str, answer: str, as_given: bool
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Tokens of the prompt, and of the answer as it may be written: with a blank and not.

        Also with the blanks that it is given with. Nothing where none is read before the answer.
        """
        prompt = prompt.rstrip(" ")
        (before,) = prompts_shown(self.lm, [prompt], as_chat=self.is_chat)
        if not before:
            return
        given, bare = blanks_before(answer), answer.lstrip()
        plain = [""] if prompt[-1:].isspace() else ["", " "]
        blanks = [given] if as_given else [*plain, given]
        for own in dict.fromkeys(tuple(self._tokens(one + bare)) for one in blanks):
            yield before, list(own)


class ServedModel:
    """A model behind an OpenAI-compatible API; it does not say how likely a given answer is."""

    def __init__(self, client: Client) -> None:
        self.client, settings = client, client.settings
        self.is_chat = settings.chat
        self.identity: list[Any] = [settings.url, settings.model, settings.chat]
        self.record: Mapping[str, Any] = {
            "name": settings.model,
            "endpoint": settings.url,
            "fingerprint": None,
        }

    def write(self, items: Sequence[Item], progress: Progress) -> list[str]:
        """As `AskedModel`; what was answered before is not asked again."""
        more = _PREAMBLE if self.is_chat else _FURTHER
        bodies = [
            self.client.body(
                one.prompt.rstrip(" "),
                len(one.answer) + more,  # a token has a character at least
            )
            for one in items
        ]
        return [one.text for one in self.client.ask(bodies, progress)]

    def logprobs(self, pairs: Sequence[tuple[str, str]], *, as_given: bool = False) -> None:
        """A service does not say."""


def answers_of(
    model: AskedModel, items: Sequence[Item], label: str, kept: Path | None, *, with_prior: bool
) -> pl.DataFrame:
    """Ask all items, some at a time; a part that an earlier run finished in `kept` is read.

    Gives `ANSWERS`, one row an item. Errors as `AskedModel`.
    """
    ordered = items_with_orders(items)

    def make(some: Sequence[Item], progress: Progress) -> pl.DataFrame:
        return _part(model, items, some, progress, with_prior=with_prior, ordered=ordered)

    return pl.concat(kept_in_parts(kept, label, items, _PART, make, unit="items"))


def _part(
    model: AskedModel,
    items: Sequence[Item],
    some: Sequence[Item],
    progress: Progress = SILENT,
    *,
    with_prior: bool,
    ordered: Container[str] = (),
) -> pl.DataFrame:
    written = model.write(some, progress)
    edits = []
    for text, answer in zip(written, (words_of(one.answer) for one in some), strict=True):
        anywhere = model.is_chat and len(answer) > 1  # "a" is a word of any sentence
        words = affirmed(words_of(text), answer) if anywhere else words_of(text)
        edits.append(differing_words(words, answer, anywhere=anywhere))
    # As the model itself begins its answers: after a line end, say.
    said = [
        one._replace(answer=blanks_before(text) + one.answer.lstrip())
        for text, one in zip(written, some, strict=True)
    ]
    logprobs = model.logprobs([(one.prompt, one.answer) for one in said])
    priors = _priors(model, items, said) if with_prior and logprobs is not None else None
    columns = {"written": written, "edits": edits, "logprob": logprobs, "prior": priors}
    columns["order_rank"] = order_ranks(model, some, ordered)
    n = len(some)
    return pl.DataFrame(
        {name: [None] * n if one is None else one for name, one in columns.items()}, schema=ANSWERS
    )


def _priors(
    model: AskedModel, items: Sequence[Item], some: Sequence[Item]
) -> list[float | None] | None:
    """Ln of an answer's probability without its prompt: the mean after others', or after none."""
    pairs, owners = [], []
    for number, one in enumerate(some):
        for prompt in ["", *other_prompts(items, one)]:
            pairs.append((prompt, one.answer))
            owners.append(number)
    found = model.logprobs(pairs)
    if found is None:
        return None
    values, of = np.exp(np.array(found)), np.array(owners)
    priors: list[float | None] = []
    for number in range(len(some)):
        alone, *others = values[of == number].tolist()
        known = [one for one in (alone, float(np.mean(others or [np.nan]))) if one == one]
        priors.append(float(np.log(max(*known, 1e-300))) if known else None)
    return priors


def other_prompts(items: Sequence[Item], item: Item) -> list[str]:
    """Prompts of some other items, with another answer, drawn by the item's key."""
    family, answer = item.variant_of or item.key, _words_once(item.answer)
    others = [
        one.prompt
        for one in items
        if (one.variant_of or one.key) != family and _words_once(one.answer) != answer
    ]
    generator = np.random.default_rng(list(item.key.encode("utf-8", "backslashreplace")))
    drawn = generator.permutation(len(others))[:_OTHERS].tolist()
    return [others[one] for one in sorted(drawn)]


@lru_cache(maxsize=1 << 18)
def _words_once(answer: str) -> tuple[str, ...]:
    """The words of an answer, which each of the other items is compared with."""
    return tuple(words_of(answer))


def affirmed(written: Sequence[str], answer: Sequence[str]) -> list[str]:
    """The words that are written, those of an answer that is denied left out.

    Denied it is where "not" or the like stands up to three words before it in the same clause.

    >>> affirmed(["not", "anna", "berg", "but", "carl"], ["anna", "berg"])
    ['not', 'but', 'carl']
    """
    left, at = [], 0
    while at < len(written):
        clause = " ".join(written[max(at - _DENIED_BY, 0) : at])
        is_denied = _DENIAL.search(clause) and [*written[at : at + len(answer)]] == [*answer]
        left += [] if is_denied else [written[at]]
        at += len(answer) if is_denied else 1
    return left


def differing_words(
    written: Sequence[str], answer: Sequence[str], *, anywhere: bool = False
) -> int:
    """Words to insert, leave out or replace until what is written begins with the answer.

    With `anywhere` it may stand in any place: the least number over all of them.

    >>> differing_words(["the", "red", "house", "of"], ["the", "blue", "house"])
    1
    """
    above = list(range(len(answer) + 1))
    least = above[-1]
    for at, word in enumerate(written, 1):
        row = [0 if anywhere else at]
        for place, wanted in enumerate(answer, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (word != wanted)))
        above, least = row, min(least, row[-1])
    return least


def blanks_before(text: str) -> str:
    """The blanks and line ends that a text begins with."""
    return text[: len(text) - len(text.lstrip())]


class Answers(NamedTuple):
    """What the model, and a twin where there is one, answered: `ANSWERS`, one row an item."""

    model: pl.DataFrame
    twin: pl.DataFrame | None
