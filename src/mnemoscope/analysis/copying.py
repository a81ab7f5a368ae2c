"""What a model copies from its training texts: verbatim, nearly, in idea; and how it attends.

Source: Zeng et al. 2023, "Exploring Memorization in Fine-tuned Language Models", arXiv 2310.06714;
section 5 of the related work. Meant for fine-tuned models, with the model before tuning beside
them; attention is that of the model itself, an adaptation of their cross-attention.
Run it: mnemoscope analyze copying STUDY --second MODEL_BEFORE_TUNING
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.copied_text import PassageIndex, near_scores, nearest_texts
from mnemoscope.analysis.decoding import decode_rows, draw_rows
from mnemoscope.analysis.figures import Chart, series_of
from mnemoscope.analysis.ideas import SentenceModel, find_ideas
from mnemoscope.analysis.ideas_compared import (
    COSINES,
    ROWS,
    compare_ideas,
    idea_chart,
    idea_words,
    is_idea,
)
from mnemoscope.analysis.inputs import AnalysisInputs
from mnemoscope.analysis.psmi import separation
from mnemoscope.analysis.result import AnalysisResult
from mnemoscope.analysis.settings import AnalysisSettings
from mnemoscope.analysis.shares import share_of
from mnemoscope.errors import UserError
from mnemoscope.progress import track

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel
    from mnemoscope.maps.store import MapStore

__all__ = ["KINDS", "Settings", "analyse", "copies"]

KINDS = ("verbatim", "near", "idea")
"""Kinds of copies; each continuation has the first that holds."""

OWN = "this model"
SHUFFLED = "words shuffled"
SUFFIXES = "the texts' own suffixes"
"""Control: what follows the prompts of rows never trained on, written by no model."""
_NOT_COUNTED = (
    "The study does not say what the model was trained on (no duplicates), so every row is taken "
    "for training text: a copy may be of a text that it never saw. Count them: mnemoscope "
    "duplicates."
)


class Settings(AnalysisSettings):
    """Settings of `copying`."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Sequences that are continued; null: all."
    )
    n_characters: int = Field(
        default=50, ge=8, description="Characters that a verbatim copy needs at least."
    )
    near: float = Field(
        default=0.8, gt=0, le=1, description="Likeness from which on a passage is a near copy."
    )
    n_candidates: int = Field(
        default=10, ge=1, description="Nearest texts in which near and idea copies are looked for."
    )
    sentence_model: str | None = Field(
        default=None,
        description="Folder of a sentence-transformers model, for idea copies; null: none.",
    )
    idea: float = Field(
        default=0.8, gt=0, le=1, description="Cosine from which on a text is a copy in idea."
    )
    n_resamples: int = Field(default=200, ge=50, description="Resamples of attention's intervals.")


