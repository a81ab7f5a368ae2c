"""The attention of a model on windows, pooled over heads: captured, held, and read as arrays."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mnemoscope.cnn.presets import INPUTS
from mnemoscope.data.table import table_digest, token_matrix, whole_mask
from mnemoscope.errors import UserError, a_kind, nearest
from mnemoscope.library.given import (
    BOS_ID,
    N_PREFIX,
    BatchSize,
    Shown,
    following,
    opened_model,
    prefix_of,
    windows_at_once,
)
from mnemoscope.library.sequences import as_windows, scan
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.model import LanguageModel
from mnemoscope.lm.placement import fingerprint_model
from mnemoscope.maps.format import StoreMeta
from mnemoscope.maps.shape import POOLED
from mnemoscope.maps.store import MapStore, MapWriter
from mnemoscope.maps.triangle import pack_layer, pack_shard, unpack_triangle
from mnemoscope.maps.views import ChosenMaps, MapSource, TensorMaps

Pool = Literal["mean", "max", "both"]
POOLS = tuple(name for name, one in INPUTS.items() if one.serves_audits)
"""What of the heads can be seen: their mean, their maximum, or both side by side."""
_SHARD_ROWS = 256


@dataclass(frozen=True, repr=False)
class Maps:
    """Attention maps of windows, in their order; an array of float16 where one is wanted.

    `maps[3]` and `maps[10:20]` are (layers, T, T) and (n, layers, T, T), query before key, zeros
    above the diagonal; of the pool `both` the layers come twice, means first. Held packed, causal
    half alone, in memory or in a folder; mean and maximum are both there, whichever is seen.

    Attributes:
        windows: that the model read, one row a map: `sequence_id`, `tokens`, and `n_prefix`.
        pool: what is seen of a layer's heads: ``mean``, ``max`` or ``both``.
        sources: the packed maps of each pool.
        rows: positions in the sources, int64 (n,); None: all.
    """

    windows: pl.DataFrame
    pool: str
    sources: dict[str, MapSource] = field(repr=False)
    rows: npt.NDArray[np.int64] | None = None

    @property
    def sequence_id(self) -> npt.NDArray[np.int64]:
        """Of each window, int64 (n,)."""
        return self.windows["sequence_id"].to_numpy()

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """That the model read, int32 (n, T)."""
        return token_matrix(self.windows)

    @property
    def n_prefix(self) -> int:
        """Tokens of the prefix."""
        return int(self.windows[N_PREFIX][0])

    @property
    def source(self) -> MapSource:
        """The packed maps, as the CNNs read them."""
        seen = INPUTS[self.pool]
        found = seen.view_of([self.sources[name] for name in seen.reads])
        return found if self.rows is None else ChosenMaps(found, self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(windows, layers, query, key)."""
        source = self.source
        return len(self), source.n_layers, source.length, source.length

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the weights: float16."""
        return np.dtype(np.float16)

    def __len__(self) -> int:
        return self.windows.height

    def __getitem__(self, rows: Any) -> npt.NDArray[np.float16]:
        """The maps at these positions: an int, a slice, or an array of positions or of bools."""
        chosen = np.arange(len(self))[_positions(rows, len(self))]
        packed = self.source.read(torch.from_numpy(np.atleast_1d(chosen)))
        maps: npt.NDArray[np.float16] = unpack_triangle(packed).numpy()
        return maps[0] if np.ndim(chosen) == 0 else maps

    def __iter__(self) -> Iterator[npt.NDArray[np.float16]]:
        return (self[at] for at in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All maps at once."""
        maps: npt.NDArray[Any] = self[:]
        return maps if dtype is None else maps.astype(dtype)

    def pooled(self, pool: Pool) -> "Maps":
        """The same maps, pooled another way; UserError for a pool that there is not."""
        check_pool(pool)
        return replace(self, pool=pool)

    def take(self, rows: Any) -> "Maps":
        """The maps of some windows: positions, or a bool for each."""
        chosen = np.arange(len(self))[_positions(rows, len(self))]
        own = chosen if self.rows is None else self.rows[chosen]
        return replace(self, windows=self.windows[chosen], rows=own)

    def __repr__(self) -> str:
        n, layers, length, _ = self.shape
        return f"Maps({n:,} windows, {layers} layers, {length} tokens, pool {self.pool!r})"


