"""Which answers of a fine-tuned encoder-decoder are memory, by task, and how it attends there.

Source: Zeng et al. 2023, "Exploring Memorization in Fine-tuned Language Models", arXiv 2310.06714:
how much is memorized differs between tasks, and where it is much attention is flatter. An answer is
memory where it has a passage of a training text that its input has not; what it has from its input
is none. Controls: rows never trained on, the model before it was fitted, targets swapped.
Run it: mnemoscope analyze copying MODEL --rows TABLE --second MODEL_BEFORE_FITTING
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.copying import Passage, PassageIndex, carried_on
from mnemoscope.analysis.figures import Chart, bars_by, series_by
from mnemoscope.analysis.inputs import OWN, AnalysisInputs, AnalysisResult, AnalysisSettings
from mnemoscope.analysis.rows import draw_rows, seen_in_training
from mnemoscope.data.rows import rows_with
from mnemoscope.data.table import token_matrix, whole_mask, with_tokens
from mnemoscope.errors import UserError
from mnemoscope.library.membership import documents_of
from mnemoscope.lm.classifier import encode
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.seq2seq import SHAPES, Answered, answer
from mnemoscope.progress import say, track
from mnemoscope.stats import (
    Estimate,
    difference_of,
    draw_within,
    estimate_of,
    frame_of,
    n_groups,
    resampled_means,
    rows_of,
    share_true,
)
from mnemoscope.taxonomy.groups import other_rows
from mnemoscope.words import ranged

OWN_TARGET, OTHER_TEXT, FROM_INPUT = "own target", "another text", "from the input"
MEMORIZED = "memorized"
KINDS = (MEMORIZED, OWN_TARGET, OTHER_TEXT, FROM_INPUT)
"""Shares that are given; memorized are the two after it, and an answer has one of the last three
or none."""

ROWS = {True: "trained on", False: "never trained on"}
"""Rows by whether the model was trained on them, in words."""

SWAPPED = "targets swapped"
"""Control: each answer of this model beside the target of another row of its task."""

ANSWERS = ("all", MEMORIZED, "not memorized")
"""Answers whose attention is summed up, of rows trained on."""

PARTS = ("encoder", "cross-attention")
ALL_TASKS = "all"

_RESAMPLES = 1000
_NOT_COUNTED = (
    "The table does not say which rows were trained on (column duplicates, 0 for never), so all "
    "count as trained on, and what the model can answer without having read it is not known."
)

_Floats = npt.NDArray[np.float64]
_Parts = dict[tuple[str, str], npt.NDArray[np.bool_]]


class RowSettings(AnalysisSettings):
    """Settings of `copying` on a fitted encoder-decoder's rows."""

    n_sequences: int | None = Field(
        default=2000, ge=10, description="Rows that are answered, drawn by the seed; null: all."
    )
    n_characters: int = Field(
        default=50, ge=8, description="Characters that a verbatim copy needs at least."
    )
    n_tokens: int = Field(default=100, ge=1, description="Most tokens of an answer.")


# -- rows and their answers -----------------------------------------------------------------


