"""Do one part of `continue` or `capture`: its blocks and no others, into the part's own folder.

The blocks are those of one process (`continue.part_rows`, `capture.shard_rows`) and are dealt out
in turn, so that the parts together make the same batches, and so the same bytes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.atomic_write import write_bytes
from mnemoscope.config import StudySettings
from mnemoscope.lm.batching import note_halved
from mnemoscope.lm.loading import LanguageModel
from mnemoscope.maps.store import MapWriter
from mnemoscope.parquet import read_parquet, write_parquet
from mnemoscope.progress import say, track
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.capture import (
    LOGPROBS_FILE,
    check_head_bytes,
    fill_store,
    logprobs_of,
    maps_folder,
    shown_tokens,
    store_of,
    store_roles,
    wanted_maps,
)
from mnemoscope.stages.continuation import chunk_folder, chunk_name, chunks_of, continue_chunk
from mnemoscope.stages.decoding import DECODED, decode_block, lacking_blocks
from mnemoscope.stages.halving import read_halved
from mnemoscope.stages.models import Models, reference_name
from mnemoscope.stages.padding import mask_of, refuse_padding
from mnemoscope.stages.parts import Part, working_on
from mnemoscope.stages.verdicts import verdict_folder
from mnemoscope.study import Study

__all__ = ["DECODED_FILE", "MAPS_FOLDER", "VERDICTS_FOLDER", "captured_roles", "run_part"]

DECODED_FILE = "decoded.parquet"
MAPS_FOLDER = "maps"
VERDICTS_FOLDER = "verdicts"


def run_part(
    study: Study,
    stage: str,
    part: Part,
    settings: StudySettings | Callable[[StudySettings], StudySettings],
    *,
    redo: bool = False,
) -> Path | None:
    """Do one part of a stage; what an earlier, killed run of it finished is kept.

    The study itself is only read, so several processes, also on several machines that share its
    folder, may each do a part.

    Args:
        study: an existing study whose earlier stages are done.
        stage: `continue` or `capture`.
        part: which.
        settings: of the run, the same in every part; or a function of those the study has.
        redo: begin the part anew.

    Returns:
        The part's folder, None when the stage is done already.

    Raises:
        UserError: the settings differ from what finished stages were made with, a stage before
            is missing, or as `parts.working_on`.
        MnemoscopeError: as the stage itself.
    """
    with study.lock(shared=True):
        wanted = settings(study.settings) if callable(settings) else settings
        study.changed_stages(wanted)
        study.settings = wanted
        study.require("sequences")
        if study.is_done(stage):
            return None
        models = Models(wanted)
        roles = ("model",) if stage == "continue" else captured_roles(study)
        with working_on(study, stage, part, models, roles=roles, redo=redo) as folder:
            if stage == "continue":
                _continue(study, models.model(), part, folder)
            else:
                _capture(study, models, part, folder, roles)
    return folder


def captured_roles(study: Study) -> tuple[str, ...]:
    """The models whose attention a study captures now."""
    with_reference = (
        study.is_done("label")
        and study.settings.benchmark.controls
        and reference_name(study.settings) is not None
    )
    return ("model", "reference") if with_reference else ("model",)


def _continue(study: Study, model: LanguageModel, part: Part, folder: Path) -> None:
    """Continue or scan every n-th chunk of the table."""
    refuse_padding(study)
    chunks = chunks_of(token_matrix(study.sequences), study.settings.continue_.part_rows)
    mine = [chunk for number, chunk in enumerate(chunks) if part.is_mine(number)]
    if not mine:
        say(f"Part {part}: nothing to do, the table has fewer blocks than there are parts.")
    with track(f"Part {part}", total=sum(len(rows) for _, rows in mine)) as progress:
        for start, rows in mine:
            _take_over(chunk_folder(study), folder, chunk_name(start))
            continue_chunk(folder / chunk_name(start), model, rows, study.settings, progress)


def _take_over(kept: Path, folder: Path, name: str) -> None:
    """Take a chunk that the study holds already: from a capture's forward, or of a killed run."""
    if (folder / name).is_file() or not (kept / name).is_file():
        return
    write_bytes(folder / name, (kept / name).read_bytes())
    for size in read_halved(kept / "halved"):
        note_halved(size)


