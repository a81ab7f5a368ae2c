"""What is kept is whole, and its owner's: whatever is done to a file is found."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml

from mnemoscope import audit
from mnemoscope import store as module
from mnemoscope.audits.records import RECORD, changed_files, read_audit_record
from mnemoscope.cluster.units import UnitStore
from mnemoscope.embedded import sequences_path
from mnemoscope.errors import DamagedDataError, MissingError, OutOfDateError
from mnemoscope.files import digest
from mnemoscope.pipeline.stored_maps import damaged_maps
from mnemoscope.store import Store, kept_in_parts
from mnemoscope.study.folder import Study, is_study
from mnemoscope.version import __version__
from study_files import content, rewrite_record

UNITS = ("cnn", "graft", "knockout", "units")
FRAME = pl.DataFrame({"sequence_id": [3, 1], "tokens": [[1, 2], []], "suffix": ["own", "0" * 64]})


def put(folder: Path, owner: str = "us") -> Store:
    made = Store(folder, lambda: {"sequences": owner}, lambda name: f"make {name}")
    made.put("a/one", {"one.parquet": FRAME, "a/one.txt": b"text"}, key="k", counts={"n": 2})
    return made


def refused(error: type, said: str, ask: Callable[[], object]) -> None:
    with pytest.raises(error, match=said) as raised:
        ask()
    assert "\n" not in str(raised.value)


def test_what_is_put_comes_back_plain_and_of_three_faults_each_says_what_to_do(tmp_path):
    made = put(tmp_path)
    assert made.frame("a/one", "one.parquet").equals(FRAME)
    assert pl.read_parquet(tmp_path / "one.parquet").equals(FRAME)
    assert made.path("a/one", "a/one.txt").read_bytes() == b"text"
    assert made.record("a/one", shape=dict)["counts"] == {"n": 2}
    assert made.has("a/one")
    assert not made.verify(["a/*"])

    out_of_date = r"one\.json: out of date .*make a/one"
    refused(OutOfDateError, out_of_date, lambda: made.record("a/one", key="x"))
    refused(MissingError, r"b\.json: missing.*or make b\.", lambda: made.record("b"))
    refused(MissingError, r"two\.parquet: missing", lambda: made.path("a/one", "two.parquet"))
    (tmp_path / "one.parquet").unlink()
    refused(MissingError, r"one\.parquet: missing", lambda: made.frame("a/one", "one.parquet"))
    assert not made.has("a/one")
    other = Store(tmp_path, lambda: {"sequences": "them"})
    refused(DamagedDataError, "of another study", lambda: other.record("a/one"))
    (tmp_path / "a" / "one.json").replace(tmp_path / "a" / "two.json")
    refused(DamagedDataError, "it is 'a/one'", lambda: made.record("a/two"))
    assert len(made.verify(["a/*"])) == 1


@pytest.mark.parametrize("name", ["one.parquet", "a/one.json"])
def test_flips_of_bits_and_cuts_are_found(tmp_path, name):
    made, path = put(tmp_path), tmp_path / name
    whole = path.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 2):  # the last is a line break
        path.write_bytes(whole[:cut])
        refused(DamagedDataError, path.name, lambda: made.frame("a/one", "one.parquet"))
    for at, byte in [*enumerate(whole)][::5]:
        path.write_bytes(whole[:at] + bytes([byte ^ 1 << (0 if at % 2 else 6)]) + whole[at + 1 :])
        if name.endswith("json"):  # a name of a file, or white space, or the same in another case
            with pytest.raises((DamagedDataError, MissingError)):
                _ = made.frame("a/one", "one.parquet"), made.path("a/one", "a/one.txt")
        else:
            refused(DamagedDataError, path.name, lambda: made.frame("a/one", "one.parquet"))
    path.write_bytes(whole)
    assert made.frame("a/one", "one.parquet").equals(FRAME)


@pytest.mark.parametrize("size", [0, 5 << 30])
def test_a_file_of_another_size_is_damaged_unread(tmp_path, size):
    made, units = put(tmp_path), UnitStore(tmp_path / "units")
    units.put("unit", {"bin": b"text"})
    for path in (tmp_path / "one.parquet", tmp_path / "units" / "unit.bin"):
        os.truncate(path, size)  # none of it on the disk
    began = time.process_time()
    refused(DamagedDataError, r"one\.parquet: damaged", lambda: made.path("a/one", "one.parquet"))
    assert len(made.verify(["a/*"])) == 1
    assert units.get("unit") is None
    assert time.process_time() - began < 1  # reading 5 GB takes some seconds


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (
            "0.0.1",
            r"of another version .*, made by 0.0.1 \(without sizes\)\. .* read it with .*, or ",
        ),
        (__version__, r"made by another state of mnemoscope .* \(without sizes\)\. [^,]*: "),
    ],
)
def test_a_record_without_what_this_version_asks_is_another_versions(tmp_path, version, said):
    made = put(tmp_path)
    path = made.record_path("a/one")
    values = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("sizes", "sha256")}
    values["versions"] = {"mnemoscope": version}
    path.write_text(json.dumps(values | {"sha256": digest(values)}))
    said = rf"one\.json: {said}make a/one"
    for use in (made.record, made.has, lambda one: made.path(one, "one.parquet")):
        refused(OutOfDateError, said, lambda use=use: use("a/one"))
    assert made.kept("a/one", "it") is None
    refused(OutOfDateError, said, lambda: made.already_made("a/one", "", "rows", redo=False))
    assert made.already_made("a/one", "", "rows", redo=True) is None
    path.write_text(json.dumps(values | {"sha256": "0" * 64}))
    refused(DamagedDataError, "has changed since", lambda: made.record("a/one"))


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path, monkeypatch):
    looked, real = [], module.hashlib.file_digest
    monkeypatch.setattr(module.hashlib, "file_digest", lambda *a: (looked.append(a), real(*a))[1])
    made = put(tmp_path)
    for tick, n in ((2.0, 2), (-3600.0, 3)):  # one that has just been written may change unseen
        monkeypatch.setattr(module, "TICK_SECONDS", tick)
        for _ in range(2):
            made.path("a/one", "one.parquet")
        assert len(looked) == n
    made.path("a/one", "one.parquet", again=True)
    assert len(looked) == 4


def test_a_record_changed_within_a_tick_is_not_believed_from_memory(tmp_path, monkeypatch):
    """File systems tell times by the tick: both writes of one look alike."""
    made, now = put(tmp_path), time.time_ns()
    monkeypatch.setattr(module, "_identity", lambda path: (str(path), 0, 0, now, now))
    assert made.record("a/one")["owner"] == {"sequences": "us"}
    path = made.record_path("a/one")
    path.write_bytes(path.read_bytes().replace(b'"us"', b'"me"'))
    refused(DamagedDataError, "has changed since", lambda: made.record("a/one"))


def test_a_killed_write_leaves_nothing_half_written(tmp_path, stopped_at):
    put(tmp_path)
    for n in (1, 2, 3):
        for is_first in (True, False):
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
            if not is_first:
                put(tmp_path)
            with stopped_at(module, "write_bytes", n), pytest.raises(KeyboardInterrupt):
                put(tmp_path)
            assert not Store(tmp_path).has("a/one")
            put(tmp_path)
            assert Store(tmp_path).frame("a/one", "one.parquet").equals(FRAME)


def test_a_kept_part_is_taken_at_its_own_place_alone(tmp_path):
    made: list[str] = []

    def asked(folder: Path) -> list[str]:
        made.clear()
        ask = lambda some, _: made.append(some) or pl.DataFrame({"a": [*some]})  # noqa: E731
        parts = kept_in_parts(folder, "Some rows", "abc", 2, ask, unit="rows")
        assert pl.concat(parts)["a"].to_list() == ["a", "b", "c"]
        return [*made]

    one, two = tmp_path / "one", tmp_path / "two"
    assert [asked(one), asked(one)] == [["ab", "c"], []]
    shutil.copytree(one, two)
    assert asked(two) == ["ab", "c"]
    (one / "some-rows-000000.parquet").replace(one / "some-rows-000001.parquet")
    assert asked(one) == ["ab", "c"]


# -- a study, an audit --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tiny_studies, tmp_path_factory) -> Path:
    from mnemoscope.flow.analyze import analyze

    folder = tmp_path_factory.mktemp("store") / "study"
    shutil.copytree(tiny_studies["report"], folder)
    analyze(Study(folder), "length")
    return folder


@pytest.fixture(scope="module")
def audits(tmp_path_factory) -> list[Path]:
    """An audit of a document with a passage, and one of another document; read only."""
    is_whole = pl.col("text").str.contains("^ [A-Za-z]")  # from its first word on
    rows = pl.read_parquet(sequences_path()).filter(is_whole, genre="prose", inserted=64)
    folders = []
    for number, text in enumerate(rows.filter(form="plain")["text"].gather([1, 0])):
        folder = tmp_path_factory.mktemp(f"audit-{number}")
        (folder / "a.html").write_text(f"<pre>{text} A heron stood by the copper lane.</pre>")
        made = audit("embedded", folder / "a.html", folder / "out", edits=0, profile=True)
        assert made.passages.height == 1 - number
        folders.append(folder / "out")
    return folders


@pytest.fixture(params=["study", "audit"])
def whole(request) -> Path:
    is_study = request.param == "study"
    return request.getfixturevalue("study") if is_study else request.getfixturevalue("audits")[0]


def faults(folder: Path) -> list[str]:
    """All that is wrong with a study or an audit."""
    try:
        if is_study(folder):
            return [str(one) for one in [*Study(folder).verify(), *damaged_maps(Study(folder))]]
        return [*changed_files(folder, read_audit_record(folder)).values()]
    except (DamagedDataError, MissingError) as error:
        return [str(error)]


def artefacts(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Every record with each of its files."""
    for record in sorted(folder.rglob("*.json")):
        values = json.loads(record.read_text())
        if "files" in values:
            own = record.relative_to(folder).parts[0] in ("maps", *UNITS)
            root = record.parent if own else folder
            yield from (
                (record, root / file) for file in [*values["files"], record.relative_to(root)]
            )


