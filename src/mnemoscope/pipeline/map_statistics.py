"""Statistics of each map, computed once for all samples, readers and folds that need them.

Blocks of sampled sequences are kept as `.npy` in `cnn/statistics/`, named by all that decides them;
what is not kept is computed when it is asked for.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mnemoscope.benchmark.baselines import ALL_STATISTICS, all_statistics, blind_maps
from mnemoscope.cluster.units import UnitStore
from mnemoscope.maps.shape import POOLED
from mnemoscope.maps.views import MapSource, StackedMaps
from mnemoscope.pipeline.capture import shown_tokens
from mnemoscope.pipeline.label import SAMPLES_FILE
from mnemoscope.pipeline.stored_maps import heads_role, open_maps
from mnemoscope.progress import Progress
from mnemoscope.study.folder import Study
from mnemoscope.study.models import identity_of

TOKENS = "tokens"
"""The role of the blind maps, which are made of the tokens alone."""
POOLINGS_READ = "mean and max"
_ROWS = 512
_KEY = ["sequence_id", "suffix"]


@dataclass(frozen=True)
class Statistics:
    """A block of sequences (`sequence_id`, `suffix`) to sum up: a unit of work on the study."""

    key: str
    role: str
    rows: pl.DataFrame

    @property
    def size(self) -> int:
        """Number of sequences."""
        return self.rows.height

    def run(self, study: Study, progress: Progress) -> dict[str, bytes]:  # noqa: ARG002
        """The statistics, as `ALL_STATISTICS`."""
        np.save(memory := io.BytesIO(), _compute(study, self.role, self.rows))
        return {"npy": memory.getvalue()}


def statistics_store(study: Study) -> UnitStore:
    """Where statistics are kept."""
    return UnitStore(study.folder / "cnn" / "statistics", study.owner)


def stored_maps(study: Study, role: str, rows: pl.DataFrame, tensor: str) -> MapSource:
    """One tensor of the stored maps of these rows."""
    store = open_maps(study, heads_role(role) if tensor == "heads" else role)
    return store.dataset(rows["sequence_id"].to_numpy(), rows["suffix"].to_list(), tensor)


def both_poolings(study: Study, role: str, rows: pl.DataFrame) -> MapSource:
    """Mean and maximum over heads, one behind the other."""
    return StackedMaps(*(stored_maps(study, role, rows, name) for name in POOLED))


def statistics_units(study: Study, role: str) -> list[Statistics]:
    """Every sampled sequence and suffix, in blocks that do not depend on what is kept."""
    rows = study.read(SAMPLES_FILE).select(_KEY).unique().sort(_KEY)
    return [Statistics(_digest(study, role, own), role, own) for own in rows.iter_slices(_ROWS)]


def statistics_of(study: Study, role: str, rows: pl.DataFrame) -> np.ndarray:
    """Statistics of sampled rows, float32 (rows, channels, 22), as `ALL_STATISTICS`."""
    units, store = statistics_units(study, role), statistics_store(study)
    places = pl.concat(
        unit.rows.with_row_index("at").with_columns(block=pl.lit(number, dtype=pl.Int64))
        for number, unit in enumerate(units)
    )
    found = rows.select(_KEY).join(places, on=_KEY, how="left", maintain_order="left")
    if found["block"].null_count():
        return _compute(study, role, rows)
    of_row, at = found["block"].to_numpy(), found["at"].to_numpy()
    kept = {number: store.get(units[number].key) for number in np.unique(of_row)}
    values: np.ndarray | None = None
    for number, result in kept.items():
        if result is None:
            return _compute(study, role, rows)
        path = result.files["npy"]
        assert isinstance(path, Path)
        block = np.load(path)
        if values is None:
            values = np.empty((len(rows), *block.shape[1:]), dtype=np.float32)
        values[of_row == number] = block[at[of_row == number]]
    assert values is not None
    return values


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
