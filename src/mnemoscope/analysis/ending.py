"""Is there a bright ending in text? What a suffix takes from the end of its prompt.

Source: Chen et al. 2024, arXiv 2410.21665; section 9 of the related work. In text-to-image models
patches of memorized regions look at the last text token in the last denoising step; a language
model has neither patches nor denoising steps. Asked of it is what its suffix queries take from each
prefix token (the last one is the ending) and from copy edges, in attention and in total effect on
the suffix's logits, where memorized and where not, beside a reference that never saw the sequences
and reads the same tokens.
Run it: mnemoscope analyze ending STUDY
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    OWN,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    LanguageModel,
    Progress,
    capture_pooled,
    complete_rows,
    copy_edges,
    count_lacking,
    draw_rows,
    draw_within,
    estimate_of,
    frame_of,
    groups_of,
    hash_arrays,
    keep_blocks,
    look_up,
    n_groups,
    ranged,
    refuse_one_sided,
    resampled_auc,
    resampled_mean,
    rows_of,
    series_by,
    series_of,
    teacher_forced,
    token_matrix,
    total_effects,
)

_Floats = npt.NDArray[np.float64]

ENDING, FIRST, COPIES = "last prefix token", "first token", "copy edges"
AT_LAST = "last prefix token, last query"
CELLS = (ENDING, FIRST, COPIES, AT_LAST)
"""What is told of each layer; `AT_LAST` is the nearest to the last denoising step."""

ATTENTION, EFFECT, LOGPROB = "attention", "total effect", "log-probability"
MEMORIZED, OTHERS = "memorized", "Non-Memo"
SHOWN = "shown suffix"
_BLOCK = 64


class Settings(AnalysisSettings):
    """Settings of `ending`."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Sequences whose attention is read; null: all."
    )
    per_class: int = Field(
        default=100, ge=2, description="Sequences of a class whose total effects are measured."
    )
    minimum: int = Field(default=10, ge=2, description="Memorized sequences, and others, needed.")
    n_resamples: int = Field(default=500, ge=20, description="Resamples behind an interval.")


# -- what suffixes take ---------------------------------------------------------------------


