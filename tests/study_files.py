"""The files of a study, byte for byte, for tests that compare two ways of making one."""

import json
from pathlib import Path


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the locks and the log; a record of a training without its seconds."""
    return {
        path.relative_to(folder).as_posix(): _timeless(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", ".lock")
    }


def _timeless(path: Path) -> bytes:
    if path.suffix != ".json" or path.parent.name != "cnn":
        return path.read_bytes()
    record = json.loads(path.read_bytes())
    del record["sha256"]
    record["values"].pop("seconds", None)
    return json.dumps(record).encode()


def assert_same(folder: Path, whole: Path) -> None:
    """Both folders hold the same files with the same bytes."""
    found, wanted = content(folder), content(whole)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


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
