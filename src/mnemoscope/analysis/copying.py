"""What a model copies from its training texts: verbatim, nearly, in idea; and how it attends.

Source: Zeng et al. 2023, "Exploring Memorization in Fine-tuned Language Models", arXiv 2310.06714;
section 5 of the related work. Meant for fine-tuned models beside the model before tuning; attention
is the model's own, an adaptation of their cross-attention. Controls: the words shuffled, the
suffixes of texts never trained on, texts at random for copies in idea.
Run it: mnemoscope analyze copying STUDY --second MODEL_BEFORE_TUNING
Fine-tuned encoder-decoders and their tasks are asked by `flow/copying_rows.py`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from mnemoscope import Estimate, UserError
from mnemoscope.plugin import (
    OWN,
    AnalysisInputs,
    AnalysisResult,
    AnalysisSettings,
    Chart,
    LanguageModel,
    attention_shape,
    bars_by,
    decode_rows,
    draw_rows,
    frame_of,
    n_groups,
    nearest,
    pip_install,
    ranged,
    rows_of,
    seen_in_training,
    separation,
    series_by,
    share_true,
    track,
)

KINDS = ("verbatim", "near", "idea")
"""Kinds of copies; each continuation has the first that holds."""

COSINES = ("idea", "idea_random", "idea_prompt")
"""Columns of cosines: with the nearest texts, with others at random, with the prompt."""

ROWS = {True: "trained on", False: "never trained on"}
"""Rows by whether the model was trained on them, in words."""

NEAREST, RANDOM = "nearest texts", "texts at random"
PROMPT, EXACT = "as like the prompt: not counted", "verbatim copies that reach it"
COMPARED = (NEAREST, RANDOM, PROMPT, EXACT)
"""What cosines are compared with; the first is the count of copies in idea."""

SHUFFLED = "words shuffled"
SUFFIXES = "the texts' own suffixes"
"""Control: what follows the prompts of rows never trained on, written by no model."""

_ROWS_AT_ONCE = 256
_MODULES_FILE = "modules.json"
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
    by: str | None = Field(
        default=None,
        description="A column of the table, such as genre or a task, by whose values shares are "
        "given too.",
    )
    n_resamples: int = Field(default=200, ge=50, description="Resamples of attention's intervals.")


# -- passages that one text has from others -------------------------------------------------


class Passage(NamedTuple):
    """A passage that stands in the text of this number; empty and -1 where there is none."""

    text: str
    source: int


class PassageIndex:
    """All passages of a given least length in some texts, to be looked up exactly."""

    def __init__(self, texts: Sequence[str], n_characters: int) -> None:
        self._texts, self._n = texts, n_characters
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, text in enumerate(texts):
            for start in range(len(text) - n_characters + 1):
                self._places[text[start : start + n_characters]].append((number, start))

    def longest(self, text: str, besides: str = "") -> Passage:
        """Give the longest passage of a text that stands in the index, but not in `besides`."""
        found = Passage("", -1)
        for passage in self._passages(text):
            if len(passage.text) > len(found.text) and passage.text not in besides:
                found = passage
        return found

    def _passages(self, text: str) -> Iterator[Passage]:
        """Every passage that can be made no longer, each at its beginning."""
        for start in range(len(text) - self._n + 1):
            for number, place in self._places.get(text[start : start + self._n], ()):
                other = self._texts[number]
                if start and place and text[start - 1] == other[place - 1]:
                    continue  # it began earlier
                length = self._n
                most = min(len(text) - start, len(other) - place)
                while length < most and text[start + length] == other[place + length]:
                    length += 1
                yield Passage(text[start : start + length], number)


def nearest_texts(
    texts: Sequence[str], others: Sequence[str], n_nearest: int
) -> npt.NDArray[np.int64]:
    """Numbers of the others nearest to each text by TF-IDF of character 3-grams, (n, n_nearest)."""
    n_nearest = min(n_nearest, len(others))
    found = TfidfVectorizer(analyzer="char", ngram_range=(3, 3), dtype=np.float32)
    try:
        vectors = found.fit_transform(others)
    except ValueError:  # no text of three characters
        return np.tile(np.arange(n_nearest), (len(texts), 1))
    asked = found.transform(texts)
    parts = []
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        block = (asked[start : start + _ROWS_AT_ONCE] @ vectors.T).toarray()
        parts.append(np.argsort(-block, axis=1, kind="stable")[:, :n_nearest])
    return np.concatenate(parts).astype(np.int64)


def near_scores(
    texts: Sequence[str], others: Sequence[str], nearest: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Give the best likeness of each text to a passage of one of its nearest others, shape (n,).

    Likeness is RapidFuzz's partial ratio: insertions and deletions against the passage of equal
    length that fits best, from 0 to 1.
    """
    from rapidfuzz.fuzz import partial_ratio

    return np.array(
        [
            max((partial_ratio(text, others[one]) for one in row), default=0.0) / 100
            for text, row in zip(texts, nearest.tolist(), strict=True)
        ]
    )


