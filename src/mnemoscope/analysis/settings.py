"""What every analysis can be told: a seed, and whether the published computation is wanted."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mnemoscope.errors import UserError, nearest

__all__ = ["AnalysisSettings", "parse_settings"]


class AnalysisSettings(BaseModel):
    """Settings that each analysis adds its own to."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, description="Seed of all that is drawn at random.")
    published: bool = Field(
        default=False, description="Compute as published, defects included (--published)."
    )


_Settings = TypeVar("_Settings", bound=AnalysisSettings)


def parse_settings(kind: type[_Settings], values: dict[str, Any], *, where: str) -> _Settings:
    """Check plain values and fill in the defaults.

    Args:
        kind: the analysis's model of settings.
        values: what the user gave, by name.
        where: what to name in an error.

    Raises:
        UserError: an unknown key (with the nearest known one) or a bad value.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = list(kind.model_fields)
            hint = nearest(key, known) or f" Known: {', '.join(known)}."
            raise UserError(f"{where}, {key}: unknown key.{hint}") from None
        message = f"{problem['msg']} (got {problem.get('input')!r})"
        raise UserError(f"{where}, {key or 'settings'}: {message}. Correct the value.") from None
