"""What the report says of the checks of Δ: stable or not, attributions alike, of the CNN or not."""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl

from mnemoscope.config import LocalizeSettings
from mnemoscope.localize.attribution import COSTLY
from mnemoscope.report.content import Table

__all__ = ["check_tables"]

_HALF = 0.5
_NOTHING = 0.1  # of what an attribution has beyond a random CNN
_STABLE = ("halves", "seeds", "attributions", "reference", "attention")
_STABLE_WORDS = {
    "halves": "other half of the sequences",
    "seeds": "other CNN seeds",
    "reference": "Δ of the reference model",
    "attention": "the mean attention itself",
}
_SANE = ("randomized", "permuted")


def check_tables(checks: pl.DataFrame, settings: LocalizeSettings) -> Iterator[Table]:
    """The two tables of one sample, each where the study has its checks.

    Args:
        checks: rows of `agreement.parquet`.
        settings: under which they were made.
    """
    stable = checks.filter(pl.col("check").is_in(_STABLE))
    if not stable.is_empty():
        yield _stability_table(stable, settings)
    sane = checks.filter(pl.col("check").is_in(_SANE))
    if not sane.is_empty():
        yield _sanity_table(sane, settings)


def _stability_table(checks: pl.DataFrame, settings: LocalizeSettings) -> Table:
    """How alike Δ is between halves, seeds, attributions, models, and to the attention."""
    keys = checks.select("check", "against").unique(maintain_order=True).rows()
    columns = {}
    for check, against in keys:
        columns[check, against] = _STABLE_WORDS.get(check, f"Δ by {against}")
    rows = []
    for attribution in checks["attribution"].unique(maintain_order=True):
        for name in checks["class"].unique(maintain_order=True):
            own = checks.filter((pl.col("attribution") == attribution) & (pl.col("class") == name))
            cells = [_correlations(own, check, against, "Δ") for check, against in columns]
            rows.append((f"{name}, {attribution}", *cells))
    return Table(
        title="Is Δ stable, and do the attributions agree?",
        columns=("Δ of", *columns.values()),
        rows=tuple(rows),
        summary=(
            f"{_disagreement(checks)}Pearson and Spearman correlation over all causal edges of all "
            "layers, then the overlap of the top 1 % of edges. Halves are of the evaluation "
            "sequences, near duplicates on one side; a dash: a single seed, or no sequence that "
            "counts. "
            f"{_few_read(checks, settings)}Attributions are compared on what all of them read. "
            + (
                "Correctly classified sequences alone count."
                if settings.correct_only
                else "All evaluation sequences count, rightly classified or not."
            )
        ),
        gist=_stability_gist(checks),
    )


def _stability_gist(checks: pl.DataFrame) -> str:
    """Mean correlations over classes and attributions, and where attributions part."""
    words = {"halves": "halves", "seeds": "seeds", "attributions": "attributions"}
    means = {word: _mean(checks.filter(check=check)["pearson"]) for check, word in words.items()}
    known = [f"{word} {mean:.2f}" for word, mean in means.items() if mean is not None]
    said = [f"mean correlation between {', '.join(known)}"] if known else []
    apart = _apart(checks.filter(check="attributions"))
    if apart:
        said.append(f"other edges by {', '.join(f'{one} and {two}' for one, two, _ in apart)}")
    return "; ".join(said)


def _disagreement(checks: pl.DataFrame) -> str:
    """Name the pair of attributions whose Δ agrees least, and all pairs that name other edges."""
    pairs = checks.filter(pl.col("check") == "attributions").drop_nulls("spearman")
    if pairs.is_empty():
        return ""
    worst = pairs.sort("overlap", maintain_order=True).row(0, named=True)
    rank = _signed(f" {worst['spearman']:.2f}")
    apart = [f"{one} and {other} ({overlap:.0%})" for one, other, overlap in _apart(pairs)]
    return (
        f"The attributions disagree most on {worst['class']}: of the top 1 % of edges by "
        f"{worst['attribution']} and by {worst['against']}, {worst['overlap']:.0%} are the same "
        f"(rank correlation{rank}). "
        + (
            f"Less than half of the top 1 % in common, mean over the classes: {', '.join(apart)}. "
            if apart
            else "Every two have half of the top 1 % or more in common, mean over the classes. "
        )
    )


def _apart(pairs: pl.DataFrame) -> list[tuple[str, str, float]]:
    """Pairs of attributions with less than half of their top edges in common, over the classes."""
    names = pairs["attribution"].unique(maintain_order=True).to_list()
    found = []
    for one, other in combinations(names, 2):
        overlap = _mean(pairs.filter(attribution=one, against=other)["overlap"])
        if overlap is not None and overlap < _HALF:
            found.append((one, other, overlap))
    return found