def _positions(rows: Any, n: int) -> Any:
    """Positions as NumPy takes them; UserError for what is none."""
    if isinstance(rows, tuple):
        raise UserError("maps: one index, of windows; np.asarray(maps) has all axes.")
    if isinstance(rows, slice | int | np.integer) and not isinstance(rows, bool):
        found: Any = rows
    else:
        found = np.asarray(rows)
        found = found.astype(np.int64) if found.size == 0 else found
    try:
        np.arange(n)[found]
    except (IndexError, TypeError) as error:
        raise UserError(f"maps: no such rows among {n:,} ({error}).") from None
    return found


def check_pool(pool: str) -> None:
    """Raise UserError for a pool that there is not."""
    if pool not in POOLS:
        raise UserError(
            f"pool {pool!r}: give one of {', '.join(POOLS)}.{nearest(str(pool), POOLS)}"
        )


def capture(
    model: Any,
    windows: Any,
    *,
    pool: Pool = "mean",
    suffix: Literal["true", "own"] = "true",
    out: str | Path | None = None,
    tokenizer: Any = None,
    prefix: int | None = None,
    batch_size: BatchSize = "auto",
    progress: Shown = None,
) -> Maps:
    """Read windows with a model and keep its attention weights, pooled over the heads.

    Args:
        model: as in `scan`.
        windows: as in `scan`; other maps stand for what was read there, such as the model's when
            its reference is to read the same.
        pool: what is seen of the heads: their ``mean``, their ``max``, or ``both``. All are kept
            (`Maps.pooled`).
        suffix: what follows the prefix: the text's ``true`` suffix; or, of windows that are not
            memorized, the model's ``own`` continuation (the paper's rule), which is decoded first
            where the column `continuation` is not there.
        out: a folder to keep the maps in, for what memory cannot hold. It is taken up again: what
            it holds is not captured again.
        tokenizer: as in `scan`.
        prefix: as in `scan`.
        batch_size: as in `scan`.
        progress: as in `scan`.

    Returns:
        `Maps`, in the order of the windows. In memory a window takes 8,320 bytes a layer at 64
        tokens.

    Raises:
        UserError: as `scan`; attention that is not finite, is missing in a layer or looks ahead; a
            folder with maps of another model or other windows.
        NoRoomError: memory or disk is full; what was written stays.

    Source: arXiv 2508.02573, section 3; every head is pooled as it is computed.
    """
    check_pool(pool)
    if out is not None and not isinstance(out, str | Path):
        raise UserError(f"out: {a_kind(out)}; give a folder.")
    windows = windows.windows if isinstance(windows, Maps) else windows
    table = as_windows(windows, model, tokenizer)
    n_shown = prefix_of(table, prefix)
    tokens = token_matrix(table)
    with opened_model(model, tokenizer, table=table) as lm:
        size = windows_at_once(lm, batch_size, tokens.shape[1])
        if suffix == "own":
            tokens = _with_own_suffix(lm, table, tokens, n_shown, size)
        elif suffix != "true":
            raise UserError(f"suffix {suffix!r}: give 'true' or 'own'.")
        mask, seen = whole_mask(table), read_windows(table, tokens, n_shown)
        with following(progress, "Capturing", table.height) as counted:
            read = _Reading(lm, tokens, mask, size, counted)
            if out is None:
                sources = read.into_memory()
            else:
                sources = read.into_folder(Path(out), seen, suffix)
    return Maps(seen, pool, sources)


def read_windows(table: pl.DataFrame, tokens: npt.NDArray[np.int32], n_prefix: int) -> pl.DataFrame:
    """What was read of each window, and how."""
    how = [name for name in ("attention_mask", BOS_ID) if name in table.columns]
    return table.select("sequence_id", *how).with_columns(
        pl.Series("tokens", tokens.tolist(), dtype=pl.List(pl.Int32)),
        pl.lit(n_prefix, dtype=pl.Int32).alias(N_PREFIX),
    )


def _with_own_suffix(
    lm: LanguageModel,
    table: pl.DataFrame,
    tokens: npt.NDArray[np.int32],
    n_prefix: int,
    batch_size: int,
) -> npt.NDArray[np.int32]:
    """Put the model's continuation in place of the suffix where it is another."""
    if whole_mask(table) is not None:
        raise UserError("suffix 'own': some windows are padded. Give whole ones, or suffix='true'.")
    if "is_memorized" not in table.columns or n_prefix != prefix_of(table, None):
        table = scan(lm, table, prefix=n_prefix, batch_size=batch_size)
    own = np.flatnonzero(~table["is_memorized"].fill_null(True).to_numpy())
    rows = table[own]
    n_suffix = tokens.shape[1] - n_prefix
    if (
        "continuation" not in rows.columns
        or not (rows["continuation"].list.len() == n_suffix).fill_null(False).all()
    ):
        rows = scan(lm, rows, decode=True, prefix=n_prefix, batch_size=batch_size)
    tokens = tokens.copy()
    if len(own):
        tokens[own, n_prefix:] = np.array(rows["continuation"].to_list(), dtype=np.int32)
    return tokens


