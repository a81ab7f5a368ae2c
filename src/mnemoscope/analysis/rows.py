"""What several analyses do with rows: group, continue and keep them, train a model further on them.

What is dear is made in blocks of rows that stay on the study's shelf, so that analyses share it
and an interrupted one goes on.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mnemoscope.analysis.inputs import AnalysisInputs, AnalysisSettings, OtherModel, count_forwards
from mnemoscope.data.corpus import Corpus, Place
from mnemoscope.data.read import as_words, is_copied
from mnemoscope.data.table import token_matrix
from mnemoscope.errors import UserError
from mnemoscope.lm.continue_ import continue_sequences, greedy_tokens, right_tokens, run_lengths
from mnemoscope.lm.fine_tuning import FineTuning
from mnemoscope.lm.model import LanguageModel, check_tokens, run_batches
from mnemoscope.lm.probe import hidden_states, next_token_entropy
from mnemoscope.progress import SILENT, Progress, track
from mnemoscope.taxonomy import PRASHANTH
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy
from mnemoscope.taxonomy.nodes import parse_node

_BLOCK = 512
_GROUPS = "Non-Memo, Guess, Recall"
_GROUP_ORDER = ("Guess", "Recall", "memorized", "Non-Memo")
_GROUP_FEATURES = ("is_incrementing", "is_repeating", "rouge_l", "rouge_3")

# -- which rows, and what they are ----------------------------------------------------------


def draw_rows(table: pl.DataFrame, n: int | None, seed: int) -> pl.DataFrame:
    """Draw at most `n` rows by a seed, in the order of the table; all where `n` is None."""
    if n is None or table.height <= n:
        return table
    chosen = np.random.default_rng(seed).choice(table.height, n, replace=False)
    return table[np.sort(chosen)]


def categories_of(rows: pl.DataFrame, taxonomy: str = PRASHANTH) -> pl.Series:
    """Give each row the class it has, or would have were it memorized; null without its features.

    A String column `category`, in the order of the rows. Raises UserError: a column that the
    taxonomy needs is missing, or it is unknown.
    """
    asked = rows.with_columns(is_memorized=pl.lit(True))
    return label_sequences(asked, parse_taxonomy(taxonomy)).alias("category")


def classes_of(
    inputs: AnalysisInputs, taxonomy: str | None, *, where: str, minimum: int = 1
) -> pl.DataFrame:
    """Give columns `sequence_id` and `class` of a taxonomy.

    None is the study's first of which two classes have `minimum` sequences, or its first. Raises
    UserError: the study has no classes, or none of this taxonomy; the message begins with `where`.
    """
    if inputs.labels is None:
        raise UserError(f"{where}: no classes in {inputs.where}. Run mnemoscope label.")
    known = [name for name in inputs.labels.columns if name != "sequence_id"]
    large = [
        one
        for one in known
        if (inputs.labels[one].drop_nulls().value_counts()["count"] >= minimum).sum() >= 2
    ]
    name = taxonomy or [*large, *known][0]
    if name not in known:
        raise UserError(f"{where}: taxonomy '{name}': not labelled. Known: {known}.")
    return inputs.labels.select("sequence_id", pl.col(name).alias("class"))


def guessable() -> pl.Expr:
    """Whether a row can be guessed: the node `Guess`, true where its features are not known.

    For `filter`, on a table with `is_incrementing`, `is_repeating`, `rouge_l` and `rouge_3`.
    """
    return parse_node("Guess").expression.fill_null(True)


def groups_of(rows: pl.DataFrame) -> pl.Series:
    """Group each row: `Guess`, `Recall` or `Non-Memo`; `memorized` without the features of Guess.

    A String column `group`, in the order of the rows, which have `is_memorized`.
    """
    has_features = all(name in rows.columns for name in _GROUP_FEATURES)
    kinds = categories_of(rows, _GROUPS) if has_features else pl.Series([None] * rows.height)
    short = kinds.cast(pl.String).str.split("[").list.first().fill_null("memorized")
    group = pl.when(rows["is_memorized"]).then(short).otherwise(pl.lit("Non-Memo"))
    return pl.select(group.alias("group")).to_series()


def members(groups: pl.Series) -> dict[str, list[int]]:
    """Row numbers of each group of `groups_of` that has any, by its name.

    Guess, Recall, memorized, Non-Memo, in this order.
    """
    found = {name: (groups == name).arg_true().to_list() for name in _GROUP_ORDER}
    return {name: places for name, places in found.items() if places}


def refuse_one_sided(memorized: npt.NDArray[np.bool_], minimum: int, *, where: str) -> None:
    """Refuse rows of which fewer than `minimum` are memorized, (n,), or fewer are not.

    Raises UserError, whose message begins with `where`.
    """
    n_yes = int(memorized.sum())
    n_no = len(memorized) - n_yes
    if min(n_yes, n_no) < minimum:
        raise UserError(
            f"{where}: {n_yes} memorized sequences and {n_no} others; {minimum} of each are "
            "needed. Add sequences, or lower it with --set minimum=N."
        )


# -- what is kept ---------------------------------------------------------------------------


def hash_arrays(*arrays: npt.NDArray[Any] | pl.Series) -> str:
    """Hash of shapes and values, such as ids or tokens, for a basis of the shelf."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def keep_blocks(
    inputs: AnalysisInputs,
    lm: LanguageModel,
    rows: pl.DataFrame,
    name: str,
    make: Callable[[pl.DataFrame, Progress], pl.DataFrame],
    *,
    label: str,
    size: int = _BLOCK,
    units: int = 1,
    of_block: Callable[[pl.DataFrame], Mapping[str, object]] = lambda _block: {},
    **basis: object,
) -> pl.DataFrame:
    """Make a frame of rows in blocks; a block once made is kept, and an interrupted run goes on.

    Args:
        inputs: whose shelf keeps them.
        lm: the model that is asked; its `basis` is part of what decides a block.
        rows: with a column `sequence_id`, part of it too.
        name: what the blocks are kept under; the same name and basis in two analyses share them.
        make: gives the frame of one block, and advances the progress `units` a row itself.
        label: what the progress is called.
        size: rows of a block.
        units: steps of the progress that a row takes.
        of_block: what else decides a block, from its rows.
        basis: what else decides all of them, as plain values.

    Returns:
        The frames of all blocks, one below the other, in the order of the rows.
    """
    frames, made = [], []
    with track(label, total=rows.height * units) as progress:

        def make_now(block: pl.DataFrame) -> pl.DataFrame:
            made.append(block)
            return make(block, progress)

        for block in rows.iter_slices(size):
            n_made = len(made)
            ids = hash_arrays(block["sequence_id"])
            decisive = {**lm.basis, **basis, **of_block(block), "ids": ids}
            frames.append(inputs.shelf(name, decisive, partial(make_now, block)))
            if len(made) == n_made:  # it was kept
                progress.advance(block.height * units)
    return pl.concat(frames)


