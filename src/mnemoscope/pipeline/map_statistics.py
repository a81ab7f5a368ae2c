"""Statistics of each map, computed once for all samples, readers and folds that need them.

Blocks of sampled sequences are kept as `.npy` in `cnn/statistics/`, named by all that decides them;
what is not kept is computed when it is asked for.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.benchmark.baselines import ALL_STATISTICS, all_statistics, blind_maps
from mnemoscope.files import open_array
from mnemoscope.maps.shape import POOLED
from mnemoscope.maps.views import MapSource, StackedMaps
from mnemoscope.pipeline.capture import heads_role, open_maps, shown_tokens
from mnemoscope.pipeline.label import SAMPLES_FILE
from mnemoscope.store import Store
from mnemoscope.study.folder import Study
from mnemoscope.study.models import identity_of

TOKENS = "tokens"
"""The role of the blind maps, which are made of the tokens alone."""
POOLINGS_READ = "mean and max"
_ROWS = 512
_KEY = ["sequence_id", "suffix"]


@dataclass(frozen=True)
class StatisticsTask:
    """A block of sequences (`sequence_id`, `suffix`) to sum up, as sent to another process."""

    study: str
    role: str
    rows: pl.DataFrame
    path: Path

    @property
    def name(self) -> str:
        """Of its artefact."""
        return f"cnn/statistics/{self.path.stem}"


def stored_maps(study: Study, role: str, rows: pl.DataFrame, tensor: str) -> MapSource:
    """One tensor of the stored maps of these rows."""
    store = open_maps(study, heads_role(role) if tensor == "heads" else role)
    return store.dataset(rows["sequence_id"].to_numpy(), rows["suffix"].to_list(), tensor)


def both_poolings(study: Study, role: str, rows: pl.DataFrame) -> MapSource:
    """Mean and maximum over heads, one behind the other."""
    return StackedMaps(*(stored_maps(study, role, rows, name) for name in POOLED))


def statistics_tasks(study: Study, role: str) -> Iterator[StatisticsTask]:
    """The blocks of a role that are not kept yet."""
    for task in _blocks(study, role):
        if not study.store.has(task.name):
            yield task


def keep_statistics(task: StatisticsTask) -> Path:
    """Compute a block and keep it; returns its path."""
    memory = io.BytesIO()
    np.save(memory, _compute(Study(task.study), task.role, task.rows))
    file = f"{task.name}.npy"
    Store(task.study).put(task.name, {file: memory.getvalue()}, key=task.path.stem)
    return task.path


def statistics_of(study: Study, role: str, rows: pl.DataFrame) -> np.ndarray:
    """Statistics of sampled rows, float32 (rows, channels, 22), as `ALL_STATISTICS`."""
    blocks = list(_blocks(study, role))
    if not all(study.store.has(task.name) for task in blocks):
        return _compute(study, role, rows)
    places = pl.concat(
        task.rows.with_row_index("at").with_columns(block=pl.lit(number, dtype=pl.Int64))
        for number, task in enumerate(blocks)
    )
    found = rows.select(_KEY).join(places, on=_KEY, how="left", maintain_order="left")
    if found["block"].null_count():
        return _compute(study, role, rows)
    of_row, at = found["block"].to_numpy(), found["at"].to_numpy()
    asked = {number: blocks[number] for number in np.unique(of_row)}
    if any(study.store.kept(one.name, "these statistics") is None for one in asked.values()):
        return _compute(study, role, rows)
    parts = {number: open_array(one.path) for number, one in asked.items()}
    first = next(iter(parts.values()))
    values = np.empty((len(rows), *first.shape[1:]), dtype=np.float32)
    for number, block in parts.items():
        values[of_row == number] = block[at[of_row == number]]
    return values


def _blocks(study: Study, role: str) -> Iterator[StatisticsTask]:
    """Every sampled sequence and suffix, in blocks that do not depend on what is kept."""
    rows = study.read(SAMPLES_FILE).select(_KEY).unique().sort(_KEY)
    for own in rows.iter_slices(_ROWS):
        name = f"{_digest(study, role, own)}.npy"
        yield StatisticsTask(
            str(study.folder), role, own, study.folder / "cnn" / "statistics" / name
        )


def _digest(study: Study, role: str, rows: pl.DataFrame) -> str:
    """Hash of rows, model and definition; own suffixes are the model's, whatever the role."""
    models = study.record["models"]
    said = [identity_of(models[one]) for one in ("model", role) if one in models]
    digest = hashlib.sha256(json.dumps([role, said, POOLINGS_READ, ALL_STATISTICS]).encode())
    digest.update(rows["sequence_id"].to_numpy().tobytes())
    digest.update(",".join([*rows["suffix"], study.tokens]).encode())
    return digest.hexdigest()[:20]


def _compute(study: Study, role: str, rows: pl.DataFrame) -> np.ndarray:
    tokens = shown_tokens(study.sequences, rows.select(_KEY))
    maps = blind_maps(tokens) if role == TOKENS else both_poolings(study, role, rows)
    prefix = study.settings.sequences.n_prefix
    return all_statistics(maps, tokens, prefix).astype(np.float32)
