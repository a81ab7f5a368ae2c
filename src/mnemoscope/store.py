"""The one door to what is kept: an artefact is written once, and read only where it is whole.

An artefact is one file or several under one record, `NAME.json`, which is written last. The record
says whose the files are, what decided them (its key), the size and SHA-256 of each, and its own
SHA-256. So a file that is flipped, cut, exchanged for another, deleted or copied from elsewhere is
found, and what a killed process left half written has no record and is made again.
"""

import hashlib
import json
import shlex
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from typing_extensions import TypedDict

from mnemoscope.errors import (
    DamagedDataError,
    MissingError,
    MnemoscopeError,
    OutOfDateError,
    UserError,
    first_line,
    nearest,
)
from mnemoscope.files import (
    check_shape,
    digest,
    json_bytes,
    made_folder,
    parquet_bytes,
    write_bytes,
)
from mnemoscope.parse import read_json
from mnemoscope.progress import Progress, say, track
from mnemoscope.version import __version__

if TYPE_CHECKING:
    import polars as pl

# File systems keep the time of a change to within so many seconds (FAT: 2). A file changed twice
# within one tick looks unchanged, so a check is remembered only of files older than this.
TICK_SECONDS = 2.0
Facts = dict[str, Any]
"""A record (a `_Record`, and what else its maker says), or a row for a page: facts by name."""
_Row = TypeVar("_Row")
_Identity = tuple[str, int, int, int, int]  # path, inode, size, mtime, ctime
_RECORDS: dict[Path, tuple[_Identity, Facts]] = {}  # those read, found to be whole
_WHOLE: dict[Path, tuple[_Identity, str]] = {}  # files and the SHA-256 that they were found to have


class OtherVersionError(ValueError):
    """A record is as it was written, and lacks what this version asks of one; `made`: by which."""

    def __init__(self, said: str, made: str | None) -> None:
        super().__init__(said)
        self.made = made


class _Signed(TypedDict):
    sha256: str


class _Record(TypedDict):
    name: str
    owner: dict[str, str]
    key: str
    files: dict[str, str]
    sizes: dict[str, int]
    sha256: str


def _again(_: str) -> str:
    return "run the same command again"


