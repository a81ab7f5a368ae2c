"""The result of `dynamics` in a sentence and in pictures."""

from typing import Any

import polars as pl

from mnemoscope.analysis.figures import Chart, Figure, Series, series_of

__all__ = ["charts", "interval", "sentence"]


def interval(row: dict[str, Any], name: str, *, scale: float = 100, unit: str = "") -> str:
    """`91.2 % [88.0, 94.1]` from three columns of a row."""
    value, low, high = (scale * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f}{unit} [{low:.1f}, {high:.1f}]"


def sentence(frames: dict[str, pl.DataFrame], settings: Any) -> str:
    """The result: M, T(τ), and what is left after one reading.

    Args:
        frames: of `dynamics`.
        settings: its settings.
    """
    whole = frames["tokens"].row(0, named=True)
    learnt = frames["thresholds"].row(0, named=True)
    floors = {row["arm"]: row for row in frames["floors"].iter_rows(named=True)}
    time = (
        f"does not reach M = {settings.threshold:g} on unseen sequences in {settings.epochs} epochs"
        if learnt["epochs"] is None
        else f"reaches M = {settings.threshold:g} on unseen sequences in {learnt['epochs']} epochs "
        f"({learnt['steps']} steps)"
    )
    return (
        f"Teacher-forced, the model has {interval(whole, 'm', unit=' %')} of all tokens right, in "
        f"runs of {interval(whole, 'mean_run', scale=1)} tokens; it {time}; of a batch read once, "
        f"the lowest M from its peak on is {interval(floors['once'], 'above_never')} points above "
        f"that of a run that never read it, and {settings.n_repeats} readings in a row or spaced "
        f"keep {interval(floors['repeated'], 'above_once')} and "
        f"{interval(floors['spaced'], 'above_once')} points more than one."
    )


def charts(frames: dict[str, pl.DataFrame], *, last_reading: int) -> tuple[Figure, ...]:
    """Forgetting, learning, right tokens by position and by kind.

    Args:
        frames: of `dynamics`.
        last_reading: steps made when the special batch has been read for the last time.
    """
    return (
        Chart(
            title="M of the special batch while training goes on, per cent (95 % interval)",
            series=_curves(frames["forgetting"], "arm", "step", "m"),
            x_label="steps",
            percent=True,
            marks=((float(last_reading), "read for the last time"),),
        ),
        Chart(
            title="M of unseen sequences while they are taught, and of others that are not, "
            "per cent (95 % interval)",
            series=(
                *_curves(frames["learning"], "model", "epoch", "m", "{}, taught"),
                *_curves(frames["learning"], "model", "epoch", "other_m", "{}, others"),
            ),
            x_label="epochs",
            percent=True,
        ),
        Chart(
            title="Right tokens by position, per cent",
            series=_curves(frames["positions"], "group", "position", "m", bare=True),
            x_label="position of the token",
            percent=True,
        ),
        _kinds_chart(frames["kinds"]),
    )


def _curves(
    frame: pl.DataFrame, by: str, x: str, y: str, name: str = "{}", *, bare: bool = False
) -> tuple[Series, ...]:
    """A curve a group."""
    parts = [
        (key, frame.filter(pl.col(by) == key)) for key in frame[by].unique(maintain_order=True)
    ]
    return tuple(
        series_of(name.format(key), part, y, x=x, ends=None if bare else (f"{y}_low", f"{y}_high"))
        for key, part in parts
    )


def _kinds_chart(frame: pl.DataFrame) -> Chart:
    """Right kind and right token of each kind, in all sequences."""
    part = frame.filter(pl.col("group") == "all")
    return Chart(
        title="Tokens of each kind: the kind right, and the token itself, per cent (95 % interval)",
        form="bars",
        percent=True,
        x_names=tuple(part["kind"]),
        series=tuple(
            series_of(name, part, column, ends=(f"{column}_low", f"{column}_high"))
            for name, column in (
                ("a token of this kind (R)", "right_kind"),
                ("this token (R mem)", "right_token"),
            )
        ),
    )