def copies(
    continuations: Sequence[str],
    prompts: Sequence[str],
    texts: Sequence[str],
    settings: Settings,
    model: SentenceModel | None = None,
) -> pl.DataFrame:
    """Say of each continuation what it has copied from training texts and not from its prompt.

    Args:
        continuations: what the model said, shape (n,).
        prompts: what it was shown; a passage that stands there is no copy of a training text.
        texts: training texts.
        settings: lengths and thresholds.
        model: that embeds sentences; without one no copy in idea is looked for.

    Returns:
        Columns `kind` (one of `KINDS`, or null), `n_characters` and `passage` of the longest
        verbatim passage, `source` (number of its text, null without), `likeness` (of the nearest
        passage), `is_long` (long enough to be a copy), and cosines, null without a sentence model:
        `idea` with the nearest texts, `idea_random` with others at random, `idea_prompt` with the
        prompt.
    """
    index = PassageIndex(texts, settings.n_characters)
    nearest = nearest_texts(continuations, texts, settings.n_candidates)
    likeness = near_scores(continuations, texts, nearest)
    own = near_scores(continuations, prompts, np.arange(len(prompts))[:, None])
    found = [
        index.longest(text, besides=prompt)
        for text, prompt in zip(continuations, prompts, strict=True)
    ]
    long = np.array([len(text) >= settings.n_characters for text in continuations], dtype=bool)
    near = long & (likeness >= settings.near) & (own < settings.near)
    table = pl.DataFrame(
        {
            "n_characters": [len(one.text) for one in found],
            "passage": [one.text or None for one in found],
            "source": [one.source if one.source >= 0 else None for one in found],
            "likeness": likeness,
            "is_near": near,
            "is_long": long,
        },
        schema_overrides={"passage": pl.String, "source": pl.Int64},
    )
    table = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in COSINES)
    if model is not None:
        ideas = find_ideas(model, continuations, prompts, texts, nearest, seed=settings.seed)
        table = table.with_columns(
            pl.Series(name, one, dtype=pl.Float64).fill_nan(None)
            for name, one in zip(COSINES, ideas, strict=True)
        )
    kind = (
        pl.when(pl.col("n_characters") > 0)
        .then(pl.lit("verbatim"))
        .when("is_near")
        .then(pl.lit("near"))
        .when(is_idea("idea", settings.idea))
        .then(pl.lit("idea"))
    )
    return table.select(kind.alias("kind"), pl.exclude("is_near"))


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Continue sequences under every model and look for the continuations in training texts.

    Args:
        inputs: with its model; maps, duplicates and a model before tuning where there are any.
        settings: which rows and what counts as a copy.

    Raises:
        UserError: no tokenizer, no training text, or idea copies without their library or model.
    """
    embed = SentenceModel(settings.sentence_model) if settings.sentence_model is not None else None
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    lm = inputs.model()
    training = _trained(inputs.table)
    texts = _decoded(lm, inputs.table.filter(training)["tokens"].to_list())
    if not texts:
        raise UserError(
            f"analyze copying: {inputs.where} holds no training text (duplicates above 0). "
            "Count them: mnemoscope duplicates."
        )
    prompts = _decoded(lm, [one[: inputs.prefix] for one in rows["tokens"].to_list()])
    look = _Look(prompts, texts, settings, embed)
    frames, models = [], [(OWN, lm), *inputs.other_models()]
    for name, one in models:
        said = _said(inputs, one, rows, name)
        frames.append(look.at(name, rows, said))
        if name == OWN:
            frames.append(look.at(SHUFFLED, rows, _shuffled(said, settings.seed)))
    never = ~_trained(rows)
    if never.any():
        left = rows.filter(never)
        suffixes = _decoded(lm, [one[inputs.prefix :] for one in left["tokens"].to_list()])
        there = look._replace(prompts=pl.Series(prompts, dtype=pl.String).filter(never).to_list())
        frames.append(there.at(SUFFIXES, left, suffixes).with_columns(trained=pl.lit(False)))
    found = pl.concat(frames)
    shares = pl.DataFrame(list(_shares(found)))
    ideas = compare_ideas(found, settings.idea) if embed is not None else None
    attention = _attention(inputs, settings)
    return AnalysisResult(
        sentence=_sentence(shares, settings),
        frames={"shares": shares, "copies": found}
        | ({"ideas": ideas} if ideas is not None else {})
        | ({"attention": attention} if attention is not None else {}),
        figures=tuple(_figures(shares, ideas, attention, settings)),
        further=(
            *_further(shares, found, ideas, attention, len(texts), settings),
            *([] if _is_counted(inputs.table) else [_NOT_COUNTED]),
        ),
        libraries=("rapidfuzz", *(("sentence-transformers",) if embed is not None else ())),
    )


def _is_counted(table: pl.DataFrame) -> bool:
    """Whether it is known of any row how often it stands in training."""
    return "duplicates" in table.columns and table["duplicates"].null_count() < table.height


def _trained(table: pl.DataFrame) -> pl.Series:
    """Which rows the model was trained on: those with duplicates, all where none are counted."""
    if not _is_counted(table):
        return pl.Series([True] * table.height)
    return table["duplicates"].fill_null(0) > 0


def _decoded(lm: "LanguageModel", tokens: list[list[int]]) -> list[str]:
    if lm.tokenizer is None:
        raise UserError(f"analyze copying: {lm.name} has no tokenizer. Give a model with one.")
    return [str(text) for text in lm.tokenizer.batch_decode(tokens)]


def _said(inputs: AnalysisInputs, lm: "LanguageModel", rows: pl.DataFrame, name: str) -> list[str]:
    """Every row's greedy continuation as text; the tokenizer is the study's."""
    decoded = decode_rows(inputs, lm, rows, label=f"Continuing with {name}")
    return _decoded(inputs.model(), decoded["continuation"].to_list())


def _shuffled(texts: list[str], seed: int) -> list[str]:
    """The words of each text in another order."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.permutation(text.split()).tolist()) for text in texts]