def carried_on(prompt: str, n: int) -> str:
    """A prompt, and where its end repeats a period at least twice, `n` characters more of it.

    Of several periods that explains the longest end, of equals the shortest.

    >>> carried_on("see ab-ab-ab", 4)
    'see ab-ab-ab-ab-'
    """

    def repeated(period: int) -> int:
        pairs = zip(reversed(prompt), reversed(prompt[:-period]), strict=False)
        return next((k for k, (one, other) in enumerate(pairs) if one != other), len(prompt))

    periods = [one for one in range(1, len(prompt) // 2 + 1) if repeated(one) >= one]
    if not periods:
        return prompt
    period = max(periods, key=lambda one: (one + repeated(one), -one))
    return prompt + (prompt[-period:] * (n // period + 1))[:n]


# -- copies in idea -------------------------------------------------------------------------


class SentenceModel:
    """A sentence-transformers model that encodes each text once; UserError: it cannot be loaded."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                "analyze copying: idea copies need sentence-transformers: "
                f"{pip_install('sentences')}, or leave sentence_model out."
            ) from None
        # The library takes any other folder too, a causal model's say, and pools it by the mean.
        if Path(name).is_dir() and not (Path(name) / _MODULES_FILE).is_file():
            raise UserError(
                f"analyze copying: sentence_model {name}: no {_MODULES_FILE}, so it is no "
                "sentence-transformers model. Give a folder that holds one."
            )
        try:
            self._model = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"analyze copying: sentence_model {name}: {reason}. Give a folder that holds one."
            ) from None
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Give the embedding of each text, of length 1; shape (n, size)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            found = np.asarray(self._model.encode(new, normalize_embeddings=True), np.float32)
            self._vectors |= dict(zip(new, found, strict=True))
        return np.stack([self._vectors[text] for text in texts])


def find_ideas(
    model: SentenceModel,
    continuations: Sequence[str],
    prompts: Sequence[str],
    texts: Sequence[str],
    nearest: npt.NDArray[np.int64],
    *,
    seed: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """Give `COSINES`, (n,): the best with the nearest texts, others at random, and the prompt.

    The others are as many as are nearest, or all that are left (NaN where none is), and none of
    the nearest.
    """
    generator = np.random.default_rng(seed)
    everything = np.arange(len(texts))
    n = min(nearest.shape[1], len(texts) - nearest.shape[1])
    drawn = np.array(
        [generator.choice(np.delete(everything, row), n, replace=False) for row in nearest],
        dtype=np.int64,
    ).reshape(len(nearest), n)
    own = np.arange(len(prompts))[:, None]
    compared = ((texts, nearest), (texts, drawn), (prompts, own))
    found = (best_cosines(model, continuations, *one) for one in compared)
    return dict(zip(COSINES, found, strict=True))


def best_cosines(
    model: SentenceModel, texts: Sequence[str], others: Sequence[str], places: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Give the best cosine of each text's embedding with those of some others, shape (n,).

    `places`, (n, k), says which of the others to compare with; NaN where k is 0.
    """
    if not places.size:
        return np.full(len(texts), np.nan)
    first, second = model.encode(texts), model.encode(others)
    found: npt.NDArray[np.float64] = np.array(
        [(second[row] @ one).max() for one, row in zip(first, places, strict=True)], dtype=float
    )
    return found


def is_idea(column: str, least: float) -> pl.Expr:
    """Say which continuations are copies in idea: long, like a text, and not as like their prompt.

    The cosines, one of `COSINES`, count from `least` on.
    """
    return pl.col("is_long") & (pl.col(column) >= least) & (pl.col("idea_prompt") < least)


def compare_ideas(inputs: AnalysisInputs, found: pl.DataFrame, least: float) -> pl.DataFrame:
    """Set the copies in idea beside what texts at random, the prompt and exact copies give.

    From columns `sequence_id`, `model`, `trained` and those of `copies`, with a sentence model; a
    text is a copy in idea from cosine `least` on. Gives a row for each model, rows and `compared`
    (one of `COMPARED`): `n` of `of`, which are `n_groups` of near duplicates, with `share`, `low`,
    `high`; `median`, of the cosines of all that are long enough.
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
    for model, trained, part in _sides(found):
        for compared, (column, rule, whole) in rules.items():
            rows = part.filter(whole).with_columns(so=rule.fill_null(False))
            near = inputs.near_duplicates(rows["sequence_id"])
            lines.append(
                {"model": model, "rows": ROWS[trained], "compared": compared}
                | {"n": int(rows["so"].sum()), "of": rows.height, "n_groups": n_groups(near)}
                | {"share": share_true(rows["so"], near)}
                | {"median": rows.filter("is_long")[column].median()}
            )
    return frame_of(lines).with_columns(pl.col("median").cast(pl.Float64))


def _sides(found: pl.DataFrame) -> Iterator[tuple[str, bool, pl.DataFrame]]:
    """The rows of each model, those trained on first."""
    for (model,), part in found.group_by("model", maintain_order=True):
        for trained in ROWS:
            rows = part.filter(trained=trained)
            if rows.height:
                yield str(model), trained, rows


# -- the analysis ---------------------------------------------------------------------------


def copies(
    continuations: Sequence[str],
    prompts: Sequence[str],
    texts: Sequence[str],
    settings: Settings,
    model: SentenceModel | None = None,
) -> pl.DataFrame:
    """Say of each continuation what it has copied from training texts and not from its prompt.

    Gives `kind` (one of `KINDS`, or null), `n_characters` and `passage` of the longest verbatim
    passage, `source` (number of its text, null without), `likeness` (of the nearest passage),
    `is_long` (long enough to be a copy), and `COSINES`, null without a sentence model.
    """
    index = PassageIndex(texts, settings.n_characters)
    nearest = nearest_texts(continuations, texts, settings.n_candidates)
    likeness = near_scores(continuations, texts, nearest)
    # A period that goes on stands in the prompt in another phase: that is no copy of a text.
    given = [carried_on(*one) for one in zip(prompts, map(len, continuations), strict=True)]
    own = near_scores(continuations, given, np.arange(len(given))[:, None])
    found = [
        index.longest(text, besides=one) for text, one in zip(continuations, given, strict=True)
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
    ideas: Mapping[str, Any] = dict.fromkeys(COSINES, [None] * table.height)
    if model is not None:
        ideas = find_ideas(model, continuations, prompts, texts, nearest, seed=settings.seed)
    table = table.with_columns(
        pl.Series(name, one, dtype=pl.Float64).fill_nan(None) for name, one in ideas.items()
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


def forwards(inputs: AnalysisInputs, settings: Settings) -> int:
    """Every model continues the sequences."""
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    return (1 + len(inputs.others)) * rows.height


def analyse(inputs: AnalysisInputs, settings: Settings) -> AnalysisResult:
    """Continue sequences under every model and look for the continuations in training texts.

    Raises UserError: no tokenizer, no training text, or idea copies without their library or model.
    """
    embed = SentenceModel(settings.sentence_model) if settings.sentence_model is not None else None
    if settings.by is not None and settings.by not in inputs.table.columns:
        raise UserError(
            f"analyze copying, by: the table has no column '{settings.by}'."
            f"{nearest(settings.by, inputs.table.columns)} Give the study's table one, or leave "
            "it out."
        )
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    lm, half = inputs.model(), inputs.prefix
    texts = _decoded(lm, inputs.table.filter(_trained(inputs.table))["tokens"].to_list())
    if not texts:
        raise UserError(
            f"analyze copying: {inputs.where} holds no training text (duplicates above 0). "
            "Count them: mnemoscope data duplicates."
        )

    def search(model: str, of: pl.DataFrame, said: list[str]) -> pl.DataFrame:
        """Copies of one model's continuations, with what is known of their rows."""
        prompts = _decoded(lm, [one[:half] for one in of["tokens"].to_list()])
        with track(f"Looking for copies, {model}", total=len(said)) as progress:
            copied = copies(said, prompts, texts, settings, embed)
            progress.advance(len(said))
        named, trained = pl.lit(model).alias("model"), _trained(of).alias("trained")
        return copied.select(of["sequence_id"], named, trained, pl.all())

    frames = []
    for name, one in inputs.models():
        written = decode_rows(inputs, one, rows, label=f"Continuing with {name}")
        said = _decoded(lm, written["continuation"].to_list())
        frames.append(search(name, rows, said))
        if name == OWN:
            generator = np.random.default_rng(settings.seed)
            mixed = [" ".join(generator.permutation(text.split()).tolist()) for text in said]
            frames.append(search(SHUFFLED, rows, mixed))
    left = rows.filter(~_trained(rows))
    if left.height:
        suffixes = _decoded(lm, [one[half:] for one in left["tokens"].to_list()])
        frames.append(search(SUFFIXES, left, suffixes).with_columns(trained=pl.lit(False)))
    found = pl.concat(frames)
    shares = _shares(inputs, found)
    ideas = compare_ideas(inputs, found, settings.idea) if embed is not None else None
    attention = _attention(inputs, settings)
    by_value = None if settings.by is None else _by_value(inputs, found, settings.by)
    tables = {"shares": shares, "copies": found, "ideas": ideas, "attention": attention}
    tables["by_value"] = by_value
    return AnalysisResult(
        sentence=_sentence(shares, settings),
        frames={name: table for name, table in tables.items() if table is not None},
        figures=(
            *_figures(shares, ideas, attention, settings),
            *(() if by_value is None else (_by_value_chart(by_value, str(settings.by)),)),
        ),
        further=(
            *_further(shares, found, ideas, attention, len(texts), settings),
            *([] if seen_in_training(inputs.table).count() else [_NOT_COUNTED]),
        ),
        libraries=("rapidfuzz", *(("sentence-transformers",) if embed is not None else ())),
    )


def _trained(table: pl.DataFrame) -> pl.Series:
    """Which rows the model was trained on: those with duplicates, all where none are counted."""
    seen = seen_in_training(table)
    return seen.fill_null(not seen.count())


def _decoded(lm: LanguageModel, tokens: list[list[int]]) -> list[str]:
    if lm.tokenizer is None:
        raise UserError(f"analyze copying: {lm.name} has no tokenizer. Give a model with one.")
    return [str(text) for text in lm.tokenizer.batch_decode(tokens)]


def _shares(inputs: AnalysisInputs, found: pl.DataFrame) -> pl.DataFrame:
    """Share of each kind among the rows trained on and the others, under each model."""
    lines = []
    for model, trained, part in _sides(found):
        near = inputs.near_duplicates(part["sequence_id"])
        for kind in KINDS:
            is_asked = kind != "idea" or part["idea"].null_count() < part.height
            is_kind = part["kind"] == kind
            n = int(is_kind.sum()) if is_asked else None
            share = Estimate(None) if n is None else share_true(is_kind, near)
            about = {"model": model, "rows": ROWS[trained], "kind": kind}
            of = {"n": n, "of": part.height, "n_groups": n_groups(near)}
            lines.append({**about, **of, "share": share})
    return frame_of(lines)


def _by_value(inputs: AnalysisInputs, found: pl.DataFrame, by: str) -> pl.DataFrame:
    """As `_shares`, of the rows of each value of a column; rows without one are left out."""
    value = pl.col(by).cast(pl.String).alias("value")
    named = found.join(inputs.table.select("sequence_id", value), on="sequence_id", how="left")
    parts = [
        _shares(inputs, named.filter(value=one)).with_columns(value=pl.lit(one))
        for one in named["value"].drop_nulls().unique().sort()
    ]
    if not parts:
        raise UserError(f"analyze copying, by: no sequence has a value of '{by}'. Leave it out.")
    return pl.concat(parts).select("value", pl.exclude("value"))


def _by_value_chart(by_value: pl.DataFrame, by: str) -> Chart:
    """Verbatim copies of what was trained on, by value, a row of bars a model."""
    chosen = by_value.filter(pl.col("model") != SHUFFLED, kind="verbatim")
    rows = chosen["rows"][0]
    title = f"Verbatim copies by {by}, continuations of sequences {rows}, per cent (95 % interval)"
    return bars_by(title, chosen.filter(rows=rows), "model", "share", at="value", percent=True)


def _attention(inputs: AnalysisInputs, settings: Settings) -> pl.DataFrame | None:
    """How concentrated attention is where memorized and where not, by layer; None without maps.

    Of the reference too where its maps are stored: it reads the same and remembers none of it.
    """
    stored = inputs.captured()
    if stored is None:
        return None
    memorized = inputs.table.filter(pl.col("is_memorized").is_not_null())
    memorized = memorized.select("sequence_id", "is_memorized")
    rows = stored.join(memorized, on="sequence_id", maintain_order="right")
    label = rows["is_memorized"].to_numpy()
    maps = {OWN: inputs.stored_maps(rows)}
    maps |= {one.name: inputs.stored_maps(rows, of_reference=True) for one in inputs.others[:1]}
    if not label.any() or label.all() or maps[OWN] is None:
        return None
    shapes = {name: _shapes(one) for name, one in maps.items() if one is not None}
    near = inputs.near_duplicates(rows["sequence_id"])
    asked = settings.model_dump(include={"seed", "n_resamples"})
    lines = []
    for (measure, number, sign), (model, shape) in product(
        (("entropy", 0, -1.0), ("Gini", 1, 1.0)), shapes.items()
    ):
        for layer in range(shape.shape[1]):
            values = shape[:, layer, number]
            auc = separation(sign * values, label, groups=near, **asked).auc
            lines.append(
                {"measure": measure, "model": model, "layer": layer, "n": len(label)}
                | {"n_groups": n_groups(near), "memorized": float(values[label].mean())}
                | {"not_memorized": float(values[~label].mean()), "auc": auc}
            )
    return frame_of(lines)


def _shapes(maps: Iterator[Tensor]) -> npt.NDArray[np.float64]:
    """Entropy and Gini coefficient of each map and layer, (n, layers, 2), mean over heads."""
    parts = []
    for whole in maps:
        none = torch.zeros(len(whole), *whole.shape[-2:], dtype=torch.bool)
        parts.append(attention_shape(whole, none)[..., :2])
    return np.asarray(torch.cat(parts).numpy())


# -- words and figures ----------------------------------------------------------------------


def _words(shares: pl.DataFrame, model: str, rows: str) -> str:
    """`verbatim 40.0 % [..], near 2.0 % [..]`; a kind that was not looked for is left out."""
    part = shares.filter(model=model, rows=rows).drop_nulls("n")
    return ", ".join(f"{one['kind']} {one['share']}" for one in rows_of(part))


def _sentence(shares: pl.DataFrame, settings: Settings) -> str:
    known = shares.filter(model=OWN)["rows"][0]
    return (
        f"Copies from the training texts ({settings.n_characters} characters or more, not in the "
        f"prompt) among the continuations of sequences {known}: {_words(shares, OWN, known)}."
    )


def _further(
    shares: pl.DataFrame,
    found: pl.DataFrame,
    ideas: pl.DataFrame | None,
    attention: pl.DataFrame | None,
    n_texts: int,
    settings: Settings,
) -> Iterator[str]:
    for model, rows in shares.select("model", "rows").unique(maintain_order=True).rows()[1:]:
        yield f"{rows.capitalize()}, {model}: {_words(shares, model, rows)}."
    own = found.filter(model=OWN)
    n_short = int((~own["is_long"]).sum())
    yield (
        f"{own.height:,} continuations, looked for in the {n_texts:,} training texts that the "
        f"table holds; {n_short:,} are shorter than {settings.n_characters} characters and can be "
        "no copy."
    )
    if ideas is None:
        yield "Idea copies were not looked for: no sentence_model is set."
    else:
        yield from idea_words(ideas.filter(model=OWN), settings.idea)
    if attention is not None:
        said = []
        for (model,), part in attention.filter(measure="entropy").group_by(
            "model", maintain_order=True
        ):
            each = (f"layer {row['layer']} {ranged(row['auc'], digits=3)}" for row in rows_of(part))
            said.append(f"{model}: {', '.join(each)}")
        yield (
            "Flat attention (entropy of a row) as a sign of being memorized, ROC AUC, of "
            f"{'; of '.join(said)}. What is not memorized is shown with the continuation that was "
            "captured, which often loops."
        )


def idea_words(ideas: pl.DataFrame, least: float) -> Iterator[str]:
    """Say what the count of copies in idea is worth, of one model from `compare_ideas`."""
    for (rows,), part in ideas.group_by("rows", maintain_order=True):
        by = {one["compared"]: one for one in rows_of(part)}
        said = {name: one["share"] for name, one in by.items()}
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


def _figures(
    shares: pl.DataFrame,
    ideas: pl.DataFrame | None,
    attention: pl.DataFrame | None,
    settings: Settings,
) -> Iterator[Chart]:
    kinds = [kind for kind in KINDS if shares.filter(kind=kind)["n"].null_count() == 0]
    # One control says enough of shuffled words, and the page has six colours.
    is_shown = (pl.col("model") != SHUFFLED) | (pl.col("rows") == ROWS[True])
    by = ("model", "rows")
    title = "Continuations that copy training texts, per cent (95 % interval)"
    shown = shares.filter(is_shown, pl.col("kind").is_in(kinds))
    yield bars_by(title, shown, by, "share", at="kind", percent=True)
    if ideas is not None:
        title = f"Continuations with a cosine of {settings.idea:g} or more"
        title += ", per cent (95 % interval)"
        compared = ideas.filter(is_shown, pl.col("compared") != EXACT)
        yield bars_by(title, compared, by, "share", at="compared", percent=True)
    if attention is not None:
        names = {"entropy": "high entropy", "Gini": "low Gini coefficient"}
        by_layer = attention.with_columns(pl.col("measure").replace(names))
        yield Chart(
            title="ROC AUC of flat attention for memorized, by layer (95 % interval; .5: no "
            "relation)",
            x_label="layer",
            series=series_by(by_layer, ("measure", "model"), "auc", x="layer"),
        )
