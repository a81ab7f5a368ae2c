"""Stage `continue`: find which sequences the model reproduces, and what it writes instead.

Also takes over verdicts that a capture found in its own forward passes. Each chunk of the table is
written when done, so a killed run resumes with the next one.
"""

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.data.table import look_up, token_matrix, whole_mask
from mnemoscope.lm.model import recording_batch_size
from mnemoscope.pipeline.blocks import Block, OpenWorker, as_found, make_tables, open_workers
from mnemoscope.progress import say
from mnemoscope.store import keep_table, kept_table
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models

VERDICTS_FILE = "verdicts.parquet"
_CHECK_SEED = 0
_CHECKING = "Checking scan against decoding"


def continue_stage(study: Study, models: Models) -> None:
    """Write `verdicts.parquet`: which sequences the model reproduces, and what it writes.

    With `continue.scan` only `is_memorized` and `smallest_gap` are found here; score and
    continuation stay null until a stage needs them.
    """
    with open_workers(study, "continue", models) as open_worker:
        continue_with(study, open_worker)


def continue_with(study: Study, open_worker: OpenWorker, *, check: bool = True) -> None:
    """Run the stage by `open_worker`; `check` compares scan and decoding on a draw."""
    study.require("sequences")
    settings, folder = study.settings.continue_, chunk_folder(study)
    with study.finishing("continue") as counts, recording_batch_size(counts, folder / "halved"):
        blocks = chunk_blocks(study)
        n_lacking = sum(not (folder / block.name).is_file() for block in blocks)
        with open_worker("model", n_lacking) as worker:
            label = "Scanning" if settings.scan else "Continuing"
            found = pl.concat(make_tables(worker, blocks, label, folder))
            ids = study.sequences["sequence_id"]
            study.write(VERDICTS_FILE, found.select(ids, pl.all()))
            counts |= {
                "sequences": found.height,
                "memorized": int(found["is_memorized"].sum()),
                "batch_size": study.settings.model.batch_size,
                "scan_check": {"checked": 0, "disagree": 0},
            }
            rows = draw_rows(found["is_memorized"].to_numpy(), settings.check_rows)
            if check and len(rows):
                drawn = found[rows].select("is_memorized", "smallest_gap")
                tokens, mask = token_matrix(study.sequences), whole_mask(study.sequences)
                mask = None if mask is None else mask[rows]
                block = Block("check", 0, tokens[rows], drawn, mask=mask)
                (checked,) = make_tables(worker, [block], _CHECKING)
                counts["scan_check"] = checked.to_dicts()[0]
    shutil.rmtree(study.folder / "continuation")


def chunk_blocks(study: Study) -> list[Block]:
    """The table in chunks of `continue.part_rows` sequences."""
    tokens, part_rows = token_matrix(study.sequences), study.settings.continue_.part_rows
    mask, blocks = whole_mask(study.sequences), []
    for start in range(0, len(tokens), part_rows):
        rows = slice(start, start + part_rows)
        padded = None if mask is None else mask[rows]
        name, number = chunk_name(start), start // part_rows
        blocks.append(Block("verdicts", number, tokens[rows], pl.DataFrame(), name, mask=padded))
    return blocks


def chunk_folder(study: Study) -> Path:
    """Folder of finished chunks, named by the settings that decide them."""
    part_rows = study.settings.continue_.part_rows
    return study.folder / "continuation" / f"{study.key('continue')[:12]}-{part_rows}"


def chunk_name(start: int) -> str:
    """File name of the chunk that starts at this row of the table."""
    return f"part-{start:09d}.parquet"


def draw_rows(is_memorized: np.ndarray, n_rows: int) -> np.ndarray:
    """Draw row numbers, sorted: half memorized and half not, as far as there are enough of both."""
    order = np.random.default_rng(_CHECK_SEED).permutation(len(is_memorized))
    memorized, others = order[is_memorized[order]], order[~is_memorized[order]]
    n_memorized = min(len(memorized), max(n_rows // 2, n_rows - len(others)))
    n_others = min(len(others), n_rows - n_memorized)
    return np.sort(np.concatenate([memorized[:n_memorized], others[:n_others]]))


# -- verdicts that a capture finds in its own forward -------------------------------------------


def verdict_folder(study: Study) -> Path | None:
    """Where a capture records its verdicts; None if they are not wanted.

    They are wanted with `continue.scan`, before there are labels and verdicts. The folder is beside
    the chunks of `continue` and is removed with them.
    """
    settled = study.is_done("continue") or study.is_done("label")
    if settled or not study.settings.continue_.scan:
        return None
    return study.folder / "continuation" / f"verdicts-{study.key('continue')[:12]}"


def store_scan_verdicts(study: Study, folder: Path) -> None:
    """Turn recorded verdicts into finished chunks of `continue`.

    Chunks that lack a verdict (maps stored before, or a torn file) are left to the scan.
    """
    kinds = {"sequence_id": pl.Int64, "is_memorized": pl.Boolean, "smallest_gap": pl.Float32}
    frames = [pl.DataFrame(schema=kinds)]
    for path in sorted(folder.glob("from-*.parquet")):
        if (kept := kept_table(path, "these verdicts")) is not None:
            frames.append(kept.select(*kinds))
    noted = pl.concat(frames)
    known = look_up(study.sequences.select("sequence_id"), noted.unique("sequence_id"))
    part_rows, chunks = study.settings.continue_.part_rows, chunk_folder(study)
    chunks.mkdir(parents=True, exist_ok=True)
    n_known = 0
    for start in range(0, known.height, part_rows):
        chunk = known[start : start + part_rows]
        if not chunk["is_memorized"].null_count():
            keep_table(chunks / chunk_name(start), as_found(chunk))
            n_known += chunk.height
    say(
        f"Verdicts of {n_known:,} sequences found in the same forward: "
        f"'mnemoscope continue {study.folder}' takes them over."
    )
