"""The result of `perturb` in a sentence and in pictures."""

from typing import Any

import polars as pl

from mnemoscope.analysis.dynamics_words import interval
from mnemoscope.analysis.figures import Chart, Figure, Series, plain, series_of

__all__ = ["charts", "sentence"]


def sentence(frames: dict[str, pl.DataFrame], settings: Any) -> str:
    """What bears a changed word, and what comes back after unlearning.

    Args:
        frames: of `perturb`.
        settings: its settings.
    """
    back = {row["group"]: row for row in frames["recovery"].iter_rows(named=True)}
    gone, unseen = back["unlearned"], back["unseen"]
    prompts = frames["prompts"]
    typo = prompts.filter((pl.col("kind") == "typo") & (pl.col("group") == "Recall"))
    word = "a typo" if settings.n_words == 1 else f"{settings.n_words} typos"
    bears = (
        f"{interval(typo.row(0, named=True), 'whole', unit=' %')} of recalled sequences come out "
        f"whole after {word} in the prefix; "
        if typo.height
        else ""
    )
    return (
        f"{bears}after unlearning by gradient ascent the prefix itself brings "
        f"{interval(gone, 'as_it_is', scale=1)} of {gone['suffix']} tokens, and the best of "
        f"{gone['n_prompts']:.0f} changed prompts {interval(gone, 'best', scale=1)}: "
        f"{interval(gone, 'recovered', scale=1)} come back; of text never learnt the best prompt "
        f"finds {interval(unseen, 'recovered', scale=1)} more."
    )


def charts(frames: dict[str, pl.DataFrame]) -> tuple[Figure, ...]:
    """Tokens by change, whole suffixes by change, the steps of unlearning.

    Args:
        frames: of `perturb`.
    """
    prompts, steps = frames["prompts"], frames["unlearning"]
    return (
        _bars(
            prompts.filter(pl.col("group").is_in(["Recall", "Guess", "unlearned", "unseen"])),
            "tokens",
            "Tokens of the suffix reproduced in a row, by what was done to the prompt "
            "(95 % interval)",
        ),
        _bars(
            prompts.filter(pl.col("group").is_in(["Recall", "Guess"])),
            "whole",
            "Memorized sequences that come out whole, per cent (95 % interval)",
            percent=True,
        ),
        Chart(
            title="Unlearning: tokens of the suffix reproduced in a row (95 % interval)",
            x_label="steps of gradient ascent",
            series=(
                series_of(
                    "what is unlearned",
                    steps,
                    "tokens",
                    x="step",
                    ends=("tokens_low", "tokens_high"),
                ),
            ),
        ),
    )


def _bars(frame: pl.DataFrame, column: str, title: str, *, percent: bool = False) -> Chart:
    """A row of bars a group, a bar a kind of change."""
    kinds = frame["kind"].unique(maintain_order=True).to_list()
    series = []
    for group in frame["group"].unique(maintain_order=True):
        rows = {row["kind"]: row for row in frame.filter(pl.col("group") == group).to_dicts()}
        values = {
            end: plain(rows.get(kind, {}).get(f"{column}{end}", float("nan")) for kind in kinds)
            for end in ("", "_low", "_high")
        }
        series.append(
            Series(
                name=group,
                x=tuple(float(place) for place in range(len(kinds))),
                y=values[""],
                low=values["_low"],
                high=values["_high"],
            )
        )
    return Chart(
        title=title, form="bars", x_names=tuple(kinds), series=tuple(series), percent=percent
    )
