"""Cut texts into windows, ask a model which of them it reproduces, and give each its class."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, overload

import numpy as np
import polars as pl

from mnemoscope.data.corpus import Corpus, open_corpus
from mnemoscope.data.features import FEATURES, add_features
from mnemoscope.data.patterns import PatternMode
from mnemoscope.data.read import read_sequences
from mnemoscope.data.table import COLUMNS, has_values, token_matrix, whole_mask
from mnemoscope.errors import UserError, a_kind
from mnemoscope.library.given import (
    BOS_ID,
    N_PREFIX,
    BatchSize,
    Shown,
    as_source,
    as_table,
    as_tokenizer,
    following,
    opened_model,
    prefix_of,
    tokenizer_of,
    whole_number,
    windows_at_once,
)
from mnemoscope.lm.continue_ import Decoding, continue_sequences, scan_memorized
from mnemoscope.lm.hub import find_bos
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.groups import find_groups
from mnemoscope.taxonomy.labels import has_verdict, label_sequences, missing_columns
from mnemoscope.taxonomy.names import NON_MEMO, Taxonomy

CLASS = "class"
VERDICTS = ("is_memorized", "memorization_score", "continuation", "smallest_gap")
"""Columns that say which windows a model reproduces."""
_BY_PREFIX = ("rouge_l", "rouge_3", "duplicates")  # features that depend on where the suffix begins


def windows(
    texts: Any,
    tokenizer: Any,
    *,
    prefix: int = 32,
    suffix: int = 32,
    stride: int | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """Cut texts into windows of equally many tokens, a prefix and the suffix that follows it.

    Args:
        texts: one text, a list of texts, texts by their names (dict); a file or folder of texts or
            tables, or a data set of the hub (a string that names a path that is there is read,
            also in a list, and any other is a text); a frame of Polars or pandas or a
            `datasets.Dataset` with a column `text` (cut) or `tokens` (taken as they are); an
            integer array of tokens (n, T).
        tokenizer: of the model that will be asked, or its name.
        prefix: tokens of each window that are shown.
        suffix: tokens that are to follow.
        stride: tokens from the start of one window to that of the next; a whole window unless
            given. The end of a text that fills no window is left out.
        limit: the first so many windows alone.

    Returns:
        A frame, one row a window: `sequence_id` int64, `text`, `tokens` list of int32 (length
        prefix + suffix), `document`, `start` and `end` (characters), `genre` of files, `group`
        (near duplicates and overlapping windows share one), `n_prefix` and `bos_id`, which tell the
        functions that follow how the windows are read, and the columns that the texts came with.

    Raises:
        UserError: no text as long as a window, a path that leads nowhere, or something else than
            texts.

    Source: arXiv 2508.02573 shows 32 tokens and asks for 32.
    """
    prefix, suffix = whole_number(prefix, "prefix"), whole_number(suffix, "suffix")
    stride = None if stride is None else whole_number(stride, "stride")
    limit = None if limit is None else whole_number(limit, "limit")
    tokenizer, length = as_tokenizer(tokenizer), prefix + suffix
    result = read_sequences(
        as_source(texts),
        tokenizer,
        length=length,
        prefix=prefix,
        stride=length if stride is None else stride,
        limit=limit,
    )
    frame = result.frame
    if "group" not in frame.columns:
        frame = frame.with_columns(find_groups(frame).cast(pl.String).alias("group"))
    return frame.with_columns(
        pl.lit(prefix, dtype=pl.Int32).alias(N_PREFIX),
        pl.lit(find_bos(tokenizer), dtype=pl.Int64).alias(BOS_ID),
    )


def as_windows(given: Any, model: Any, tokenizer: Any = None) -> pl.DataFrame:
    """Windows as they are; texts cut into windows of 32 + 32 tokens of the model's tokenizer."""
    source = given if isinstance(given, pl.DataFrame) else as_source(given)
    is_cut = isinstance(source, pl.DataFrame) and "tokens" in source.columns
    return as_table(source) if is_cut else windows(source, tokenizer_of(model, tokenizer))


