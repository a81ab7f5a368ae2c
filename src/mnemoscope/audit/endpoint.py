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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mnemoscope import __version__
from mnemoscope.audit.answers import Answer, AnswerStore, parse_answer
from mnemoscope.errors import UserError
from mnemoscope.progress import track

__all__ = ["Client", "EndpointSettings", "RefusedRequestError", "endpoint_settings"]

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
