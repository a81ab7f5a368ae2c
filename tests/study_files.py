"""The files of a study, byte for byte, for tests that compare two ways; a disk to put them on."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the locks and the log; a record of a training without its seconds."""
    return {
        path.relative_to(folder).as_posix(): _timeless(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ("log.jsonl", ".lock")
        and not path.name.startswith(".progress-")
    }


def _timeless(path: Path) -> bytes:
    if path.suffix != ".json" or path.parent.name != "cnn":
        return path.read_bytes()
    record = json.loads(path.read_bytes())
    del record["sha256"]
    record["values"].pop("seconds", None)
    return json.dumps(record).encode()


def assert_same(folder: Path, whole: Path) -> None:
    found, wanted = content(folder), content(whole)
    assert found.keys() == wanted.keys()
    unlike = [name for name in wanted if found[name] != wanted[name]]
    assert not unlike, unlike


def wait_until(is_so: Callable[[], bool], what: str = "an end", *, seconds: float = 300) -> None:
    """Look again and again; a busy machine is slow, what does not come stays away."""
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.002)


def ending(write, n: int):
    """Write like `write`, and end the run with the n-th file written."""
    written = []

    def write_and_end(*arguments):
        write(*arguments)
        written.append(arguments)
        if len(written) == n:
            raise KeyboardInterrupt

    return write_and_end


def settings_with(study, **sections):
    """The settings of a study with some changed: `label={"seed": 1}`."""
    from mnemoscope.study.settings import parse_settings

    values = study.settings.as_dict()
    for name, entries in sections.items():
        values[name] |= entries
    return parse_settings(values, where="test")


def rewrite_record(path: Path, **changes: Any) -> None:
    """Change what a record says, as if it had been written so."""
    from mnemoscope.files import digest

    values = json.loads(path.read_text()) | changes
    values.pop("sha256", None)
    path.write_text(json.dumps(values | {"sha256": digest(values)}))


def admit(record: Path, *files: Path, root: Path | None = None) -> None:
    """Let a record say that files (named by their paths in `root`) are as they are now."""
    values, root = json.loads(record.read_text()), root or record.parent
    for path in files:
        name, data = path.relative_to(root).as_posix(), path.read_bytes()
        values["files"][name], values["sizes"][name] = hashlib.sha256(data).hexdigest(), len(data)
    rewrite_record(record, files=values["files"], sizes=values["sizes"])


def put_in_place(folder: Path, **files: Any) -> None:
    """Exchange files of a study (`.` as `__`), as if their stages had made them."""
    from mnemoscope.files import parquet_bytes
    from mnemoscope.study.stages import STAGES

    for key, value in files.items():
        name = key.replace("__", ".")
        data = value if isinstance(value, bytes) else parquet_bytes(value)
        (folder / name).write_bytes(data)
        (owner,) = (stage.name for stage in STAGES if name in stage.outputs)
        record = folder / "manifests" / f"{owner}.json"
        admit(record, folder / name, root=folder)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system in memory at a folder; skips where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.getuid() != 0 or subprocess.run(command).returncode:
        pytest.skip("a file system may be mounted by root alone")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
