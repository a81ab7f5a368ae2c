"""A broken world: killed writers, torn, foreign and rotten shards, a full disk, hostile indexes."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from map_folders import capture, capture_and_die, maps_of, writer_of
from mnemoscope import store
from mnemoscope.errors import DamagedDataError, NoRoomError, OutOfDateError, UserError
from mnemoscope.maps.store import MapStore
from mnemoscope.maps.triangle import unpack_triangle
from refusals import refusal
from study_files import admit, content, rewrite_record


@pytest.mark.parametrize(
    ("name", "before", "call"),
    [
        ("write_bytes", True, 1),
        ("write_bytes", False, 1),
        ("write_bytes", False, 2),
        ("write_bytes", False, 3),
    ],
)
def test_killed_and_resumed_equals_unbroken(tmp_path, forkserver, name, before, call):
    """SIGKILL before a shard, between shard and record, after the record, at the second shard."""
    capture(tmp_path / "whole", range(11))
    process = forkserver.Process(
        target=capture_and_die, args=(tmp_path / "cut", name, before, call)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert "meta.json" in content(tmp_path / "cut")
    (tmp_path / "cut" / ".shard-00001.safetensors.1.tmp").write_bytes(b"half a shard")
    made = capture(tmp_path / "cut", range(11))
    stored = 0 if before else call // 2
    assert made == list(range(4 * stored, 11))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def flip(path: Path, at: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1, "gone", "flipped"])
def test_torn_or_altered_shard_is_named_and_only_its_rows_are_redone(tmp_path, keep):
    capture(tmp_path, range(11))
    whole = content(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    if keep == "gone":
        path.unlink()
    elif keep == "flipped":
        flip(path)
        assert len(MapStore(tmp_path, verify=False).damaged()) == 1
        assert len(writer_of(tmp_path).damaged) == 1
    else:
        path.write_bytes(path.read_bytes()[:keep])
    said = rf"{path}.*its sequences are captured again"
    with pytest.raises((DamagedDataError, UserError), match=said) as refused:
        MapStore(tmp_path)
    assert "\n" not in str(refused.value)
    assert capture(tmp_path, range(11)) == [4, 5, 6, 7]
    assert content(tmp_path) == whole
    MapStore(tmp_path).check()


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_opened_without_a_look_no_map_of_a_damaged_shard_is_given(tmp_path, pooling):
    """Whole shards beside it may be read; no file of ours is left in the folder."""
    capture(tmp_path, range(11))
    before = set(content(tmp_path))
    flip(tmp_path / "shard-00001.safetensors")
    store = MapStore(tmp_path, verify=False)
    for ids in ([5], range(11)):
        with pytest.raises(DamagedDataError, match=r"shard-00001.*captured again"):
            store.dataset(ids, "own", pooling)
    found = store.dataset([0, 10], "own", pooling).read(torch.arange(2))
    assert torch.equal(unpack_triangle(found), maps_of([0, 10], pooling).half())
    assert set(content(tmp_path)) == before


def test_foreign_shard_is_found(tmp_path):
    from safetensors.torch import save_file

    capture(tmp_path, range(8))
    path = tmp_path / "shard-00000.safetensors"
    half = torch.zeros(4, 3, 36, dtype=torch.float16)
    for tensors in (
        {"mean": half[:3].clone(), "max": half[:3].clone()},
        {"mean": half[:, :2].clone(), "max": half[:, :2].clone()},
        {"mean": half, "weights": half.clone()},
        None,
    ):
        if tensors is None:
            path.write_text("a text that is longer than any header\n" * 50)
        else:
            save_file(tensors, path)
        assert "shard-00000" in refusal(MapStore, tmp_path, error=DamagedDataError)
        assert capture(tmp_path, range(8)) == [0, 1, 2, 3]
        MapStore(tmp_path).check()


def test_damaged_shard_never_lends_its_name_while_it_is_rewritten(tmp_path, monkeypatch):
    """Killed after the new shard, nothing must name its rows."""
    capture(tmp_path, range(8))
    (tmp_path / "shard-00000.safetensors").write_bytes(b"torn")
    real = store.write_bytes

    def stop_at_the_record(path, data):
        if path.suffix == ".json":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(store, "write_bytes", stop_at_the_record)
    with pytest.raises(KeyboardInterrupt):
        capture(tmp_path, [3, 2, 1, 0])
    monkeypatch.undo()
    assert MapStore(tmp_path).index["sequence_id"].to_list() == [4, 5, 6, 7]
    assert capture(tmp_path, range(8)) == [0, 1, 2, 3]
    found = MapStore(tmp_path).dataset(range(8), "own", "mean").read(torch.arange(8))
    assert torch.equal(unpack_triangle(found), maps_of(range(8), "mean").half())


def test_of_a_map_that_two_shards_hold_one_counts(tmp_path):
    """As where the folders of two captures were copied together."""
    capture(tmp_path, range(8))
    capture(tmp_path / "other", range(4, 8))
    for end in ("json", "safetensors"):
        (tmp_path / "other" / f"shard-00000.{end}").replace(tmp_path / f"shard-00007.{end}")
    path = tmp_path / "shard-00007.json"
    rewrite_record(path, name="shard-00007", files={}, sizes={})
    admit(path, tmp_path / "shard-00007.safetensors")
    opened = MapStore(tmp_path)
    assert opened.index["sequence_id"].to_list() == list(range(8))
    found = opened.dataset(range(8), "own", "mean").read(torch.arange(8))
    assert torch.equal(unpack_triangle(found), maps_of(range(8), "mean").half())


@pytest.mark.parametrize("full_at", ["shard-00001.safetensors", "shard-00001.json"])
def test_full_disk_keeps_what_was_there(tmp_path, monkeypatch, full_at):
    capture(tmp_path / "whole", range(12))
    capture(tmp_path / "maps", range(4))
    before = content(tmp_path / "maps")
    real = Path.write_bytes

    def write(path, data):
        if full_at in path.name:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert "disk is full" in refusal(capture, tmp_path / "maps", range(12), error=NoRoomError)
    monkeypatch.undo()
    after = content(tmp_path / "maps")
    after.pop("shard-00001.safetensors", None)  # complete, but no record names it
    assert after == before
    MapStore(tmp_path / "maps").check()
    assert capture(tmp_path / "maps", range(12)) == list(range(4, 12))
    assert content(tmp_path / "maps") == content(tmp_path / "whole")


def test_a_record_alone_can_be_lost_or_be_of_other_maps(tmp_path):
    capture(tmp_path, range(5))
    whole = content(tmp_path)
    path = tmp_path / "shard-00001.json"
    path.unlink()
    assert len(MapStore(tmp_path)) == 4
    assert capture(tmp_path, range(5)) == [4]
    rewrite_record(path, key="0" * 64)
    for verify in (True, False):  # the record alone says so
        assert "shard-00001" in refusal(MapStore, tmp_path, verify=verify, error=OutOfDateError)
    assert capture(tmp_path, range(5)) == [4]
    assert content(tmp_path) == whole


def test_damaged_or_newer_meta_is_named_and_a_folder_that_cannot_be_made(tmp_path):
    capture(tmp_path, range(5))
    meta = tmp_path / "meta.json"
    newer = meta.read_text().replace('"version": 1', '"version": 2').encode()
    for data in (b"", b"PAR1 nothing PAR1", b"{}", b"[1]", b"\xff\xfe"):
        meta.write_bytes(data)
        for opening in (MapStore, writer_of):
            assert "meta.json" in refusal(opening, tmp_path, error=DamagedDataError)
    meta.write_bytes(newer)
    assert "format version 2" in refusal(MapStore, tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert "cannot be made" in refusal(capture, tmp_path / "file" / "maps", [1])
