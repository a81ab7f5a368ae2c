"""What a model copies from its training texts: verbatim, nearly, in idea; and how it attends.

Source: Zeng et al. 2023, "Exploring Memorization in Fine-tuned Language Models", arXiv 2310.06714;
section 5 of the related work. Meant for fine-tuned models, with the model before tuning beside
them; attention is that of the model itself, an adaptation of their cross-attention.
Run it: mnemoscope analyze copying STUDY --second MODEL_BEFORE_TUNING
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.copied_text import PassageIndex, idea_scores, near_scores, nearest_texts
from mnemoscope.analysis.decoding import decode_rows, draw_rows
from mnemoscope.analysis.figures import Chart, series_of
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
        description="A sentence-transformers model for idea copies; null: these stay null.",
    )
    idea: float = Field(
        default=0.8, gt=0, le=1, description="Cosine from which on a text is a copy in idea."
    )
    n_resamples: int = Field(default=200, ge=50, description="Resamples of attention's intervals.")


def copies(
    continuations: Sequence[str], prompts: Sequence[str], texts: Sequence[str], settings: Settings
) -> pl.DataFrame:
    """Say of each continuation what it has copied from training texts and not from its prompt.

    Args:
        continuations: what the model said, shape (n,).
        prompts: what it was shown; a passage that stands there is no copy of a training text.
        texts: training texts.
        settings: lengths and thresholds.

    Returns:
        Columns `kind` (one of `KINDS`, or null), `n_characters` and `passage` of the longest
        verbatim passage, `source` (number of its text, null without), `likeness` (of the nearest
        passage), `idea` (cosine; null without a sentence model).
    """
    index = PassageIndex(texts, settings.n_characters)
    nearest = nearest_texts(continuations, texts, settings.n_candidates)
    likeness = near_scores(continuations, texts, nearest)
    own = near_scores(continuations, prompts, np.arange(len(prompts))[:, None])
    ideas = None
    if settings.sentence_model is not None:
        ideas = idea_scores(settings.sentence_model, continuations, texts, nearest)
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
            "idea": pl.Series(ideas, dtype=pl.Float64)
            if ideas is not None
            else [None] * len(found),
        },
        schema_overrides={"idea": pl.Float64, "passage": pl.String, "source": pl.Int64},
    )
    kind = (
        pl.when(pl.col("n_characters") > 0)
        .then(pl.lit("verbatim"))
        .when("is_near")
        .then(pl.lit("near"))
        .when(pl.col("idea") >= settings.idea)
        .then(pl.lit("idea"))
    )
    return table.select(kind.alias("kind"), pl.exclude("is_near"))


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Continue sequences under every model and look for the continuations in training texts.

    Args:
        inputs: with its model; maps, duplicates and a model before tuning where there are any.
        settings: which rows and what counts as a copy.

    Raises:
        UserError: no tokenizer, no training text, or idea copies without their library.
    """
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
    frames, models = [], [(OWN, lm), *inputs.other_models()]
    for name, one in models:
        said = _said(inputs, one, rows, name)
        frames.append(_of(name, rows, said, prompts, texts, settings))
        if name == OWN:
            shuffled = _shuffled(said, settings.seed)
            frames.append(_of(SHUFFLED, rows, shuffled, prompts, texts, settings))
    found = pl.concat(frames)
    shares = pl.DataFrame(list(_shares(found)))
    attention = _attention(inputs, settings)
    return AnalysisResult(
        sentence=_sentence(shares, settings),
        frames={"shares": shares, "copies": found}
        | ({"attention": attention} if attention is not None else {}),
        figures=tuple(_figures(shares, attention)),
        further=(
            *_further(shares, found, attention, len(texts), settings),
            *([] if _is_counted(inputs.table) else [_NOT_COUNTED]),
        ),
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


def _of(
    model: str,
    rows: pl.DataFrame,
    said: list[str],
    prompts: list[str],
    texts: list[str],
    settings: Settings,
) -> pl.DataFrame:
    """Copies of one model's continuations, with what is known of their rows."""
    with track(f"Looking for copies, {model}", total=len(said)) as progress:
        found = copies(said, prompts, texts, settings)
        progress.advance(len(said))
    return found.select(
        rows["sequence_id"],
        pl.lit(model).alias("model"),
        pl.Series("trained", _trained(rows)),
        pl.Series("is_long", [len(text) >= settings.n_characters for text in said]),
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
                    "rows": "trained on" if trained else "never trained on",
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
        "no verbatim or near copy."
    )
    if settings.sentence_model is None:
        yield "Idea copies were not looked for: no --set sentence_model=FOLDER."
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


def _figures(shares: pl.DataFrame, attention: pl.DataFrame | None) -> Iterator[Chart]:
    """Shares by model and rows, and the AUC of flat attention by layer."""
    kinds = [kind for kind in KINDS if shares.filter(kind=kind)["n"].null_count() == 0]
    groups = shares.select("model", "rows").unique(maintain_order=True).rows()
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
