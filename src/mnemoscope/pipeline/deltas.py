"""What `localize` stores: Δ of each sample, source and attribution, and the tables about it.

Reads and writes arrays, without torch.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open
from safetensors.numpy import save

from mnemoscope.columns import Column, schema_of
from mnemoscope.files import write_parquet
from mnemoscope.localize.regions import layer_profile
from mnemoscope.maps.shape import SHAPES
from mnemoscope.parse import parse_json
from mnemoscope.study.folder import Study
from mnemoscope.taxonomy.sample import KEY_COLUMNS, SampleKey

DECISIVENESS_FILE = "decisiveness.safetensors"
REGIONS_FILE = "regions.parquet"
AGREEMENT_FILE = "agreement.parquet"
SHAPES_FILE = "attention.parquet"
MODELS_FILE = "models.parquet"
SOURCES = ("model", "reference", "blind")
_ALIKE = {
    "pearson": Column(pl.Float64, "correlation"),
    "spearman": Column(pl.Float64, "correlation of ranks"),
    "overlap": Column(pl.Float64, "share of the top 1 % of edges in common"),
}
_OF_MAP = {
    **KEY_COLUMNS,
    "source": Column(pl.String, "whose attention: `model`, `reference`, or `blind` (tokens)"),
    "attribution": Column(pl.String, "attribution, or ranking of edges"),
    "class": Column(pl.String, "the class that is decided"),
}
REGION_COLUMNS = {
    **_OF_MAP,
    "region": Column(pl.String, "a part of the map, such as a layer or the copy edges"),
    "share": Column(pl.Float64, "share of Δ in it; null without a sequence"),
    "even": Column(pl.Float64, "share that it would hold if Δ were even"),
    "ratio": Column(pl.Float64, "the one divided by the other"),
}
AGREEMENT_COLUMNS = {
    **KEY_COLUMNS,
    "attribution": Column(pl.String, "the attribution"),
    "class": Column(pl.String, "the class that is decided"),
    "check": Column(
        pl.String,
        "`halves` of the sequences, `seeds`, `attributions`, `reference` (model), `attention` (the "
        "mean map), `randomized` (the CNN from a layer on), `permuted` (the control task's CNN)",
    ),
    "against": Column(pl.String, "what Δ is held against; of `randomized` the lowest layer"),
    "of": Column(pl.String, "Δ, or D where its weights are compared without the attention"),
    **_ALIKE,
}
SHAPE_COLUMNS = {
    **KEY_COLUMNS,
    "class": Column(pl.String, "the class"),
    "layer": Column(pl.Int64, "from 0"),
    "n": Column(pl.Int64, "evaluation sequences"),
    **{name: Column(pl.Float64, "of the mean attention of the class") for name in SHAPES},
}
MODEL_COLUMNS = _OF_MAP | _ALIKE
DELTA_COLUMNS = {
    **_OF_MAP,
    "layer": Column(pl.Int32, "from 0"),
    "query": Column(pl.Int32, "the token that looks, from 1"),
    "key": Column(pl.Int32, "the token that is looked at, from 1"),
    "delta": Column(pl.Float32, "Δ of that edge"),
}
PROFILE_COLUMNS = {
    **_OF_MAP,
    "layer": DELTA_COLUMNS["layer"],
    "profile": Column(pl.Float64, "ΣΔ of the layer divided by the largest of all classes"),
}


@dataclass(frozen=True)
class StoredDelta:
    """Δ of one sample, source and attribution (or ranking), which names the edges' values.

    `delta` is float32 (classes, layers, query, key), not negative; the blind baseline has two
    channels instead of layers. Counts are of sequences per class, summed over `n_cnns`,
    0 for a ranking. `n_says` is for each class the number of CNNs that used a sequence of it, 1 for
    a ranking; Δ is their mean.
    """

    sample: SampleKey
    shown: str  # what the sample is called where people read it
    attribution: str
    classes: tuple[str, ...]
    delta: np.ndarray
    n_used: tuple[int, ...]
    n_skipped: tuple[int, ...]
    n_wrong: tuple[int, ...]
    n_cnns: int
    source: str
    n_says: tuple[int, ...]

    @property
    def names(self) -> dict[str, str]:
        """Columns that identify its rows in a table."""
        of = {"source": self.source, "attribution": self.attribution}
        return self.sample._asdict() | of


def load_deltas(study: Study, source: str = "model") -> Iterator[StoredDelta]:
    """Read the stored Δ of one of `SOURCES`; errors as `Study.read`."""
    with safe_open(study.path(DECISIVENESS_FILE), framework="np") as file:
        for number, facts in enumerate(parse_json(file.metadata()["facts"])):
            if facts["source"] == source:
                plain: dict[str, Any] = {
                    k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()
                }
                plain |= {"sample": SampleKey(*facts["sample"])}
                yield StoredDelta(delta=file.get_tensor(f"{number:04d}"), **plain)


def pack_deltas(stored: Sequence[StoredDelta]) -> bytes:
    """Δ and its metadata as safetensors."""
    facts = [{k: v for k, v in vars(one).items() if k != "delta"} for one in stored]
    tensors = {f"{n:04d}": one.delta for n, one in enumerate(stored)}
    # One key: safetensors writes several in any order, and the same Δ must give the same bytes.
    data: bytes = save(tensors, metadata={"facts": json.dumps(facts, ensure_ascii=False)})
    return data


def write_delta_tables(deltas: Sequence[StoredDelta], folder: Path) -> Iterator[Path]:
    """Write `delta.parquet` and `profile.parquet`, layers from 0 and tokens from 1."""
    for name, rows in (("delta", _delta_rows), ("profile", _profile_rows)):
        path = folder / f"{name}.parquet"
        write_parquet(path, pl.concat([rows(one) for one in deltas]))
        yield path


def _delta_rows(one: StoredDelta) -> pl.DataFrame:
    """One row per class, layer and causal edge."""
    query, key = np.tril_indices(one.delta.shape[-1])
    shape = (*one.delta.shape[:2], len(query))
    index, layer = np.indices(shape)[:2].reshape(2, -1)
    return pl.DataFrame(
        {
            **one.names,
            "class": np.array(one.classes)[index],
            "layer": layer,
            "query": np.broadcast_to(query + 1, shape).ravel(),
            "key": np.broadcast_to(key + 1, shape).ravel(),
            "delta": one.delta[:, :, query, key].ravel(),
        },
        schema_of(DELTA_COLUMNS),
    )


def _profile_rows(one: StoredDelta) -> pl.DataFrame:
    """One row per class and layer: ΣΔ divided by the largest ΣΔ of all classes and layers."""
    profile = layer_profile(one.delta)
    index, layer = np.indices(profile.shape).reshape(2, -1)
    return pl.DataFrame(
        {
            **one.names,
            "class": np.array(one.classes)[index],
            "layer": layer,
            "profile": profile.ravel(),
        },
        schema_of(PROFILE_COLUMNS),
    )
