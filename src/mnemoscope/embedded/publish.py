"""Write what ships: two model folders in float16, the table of sequences, the card."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch

from mnemoscope.embedded.card import make_card
from mnemoscope.embedded.card_text import write_card
from mnemoscope.embedded.corpus import PREFIX, Corpus, phase_two_rows
from mnemoscope.embedded.measure import measure_sequences
from mnemoscope.embedded.pretrain import new_model
from mnemoscope.embedded.requirements import check_card
from mnemoscope.embedded.settings import Setting
from mnemoscope.embedded.tokenizer import save_tokenizer
from mnemoscope.errors import DamagedDataError
from mnemoscope.parquet import write_parquet
from mnemoscope.sequences.duplicates import count_duplicates

if TYPE_CHECKING:
    from mnemoscope.embedded.recipe import Build

SHIPPED_COLUMNS = (
    "sequence_id",
    "text",
    "tokens",
    "document",
    "start",
    "end",
    "genre",
    "group",
    "held_out",
    "duplicates",
    "inserted",
    "is_code",
)


def publish(
    build: "Build",
    weights: dict[str, dict[str, torch.Tensor]],
    data: Path,
    *,
    report: Callable[[str], None],
) -> Path:
    """Write the shipped files into `data`, measure them as they stand there, write the card.

    Args:
        build: the build folder's content.
        weights: state dicts of `model` and `reference`, float32.
        data: the folder of shipped files; made anew.
        report: called with one line a step.

    Returns:
        `data`.

    Raises:
        DamagedDataError: the counts of two passes differ.
        UnmetRequirementError: the result is not what shall ship; the card, already written, says
            so too.
    """
    begin = time.perf_counter()
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    for name, state in weights.items():
        save_model(state, build.setting, data / name)
        save_tokenizer(build.tokenizer, data / name)
    sequences = shipped_sequences(build.corpus)
    write_parquet(data / "sequences.parquet", sequences, seal=False)  # its sha256 is in the card
    report(f"shipped files written to {data}")
    measured = measure_sequences(sequences, data / "model", data / "reference")
    card = make_card(build, measured, data, publish_seconds=time.perf_counter() - begin)
    write_card(card, data)
    if build.setting.has_requirements:
        check_card(card)
    return data


def save_model(state: dict[str, torch.Tensor], setting: Setting, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (float16) into `folder`."""
    model = new_model(setting)
    model.load_state_dict(state)
    model.half().save_pretrained(folder)


def shipped_sequences(corpus: Corpus) -> pl.DataFrame:
    """The table that ships: the study with the duplicates counted in the rows of a pass.

    Raises:
        DamagedDataError: the counts of two passes differ, or a held-out sequence stands in one.
    """
    suffixes = np.array(corpus.study["tokens"].to_list(), np.int32)[:, PREFIX:]
    counts = [
        count_duplicates(suffixes, phase_two_rows(corpus, epoch).astype(np.int32))
        for epoch in range(len(corpus.second_new))
    ]
    is_held_out = corpus.study["inserted"].to_numpy() == 0
    if any((count != counts[0]).any() for count in counts) or counts[0][is_held_out].any():
        raise DamagedDataError("duplicates differ between passes: the corpus is not as meant")
    return corpus.study.with_columns(
        (pl.col("inserted") == 0).alias("held_out"),
        (pl.col("genre") == "code").alias("is_code"),
        pl.Series("duplicates", counts[0], dtype=pl.Int64),
    ).select(SHIPPED_COLUMNS)