@dataclass(frozen=True)
class _Reading:
    """Tokens (n, T) that a model reads, and where its maps go."""

    lm: LanguageModel
    tokens: npt.NDArray[np.int32]
    mask: npt.NDArray[np.int64] | None
    batch_size: int
    counted: Any

    def packed(self, rows: slice) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Means and maxima of rows, batch by batch, float16 (batch, layers, T·(T+1)/2)."""
        mask = None if self.mask is None else self.mask[rows]
        for maps in capture_pooled(
            self.lm,
            self.tokens[rows],
            batch_size=self.batch_size,
            attention_mask=mask,
            pack=pack_layer,
        ):
            self.counted.advance(len(maps.mean))
            yield maps.mean, maps.max

    def into_memory(self) -> dict[str, MapSource]:
        """All maps, packed as float16."""
        kept: list[list[torch.Tensor]] = [[], []]
        for batch in self.packed(slice(None)):
            for into, maps in zip(kept, batch, strict=True):
                into.append(maps)
        return {
            name: TensorMaps(torch.cat(parts)) for name, parts in zip(POOLED, kept, strict=True)
        }

    def into_folder(self, folder: Path, table: pl.DataFrame, suffix: str) -> dict[str, MapSource]:
        """Shards of maps that the folder lacks, then all of them from there."""
        ids = table["sequence_id"].to_numpy()
        weights = self.lm.fingerprint or fingerprint_model(self.lm.model)
        if adapters := active_adapters(self.lm.model):
            weights = hashlib.sha256(f"{weights} {adapters}".encode()).hexdigest()
        facts = {name: getattr(self.lm, name) for name in ("n_layers", "dtype", "device", "bos_id")}
        facts |= {"fingerprint": weights}
        meta = store_meta(self.tokens.shape[1], "model", facts, table_digest(table))
        writer = MapWriter(folder, meta)
        lacking = writer.missing(ids, suffix)
        for at in range(0, len(lacking), _SHARD_ROWS):
            rows = lacking[at : at + _SHARD_ROWS]
            some = replace(
                self,
                tokens=self.tokens[rows],
                mask=None if self.mask is None else self.mask[rows],
            )
            parts = list(zip(*some.packed(slice(None)), strict=True))
            tensors = {name: torch.cat(part) for name, part in zip(POOLED, parts, strict=True)}
            shard = pack_shard(ids[rows], tensors, meta)
            writer.take(shard, ids[rows], suffix, sha256=hashlib.sha256(shard).hexdigest())
        store = MapStore(folder, verify=False)
        return {name: store.dataset(ids, suffix, name) for name in POOLED}


def active_adapters(model: Any) -> list[str]:
    """Which adapters of PEFT are switched on in which layers: the weights do not show it."""
    return sorted(
        {
            f"{one.active_adapters} {'off' if one.disable_adapters else 'on'}"
            for one in model.modules()
            if hasattr(one, "active_adapters") and hasattr(one, "disable_adapters")
        }
    )


def store_meta(
    length: int, store: str, facts: Mapping[str, Any], tokens: str | None = None
) -> StoreMeta:
    """The metadata of one folder of maps of sequences of `length`, for a model with these facts.

    `tokens` is the digest of the sequences (`data.table.table_digest`).
    """
    is_heads = store.endswith("-heads")
    return StoreMeta(
        facts["n_layers"] * (facts["n_heads"] if is_heads else 1),
        length,
        {
            "weights": facts["fingerprint"],
            "dtype": facts["dtype"],
            "device": facts["device"].split(":")[0],
            "bos_id": facts["bos_id"],
            **({} if tokens is None else {"tokens": tokens}),
        },
        tensors=("heads",) if is_heads else POOLED,
    )


def same_windows(maps: Maps, count: int, what: str) -> None:
    """Raise UserError where something else than one a map was given."""
    if count != len(maps):
        raise UserError(f"{what}: {count:,} for {len(maps):,} maps. Give one for each, in order.")


def check_maps(maps: object) -> Maps:
    """Maps as they are; UserError for anything else."""
    if not isinstance(maps, Maps):
        raise UserError(f"maps: {a_kind(maps)}; give what ms.capture(model, windows) returns.")
    return maps
