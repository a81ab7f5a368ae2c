"""Ask a model behind an OpenAI-compatible `/v1/completions`: pace, retries, answers kept.

Relies on: `model`, `prompt` (text or token ids), `max_tokens`, `temperature`, `logprobs` and, for
the log-probabilities of a prompt, `echo`; nothing that one service alone understands.
"""

import hashlib
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mnemoscope import __version__
from mnemoscope.audit.documents import NOTHING, Document, Splitter, Tokens, token_texts
from mnemoscope.audit.scan import coarse_starts
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.progress import track

# What a service answered, in one form whoever it is, and kept on disk.

_NEVER = -1e30  # llama.cpp writes the lowest float where a probability is 0


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
        prompt_tokens: as the service counts them.
        completion_tokens: as the service counts them.
    """

    text: str
    finish_reason: str | None
    token_ids: list[int] | None
    tokens: list[str] | None
    logprobs: list[float | None] | None
    alternatives: list[list[dict[str, Any]]] | None
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


def parse_answer(response: Any) -> Answer:
    """Read one completion.

    Args:
        response: the JSON of the answer.

    Raises:
        ValueError: it is no completion, said in a few words.
    """
    try:
        choice = response["choices"][0]
        text = choice["text"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("without choices[0].text") from None
    if not isinstance(text, str):
        raise ValueError("choices[0].text is no text")
    try:
        tokens, ids, logprobs, alternatives = _read_logprobs(choice.get("logprobs"))
        usage = response.get("usage") or {}
        return Answer(
            text.encode("utf-8", "replace").decode("utf-8"),
            choice.get("finish_reason"),
            choice.get("token_ids") or ids,
            tokens,
            logprobs,
            alternatives,
            response.get("model"),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError("its log-probabilities cannot be read") from None


def _read_logprobs(found: Any) -> tuple[Any, Any, Any, Any]:
    """Tokens, ids, log-probabilities and alternatives; each None where it is not given."""
    if not found:
        return None, None, None, None
    if found.get("content") is not None:
        rows = found["content"]
        ids = [int(row["id"]) for row in rows] if all("id" in row for row in rows) else None
        tops = [row.get("top_logprobs") or row.get("top_probs") or [] for row in rows]
        chosen = [_choices((one["token"], one["logprob"]) for one in top) for top in tops]
        return [row["token"] for row in rows], ids, [_value(row["logprob"]) for row in rows], chosen
    tops = found.get("top_logprobs") or [None] * len(found["tokens"])
    return (
        list(found["tokens"]),
        None,
        [_value(one) for one in found["token_logprobs"]],
        [_choices((top or {}).items()) for top in tops],
    )


def _choices(pairs: Any) -> list[dict[str, Any]]:
    found = [{"text": str(text), "logprob": _value(value)} for text, value in pairs]
    found = [one for one in found if one["logprob"] is not None]
    return sorted(found, key=lambda one: -one["logprob"])


def _value(value: Any) -> float | None:
    return float(value) if value is not None and isfinite(value) and value > _NEVER else None


class AnswerStore:
    """Answers in a file, one a line, each under the hash of its request.

    A line that is whole was answered whole; a torn one, of a run that was killed, is asked again.

    Args:
        path: the file; it is made with the first answer.

    Raises:
        UserError: it cannot be read, or is a link that leaves the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        if path.is_symlink():
            raise UserError(f"{path}: a link that leaves the output folder. Remove it.")
        self._answers: dict[str, Answer] = {}
        self._ends_torn = False
        if path.exists():
            self._read()

    def get(self, name: str) -> Answer | None:
        """The answer to a request, None where there is none."""
        return self._answers.get(name)

    def put(self, name: str, answer: Answer) -> None:
        """Keep an answer, at once.

        Raises:
            NoRoomError: it cannot be written.
        """
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
            self._answers[name] = answer

    def _read(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read ({error.strerror}).") from error
        self._ends_torn = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                name = row.pop("request")
                self._answers[name] = Answer(**row)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # torn or altered: it is asked again


# Ask a model behind an OpenAI-compatible `/v1/completions`: pace, retries, answers kept.

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_LONGEST_PAUSE = 300.0  # seconds that a service may tell us to wait before we give up instead
_MOST_BYTES = 16 * 2**20
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_SHORTEST_SECRET = 12  # characters; a shorter key stands for none (EMPTY), and texts hold it too
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")


class EndpointSettings(BaseModel):
    """How a service is asked; nothing here is secret, it stands in `audit.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="Base address, with or without /v1.")
    model: str = Field(min_length=1, description="What the service calls the model.")
    prompt_as: str = Field(
        default="tokens", pattern="^(tokens|text)$", description="Send token ids, or the text."
    )
    logprobs: bool = Field(default=True, description="Ask for log-probabilities.")
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="Environment variable that holds the key."
    )
    concurrency: int = Field(default=4, ge=1, le=256, description="Requests at once.")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="At most so many requests a minute, retries among them."
    )
    timeout: float = Field(default=60, gt=0, description="Seconds to wait for an answer.")
    retries: int = Field(default=6, ge=0, description="Tries after the first one failed.")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        """The address of completions; without anything that may be a secret."""
        parts = urlsplit(url.strip().rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("wanted a base address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "only the base address is wanted, no user, password or query: the key comes from "
                "the environment"
            )
        path = parts.path.removesuffix("/completions")
        return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def endpoint_settings(**values: Any) -> EndpointSettings:
    """Check settings; None stands for the default.

    Args:
        values: fields of `EndpointSettings`.

    Raises:
        UserError: a value out of range, or an address that is none.
    """
    try:
        return EndpointSettings(**{key: one for key, one in values.items() if one is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = {"url": "endpoint"}.get(str(first["loc"][0]), str(first["loc"][0]))
        reason = first["msg"].removeprefix("Value error, ")
        shown = "" if name == "endpoint" else f" {first['input']}"  # it may hold a password
        raise UserError(f"--{name.replace('_', '-')}{shown}: {reason}.") from None


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
    """One service and one model.

    Args:
        settings: of the service.
        store: answers of earlier runs; None keeps nothing and asks everything.
    """

    def __init__(self, settings: EndpointSettings, store: AnswerStore | None = None) -> None:
        self.settings = settings
        self._store = store
        self._key = os.environ.get(settings.api_key_env, "").strip()
        if not self._key.isprintable() or not self._key.isascii():
            raise UserError(f"{settings.api_key_env}: not a key: it holds characters of no key.")
        self._opener = urllib.request.build_opener(_NoRedirect)

    def body(self, prompt: list[int] | str, max_tokens: int, *, echo: bool = False) -> Any:
        """The request for a greedy continuation; with `echo` the prompt is judged as well."""
        made: dict[str, Any] = {
            "model": self.settings.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if self.settings.logprobs:
            made["logprobs"] = 3
        if echo:
            made["echo"] = True
        return made

    def is_answered(self, body: Any) -> bool:
        """True where an earlier run has the answer."""
        return self._store is not None and self._store.get(self.name(body)) is not None

    def ask(self, bodies: Sequence[Any], *, label: str) -> list[Answer]:
        """Ask many at once; what is answered already is not asked again.

        Args:
            bodies: from `body`.
            label: what the progress is called.

        Returns:
            Answers in the order of the requests.

        Raises:
            UserError: the service refuses, or gives no answer after all tries. What was answered
                by then is kept.
        """
        names = [self.name(body) for body in bodies]
        found: dict[str, Answer] = {}
        missing: dict[str, Any] = {}
        for name, body in zip(names, bodies, strict=True):
            answer = self._store.get(name) if self._store is not None else None
            if answer is not None:
                found[name] = answer
            else:
                missing[name] = body
        with track(label, total=len(missing), unit="requests") as progress:
            found |= self._ask(missing, progress.advance)
        return [found[name] for name in names]

    def _ask(self, missing: dict[str, Any], advance: Any) -> dict[str, Answer]:
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
                if error.pause is not None and error.pause > _LONGEST_PAUSE:
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
            f"{self.settings.url}/completions",
            data=json.dumps(body).encode(),
            headers=self._headers(),
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as response:
                data = response.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
            raise _TryAgainError(_reason(error, self.settings.timeout)) from None
        try:
            return parse_answer(json.loads(self._answer_text(data)))
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
            state = "refuses the key" if self._key else "wants a key"
            return UserError(f"{place}: {state}, status {status}{note}. Set it: {where}.")
        if status == 404:
            return UserError(
                f"{place}: no model '{self.settings.model}' that completes text there, status "
                f"404{note}. Check --endpoint and --model."
            )
        if 300 <= status < 400:
            return UserError(f"{place}: sends us elsewhere, status {status}. Check --endpoint.")
        if status in (400, 422):
            return RefusedRequestError(
                f"{place}: refuses the request, status {status}{note}. Where it takes no token "
                "ids, add --prompt-as text; where it gives no log-probabilities, --no-logprobs."
            )
        return UserError(f"{place}: status {status}{note}.")

    def _said(self, error: urllib.error.HTTPError) -> tuple[str, str]:
        """Message and code of an error, one line, without the key."""
        try:
            found = json.loads(self._without_key(error.read(_MOST_BYTES)))
            inner = found.get("error", found)
            inner = inner if isinstance(inner, dict) else {"message": inner}
            text = str(inner.get("message") or inner.get("detail") or "")
            code = str(inner.get("code") or inner.get("type") or "")
        except (ValueError, AttributeError, OSError, HTTPException):
            return "", ""
        shown = "".join(one if one.isprintable() else " " for one in " ".join(text.split()))
        return shown[:200].rstrip("."), code

    def _headers(self) -> dict[str, str]:
        found = {"Content-Type": "application/json", "User-Agent": f"mnemoscope/{__version__}"}
        return found | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _without_key(self, data: bytes) -> str:
        text = data.decode("utf-8", "replace")
        return text.replace(self._key, "[key]") if self._key else text

    def _answer_text(self, data: bytes) -> str:
        """An answer, without the key; one that is no secret may be a word of it."""
        is_secret = len(self._key) >= _SHORTEST_SECRET
        return self._without_key(data) if is_secret else data.decode("utf-8", "replace")

    def name(self, body: Any) -> str:
        """The content of a request as a key: the service and all that it was asked."""
        whole = json.dumps([self.settings.url, body], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()


def _reason(error: Exception, timeout: float) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return f"none within {timeout:g} s"
    return " ".join(str(getattr(inner, "strerror", None) or inner).split()) or type(inner).__name__


def _retry_after(value: str | None) -> float | None:
    """Seconds that a service asks us to wait; a number or an HTTP date."""
    if not value:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None


# Lay what a service wrote beside the document, piece by piece.


class Place(NamedTuple):
    """Where a continuation was asked for: pieces `first` (of the prompt), `begin` up to `end`."""

    first: int
    begin: int
    end: int


class Written(NamedTuple):
    """A continuation against the document; n pieces were asked for.

    Attributes:
        ids: of the pieces, n of them; the document's where right, `NOTHING` where there is none.
        pieces: their text.
        is_right: which are the document's.
        logprobs: log-probability of each piece; None unless all are right and the service gave
            log-probabilities that fall on the same boundaries.
        alternatives: the likeliest tokens at each place, where the pieces are the model's tokens.
        is_cut: the answer ended by its length before it had n whole pieces.
    """

    ids: list[int]
    pieces: list[str]
    is_right: list[bool]
    logprobs: list[float] | None
    alternatives: list[list[dict[str, Any]]] | None
    is_cut: bool

    @property
    def common(self) -> int:
        """Right pieces before the first wrong one."""
        return int(np.cumprod(self.is_right).sum()) if self.is_right else 0


def lay_beside(
    answer: Answer, splitter: Splitter, text: str, tokens: Tokens, place: Place
) -> Written:
    """Compare an answer with what the document has there.

    Args:
        answer: of the service.
        splitter: that cut the document.
        text: the document.
        tokens: its pieces.
        place: of the prompt and of what was asked for.
    """
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
    ids = _by_ids(answer, splitter)
    if ids is not None:
        pieces = token_texts(splitter.tokenizer, ids) if ids else []
    elif _has_strings(answer, splitter):
        pieces = list(answer.tokens or [])
        right = [piece == one for piece, one in zip(pieces, slices, strict=False)]
        ids = [
            one if is_right else NOTHING for one, is_right in zip(wanted, right, strict=False)
        ] + [NOTHING] * max(len(pieces) - n, 0)
    else:
        ids, pieces = _by_text(answer, splitter, text, tokens, place)
    is_whole = splitter.is_model and answer.text.startswith("".join(_whole(slices, tokens, place)))
    if is_whole:  # the last token, cut out of its word, may be cut otherwise than in the document
        ids, pieces = [*wanted], [*slices]
    is_cut = answer.finish_reason == "length" and len(ids) < n
    ids, pieces = ids[:n], pieces[:n]
    ids, pieces = ids + [NOTHING] * (n - len(ids)), pieces + [""] * (n - len(pieces))
    is_right = [one == other for one, other in zip(ids, wanted, strict=True)]
    logprobs, alternatives = None, None
    if all(is_right):
        logprobs = _logprobs(answer, wanted, slices)
        if logprobs is not None and len(answer.alternatives or []) >= n and splitter.is_model:
            alternatives = (answer.alternatives or [])[:n]
    return Written(ids, pieces, is_right, logprobs, alternatives, is_cut)


def _by_ids(answer: Answer, splitter: Splitter) -> list[int] | None:
    """Token ids of the answer, if they mean the same to our tokenizer as to the service."""
    if not splitter.is_model or not answer.token_ids:
        return None
    try:
        said = splitter.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    except (OverflowError, TypeError, ValueError, IndexError):
        return None
    is_same = said.rstrip("\ufffd").strip() == answer.text.rstrip("\ufffd").strip()
    return [int(one) for one in answer.token_ids] if is_same else None


def _has_strings(answer: Answer, splitter: Splitter) -> bool:
    return splitter.is_model and bool(answer.tokens) and "".join(answer.tokens or []) == answer.text


def _by_text(
    answer: Answer, splitter: Splitter, text: str, tokens: Tokens, place: Place
) -> tuple[list[int], list[str]]:
    """Pieces of the answer's text, cut behind its prompt so that they begin as they did there."""
    written = answer.text.rstrip("\ufffd")  # bytes of a character that was not finished
    before = text[int(tokens.starts[place.first]) : int(tokens.starts[place.begin])]
    found, shift = splitter.split(before + written), len(before)
    if shift not in found.starts.tolist():
        found, shift = splitter.split(written), 0
    after = found.starts >= shift
    ids, places = found.ids[after].tolist(), np.stack([found.starts, found.ends], 1)[after] - shift
    if not splitter.is_model and answer.finish_reason == "length":
        ids, places = ids[:-1], places[:-1]  # a word may have been going on
    return ids, [written[start:end] for start, end in places]


def _whole(slices: Sequence[str], tokens: Tokens, place: Place) -> list[str]:
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


# Turn windows of documents into requests to a service, and answers into pieces beside them.

_WORDS_FACTOR = 2  # tokens asked for each word; most words are one or two
_MORE = 4  # times as many where an answer was right and cut
_FINISH = 3  # tokens more where the last one ends inside a character: at most three bytes miss


class Asker:
    """Documents, how they are cut, and the service that is asked about them.

    Attributes:
        client: the service.
        splitter: cuts the documents.
        documents: the texts.
        tokens: their pieces.
        answers: all that were used, by their request.
        n_cut: answers that ended by their length before enough pieces were whole.
    """

    def __init__(
        self,
        client: Client,
        splitter: Splitter,
        documents: Sequence[Document],
        settings: AuditSettings,
    ) -> None:
        if client.settings.prompt_as == "tokens" and not splitter.is_model:
            raise UserError("--prompt-as tokens: without --tokenizer there are no tokens to send.")
        self.client, self.splitter, self.documents = client, splitter, documents
        self.tokens = [splitter.split(document.text) for document in documents]
        self._settings = settings
        self.answers: dict[str, Answer] = {}
        self.n_cut = 0

    def coarse_places(self) -> list[tuple[int, int]]:
        """Every stride-th start of every document.

        One whose prompt would end inside a character moves on to the next that does not.
        """
        found = []
        for number, tokens in enumerate(self.tokens):
            starts = coarse_starts(len(tokens.ids), self._settings)
            whole = {one for first in starts for one in self._next_whole(number, first, starts[-1])}
            found += [(number, first) for first in sorted(whole)]
        return found

    def is_whole(self, number: int, first: int) -> bool:
        """True where the prompt of a window ends between two characters."""
        tokens, begin = self.tokens[number], first + self._settings.prefix
        return bool(tokens.starts[begin] >= tokens.ends[begin - 1])

    def _next_whole(self, number: int, first: int, last: int) -> Iterable[int]:
        """The first start from here on whose prompt ends between two characters, if any."""
        return islice((one for one in range(first, last + 1) if self.is_whole(number, one)), 1)

    def request(self, place: tuple[int, int], n: int, factor: int = 1) -> Any:
        """The request for n pieces after the prompt of a window."""
        number, first = place
        tokens, begin = self.tokens[number], first + self._settings.prefix
        end = begin + n
        wanted = n * factor
        if not self.splitter.is_model:
            wanted *= _WORDS_FACTOR
        elif end < len(tokens.ids) and tokens.starts[end] < tokens.ends[end - 1]:
            wanted += _FINISH
        return self.client.body(self._prompt(number, first, begin), wanted)

    def _prompt(self, number: int, first: int, begin: int) -> list[int] | str:
        tokens = self.tokens[number]
        if self.client.settings.prompt_as == "text":
            return self.documents[number].text[
                int(tokens.starts[first]) : int(tokens.starts[begin])
            ]
        ids = [int(one) for one in tokens.ids[first:begin]]
        return ids if self.splitter.bos_id is None else [self.splitter.bos_id, *ids]

    def continue_at(
        self, places: Sequence[tuple[int, int]], lengths: Sequence[int], *, label: str
    ) -> list[Written]:
        """Ask for continuations.

        Args:
            places: number of the document and first piece of each window.
            lengths: pieces wanted after each prompt.
            label: what the progress is called.

        Returns:
            One a place.
        """
        asked = list(zip(places, lengths, strict=True))
        found = self._written(asked, [self.request(*one) for one in asked], label)
        # Right so far and cut by its length: ask again for more.
        again = [row for row, one in enumerate(found) if one.is_cut and _is_right(one)]
        if again:
            rows = [asked[row] for row in again]
            bodies = [self.request(*one, factor=_MORE) for one in rows]
            for row, one in zip(again, self._written(rows, bodies, label), strict=True):
                found[row] = one
        self.n_cut += sum(one.is_cut and _is_right(one) for one in found)
        return found

    @property
    def can_judge(self) -> bool:
        """True where a text can be sent as tokens, so that each has its log-probability."""
        service = self.client.settings
        return service.logprobs and service.prompt_as == "tokens"

    def judge(self, rows: Sequence[list[int]]) -> list[Answer] | None:
        """Ask for the log-probability of each token of texts, or find that it is not given.

        Args:
            rows: token ids, what precedes the text included.

        Returns:
            Answers whose `logprobs` begin with one entry a token; None where the service does not
            give them.
        """
        if not rows or not self.can_judge:
            return None
        bodies = [self.client.body(row, 1, echo=True) for row in rows]
        found: list[Answer] = []
        for some in (bodies[:1], bodies[1:]):  # one alone first: many services refuse
            try:
                found += self._ask(some, "evidence")
            except RefusedRequestError:
                return None
            if not all(map(_is_judged, found, rows)):
                return None
        return found

    def _ask(self, bodies: Sequence[Any], label: str) -> list[Answer]:
        found = self.client.ask(bodies, label=label)
        self.answers |= zip(map(self.client.name, bodies), found, strict=True)
        return found

    def _written(
        self, asked: Sequence[tuple[tuple[int, int], int]], bodies: Sequence[Any], label: str
    ) -> list[Written]:
        answers = self._ask(bodies, label)
        prefix = self._settings.prefix
        return [
            lay_beside(
                answer,
                self.splitter,
                self.documents[number].text,
                self.tokens[number],
                Place(first, first + prefix, first + prefix + n),
            )
            for ((number, first), n), answer in zip(asked, answers, strict=True)
        ]


def _is_right(one: Written) -> bool:
    """All that was written is right, and it is not all that was asked for."""
    n_written = sum(piece != "" for piece in one.pieces)
    return one.common == n_written < len(one.ids)


def _is_judged(answer: Answer, row: list[int]) -> bool:
    """One log-probability a token of the prompt, and one of what came after, which is not used."""
    values = answer.logprobs or []
    return len(values) in (len(row), len(row) + 1) and None not in values[1:]


# What an audit behind an API will ask and cost, before it starts.

_CHARACTERS_A_TOKEN = 4  # of text whose tokens we do not know
_GROWN = 2  # windows of a passage from which it is followed on


class Estimate(NamedTuple):
    """Of the windows that are asked in any case.

    Attributes:
        requests: still to be asked.
        answered: answered by an earlier run.
        prompt_tokens: of those still to be asked.
        completion_tokens: at most.
        is_exact: the prompt's tokens are counted, not estimated from characters.
        a_passage: requests more, at most, for a passage that is found by itself.
        price: at most, None without both prices.
    """

    requests: int
    answered: int
    prompt_tokens: int
    completion_tokens: int
    is_exact: bool
    a_passage: int
    price: float | None

    def __str__(self) -> str:
        """One line for the person who pays."""
        about = "" if self.is_exact else "about "
        known = f" ({self.answered:,} more are answered already)" if self.answered else ""
        price = ""
        if self.price is not None:
            shown = "less than 0.01" if self.price < 0.01 else f"at most {self.price:,.2f}"
            price = f", {shown} at these prices"
        return (
            f"{self.requests:,} requests{known}, {about}{self.prompt_tokens:,} prompt tokens and "
            f"at most {self.completion_tokens:,} completion tokens{price}. A passage that is found "
            f"takes up to about {self.a_passage} requests more."
        )


def estimate_cost(
    asker: Asker,
    settings: AuditSettings,
    *,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Estimate:
    """Count the requests of the windows at every stride-th place.

    Args:
        asker: documents and service; nothing is asked.
        settings: of the audit.
        price_in: of a million prompt tokens.
        price_out: of a million completion tokens.
    """
    bodies = [asker.request(place, settings.suffix) for place in asker.coarse_places()]
    missing = [body for body in bodies if not asker.client.is_answered(body)]
    prompts = [body["prompt"] for body in missing]
    is_exact = all(isinstance(prompt, list) for prompt in prompts)
    n_in = sum(
        len(one) if isinstance(one, list) else -(-len(one) // _CHARACTERS_A_TOKEN)
        for one in prompts
    )
    n_out = sum(body["max_tokens"] for body in missing)
    price = None
    if price_in is not None and price_out is not None:
        price = (n_in * price_in + n_out * price_out) / 1e6
    judged = 2 + settings.n_prefixes if asker.can_judge else 0
    a_passage = 2 * (settings.stride - 1) + _GROWN + judged
    return Estimate(
        len(missing), len(bodies) - len(missing), n_in, n_out, is_exact, a_passage, price
    )
