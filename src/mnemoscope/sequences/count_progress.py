"""Keep how far a count in a corpus has come, so that a killed one goes on where it was saved."""

import glob
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mnemoscope.atomic_write import write_bytes
from mnemoscope.progress import say
from mnemoscope.sequences.corpus import Place

__all__ = ["CountProgress", "progress_path", "remove_progress"]

_VERSION = 1


def progress_path(out: Path) -> Path:
    """Where the progress towards a table is kept: a hidden file beside it."""
    return out.with_name(f".{out.name}.progress")


def remove_progress(path: Path) -> None:
    """Remove a file of progress, and what a run killed while it was saving left of one.

    Args:
        path: from `progress_path`.
    """
    for torn in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        torn.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@dataclass
class CountProgress:
    """One count's file of progress.

    Attributes:
        path: the file, written whole or not at all.
        key: hash of what is counted in what; progress of another key is not taken up.
        every_seconds: time from one saving to the next.
    """

    path: Path
    key: str
    every_seconds: float
    _last: float = field(default_factory=time.monotonic, init=False)

    def load(self, counts: np.ndarray) -> tuple[Place, int]:
        """Take up what an earlier run saved; nothing fitting there is a beginning, and said.

        Args:
            counts: filled with the saved counts.

        Returns:
            Where to go on, and how many tokens lie before that.
        """
        if not self.path.is_file():
            return Place(), 0
        try:
            data = self.path.read_bytes()
            head = json.loads(load(data)["head"].tobytes())
            saved = load(data)["counts"]
            if head["version"] == _VERSION and head["key"] == self.key:
                counts[:] = saved
                return Place(*head["place"]), head["n_tokens"]
            reason = "is of other sequences or another corpus"
        except (SafetensorError, ValueError, KeyError, TypeError):
            reason = "is damaged"
        say(f"{self.path}: the progress kept there {reason}; counting begins anew.")
        return Place(), 0

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self.every_seconds

    def save(self, counts: np.ndarray, place: Place, n_tokens: int) -> None:
        """Write the counts and where they stand.

        Raises:
            NoRoomError: the disk is full; what was saved before stays.
        """
        head = {"version": _VERSION, "key": self.key, "place": place, "n_tokens": n_tokens}
        packed = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        write_bytes(self.path, save({"head": packed, "counts": counts}))
        self._last = time.monotonic()

    def remove(self) -> None:
        """Forget it: the count cannot be done."""
        remove_progress(self.path)
