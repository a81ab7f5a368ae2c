"""Open a folder of pooled maps for reading; a damaged shard is refused before a map is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnemoscope.errors import DamagedDataError, UserError
from mnemoscope.maps.dataset import Pooling, StoredMaps
from mnemoscope.maps.index import count_rows, find_rows, key_frame, read_index
from mnemoscope.maps.meta import StoreMeta, read_meta
from mnemoscope.maps.shard import check_shape
from mnemoscope.maps.verified import damaged_shards, require_whole

__all__ = ["MapStore"]


class MapStore:
    """An existing folder of maps, opened for reading."""

    def __init__(
        self,
        folder: Path | str,
        *,
        fingerprint: dict[str, Any] | None = None,
        verify: bool = True,
    ) -> None:
        """Open a folder, look at the header of every shard and compare its content.

        Args:
            folder: as a `MapWriter` left it.
            fingerprint: where given, the maps must be of this model and these settings.
            verify: read every shard now and compare it with its sha256 (about 1.5 GB/s a core,
                once a process while the file stays the same). False: only those shards, when a
                `dataset` is made, whose maps it gives; no map is given unseen.

        Raises:
            UserError: no maps there, or maps of another fingerprint.
            DamagedDataError: a shard is missing, cut short, another file's or has changed.
        """
        self.folder = Path(folder)
        self.meta = read_meta(self.folder)
        if fingerprint is not None:
            wanted = StoreMeta(self.meta.n_layers, self.meta.length, fingerprint)
            self.meta.require(wanted, self.folder)
        try:
            self.index = read_index(self.folder)
        except FileNotFoundError:
            raise UserError(
                f"{self.folder}: no maps here yet. Run 'mnemoscope capture' first."
            ) from None
        for name, rows, _ in count_rows(self.index):
            check_shape(self.folder / name, rows=rows, meta=self.meta)
        if verify:
            require_whole(self.folder, count_rows(self.index))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_layers(self) -> int:
        """Layers of each map."""
        return self.meta.n_layers

    @property
    def length(self) -> int:
        """Tokens of each sequence."""
        return self.meta.length

    def check(self) -> None:
        """Read every shard, also one seen before, and compare it with its sha256.

        Raises:
            DamagedDataError: naming the first shard whose content has changed.
        """
        if found := self.damaged():
            raise found[0]

    def damaged(self) -> list[DamagedDataError]:
        """What is wrong with each shard whose content is not what was written; as `check`."""
        return damaged_shards(self.folder, count_rows(self.index))

    def rows(
        self, sequence_ids: Sequence[int] | np.ndarray, suffixes: Sequence[str] | str
    ) -> np.ndarray:
        """Positions of these maps in `index`, int64, in the order given.

        Args:
            sequence_ids: shape (n,).
            suffixes: "own" or "true" for each, or one for all.

        Raises:
            UserError: a map is not stored; says how many and names the first.
        """
        keys = key_frame(sequence_ids, suffixes)
        found = find_rows(self.index, keys)
        if n_absent := found.null_count():
            sequence_id, suffix = keys.row(int(found.is_null().arg_max() or 0))
            raise UserError(
                f"{self.folder}: {n_absent} of {len(keys)} maps are not stored, the first is "
                f"sequence {sequence_id} with suffix '{suffix}'. Run 'mnemoscope capture'."
            )
        return found.to_numpy()

    def dataset(
        self,
        sequence_ids: Sequence[int] | np.ndarray,
        suffixes: Sequence[str] | str,
        pooling: Pooling,
    ) -> StoredMaps:
        """These maps as the CNNs read them, in the order given; their shards are whole.

        Args:
            sequence_ids: shape (n,).
            suffixes: "own" or "true" for each, or one for all.
            pooling: over the heads, "mean" or "max".

        Raises:
            UserError: a map is not stored.
            DamagedDataError: a shard of theirs has changed since it was written.
        """
        chosen = self.index[self.rows(sequence_ids, suffixes)]
        names = sorted(chosen["shard"].unique())
        number = {name: position for position, name in enumerate(names)}
        require_whole(self.folder, [one for one in count_rows(self.index) if one[0] in number])
        return StoredMaps(
            [self.folder / name for name in names],
            shard_of=torch.tensor([number[name] for name in chosen["shard"]], dtype=torch.long),
            row_of=torch.tensor(chosen["row"].to_list(), dtype=torch.long),
            n_layers=self.n_layers,
            length=self.length,
            pooling=pooling,
        )
