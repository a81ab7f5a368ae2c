"""Sequences and their classes for other evaluation tools, and a task of lm-evaluation-harness.

`lm_eval --include_path DIR --tasks NAME` then says of any of its models, class by class, how much
of the suffixes it reproduces. `inspect_task` asks the same in inspect_ai. Both speak in texts, so
only sequences whose prefix survives being decoded and read again are asked about.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import yaml

from mnemoscope.data.table import (
    check_columns,
    check_ids,
    read_table,
    refuse_padding,
    token_matrix,
    write_table,
)
from mnemoscope.errors import UserError
from mnemoscope.files import made_folder, refuse_filled, write_text
from mnemoscope.flow import lm_eval_score
from mnemoscope.study.folder import Study, is_study
from mnemoscope.taxonomy.catalogue import load_taxonomies
from mnemoscope.taxonomy.labels import count_classes, label_sequences

_VERSION = 1  # of the tasks; raised when their figures change
_METRICS = ("exact_match", "longest_match")


@dataclass(frozen=True)
class TaskRequest:
    """Sequences, and their classes: a model is shown the prefix and asked for the suffix."""

    frame: pl.DataFrame  # `sequence_id` and `tokens` of one length, a row a sequence
    # the class of each row, null for none; None where there are no classes
    labels: pl.Series | None
    tokenizer: str  # name of the model that the sequences were cut for
    revision: str | None  # of that model
    prefix: int | None  # tokens shown; None is half of a sequence
    where: str  # the table's name, for messages


def asked_of(
    target: Path,
    *,
    taxonomy: str | None = None,
    tokenizer: str | None = None,
    prefix: int | None = None,
    verb: str = "lm-eval-task",
) -> TaskRequest:
    """The sequences and classes of a study, or of a table with `tokens`.

    The classes are those of `taxonomy`; without one those of the first that the study was labelled
    under, or a table's column `class`. `verb` is what messages begin with. Raises UserError: a
    table without `tokenizer`, a study with one or with `prefix` or without labels, or a name that
    stands for several taxonomies.
    """
    if is_study(target):
        if tokenizer is not None or prefix is not None:
            raise UserError(f"{verb}: a study has its own --tokenizer and --prefix.")
        study = Study(target)
        frame, prefix = study.sequences, study.settings.sequences.n_prefix
        tokenizer, revision = study.settings.model.name, study.settings.model.revision
        if taxonomy is None:  # as labelled: what the settings name first may have been left out
            study.require("label")
            given = study.labels.select("sequence_id", pl.nth(1).alias("class"))
            frame = frame.drop("class", strict=False).join(
                given, on="sequence_id", how="left", maintain_order="left"
            )
    else:
        if tokenizer is None:
            raise UserError(f"{verb}: a table needs --tokenizer, the model it was cut for.")
        frame, revision = read_table(target), None
    labels = frame["class"] if taxonomy is None and "class" in frame.columns else None
    if taxonomy is not None:
        found = load_taxonomies([taxonomy])
        if len(found) > 1:
            raise UserError(f"{verb}: -t {taxonomy} names {len(found)} taxonomies. Give one.")
        labels = label_sequences(frame, found[0])
    return TaskRequest(frame, labels, tokenizer, revision, prefix, str(target))


@dataclass(frozen=True)
class Shown:
    """The sequences that texts can carry."""

    # `sequence_id`, `class`, `prefix`, `suffix`, and `ends`: the character of the suffix at which
    # each of its tokens ends
    rows: pl.DataFrame
    n_suffix: int  # tokens of a suffix
    # left out because their text gives the tokenizer other tokens, or holds special ones
    n_altered: int
    n_unlabelled: int  # left out because they have no class


def shown_rows(
    asked: TaskRequest, tokenizer: Any, *, most: int | None = None, seed: int = 0
) -> Shown:
    """Decode prefixes and suffixes, and keep the sequences whose prefix survives it.

    The tokenizer is that of the model they were cut for; at most `most` of each class are kept,
    drawn by `seed`. Raises UserError: a table that cannot be shown to a model, or no sequence left.
    """
    frame, where = asked.frame, asked.where
    check_columns(frame, "sequence_id", "tokens", where=where)
    check_ids(frame["sequence_id"], where)
    refuse_padding(frame, where=where)
    tokens = token_matrix(frame)
    n_prefix = tokens.shape[1] // 2 if asked.prefix is None else asked.prefix
    if not 0 < n_prefix < tokens.shape[1]:
        raise UserError(f"--prefix {n_prefix}: {where} has {tokens.shape[1]} tokens a sequence.")
    unknown = pl.Series([None] * frame.height, dtype=pl.String)
    classes = unknown if asked.labels is None else asked.labels
    kept = frame.select("sequence_id", classes.alias("class")).with_row_index("row")
    if asked.labels is not None:
        kept = kept.drop_nulls("class")
    n_unlabelled = frame.height - kept.height
    texts = [_texts(tokenizer, tokens[row], n_prefix) for row in kept["row"]]
    kept = kept.with_columns(
        pl.Series(name, [one and one[place] for one in texts], kind)
        for place, (name, kind) in enumerate(_TEXTS.items())
    ).drop_nulls("prefix")
    n_altered = frame.height - n_unlabelled - kept.height
    if kept.is_empty():
        raise UserError(
            f"{where}: no sequence is left: {n_unlabelled:,} have no class, and the texts of "
            f"{n_altered:,} give other tokens. Is it the tokenizer that cut them?"
        )
    kept = kept.drop("row")
    if most is not None:
        lots = pl.Series("lot", np.random.default_rng(seed).permutation(kept.height))
        place = pl.col("lot").rank("ordinal").over("class")
        kept = kept.with_columns(lots).filter(place <= most).drop("lot")
    return Shown(kept, tokens.shape[1] - n_prefix, n_altered, n_unlabelled)


def write_task(shown: Shown, out: Path, *, name: str) -> str:
    """Write a task folder: a group with one task a class, or a single task without classes.

    Characters of `name` other than letters and digits become `_`; that name, which `--tasks` takes,
    is given back. Raises UserError: a folder with other content. NoRoomError: the disk is full.
    """
    refuse_filled(out)
    made_folder(out)
    write_table(out / lm_eval_score.FILE, shown.rows)
    write_text(out / "lm_eval_score.py", Path(lm_eval_score.__file__).read_text(encoding="utf-8"))
    name = _slug(name)
    labels = shown.rows["class"].drop_nulls()
    if labels.is_empty():
        return _write_task(out, name, None, shown.n_suffix)
    tasks = [
        _write_task(out, f"{name}_{_slug(one)}", one, shown.n_suffix)
        for one in count_classes(labels)
    ]
    means = [{"metric": metric, "weight_by_size": True} for metric in _METRICS]
    version = {"version": _VERSION}
    return _write_yaml(out, group=name, task=tasks, aggregate_metric_list=means, metadata=version)


class _Texts(NamedTuple):
    """Both texts, and where in the suffix each of its tokens ends."""

    prefix: str
    suffix: str
    ends: list[int]


_TEXTS = {"prefix": pl.String(), "suffix": pl.String(), "ends": pl.List(pl.Int32())}


def _texts(tokenizer: Any, tokens: np.ndarray, n_prefix: int) -> _Texts | None:
    """Prefix, suffix (decoded by itself) and where its tokens end; None if they do not hold."""
    shown, asked = tokens[:n_prefix].tolist(), tokens[n_prefix:].tolist()
    prefix = tokenizer.decode(shown, clean_up_tokenization_spaces=False)
    special = {*tokenizer.all_special_ids}
    if special & {*tokens.tolist()} or tokenizer.encode(prefix, add_special_tokens=False) != shown:
        return None
    decoded = [
        tokenizer.decode(asked[:n], clean_up_tokenization_spaces=False)
        for n in range(1, len(asked) + 1)
    ]
    # The rest of a character comes with a later token; until then it is a replacement character.
    ends = [len(text.rstrip("\ufffd")) for text in decoded[:-1]]
    return _Texts(prefix, decoded[-1], [*ends, len(decoded[-1])])


def _write_task(out: Path, name: str, label: str | None, n_suffix: int) -> str:
    """Write one task; its name."""
    of_class = {} if label is None else {"task_alias": label, "dataset_kwargs": {"label": label}}
    return _write_yaml(
        out,
        task=name,
        **of_class,
        custom_dataset="!function lm_eval_score.load",
        test_split="test",
        output_type="generate_until",
        doc_to_text="prefix",
        doc_to_target="suffix",
        generation_kwargs={"do_sample": False, "until": [], "max_gen_toks": n_suffix},
        process_results="!function lm_eval_score.process_results",
        metric_list=[
            {"metric": metric, "aggregation": "mean", "higher_is_better": False}
            for metric in _METRICS
        ],
        metadata={"version": _VERSION},
    )


def _write_yaml(out: Path, **values: Any) -> str:
    """Write a task or group; its name."""
    name = str(values.get("group") or values["task"])
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    text = re.sub(r"'(!function [\w.]+)'", r"\1", text)
    write_text(out / f"{name}.yaml", text)
    return name


def _slug(name: str) -> str:
    """Letters, digits and `_`, with the signs that tell thresholds apart in words."""
    words = name.replace("<", "_below_").replace(">", "_above_")
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