def suffix_shares(edges: npt.ArrayLike, copies: npt.ArrayLike, prefix: int) -> _Floats:
    """Give what suffix queries take from the prefix: (n, layers, prefix + 2), shares of 1.

    From attention, or the size of effects, (n, layers, T, T) query by key, and each sequence's copy
    edges, bool (n, T, T). Queries are the suffix tokens but the last, which foretells none of the
    T; the prefix has at most T - 2. In order: the share on each prefix token, on copy edges, and
    that of the last of these queries alone on the last prefix token. 0 where a query takes nothing.
    """
    taken = np.abs(np.asarray(edges, dtype=np.float64))[..., prefix:-1, :]
    copied = np.asarray(copies, dtype=bool)[:, None, prefix:-1, :]
    parts = [
        taken[..., :prefix].sum(axis=-2),
        (taken * copied).sum(axis=(-2, -1))[..., None],
        taken[..., -1, prefix - 1, None],
    ]
    whole, last = taken.sum(axis=(-2, -1)), taken[..., -1, :].sum(axis=-1)
    wholes = np.concatenate([np.repeat(whole[..., None], prefix + 1, axis=-1), last[..., None]], -1)
    found = np.concatenate(parts, axis=-1)
    return np.asarray(np.divide(found, wholes, out=np.zeros_like(found), where=wholes > 0))


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Continuations that are not known, maps that are not stored, total effects, suffixes."""
    rows = _drawn(inputs, settings)
    lacking = count_lacking(inputs, rows.filter(suffix="own"), "continuation")
    sizes: list[int] = groups_of(rows).value_counts()["count"].to_list()
    sample = sum(min(settings.per_class, n) for n in sizes)
    stores = (inputs.maps, *(inputs.reference_maps for _ in inputs.others))
    unstored = sum(one is None for one in stores)
    return lacking + unstored * rows.height + len(stores) * 2 * sample


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Compare what suffixes take from the end of the prompt, memorized and not, in both models.

    Raises UserError: several models to compare with, a suffix below 2 tokens, too few sequences.
    """
    if len(inputs.others) > 1:
        raise UserError(
            f"analyze ending: {len(inputs.others)} models to compare with; one that never saw the "
            "sequences is compared. Give one: --second MODEL."
        )
    if inputs.length - inputs.prefix < 2:
        raise UserError(
            f"analyze ending: suffixes of {inputs.length - inputs.prefix} token; 2 are needed. "
            "Found the study with longer ones (sequences.suffix)."
        )
    rows = _rows(inputs, settings)
    sample = pl.concat(
        draw_rows(part, settings.per_class, settings.seed)
        for _, part in rows.group_by("class", maintain_order=True)
    )
    models = [(OWN, inputs.model(), inputs.stored_maps(rows))]
    models += [
        (name, lm, inputs.stored_maps(rows, of_reference=True))
        for name, lm in inputs.other_models()
    ]
    named = [name for name, _, _ in models]
    attention = [_attention(inputs, *one, rows) for one in models]
    effects = [_effects(inputs, lm, sample, name) for name, lm, _ in models]
    logprobs = [_logprobs(inputs, lm, sample) for _, lm, _ in models]
    measured = [
        _Measured(measure, of, inputs.near_duplicates(of["sequence_id"]), named, shares)
        for measure, of, shares in (
            (ATTENTION, rows, attention),
            (EFFECT, sample, effects),
            (LOGPROB, sample, logprobs),
        )
    ]
    classes = frame_of(line for one in measured[:2] for line in _by_class(one, inputs.prefix))
    lines = [line for one in measured for line in _aucs(one, inputs.prefix, settings)]
    aucs = frame_of(lines)
    places = pl.DataFrame(line for one in measured[:2] for line in _places(one, inputs.prefix))
    return AnalysisResult(
        sentence=_sentence(classes, aucs),
        frames={"aucs": aucs, "classes": classes, "places": places},
        figures=tuple(_figures(aucs, places)),
        further=tuple(_further(rows, sample, aucs, places)),
    )