def scan(
    model: Any,
    windows: Any,
    *,
    tokenizer: Any = None,
    decode: bool = False,
    prefix: int | None = None,
    batch_size: BatchSize = "auto",
    decoding: Decoding = "plain",
    progress: Shown = None,
) -> pl.DataFrame:
    """Say of every window whether the model continues its prefix with its suffix, greedily.

    Args:
        model: a name, a path, or a loaded causal model of transformers, also quantized, on several
            devices, or wrapped by PEFT. It is left as it was.
        windows: as `windows` gives them; any frame with a column `tokens`; or texts, which are cut
            into 32 + 32 tokens.
        tokenizer: the model's, where neither a name nor the windows tell it.
        decode: write the continuations down too. Without it a window is left at its first wrong
            token, by teacher forcing, which is several times as fast; both agree but for ties that
            rounding decides.
        prefix: tokens shown; as the windows say, or half, unless given.
        batch_size: windows at once. ``auto`` is 64 on a processor; on an accelerator 65,536
            tokens, or what fits, found by halving. Near ties may depend on it.
        decoding: of `decode`: ``plain``, or ``published``: the end-of-text token is never written,
            and hidden in the prefix, as the code of arXiv 2508.02573 does.
        progress: whether to show how far it is; None: in a notebook.

    Returns:
        The windows with `is_memorized` bool and `smallest_gap` float32, the smallest difference
        between the two best logits up to the first wrong token: near 0, rounding could flip the
        verdict. With `decode` also `memorization_score` float32, the share of positions that agree,
        and `continuation`, list of int32. What an earlier scan said of them, and classes, are
        left out.

    Raises:
        UserError: windows of another model's tokenizer, longer than the model's positions, or
            logits that are not finite.
        NoRoomError: not even one window fits into memory.

    Source: the extraction of arXiv 2508.02573: 32 greedy tokens that equal the suffix.
    """
    if isinstance(windows, pl.DataFrame) and windows.is_empty() and "tokens" in windows.columns:
        return _nothing(windows, decode)
    table = as_windows(windows, model, tokenizer)
    n_shown = prefix_of(table, prefix)
    table = _without_answers(table, n_shown)  # which may be another model's
    if N_PREFIX in table.columns or prefix is not None:
        table = table.with_columns(pl.lit(n_shown, dtype=pl.Int32).alias(N_PREFIX))
    with opened_model(model, tokenizer, table=table) as lm:
        tokens = token_matrix(table)
        ask: Any = scan_memorized
        if decode:
            ask = partial(continue_sequences, decoding=decoding)
        answers = ask(
            lm,
            tokens,
            batch_size=windows_at_once(lm, batch_size, tokens.shape[1]),
            prefix=n_shown,
            attention_mask=whole_mask(table),
        )
        frames = []
        with following(progress, "Scanning", table.height) as counted:
            for answer in answers:
                frames.append(_decoded(answer) if decode else pl.DataFrame(answer._asdict()))
                counted.advance(frames[-1].height)
    return table.with_columns(pl.concat(frames, rechunk=True).get_columns())


def _without_answers(table: pl.DataFrame, prefix: int | None) -> pl.DataFrame:
    """Windows without an earlier scan's answers, its classes, and features of other prefixes."""
    classes = [
        name
        for name, dtype in table.schema.items()
        if isinstance(dtype, pl.Enum) and NON_MEMO in dtype.categories
    ]
    is_other = prefix is not None and N_PREFIX in table.columns and prefix_of(table, None) != prefix
    return table.drop(*VERDICTS, *classes, *(_BY_PREFIX if is_other else ()), strict=False)


def _nothing(table: pl.DataFrame, decode: bool) -> pl.DataFrame:
    """No windows, with the columns that a scan gives."""
    schema = {name: COLUMNS[name].dtype for name in VERDICTS}
    kept = VERDICTS if decode else ("is_memorized", "smallest_gap")
    made = (pl.Series(name, [], dtype=schema[name]) for name in kept)
    return _without_answers(table, None).with_columns(made)


def _decoded(batch: Any) -> pl.DataFrame:
    """Columns of a batch of continuations; -1 marks places where the suffix is padded."""
    written = [row[row >= 0].tolist() for row in batch.tokens]
    return pl.DataFrame(
        {
            "is_memorized": batch.score == 1.0,
            "memorization_score": batch.score,
            "continuation": pl.Series(written, dtype=pl.List(pl.Int32)),
            "smallest_gap": batch.smallest_gap,
        }
    )


@overload
def classify(
    windows: Any,
    taxonomy: str | Taxonomy,
    *,
    corpus: Any = ...,
    tokenizer: Any = ...,
    patterns: PatternMode = ...,
    prefix: int | None = ...,
) -> pl.DataFrame: ...


@overload
def classify(
    windows: Any,
    taxonomy: Sequence[str | Taxonomy],
    *,
    corpus: Any = ...,
    tokenizer: Any = ...,
    patterns: PatternMode = ...,
    prefix: int | None = ...,
) -> pl.DataFrame: ...