class Store:
    """The artefacts of one folder.

    `owner` says whose they are (SHA-256 of the sequences, of a model's weights, by role): what a
    record says of the same role must be equal. `remedy` says how an artefact of a name is made
    again, after "or": "run 'mnemoscope train STUDY'".
    """

    def __init__(
        self,
        folder: Path | str,
        owner: Callable[[], Mapping[str, str]] = dict,
        remedy: Callable[[str], str] = _again,
    ) -> None:
        self.folder: Path = Path(folder)
        self._owner, self._remedy = owner, remedy

    # -- write ------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        files: Mapping[str, "pl.DataFrame | bytes"],
        *,
        key: str = "",
        **facts: Any,
    ) -> None:
        """Write an artefact: its files (paths in the folder, tables as Parquet), then its record.

        Raises NoRoomError: the disk is full. UserError: the folder cannot be written to.
        """
        with self.making(name) as made:
            for file, value in files.items():
                made.put(file, value)
            made.facts |= {"key": key, **facts}

    @contextmanager
    def making(self, name: str) -> Iterator["Making"]:
        """Write an artefact file by file; its record is written if the block succeeds."""
        made = Making(self, name)
        yield made
        kept = {"files": made.files, "sizes": made.sizes}
        said = {"name": name, "owner": dict(self._owner()), **made.facts, **kept}
        plain = json.loads(json.dumps(said))
        self.write(f"{name}.json", json_bytes(plain | {"sha256": digest(plain)}))

    def forget(self, name: str) -> None:
        """Remove a record: what it named counts as not made, its files stay until written anew."""
        self.remove(f"{name}.json")

    # -- read -------------------------------------------------------------------------------

    def record_path(self, name: str) -> Path:
        """Where the record of an artefact lies."""
        return self.folder / f"{name}.json"

    def has(self, name: str) -> bool:
        """True if the record and every file that it names are there; the files are not read."""
        try:
            return all((self.folder / one).is_file() for one in self.record(name)["files"])
        except MissingError:
            return False

    def record(self, name: str, *, key: str | None = None, shape: Any = dict) -> Facts:
        """Read the record of an artefact, which must be of this type (as `files.check_shape`).

        Raises MissingError: there is none. OutOfDateError: it was made with another key, by another
        model, or by another version of mnemoscope. DamagedDataError: unreadable, changed,
        another's or of other sequences.
        """
        path = self.record_path(name)
        try:
            found = self.found(name, shape=shape)
        except FileNotFoundError:
            raise self.missing(path, name) from None
        except OtherVersionError as error:
            raise OutOfDateError(
                f"{path}: {error}. Nothing is said against it: "
                f"{other_state_remedy(error.made, self._remedy(name))}."
            ) from None
        except (OSError, ValueError) as error:
            raise self.damaged(path, name, first_line(error)) from None
        if key is not None and found["key"] != key:
            raise self.out_of_date(path, name, "made with other settings or another model")
        return found

    def found(self, name: str, *, shape: Any = dict) -> Facts:
        """As `record`; OSError or ValueError where there is none that may be read."""
        _check_fields(found := self.read_record(name), shape)
        if found["name"] != name:
            raise ValueError(f"it is '{found['name']}'")
        owner = self._owner()
        for role in found["owner"].keys() & owner.keys():
            if found["owner"][role] != owner[role]:
                raise ValueError(f"it is of another study: its {role} differs")
        return found

    def read_record(self, name: str) -> Facts:
        """A record as it was written, whoever owns it; OSError or ValueError as `found`."""
        path = self.record_path(name)
        identity = _identity(path)
        known, found = _RECORDS.get(path, (None, {}))
        if known != identity:
            check_record(found := read_json(path))
            if time.time() - max(identity[-2:]) / 1e9 > TICK_SECONDS:
                _RECORDS[path] = identity, found
        return found

    def path(self, name: str, file: str, *, key: str | None = None, again: bool = False) -> Path:
        """Check the size and SHA-256 of a file and return its path; errors as `record`.

        The check is remembered until the file changes; `again` repeats it.
        """
        path, record = self.folder / file, self.record(name, key=key)
        wanted = record["files"].get(file)
        if wanted is None:
            raise self.missing(path, name)
        try:
            identity = _identity(path)
            if identity[2] != record["sizes"].get(file):  # however long another one is
                raise self.damaged(path, name, CHANGED)
            if again or _WHOLE.get(path) != (identity, wanted):
                with path.open("rb") as handle:
                    found = hashlib.file_digest(handle, "sha256").hexdigest()
                if found != wanted:
                    raise self.damaged(path, name, CHANGED)
                if time.time() - max(identity[-2:]) / 1e9 > TICK_SECONDS:
                    _WHOLE[path] = identity, wanted
        except FileNotFoundError:
            raise self.missing(path, name) from None
        except OSError as error:
            raise self.damaged(path, name, first_line(error)) from None
        return path

    def check(self, name: str) -> None:
        """Compare every file of an artefact that is there with its SHA-256; errors as `record`."""
        for file in self.record(name)["files"]:
            if (self.folder / file).exists():
                self.path(name, file, again=True)

    def frame(self, name: str, file: str) -> "pl.DataFrame":
        """Read a table; errors as `record`."""
        import polars as pl

        return pl.read_parquet(self.path(name, file), glob=False)

    def kept(self, name: str, what: str, *, key: str | None = None) -> Facts | None:
        """Return the record of an artefact if it is up to date and whole, else None.

        If there is one that is damaged or out of date, say why, and that `what` is recomputed.
        """
        try:
            found = self.record(name, key=key)
            for file in found["files"]:
                self.path(name, file)
            return found
        except MissingError:
            return None
        except (DamagedDataError, OutOfDateError) as error:
            say(f"{first_line(error).split('). ')[0]}); recomputing {what}.")
            return None

    def already_made(self, name: str, key: str, what: str, *, redo: bool) -> Facts | None:
        """The record of an artefact that was made with this key, which is said; None: not made.

        With `redo` None too where another, or a damaged one, is to be written over. Raises
        UserError: another one is there ("holds other `what`"). DamagedDataError: it is damaged.
        """
        try:
            found = self.record(name)
            if found.get("key") == key:
                for file in found["files"]:
                    self.path(name, file)
                say(f"{self.folder}: these {what} are already there.")
                return found
        except MissingError:
            return None
        except (DamagedDataError, OutOfDateError):
            if not redo:
                raise
        if not redo:
            raise UserError(
                f"{self.folder}: holds other {what}, or those of another model or other settings. "
                "Choose another folder with -o, or --redo to write over them."
            )
        return None

    def finished(self, name: str, version: int) -> Facts:
        """The record of a finished artefact of this schema version, every file as it was written.

        Raises UserError: none there, or of another version. DamagedDataError: a file that changed.
        """
        check_is_made(self.folder, name)
        found = self.record(name)
        if found.get("schema_version") != version:
            raise UserError(
                f"{self.folder}: {name}.json is of another version of mnemoscope. "
                f"To mend it, {self._remedy(name)}."
            )
        self.check(name)
        return found

    # -- files; a store that is no folder of this machine does these otherwise -----------------

    def write(self, file: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        path = self.folder / file
        made_folder(path.parent)
        write_bytes(path, data)

    def remove(self, file: str) -> None:
        """Remove a file if it is there."""
        (self.folder / file).unlink(missing_ok=True)

    # -- what can be wrong ------------------------------------------------------------------

    def verify(
        self, names: Sequence[str], record_of: Callable[[str], str] | None = None
    ) -> list[MnemoscopeError]:
        """Read every artefact whose record matches one of these patterns; what is wrong, by file.

        A data file (.parquet, .safetensors, .npy) that no record lists is reported as a missing
        record: in the store's own folder that which `record_of` (of the file's name) gives,
        elsewhere the one named like the file, or the folder's only one.
        """
        found: list[MnemoscopeError] = []
        named: set[Path] = set()
        for path in sorted({one for name in names for one in self.folder.glob(f"{name}.json")}):
            name = path.relative_to(self.folder).with_suffix("").as_posix()
            try:
                files = self.record(name)["files"]
            except (UserError, DamagedDataError) as error:
                found.append(error)
                continue
            for file in files:
                named.add(self.folder / file)
                try:
                    self.path(name, file)
                except (UserError, DamagedDataError) as error:
                    found.append(error)
        lost = {
            record_of(path.name) if record_of and path.parent == self.folder else record
            for name in names
            for path, record in self._data_beside(name)
            if path not in named
        }
        return found + [self.missing(self.record_path(name), name) for name in sorted(lost)]

    def _data_beside(self, name: str) -> Iterator[tuple[Path, str]]:
        """Tables, tensors and arrays in the folders of records, and the record that each lacks."""
        folder, own = Path(name).parent, Path(name).name
        has_one_record = "*" in str(folder) and "*" not in own
        for path in self.folder.glob(str(folder / "*")):
            if path.suffix in _DATA and not path.name.startswith("."):
                last = own if has_one_record else path.name.partition(".")[0]
                yield path, (path.relative_to(self.folder).parent / last).as_posix()

    def missing(self, path: Path, name: str) -> MissingError:
        """The error for what is not there."""
        return MissingError(f"{path}: missing. Restore it from a copy, or {self._remedy(name)}.")

    def out_of_date(self, path: Path, name: str, why: str) -> OutOfDateError:
        """The error for what was made otherwise than now asked."""
        return OutOfDateError(
            f"{path}: out of date ({why}). Restore the right one from a copy, or "
            f"{self._remedy(name)}."
        )

    def damaged(self, path: Path, name: str, why: str) -> DamagedDataError:
        """The error for what is not as it was written."""
        return DamagedDataError(
            f"{path}: damaged ({why}). Restore it from a copy, or delete it and "
            f"{self._remedy(name)}."
        )


_DATA = (".parquet", ".safetensors", ".npy")
CHANGED = "its content has changed since it was written"


class Making:
    """An artefact that is being written: SHA-256 and size of each file so far, and its facts."""

    def __init__(self, store: Store, name: str) -> None:
        self.files: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.facts: Facts = {"key": ""}
        self._store, self._name = store, name

    def put(self, file: str, value: "pl.DataFrame | bytes") -> None:
        """Write one file; the former artefact of the name ends with the first."""
        if not self.files:
            self._store.forget(self._name)
        data = value if isinstance(value, bytes) else parquet_bytes(value)
        self._store.write(file, data)
        self.files[file], self.sizes[file] = hashlib.sha256(data).hexdigest(), len(data)


def made_by(made: str | None) -> str:
    """Which mnemoscope made a record that this one does not read, in words."""
    if made == __version__:
        return f"made by another state of mnemoscope {made}, before its release"
    return f"of another version of mnemoscope{f', made by {made}' if made else ''}"


def other_state_remedy(made: str | None, again: str) -> str:
    """What to do about it; `again` makes it anew, after "or"."""
    return again if made == __version__ else f"read it with the version that made it, or {again}"


def check_record(found: Any) -> None:
    """Raise ValueError where a value from JSON is no record, or not as a store wrote it.

    OtherVersionError where it is, and lacks a field.
    """
    check_shape(found, _Signed)
    if found["sha256"] != digest({k: v for k, v in found.items() if k != "sha256"}):
        raise ValueError(CHANGED)
    _check_fields(found, _Record)


def _check_fields(found: Facts, shape: Any) -> None:
    """Raise OtherVersionError where a key is not there, ValueError where one is of another type."""
    if lacks := sorted(getattr(shape, "__required_keys__", frozenset()) - found.keys()):
        versions = found.get("versions")
        made = versions.get("mnemoscope") if isinstance(versions, dict) else None
        raise OtherVersionError(f"{made_by(made)} (without {', '.join(lacks)})", made)
    check_shape(found, shape)


def check_is_made(folder: Path, name: str) -> None:
    """Refuse a folder without a finished result of the verb `name`, whose record has its name."""
    if not (folder / f"{name}.json").is_file():
        refuse_folder(folder, f"contains no {name}.json", f"Make it: 'mnemoscope {name}'.")


_JUDGED = {  # by a file of a result: what the folder holds, and a command that judges that
    "audit.json": "an audit. Judge it: mnemoscope audit gate {} --fail-if 'recalled > 0.5%'",
    "watch.json": "a watch. Judge it: mnemoscope watch {} --fail-if 'recalled > 1%'",
    "memorization/watch.json": "a watch. Judge it: mnemoscope watch {} --fail-if 'recalled > 1%'",
    "items.json": "items. Judge them: mnemoscope items gate {} --fail-if 'recalled > 1%'",
    "forget.json": "a test of forgetting. Judge it: mnemoscope forget gate {} "
    "--fail-if 'kept > 3 passages'",
    "images.json": "images. Judge them: mnemoscope images gate {} --fail-if 'memorized > 2%'",
    "study.yaml": "a study, to which no condition is put. Audit its model: "
    "mnemoscope audit MODEL DOCUMENTS -o DIR --fail-if 'recalled > 0.5%'",
}


def held_said(folder: Path) -> str:
    """What a folder holds, and how that is judged, for the end of a message; empty: none of it."""
    found = (said for name, said in _JUDGED.items() if (folder / name).is_file())
    return next(found, "").format(shlex.quote(str(folder)))


def refuse_folder(folder: Path, lacking: str, remedy: str) -> NoReturn:
    """Refuse a folder that lacks a result (UserError), and say what else it holds."""
    if not folder.is_dir():
        beside = map(str, folder.parent.iterdir()) if folder.parent.is_dir() else ()
        raise UserError(f"{folder}: no such folder.{nearest(str(folder), beside)}")
    held = held_said(folder)
    raise UserError(
        f"{folder}: {lacking}, but {held}" if held else f"{folder}: {lacking}. {remedy}"
    )


def store_of_parts(folder: Path) -> Store:
    """A store for what is done of a work; a part of another folder is refused."""
    return Store(folder, lambda: {"folder": folder.name})


def kept_in_parts(
    folder: Path | None,
    label: str,
    rows: Sequence[_Row],
    size: int,
    make: Callable[[Sequence[_Row], Progress], "pl.DataFrame"],
    *,
    unit: str,
) -> "list[pl.DataFrame]":
    """Make a table of rows, `size` at a time; a part that an earlier run kept in `folder` is read.

    Without a folder nothing is kept. A part that is damaged is made again, which is said.
    """
    made, store = [], None if folder is None else store_of_parts(folder)
    with track(label, total=len(rows), unit=unit) as progress:
        for start in range(0, len(rows), size):
            name = f"{label.lower().replace(' ', '-')}-{start // size:06d}"
            some, file = rows[start : start + size], f"{name}.parquet"
            if store and store.kept(name, "this part"):
                made.append(store.frame(name, file))
                progress.advance(len(some))
                continue
            made.append(make(some, progress))
            if store:
                store.put(name, {file: made[-1]})
    return made


def _identity(path: Path) -> _Identity:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("no regular file")  # a pipe has no end
    times = found.st_mtime_ns, found.st_ctime_ns
    return str(path), found.st_ino, found.st_size, *times