def _capture(
    study: Study, models: Models, part: Part, folder: Path, roles: tuple[str, ...]
) -> None:
    """Capture every n-th shard of what the study's stores lack."""
    wanted = wanted_maps(study)
    model = models.model()
    check_head_bytes(model, wanted.height, study.settings)
    stores = [(role, each) for role in roles for each in store_roles(study.settings, role)]
    loaded = {role: models.model() if role == "model" else models.reference(None) for role in roles}
    judged = None if verdict_folder(study) is None else folder / VERDICTS_FOLDER
    rows = {}
    for role, each in stores:
        lm = loaded[role]
        assert lm is not None
        path = folder / f"rows-{each}.parquet"
        if not path.is_file():
            store = store_of(study.settings, maps_folder(study, each), each, lm)
            write_parquet(
                path, pl.DataFrame({"row": _my_rows(store, wanted, part)}, schema={"row": pl.Int64})
            )
        # What is mine is said once: the study's store may have taken over other parts since.
        rows[each] = read_parquet(path)["row"].to_numpy()
    table = _decode(study, model, wanted, np.unique(np.concatenate(list(rows.values()))), folder)
    for role, each in stores:
        if len(mine := wanted[rows[each]]):
            lm = loaded[role]
            assert lm is not None
            target = folder / MAPS_FOLDER / each
            writer = store_of(study.settings, target, each, lm)
            tokens, mask = shown_tokens(table, mine), mask_of(table, mine)
            noted = judged if each == "model" and mask is None else None
            fill_store(study.settings, each, writer, lm, mine, tokens, mask, verdicts=noted)
    if study.is_done("label") and study.settings.benchmark.controls:
        _logprobs(study, model, wanted, part, folder)


def _my_rows(writer: MapWriter, wanted: pl.DataFrame, part: Part) -> list[int]:
    """Positions in `wanted` of the shards that are this part's."""
    missing = writer.missing(wanted["sequence_id"].to_numpy(), wanted["suffix"].to_list())
    blocks = np.arange(len(missing)) // writer.shard_rows
    return [int(row) for row in missing[blocks % part.n == part.number - 1]]


def _decode(
    study: Study, model: LanguageModel, wanted: pl.DataFrame, rows: np.ndarray, folder: Path
) -> pl.DataFrame:
    """The study's table with the continuations that these rows of `wanted` need."""
    table = study.sequences
    needed = set((rows // study.settings.capture.shard_rows).tolist())
    blocks = [block for block in lacking_blocks(study, wanted) if block[0] in needed]
    if not blocks:
        return table
    path = folder / DECODED_FILE
    if not path.is_file():
        total = sum(frame.height for _, frame in blocks)
        with track("Continuing the sampled Non-Memo", total=total) as progress:
            found = [decode_block(study.settings, model, frame, progress) for _, frame in blocks]
        write_parquet(path, pl.concat(found))
    decoded = read_parquet(path)
    merged = table.join(decoded, on="sequence_id", how="left", suffix="_new", maintain_order="left")
    return merged.with_columns(pl.coalesce(f"{name}_new", name).alias(name) for name in DECODED)


def _logprobs(
    study: Study, model: LanguageModel, wanted: pl.DataFrame, part: Part, folder: Path
) -> None:
    """Log-probabilities of every n-th block of the sampled sequences, with their blocks."""
    path = folder / LOGPROBS_FILE
    if path.is_file():
        return
    rows = study.sequences.join(wanted, on="sequence_id", how="semi")
    shard_rows = study.settings.capture.shard_rows
    frames = [
        logprobs_of(study.settings, model, rows[start : start + shard_rows])
        for number, start in enumerate(range(0, rows.height, shard_rows))
        if part.is_mine(number)
    ]
    if frames:
        say(f"Log-probabilities of {sum(frame.height for frame in frames):,} sequences")
        write_parquet(path, pl.concat(frames))