# -- continuations --------------------------------------------------------------------------


def decode_rows(
    inputs: AnalysisInputs, lm: LanguageModel, rows: pl.DataFrame, *, label: str
) -> pl.DataFrame:
    """Decode rows with any model of the study's tokenizer, in kept blocks.

    Gives `sequence_id`, `continuation` (list of int32), `memorization_score` (float32), in order.
    """

    def decode(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
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

    return keep_blocks(inputs, lm, rows, "decoded", decode, label=label, prefix=inputs.prefix)


def complete_rows(
    inputs: AnalysisInputs, rows: pl.DataFrame, *wanted: str, label: str = "Continuing"
) -> pl.DataFrame:
    """Give every row its `continuation` or `memorization_score`, decoded where it is not known.

    `wanted` are one or both of these; the study's model is asked, in kept blocks. The continuation
    of a memorized row is its suffix. All rows, in order, with these columns added or filled.
    """
    known, lacking = _known_and_lacking(inputs, rows, *wanted)
    if lacking.is_empty():
        return known
    found = decode_rows(inputs, inputs.model(), lacking, label=label).select("sequence_id", *wanted)
    joined = known.join(found, on="sequence_id", how="left", maintain_order="left", suffix="_new")
    return joined.with_columns(pl.coalesce(name, f"{name}_new") for name in wanted).drop(
        f"{name}_new" for name in wanted
    )


def _known_and_lacking(
    inputs: AnalysisInputs, rows: pl.DataFrame, *wanted: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give rows with what is known of `wanted`, and those of them that `complete_rows` decodes."""
    known = rows
    if "continuation" in wanted:
        suffix = pl.col("tokens").list.slice(inputs.prefix)
        has_any = "continuation" in rows.columns
        other = pl.col("continuation") if has_any else pl.lit(None, dtype=pl.List(pl.Int32))
        known = rows.with_columns(
            continuation=pl.when("is_memorized").then(suffix).otherwise(other)
        )
    return known, known.filter(pl.any_horizontal(pl.col(name).is_null() for name in wanted))


def count_lacking(inputs: AnalysisInputs, rows: pl.DataFrame, *wanted: str) -> int:
    """Count the rows that `complete_rows` would decode."""
    return _known_and_lacking(inputs, rows, *wanted)[1].height


def scanned_by(inputs: AnalysisInputs, other: OtherModel) -> pl.DataFrame:
    """The table as another model would have it: what it reproduces, teacher-forced, is memorized.

    Continuations and scores of the rest are unknown until they are asked for.
    """
    lm = count_forwards(other.load(), inputs.forwards)

    def scan(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        tokens = token_matrix(block)
        right = right_tokens(lm, tokens, batch_size=inputs.batch_size, prefix=prefix)
        progress.advance(block.height)
        verdicts = pl.Series("is_memorized", right.all(axis=1), dtype=pl.Boolean)
        return block.select("sequence_id", verdicts)

    label, prefix = f"Scanning with {other.name}", inputs.prefix
    found = keep_blocks(inputs, lm, inputs.table, "scanned", scan, label=label, prefix=prefix)
    is_memorized = found["is_memorized"]
    score = pl.when(is_memorized).then(pl.lit(1.0, dtype=pl.Float32))
    return inputs.table.with_columns(
        is_memorized, memorization_score=score, continuation=pl.lit(None, dtype=pl.List(pl.Int32))
    )


class LevelSettings(AnalysisSettings):
    """Settings of what looks at sequences by how many of their generated tokens are right.

    Those of `generate_by_level`; an analysis adds its own.
    """

    n_sequences: int | None = Field(
        default=5000, ge=10, description="Sequences looked at, drawn by the seed; null: all."
    )
    n_steps: int = Field(
        default=16,
        ge=2,
        description="Generated tokens of a sequence; a level is how many are right.",
    )
    per_level: int = Field(
        default=200, ge=2, description="Sequences a level at most (the original: 2,000)."
    )


@dataclass(frozen=True)
class Generated:
    """Sequences with the first tokens that the model writes after their prefix.

    Attributes:
        rows: of the study's table, n of them.
        tokens: prefix and generated tokens, int32 (n, prefix + steps).
        is_right: whether each generated token is the sequence's own, bool (n, steps).
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


def generate_by_level(inputs: AnalysisInputs, settings: LevelSettings, *, where: str) -> Generated:
    """Continue sequences and take as many of each level: how many generated tokens are right.

    Raises UserError: more steps than the suffix has tokens; the message begins with `where`.
    """
    half, n_steps, seed = inputs.prefix, settings.n_steps, settings.seed
    if n_steps > inputs.length - half:
        raise UserError(
            f"{where}: {n_steps} steps, but suffixes of {inputs.length - half} tokens. "
            "Lower --set n_steps=N."
        )
    drawn = draw_rows(inputs.table, settings.n_sequences, seed)
    rows = complete_rows(inputs, drawn, "continuation")
    tokens = token_matrix(rows)
    written = token_matrix(rows, "continuation")[:, :n_steps]
    is_right = written == tokens[:, half : half + n_steps]
    chosen = choose_levels(is_right.sum(axis=1), per_level=settings.per_level, seed=seed)
    read = np.concatenate([tokens[:, :half], written], axis=1)
    return Generated(rows[chosen], read[chosen], is_right[chosen])


def count_by_level(inputs: AnalysisInputs, settings: LevelSettings, passes: int) -> int:
    """Count at most the sequences of `generate_by_level`, and `passes` of what it chooses."""
    drawn = draw_rows(inputs.table, settings.n_sequences, settings.seed)
    n_whole = int(drawn["is_memorized"].sum())
    chosen = min(settings.per_level, n_whole)
    chosen += min(settings.per_level * settings.n_steps, drawn.height - n_whole)
    return count_lacking(inputs, drawn, "continuation") + passes * chosen


def choose_levels(
    level: npt.NDArray[np.int64], *, per_level: int, seed: int
) -> npt.NDArray[np.int64]:
    """Draw at most so many of each level, (n,), in the order of the rows."""
    order = np.random.default_rng(seed).permutation(len(level))
    chosen = [order[level[order] == one][:per_level] for one in np.unique(level)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def states_of(inputs: AnalysisInputs, generated: Generated) -> npt.NDArray[np.float32]:
    """Give the last hidden state from which each generated token is chosen, in kept blocks.

    Float32 (n, steps, width), of the study's model: step i is chosen from the state of the token
    before it.
    """
    lm, n_steps = inputs.model(), generated.n_steps
    read = generated.tokens[:, :-1].tolist()  # the last token is chosen, not read
    rows = generated.rows.select("sequence_id").with_columns(tokens=pl.Series(read))

    def make(block: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        places = slice(inputs.prefix - 1, None)
        batches = hidden_states(
            lm, token_matrix(block), batch_size=inputs.batch_size, positions=places
        )
        states = np.concatenate(list(batches))[:, 0].reshape(block.height, -1)
        progress.advance(block.height)
        kept = pl.Series("state", states, dtype=pl.Array(pl.Float32, states.shape[1]))
        return block.select("sequence_id", kept)

    label, prefix = "Hidden states", inputs.prefix
    found = keep_blocks(inputs, lm, rows, "states", make, label=label, prefix=prefix, steps=n_steps)
    return np.array(found["state"].to_numpy()).reshape(len(read), n_steps, -1)


def entropy_of(
    inputs: AnalysisInputs,
    name: str,
    rows: pl.DataFrame,
    tokens: npt.NDArray[np.int32],
    **basis: object,
) -> npt.NDArray[np.float64]:
    """Give the entropy of the prediction of every token, (n, T), but the first; kept by `name`.

    Nats, float64 (n, T - 1), of the study's model. The basis holds what decides the tokens beside
    the model, the rows and the prefix.
    """
    lm = inputs.model()

    def make() -> pl.DataFrame:
        values = next_token_entropy(lm, tokens, batch_size=inputs.batch_size)
        entropy = pl.Series("entropy", values.tolist(), dtype=pl.List(pl.Float32))
        return rows.select("sequence_id", entropy)

    basis |= {**lm.basis, "ids": hash_arrays(rows["sequence_id"]), "prefix": inputs.prefix}
    return np.array(inputs.shelf(name, basis, make)["entropy"].to_list(), dtype=np.float64)


# -- verbatim runs --------------------------------------------------------------------------


class Prompt(NamedTuple):
    """A part of a sequence that the model is shown: `length` tokens from token `start` on."""

    length: int
    start: int


class PromptAnswer(NamedTuple):
    """How many tokens of a sequence come out after one prompt."""

    row: int
    prompt: Prompt
    n_tokens: int
    is_copied: bool  # they stand in the prompt already


def ask_exactly(
    lm: LanguageModel,
    table: npt.NDArray[np.integer[Any]],
    prompts: Sequence[Prompt],
    *,
    n_decoded: int,
    batch_size: int,
    progress: Progress = SILENT,
) -> Iterator[PromptAnswer]:
    """Count right tokens in a row, at most `n_decoded`, after each prompt of each sequence, (n, T).

    Gives a `PromptAnswer` for each: `row`, `prompt`, `n_tokens`, and `is_copied`, whether they
    stand in the prompt already. One teacher-forced forward a start serves prompts of every length:
    as long as every token is the model's own choice, it is what greedy decoding writes.
    """
    for start in sorted({one.start for one in prompts}):
        lengths = [one.length for one in prompts if one.start == start]
        shown = table[:, start:]
        is_right = right_tokens(lm, shown, batch_size=batch_size, prefix=min(lengths))
        for length in lengths:
            asked = is_right[:, length - min(lengths) :][:, :n_decoded]
            for row, n in enumerate(run_lengths(asked).tolist()):
                prompt, written = shown[row, :length], shown[row, length : length + n]
                copied = is_copied(lm.tokenizer, prompt, written)
                yield PromptAnswer(row, Prompt(length, start), n, copied)
        progress.advance(len(table))


def ask_by_words(
    lm: LanguageModel,
    table: npt.NDArray[np.integer[Any]],
    prompts: Sequence[Prompt],
    *,
    n_decoded: int,
    batch_size: int,
    progress: Progress = SILENT,
) -> Iterator[PromptAnswer]:
    """As `ask_exactly`, but decode after each prompt and compare the words of both texts.

    Words are runs of letters and digits, so white space and punctuation do not count. It costs a
    decoding of every prompt.
    """
    for prompt in prompts:
        shown = table[:, prompt.start : prompt.start + prompt.length]
        most = n_decoded
        if lm.max_positions is not None:
            most = min(most, lm.max_positions - len(lm.before) - prompt.length)
        batches = run_batches(
            lm,
            check_tokens(lm, shown),
            batch_size,
            lambda batch, most=most: greedy_tokens(lm, batch, most)[0].cpu().numpy(),  # type: ignore[misc]
        )
        written = np.concatenate(list(batches))
        progress.advance(len(table))
        for row, ids in enumerate(written.tolist()):
            label = table[row, prompt.start + prompt.length :][:n_decoded]
            n = words_in_common(lm.tokenizer, ids, label)
            yield PromptAnswer(row, prompt, n, is_copied(lm.tokenizer, shown[row], label[:n]))


def words_in_common(tokenizer: Any, written: npt.ArrayLike, label: npt.ArrayLike) -> int:
    """Count the tokens of the true text, `label`, whose words begin the written one."""
    text, ids = as_words(tokenizer, written), np.asarray(label)
    low, high = 0, len(ids)
    while low < high:  # what fits, fits for fewer tokens too
        middle = (low + high + 1) // 2
        if text.startswith(as_words(tokenizer, ids[:middle])):
            low = middle
        else:
            high = middle - 1
    return low


# -- training continued ---------------------------------------------------------------------

Rows = npt.NDArray[np.int32]
"""Token ids, shape (rows, length)."""

Insertions = Mapping[int, Mapping[int, npt.NDArray[np.int32]]]
"""By step (from 0) and place in its batch: the row that stands there instead."""

_Look = TypeVar("_Look")


def run_arm(
    tuning: FineTuning,
    stream: npt.NDArray[np.int32],
    insertions: Insertions,
    look: Callable[[LanguageModel, int], _Look],
    *,
    every: int,
    pad: int = 0,
    progress: Progress = SILENT,
) -> list[_Look]:
    """Train a copy through a stream of batches, and give what each look at it gave.

    Args:
        tuning: the copy, which is trained.
        stream: token ids, int32 (steps, batch, length).
        insertions: by step (from 0) and place in its batch, the row that stands there instead; an
            id below 0 is padding, read as `pad` and not counted in the loss.
        look: asked with the model and how many steps it has made: before any step, each `every`
            steps, and at the end.
        every: steps from one look to the next.
        pad: what padding is read as.
        progress: advanced with each step.

    Returns:
        What the looks gave, in order.
    """
    found = [look(tuning.lm, 0)]
    for step, batch in enumerate(stream):
        rows = batch.copy()
        for place, row in insertions.get(step, {}).items():
            rows[place] = row
        tuning.train(np.where(rows < 0, pad, rows), rows >= 0)
        progress.advance()
        if tuning.step % every == 0 or tuning.step == len(stream):
            found.append(look(tuning.lm, tuning.step))
    return found


def stream_rows(rows: Rows, n_steps: int, batch_size: int, seed: int) -> npt.NDArray[np.int32]:
    """Batch rows (n, length) in a seeded order, all of them before any comes again.

    Int32 (steps, batch, length): the stream of `run_arm`.
    """
    rng = np.random.default_rng(seed)
    wanted = n_steps * batch_size
    n_rounds = -(-wanted // len(rows))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(max(1, n_rounds))])[:wanted]
    return np.asarray(rows[order].reshape(n_steps, batch_size, rows.shape[1]))


def counts_duplicates(table: pl.DataFrame) -> bool:
    """Whether it is known of any row how often it stands in training; `features` adds nulls."""
    return "duplicates" in table.columns and table["duplicates"].count() > 0


def seen_in_training(table: pl.DataFrame) -> pl.Series:
    """Whether training held each row, by `duplicates`; null where these were not counted.

    A Boolean column in the order of the rows; its `count()` is 0 where none were counted.
    """
    if not counts_duplicates(table):
        return pl.repeat(None, table.height, dtype=pl.Boolean, eager=True)
    return table["duplicates"] > 0


UNCOUNTED = (
    "It is not known which sequences training held (no duplicates are counted): those that the "
    "model neither reproduces nor could guess are taken for unseen. To have them counted, found "
    "the study with features.corpus, the training texts, or give the table a column 'duplicates'."
)
"""What an analysis says that draws unseen sequences without knowing."""


def unseen_note(table: pl.DataFrame) -> tuple[str, ...]:
    """What to say of `unseen_rows` in `AnalysisResult.further`: nothing where they are counted."""
    return () if counts_duplicates(table) else (UNCOUNTED,)


def unseen_rows(
    inputs: AnalysisInputs, n: int, seed: int, *, where: str, setting: str
) -> pl.DataFrame:
    """Draw sequences that the model cannot know: not memorized, not guessable, not trained on.

    Not trained on is what is counted and has no duplicates; all where the table counts none. Raises
    UserError: there are fewer than `n`; the message begins with `where` and names the `setting`
    that asks for so many.
    """
    is_counted = counts_duplicates(inputs.table)
    rule = ~pl.col("is_memorized") & ~guessable()
    if is_counted:
        rule &= ~seen_in_training(inputs.table).fill_null(True)
    found = inputs.table.filter(rule)
    if found.height < n:
        of = (
            "not memorized, not guessable and not trained on (duplicates 0)"
            if is_counted
            else "not memorized and not guessable (which of them training held is not known: no "
            "duplicates are counted)"
        )
        raise UserError(
            f"{where}: {found.height} sequences are {of}, and {n} are needed. Give a table with "
            f"more, held-out texts among them, or ask for fewer with --set {setting}=N."
        )
    chosen = np.random.default_rng(seed).permutation(found.height)[:n]
    return found[chosen]


def training_rows(inputs: AnalysisInputs, n: int, *, where: str) -> Rows:
    """Give at most `n` rows to go on training with: windows of the corpus, else study's sequences.

    Where the table counts duplicates, they are the sequences that training has held (above 0), else
    what is memorized or guessable, which `unseen_rows` never draws. Raises UserError: there are
    none; the message begins with `where`.
    """
    if inputs.corpus is not None:
        windows = list(islice(_corpus_windows(inputs.corpus, inputs.length), n))
        if windows:
            return np.stack(windows)
        raise UserError(
            f"{where}: {inputs.corpus.path}: no text of {inputs.length} tokens. Give longer ones."
        )
    rule = pl.col("is_memorized") | guessable()
    seen = seen_in_training(inputs.table)
    found = inputs.table.filter(seen.fill_null(False) if seen.count() else rule)
    if found.is_empty():
        raise UserError(
            f"{where}: no sequence that the model was trained on. Give the training texts: "
            "--corpus PATH."
        )
    return token_matrix(found[:n]).astype(np.int32)


def _corpus_windows(corpus: Corpus, length: int) -> Iterator[Rows]:
    """Windows of whole length, one after another in each document, from the beginning on."""
    for chunk, _ in corpus.chunks(Place(), length):
        ends = [len(chunk.tokens)] if chunk.ends is None else chunk.ends.tolist()
        for begin, end in pairwise([0, *ends]):
            for first in range(begin, end - length + 1, length):
                yield chunk.tokens[first : first + length].astype(np.int32)