def pairs_of(
    model: LanguageModel, rows: Any, columns: Mapping[str, str]
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Rows with tokens of their input and their group; and the columns that they came with.

    `input` and `target` are as the tokenizer gives them back, so that answers can be compared;
    `trained` is by `duplicates`, true where these are not counted.
    """
    needs = {name: f"a text in {name}" for name in ("input", "target")}
    found = rows_with(rows, columns, needs)
    table, given = found.frame, tuple(found.frame.columns)
    encoded = encode(model, table["input"].cast(pl.String).to_list())
    if encoded.n_cut:
        say(f"{encoded.n_cut:,} inputs are longer than the model's positions and are cut.")
    table = with_tokens(table, encoded.tokens, encoded.mask)
    targets = model.tokenizer(text_target=table["target"].cast(pl.String).to_list(), verbose=False)
    seen = seen_in_training(table)
    task = pl.lit(ALL_TASKS) if "task" not in given else pl.col("task").cast(pl.String)
    table = table.with_columns(
        pl.Series("input", _texts(model, encoded.tokens, encoded.mask), dtype=pl.String),
        pl.Series("target", model.tokenizer.batch_decode(targets["input_ids"], **_PLAIN)),
        task.fill_null("no task").alias("task"),
        seen.fill_null(not seen.count()).alias("trained"),
        pl.Series("near_duplicates", documents_of(table)),
    )
    if not table["trained"].any():
        raise UserError(
            f"{found.where}: no row was trained on (duplicates above 0), so nothing can be memory. "
            "Add the rows that the model was fitted to."
        )
    return table, given


_PLAIN = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


def _texts(lm: LanguageModel, tokens: npt.ArrayLike, mask: npt.ArrayLike) -> list[str]:
    """Texts of tokens (n, T) where the mask is 1, without special tokens."""
    kept = [
        row[shown.astype(bool)].tolist()
        for row, shown in zip(np.asarray(tokens), np.asarray(mask), strict=True)
    ]
    return [str(one) for one in lm.tokenizer.batch_decode(kept, **_PLAIN)]


def unlike(text: str, given: str, n: int) -> list[str]:
    """The pieces of a text outside all stretches of `n` characters or more that `given` has too.

    >>> unlike("from the input, then from memory", "taken from the input", 8)
    [', then from memory']
    """
    covered = np.zeros(len(text), dtype=bool)
    for start in range(len(text) - n + 1):
        if text[start : start + n] in given:
            covered[start : start + n] = True
    runs = groupby(range(len(text)), key=covered.tolist().__getitem__)
    return ["".join(text[one] for one in run) for is_given, run in runs if not is_given]


def find_copies(
    answers: Sequence[str], rows: pl.DataFrame, texts: Sequence[str], n_characters: int
) -> pl.DataFrame:
    """Say of each answer to rows (`input`, `target`, `trained`) what it has copied.

    Stretches of half of `n_characters` that the input has too, or that carry on its period, are no
    memory and are taken out before a passage is looked for; `texts` are those trained on. Gives
    `kind` (`OWN_TARGET`, `OTHER_TEXT`, `FROM_INPUT` or null), `passage`, `n_characters` of it, and
    `source`, the number of the other text. The own target of a row never trained on counts as
    another text where a training text has the passage too.
    """
    given = [carried_on(one, len(text)) for one, text in zip(rows["input"], answers, strict=True)]
    pieces = [unlike(*one, n_characters // 2) for one in zip(answers, given, strict=True)]
    # An index of all texts takes some hundred bytes a character, so only those that share some.
    said = {gram for some in pieces for piece in some for gram in _grams(piece, n_characters)}
    shared = [
        number
        for number, text in enumerate(texts)
        if not said.isdisjoint(_grams(text, n_characters))
    ]
    index, lines = PassageIndex([texts[one] for one in shared], n_characters), []
    for number, row in enumerate(rows.iter_rows(named=True)):
        own = _longest(PassageIndex([row["target"]], n_characters), pieces[number])
        other = _longest(index, pieces[number])
        kind, passage = OTHER_TEXT, other.text
        source = shared[other.source] if other.text else None
        if own.text and (row["trained"] or not other.text):
            kind, passage, source = OWN_TARGET, own.text, None
        elif not other.text:
            copied = PassageIndex([given[number]], n_characters).longest(answers[number])
            kind, passage = FROM_INPUT, copied.text
        lines.append((kind if passage else None, passage or None, source))
    table = pl.DataFrame(
        lines, schema={"kind": pl.String, "passage": pl.String, "source": pl.Int64}, orient="row"
    )
    return table.with_columns(n_characters=pl.col("passage").str.len_chars().fill_null(0))


def _grams(text: str, n: int) -> Iterator[str]:
    return (text[start : start + n] for start in range(len(text) - n + 1))


def _longest(index: PassageIndex, pieces: Sequence[str]) -> Passage:
    found = (index.longest(one) for one in pieces)
    return max(found, key=lambda one: len(one.text), default=Passage("", -1))


def _swapped(rows: pl.DataFrame, near: npt.NDArray[np.int64], seed: int) -> pl.DataFrame:
    """Rows with the target of another, of the same task, and trained on alike or not."""
    places = np.arange(rows.height)
    for part in rows.with_row_index("row").partition_by("task", "trained"):
        own = part["row"].to_numpy()
        places[own] = own[other_rows(near[own], 1, seed=seed)[0]]
    theirs = rows.select("sequence_id", "target")[places]
    return rows.with_columns(*theirs, trained=pl.lit(True))


# -- the analysis ---------------------------------------------------------------------------


def forwards(inputs: AnalysisInputs, settings: RowSettings) -> int:
    """Every model answers the rows."""
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    return (1 + len(inputs.others)) * rows.height


def analyse(inputs: AnalysisInputs, settings: RowSettings) -> AnalysisResult:
    """Have every model answer the rows, look for copies in its answers, and sum up its attention.

    The last of the other models is the network before it was fitted.
    """
    rows = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    near, n = inputs.near_duplicates(rows["sequence_id"]), settings.n_characters
    read = inputs.table.filter("trained")
    # Targets first: a passage that stands in several has the first as its source.
    texts = [*read["target"], *read["input"]]
    ids = pl.concat([read["sequence_id"]] * 2)
    known = rows.select("sequence_id", "task", "trained")

    def search(name: str, said: list[str], of: pl.DataFrame, texts: list[str]) -> pl.DataFrame:
        copied = find_copies(said, of, texts, n)
        other = pl.Series(ids.to_numpy()[copied["source"].fill_null(0)])
        own = pl.when(pl.col("kind") == OWN_TARGET).then(of["sequence_id"])
        source = own.when(pl.col("source").is_not_null()).then(other)
        copied = copied.with_columns(source=source)
        about = known.with_columns(model=pl.lit(name), answer=pl.Series(said, dtype=pl.String))
        return pl.concat([about, copied], how="horizontal")

    frames, shapes = [], {}
    for name, lm in inputs.models():
        asked = _asked(inputs, lm, rows, settings.n_tokens, name)
        said = _texts(lm, asked.tokens, asked.mask)
        frames.append(search(name, said, rows, texts))
        shapes[name] = asked
        if name == OWN:
            swapped = _swapped(rows, near, settings.seed)
            frames.append(search(SWAPPED, said, swapped, []))
    first = ["sequence_id", "task", "trained", "model"]
    found = pl.concat(frames).select(*first, pl.exclude(first))
    shares, disparity = _shares(found, near), _disparity(found, near)
    of_rows = _parts(found.filter(model=OWN))
    attention = _attention(shapes, of_rows, near)
    differences = _attention_differences(shapes, of_rows, near)
    return AnalysisResult(
        sentence=_sentence(shares, settings),
        frames={"rows": found, "shares": shares, "disparity": disparity}
        | {"attention": attention, "attention_differences": differences},
        figures=tuple(_figures(shares, attention)),
        further=(
            *_further(found, rows, shares, disparity, settings),
            *_attention_words(attention, differences),
            *([] if seen_in_training(inputs.table).count() else [_NOT_COUNTED]),
        ),
    )


def _asked(
    inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame, most: int, name: str
) -> Answered:
    """Answers to the rows, those of one length together, in the order of the rows."""
    tokens, mask = token_matrix(rows), whole_mask(rows)
    mask = np.ones_like(tokens) if mask is None else mask
    order = np.argsort(mask.sum(axis=1), kind="stable")
    parts = []
    with track(f"Answers of {name}", total=rows.height, unit="rows") as progress:
        for some in np.array_split(order, max(1, len(order) // (4 * inputs.batch_size))):
            asked = {"most": most, "batch_size": inputs.batch_size}
            parts.append(answer(lm, tokens[some], mask[some], **asked))
            progress.advance(len(some))
    back = np.argsort(order)
    return Answered(*(np.concatenate(one)[back] for one in zip(*parts, strict=True)))


def _is_kind(part: pl.DataFrame, kind: str) -> npt.NDArray[np.bool_]:
    kinds = (OWN_TARGET, OTHER_TEXT) if kind == MEMORIZED else (kind,)
    return part["kind"].is_in(kinds).fill_null(False).to_numpy()


def _shares(found: pl.DataFrame, near: npt.NDArray[np.int64]) -> pl.DataFrame:
    """Share of each kind by model, task, and whether the rows were trained on."""
    lines = []
    for (model, task, trained), part, groups in _cut(found, near):
        for kind in KINDS[:2] if model == SWAPPED else KINDS:
            is_kind = _is_kind(part, kind)
            lines.append(
                {"model": model, "task": task, "rows": ROWS[trained], "kind": kind}
                | {"n": int(is_kind.sum()), "of": part.height, "n_groups": n_groups(groups)}
                | {"share": share_true(is_kind, groups)}
            )
    return frame_of(lines)


def _cut(
    found: pl.DataFrame, near: npt.NDArray[np.int64]
) -> Iterator[tuple[tuple[str, str, bool], pl.DataFrame, npt.NDArray[np.int64]]]:
    """Rows of each model and task, those trained on first, with their groups."""
    groups = pl.Series("group", np.tile(near, found.height // len(near)))
    whole = found.with_columns(groups)
    for model in found["model"].unique(maintain_order=True):
        for task in sorted(found["task"].unique()):
            for trained in ROWS:
                part = whole.filter(model=model, task=task, trained=trained)
                if part.height:
                    yield (model, task, trained), part, part["group"].to_numpy()


def _disparity(found: pl.DataFrame, near: npt.NDArray[np.int64]) -> pl.DataFrame:
    """Share of memorized answers in one task less that in another; intervals hold for all pairs.

    Of tasks without a common group from the shares' own intervals, else by resampling groups.
    """
    cut = {key: (_is_kind(part, MEMORIZED), groups) for key, part, groups in _cut(found, near)}
    pairs = [*combinations(sorted(found["task"].unique()), 2)]
    lines = []
    for model, trained in dict.fromkeys((model, trained) for model, _, trained in cut):
        for first, second in pairs:
            keys = [(model, task, trained) for task in (first, second)]
            if not all(key in cut for key in keys):
                continue
            (one, own), (other, beside) = (cut[key] for key in keys)
            here, there = (share_true(*cut[key], n_judged=len(pairs)) for key in keys)
            difference = difference_of(here, there)
            if len(np.intersect1d(own, beside)) and not {0.0, 1.0} & {here.value, there.value}:
                columns = np.concatenate([one, other]).astype(np.float64)[:, None]
                (difference,) = _differences(columns, len(one), (own, beside), len(pairs))
            lines.append(
                {"model": model, "rows": ROWS[trained], "first": first, "second": second}
                | {"difference": difference}
            )
    return frame_of(lines)


def _differences(
    columns: _Floats, n_first: int, groups: Sequence[npt.NDArray[np.int64]], n_judged: int = 1
) -> list[Estimate]:
    """Mean of the first rows less that of the others, of each column (n, k), by resampled groups.

    A group that lies in both is drawn once for both.
    """
    side = np.arange(len(columns)) >= n_first
    rng, many = np.random.default_rng(0), _RESAMPLES * n_judged
    drawn = draw_within(side, rng, many, groups=np.concatenate(groups)).astype(np.float64)
    drawn = np.concatenate([np.ones((1, len(side))), drawn])
    first, second = (
        drawn[:, one] @ columns[one] / drawn[:, one].sum(axis=1, keepdims=True)
        for one in (~side, side)
    )
    return [estimate_of(float(one[0]), one[1:], 0.025 / n_judged) for one in (first - second).T]


# -- attention ------------------------------------------------------------------------------


def _parts(own: pl.DataFrame) -> _Parts:
    """Rows trained on of each task, and of these what this model has memorized and what not."""
    memorized, trained = _is_kind(own, MEMORIZED), own["trained"].to_numpy()
    parts: _Parts = {}
    for task in sorted(own["task"].unique()):
        rows = (own["task"] == task).to_numpy() & trained
        each = (rows, rows & memorized, rows & ~memorized)
        parts |= {(task, which): one for which, one in zip(ANSWERS, each, strict=True)}
    return parts


def _columns(asked: Answered) -> tuple[list[dict[str, object]], _Floats]:
    """What stands in each column of the shapes (n, k), and the shapes."""
    of: list[dict[str, object]] = [
        {"part": part, "layer": layer, "measure": measure}
        for part, values in zip(PARTS, (asked.encoder, asked.cross), strict=True)
        for layer in range(1, values.shape[1] + 1)
        for measure in SHAPES
    ]
    flat = [one.reshape(len(one), -1) for one in (asked.encoder, asked.cross)]
    return of, np.concatenate(flat, axis=1)


def _attention(
    shapes: Mapping[str, Answered],
    parts: _Parts,
    near: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Mean shape of each part of the rows under each model, by layer."""
    lines = []
    for model, asked in shapes.items():
        of, columns = _columns(asked)
        for (task, which), rows in parts.items():
            means = resampled_means(columns[rows], near[rows])
            about: dict[str, object] = {"model": model, "task": task, "answers": which}
            counts = {"n": int(rows.sum()), "n_groups": n_groups(near[rows])}
            lines += [
                about | one | counts | {"mean": mean}
                for one, mean in zip(of, means, strict=True)
                if rows.any()
            ]
    return frame_of(lines)


def _attention_differences(
    shapes: Mapping[str, Answered],
    parts: _Parts,
    near: npt.NDArray[np.int64],
) -> pl.DataFrame:
    """Shape in one task less that in another, and of what is memorized less that of what is not."""
    tasks = [*dict.fromkeys(task for task, _ in parts)]
    every, yes, no = ANSWERS
    pairs = [((one, every), (other, every)) for one, other in combinations(tasks, 2)]
    pairs += [((task, yes), (task, no)) for task in tasks]
    lines = []
    for model, asked in shapes.items():
        of, columns = _columns(asked)
        for first, second in pairs:
            one, other = parts[first], parts[second]
            if not (one.any() and other.any()):
                continue
            both = np.concatenate([columns[one], columns[other]])
            made = _differences(both, int(one.sum()), (near[one], near[other]))
            sides: dict[str, object] = {
                "model": model,
                "first": _named(*first),
                "second": _named(*second),
            }
            lines += [
                sides | about | {"difference": value} for about, value in zip(of, made, strict=True)
            ]
    return frame_of(lines)


def _named(task: str, which: str) -> str:
    return task if which == ANSWERS[0] else f"{task}, {which}"


# -- words and figures ----------------------------------------------------------------------


def _said(shares: pl.DataFrame, kind: str, **of: Any) -> str:
    """`story 40.0 % [..], extract 0.0 % [..]`."""
    part = rows_of(shares.filter(kind=kind, **of))
    return ", ".join(f"{one['task']} {one['share']}" for one in part)


def _sentence(shares: pl.DataFrame, settings: RowSettings) -> str:
    said = _said(shares, MEMORIZED, model=OWN, rows=ROWS[True])
    return (
        f"Memorized ({settings.n_characters} characters or more of the row's own target or of "
        f"another training text, not in the input) among answers to rows trained on: {said}."
    )


def _further(
    found: pl.DataFrame,
    rows: pl.DataFrame,
    shares: pl.DataFrame,
    disparity: pl.DataFrame,
    settings: RowSettings,
) -> Iterator[str]:
    own, n = found.filter(model=OWN), settings.n_characters
    lengths = own.group_by("task").agg(pl.col("answer").str.len_chars().median()).sort("task")
    medians = ", ".join(f"{task} {length:,.0f}" for task, length in lengths.rows())
    short = [int((one.str.len_chars() < n).sum()) for one in (own["answer"], rows["target"])]
    yield (
        f"{rows.height:,} rows, {int(rows['trained'].sum()):,} of them trained on. Median "
        f"characters of an answer: {medians}. {short[0]:,} answers and {short[1]:,} targets are "
        f"shorter than {n} characters and can be no copy."
    )
    for trained in ROWS:
        of = {"model": OWN, "rows": ROWS[trained]}
        if not shares.filter(**of).is_empty():
            each = [f"{kind}: {_said(shares, kind, **of)}" for kind in KINDS[1:]]
            yield f"Answers to rows {ROWS[trained]}, {'; '.join(each)}."
    controls = shares.filter(
        (pl.col("model") != OWN) & (pl.col("rows") == ROWS[True]) & (pl.col("kind") == MEMORIZED)
    )
    for model in controls["model"].unique(maintain_order=True):
        said = _said(controls, MEMORIZED, model=model)
        yield f"Memorized, rows trained on, {model}: {said}."
    for (first, second), part in _by_pair(disparity):
        said = "; ".join(
            f"{row['model']}, rows {row['rows']}, "
            f"{ranged(row['difference'], scale=100, unit=' points', sign='+')}"
            for row in rows_of(part)
        )
        yield f"Memorized, {first} less {second}: {said}."


def _by_pair(frame: pl.DataFrame) -> Iterator[tuple[tuple[Any, ...], pl.DataFrame]]:
    """Rows of each pair; there is none where all rows are of one task and alike."""
    if frame.height:
        yield from frame.group_by("first", "second", maintain_order=True)


def _attention_words(attention: pl.DataFrame, differences: pl.DataFrame) -> Iterator[str]:
    """Cross-attention of the last decoder layer, which the original looks at."""
    cross = {"part": PARTS[1], "measure": SHAPES[0]}
    last = attention.filter(**cross)["layer"].max()
    tasks = rows_of(attention.filter(**cross, layer=last, model=OWN, answers=ANSWERS[0]))
    said = ", ".join(f"{row['task']} {ranged(row['mean'], digits=3)}" for row in tasks)
    yield (
        "Cross-attention of the last decoder layer, entropy (1: all tokens of the input alike, 0: "
        f"one alone), rows trained on: {said}."
    )
    shown = differences.filter(**cross, layer=last) if differences.height else differences
    for (first, second), part in _by_pair(shown):
        said = "; ".join(
            f"{row['model']} {ranged(row['difference'], digits=3, sign='+')}"
            for row in rows_of(part)
        )
        yield f"The same, {first} less {second}: {said}."
    if shown.height:
        yield (
            "Such a difference goes along with memorizing or does not; that it is a cause is not "
            "shown, since tasks differ in texts, lengths and skills too."
        )


def _figures(shares: pl.DataFrame, attention: pl.DataFrame) -> Iterator[Chart]:
    chosen = shares.filter(kind=MEMORIZED)
    title = "Memorized answers by task, per cent (95 % interval)"
    yield bars_by(title, chosen, ("model", "rows"), "share", at="task", percent=True)
    shown = attention.filter(answers=ANSWERS[0], part=PARTS[1], measure=SHAPES[0])
    yield Chart(
        title="Entropy of cross-attention by decoder layer (1: even, 0: one token; 95 % interval)",
        x_label="layer",
        series=series_by(shown, ("model", "task"), "mean", x="layer"),
    )
