"""Verdicts that a capture finds in its own forward, kept for the stage `continue` to take over.

Where a table is captured whole before it has labels, and the study wants a scan, one forward
serves both: see `mnemoscope.lm.one_forward`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.errors import DamagedDataError
from mnemoscope.lm.scan import Scan
from mnemoscope.parquet import read_parquet, write_parquet
from mnemoscope.progress import say
from mnemoscope.stages.continuation import as_found, chunk_folder, chunk_name
from mnemoscope.study import Study

__all__ = ["hand_over", "note_verdicts", "verdict_folder"]

_SCHEMA = pl.Schema(
    {"sequence_id": pl.Int64(), "is_memorized": pl.Boolean(), "smallest_gap": pl.Float32()}
)


def verdict_folder(study: Study) -> Path | None:
    """Where a capture is to note its verdicts; None where nobody wants them.

    They are wanted with the setting `continue.scan`, before labels and verdicts are there. The
    folder stands beside the parts of `continue` and goes with them.
    """
    settled = study.is_done("continue") or study.is_done("label")
    if settled or not study.settings.continue_.scan:
        return None
    return study.folder / "continuation" / f"verdicts-{study.key('continue')[:12]}"


def note_verdicts(folder: Path, ids: np.ndarray, scans: Sequence[Scan]) -> None:
    """Write the verdicts of one shard's sequences, before the shard itself.

    Args:
        folder: of `verdict_folder`.
        ids: `sequence_id` of the shard's rows, in order.
        scans: of the same rows, batch by batch.
    """
    frame = pl.DataFrame(
        {
            "sequence_id": ids,
            "is_memorized": np.concatenate([scan.is_memorized for scan in scans]),
            "smallest_gap": np.concatenate([scan.smallest_gap for scan in scans]),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / f"from-{ids[0]}.parquet", frame)


def hand_over(study: Study, folder: Path) -> None:
    """Turn the noted verdicts into the parts that `continue` finds done when it runs.

    A part of which a verdict is missing (its maps stood in the store before, or the file of its
    verdicts is torn) is left to the scan.
    """
    frames = [pl.DataFrame(schema=_SCHEMA)]
    for path in sorted(folder.glob("from-*.parquet")):
        try:
            frames.append(read_parquet(path).select(*_SCHEMA))
        except (OSError, DamagedDataError, pl.exceptions.PolarsError):
            say(f"{path}: torn. 'mnemoscope continue' finds these verdicts anew.")
    noted = pl.concat(frames)
    known = study.sequences.select("sequence_id").join(
        noted.unique("sequence_id"), on="sequence_id", how="left", maintain_order="left"
    )
    part_rows, parts = study.settings.continue_.part_rows, chunk_folder(study)
    parts.mkdir(parents=True, exist_ok=True)
    n_known = 0
    for start in range(0, known.height, part_rows):
        part = known[start : start + part_rows]
        if not part["is_memorized"].null_count():
            write_parquet(parts / chunk_name(start), as_found(part))
            n_known += part.height
    say(
        f"Verdicts of {n_known:,} sequences found in the same forward: "
        f"'mnemoscope continue {study.folder}' takes them over."
    )