def _few_read(checks: pl.DataFrame, settings: LocalizeSettings) -> str:
    """Say which attributions read a few sequences alone, and how many."""
    few = [one for one in checks["attribution"].unique(maintain_order=True) if one in COSTLY]
    if not few or settings.attribution_sequences is None:
        return ""
    verb = "read" if len(few) > 1 else "reads"
    return (
        f"{' and '.join(few).capitalize()} {verb} up to {settings.attribution_sequences} sequences "
        "of each class (localize.attribution_sequences). "
    )


def _sanity_table(checks: pl.DataFrame, settings: LocalizeSettings) -> Table:
    """What is left of D and Δ when the CNN did not learn this."""
    keys = checks.select("check", "against").unique(maintain_order=True).rows()
    random = [against for check, against in keys if check == "randomized"]
    words = [f"random from {one} up" for one in random[:-1]] + ["all layers random"]
    words += [against for check, against in keys if check == "permuted"]
    rows = []
    for attribution in checks["attribution"].unique(maintain_order=True):
        for name in checks["class"].unique(maintain_order=True):
            own = checks.filter((pl.col("attribution") == attribution) & (pl.col("class") == name))
            for of in ("D", "Δ"):
                cells = [_correlations(own, check, against, of) for check, against in keys]
                rows.append((f"{name}, {attribution}: {of}", *cells))
    return Table(
        title="Does Δ depend on what the CNN learned?",
        columns=("correlation with the trained CNN’s", *words),
        rows=tuple(rows),
        summary=" ".join(_sanity_sentences(checks))
        + f" One CNN, up to 64 sequences a class, all of them counted. "
        f"{_few_read(checks, settings)}D is the attribution alone, "
        "Δ the mean of D times the attention, which stays the same and keeps Δ alike whatever the "
        "CNN is. Pearson, Spearman, overlap of the top 1 %. Checks after Adebayo et al., arXiv "
        "1810.03292.",
        gist=_sanity_gist(checks),
    )


class _Sanity(NamedTuple):
    """Mean correlations of one attribution's D with the trained CNN's; None where unknown."""

    attribution: str
    top: float  # the top layer is random
    floor: float  # all are
    permuted: float | None

    @property
    def kept(self) -> float:
        """Share of what D has beyond a wholly random CNN's that stays when the top is random."""
        return max(0.0, (self.top - self.floor) / (1 - self.floor)) if self.floor < 1 else 1.0

    @property
    def verdict(self) -> str:
        """`fails` where most of it stays, `passes` where about nothing does."""
        if self.kept > _HALF:
            return "fails"
        return "passes" if self.kept <= _NOTHING else "passes in part"


def _sanity(checks: pl.DataFrame) -> Iterator[_Sanity]:
    """What is left of each attribution's D."""
    random = checks.filter(check="randomized")["against"].unique(maintain_order=True).to_list()
    for attribution in checks["attribution"].unique(maintain_order=True):
        own = checks.filter((pl.col("attribution") == attribution) & (pl.col("of") == "D"))
        top, floor = (
            _mean(own.filter(against=layer)["pearson"]) for layer in (random[0], random[-1])
        )
        if top is not None and floor is not None:
            permuted = _mean(own.filter(check="permuted")["pearson"])
            yield _Sanity(attribution, top, floor, permuted)


def _sanity_sentences(checks: pl.DataFrame) -> Iterator[str]:
    """Say for each attribution whether D loses its structure with the CNN's top layer."""
    beyond = "of what it has beyond a random CNN does not come from what the top learned."
    for one in _sanity(checks):
        told = f"{one.attribution}: with random weights in the top layer D keeps a correlation of "
        told += f"{one.top:.2f}, with all layers random {one.floor:.2f}"
        if one.permuted is not None:
            told += f", with a CNN of permuted labels {one.permuted:.2f}"
        ends = {
            "fails": f"it fails the check, most {beyond}",
            "passes in part": f"it passes in part, {one.kept:.0%} {beyond}",
            "passes": "what it had beyond the floor of a random CNN is lost with the top layer.",
        }
        yield f"{_signed(told)}: {ends[one.verdict]}"


def _sanity_gist(checks: pl.DataFrame) -> str:
    """Which attributions pass."""
    return ", ".join(f"{one.attribution} {one.verdict}" for one in _sanity(checks))


def _signed(text: str) -> str:
    """With true minus signs."""
    return text.replace(" -", " −")


def _mean(values: pl.Series) -> float | None:
    known = values.drop_nulls()
    return None if known.is_empty() else float(np.mean(known.to_numpy()))


def _correlations(rows: pl.DataFrame, check: str, against: str, of: str) -> str:
    """`.83 · .75 · 61 %`, or a dash."""
    found = rows.filter(check=check, against=against, of=of).to_dicts()
    if not found or found[0]["pearson"] is None:
        return "–"
    one = found[0]
    cells = f" {one['pearson']:.2f} · {one['spearman']:.2f} · {one['overlap']:.0%}"
    return _signed(cells).lstrip()