def test_every_file_belongs_to_an_artefact(whole):
    assert not faults(whole)
    named = {file.relative_to(whole).as_posix() for _, file in artefacts(whole)}
    there = {one.relative_to(whole).as_posix() for one in whole.rglob("*") if one.is_file()}
    free = {"study.yaml", "log.jsonl", ".lock"} if is_study(whole) else set()
    assert {one for one in there - named if not one.endswith("meta.json")} == free


def tamper(how: str, record: Path, files: list[Path], other: Path) -> None:
    """Do the same to every file of an artefact; `copy` is one of another study, with its record.

    Of an audit it is the file of another one, in `other`.
    """
    if how == "copy" and record.name != RECORD:
        rewrite_record(record, owner={"sequences": "0" * 64}, key="0" * 64)
    for file in files:
        data = bytearray(file.read_bytes())
        if how == "flip":
            data[len(data) // 2] ^= 1
        elif how == "cut":
            del data[len(data) // 2 :]
        elif how == "copy" and record.name == RECORD:
            data = (other / file.relative_to(record.parent)).read_bytes()
        file.write_bytes(data)
        if how in ("delete", "pipe"):
            file.unlink()
        if how == "pipe":
            os.mkfifo(file)


@pytest.mark.parametrize("what", ["files", "records"])
@pytest.mark.parametrize("how", ["flip", "cut", "swap", "delete", "copy", "pipe"])
def test_whatever_is_done_to_a_file_is_found(whole, audits, tmp_path, how, what):
    """Of a study with an analysis and of an audit, every file at once."""
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    every: dict[Path, list[Path]] = {}
    for record, file in artefacts(folder):
        every.setdefault(record, [])
        if (file == record) == (what == "records"):
            every[record].append(file)
    files = sorted({file for one in every.values() for file in one})
    assert len(files) > 20 or not is_study(folder)
    if how == "swap":
        for kind in {file.suffix for file in files}:
            same = [one for one in files if one.suffix == kind]
            contents = [one.read_bytes() for one in same]
            for file, data in zip(same, contents[1:] + contents[:1], strict=True):
                file.write_bytes(data)
    else:
        for record, own in every.items():
            tamper(how, record, own, audits[1])
    found = "\n".join(faults(folder))
    for file in files:
        record = next(record for record, own in every.items() if file in own)
        is_lost = how == "delete" and what == "records"
        is_copy = how == "copy" and is_study(folder)
        before = (whole / file.relative_to(folder)).read_bytes()
        if is_lost and file.parent.name == "manifests":
            assert Study(folder).manifest(file.stem) is None  # the stage is made again
        elif is_lost and file.parent.parent.name == "maps":
            assert not Study(folder).is_done("capture")  # and what is missing is captured
        elif how == "copy" and file.name == RECORD:
            assert "spans.parquet: damaged" in found  # it is whole, but of other tables
        elif is_copy or how in ("delete", "pipe") or file.read_bytes() != before:
            assert str(record if is_copy else file) in found, f"{how} {file}"


def test_a_shard_or_the_description_of_maps_that_is_gone_is_missed_and_made_again(
    study, tmp_path, succeed
):
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    for gone, said in (
        ("shard-00000.*", "maps are missing"),
        ("meta.json", "meta.json is missing"),
    ):
        for path in (folder / "maps" / "model").glob(gone):
            path.unlink()
        assert said in "".join(faults(folder))
        succeed("capture", folder, "-q")
        assert not faults(folder)
        assert content(folder) == content(study)


def test_settings_of_another_study_find_nothing_their_own(study, tmp_path):
    """As where `study.yaml` is exchanged for that of other sequences."""
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    values = yaml.safe_load((folder / "study.yaml").read_text())
    values["record"]["tokens"] = "0" * 64
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    records = {record for record, _ in artefacts(folder)}
    assert len(faults(folder)) >= len({one for one in records if one.parent.name == "manifests"})
    with pytest.raises(DamagedDataError, match="of another study"):
        _ = Study(folder).sequences
