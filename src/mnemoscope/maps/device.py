"""Maps on an accelerator: a source in its memory, packed; or read ahead, a batch at a time.

Nothing here waits for the device: from pinned memory copies run beside its work. Weights are
checked on the processor before they are sent, since looking at them there would wait.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from mnemoscope.maps.shape import triangle_size
from mnemoscope.maps.triangle import check_weights
from mnemoscope.maps.views import MapSource, rows_at_once

_N_AHEAD = 2
_SHARE_HELD = 0.5
"""Of the free memory, what maps may take: processes that share a GPU each hold their sample's."""
_SHARE_BATCH = 1 / 64
"""Of all memory, what the inputs of one batch that is only asked may take; activations take less
than three times as much, and four processes may share a GPU."""
_OTHER_BYTES = 4 << 30  # of a device that does not say


class HeldMaps:
    """Maps of a source in the memory of a device, packed float16 as in the store."""

    n_layers: int
    length: int

    def __init__(self, maps: MapSource, device: torch.device) -> None:
        """Copy all; DamagedDataError: a weight is negative or not finite."""
        self.n_layers, self.length = maps.n_layers, maps.length
        shape = len(maps), maps.n_layers, triangle_size(maps.length)
        self._packed = torch.empty(shape, dtype=torch.float16, device=device)
        blocks = torch.split(torch.arange(len(maps)), rows_at_once(maps))
        for rows, packed in zip(blocks, read_ahead(maps, blocks, device), strict=True):
            place = self._packed[int(rows[0]) : int(rows[-1]) + 1]
            place.copy_(packed)

    def __len__(self) -> int:
        return len(self._packed)

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Packed maps at positions (b,), which lie on the device, as what is given does."""
        return self._packed[rows]


def hold_maps(maps: MapSource, device: torch.device) -> MapSource:
    """Maps in the memory of a device; the source itself where they would take half of what is free.

    At 36 layers 24,000 maps of one pooling take 3.6 GB. DamagedDataError as `HeldMaps`.
    """
    if isinstance(maps, HeldMaps):
        return maps
    n_bytes = len(maps) * maps.n_layers * triangle_size(maps.length) * torch.float16.itemsize
    return HeldMaps(maps, device) if n_bytes <= _SHARE_HELD * _free_bytes(device) else maps


def _free_bytes(device: torch.device) -> int:
    """Memory that a device can give, with what torch has kept of it for later."""
    if device.type != "cuda":
        return _OTHER_BYTES
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def read_ahead(
    maps: MapSource, batches: Iterable[torch.Tensor], device: torch.device
) -> Iterator[torch.Tensor]:
    """Packed maps at the positions of each batch, on a device; a thread reads the next two.

    DamagedDataError: a weight is negative or not finite.
    """

    def read(rows: torch.Tensor) -> torch.Tensor:
        packed = maps.read(rows)
        check_weights(packed.to(torch.float32))
        return packed.pin_memory() if device.type == "cuda" else packed

    coming = deque[Future[torch.Tensor]]()
    with ThreadPoolExecutor(1) as thread:
        for rows in batches:
            coming.append(thread.submit(read, rows))
            if len(coming) > _N_AHEAD:
                yield coming.popleft().result().to(device, non_blocking=True)
        while coming:
            yield coming.popleft().result().to(device, non_blocking=True)


def n_at_once(maps: MapSource, device: torch.device, *, least: int) -> int:
    """Maps to ask a network about together: `least` on the processor, more on an accelerator.

    By the memory that it has, not by what is free, so that one machine always rounds alike.
    """
    if device.type == "cpu":
        return least
    n_bytes = _OTHER_BYTES
    if device.type == "cuda":
        n_bytes = torch.cuda.get_device_properties(device).total_memory
    a_map = maps.n_layers * maps.length**2 * torch.float32.itemsize
    return max(least, int(_SHARE_BATCH * n_bytes) // a_map)
