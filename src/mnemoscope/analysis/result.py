"""What an analysis gives: a sentence, tables by name, figures, and what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from mnemoscope.analysis.figures import Figure

__all__ = ["AnalysisResult", "Cost"]


@dataclass(frozen=True)
class Cost:
    """What a result cost.

    Attributes:
        seconds: of the whole analysis.
        forward_passes: sequences put through a model, each time counted; a decoding of 32 tokens
            is 32 passes.
    """

    seconds: float
    forward_passes: int


@dataclass(frozen=True)
class AnalysisResult:
    """The result of one analysis.

    Attributes:
        sentence: the result in one sentence, its figure with the 95 % interval.
        frames: tables by name (the name of a file: small letters, digits, underscores).
        figures: to be drawn, the most important first.
        further: further sentences: what was left out, what cannot be said.
        cost: filled in by `registry.run_analysis`.
        libraries: distributions that made it beside those of every study, for its record.
    """

    sentence: str
    frames: Mapping[str, pl.DataFrame]
    figures: tuple[Figure, ...] = ()
    further: tuple[str, ...] = ()
    cost: Cost = field(default=Cost(0.0, 0))
    libraries: tuple[str, ...] = ()
