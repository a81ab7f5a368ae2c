"""What a service answered, in one form whoever it is, and kept on disk.

Three shapes are read: log-probabilities as lists (`tokens`, `token_logprobs`, `top_logprobs`;
vLLM and hosted services), as `content` with an entry a token and its id (llama.cpp), or none.
"""

import json
import threading
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from mnemoscope.errors import NoRoomError, UserError

__all__ = ["Answer", "AnswerStore", "parse_answer"]

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
