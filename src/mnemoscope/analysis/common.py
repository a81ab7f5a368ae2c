"""What an analysis works on: a study's table, its models, its corpus, its maps, and a shelf.

Models are loaded when they are first asked for. Every sequence put through one is counted.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mnemoscope.analysis.figures import Figure
from mnemoscope.data.corpus import Place
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError, nearest
from mnemoscope.progress import Progress, track
from mnemoscope.taxonomy.catalogue import PRASHANTH
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.taxonomy.nodes import parse_node

if TYPE_CHECKING:
    from mnemoscope.data.corpus import Corpus
    from mnemoscope.lm.fine_tuning import FineTuning
    from mnemoscope.lm.model import LanguageModel
    from mnemoscope.maps.store import MapStore


# What an analysis works on: a study's table, its models, its corpus, its maps, and a shelf.

Shelf = Callable[[str, Mapping[str, Any], Callable[[], pl.DataFrame]], pl.DataFrame]
"""`shelf(name, basis, make)`: the frame kept under the hash of name and basis, else made and kept.

The basis holds everything that decides the frame (model fingerprint, sequence ids, settings).
"""


def make_always(
    name: str,  # noqa: ARG001
    basis: Mapping[str, Any],  # noqa: ARG001
    make: Callable[[], pl.DataFrame],
) -> pl.DataFrame:
    """Be a shelf that keeps nothing.

    Args:
        name: not looked at.
        basis: not looked at.
        make: makes the frame.
    """
    return make()


@dataclass(frozen=True)
class OtherModel:
    """A model beside the study's own: a second one, or a checkpoint.

    Attributes:
        name: as the user wrote it.
        load: loads it, once.
    """

    name: str
    load: "Callable[[], LanguageModel]"


@dataclass
class Forwards:
    """How many sequences went through a model so far."""

    n: int = 0


@dataclass(frozen=True)
class AnalysisInputs:
    """All that an analysis may look at.

    Attributes:
        where: the study's folder, for messages.
        table: one row a sequence: `sequence_id`, `tokens`, `text`, `is_memorized`,
            `memorization_score` (null where only scanned), `duplicates`, and the other columns of
            the study's table.
        load_model: loads the study's model, once.
        labels: `sequence_id` and one column of class names a taxonomy; None without stage label.
        length: tokens of a sequence; the prefix is half of it.
        batch_size: sequences a forward pass.
        others: the second model, or the checkpoints in their order; empty without.
        corpus: the training texts, as `mnemoscope duplicates --corpus` takes them, or None.
        split: which published split the table is, for example `deduped_12b`, or None.
        has_model: whether there is a model to ask; else labels and perplexities are the table's.
        maps: the store of the model's pooled attention, None without stage capture.
        shelf: keeps frames that are dear to make, across analyses and runs.
        forwards: counts what goes through the models.
    """

    where: str
    table: pl.DataFrame
    load_model: "Callable[[], LanguageModel]"
    labels: pl.DataFrame | None = None
    length: int = 64
    batch_size: int = 64
    others: tuple[OtherModel, ...] = ()
    corpus: "Corpus | None" = None
    split: str | None = None
    has_model: bool = True
    maps: "MapStore | None" = None
    shelf: Shelf = make_always
    forwards: Forwards = field(default_factory=Forwards)

    @property
    def prefix(self) -> int:
        """Tokens of the prefix."""
        return self.length // 2

    def model(self) -> "LanguageModel":
        """The study's model, its forwards counted."""
        return count_forwards(self.load_model(), self.forwards)

    def other_models(self) -> "list[tuple[str, LanguageModel]]":
        """Name and model of each of the others, their forwards counted."""
        return [(one.name, count_forwards(one.load(), self.forwards)) for one in self.others]


