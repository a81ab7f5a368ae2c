"""Ask an OpenAI-compatible service: requests, tries, pace, and answers that are kept.

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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from mnemoscope.audits.asking import Choice, Choices, Logprob
from mnemoscope.audits.settings import EndpointSettings
from mnemoscope.errors import NoRoomError, UserError
from mnemoscope.files import check_shape, digest
from mnemoscope.parse import parse_json
from mnemoscope.progress import SILENT, Progress
from mnemoscope.version import __version__
from mnemoscope.web import EndlessAnswerError, exchange, make_opener, read_answer
from mnemoscope.words import whole_characters

_NEVER = -1e30  # llama.cpp writes the lowest float where a probability is 0

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_LONGEST_PAUSE = 300.0  # seconds that a service may tell us to wait before we give up instead
_MOST_BYTES = 16 * 2**20
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_SHORTEST_SECRET = 12  # characters; a shorter key stands for none (EMPTY), and texts hold it too
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached")

_Number = Annotated[int, Field(ge=0, lt=2**31)]


class Completion(NamedTuple):
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


def parse_answer(response: Any) -> Completion:
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
        answer = Completion(
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


def check_answer(answer: Completion) -> None:
    """Raise ValueError for a field of another type, or lists of unequal length."""
    try:
        check_shape(answer._asdict(), Completion)
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
        self.answers: dict[str, Completion] = {}
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
        self._ends_torn = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                row = parse_json(line)
                name, answer = row.pop("request"), Completion(**row)
                check_answer(answer)
                self.answers[name] = answer
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # torn or altered: it is asked again

    def put(self, name: str, answer: Completion) -> None:
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

    def ask(self, bodies: Sequence[Any], progress: Progress = SILENT) -> list[Completion]:
        """Answers to many requests, in their order; what is answered already is not asked again.

        Raises UserError: the service refuses, or gives no answer after all tries. What was answered
        by then is kept.
        """
        names = [self.name(body) for body in bodies]
        found = dict(self._store.answers) if self._store is not None else {}
        missing = {
            name: body for name, body in zip(names, bodies, strict=True) if name not in found
        }
        progress.advance(len(bodies) - len(missing))
        pace = _Pace(self.settings.requests_per_minute)
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            futures = {pool.submit(self._one, body, pace): name for name, body in missing.items()}
            try:
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    progress.advance()
            except BaseException:
                pace.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [found[name] for name in names]

    def _one(self, body: Any, pace: _Pace) -> Completion:
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

    def _try(self, body: Any) -> Completion:
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
                f"{note}. Check URL and MODEL; for chat services add --chat."
            )
        if 300 <= status < 400:
            return UserError(f"{place}: redirects elsewhere, status {status}. Check the URL.")
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
