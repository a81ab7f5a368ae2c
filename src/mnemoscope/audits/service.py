"""A model behind an OpenAI-compatible `/v1/completions`, as an audit asks it.

Relies on: `model`, `prompt` (text or token ids), `max_tokens`, `temperature`, `logprobs` and, for
the log-probabilities of a prompt, `echo`; of chats (`chat`) `messages` and `top_logprobs`.
Answers are kept in a file as soon as they are there, so a run that was stopped asks only what is
missing.
"""

import json
import math
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.audits.documents import (
    NOTHING,
    Document,
    ModelTokens,
    Splitter,
    Tokens,
    token_texts,
)
from mnemoscope.audits.evidence import (
    AuditedModel,
    Choice,
    Choices,
    Logprob,
    TokenScores,
    Written,
    gather_evidence,
)
from mnemoscope.audits.ordinary import read_prompts
from mnemoscope.audits.run import coarse_places
from mnemoscope.audits.settings import AuditSettings, EndpointSettings
from mnemoscope.audits.spans import Extension, Place, Span, window_table
from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.files import check_shape, digest
from mnemoscope.parse import parse_json
from mnemoscope.progress import track
from mnemoscope.version import __version__
from mnemoscope.web import EndlessAnswerError, exchange, make_opener, read_answer
from mnemoscope.words import whole_characters

_NEVER = -1e30  # llama.cpp writes the lowest float where a probability is 0
_SAME = 1e-6  # nats; the service rounds what it says twice of one token

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_LONGEST_PAUSE = 300.0  # seconds that a service may tell us to wait before we give up instead
_MOST_BYTES = 16 * 2**20
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_SHORTEST_SECRET = 12  # characters; a shorter key stands for none (EMPTY), and texts hold it too
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")

_WORDS_FACTOR = 2  # tokens asked for each word; most words are one or two
_MORE = 4  # times as many where an answer was right and cut
_FINISH = 3  # tokens more where the last one ends inside a character: at most three bytes miss
_CHARACTERS_A_TOKEN = 4  # of text whose tokens we do not know
_GROWN = 2  # windows of a passage from which it is followed on


_Number = Annotated[int, Field(ge=0, lt=2**31)]


class Answer(NamedTuple):
    """One completion.

    Attributes:
        text: what the model wrote (with `echo` the prompt before it).
        finish_reason: ``length`` where it was cut, ``stop`` where the model ended.
        token_ids: ids of what it wrote, where the service gives them.
        tokens: the same as text, one a token.
        logprobs: natural logarithm of each token's probability; None for a first token.
        alternatives: the likeliest tokens at each place.
        model: what the service says it is.
        prompt_tokens, completion_tokens: as the service counts them.
    """

    text: str
    finish_reason: str | None
    token_ids: list[_Number] | None
    tokens: list[str] | None
    logprobs: list[Logprob | None] | None
    alternatives: Choices | None
    model: str | None
    prompt_tokens: _Number | None
    completion_tokens: _Number | None


