"""What people hand over, as the rooms take it: a model, texts or windows, a batch size.

A name, a path and a loaded model are the same argument everywhere; so are texts, in whatever they
come. What does not fit is a `UserError` that says what was given and what is wanted.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from mnemoscope.data.hub import parse_hub_name
from mnemoscope.data.read import WindowCutter
from mnemoscope.data.rows import to_frame
from mnemoscope.data.table import check_sequences, conform, has_values, without_padding
from mnemoscope.embedded import place_of
from mnemoscope.errors import UserError, a_kind
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel, evaluation_mode, wrap_model
from mnemoscope.lm.placement import rows_at_once
from mnemoscope.lm.tokenizer import load_tokenizer
from mnemoscope.progress import SILENT, Progress, progress_shown, track

BatchSize = int | Literal["auto"]
Shown = bool | Progress | None
"""Whether progress is shown; None: in a notebook."""

N_PREFIX, BOS_ID = "n_prefix", "bos_id"
"""Columns of windows that say how they are read: tokens of the prefix; what the model reads first.

The same in every row; `bos_id` is null where the tokenizer puts nothing before a text.
"""
_CHECKED = 64  # rows, from first to last, whose tokens are compared with their text
_LONGEST_NAME = 255  # characters of a file's name


@contextmanager
def opened_model(
    model: Any,
    tokenizer: Any = None,
    *,
    table: pl.DataFrame | None = None,
    for_study: bool = False,
) -> Iterator[LanguageModel]:
    """A model as the rooms take it, inside this block without dropout; as it was afterwards.

    Args:
        model: a folder, a hub name, a `.gguf` file or ``"embedded"``; or a loaded causal model of
            transformers, quantized, on any devices, or wrapped by PEFT.
        tokenizer: the model's, or its name; needed only where neither the name nor the windows
            say what the model reads before a text.
        table: windows that it is to read (`bos_id`).
        for_study: with its tokenizer, and the fingerprint, which reads all its weights.

    Raises:
        UserError: something else, a model that cannot be loaded, or the windows of another
            tokenizer.
    """
    if isinstance(model, LanguageModel):
        yield model
        return
    if isinstance(model, str | Path):
        lm = load_model(place_of(str(model)))
        _check_windows(lm, table)
        yield lm
        return
    inner = _inner(model)
    with evaluation_mode(inner):
        yield _described(inner, tokenizer, table, for_study)


def _described(
    model: Any, tokenizer: Any, table: pl.DataFrame | None, for_study: bool
) -> LanguageModel:
    """A loaded model, in evaluation mode, with its tokenizer as far as it is known."""
    given = _cached_tokenizer(model) if tokenizer is None else as_tokenizer(tokenizer)
    if given is None and for_study:
        given = tokenizer_of(model)
    lm = wrap_model(model, given, name=_name_of(model), fingerprint=None if for_study else "")
    if given is None:
        lm = replace(lm, bos_id=_bos_of(model, table))
    _check_windows(lm, table)
    return lm


def _inner(model: Any) -> Any:
    """The causal model inside a PEFT wrapper, with its adapter as it is; else the model."""
    from transformers import PreTrainedModel

    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise UserError("model: its PEFT adapter learns a prompt. Give one with LoRA, or merge it.")
    inner = model.get_base_model() if config is not None else model
    if not isinstance(inner, PreTrainedModel):
        raise UserError(
            f"model: {a_kind(model)}; give a folder, a hub name, or a causal model of "
            "transformers (AutoModelForCausalLM)."
        )
    if any(one.is_meta for one in inner.parameters()) and not hasattr(inner, "hf_device_map"):
        raise UserError(
            f"model: {a_kind(inner)} on the device meta, without its weights. Load these first."
        )
    if inner.get_output_embeddings() is None or inner.config.is_encoder_decoder:
        raise UserError(
            f"model: {a_kind(inner)}, no causal language model with its head. Load it "
            "with AutoModelForCausalLM."
        )
    return inner


def _name_of(model: Any) -> str:
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


def as_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer, or that of a name or a loaded model; UserError for anything else."""
    if isinstance(tokenizer, str | Path):
        if len(str(tokenizer)) > _LONGEST_NAME:
            raise UserError("tokenizer: a long text. Give a tokenizer, or a model's name.")
        return load_tokenizer(place_of(str(tokenizer)))
    if isinstance(tokenizer, LanguageModel):
        return tokenizer.tokenizer
    if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
        raise UserError(
            f"tokenizer: {a_kind(tokenizer)}; give a tokenizer of transformers "
            "(AutoTokenizer), or its name."
        )
    return tokenizer


