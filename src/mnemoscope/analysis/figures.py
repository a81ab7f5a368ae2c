"""Figures of an analysis as data: what is drawn, not how; the report draws them.

Plain values that go through JSON unchanged. Fractions stay fractions: `percent` says how they
are printed. `None` is a gap.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import polars as pl

    from mnemoscope.stats import Estimate

Values = tuple[float | None, ...]

_CLASSES = ("class", "group", "category")  # columns that part sequences


class _Frozen(BaseModel):
    """Plain values, none added."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class Series(_Frozen):
    """One curve, one set of points or one row of bars, with its interval where there is one.

    Attributes:
        name: what it shows, for the legend.
        x: n places, or numbers of categories from 0.
        y: n values, None for a gap.
        low, high: n ends of the intervals each, or none.
    """

    name: str = Field(description="What it shows, for the legend.")
    x: Values = Field(description="Places, or numbers of categories from 0.")
    y: Values = Field(description="Values, None for a gap.")
    low: Values = Field(default=(), description="Lower ends of the intervals.")
    high: Values = Field(default=(), description="Upper ends of the intervals.")

    @model_validator(mode="after")
    def _check(self) -> "Series":
        ends = {len(part) for part in (self.low, self.high) if part}
        if len(self.x) != len(self.y) or ends - {len(self.y)}:
            raise ValueError(f"series '{self.name}': x, y and interval differ in length")
        return self


class Chart(_Frozen):
    """Curves, points or bars over one axis.

    Attributes:
        title: what is seen, with its unit.
        series: what is drawn, at least one.
        form: `line`, `points` or `bars`.
        x_label, y_label: of the axes.
        x_names: categories; x counts from 0.
        marks: upright lines at an x, each with a word.
        percent: y are fractions, shown as per cent.
        log_x, log_y: logarithmic axes; all values above 0.
    """

    kind: Literal["chart"] = "chart"
    title: str = Field(description="What is seen, with its unit.")
    series: tuple[Series, ...] = Field(min_length=1)
    form: Literal["line", "points", "bars"] = "line"
    x_label: str = ""
    y_label: str = ""
    x_names: tuple[str, ...] = Field(default=(), description="Categories; x counts from 0.")
    marks: tuple[tuple[float, str], ...] = Field(
        default=(), description="Upright lines at an x, each with a word."
    )
    percent: bool = Field(default=False, description="y are fractions, shown as per cent.")
    log_x: bool = Field(default=False, description="Logarithmic x; all x > 0.")
    log_y: bool = Field(default=False, description="Logarithmic y; all y > 0.")

    @model_validator(mode="after")
    def _check(self) -> "Chart":
        for axis, is_log in (("x", self.log_x), ("y", self.log_y)):
            values = (one for series in self.series for one in getattr(series, axis))
            if is_log and any(one is not None and one <= 0 for one in values):
                raise ValueError(f"chart '{self.title}': a logarithmic {axis} of 0 or less")
        return self


class HeatMap(_Frozen):
    """A table of values as colours.

    Attributes:
        title: what is seen, with its unit.
        values: row by row, None for a gap.
        row_names, column_names: one a row, one a column.
        row_label, column_label: what rows and columns are.
        percent: values are fractions, shown as per cent.
        diverging: two colours, one for each sign.
    """

    kind: Literal["heat"] = "heat"
    title: str = Field(description="What is seen, with its unit.")
    values: tuple[Values, ...] = Field(min_length=1, description="Row by row.")
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    row_label: str = ""
    column_label: str = ""
    percent: bool = Field(default=False, description="Values are fractions, shown as per cent.")
    diverging: bool = Field(default=False, description="Two colours, one for each sign.")

    @model_validator(mode="after")
    def _check(self) -> "HeatMap":
        widths = {len(row) for row in self.values}
        if len(self.values) != len(self.row_names) or widths != {len(self.column_names)}:
            raise ValueError(f"heat map '{self.title}': names and values differ in number")
        return self


Figure = Chart | HeatMap


def plain(values: npt.ArrayLike | Iterable[float | None]) -> Values:
    """Give numbers as a figure wants them: Python floats, None where they are not finite.

    >>> plain([1, float("nan")])
    (1.0, None)
    """
    numbers = np.asarray(list(values), dtype=np.float64)  # type: ignore[arg-type]
    return tuple(float(one) if np.isfinite(one) else None for one in numbers)


