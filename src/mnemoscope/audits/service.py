"""A model behind an OpenAI-compatible API, as an audit asks it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mnemoscope.audits.align import Aligned, align_answer, ends_inside, pieces_of_text
from mnemoscope.audits.asking import (
    ApiRecord,
    Auditing,
    ModelFacts,
    ModelRecord,
    Prompt,
    TokenScores,
    Until,
    Written,
)
from mnemoscope.audits.client import Client, Completion, RefusedRequestError
from mnemoscope.audits.ordinary import read_prompts
from mnemoscope.audits.questions import QUESTIONS, OrdinarySettings, Where
from mnemoscope.audits.scan import coarse_places, prompts_at
from mnemoscope.audits.settings import AuditSettings
from mnemoscope.audits.tokens import ModelTokens, Splitter
from mnemoscope.audits.unread import unread_texts
from mnemoscope.errors import UserError
from mnemoscope.progress import SILENT, Progress

_SAME = 1e-6  # nats; the service rounds what it says twice of one token
_WORDS_FACTOR = 2  # tokens asked for each word; most words are one or two
_MORE = 4  # times as many where an answer was right and cut
_FINISH = 3  # tokens more where the last one ends inside a character: at most three bytes miss
_CHARACTERS_A_TOKEN = 4  # of text whose tokens we do not know
_GROWN = 2  # windows of a passage from which it is followed on
_JUDGED = 2  # requests that judge a passage, with its prefix and without


class ServedModel:
    """A model behind an API; what it cannot be asked says `Question.where`.

    `splitter` cuts the documents into the model's tokens, or words. Sampling is at temperature 1
    from all tokens, since a service gives no more. The tokenizer's name and revision are recorded.
    The client keeps each answer as soon as it is there. Raises UserError: tokens are to be sent,
    and there is no tokenizer; or settings that a service cannot follow.
    """

    client: Client
    splitter: Splitter
    settings: AuditSettings

    kind: Where = "api"
    is_chat = False

    def __init__(
        self,
        client: Client,
        splitter: Splitter,
        settings: AuditSettings,
        *,
        tokenizer_name: str | None = None,
        tokenizer_revision: str | None = None,
    ) -> None:
        self._is_model = isinstance(splitter, ModelTokens)
        if client.settings.prompt_as == "tokens" and not self._is_model:
            raise UserError("--prompt-as tokens: without --tokenizer there are no tokens to send.")
        if settings.temperature != 1 or settings.top_k != 0:
            raise UserError(
                "--temperature, --top-k: an API does not give the probabilities that these need. "
                "Leave them out: the chance of one try is at temperature 1 from all tokens."
            )
        self.client, self.splitter, self.settings = client, splitter, settings
        self._named = {"tokenizer": tokenizer_name, "tokenizer_revision": tokenizer_revision}
        self._before = [] if splitter.bos_id is None else [splitter.bos_id]
        self._answers: dict[str, Completion] = {}
        self._judges: bool | None = None
        self._is_judging = False
        self._n_cut = 0

    def facts(self) -> ModelFacts:
        """What it is: null where nothing can be known, and in words what was not given."""
        service, answers = self.client.settings, list(self._answers.values())
        asked = [service.url, service.model, service.prompt_as, service.logprobs, service.chat]
        pieces = [type(self.splitter).__name__, self.splitter.bos_id]
        unknown = dict.fromkeys(("revision", "fingerprint", "dtype", "device", "vocab_size"))
        named = {"name": service.model, "bos_id": self.splitter.bos_id}
        record = cast(ModelRecord, {**named, **unknown, "files": dict[str, str]()})
        api = {
            **self._named,
            "endpoint": service.url,
            "settings": service.model_dump(exclude={"url", "model"}),
            "pieces": "tokens" if self._is_model else "words",
            "answered_as": sorted({one.model for one in answers if one.model}),
            "requests": len(answers),
            "prompt_tokens": _total([one.prompt_tokens for one in answers]),
            "completion_tokens": _total([one.completion_tokens for one in answers]),
            "answers_cut": self._n_cut,
            "notes": self._notes(),
        }
        identity: dict[str, list[Any]] = {"endpoint": asked, "pieces": pieces}
        return ModelFacts(identity, record, cast(ApiRecord, api))

    def _notes(self) -> list[str]:
        notes = [
            "No CNN and no attention maps: a service shows what a model writes, not how.",
            "No fingerprint of the weights: who runs the service may change the model at any time. "
            "The answers stand in answers.jsonl.",
        ]
        if self.is_chat:
            notes.append(
                "Asked in a chat to go on with a text, and compared from where the answer does so. "
                "A chat may refuse, sum up or change words, so that nothing came out says little."
            )
        if not self._is_model:
            notes.append(
                "Windows, scores and the rule count words and punctuation marks, not the model's "
                "tokens: no tokenizer was given."
            )
        if self._n_cut:
            notes.append(
                f"{self._n_cut:,} answers ended before as many words as were asked for; what was "
                "not written counts as wrong."
            )
        if self._is_judging and not self._judges:
            missing = "no perplexity without the prefix."
            said = f"The service gives no log-probabilities of a prompt: {missing}"
            if not self._can_judge:
                said = (
                    f"It was not asked to judge a given text: {missing} That takes the model's "
                    "tokenizer, prompts as tokens and log-probabilities."
                )
            notes.append(
                f"{said} The chance of one try is known where the service gave log-probabilities "
                "for exactly the characters of a passage."
            )
        return notes

    def continue_(
        self,
        prompts: Sequence[Prompt] | Sequence[str],
        *,
        until: Until = "end",
        progress: Progress = SILENT,
    ) -> list[Written]:
        """Write on after prompts; a text is answered at temperature 1."""
        texts = [one for one in prompts if isinstance(one, str)]
        if texts:
            said = self._ask([self.everyday(one) for one in texts], progress)
            return [Written([], pieces=[one.text]) for one in said]
        places = [one for one in prompts if isinstance(one, Prompt)]
        answers = self._ask([self.request(one) for one in places], progress)
        if until == "end":
            begun = [self.begin(*one) for one in zip(answers, places, strict=True)]
            pieces = [
                pieces_of_text(answer, self.splitter, one)[0]
                for answer, one in zip(begun, places, strict=True)
            ]
            return [
                Written(ids[: one.end - one.begin]) for ids, one in zip(pieces, places, strict=True)
            ]
        found = [self._align(*one) for one in zip(answers, places, strict=True)]
        # Right so far and cut by its length: ask again for more.
        again = [row for row, one in enumerate(found) if one.wants_more]
        more = self._ask([self.request(places[row], factor=_MORE) for row in again], SILENT)
        for row, answer in zip(again, more, strict=True):
            found[row] = self._align(answer, places[row])
        self._n_cut += sum(one.wants_more for one in found)
        return [one.written for one in found]

    def logprobs(self, rows: npt.NDArray[np.int32]) -> TokenScores | None:
        """Ask for the log-probability of each token of texts; None where it is not given."""
        self._is_judging = True
        if not self._can_judge or self._judges is False:
            return None
        texts = [[*self._before, *row] for row in rows.tolist()]
        bodies = [self.client.body(text, 1, echo=True) for text in texts]
        answers: list[Completion] = []
        for some in (bodies[:1], bodies[1:]):  # one alone first: many services refuse
            try:
                answers += self._ask(some, SILENT)
            except RefusedRequestError:
                self._judges = False
                return None
            self._judges = all(map(_is_judged, answers, texts))
            if not self._judges:
                return None
        suffix, n = self.settings.suffix, len(texts[0])
        logprobs = np.array(
            [(one.logprobs or [])[n - suffix : n] for one in answers], dtype=np.float64
        )
        tops = [(one.alternatives or [[]] * n)[n - suffix : n] for one in answers]
        is_whole = [
            all(
                top and value >= top[0]["logprob"] - _SAME for value, top in zip(*both, strict=True)
            )
            for both in zip(logprobs, tops, strict=True)
        ]
        sampling = [math.fsum(values) for values in logprobs.tolist()]
        return TokenScores(logprobs, np.array(sampling), np.array(is_whole), tops.__getitem__)

    def request(self, prompt: Prompt, factor: int = 1) -> Any:
        """The request for what is asked after a prompt, or for `factor` times as much."""
        n = prompt.end - prompt.begin
        wanted = self._tokens_for(n * factor)
        if self._is_model and ends_inside(prompt.tokens, prompt.end):
            wanted += _FINISH
        if self.client.settings.prompt_as == "text":
            return self.client.body(prompt.shown, wanted)
        shown = prompt.tokens.ids[prompt.first : prompt.begin].tolist()
        return self.client.body([*self._before, *shown], wanted)

    def everyday(self, prompt: str) -> Any:
        """The request for an answer to a user's prompt."""
        assert isinstance(self.settings, OrdinarySettings)
        return self.client.body(prompt, self.settings.answer_tokens) | {"temperature": 1}

    def begin(self, answer: Completion, _: Prompt) -> Completion:
        """The answer from where it goes on with the document."""
        return answer

    @property
    def requests_a_passage(self) -> int:
        """Most requests that a passage takes, beside those at every stride-th window."""
        judged = _JUDGED if self._can_judge else 0
        return 2 * (self.settings.stride - 1) + _GROWN + judged

    @property
    def _can_judge(self) -> bool:
        """True where a text can be sent as tokens, so that each has its log-probability."""
        service = self.client.settings
        return service.logprobs and service.prompt_as == "tokens"

    def _tokens_for(self, n: int) -> int:
        """Tokens to ask for, so that n pieces come."""
        return n if self._is_model else n * _WORDS_FACTOR

    def _align(self, answer: Completion, prompt: Prompt) -> Aligned:
        return align_answer(self.begin(answer, prompt), self.splitter, prompt)

    def _ask(self, bodies: Sequence[Any], progress: Progress) -> list[Completion]:
        """Answers in the order of their requests; each is asked once."""
        found = self.client.ask(bodies, progress)
        self._answers |= zip(map(self.client.name, bodies), found, strict=True)
        return found