def parse_answer(response: Any) -> Answer:
    """Read the JSON of one completion; ValueError says in a few words what else it is."""
    try:
        choice = response["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("without choices[0].text or choices[0].message.content") from None
    if not isinstance(text, str):
        raise ValueError("choices[0].text is no text")
    try:
        tokens, ids, logprobs, alternatives = _read_logprobs(choice.get("logprobs"))
        usage = response.get("usage") or {}
        answer = Answer(
            whole_characters(text),
            choice.get("finish_reason"),
            choice.get("token_ids") or ids,
            tokens,
            logprobs,
            alternatives,
            response.get("model"),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise ValueError("its log-probabilities cannot be read") from None
    check_answer(answer)
    return answer


def check_answer(answer: Answer) -> None:
    """Raise ValueError for a field of another type, or lists of unequal length."""
    try:
        check_shape(answer._asdict(), Answer)
    except ValueError as error:
        name = str(error).partition(":")[0].partition(".")[0]
        raise ValueError(f"its {name} cannot be read") from None
    lists = (answer.tokens, answer.logprobs, answer.alternatives)
    if len({len(one) for one in lists if one is not None}) > 1:
        raise ValueError("its tokens and log-probabilities differ in number")


def _read_logprobs(found: Any) -> tuple[Any, Any, Any, Any]:
    """Tokens, ids, log-probabilities and alternatives; each None where it is not given."""
    if not found:
        return None, None, None, None
    if found.get("content") is not None:
        rows = found["content"]
        ids = [int(row["id"]) for row in rows] if all("id" in row for row in rows) else None
        tops = [row.get("top_logprobs") or row.get("top_probs") or [] for row in rows]
        chosen = [_choices((one["token"], one["logprob"]) for one in top) for top in tops]
        values = [_value(row["logprob"]) for row in rows]
        return [whole_characters(row["token"]) for row in rows], ids, values, chosen
    tops = found.get("top_logprobs") or [None] * len(found["tokens"])
    return (
        [whole_characters(one) for one in found["tokens"]],
        None,
        [_value(one) for one in found["token_logprobs"]],
        [_choices((top or {}).items()) for top in tops],
    )


def _choices(pairs: Any) -> list[Choice]:
    found = [
        Choice(text=whole_characters(text), logprob=known)
        for text, value in pairs
        if (known := _value(value)) is not None
    ]
    return sorted(found, key=lambda one: -one["logprob"])


def _value(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) and value > _NEVER else None


class AnswerStore:
    """Answers in a file, one a line, each under the hash of its request.

    A line that is whole was answered whole; a torn one, of a run that was killed, is asked again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        if path.is_symlink():
            raise UserError(f"{path}: a link that leaves the output folder. Remove it.")
        self.answers: dict[str, Answer] = {}
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
        self._ends_torn = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                row = parse_json(line)
                name, answer = row.pop("request"), Answer(**row)
                check_answer(answer)
                self.answers[name] = answer
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # torn or altered: it is asked again

    def put(self, name: str, answer: Answer) -> None:
        """Keep an answer, at once."""
        line = json.dumps({"request": name, **answer._asdict()}) + "\n"
        with self._lock:
            try:
                with self._path.open("a", encoding="utf-8") as handle:
                    handle.write(("\n" if self._ends_torn else "") + line)
            except OSError as error:
                raise NoRoomError(
                    f"{self._path}: cannot be written ({error.strerror}). What was answered "
                    "before is kept."
                ) from error
            self._ends_torn = False
            self.answers[name] = answer


class RefusedRequestError(UserError):
    """The service understood, and will not do it (status 400 or 422)."""


class _TryAgainError(Exception):
    """No answer this time; `pause` holds the seconds that the service asks for."""

    def __init__(self, reason: str, pause: float | None = None, *, for_all: bool = False) -> None:
        super().__init__(reason)
        self.pause, self.for_all = pause, for_all


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


class _Pace:
    """When the next request may start, for all threads together."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()
        self._stop = threading.Event()

    def wait(self) -> None:
        """Sleep until it is this request's turn."""
        while not self._stop.is_set():
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    self._next = now + self._gap
                    return
                left = self._next - now
            self._stop.wait(left)

    def sleep(self, seconds: float, *, for_all: bool) -> None:
        """Let this request, or all of them, wait."""
        if for_all:
            with self._lock:
                self._next = max(self._next, time.monotonic() + seconds)
        else:
            self._stop.wait(seconds)

    def stop(self) -> None:
        """Wake all that sleep."""
        self._stop.set()


class Client:
    """One service and one model; without a store of answers everything is asked anew."""

    def __init__(self, settings: EndpointSettings, store: AnswerStore | None = None) -> None:
        self.settings = settings
        self._store = store
        self._key = os.environ.get(settings.api_key_env, "").strip()
        if not self._key.isprintable() or not self._key.isascii():
            raise UserError(f"{settings.api_key_env}: not a key: no key has such characters.")
        self._opener = make_opener(_NoRedirect)

    def body(self, prompt: list[int] | str, max_tokens: int, *, echo: bool = False) -> Any:
        """The request for a greedy continuation; with `echo` the prompt is judged as well."""
        is_chat = self.settings.chat
        made: dict[str, Any] = {
            "model": self.settings.model,
            **({"messages": [{"role": "user", "content": prompt}]} if is_chat else {}),
            **({} if is_chat else {"prompt": prompt}),
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if self.settings.logprobs:
            made |= {"logprobs": True, "top_logprobs": 3} if is_chat else {"logprobs": 3}
        if echo:
            made["echo"] = True
        return made

    def is_answered(self, body: Any) -> bool:
        """True where an earlier run has the answer."""
        return self._store is not None and self.name(body) in self._store.answers

    def ask(self, bodies: Sequence[Any], *, label: str) -> list[Answer]:
        """Answers to many requests, in their order; what is answered already is not asked again.

        Raises UserError: the service refuses, or gives no answer after all tries. What was answered
        by then is kept.
        """
        names = [self.name(body) for body in bodies]
        found = dict(self._store.answers) if self._store is not None else {}
        missing = {
            name: body for name, body in zip(names, bodies, strict=True) if name not in found
        }
        with track(label, total=len(missing), unit="requests") as progress:
            found |= self._ask(missing, progress.advance)
        return [found[name] for name in names]

    def _ask(self, missing: dict[str, Any], advance: Callable[[], None]) -> dict[str, Answer]:
        found: dict[str, Answer] = {}
        pace = _Pace(self.settings.requests_per_minute)
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures = {pool.submit(self._one, body, pace): name for name, body in missing.items()}
            try:
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    advance()
            except BaseException:
                pace.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return found

    def _one(self, body: Any, pace: _Pace) -> Answer:
        """One answer, after as many tries as it takes; kept as soon as it is there."""
        last = ""
        for attempt in range(self.settings.retries + 1):
            pace.wait()
            try:
                answer = self._try(body)
            except _TryAgainError as error:
                last = str(error)
                delay = min(_FIRST_DELAY * 2**attempt, _LONGEST_DELAY) * random.uniform(0.5, 1)
                if attempt == self.settings.retries or (error.pause or 0) > _LONGEST_PAUSE:
                    break
                pace.sleep(error.pause or delay, for_all=error.for_all)
                continue
            if self._store is not None:
                self._store.put(self.name(body), answer)
            return answer
        raise UserError(
            f"{self.settings.url}: no answer after {attempt + 1} "
            f"{'try' if attempt == 0 else 'tries'} (last: {last}). What was answered is kept: the "
            "same command goes on."
        )

    def _try(self, body: Any) -> Answer:
        request = urllib.request.Request(
            f"{self.settings.url}/{'chat/' if self.settings.chat else ''}completions",
            data=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "User-Agent": f"mnemoscope/{__version__}",
                **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            },
            method="POST",
        )
        limit = self.settings.timeout
        try:
            data = exchange(self._opener, request, seconds=limit, most=_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except EndlessAnswerError as error:
            raise _TryAgainError(str(error)) from None
        except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
            raise _TryAgainError(_reason(error, limit)) from None
        # A key that is no secret may be a word of the answer.
        is_secret = len(self._key) >= _SHORTEST_SECRET
        text = self._without_key(data) if is_secret else data.decode("utf-8", "replace")
        try:
            return parse_answer(parse_json(text))
        except ValueError as error:
            raise _TryAgainError(f"an answer that is no completion: {error}") from None

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What a status other than 200 means: try again, or tell the user."""
        status, (message, code) = error.code, self._said(error)
        place, note = self.settings.url, f" ({message})" if message else ""
        if status in _AGAIN and code not in _NO_MONEY:
            pause = _retry_after(error.headers.get("Retry-After"))
            shown = f"status {status}{note}"
            if pause is not None and pause > _LONGEST_PAUSE:
                shown += f", which asks to wait {pause:,.0f} s"
            return _TryAgainError(shown, pause, for_all=status == 429 or pause is not None)
        if status in (401, 403):
            where = f"export {self.settings.api_key_env}=..., or name another with --api-key-env"
            state = "refuses the key" if self._key else "needs a key"
            return UserError(f"{place}: {state}, status {status}{note}. Set it: {where}.")
        if status == 404:
            return UserError(
                f"{place}: no model '{self.settings.model}' that completes text there, status 404"
                f"{note}. Check --endpoint and --model; for chat services add --chat."
            )
        if 300 <= status < 400:
            return UserError(f"{place}: redirects elsewhere, status {status}. Check --endpoint.")
        if status in (400, 422):
            return RefusedRequestError(
                f"{place}: refuses the request, status {status}{note}. Where it takes no token "
                "ids, add --prompt-as text; where it gives no log-probabilities, --no-logprobs."
            )
        return UserError(f"{place}: status {status}{note}.")

    def _said(self, error: urllib.error.HTTPError) -> tuple[str, str]:
        """Message and code of an error, one line, without the key."""
        try:
            data = read_answer(error, seconds=self.settings.timeout, most=_MOST_BYTES)
            found = parse_json(self._without_key(data))
            inner = found.get("error", found)
            inner = inner if isinstance(inner, dict) else {"message": inner}
            text = str(inner.get("message") or inner.get("detail") or "")
            code = str(inner.get("code") or inner.get("type") or "")
        except (ValueError, AttributeError, OSError, HTTPException):
            return "", ""
        shown = "".join(one if one.isprintable() else " " for one in " ".join(text.split()))
        return shown[:200].rstrip("."), code

    def _without_key(self, data: bytes) -> str:
        text = data.decode("utf-8", "replace")
        return text.replace(self._key, "[key]") if self._key else text

    def name(self, body: Any) -> str:
        """The content of a request as a key: the service and all that it was asked."""
        return digest([self.settings.url, body])


def _reason(error: Exception, timeout: float) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return f"none within {timeout:g} s"
    return " ".join(str(getattr(inner, "strerror", None) or inner).split()) or type(inner).__name__


def _retry_after(value: str | None) -> float | None:
    if not value:
        return None
    with suppress(ValueError):
        return max(float(value), 0.0) if math.isfinite(float(value)) else None
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


class AskedPlace(NamedTuple):
    """Where a continuation was asked for: pieces `first` (of the prompt), `begin` up to `end`."""

    first: int
    begin: int
    end: int


class AlignedAnswer(NamedTuple):
    """A continuation against the document; n pieces were asked for."""

    # The n pieces' ids; the document's where right, `NOTHING` where there is none.
    ids: list[int]
    pieces: list[str]  # their text
    is_right: list[bool]  # which are the document's
    # Log-probability of each piece; None unless all are right and the service gave
    # log-probabilities that fall on the same boundaries.
    logprobs: list[float] | None
    # The likeliest tokens at each place, where the pieces are the model's tokens.
    choices: Choices | None
    is_cut: bool  # the answer ended by its length before it had n whole pieces

    @property
    def common(self) -> int:
        """Right pieces before the first wrong one."""
        return int(np.cumprod(self.is_right).sum()) if self.is_right else 0


def align_answer(
    answer: Answer, splitter: Splitter, text: str, tokens: Tokens, place: AskedPlace
) -> AlignedAnswer:
    """Compare an answer with what the document has there."""
    wanted = tokens.ids[place.begin : place.end].tolist()
    n = len(wanted)
    slices = [
        text[start:end]
        for start, end in zip(
            tokens.starts[place.begin : place.end],
            tokens.ends[place.begin : place.end],
            strict=True,
        )
    ]
    is_model = isinstance(splitter, ModelTokens)
    ids = _by_ids(answer, splitter)
    if ids is not None:
        pieces = token_texts(splitter.tokenizer, ids) if ids else []
    elif is_model and answer.tokens and "".join(answer.tokens) == answer.text:
        pieces = list(answer.tokens)
        right = [piece == one for piece, one in zip(pieces, slices, strict=False)]
        ids = [one if ok else NOTHING for one, ok in zip(wanted, right, strict=False)]
        ids += [NOTHING] * max(len(pieces) - n, 0)
    else:
        ids, pieces = pieces_of_text(answer, splitter, text, tokens, place)
    whole = "".join(_whole(slices, tokens, place))
    ends = {len(answer.text), *accumulate(map(len, pieces))}
    is_whole = is_model and answer.text.startswith(whole)
    # A token that only begins as the document's last one does, " name" for " ", is not that one.
    if is_whole and (
        len(whole) in ends or _ends_inside(tokens, place.end)
    ):  # the last token, cut out of its word, may be cut otherwise than in the document
        ids, pieces = [*wanted], [*slices]
    is_cut = answer.finish_reason == "length" and len(ids) < n
    ids, pieces = ids[:n], pieces[:n]
    ids, pieces = ids + [NOTHING] * (n - len(ids)), pieces + [""] * (n - len(pieces))
    is_right = [one == other for one, other in zip(ids, wanted, strict=True)]
    logprobs, choices = None, None
    if all(is_right):
        logprobs = _logprobs(answer, wanted, slices)
        if logprobs is not None and len(answer.alternatives or []) >= n and is_model:
            choices = (answer.alternatives or [])[:n]
    return AlignedAnswer(ids, pieces, is_right, logprobs, choices, is_cut)


def _by_ids(answer: Answer, splitter: Splitter) -> list[int] | None:
    """Token ids of the answer, if they mean the same to our tokenizer as to the service."""
    if not isinstance(splitter, ModelTokens) or not answer.token_ids:
        return None
    try:
        said = splitter.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    except (OverflowError, TypeError, ValueError, IndexError):
        return None
    is_same = said.rstrip("\ufffd").strip() == answer.text.rstrip("\ufffd").strip()
    return [int(one) for one in answer.token_ids] if is_same else None


def pieces_of_text(
    answer: Answer, splitter: Splitter, text: str, tokens: Tokens, place: AskedPlace
) -> tuple[list[int], list[str]]:
    """Pieces of the answer's text, cut behind its prompt so that they begin as they did there."""
    written = answer.text.rstrip("\ufffd")  # bytes of a character that was not finished
    before = text[int(tokens.starts[place.first]) : int(tokens.starts[place.begin])]
    found, shift = splitter.split(before + written), len(before)
    if shift not in found.starts.tolist():
        found, shift = splitter.split(written), 0
    after = found.starts >= shift
    ids, places = found.ids[after].tolist(), np.stack([found.starts, found.ends], 1)[after] - shift
    if not isinstance(splitter, ModelTokens) and answer.finish_reason == "length":
        ids, places = ids[:-1], places[:-1]  # a word may have been going on
    return ids, [written[start:end] for start, end in places]


def _ends_inside(tokens: Tokens, end: int) -> bool:
    """True where the pieces before `end` stop inside a character."""
    return end < len(tokens.ids) and bool(tokens.starts[end] < tokens.ends[end - 1])


def _whole(slices: Sequence[str], tokens: Tokens, place: AskedPlace) -> list[str]:
    """Texts of the pieces without what a token shares with the one before it."""
    starts, ends = tokens.starts[place.begin : place.end], tokens.ends[place.begin : place.end]
    found, seen = [], int(starts[0])
    for one, start, end in zip(slices, starts, ends, strict=True):
        found.append(one[max(seen - int(start), 0) :])
        seen = max(seen, int(end))
    return found


def _logprobs(answer: Answer, wanted: list[int], slices: Sequence[str]) -> list[float] | None:
    """Log-probability of each piece, where every piece ends where a token of the service ends."""
    values, strings = answer.logprobs, answer.tokens
    if not values or not strings or None in values[: len(slices)]:
        return None
    has_ids = answer.token_ids is not None and answer.token_ids[: len(wanted)] == wanted
    if has_ids or strings[: len(slices)] == list(slices):
        return [float(one) for one in values[: len(slices)] if one is not None]
    found, rest = [], iter(zip(strings, values, strict=False))
    for piece in slices:
        got, total = "", 0.0
        while len(got) < len(piece):
            string, value = next(rest, ("", None))
            if value is None or not string:
                return None
            got, total = got + string, total + value
        if got != piece:
            return None
        found.append(total)
    return found


class ServedModel(AuditedModel):
    """A model behind an API: near copies or a profile would take too many requests.

    `splitter` cuts the documents into the model's tokens, or words. Sampling is at temperature 1
    from all tokens, since a service gives no more. The tokenizer's name and revision are recorded.
    The client keeps each answer as soon as it is there. Raises UserError: tokens are to be sent,
    and there is no tokenizer.
    """

    def __init__(
        self,
        client: Client,
        splitter: Splitter,
        documents: Sequence[Document],
        settings: AuditSettings,
        *,
        tokenizer_name: str | None = None,
        tokenizer_revision: str | None = None,
    ) -> None:
        self._is_model = isinstance(splitter, ModelTokens)
        if client.settings.prompt_as == "tokens" and not self._is_model:
            raise UserError("--prompt-as tokens: without --tokenizer there are no tokens to send.")
        self.name = client.settings.model
        self.fingerprint: str | None = None
        self.client, self.splitter, self.documents = client, splitter, documents
        self.settings, self.tokenizer = settings, splitter.tokenizer
        self.tokens: Sequence[Tokens] = [splitter.split(document.text) for document in documents]
        self._named = {"tokenizer": tokenizer_name, "tokenizer_revision": tokenizer_revision}
        self._before = [] if splitter.bos_id is None else [splitter.bos_id]
        self._answers: dict[str, Answer] = {}
        self._judges: bool | None = None
        self.n_cut = 0

    def identity(self) -> dict[str, Any]:
        """What of the service decides what an audit says."""
        service = self.client.settings
        return {
            "endpoint": [
                *(service.url, service.model, service.prompt_as, service.logprobs),
                *(["chat"] if service.chat else []),
            ],
            "pieces": [type(self.splitter).__name__, self.splitter.bos_id],
        }

    def facts(self, spans: pl.DataFrame) -> dict[str, Any]:
        """What is recorded: null where nothing can be known, and in words what was not given."""
        service, answers = self.client.settings, list(self._answers.values())
        unknown = dict.fromkeys(("revision", "fingerprint", "dtype", "device", "vocab_size"))
        return {
            "model": {
                "name": service.model,
                **unknown,
                "files": {},
                "bos_id": self.splitter.bos_id,
            },
            "reference": None,
            "cnn": None,
            "api": {
                **self._named,
                "endpoint": service.url,
                "settings": service.model_dump(exclude={"url", "model"}),
                "pieces": "tokens" if self._is_model else "words",
                "answered_as": sorted({one.model for one in answers if one.model}),
                "requests": len(answers),
                "prompt_tokens": _total([one.prompt_tokens for one in answers]),
                "completion_tokens": _total([one.completion_tokens for one in answers]),
                "answers_cut": self.n_cut,
                "notes": self._notes(spans),
            },
        }

    def _notes(self, spans: pl.DataFrame) -> list[str]:
        notes = [
            "No CNN and no attention maps: a service shows what a model writes, not how.",
            "No fingerprint of the weights: who runs the service may change the model at any time. "
            "The answers stand in answers.jsonl.",
        ]
        if self.client.settings.chat:
            notes.append(
                "Asked in a chat to go on with a text, and compared from where the answer does so. "
                "A chat may refuse, sum up or change words, so that nothing came out says little."
            )
        if not self._is_model:
            notes.append(
                "Windows, scores and the rule count words and punctuation marks, not the model's "
                "tokens: no tokenizer was given."
            )
        if self.n_cut:
            notes.append(
                f"{self.n_cut:,} answers ended before as many words as were asked for; what was "
                "not written counts as wrong."
            )
        if self._judges or not spans.height:
            return notes
        missing = "no perplexity without the prefix and no gain over other prefixes."
        if self.can_judge:
            notes.append(f"The service gives no log-probabilities of a prompt: {missing}")
        else:
            notes.append(
                f"It was not asked to judge a given text: {missing} That takes --tokenizer, "
                "prompts as tokens and log-probabilities."
            )
        n_without = spans["extraction_logprob"].null_count()
        if n_without:
            notes.append(
                f"For {n_without:,} of {spans.height:,} passages the chance of one try is not "
                "known: the service gave no log-probabilities, or not for exactly these characters."
            )
        return notes

    def is_whole(self, place: Place) -> bool:
        """True where the prompt of a window ends between two characters."""
        number, first = place
        tokens, begin = self.tokens[number], first + self.settings.prefix
        return bool(tokens.starts[begin] >= tokens.ends[begin - 1])

    def continue_at(self, places: Sequence[Place], *, around: bool) -> pl.DataFrame:
        """Continue windows."""
        settings = self.settings
        label = "Asking around finds" if around else "Asking"
        found = self._laid(places, [settings.suffix] * len(places), label)
        scores = [sum(one.is_right) / settings.suffix for one in found]
        common, ids = [one.common for one in found], [one.ids for one in found]
        return window_table(places, common, scores, ids, settings)

    def extend(self, places: Sequence[Place]) -> list[Extension]:
        """How far the model goes on, by asking for more."""
        from mnemoscope.lm.continue_ import is_copied

        prefix, wanted = self.settings.prefix, self.settings.suffix + self.settings.max_growth
        lengths = [
            min(wanted, len(self.tokens[number].ids) - first - prefix) for number, first in places
        ]
        found = self._laid(places, lengths, "Following passages")
        grown = []
        for (number, first), one in zip(places, found, strict=True):
            shown, then = np.split(self.tokens[number].ids[first:], [prefix])
            copied = is_copied(self.tokenizer, shown, then[: one.common])
            grown.append(Extension(one.common, copied))
        return grown

    def answer(self, prompts: Sequence[str]) -> dict[str, list[str]]:
        """Answers of the service, drawn at temperature 1."""
        bodies = self.everyday(prompts)
        return {"model": [one.text for one in self.ask_all(bodies, "Asking everyday prompts")]}

    def everyday(self, prompts: Sequence[str]) -> list[Any]:
        """The requests that `answer` makes."""
        n = self.settings.answer_tokens
        return [self.client.body(one, n) | {"temperature": 1} for one in prompts]

    def split(self, text: str) -> Tokens:
        """Pieces of a text."""
        return self.splitter.split(text)

    def gather(self, spans: Sequence[tuple[int, Span]]) -> list[dict[str, Any]]:
        """The evidence of spans: as much as the service tells."""
        return gather_evidence(self, spans)

    def written(self, spans: Sequence[tuple[int, Span]]) -> list[Written]:
        """What the service wrote in the window that speaks for each span."""
        places = [(number, span.hit.first) for number, span in spans]
        found = self._laid(places, [self.settings.suffix] * len(places), "Gathering evidence")
        return [Written(one.pieces, one.logprobs, one.choices) for one in found]

    @property
    def can_judge(self) -> bool:
        """True where a text can be sent as tokens, so that each has its log-probability."""
        service = self.client.settings
        return service.logprobs and service.prompt_as == "tokens"

    def score_tokens(self, rows: npt.NDArray[np.int32]) -> TokenScores | None:
        """Ask for the log-probability of each token of texts; None where it is not given."""
        if not self.can_judge or self._judges is False:
            return None
        texts = [[*self._before, *row] for row in rows.tolist()]
        bodies = [self.client.body(text, 1, echo=True) for text in texts]
        answers: list[Answer] = []
        for some in (bodies[:1], bodies[1:]):  # one alone first: many services refuse
            try:
                answers += self.ask_all(some, "evidence")
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

    def repeats(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Whether the service writes the same again; not so of a document that is not there."""
        numbers = {document.name: number for number, document in enumerate(self.documents)}
        places = [(numbers.get(row["document"], -1), row["window_token"]) for row in rows]
        there = [
            (number, first)
            for number, first in places
            if number >= 0 <= first and first + self.settings.length <= len(self.tokens[number].ids)
        ]
        found = self._laid(there, [self.settings.suffix] * len(there), "Asking again")
        pieces = {place: one.pieces for place, one in zip(there, found, strict=True)}
        return [
            pieces.get(place) == row["continuation_pieces"]
            for place, row in zip(places, rows, strict=True)
        ]

    def request(self, place: Place, n: int, factor: int = 1) -> Any:
        """The request for n pieces after the prompt of a window."""
        number, first = place
        tokens, begin = self.tokens[number], first + self.settings.prefix
        end, wanted = begin + n, self.tokens_for(n * factor)
        if self._is_model and _ends_inside(tokens, end):
            wanted += _FINISH
        if self.client.settings.prompt_as == "text":
            shown = self.documents[number].text[
                int(tokens.starts[first]) : int(tokens.starts[begin])
            ]
            return self.client.body(shown, wanted)
        return self.client.body([*self._before, *tokens.ids[first:begin].tolist()], wanted)

    def tokens_for(self, n: int) -> int:
        """Tokens to ask for, so that n pieces come."""
        return n if self._is_model else n * _WORDS_FACTOR

    def compare(self, answer: Answer, number: int, place: AskedPlace) -> AlignedAnswer:
        """An answer beside what the document has there."""
        text = self.documents[number].text
        return align_answer(answer, self.splitter, text, self.tokens[number], place)

    def _laid(
        self, places: Sequence[Place], lengths: Sequence[int], label: str
    ) -> list[AlignedAnswer]:
        """Ask for pieces after the prompts of windows, and lay them beside the documents."""
        asked = list(zip(places, lengths, strict=True))
        found = self._lay(asked, 1, label)
        # Right so far and cut by its length: ask again for more.
        again = [row for row, one in enumerate(found) if one.is_cut and _is_right(one)]
        if again:
            more = self._lay([asked[row] for row in again], _MORE, label)
            for row, one in zip(again, more, strict=True):
                found[row] = one
        self.n_cut += sum(one.is_cut and _is_right(one) for one in found)
        return found

    def _lay(
        self, asked: Sequence[tuple[Place, int]], factor: int, label: str
    ) -> list[AlignedAnswer]:
        answers = self.ask_all([self.request(*one, factor=factor) for one in asked], label)
        prefix = self.settings.prefix
        return [
            self.compare(answer, number, AskedPlace(first, first + prefix, first + prefix + n))
            for ((number, first), n), answer in zip(asked, answers, strict=True)
        ]

    def ask_all(self, bodies: Sequence[Any], label: str) -> list[Answer]:
        """Answers in the order of their requests; each is asked once."""
        found = self.client.ask(bodies, label=label)
        self._answers |= zip(map(self.client.name, bodies), found, strict=True)
        return found


def _is_right(one: AlignedAnswer) -> bool:
    """All that was written is right, and it is not all that was asked for."""
    n_written = sum(piece != "" for piece in one.pieces)
    return one.common == n_written < len(one.ids)


def _is_judged(answer: Answer, row: list[int]) -> bool:
    """One log-probability a token of the prompt, and one of what came after, which is not used."""
    values = answer.logprobs or []
    return len(values) in (len(row), len(row) + 1) and None not in values[1:]


def _total(counts: Sequence[int | None]) -> int | None:
    return sum(counts) if counts and None not in counts else None  # type: ignore[arg-type]


def check_settings(settings: AuditSettings) -> None:
    """Refuse a sampling whose chances a service does not give."""
    if settings.temperature != 1 or settings.top_k != 0:
        raise UserError(
            "--temperature, --top-k: an API does not give the probabilities that these need. "
            "Leave them out: the chance of one try is at temperature 1 from all tokens."
        )


def estimate_cost(
    model: ServedModel, *, price_in: float | None = None, price_out: float | None = None
) -> str:
    """What windows at every stride-th place and everyday prompts will cost; none is asked.

    The prices are those of a million prompt and a million completion tokens.
    """
    settings = model.settings
    bodies = [model.request(place, settings.suffix) for place in coarse_places(model)]
    if settings.ordinary is not None:
        bodies += model.everyday(read_prompts(settings.ordinary))
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
    a_passage = 2 * (settings.stride - 1) + _GROWN
    a_passage += 2 + settings.n_prefixes if model.can_judge else 0
    return (
        f"{len(missing):,} requests{known}, {about}{n_in:,} prompt tokens and "
        f"at most {n_out:,} completion tokens{price}. A passage that is found "
        f"takes up to about {a_passage} requests more."
    )