class _Measured(NamedTuple):
    """One measure of the same sequences in each model, this model first."""

    measure: str
    rows: pl.DataFrame
    near: npt.NDArray[np.int64]
    models: list[str]
    values: list[_Floats]  # (n, layers, prefix + 2) as `suffix_shares`, or (n,)

    def cells(self, prefix: int) -> Iterator[tuple[str, int | None, list[_Floats]]]:
        """Cell, layer (None: mean of layers) and one value a sequence of each model."""
        if self.values[0].ndim == 1:
            yield SHOWN, None, self.values
            return
        for cell, place in zip(CELLS, (prefix - 1, 0, prefix, prefix + 1), strict=True):
            yield cell, None, [one[..., place].mean(axis=1) for one in self.values]
            for layer in range(self.values[0].shape[1]):
                yield cell, layer, [one[:, layer, place] for one in self.values]

    def sides(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Memorized, each of its classes, and the others."""
        found = self.rows["class"].unique(maintain_order=True).to_list()
        yield MEMORIZED, (self.rows["class"] != OTHERS).to_numpy()
        for name in sorted(set(found) - {MEMORIZED, OTHERS}):
            yield name, (self.rows["class"] == name).to_numpy()
        yield OTHERS, (self.rows["class"] == OTHERS).to_numpy()


def _rows(inputs: AnalysisInputs, settings: Settings) -> pl.DataFrame:
    """Sequences with their `class` and the tokens `shown`, as `_drawn`."""
    rows = _drawn(inputs, settings)
    is_own = pl.col("suffix") == "own"
    written = complete_rows(inputs, rows.filter(is_own), "continuation")
    rows = look_up(rows.drop("continuation", strict=False), written, "continuation")
    ids = pl.col("tokens", "continuation").cast(pl.List(pl.Int32))
    begun = pl.col("tokens").list.head(inputs.prefix).list.concat("continuation")
    return rows.with_columns(ids).select(
        "sequence_id",
        "suffix",
        groups_of(rows).alias("class"),
        pl.when(is_own).then(begun).otherwise("tokens").alias("shown"),
    )


def _drawn(inputs: AnalysisInputs, settings: Settings) -> pl.DataFrame:
    """Sequences, those of the stored maps, if any; column `suffix` says with which they are shown.

    As in the maps, what is not memorized is shown with the model's own continuation.
    """
    table = inputs.table.filter(pl.col("is_memorized").is_not_null())
    stored = inputs.captured()
    if stored is None:
        suffix = pl.when("is_memorized").then(pl.lit("true")).otherwise(pl.lit("own"))
        table = table.with_columns(suffix.alias("suffix"))
    else:
        table = table.join(stored, on="sequence_id", maintain_order="left")
    rows = draw_rows(table, settings.n_sequences, settings.seed)
    refuse_one_sided(rows["is_memorized"].to_numpy(), settings.minimum, where="analyze ending")
    return rows


def _attention(
    inputs: AnalysisInputs,
    name: str,
    lm: LanguageModel,
    stored: Iterator[Tensor] | None,
    rows: pl.DataFrame,
) -> _Floats:
    """Shares of attention, (n, layers, prefix + 2): of stored maps, else of maps made now."""
    if stored is not None:
        return _shares(token_matrix(rows, "shown"), stored, inputs.prefix)

    def make(tokens: npt.NDArray[np.int32]) -> Iterator[Tensor]:
        return (one.mean for one in capture_pooled(lm, tokens, batch_size=inputs.batch_size))

    return _kept(inputs, lm, rows, "ending_attention", make, label=f"Attention, {name}")


def _effects(inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame, name: str) -> _Floats:
    """Shares of total effect on the suffix's logits, (n, layers, prefix + 2)."""

    def make(tokens: npt.NDArray[np.int32]) -> Iterator[Tensor]:
        return total_effects(lm, tokens, batch_size=inputs.batch_size, prefix=inputs.prefix)

    return _kept(inputs, lm, rows, "ending_effects", make, label=f"Total effects, {name}")


def _kept(
    inputs: AnalysisInputs,
    lm: LanguageModel,
    rows: pl.DataFrame,
    name: str,
    make: Callable[[npt.NDArray[np.int32]], Iterator[Tensor]],
    *,
    label: str,
) -> _Floats:
    """Shares of the edges that a model gives of rows, in kept blocks."""

    def share(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        tokens = token_matrix(block, "shown")
        found = _shares(tokens, make(tokens), inputs.prefix).reshape(block.height, -1)
        progress.advance(block.height)
        kept = pl.Series("shares", found, dtype=pl.Array(pl.Float64, found.shape[1]))
        return block.select("sequence_id", kept)

    def shown(block: pl.DataFrame) -> dict[str, object]:
        return {"shown": hash_arrays(token_matrix(block, "shown"))}

    found = keep_blocks(
        inputs,
        lm,
        rows,
        name,
        share,
        label=label,
        size=_BLOCK,
        of_block=shown,
        prefix=inputs.prefix,
    )
    return found["shares"].to_numpy().reshape(rows.height, -1, inputs.prefix + 2)


def _shares(tokens: npt.NDArray[np.int32], batches: Iterable[Tensor], prefix: int) -> _Floats:
    """`suffix_shares` of batches of edges (b, layers, T, T), in the order of tokens (n, T)."""
    parts, start = [], 0
    for batch in batches:
        some = torch.from_numpy(tokens[start : start + len(batch)].astype(np.int64))
        parts.append(suffix_shares(batch, copy_edges(some, 1)[:, 0], prefix))
        start += len(batch)
    return np.concatenate(parts)


def _logprobs(inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame) -> _Floats:
    """Log-probability of each suffix that is shown, nats, (n,)."""
    shown = token_matrix(rows, "shown")
    found = teacher_forced(lm, shown, batch_size=inputs.batch_size, prefix=inputs.prefix)
    return np.asarray(found.logprobs.sum(axis=1, dtype=np.float64))


def _by_class(one: _Measured, prefix: int) -> Iterator[dict[str, object]]:
    """Mean share of each class and model, its interval over groups of near duplicates."""
    for cell, layer, values in one.cells(prefix):
        for name, here in one.sides():
            near = one.near[here]
            for model, numbers in zip(one.models, values, strict=True):
                mean = resampled_mean(numbers[here], near)
                line: dict[str, object] = {"measure": one.measure, "on": cell, "layer": layer}
                line |= {"class": name, "model": model, "n": int(here.sum())}
                yield line | {"n_groups": n_groups(near)} | {"mean": mean}


def _aucs(one: _Measured, prefix: int, settings: Settings) -> Iterator[dict[str, object]]:
    """How well much on a cell tells memorized from other sequences, in each model and apart."""
    is_other = (one.rows["class"] == OTHERS).to_numpy()
    for name, own in list(one.sides())[:-1]:
        here = own | is_other
        near = one.near[here]
        generator = np.random.default_rng(settings.seed)
        drawn = draw_within(own[here], generator, settings.n_resamples, groups=near)
        for cell, layer, values in one.cells(prefix):
            if layer is not None and name != MEMORIZED:
                continue
            found = [resampled_auc(numbers[here], own[here], drawn) for numbers in values]
            beside = found[1] if len(found) > 1 else np.full_like(found[0], np.nan)
            figures = (found[0], beside, found[0] - beside)
            line: dict[str, object] = {"measure": one.measure, "on": cell, "layer": layer}
            line |= {"of": name, "n": int(here.sum()), "n_groups": n_groups(near)}
            for stem, auc in zip(("model", "reference", "difference"), figures, strict=True):
                line |= {stem: estimate_of(float(auc[0]), auc[1:], 0.025)}
            yield line


def _places(one: _Measured, prefix: int) -> Iterator[dict[str, object]]:
    """AUC of memorized by what each prefix token gets, mean of layers: is the last one special?"""
    own, none = (one.rows["class"] != OTHERS).to_numpy(), np.empty((0, one.rows.height))
    for model, values in zip(one.models, one.values, strict=True):
        for place in range(prefix):
            auc = resampled_auc(values[..., place].mean(axis=1), own, none)
            line: dict[str, object] = {"measure": one.measure, "model": model, "n": len(own)}
            yield line | {"place": place + 1, "auc": float(auc[0])}


# -- words and figures ----------------------------------------------------------------------


class _Beside(NamedTuple):
    """An AUC of the model, of the reference, and their difference, over all layers."""

    model: Estimate
    reference: Estimate
    difference: Estimate


def _whole(aucs: pl.DataFrame, measure: str, on: str = ENDING) -> _Beside:
    rows = aucs.filter(pl.col("layer").is_null(), measure=measure, on=on, of=MEMORIZED)
    row = next(rows_of(rows))
    return _Beside(*(row[name] for name in _Beside._fields))


def _sentence(classes: pl.DataFrame, aucs: pl.DataFrame) -> str:
    def said(measure: str) -> str:
        rows = classes.filter(pl.col("layer").is_null(), measure=measure, on=ENDING, model=OWN)
        mean = {row["class"]: ranged(row["mean"], scale=100, unit=" %") for row in rows_of(rows)}
        means = f"{mean[MEMORIZED]} where memorized and {mean[OTHERS]} where not"
        return f"{means} (ROC AUC {_compared(_whole(aucs, measure))})"

    verdict = _verdict(_whole(aucs, ATTENTION))
    return (
        f"{verdict}: of what suffixes attend to, the last prefix token gets "
        f"{said(ATTENTION)}; of the total effect on their logits, {said(EFFECT)}."
    )


def _compared(found: _Beside) -> str:
    own = ranged(found.model, digits=3)
    if found.reference.value is None:
        return own
    reference, difference = (ranged(one, digits=3) for one in found[1:])
    return f"{own}, the reference {reference}, difference {difference}"


def _verdict(found: _Beside) -> str:
    """What attention to the last prefix token says of memory."""
    _, low, high = found.difference
    if found.reference.value is None:
        return "Whether the ending is bright cannot be said without a reference"
    if low is None or high is None:
        return "Whether the ending is bright cannot be said of so few"
    if low > 0:
        return "A bright ending"
    return "A dark ending" if high < 0 else "No bright ending"


def _further(
    rows: pl.DataFrame, sample: pl.DataFrame, aucs: pl.DataFrame, places: pl.DataFrame
) -> Iterator[str]:
    sizes = ", ".join(f"{n:,} {name}" for name, n in rows["class"].value_counts(sort=True).rows())
    yield (
        f"Attention of {rows.height:,} sequences ({sizes}), total effects of {sample.height:,}; "
        "shares are of what the suffix's queries take, in size, the mean of layers (where the "
        "tables name no layer). A token before the text (BOS) is no part of either."
    )
    if (rows["suffix"] == "own").any():
        yield (
            "What is not memorized is shown with the model's own continuation, which often loops: "
            "the classes differ in their text, and the reference, which reads the same tokens, "
            "says how much that alone gives."
        )
    for measure in (ATTENTION, EFFECT):
        for cell in CELLS:
            auc = _compared(_whole(aucs, measure, cell))
            yield f"{measure.capitalize()}, {cell}: ROC AUC for memorized {auc}."
    auc = _compared(_whole(aucs, LOGPROB, SHOWN))
    yield f"Beside them the log-probability of the shown suffix: ROC AUC {auc}."
    for (measure,), part in places.filter(model=OWN).group_by("measure", maintain_order=True):
        farthest = part.with_columns(apart=(pl.col("auc") - 0.5).abs()).sort("apart")
        best, last = farthest.row(-1, named=True), part.row(-1, named=True)
        rank = 1 + int((farthest["apart"] > abs(last["auc"] - 0.5)).sum())
        yield (
            f"Of the {part.height} prefix tokens the last ranks {rank} by {measure} (AUC "
            f"{last['auc']:.3f}); farthest from .5 is token {best['place']} ({best['auc']:.3f})."
        )


def _figures(aucs: pl.DataFrame, places: pl.DataFrame) -> Iterator[Chart]:
    told = aucs.filter(pl.col("of") == MEMORIZED, pl.col("measure") != LOGPROB)
    stems = [("model", OWN), ("reference", "the reference")]
    stems = [one for one in stems if told[one[0]].count()]
    yield Chart(
        title="ROC AUC for memorized of what falls on the last prefix token, by layer "
        "(95 % interval; .5: no relation)",
        x_label="layer",
        series=tuple(
            series_of(f"{measure}, {name}", part.drop_nulls("layer"), stem, x="layer")
            for (measure,), part in told.filter(on=ENDING).group_by("measure", maintain_order=True)
            for stem, name in stems
        ),
    )
    yield Chart(
        title="The same on other keys, mean of layers",
        form="bars",
        x_names=CELLS,
        series=tuple(
            series_of(f"{measure}, {name}", part, stem)
            for (measure,), part in told.filter(pl.col("layer").is_null()).group_by(
                "measure", maintain_order=True
            )
            for stem, name in stems
        ),
    )
    yield Chart(
        title="The same on each prefix token: is the last one special? (mean of layers)",
        x_label="token of the prefix",
        series=series_by(places, ("measure", "model"), "auc", x="place"),
    )