def _is_judged(answer: Completion, row: list[int]) -> bool:
    """One log-probability a token of the prompt, and one of what came after, which is not used."""
    values = answer.logprobs or []
    return len(values) in (len(row), len(row) + 1) and None not in values[1:]


def _total(counts: Sequence[int | None]) -> int | None:
    return sum(counts) if counts and None not in counts else None  # type: ignore[arg-type]


def estimate_cost(
    audit: Auditing, *, price_in: float | None = None, price_out: float | None = None
) -> str:
    """What windows at every stride-th place, of `--unread` too, and everyday prompts will cost.

    None is asked. The prices are those of a million prompt and a million completion tokens.
    """
    model, settings = audit.model, audit.settings
    assert isinstance(model, ServedModel)
    asked = [audit]
    if QUESTIONS["unread"].is_on(settings):
        asked.append(replace(audit, texts=unread_texts(audit)))
    bodies = [
        model.request(prompt) for one in asked for prompt in prompts_at(one, coarse_places(one))
    ]
    if QUESTIONS["ordinary"].is_on(settings):
        assert isinstance(settings, OrdinarySettings)
        bodies += [model.everyday(one) for one in read_prompts(settings.ordinary or "")]
    missing = [body for body in bodies if not model.client.is_answered(body)]
    n_answered = len(bodies) - len(missing)
    known = f" ({n_answered:,} more are answered already)" if n_answered else ""
    prompts = [
        body["messages"][0]["content"] if "messages" in body else body["prompt"] for body in missing
    ]
    about = "" if all(isinstance(prompt, list) for prompt in prompts) else "about "
    n_in = sum(
        len(one) if isinstance(one, list) else -(-len(one) // _CHARACTERS_A_TOKEN)
        for one in prompts
    )
    n_out = sum(body["max_tokens"] for body in missing)
    price = ""
    if price_in is not None and price_out is not None:
        most = (n_in * price_in + n_out * price_out) / 1e6
        shown = "less than 0.01" if most < 0.01 else f"at most {most:,.2f}"
        price = f", {shown} at these prices"
    return (
        f"{len(missing):,} requests{known}, {about}{n_in:,} prompt tokens and "
        f"at most {n_out:,} completion tokens{price}. A passage that is found "
        f"takes up to about {model.requests_a_passage} requests more."
    )
