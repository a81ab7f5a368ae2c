"""Find the Parquet files of a split of `usvsnsp/semantic-filters`, in a folder or on the hub.

Three layouts are known: the hub's (`data/<split>-00000-of-00007.parquet`), the cache of
huggingface_hub (`snapshots/<commit>/data/…`), and one folder a split (`<split>/*.parquet`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from mnemoscope.errors import UserError, nearest
from mnemoscope.progress import say

__all__ = ["HUB_NAME", "SPLITS", "find_split", "is_split_folder", "list_splits"]

HUB_NAME = "usvsnsp/semantic-filters"
_PARTS = ("pile", "memories")
"""First the part whose row is kept where both hold a sequence (arXiv 2406.17746)."""
_SCHEMES = ("duped", "deduped")
_SIZES = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
SPLITS = tuple("_".join(words) for words in product(_PARTS, _SCHEMES, _SIZES))
"""The 32 splits of the data set, and no other, stand on the hub."""

_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?\.parquet")
_FOLDER = re.compile(rf"({'|'.join(_PARTS)})_({'|'.join(_SCHEMES)})_.+")
_CACHE_FOLDER = "datasets--" + HUB_NAME.replace("/", "--")


def find_split(source: str, split: str) -> dict[str, list[Path]]:
    """Find the files of a split, downloading them where the source is the hub's name.

    Args:
        source: `usvsnsp/semantic-filters`, or a folder in one of the known layouts.
        split: a full name such as `memories_deduped_12b`, or `deduped_12b` for both parts of it.

    Returns:
        Files in order by part, the pile before the memories.

    Raises:
        UserError: no such folder or split, a shard that is missing, or the hub out of reach.
    """
    folder = Path(source)
    if source == HUB_NAME and not folder.exists():
        names = _resolve(split, SPLITS, where=HUB_NAME)
        folder = _download(names)
    elif not folder.is_dir():
        raise UserError(
            f"{source}: no such folder. A split is read from {HUB_NAME} or from a folder that "
            "holds its Parquet files."
        )
    held = list_splits(folder)
    if not held:
        raise UserError(
            f"{source}: holds no split of {HUB_NAME}. Files such as "
            "data/memories_deduped_12b-00000-of-00004.parquet are needed."
        )
    names = _resolve(split, held, where=source)
    for name in names:
        _check_complete(held[name], name)
    return {name: held[name] for name in names}


def is_split_folder(source: str) -> bool:
    """True of a folder that holds splits of the data set."""
    try:
        folder = Path(source)
        return folder.is_dir() and any(_FOLDER.fullmatch(name) for name in list_splits(folder))
    except OSError:  # not ours to complain of: whoever reads the folder says what is wrong
        return False


def list_splits(folder: Path) -> dict[str, list[Path]]:
    """Splits that a folder holds, with their files in order; empty where it holds none."""
    found: dict[str, list[Path]] = {}
    for root in _roots(folder):
        here: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(root.glob("*.parquet")):
            if shard := _SHARD.fullmatch(path.name):
                here[shard["split"]].append(path)
        for inner in sorted(path for path in root.iterdir() if path.is_dir()):
            if _FOLDER.fullmatch(inner.name) and (files := sorted(inner.glob("*.parquet"))):
                here[inner.name] = files
        found.update(here)
    return found


def _roots(folder: Path) -> Iterator[Path]:
    """Folders in which files of a split may stand; a later snapshot goes before an earlier."""
    for base in (folder, folder / _CACHE_FOLDER):
        snapshots = [path for path in (base / "snapshots").glob("*") if path.is_dir()]
        for root in (*sorted(snapshots, key=lambda path: path.stat().st_mtime), base):
            yield from (path for path in (root, root / "data") if path.is_dir())


def _resolve(split: str, held: Iterable[str], *, where: str) -> list[str]:
    """Full names of what was asked for, pile first."""
    held = sorted(held)
    if split in held:
        return [split]
    both = [f"{part}_{split}" for part in _PARTS]
    if all(name in held for name in both):
        return both
    lacking = [name for name in both if name not in held]
    if len(lacking) == 1:
        raise UserError(
            f"{where}: split '{split}' needs '{lacking[0]}', which is not there. Add its files, or "
            f"take the other part alone: {next(name for name in both if name in held)}."
        )
    whole = [name.partition("_")[2] for name in held if name.startswith(_PARTS[0])]
    hint = nearest(split, [*whole, *held])
    raise UserError(f"{where}: no split '{split}'.{hint} It holds: {_shorten(held)}.")


def _shorten(names: list[str]) -> str:
    """Names on one line, or the rule where all of the hub's are there."""
    if set(names) >= set(SPLITS):
        return f"[{'|'.join(_PARTS)}]_[{'|'.join(_SCHEMES)}]_[{'|'.join(_SIZES)}]"
    return ", ".join(names)


def _check_complete(files: list[Path], split: str) -> None:
    """All shards that the names promise are there."""
    shards = [found for path in files if (found := _SHARD.fullmatch(path.name))]
    if not shards:
        return
    wanted = range(int(shards[0]["total"]))
    missing = sorted(set(wanted) - {int(shard["number"]) for shard in shards})
    if missing:
        raise UserError(
            f"{files[0].parent}: split '{split}' lacks {len(missing)} of {len(wanted)} files, the "
            f"first {split}-{missing[0]:05d}-of-{len(wanted):05d}.parquet. Copy or download it."
        )


def _download(names: list[str]) -> Path:
    """Folder of the hub's snapshot with the files of these splits and no others."""
    from huggingface_hub import snapshot_download

    patterns = [f"data/{name}-*.parquet" for name in names]
    say(f"Fetching {', '.join(names)} of {HUB_NAME} (a pile split is about 3 GB)")
    try:
        return Path(snapshot_download(HUB_NAME, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # whatever the network, the hub or the disk has to say
        includes = " ".join(f"--include '{pattern}'" for pattern in patterns)
        raise UserError(
            f"{HUB_NAME}: cannot be fetched ({type(error).__name__}). Where there is a network run "
            f"'hf download {HUB_NAME} --repo-type dataset {includes} --local-dir FOLDER', then "
            "give FOLDER as the source."
        ) from error
