"""What an audit can be told: windows and sampling, and how a service is asked.

A field's description is the help of the flag that is made from it (`cli.audit`).
"""

from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationError, field_validator

from mnemoscope.errors import UserError
from mnemoscope.study.settings import BoundedSettings, first_problem

_Settings = TypeVar("_Settings", bound=BoundedSettings)

NEEDED_EDGES = 8
"""Attention edges of a window that are cut to see what its suffix needs (`audit.needs`)."""

MOST_COPIED = 0.1
"""Share of what a suffix needs that it may read off the text itself and still be recall."""


class AuditSettings(BoundedSettings):
    """Settings of one audit; they stand in `audit.json`."""

    model_config = ConfigDict(frozen=True)

    prefix: int = Field(
        default=32, ge=1, le=65_536, description="Tokens that the model is shown (default 32)."
    )
    suffix: int = Field(
        default=32, ge=2, le=65_536, description="Tokens that the model must write (default 32)."
    )
    stride: int = Field(
        default=8, ge=1, description="Tokens from one window to the next (default 8)."
    )
    threshold: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of right tokens from which a passage counts (default 0.9).",
    )
    refine_from: int = Field(
        default=8,
        ge=1,
        description="If a window begins with so many right tokens, every start around it is tried "
        "(default 8).",
    )
    max_growth: int = Field(
        default=128,
        ge=0,
        le=65_536,
        description="Most tokens by which a passage grows past a window (default 128).",
    )
    patterns: Literal["published", "strict"] = Field(
        default="published",
        description="Rules for counting and repeating text: published (default) or strict.",
    )
    temperature: float = Field(
        default=1.0, ge=1e-6, description="Temperature of sampled answers (default 1)."
    )
    top_k: int = Field(
        default=40, ge=0, description="Sample from the k likeliest tokens, 0 is all (default 40)."
    )
    probability: float = Field(
        default=0.9, gt=0, lt=1, description="Chance for which tries are counted (default 0.9)."
    )
    n_prefixes: int = Field(
        default=8,
        ge=0,
        le=1000,
        description="Prefixes of other texts to compare with, 0 is none (default 8).",
    )
    edits: int = Field(
        default=3,
        ge=0,
        description="Also give the chance of the passage within so many edits; 0 disables it "
        "(default 3).",
    )
    beams: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Most texts that are summed for --edits (default 16).",
    )
    batch_size: int = Field(
        default=64, ge=1, le=65_536, description="Windows in a forward pass (default 64)."
    )
    near_length: int = Field(
        default=24,
        ge=0,
        description="Fewest matching tokens of a near copy, 0 looks for none (default 24).",
    )
    near_gap: int = Field(
        default=6,
        ge=0,
        description="Most tokens in a row that may differ in a near copy (default 6).",
    )
    profile: bool = Field(
        default=False, description="Also draw the chance at every position: a heat map of a book."
    )
    profile_prefix: Literal["window", "all"] = Field(
        default="window",
        description="What the model reads for --profile: window (default, --prefix tokens) or all.",
    )
    ordinary: str | None = Field(
        default=None,
        description="How often do everyday answers repeat the documents? A file with a prompt a "
        "line, or 'shipped'.",
    )
    answer_tokens: int = Field(
        default=128,
        ge=1,
        le=65_536,
        description="Most tokens of an answer of --ordinary (default 128).",
    )
    overlap: int = Field(
        default=16,
        ge=2,
        description="Fewest tokens in a row that count as repeated by --ordinary (default 16).",
    )
    corpus: str | None = Field(
        default=None,
        description="Texts, tables, token ids (.bin, .npy) or infini-gram:PLACE: where do "
        "passages come from?",
    )
    corpus_dtype: str | None = Field(
        default=None, description="Type of the token ids in a .bin or an index (default uint16)."
    )
    chat_template: bool = Field(
        default=False,
        description="Put the text into the model's chat template, as the beginning of its answer.",
    )
    instruction: str = Field(
        default="Continue this text.",
        min_length=1,
        description="What the user asks for in a chat (default: Continue this text.).",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of all that is drawn at random (default 0)."
    )

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.prefix + self.suffix

    @property
    def n_allowed(self) -> int:
        """Tokens of the suffix that a hit may get wrong."""
        return min(int((1 - self.threshold) * self.suffix + 1e-9), self.suffix - 1)


NEEDS = {
    "answer_tokens": "ordinary",
    "overlap": "ordinary",
    "corpus_dtype": "corpus",
    "profile_prefix": "profile",
    "instruction": "chat_template",
}
"""Settings that only apply when another setting is on."""

FLAGS = {"n_prefixes": "other-prefixes", "url": "endpoint"}
"""Fields whose flag bears another name."""


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return f"--{FLAGS.get(name, name.replace('_', '-'))}"


class EndpointSettings(BoundedSettings):
    """How a service is asked; nothing here is secret, it stands in `audit.json`."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(description="Base address of the API; all arguments are then documents.")
    model: str = Field(min_length=1, description="The service's name for the model.")
    prompt_as: str = Field(
        default="tokens",
        pattern="^(tokens|text)$",
        description="Send prompts as tokens (default with --tokenizer) or text.",
    )
    chat: bool = Field(
        default=False, description="The service offers only chat: ask it to continue a text."
    )
    logprobs: bool = Field(default=True, description="Ask for log-probabilities (default yes).")
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="Environment variable with the key (default OPENAI_API_KEY).",
    )
    concurrency: int = Field(default=4, ge=1, le=256, description="Requests at once (default 4).")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="Most requests a minute (default: no limit)."
    )
    timeout: float = Field(
        default=60, gt=0, le=86_400, description="Seconds to wait for an answer (default 60)."
    )
    retries: int = Field(
        default=6, ge=0, le=1000, description="How often to try a failed request again (default 6)."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        """The address of completions; an error must not repeat what may hold a password."""
        try:
            parts = urlsplit(url.strip().rstrip("/"))
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("--endpoint: give a base address such as http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "--endpoint: give only the base address, without user, password or query: the key "
                "comes from the environment."
            )
        path = parts.path.removesuffix("/completions").removesuffix("/chat")
        return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def audit_settings(**values: Any) -> AuditSettings:
    """Check settings, None for the default; UserError names what is unknown or out of range."""
    return _checked(AuditSettings, values)


def endpoint_settings(**values: Any) -> EndpointSettings:
    """Check settings of a service, as `audit_settings`; its URL must be a base address."""
    return _checked(EndpointSettings, values)


def _checked(kind: type[_Settings], values: dict[str, Any]) -> _Settings:
    try:
        return kind(**{key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        known = list(kind.model_fields)
        raise UserError(first_problem(error, flag_of, lambda _: known)) from None
