"""What an audit can be told: windows and sampling, and how a service is asked.

A field's description is the help of the flag that is made from it (`cli.audit`).
"""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationError, field_validator

from mnemoscope.errors import UserError, nearest
from mnemoscope.study.settings import BoundedSettings

NEEDED_EDGES = 8
"""Attention edges of a window that are cut to see what its suffix needs (`audit.needs`)."""


class AuditSettings(BoundedSettings):
    """Settings of one audit; they stand in `audit.json`."""

    model_config = ConfigDict(frozen=True)

    prefix: int = Field(default=32, ge=1, description="Tokens the model is shown (default 32).")
    suffix: int = Field(default=32, ge=2, description="Tokens it is asked for (default 32).")
    stride: int = Field(default=8, ge=1, description="Tokens between windows (default 8).")
    threshold: float = Field(
        default=0.9, gt=0, le=1, description="Share of right tokens (default 0.9)."
    )
    refine_from: int = Field(
        default=8,
        ge=1,
        description="Right tokens a window must begin with for all starts around it to be tried "
        "(default 8).",
    )
    max_growth: int = Field(
        default=128, ge=0, description="Tokens a passage may go on past a window (default 128)."
    )
    patterns: Literal["published", "strict"] = Field(
        default="published", description="published (default) or strict rules."
    )
    temperature: float = Field(default=1.0, gt=0, description="Of the sampling (default 1).")
    top_k: int = Field(default=40, ge=0, description="Tokens sampled from, 0 is all (default 40).")
    probability: float = Field(
        default=0.9, gt=0, lt=1, description="Chance wanted of the tries (default 0.9)."
    )
    n_prefixes: int = Field(
        default=8, ge=0, description="Other prefixes tried, 0 is none (default 8)."
    )
    edits: int = Field(
        default=3,
        ge=0,
        description="Edits (tokens) of the chance of nearly the passage, 0 asks none (default 3).",
    )
    beams: int = Field(
        default=16, ge=1, description="Texts that this chance adds up at most (default 16)."
    )
    batch_size: int = Field(default=64, ge=1, description="Windows a forward pass (default 64).")
    near_length: int = Field(
        default=24,
        ge=0,
        description="Tokens that a near copy must match, 0 looks for none (default 24).",
    )
    near_gap: int = Field(
        default=6, ge=0, description="Tokens that may differ in a row in it (default 6)."
    )
    profile: bool = Field(
        default=False, description="Also draw the chance of every place: a heat map of a book."
    )
    profile_prefix: Literal["window", "all"] = Field(
        default="window",
        description="What the profile's windows read: window (default, --prefix tokens) or all.",
    )
    ordinary: str | None = Field(
        default=None,
        description="Everyday prompts, a file with one a line or 'shipped': how often do answers "
        "repeat the documents?",
    )
    answer_tokens: int = Field(
        default=128, ge=1, description="Tokens of such an answer at most (default 128)."
    )
    overlap: int = Field(
        default=16, ge=2, description="Tokens in a row that count as repeated (default 16)."
    )
    corpus: str | None = Field(
        default=None,
        description="Texts, tables, token ids (.bin, .npy) or infini-gram:PLACE: where do "
        "passages come from?",
    )
    corpus_dtype: str | None = Field(
        default=None, description="Type of the ids of a .bin or an index (default uint16)."
    )
    chat_template: bool = Field(
        default=False, description="A chat-tuned model's answer begins with the text."
    )
    instruction: str = Field(
        default="Continue this text.",
        min_length=1,
        description="What the user of that chat asks for.",
    )
    seed: int = Field(default=0, ge=0, description="Draws other prefixes.")

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.prefix + self.suffix

    @property
    def n_allowed(self) -> int:
        """Tokens of the suffix that a hit may get wrong."""
        return min(int((1 - self.threshold) * self.suffix + 1e-9), self.suffix - 1)


FLAGS = {"n_prefixes": "other-prefixes", "url": "endpoint"}
"""Fields whose flag bears another name."""


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return f"--{FLAGS.get(name, name.replace('_', '-'))}"


class EndpointSettings(BoundedSettings):
    """How a service is asked; nothing here is secret, it stands in `audit.json`."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(description="Base address of the API; every argument is then a document.")
    model: str = Field(min_length=1, description="What the service calls the model.")
    prompt_as: str = Field(
        default="tokens",
        pattern="^(tokens|text)$",
        description="tokens (default with --tokenizer) or text.",
    )
    chat: bool = Field(default=False, description="A service of chats: ask it to continue a text.")
    logprobs: bool = Field(default=True, description="Ask for log-probabilities (default yes).")
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="Environment variable with the key (default OPENAI_API_KEY).",
    )
    concurrency: int = Field(default=4, ge=1, le=256, description="Requests at once (default 4).")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="At most so many (default no limit)."
    )
    timeout: float = Field(default=60, gt=0, le=86_400, description="Seconds to wait (default 60).")
    retries: int = Field(
        default=6, ge=0, le=1000, description="Tries after a failed one (default 6)."
    )

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
        path = parts.path.removesuffix("/completions").removesuffix("/chat")
        return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def audit_settings(**values: Any) -> AuditSettings:
    """Check settings, None for the default; UserError names what is unknown or out of range."""
    try:
        return AuditSettings(**{key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        first, known = error.errors()[0], AuditSettings.model_fields
        name = ".".join(map(str, first["loc"]))
        hint = "" if name in known else nearest(name, known)
        reason = first["msg"].removeprefix("Value error, ").lower()
        raise UserError(f"{name} {str(first['input'])[:100]}: {reason}.{hint}") from None


def endpoint_settings(**values: Any) -> EndpointSettings:
    """Check settings of a service, as `audit_settings`; its URL must be a base address."""
    try:
        return EndpointSettings(**{key: one for key, one in values.items() if one is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = {"url": "endpoint"}.get(str(first["loc"][0]), str(first["loc"][0]))
        reason = first["msg"].removeprefix("Value error, ")
        shown = (
            "" if name == "endpoint" else f" {str(first['input'])[:100]}"
        )  # it may hold a password
        raise UserError(f"--{name.replace('_', '-')}{shown}: {reason}.") from None
