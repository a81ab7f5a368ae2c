"""What every audit can be told: windows and sampling, and how a service is asked.

A field's description is the help of the flag that is made from it (`cli.audit`), which adds the
default. What single questions can be told stands with them in `questions`.
"""

from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationError, field_validator

from mnemoscope.errors import UserError
from mnemoscope.study.settings import BoundedSettings, first_problem

_Settings = TypeVar("_Settings", bound=BoundedSettings)

Value = str | int | float | bool | None
"""What a setting may be."""


class AuditSettings(BoundedSettings):
    """Settings of one audit; they stand in `audit.json`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    prefix: int = Field(default=32, ge=1, le=65_536, description="Tokens the model is shown.")
    suffix: int = Field(default=32, ge=2, le=65_536, description="Tokens that it must write.")
    stride: int = Field(default=8, ge=1, description="Tokens from window to window.")
    threshold: float = Field(
        default=0.9, gt=0, le=1, description="Share of right tokens that counts."
    )
    refine_from: int = Field(
        default=8,
        ge=1,
        description="If a window begins with so many right tokens, every start around it is tried.",
    )
    max_growth: int = Field(
        default=128,
        ge=0,
        le=65_536,
        description="Most tokens by which a passage grows past a window.",
    )
    patterns: Literal["published", "strict"] = Field(
        default="published",
        description="Rules for counting and repeating text: published or strict.",
    )
    temperature: float = Field(
        default=1.0, ge=1e-6, description="Temperature of the chances of answers."
    )
    top_k: int = Field(
        default=40, ge=0, description="Chances are of the k likeliest tokens; 0 is all."
    )
    probability: float = Field(
        default=0.9, gt=0, lt=1, description="Chance for which tries are counted."
    )
    batch_size: int = Field(default=64, ge=1, le=65_536, description="Windows in a forward pass.")
    chat_template: bool = Field(
        default=False,
        description="Ask in the model's chat template.",
    )
    instruction: str = Field(
        default="Continue this text.", min_length=1, description="What the user asks for in a chat."
    )

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.prefix + self.suffix

    @property
    def n_allowed(self) -> int:
        """Tokens of the suffix that a hit may get wrong."""
        return min(int((1 - self.threshold) * self.suffix + 1e-9), self.suffix - 1)


def flag_of(name: str) -> str:
    """How a setting is given: by a flag, but for what `audit api` takes as its arguments."""
    arguments = {"url": "URL", "model": "MODEL"}
    return arguments.get(name, f"--{name.replace('_', '-')}")


class EndpointSettings(BoundedSettings):
    """How a service is asked; nothing here is secret, it stands in `audit.json`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    url: str = Field(description="Base address of the API.")
    model: str = Field(min_length=1, description="The service's name for the model.")
    prompt_as: Literal["tokens", "text"] = Field(
        default="tokens", description="Send prompts as tokens or text; text without a tokenizer."
    )
    chat: bool = Field(
        default=False, description="The service offers only chat: ask it to continue a text."
    )
    logprobs: bool = Field(default=True, description="Ask for log-probabilities.")
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="Environment variable with the key."
    )
    concurrency: int = Field(default=4, ge=1, le=256, description="Requests at once.")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="Most requests a minute."
    )
    timeout: float = Field(
        default=60, gt=0, le=86_400, description="Seconds to wait for an answer."
    )
    retries: int = Field(
        default=6, ge=0, le=1000, description="How often to try a failed request again."
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
            raise UserError("URL: give a base address such as http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "URL: give only the base address, without user, password or query: the key comes "
                "from the environment."
            )
        path = parts.path.removesuffix("/completions").removesuffix("/chat")
        return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def checked(kind: type[_Settings], /, **values: Any) -> _Settings:
    """Settings of a kind, None for the default; UserError names what is unknown or out of range."""
    try:
        given = {key: value for key, value in values.items() if value is not None}
        return kind.model_validate(given)
    except ValidationError as error:
        known = list(kind.model_fields)
        raise UserError(first_problem(error, flag_of, lambda _: known)) from None