def tokenizer_of(model: Any, tokenizer: Any = None) -> Any:
    """The tokenizer that goes with a model; UserError where none is known."""
    if tokenizer is not None:
        return as_tokenizer(tokenizer)
    if isinstance(model, str | Path | LanguageModel):
        return as_tokenizer(model)
    found = _cached_tokenizer(_inner(model))
    if found is None:
        raise UserError(f"{_name_of(_inner(model))}: its tokenizer is not known. Give tokenizer=.")
    return found


def _cached_tokenizer(model: Any) -> Any | None:
    """The tokenizer beside a loaded model's weights, if they came from a folder or the cache."""
    return _tokenizer_beside(str(getattr(model, "name_or_path", "") or ""))


@lru_cache(maxsize=4)
def _tokenizer_beside(name: str) -> Any | None:
    from transformers import AutoTokenizer

    if not name:
        return None
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _bos_of(model: Any, table: pl.DataFrame | None) -> int | None:
    """What a loaded model reads before a text, when nobody gave its tokenizer."""
    if table is not None and BOS_ID in table.columns:
        found: int | None = _constant(table, BOS_ID)
        return found
    if model.config.get_text_config().bos_token_id is None:
        return None
    raise UserError(
        f"{_name_of(model)}: whether it reads a token before a text is not known. Give tokenizer=, "
        "or windows made by ms.windows."
    )