def classify(
    windows: Any,
    taxonomy: str | Taxonomy | Sequence[str | Taxonomy],
    *,
    corpus: Any = None,
    tokenizer: Any = None,
    patterns: PatternMode = "published",
    prefix: int | None = None,
) -> pl.DataFrame:
    """Give every scanned window its class under a taxonomy, and compute what its nodes ask.

    Args:
        windows: a frame with `is_memorized`, as `scan` gives it, and `tokens`.
        taxonomy: a name such as ``"Non-Memo, Guess, Recall"``, or several; ``"catalogue"`` stands
            for the 54 published ones.
        corpus: the training texts, for nodes that ask how often a suffix occurs there: a folder or
            a packed file of tokens, or arrays of token ids; a column `duplicates` does as well.
        tokenizer: the model's, to read a corpus of texts.
        patterns: rules for `is_incrementing` and `is_repeating`: the paper's, or ``"strict"``.
        prefix: tokens shown, of windows that do not say it (`n_prefix`); else half.

    Returns:
        The windows with the features that were asked for (`rouge_l`, `is_repeating`, ...) and a
        column `class`, an Enum whose categories are the taxonomy's classes in their order; of
        several taxonomies a column each, by its name. Null where a feature that decides is null.

    Raises:
        UserError: windows that were not scanned, an unknown taxonomy, or a feature that is neither
            there nor can be computed.

    Source: the decision lists of arXiv 2508.02573, section 4.
    """
    table, taxonomies = as_table(windows), _taxonomies(taxonomy)
    n_shown = prefix_of(table, prefix)
    if n_shown != (scanned := prefix_of(table, None)):
        if N_PREFIX in table.columns:
            raise UserError(
                f"prefix {n_shown}: the windows were scanned with {scanned}. Scan them with this "
                "one first: ms.scan(model, windows, prefix=...)."
            )
        table = table.drop(_BY_PREFIX, strict=False)
        table = table.with_columns(pl.lit(n_shown, dtype=pl.Int32).alias(N_PREFIX))
    if not has_verdict(table.columns):
        raise UserError(
            "windows: whether they are memorized is not known. Ask first: ms.scan(model, windows)."
        )
    lacking = missing_columns(table.columns, taxonomies)
    needed = {column for columns in lacking.values() for column in columns}
    if {"is_incrementing", "is_repeating"} & needed and not has_values(table, "text"):
        raise UserError(
            "windows: no column 'text', in which patterns are sought. Keep it from ms.windows."
        )
    if computed := [name for name in FEATURES if name in needed]:
        where: Any = None
        if corpus is not None:
            known = None if tokenizer is None else as_tokenizer(tokenizer)
            is_place = isinstance(corpus, str) or hasattr(corpus, "__fspath__")
            if is_place:
                where = open_corpus(corpus, tokenizer=known, dtype=None)
            else:
                where = corpus if isinstance(corpus, Corpus) else _documents(corpus)
        if "duplicates" in needed and where is None:
            raise UserError(
                f"taxonomy '{next(iter(lacking))}': how often a suffix occurs in the training "
                "texts is not known. Give corpus=, or windows with a column 'duplicates'."
            )
        made = add_features(
            table.drop(computed, strict=False),
            patterns=patterns,
            length=len(table["tokens"][0]),
            prefix=n_shown,
            corpus=where,
            where="windows",
        )
        table = table.with_columns(made.select(computed).get_columns())
    is_one = isinstance(taxonomy, str | Taxonomy) and len(taxonomies) == 1
    return table.with_columns(
        label_sequences(table, one).cast(pl.Enum(one.classes)).alias(CLASS if is_one else one.name)
        for one in taxonomies
    )


def _documents(corpus: Any) -> Iterator[np.ndarray]:
    """Documents as arrays of token ids; UserError for anything else."""
    wanted = "give a folder, a file, or a list of arrays of token ids, one a document."
    if not isinstance(corpus, Iterable):
        raise UserError(f"corpus: {a_kind(corpus)}; {wanted}")
    for number, one in enumerate(corpus):
        document = np.array([one]) if isinstance(one, str) else np.asarray(one)
        if document.ndim != 1 or (document.size and document.dtype.kind not in "iu"):
            raise UserError(f"corpus, number {number}: {a_kind(one)}; {wanted}")
        yield document


def _taxonomies(given: str | Taxonomy | Sequence[str | Taxonomy]) -> list[Taxonomy]:
    found: list[Taxonomy] = []
    many: Any = given  # whatever was handed over
    is_one = isinstance(many, str | Taxonomy) or not isinstance(many, Sequence)
    for one in [many] if is_one else many:
        if not isinstance(one, str | Taxonomy):
            raise UserError(
                f"taxonomy: {a_kind(one)}; give a name, such as 'Non-Memo, Guess, Recall'."
            )
        found += [one] if isinstance(one, Taxonomy) else load_taxonomies([one])
    if len({one.name for one in found}) < len(found):
        raise UserError("taxonomy: one of them is named twice. Name each once.")
    if not found:
        raise UserError("taxonomy: none given. Name one, such as 'Non-Memo, Guess, Recall'.")
    return found