def count_forwards(lm: "LanguageModel", forwards: Forwards) -> "LanguageModel":
    """Count every sequence that goes through a model from now on; twice asked is counted once.

    Args:
        lm: the model.
        forwards: where to count.

    Returns:
        The same model.
    """
    base = lm.model.base_model
    if getattr(base, "_mnemoscope_forwards", None) is forwards:
        return lm

    def count(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        forwards.n += len(first) if first is not None else 0

    base.register_forward_pre_hook(count, with_kwargs=True)
    base._mnemoscope_forwards = forwards
    return lm


# What an analysis gives: a sentence, tables by name, figures, and what it cost.


@dataclass(frozen=True)
class Cost:
    """What a result cost.

    Attributes:
        seconds: of the whole analysis.
        forward_passes: sequences put through a model, each time counted; a decoding of 32 tokens
            is 32 passes.
    """

    seconds: float
    forward_passes: int


@dataclass(frozen=True)
class AnalysisResult:
    """The result of one analysis.

    Attributes:
        sentence: the result in one sentence, its figure with the 95 % interval.
        frames: tables by name (the name of a file: small letters, digits, underscores).
        figures: to be drawn, the most important first.
        further: further sentences: what was left out, what cannot be said.
        cost: filled in by `registry.run_analysis`.
        libraries: distributions that made it beside those of every study, for its record.
    """

    sentence: str
    frames: Mapping[str, pl.DataFrame]
    figures: tuple[Figure, ...] = ()
    further: tuple[str, ...] = ()
    cost: Cost = field(default=Cost(0.0, 0))
    libraries: tuple[str, ...] = ()


# What every analysis can be told: a seed, and whether the published computation is wanted.


class AnalysisSettings(BaseModel):
    """Settings that each analysis adds its own to."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, description="Seed of all that is drawn at random.")
    published: bool = Field(
        default=False, description="Compute as published, defects included (--published)."
    )


_Settings = TypeVar("_Settings", bound=AnalysisSettings)


def parse_settings(kind: type[_Settings], values: dict[str, Any], *, where: str) -> _Settings:
    """Check plain values and fill in the defaults.

    Args:
        kind: the analysis's model of settings.
        values: what the user gave, by name.
        where: what to name in an error.

    Raises:
        UserError: an unknown key (with the nearest known one) or a bad value.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = list(kind.model_fields)
            hint = nearest(key, known) or f" Known: {', '.join(known)}."
            raise UserError(f"{where}, {key}: unknown key.{hint}") from None
        message = f"{problem['msg']} (got {problem.get('input')!r})"
        raise UserError(f"{where}, {key or 'settings'}: {message}. Correct the value.") from None


# The category a sequence falls into by its own features, memorized or not.

_CODE, _TEXT = "code", "text"


def categories_of(rows: pl.DataFrame, taxonomy: str = PRASHANTH) -> pl.Series:
    """Give each row the class it has, or would have were it memorized.

    Args:
        rows: with the features that the taxonomy needs.
        taxonomy: its name.

    Returns:
        Series `category` of strings; null where a feature is missing.

    Raises:
        UserError: a column is missing.
    """
    asked = rows.with_columns(is_memorized=pl.lit(True))
    return label_sequences(asked, parse_taxonomy(taxonomy)).alias("category")


def kinds_of(rows: pl.DataFrame) -> pl.Series:
    """Say of each row whether it is `code` or `text`; null where that is unknown."""
    if "is_code" not in rows.columns:
        return pl.Series("kind", [None] * rows.height, dtype=pl.String)
    is_code = pl.col("is_code")
    kind = pl.when(is_code).then(pl.lit(_CODE)).when(~is_code).then(pl.lit(_TEXT))
    return rows.select(kind.alias("kind")).to_series()


def refuse_unknown(rows: pl.DataFrame, category: pl.Series, taxonomy: str, *, where: str) -> None:
    """Refuse rows of which none has a category, since a feature is missing throughout.

    Args:
        rows: what the categories are of.
        category: from `categories_of`.
        taxonomy: its name.
        where: the analysis, for the message.

    Raises:
        UserError: every category is null.
    """
    if category.null_count() < len(category):
        return
    columns = sorted(parse_taxonomy(taxonomy).columns)
    missing = [name for name in columns if rows[name].null_count() == rows.height]
    raise UserError(
        f"{where}: no sequence has a category of '{taxonomy}', since {', '.join(missing)} is not "
        "known of any. Give the column, count duplicates (--set features.corpus=TEXTS in "
        "'mnemoscope features'), or choose categories without it: --set taxonomy=NAMES."
    )


def refuse_one_sided(memorized: npt.NDArray[np.bool_], minimum: int, *, where: str) -> None:
    """Refuse rows of which too few are memorized, or too few are not.

    Args:
        memorized: shape (n,).
        minimum: of each.
        where: the analysis, for the message.

    Raises:
        UserError: fewer than `minimum` of either.
    """
    n_yes = int(memorized.sum())
    n_no = len(memorized) - n_yes
    if min(n_yes, n_no) < minimum:
        raise UserError(
            f"{where}: {n_yes} memorized sequences and {n_no} others; {minimum} of each are "
            "needed. Add sequences, or lower it with --set minimum=N."
        )


# The groups that results are shown by: Guess, Recall and Non-Memo, where features are there.

_TAXONOMY = "Non-Memo, Guess, Recall"
_NEEDED = ("is_incrementing", "is_repeating", "rouge_l", "rouge_3")
_ORDER = ("Guess", "Recall", "memorized", "Non-Memo")


def groups_of(rows: pl.DataFrame) -> pl.Series:
    """Give each row its group.

    Args:
        rows: with `is_memorized`; with the features of Guess where they were computed.

    Returns:
        Series `group`: `Guess`, `Recall` or `Non-Memo`; `memorized` for a memorized row whose
        features are missing.
    """
    has_features = all(name in rows.columns for name in _NEEDED)
    kinds = categories_of(rows, _TAXONOMY) if has_features else pl.Series([None] * rows.height)
    short = kinds.cast(pl.String).str.split("[").list.first().fill_null("memorized")
    is_memorized = rows["is_memorized"]
    return pl.select(
        pl.when(is_memorized).then(short).otherwise(pl.lit("Non-Memo")).alias("group")
    ).to_series()


def members(groups: pl.Series) -> dict[str, list[int]]:
    """Row numbers of each group that has any, in a fixed order."""
    return {
        name: [at for at, one in enumerate(groups) if one == name]
        for name in _ORDER
        if (groups == name).any()
    }


# Greedy continuations of any rows under any model, decoded in kept blocks: analyses share them.

BLOCK = 512


def decode_rows(
    inputs: AnalysisInputs, lm: "LanguageModel", rows: pl.DataFrame, *, label: str
) -> pl.DataFrame:
    """Decode rows of the table with a model, block by block; a block once decoded is kept.

    Args:
        inputs: whose shelf keeps the blocks.
        lm: any model with the study's tokenizer.
        rows: columns `sequence_id` and `tokens`.
        label: what the progress bar says.

    Returns:
        Columns `sequence_id`, `continuation` (list of int32), `memorization_score` (float32), in
        the order of the rows.
    """
    blocks = [rows[start : start + BLOCK] for start in range(0, rows.height, BLOCK)]
    with track(label, total=rows.height) as progress:
        parts = [
            inputs.shelf(
                "decoded",
                {**model_basis(lm), "prefix": inputs.prefix, "ids": hash_ids(block)},
                lambda block=block: _decode(inputs, lm, block, progress),  # type: ignore[misc]
            )
            for block in blocks
        ]
    return pl.concat(parts)


def _decode(
    inputs: AnalysisInputs, lm: "LanguageModel", block: pl.DataFrame, progress: Progress
) -> pl.DataFrame:
    from mnemoscope.lm.continue_ import continue_sequences

    tokens, scores = [], []
    for batch in continue_sequences(
        lm, token_matrix(block), batch_size=inputs.batch_size, prefix=inputs.prefix
    ):
        tokens += batch.tokens.tolist()
        scores.append(batch.score)
        progress.advance(len(batch.score))
    return block.select(
        "sequence_id",
        pl.Series("continuation", tokens, dtype=pl.List(pl.Int32)),
        pl.Series("memorization_score", np.concatenate(scores), dtype=pl.Float32),
    )


def draw_rows(table: pl.DataFrame, n: int | None, seed: int) -> pl.DataFrame:
    """Draw at most `n` rows by a seed, in the order of the table; all where `n` is None."""
    if n is None or table.height <= n:
        return table
    chosen = np.random.default_rng(seed).choice(table.height, n, replace=False)
    return table[np.sort(chosen)]


def hash_ids(rows: pl.DataFrame) -> str:
    """Hash of the rows' sequence ids, for a basis of the shelf."""
    return hashlib.sha256(rows["sequence_id"].to_numpy().tobytes()).hexdigest()


def model_basis(lm: "LanguageModel") -> dict[str, object]:
    """What of a model decides its numbers, for a basis of the shelf."""
    return {
        "fingerprint": lm.fingerprint,
        "dtype": lm.dtype,
        "device": lm.device,
        "bos_id": lm.bos_id,
    }


# Generated tokens by score level, which of them are right, and the states they are chosen from.

_BLOCK = 512


@dataclass(frozen=True)
class Generated:
    """Sequences with the first tokens that the model writes after their prefix.

    Attributes:
        rows: of the study's table, n of them.
        tokens: prefix and generated tokens, shape (n, prefix + steps), int32.
        is_right: shape (n, steps), bool: the generated token is the sequence's own.
    """

    rows: pl.DataFrame
    tokens: npt.NDArray[np.int32]
    is_right: npt.NDArray[np.bool_]

    @property
    def n_steps(self) -> int:
        """Generated tokens of a sequence."""
        return int(self.is_right.shape[1])

    @property
    def level(self) -> npt.NDArray[np.int64]:
        """Right tokens of each sequence, shape (n,)."""
        return np.asarray(self.is_right.sum(axis=1), dtype=np.int64)

    def keep(self, chosen: npt.NDArray[np.integer[Any]]) -> "Generated":
        """These sequences alone."""
        return Generated(self.rows[chosen], self.tokens[chosen], self.is_right[chosen])


def generate_by_level(
    inputs: AnalysisInputs,
    *,
    n_sequences: int | None,
    n_steps: int,
    per_level: int,
    seed: int,
    where: str,
) -> Generated:
    """Continue sequences and take as many of each score level.

    Args:
        inputs: a study and its model.
        n_sequences: sequences that are looked at, drawn by the seed; None for all.
        n_steps: generated tokens looked at; a level is how many of them are right.
        per_level: sequences a level at most.
        seed: of both draws.
        where: what to name in an error.

    Raises:
        UserError: more steps than the suffix has tokens.
    """
    if n_steps > inputs.length - inputs.prefix:
        raise UserError(
            f"{where}: {n_steps} steps, but suffixes of {inputs.length - inputs.prefix} tokens. "
            "Lower --set n_steps=N."
        )
    rows = _continued(inputs, draw_rows(inputs.table, n_sequences, seed))
    half = inputs.prefix
    tokens = token_matrix(rows)
    written = token_matrix(rows, "continuation")[:, :n_steps]
    is_right = written == tokens[:, half : half + n_steps]
    found = Generated(rows, np.concatenate([tokens[:, :half], written], axis=1), is_right)
    return found.keep(choose_levels(found.level, per_level=per_level, seed=seed))


def choose_levels(
    level: npt.NDArray[np.int64], *, per_level: int, seed: int
) -> npt.NDArray[np.int64]:
    """Draw at most so many of each level, in the order of the rows.

    Args:
        level: shape (n,).
        per_level: how many.
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(level))
    chosen = [order[level[order] == one][:per_level] for one in np.unique(level)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def states_of(inputs: AnalysisInputs, generated: Generated) -> npt.NDArray[np.float32]:
    """Give the last hidden state from which each generated token is chosen, kept in blocks.

    Args:
        inputs: whose model generated.
        generated: of `generate_by_level`.

    Returns:
        Shape (n, steps, width): step i is chosen from the state of the token before it.
    """
    lm, n = inputs.model(), len(generated.tokens)
    with track("Hidden states", total=n) as progress:
        parts = []
        for start in range(0, n, _BLOCK):
            part = generated.keep(np.arange(start, min(start + _BLOCK, n)))
            basis = {
                **model_basis(lm),
                "ids": hash_ids(part.rows),
                "prefix": inputs.prefix,
                "steps": generated.n_steps,
            }
            parts.append(inputs.shelf("states", basis, lambda part=part: _states(inputs, part)))  # type: ignore[misc]
            progress.advance(len(part.tokens))
    flat = np.concatenate([part["state"].to_numpy() for part in parts])
    return flat.reshape(n, generated.n_steps, -1)


def _states(inputs: AnalysisInputs, part: Generated) -> pl.DataFrame:
    from mnemoscope.lm.probe import hidden_states

    read = part.tokens[:, :-1]  # the last token is chosen, not read
    batches = hidden_states(
        inputs.model(),
        read,
        batch_size=inputs.batch_size,
        positions=slice(inputs.prefix - 1, None),
    )
    states = np.concatenate(list(batches))[:, 0]
    flat = states.reshape(len(states), -1)
    return part.rows.select(
        "sequence_id", pl.Series("state", flat, dtype=pl.Array(pl.Float32, flat.shape[1]))
    )


def _continued(inputs: AnalysisInputs, rows: pl.DataFrame) -> pl.DataFrame:
    """Every row with its continuation: a memorized one's is its suffix."""
    if "continuation" not in rows.columns:
        rows = rows.with_columns(continuation=pl.lit(None, dtype=pl.List(pl.Int32)))
    suffix = pl.col("tokens").list.slice(inputs.prefix)
    known = rows.with_columns(
        continuation=pl.when("is_memorized").then(suffix).otherwise("continuation")
    )
    lacking = known.filter(pl.col("continuation").is_null())
    if lacking.is_empty():
        return known
    found = decode_rows(inputs, inputs.model(), lacking, label="Continuing").select(
        "sequence_id", pl.col("continuation").alias("_written")
    )
    joined = known.join(found, on="sequence_id", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("continuation", "_written").alias("continuation")).drop(
        "_written"
    )


# Training continued beside a control: a stream of rows, insertions into it, looks on the way.

Rows = npt.NDArray[np.int32]
"""Token ids, shape (rows, length)."""

Insertions = Mapping[int, Mapping[int, npt.NDArray[np.int32]]]
"""By step (from 0) and place in its batch: the row that stands there instead."""

_Look = TypeVar("_Look")


def run_arm(
    tuning: "FineTuning",
    stream: npt.NDArray[np.int32],
    insertions: Insertions,
    look: "Callable[[LanguageModel, int], _Look]",
    *,
    every: int,
    pad: int = 0,
    progress: Progress | None = None,
) -> list[_Look]:
    """Train through the stream and look at the model on the way.

    Args:
        tuning: the copy of a model that is trained, at its beginning.
        stream: all batches, shape (steps, batch, length).
        insertions: rows that replace others; none in a control. An id below 0 is padding that the
            loss does not count.
        look: gets the model and how many steps it has made.
        every: steps from one look to the next; the first is before any step, the last at the end.
        pad: what padding is read as.
        progress: is told every step.

    Returns:
        What each look gave, in order.
    """
    found = [look(tuning.lm, 0)]
    for step, batch in enumerate(stream):
        rows = batch.copy()
        for place, row in insertions.get(step, {}).items():
            rows[place] = row
        tuning.train(np.where(rows < 0, pad, rows), rows >= 0)
        if progress is not None:
            progress.advance()
        if tuning.step % every == 0 or tuning.step == len(stream):
            found.append(look(tuning.lm, tuning.step))
    return found


def stream_rows(rows: Rows, n_steps: int, batch_size: int, seed: int) -> npt.NDArray[np.int32]:
    """Batch rows in a seeded order, all of them before any comes again.

    Args:
        rows: what is trained on.
        n_steps: how many batches.
        batch_size: rows a batch.
        seed: of the order.

    Returns:
        Shape (steps, batch, length).
    """
    rng = np.random.default_rng(seed)
    wanted = n_steps * batch_size
    n_rounds = -(-wanted // len(rows))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(max(1, n_rounds))])[:wanted]
    batches: npt.NDArray[np.int32] = rows[order].reshape(n_steps, batch_size, rows.shape[1])
    return batches


def unseen_rows(inputs: AnalysisInputs, n: int, seed: int, *, where: str) -> pl.DataFrame:
    """Draw sequences that the model cannot know: not memorized, not guessable, not trained on.

    Not trained on is what has no duplicates, where the table counts them; elsewhere what is not
    memorized has to do.

    Args:
        inputs: with features.
        n: how many.
        seed: of the draw.
        where: what to name in an error.

    Raises:
        UserError: there are fewer.
    """
    table = inputs.table
    rule = ~pl.col("is_memorized") & ~parse_node("Guess").expression.fill_null(True)
    if "duplicates" in table.columns:
        rule &= pl.col("duplicates").fill_null(1) == 0
    found = table.filter(rule)
    if found.height < n:
        raise UserError(
            f"{where}: {found.height} sequences are not memorized, not guessable and not trained "
            f"on (duplicates 0), and {n} are needed. Give a table with more, or ask for fewer."
        )
    chosen = np.random.default_rng(seed).permutation(found.height)[:n]
    return found[chosen]


def training_rows(inputs: AnalysisInputs, n: int, *, where: str) -> Rows:
    """Give rows to go on training with: windows of the corpus, else the study's sequences.

    Of the study's sequences those that training has held (duplicates above 0) are taken, where
    the table counts them, else all that `unseen_rows` would not draw.

    Args:
        inputs: with a corpus, or without.
        n: how many at most; of a corpus its beginning.
        where: what to name in an error.

    Raises:
        UserError: there are none.
    """
    if inputs.corpus is not None:
        windows = list(_corpus_windows(inputs, n))
        if windows:
            return np.stack(windows)
        raise UserError(
            f"{where}: {inputs.corpus.path}: no text of {inputs.length} tokens. Give longer ones."
        )
    table = inputs.table
    rule = pl.col("is_memorized") | parse_node("Guess").expression.fill_null(True)
    if "duplicates" in table.columns:
        rule = pl.col("duplicates").fill_null(1) > 0
    found = table.filter(rule)
    if found.is_empty():
        raise UserError(
            f"{where}: no sequence that the model was trained on. Give the training texts: "
            "--corpus PATH."
        )
    return token_matrix(found[:n]).astype(np.int32)


def _corpus_windows(inputs: AnalysisInputs, n: int) -> Iterator[npt.NDArray[np.int32]]:
    """Windows of whole length, one after another in each document, from the beginning on."""
    assert inputs.corpus is not None
    length, n_found = inputs.length, 0
    for chunk, _ in inputs.corpus.chunks(Place(), length):
        ends = [len(chunk.tokens)] if chunk.ends is None else chunk.ends.tolist()
        for begin, end in pairwise([0, *ends]):
            for first in range(begin, end - length + 1, length):
                if n_found == n:
                    return
                yield chunk.tokens[first : first + length].astype(np.int32)
                n_found += 1