def _check_windows(lm: LanguageModel, table: pl.DataFrame | None) -> None:
    """Refuse windows that were cut with the tokenizer of another model."""
    if table is None or BOS_ID not in table.columns:
        return
    other = "Cut them with this model's: ms.windows(texts, tokenizer)."
    if (bos_id := _constant(table, BOS_ID)) != lm.bos_id:
        raise UserError(
            f"windows: their tokenizer puts token {bos_id} before a text, that of {lm.name} "
            f"{lm.bos_id}. {other}"
        )
    if lm.tokenizer is None or not has_values(table, "text"):
        return
    first = table.gather_every(max(1, table.height // _CHECKED))
    decoded = WindowCutter(lm.tokenizer).decode(without_padding(first))
    for sequence_id, text, said in zip(first["sequence_id"], first["text"], decoded, strict=True):
        if text != said:
            raise UserError(
                f"windows, sequence {sequence_id}: another text to the tokenizer of {lm.name} "
                f"({said[:30]!r}, not {text[:30]!r}). {other}"
            )


def _constant(table: pl.DataFrame, column: str) -> Any:
    values = table[column].unique()
    if len(values) != 1:
        raise UserError(
            f"windows, column '{column}': {len(values)} values where one holds for all. Windows "
            "made in different ways are asked one table at a time."
        )
    return values[0]


# -- texts and windows --------------------------------------------------------------------------


def as_source(texts: Any) -> Any:
    """Texts as `read_sequences` takes them: a path, or a frame with a column `text` or `tokens`.

    A string that names a file or folder that is there is read, in a list too, and alone a data set
    of the hub; any other is a text.
    """
    if isinstance(texts, Path):
        return texts
    if isinstance(texts, str):
        if texts.strip() and (parse_hub_name(texts) is not None or _exists(texts)):
            return texts
        if len(texts) <= _LONGEST_NAME and len(texts.split()) < 2:
            raise UserError(
                f"texts: {texts[:40]!r} is no file, folder or data set of the hub, and no text "
                "either. Give a path that exists, a text, or a list of texts."
            )
        return pl.DataFrame({"text": [texts], "document": ["text"]})
    if type(texts).__name__ == "Series" and hasattr(texts, "to_list"):  # Polars' or pandas'
        return as_source(texts.to_list())
    if isinstance(texts, np.ndarray) and texts.dtype.kind in "UO" and texts.ndim == 1:
        return as_source(texts.tolist())
    if isinstance(texts, bytes):
        raise UserError("texts: bytes; decode them first (.decode('utf-8')).")
    if isinstance(texts, np.ndarray):
        return _of_tokens(texts)
    if isinstance(texts, Mapping):
        _check_texts(texts.values())
        return pl.DataFrame(
            {"text": list(texts.values()), "document": [str(name) for name in texts]},
            schema={"text": pl.String, "document": pl.String},
        )
    if isinstance(texts, Sequence):
        if paths := [one for one in texts if _is_path(one)]:
            if len(texts) == 1:
                return as_source(paths[0])
            raise UserError(
                f"texts: a list with the path {str(paths[0])!r}. Give one path, a file or the "
                "folder that holds them all, or a list of texts."
            )
        _check_texts(texts)
        names = [f"text {number}" for number in range(len(texts))]
        schema = {"text": pl.String, "document": pl.String}
        return pl.DataFrame({"text": list(texts), "document": names}, schema=schema)
    return to_frame(texts)


def _is_path(given: Any) -> bool:
    """Whether one of a list is a path, or a string that names what is there."""
    if not isinstance(given, str):
        return isinstance(given, Path)
    return bool(given.strip()) and len(given) <= _LONGEST_NAME and _exists(given)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or a zero byte: a text
        return False


def _check_texts(texts: Any) -> None:
    texts = list(texts)
    if not texts:
        raise UserError("texts: none given.")
    for number, one in enumerate(texts):
        if not isinstance(one, str):
            raise UserError(f"texts, number {number}: {a_kind(one)} where a str is needed.")


def _of_tokens(tokens: np.ndarray) -> pl.DataFrame:
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(
            f"windows: an array of {tokens.dtype}, shape {tokens.shape}, where token ids of shape "
            "(sequences, tokens) are needed."
        )
    return pl.DataFrame({"tokens": tokens.astype(np.int64).tolist()})


def as_table(windows: Any, *, where: str = "windows") -> pl.DataFrame:
    """Windows as a Polars frame: `sequence_id`, `tokens` of one length, and all they came with.

    Raises UserError: no frame or array, no column `tokens`, none or unequal ones, ids twice.
    """
    if isinstance(windows, str | Path | Mapping):
        raise UserError(f"{where}: {a_kind(windows)}. Cut it first: ms.windows(texts, tokenizer).")
    table = windows if isinstance(windows, pl.DataFrame) else as_source(windows)
    if isinstance(table, pl.DataFrame) and table.is_empty():
        raise UserError(f"{where}: none. Give at least one.")
    if not has_values(table, "tokens"):
        raise UserError(
            f"{where}: no column 'tokens'. Cut texts first: ms.windows(texts, tokenizer)."
        )
    if "group" in table.columns and table["group"].dtype.is_integer():
        table = table.with_columns(pl.col("group").cast(pl.String))
    table = conform(table, where=where)
    if "sequence_id" not in table.columns:
        numbers = pl.int_range(pl.len(), dtype=pl.Int64).alias("sequence_id")
        table = table.select(numbers, pl.all())
    check_sequences(table, where=where, length=len(table["tokens"][0]))
    return table


def prefix_of(table: pl.DataFrame, prefix: int | None) -> int:
    """Tokens of the prefix: as given, as the windows say, or half; UserError for none or all."""
    if prefix is None:
        given = _constant(table, N_PREFIX) if N_PREFIX in table.columns else None
        prefix = len(table["tokens"][0]) // 2 if given is None else given
    prefix = whole_number(prefix, "prefix")
    if not 0 < prefix < len(table["tokens"][0]):
        raise UserError(
            f"prefix {prefix}: windows of {len(table['tokens'][0])} tokens have 1 to "
            f"{len(table['tokens'][0]) - 1} of them."
        )
    return prefix


def whole_number(value: Any, name: str, *, least: int = 1) -> int:
    """A whole number of Python or NumPy; UserError for anything else, or less."""
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise UserError(f"{name} {value!r}: give a whole number, at least {least}.")
    return number


def windows_at_once(lm: LanguageModel, batch_size: BatchSize, length: int) -> int:
    """The batch size, for windows of so many tokens."""
    n_rows = None if batch_size == "auto" else whole_number(batch_size, "batch_size")
    return rows_at_once(n_rows, lm.device, length)


@contextmanager
def following(shown: Shown, label: str, total: int) -> Iterator[Progress]:
    """What counts the sequences done: a bar in a notebook or where asked, else nothing."""
    if shown is False:
        yield SILENT
    elif isinstance(shown, bool | None):
        with progress_shown(shown), track(label, total=total) as progress:
            yield progress
    elif hasattr(shown, "advance"):
        yield shown
    else:
        raise UserError(f"progress: {a_kind(shown)}; give True, False or None.")