def counts_of(rows: "pl.DataFrame") -> list[int]:
    """How many sequences each row is of, by its column `of`, else `n`: the fewest and the most."""
    column = next(
        (one for one in ("of", "n") if one in rows and rows[one].dtype.is_integer()), None
    )
    counts = [] if column is None else rows[column].drop_nulls().unique().sort().to_list()
    return sorted({*counts[:1], *counts[-1:]})


def counted(name: str, rows: "pl.DataFrame") -> str:
    """A name of the legend or of a category, with how many sequences its rows are each of.

    The fewest and the most where these differ; only the name without a column that says it.

    >>> import polars as pl
    >>> counted("Recall", pl.DataFrame({"share": [0.1, 0.2], "n": [40, 40]}))
    'Recall (n 40)'
    >>> counted("Recall", pl.DataFrame({"share": [0.1, 0.2], "n": [40, 1200]}))
    'Recall (n 40–1,200)'
    """
    n = "–".join(f"{one:,}" for one in counts_of(rows))
    return f"{name} (n {n})" if n else name


def counted_names(rows: "pl.DataFrame", column: str) -> tuple[str, ...]:
    """Name the categories of a column in the order that they come in, each as `counted`."""
    parts = rows.group_by(column, maintain_order=True)
    return tuple(counted(str(key), part) for (key,), part in parts)


def series_of(name: str, rows: "pl.DataFrame", y: str, *, x: str | None = None) -> Series:
    """Make a series of a frame's columns, one row a point, with its interval where `y` has one.

    Its name is `counted`. Without a column `x` the rows are numbered from 0, as categories are.
    """
    places, name = plain(range(rows.height) if x is None else rows[x]), counted(name, rows)
    if not rows.schema[y].is_nested():
        return Series(name=name, x=places, y=plain(rows[y]))
    parts = {end: plain(rows[y].struct.field(end)) for end in ("value", "low", "high")}
    return Series(name=name, x=places, y=parts["value"], low=parts["low"], high=parts["high"])


def series_of_estimates(name: str, estimates: Sequence["Estimate"], first: int = 0) -> Series:
    """Make a series of figures at the whole numbers from `first` on."""
    value, low, high = (plain(one) for one in np.array(estimates).T)
    x = plain(range(first, first + len(estimates)))
    return Series(name=name, x=x, y=value, low=low, high=high)


def series_beside(
    name: str, rows: "pl.DataFrame", column: str, keys: Iterable[str], shift: float
) -> Series:
    """Make a series of the column `value`, each row at the number of its key plus `shift`.

    The rows, at most one a key, have their key in `column`; `keys` are all of them in the order of
    the chart's `x_names`. Series of other shifts stand side by side.
    """
    places = {key: place + shift for place, key in enumerate(keys)}
    x = plain(places[key] for key in rows[column])
    return series_of(name, rows, "value").model_copy(update={"x": x})


def series_by(
    frame: "pl.DataFrame",
    by: str | Sequence[str],
    y: str,
    *,
    x: str | None = None,
    name: str | None = None,
) -> tuple[Series, ...]:
    """Make a series for each value of a column (or of several), in the order that they come in.

    `y` and `x` are as in `series_of`; `name` has a `{}` for the value of each column, or is these.
    """
    columns = [by] if isinstance(by, str) else by
    shown = ", ".join(["{}"] * len(columns)) if name is None else name
    return tuple(
        series_of(shown.format(*key), rows, y, x=x)
        for key, rows in frame.group_by(*columns, maintain_order=True)
    )


def bars_by(
    title: str,
    frame: "pl.DataFrame",
    by: str | Sequence[str],
    y: str,
    *,
    at: str,
    percent: bool = False,
    name: str | None = None,
) -> Chart:
    """Make a chart of a row of bars for each value of `by`, as `series_by`, a bar a value of `at`.

    Both are as they come in the frame, and a bar that it lacks is a gap. Numbers of sequences stand
    in the legend, or at the bars where these are of a class (`at`) or only they are of one number.
    """
    places = frame.select(frame[at].unique(maintain_order=True))
    columns = [by] if isinstance(by, str) else by
    groups = frame.select(columns).unique(maintain_order=True).join(places, how="cross")
    whole = groups.join(frame, on=[*columns, at], how="left", maintain_order="left")
    x_names = tuple(map(str, places[at]))
    at_bars, at_names = (
        [len(counts_of(rows)) == 1 for _, rows in whole.group_by(one)] for one in ([at], columns)
    )
    if all(at_bars) and (at in _CLASSES or not any(at_names)):
        x_names, whole = counted_names(frame, at), whole.drop("n", "of", strict=False)
    series = series_by(whole, by, y, name=name)
    return Chart(title=title, form="bars", x_names=x_names, percent=percent, series=series)
