"""What a count of copies in idea is worth: texts at random, the prompt, exact copies beside it.

A copy in idea is a continuation that is like a training text and not as like its own prompt. The
comparisons are ours; Zeng et al. (arXiv 2310.06714) give none.
"""

from collections.abc import Iterator, Sequence

import polars as pl

from mnemoscope.analysis.figures import Chart, series_of
from mnemoscope.analysis.shares import share_of

__all__ = ["COMPARED", "COSINES", "ROWS", "compare_ideas", "idea_chart", "idea_words", "is_idea"]

COSINES = ("idea", "idea_random", "idea_prompt")
"""Columns of cosines, in the order of `ideas.Ideas`."""

ROWS = {True: "trained on", False: "never trained on"}
"""Rows by whether the model was trained on them, in words."""

NEAREST, RANDOM = "nearest texts", "texts at random"
PROMPT, EXACT = "as like the prompt: not counted", "verbatim copies that reach it"
COMPARED = (NEAREST, RANDOM, PROMPT, EXACT)
"""What cosines are compared with; the first is the count of copies in idea."""


def is_idea(column: str, least: float) -> pl.Expr:
    """Say which continuations are copies in idea: long, like a text, and not as like their prompt.

    Args:
        column: cosines that are asked, one of `COSINES`.
        least: cosine from which on a text is a copy in idea.
    """
    return pl.col("is_long") & (pl.col(column) >= least) & (pl.col("idea_prompt") < least)


def compare_ideas(found: pl.DataFrame, least: float) -> pl.DataFrame:
    """Set the copies in idea beside what texts at random, the prompt and exact copies give.

    Args:
        found: columns `model`, `trained` and those of `copying.copies`, with a sentence model.
        least: cosine from which on a text is a copy in idea.

    Returns:
        One row for each model, rows and `compared` (one of `COMPARED`): `n` of `of` with `share`
        and its interval `low`, `high`; `median`, of the cosines of all that are long enough.
    """
    is_left = pl.col("is_long") & ~pl.col("kind").is_in(["verbatim", "near"]).fill_null(False)
    is_like = is_left & (pl.col("idea") >= least)
    rules = {
        NEAREST: ("idea", pl.col("kind") == "idea", pl.lit(True)),
        RANDOM: ("idea_random", is_left & is_idea("idea_random", least), pl.lit(True)),
        PROMPT: ("idea_prompt", is_like & (pl.col("idea_prompt") >= least), pl.lit(True)),
        EXACT: ("idea", pl.col("idea") >= least, pl.col("kind") == "verbatim"),
    }
    lines = []
    parts = found.partition_by("model", maintain_order=True)
    sides = (one.filter(trained=trained) for one in parts for trained in ROWS)
    for part in (one for one in sides if one.height):
        for compared, (column, rule, whole) in rules.items():
            rows = part.filter(whole)
            share = share_of(rows.filter(rule).height, rows.height)
            lines.append(
                {"model": part["model"][0], "rows": ROWS[part["trained"][0]]}
                | {"compared": compared, "n": rows.filter(rule).height, "of": rows.height}
                | {"share": share.value, "low": share.low, "high": share.high}
                | {"median": rows.filter("is_long")[column].median()}
            )
    return pl.DataFrame(lines, infer_schema_length=None).with_columns(
        pl.col("share", "low", "high").fill_nan(None), pl.col("median").cast(pl.Float64)
    )


def idea_words(ideas: pl.DataFrame, least: float) -> Iterator[str]:
    """Say what the count of copies in idea is worth.

    Args:
        ideas: of one model, from `compare_ideas`.
        least: cosine from which on a text is a copy in idea.
    """
    for rows in ideas["rows"].unique(maintain_order=True):
        part = ideas.filter(rows=rows)
        by = {one["compared"]: one for one in part.iter_rows(named=True)}
        said = {name: share_of(one["n"], one["of"]) for name, one in by.items()}
        medians = " and ".join(
            "none" if by[name]["median"] is None else f"{by[name]['median']:.2f}"
            for name in (NEAREST, RANDOM)
        )
        yield (
            f"Cosine of {least:g} or more, {rows}: with the nearest texts {said[NEAREST]}; "
            f"with as many texts at random {said[RANDOM]} (median cosine {medians}); another "
            f"{said[PROMPT]} are that like their own prompt too and not counted."
        )
        if by[EXACT]["of"]:
            yield (
                f"How much of what is copied such a cosine finds: {said[EXACT]} of the verbatim "
                f"copies {rows} have it."
            )


def idea_chart(ideas: pl.DataFrame, groups: Sequence[tuple[str, str]], least: float) -> Chart:
    """Copies in idea beside what texts at random and the prompt give, as bars.

    Args:
        ideas: from `compare_ideas`.
        groups: models and rows that are shown, in this order.
        least: cosine from which on a text is a copy in idea.
    """
    shown = ideas.filter(pl.col("compared") != EXACT)
    return Chart(
        title=f"Continuations with a cosine of {least:g} or more, per cent (95 % interval)",
        form="bars",
        x_names=COMPARED[:3],
        percent=True,
        series=tuple(
            series_of(f"{model}, {rows}", shown.filter(model=model, rows=rows), "share")
            for model, rows in groups
        ),
    )