class _Look(NamedTuple):
    """Where copies are looked for, and how."""

    prompts: list[str]
    texts: list[str]
    settings: Settings
    embed: SentenceModel | None

    def at(self, model: str, rows: pl.DataFrame, said: list[str]) -> pl.DataFrame:
        """Copies of one model's continuations, with what is known of their rows."""
        with track(f"Looking for copies, {model}", total=len(said)) as progress:
            found = copies(said, self.prompts, self.texts, self.settings, self.embed)
            progress.advance(len(said))
        return found.select(
            rows["sequence_id"],
            pl.lit(model).alias("model"),
            pl.Series("trained", _trained(rows)),
            pl.all(),
        )


def _shares(found: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Share of each kind among the rows trained on and the others, under each model."""
    for model in found["model"].unique(maintain_order=True):
        for trained in (True, False):
            part = found.filter((pl.col("model") == model) & (pl.col("trained") == trained))
            if part.is_empty():
                continue
            for kind in KINDS:
                known = kind != "idea" or part["idea"].null_count() < part.height
                n = int((part["kind"] == kind).sum()) if known else None
                share = share_of(n, part.height) if n is not None else None
                yield {
                    "model": model,
                    "rows": ROWS[trained],
                    "kind": kind,
                    "n": n,
                    "of": part.height,
                    "share": share.value if share else None,
                    "low": share.low if share else None,
                    "high": share.high if share else None,
                }


def _attention(inputs: AnalysisInputs, settings: Settings) -> pl.DataFrame | None:
    """How concentrated attention is where memorized and where not, by layer; None without maps."""
    if inputs.maps is None:
        return None
    memorized = inputs.table.filter(pl.col("is_memorized").is_not_null())
    stored = inputs.maps.index.select("sequence_id", "suffix").unique(
        "sequence_id", keep="first", maintain_order=True
    )
    rows = stored.join(memorized.select("sequence_id", "is_memorized"), on="sequence_id")
    label = rows["is_memorized"].to_numpy()
    if not label.any() or label.all():
        return None
    shapes = _shapes(inputs.maps, rows)
    lines = []
    for measure, number, sign in (("entropy", 0, -1.0), ("Gini", 1, 1.0)):
        for layer in range(shapes.shape[1]):
            values = shapes[:, layer, number]
            flat = separation(
                sign * values, label, seed=settings.seed, n_resamples=settings.n_resamples
            )
            lines.append(
                {"measure": measure, "layer": layer + 1, "n": len(label)}
                | {"memorized": float(values[label].mean())}
                | {"not_memorized": float(values[~label].mean())}
                | {"auc": flat.auc, "low": flat.auc_low, "high": flat.auc_high}
            )
    return pl.DataFrame(lines)


def _shapes(store: "MapStore", rows: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Entropy and Gini coefficient of each map and layer, (n, layers, 2), mean over heads."""
    import torch

    from mnemoscope.maps.dataset import rows_at_once
    from mnemoscope.maps.shape import attention_shape
    from mnemoscope.maps.triangle import unpack_triangle

    maps = store.dataset(rows["sequence_id"].to_numpy(), rows["suffix"].to_list(), "mean")
    parts = []
    for batch in torch.split(torch.arange(len(maps)), rows_at_once(maps)):
        whole = unpack_triangle(maps.read(batch))
        none = torch.zeros(len(whole), *whole.shape[-2:], dtype=torch.bool)
        parts.append(attention_shape(whole, none)[..., :2])
    found: npt.NDArray[np.float64] = torch.cat(parts).numpy()
    return found


def _words(shares: pl.DataFrame, model: str, rows: str) -> str:
    """`verbatim 40.0 % [..], near 2.0 % [..]`; a kind that was not looked for is left out."""
    part = shares.filter(
        (pl.col("model") == model) & (pl.col("rows") == rows) & pl.col("n").is_not_null()
    )
    return ", ".join(
        f"{one['kind']} {share_of(one['n'], one['of'])}" for one in part.iter_rows(named=True)
    )


def _sentence(shares: pl.DataFrame, settings: Settings) -> str:
    known = shares.filter(model=OWN)["rows"].unique(maintain_order=True).to_list()
    return (
        f"Copies from the training texts ({settings.n_characters} characters or more, not in the "
        f"prompt) among the continuations of sequences {known[0]}: {_words(shares, OWN, known[0])}."
    )


def _further(
    shares: pl.DataFrame,
    found: pl.DataFrame,
    ideas: pl.DataFrame | None,
    attention: pl.DataFrame | None,
    n_texts: int,
    settings: Settings,
) -> Iterator[str]:
    for model in shares["model"].unique(maintain_order=True):
        known = shares.filter(model=model)["rows"].unique(maintain_order=True).to_list()
        for rows in known[1:] if model == OWN else known:  # the first is the sentence
            yield f"{model.capitalize()}, {rows}: {_words(shares, model, rows)}."
    own = found.filter(model=OWN)
    n_short = int((~own["is_long"]).sum())
    yield (
        f"{own.height:,} continuations, looked for in the {n_texts:,} training texts that the "
        f"table holds; {n_short:,} are shorter than {settings.n_characters} characters and can be "
        "no copy."
    )
    if ideas is None:
        yield "Idea copies were not looked for: no --set sentence_model=FOLDER."
    else:
        yield from idea_words(ideas.filter(model=OWN), settings.idea)
    if attention is not None:
        parts = [
            f"layer {one['layer']} {one['auc']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
            for one in attention.filter(measure="entropy").iter_rows(named=True)
        ]
        yield (
            "Flat attention (entropy of a row) as a sign of being memorized, ROC AUC: "
            f"{', '.join(parts)}. What is not memorized is shown with the continuation that was "
            "captured, which often loops."
        )


def _figures(
    shares: pl.DataFrame,
    ideas: pl.DataFrame | None,
    attention: pl.DataFrame | None,
    settings: Settings,
) -> Iterator[Chart]:
    """Shares by model and rows, what idea copies are worth, AUC of flat attention by layer."""
    kinds = [kind for kind in KINDS if shares.filter(kind=kind)["n"].null_count() == 0]
    # One control says enough of shuffled words, and the page has six colours.
    shown = shares.filter((pl.col("model") != SHUFFLED) | (pl.col("rows") == ROWS[True]))
    groups = shown.select("model", "rows").unique(maintain_order=True).rows()
    yield Chart(
        title="Continuations that copy training texts, per cent (95 % interval)",
        form="bars",
        x_names=tuple(kinds),
        percent=True,
        series=tuple(
            series_of(f"{model}, {rows}", part, "share")
            for model, rows in groups
            for part in [shares.filter(pl.col("kind").is_in(kinds), model=model, rows=rows)]
        ),
    )
    if ideas is not None:
        yield idea_chart(ideas, groups, settings.idea)
    if attention is None:
        return
    yield Chart(
        title="ROC AUC of flat attention for memorized, by layer (95 % interval; .5: no relation)",
        x_label="layer",
        series=tuple(
            series_of(
                "high entropy" if measure == "entropy" else "low Gini coefficient",
                part,
                "auc",
                x="layer",
            )
            for measure in ("entropy", "Gini")
            for part in [attention.filter(measure=measure)]
        ),
    )
