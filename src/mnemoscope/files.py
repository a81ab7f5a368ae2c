"""Write files atomically, and read tables that come from outside without harm.

A file that exists is complete: it is written to a temporary file, synced and renamed. A full disk
raises `NoRoomError` and leaves the old file. What is kept is checked by `store`.
"""

import atexit
import errno
import glob
import hashlib
import io
import itertools
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import BaseFileLock, FileLock, Timeout

from mnemoscope.errors import (
    DamagedDataError,
    MnemoscopeError,
    NoRoomError,
    UserError,
    a_kind,
    first_line,
)

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from pydantic import TypeAdapter


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces `path` only if the block succeeds.

    The temporary file is ``.<name>.<pid>.tmp`` in the same folder. Raises NoRoomError: the disk is
    full, or does not allow files of this size. UserError: the folder is missing or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:  # on disk before its name appears
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        if os.name == "posix":  # sync the new name too; only POSIX can open a folder
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_torn(folder: Path) -> None:
    """Remove what killed processes left of the files that they wrote there by `atomic_path`."""
    for left in folder.glob(".*.tmp"):
        if left.name.split(".")[-2].isdigit() and left.is_file():
            left.unlink(missing_ok=True)


def refuse_existing(folder: Path) -> None:
    """Raise UserError where an output folder is there already."""
    if folder.exists():
        raise UserError(f"{folder}: already there. Choose another folder with -o.")


@contextmanager
def atomic_folder(
    folder: Path | str, check: Callable[[Path], None] = refuse_existing
) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `folder` on success.

    `check` refuses a `folder` that may not be made; an empty one is replaced. The temporary folder
    is ``.<name>.<pid>.tmp`` beside it; its process holds a lock beside that, so what a killed one
    left is known and removed first. Raises UserError: as `check`, the parent is not writable, or
    another is making the folder. NoRoomError: the disk is full.
    """
    check(Path(folder))
    folder = Path(folder).resolve()  # a link to an empty folder stays a link
    made_folder(folder.parent)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        with suppress(UserError, OSError), _held(left, folder):
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with naming(folder), _held(temporary, folder):
        try:
            yield made_folder(temporary)
            mask = os.umask(0)  # safetensors writes for the owner alone
            os.umask(mask)
            for file in filter(Path.is_file, temporary.rglob("*")):
                file.chmod(0o666 & ~mask)
            check(folder)
            os.replace(temporary, folder)
        finally:  # within the lock: the temporary folder of another is not ours to remove
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Turn errors of writing, those of libraries in Rust too, into UserError or NoRoomError."""
    try:
        yield
    except OSError as error:
        raise _explain(error, folder) from error
    except Exception as error:
        if (said := _OS_ERROR.search(str(error))) is None:
            raise
        number = int(said[1])
        raise _explain(OSError(number, os.strerror(number)), folder) from error


_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""What libraries in Rust, such as safetensors, say in an error that is no OSError."""


@contextmanager
def _held(temporary: Path, folder: Path) -> Iterator[None]:
    """Hold the file beside it, `.lock` in place of `.tmp`; UserError where another does."""
    lock = temporary.with_suffix(".lock")
    try:
        lock.touch()  # acquiring a lock that cannot be written says that it is in use
    except OSError as error:
        raise unmade(folder, error) from None
    held = FileLock(lock, thread_local=False)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: in use by another process, which makes it. Wait until it ends, or choose "
            "another with -o."
        ) from None
    try:
        yield
    finally:
        held.release()
        lock.unlink(missing_ok=True)


def hold_file(path: Path) -> AbstractContextManager[None]:
    """Hold an output file that takes long to make, by `.NAME.lock` beside it, which is removed.

    Raises UserError: another process is making it, or its folder cannot be written to.
    """
    return _held(path.with_name(f".{path.name}.tmp"), path)


LOCK_FILE = ".lock"


@contextmanager
def hold_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Lock a folder for the duration of the block: a study, an audit.

    An exclusive holder keeps `.lock`. A shared holder takes `.lock` only long enough to create and
    lock its own file, `.lock-PID-NUMBER`. The folder is free if `.lock` and all of these are
    unlocked. Raises UserError: another process holds it (names its process id), or it cannot be
    written to. NoRoomError: the disk is full.
    """
    with ExitStack() as held:
        try:
            gate = _gate(folder, shared=shared)
            held.callback(gate.release)
            if shared:
                (folder / _HOLDER_FILE).unlink(missing_ok=True)  # a killed one's
                own = folder / f"{LOCK_FILE}-{os.getpid()}-{next(_NUMBERS)}"
                held.callback(own.unlink, missing_ok=True)
                held.enter_context(_file_lock(own))
                gate.release()
            else:
                _clear_shares(folder)
                held.callback((folder / _HOLDER_FILE).unlink, missing_ok=True)
                (folder / _HOLDER_FILE).write_text(f"{os.getpid()}\n", encoding="utf-8")
        except OSError as error:
            if error.errno in NO_ROOM:
                raise disk_full(folder) from error
            raise UserError(
                f"{folder}: cannot be written to ({error.strerror}). Copy it, or choose another."
            ) from None
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise disk_full(folder) from error


def written_by_holder(path: Path) -> bool:
    """Whether a file was written since the process that holds its folder alone took it."""
    with suppress(OSError):
        return path.stat().st_mtime_ns >= (path.parent / _HOLDER_FILE).stat().st_mtime_ns
    return False


_HOLDER_FILE = f"{LOCK_FILE}.pid"
_NUMBERS = itertools.count()  # of the shares that this process takes
_PATIENCE = 10.0  # seconds to wait for `.lock`, which another shared holder keeps briefly
_A_MOMENT = 1.0  # seconds in which an exclusive holder of `.lock` has written its number


def _file_lock(path: Path) -> BaseFileLock:
    return FileLock(path, thread_local=False)


def _gate(folder: Path, *, shared: bool) -> BaseFileLock:
    """Take `.lock`; UserError names its holder."""
    lock = _file_lock(folder / LOCK_FILE)
    end = time.monotonic() + (_PATIENCE if shared else _A_MOMENT)
    while True:
        try:
            lock.acquire(timeout=0)
            return lock
        except Timeout:
            with suppress(OSError):
                if pid := (folder / _HOLDER_FILE).read_text(encoding="utf-8").strip():
                    raise _in_use(folder, f"process {pid}") from None
            if time.monotonic() >= end:
                raise _in_use(folder, _SHARERS) from None
            time.sleep(0.05)


def _clear_shares(folder: Path) -> None:
    """Remove what killed sharers left; UserError where one lives."""
    for path in folder.glob(f"{LOCK_FILE}-*"):
        try:
            lock = _file_lock(path)
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            raise _in_use(folder, _SHARERS) from None
        path.unlink(missing_ok=True)


_SHARERS = "processes that work on parts of it"


def _in_use(folder: Path, holder: str) -> UserError:
    return UserError(f"{folder}: in use by {holder}. Wait until it ends, or stop it.")


def free_name(path: Path) -> Path:
    """The path, or with the first number behind it under which nothing lies: a command's output."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not os.path.lexists(one))


def refuse_filled(folder: Path) -> None:
    """Raise UserError where an output folder is there and not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something already. Choose a new or empty folder with -o.")


def as_path(given: object, what: str) -> Path:
    """The path that was given; UserError for anything else."""
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{what}: {a_kind(given)}; give a path.")
    return Path(given)


def made_folder(folder: Path | str) -> Path:
    """Create an output folder with its parents; UserError or NoRoomError if that fails."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unmade(folder, error) from None
    return Path(folder)


def unmade(folder: Path | str, error: OSError) -> MnemoscopeError:
    """What to raise where a folder cannot be made."""
    if error.errno in NO_ROOM:
        return disk_full(folder)
    there = next(one for one in Path(folder).absolute().parents if one.exists())
    why = f"{error.strerror} in {there}"
    if error.errno in (errno.EACCES, errno.EPERM):
        why = f"no permission to write in {there}"
    elif error.errno == errno.EROFS:
        why = f"{there} can only be read"
    elif error.errno == errno.ENOENT:  # its parents were made, and it is refused all the same
        why = f"the system lets nobody make folders in {there}"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        why = "a file is in its place"
    return UserError(f"{folder}: this folder cannot be made ({why}). Choose another with -o.")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write bytes atomically; errors as `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically; errors as `atomic_path`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically, keeping the order of keys; errors as `atomic_path`."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Indented JSON in UTF-8, keeping the order of keys."""
    return f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; UserError where it cannot be read, or has no end."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: no regular file.")
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error


def check_shape(value: Any, shape: Any) -> None:
    """Raise ValueError where a value from JSON or YAML is not of a type, in a few words.

    The type is one that pydantic knows, a TypedDict where keys count; keys beside these are free.
    """
    from pydantic import ValidationError

    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}".removeprefix(": ")) from None


@cache
def _adapter(shape: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # heavy, and --help must be quick

    return TypeAdapter(shape)


def digest(value: Any) -> str:
    """SHA-256 of what JSON says of a value, keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What the system's errors say of a full disk or quota."""


def disk_full(path: Path | str) -> NoRoomError:
    """The error for a place without room."""
    return NoRoomError(
        f"{path}: the disk is full. Make room and run the same command again; "
        "what was complete is kept."
    )


def _explain(error: OSError, path: Path) -> Exception:
    if error.errno in NO_ROOM:
        return disk_full(path)
    if error.errno == errno.EFBIG:
        return NoRoomError(
            f"{path}: the system allows no file this large here (see 'ulimit -f'). "
            "Choose another place with -o."
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"{path}: no permission to write here. Choose another place with -o.")
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return UserError(f"{path.parent}: no such folder. Create it, or choose another with -o.")
    return error


def open_array(path: Path) -> "np.memmap[Any, Any]":
    """Map the array of an `.npy` file, read only; DamagedDataError where it holds none, or a part.

    A header is Python source to NumPy: a hostile one raises whatever tokenizer and parser do.
    """
    import numpy as np

    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        said = first_line(error)
        raise DamagedDataError(
            f"{path}: not a whole .npy array ({said}). Copy it again."
        ) from error


def write_parquet(
    path: Path | str, frame: "pl.DataFrame", *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a table atomically; arguments as `parquet_bytes`, errors as `atomic_path`."""
    write_bytes(path, parquet_bytes(frame, metadata=metadata))


def parquet_bytes(frame: "pl.DataFrame", *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode a table as zstd Parquet."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=dict(metadata or {}) or None)
    return buffer.getvalue()


# -- a file that nothing says is whole -----------------------------------------------------------
# After one flipped bit Polars may ask for 2^61 bytes, and Rust then ends the process on the spot,
# without an exception. One small process a session reads each such file; if it dies, the file is
# damaged, unless it had less memory than any whole file needs. It needs POSIX (limits, and pipes
# that can be waited for); elsewhere nothing is tried.

_MOST_BYTES = 64 << 20  # of a file; larger ones take seconds, and their reader is not tried
_SECONDS = 60.0  # on a busy machine; a file of this size takes less than one
_ROOM = 8 << 30  # bytes of address space in which a whole file of this size is read
# It gets that much, or the limit that holds. Polars is tried once beforehand, so that its threads
# are there. Null says that memory was short. Below `_ROOM` a death says so too, or silence, where
# a thread waits for a dead one.
_PROGRAM = """
import io, json, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import polars as pl
pl.DataFrame({"a": [1]}).write_parquet(tried := io.BytesIO())
pl.read_parquet(tried.getvalue())
try:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
except (OSError, ValueError):
    pass  # macOS allows no limit below what is mapped
for line in sys.stdin:
    try:
        pl.read_parquet(json.loads(line), glob=False)
        said = ""
    except BaseException as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, MemoryError):
            said = None
    print(json.dumps(said), flush=True)
"""
_SHORT = re.compile(r"memory|alloc|spawn|thread|temporarily unavailable|os error 1[12]\b", re.I)
"""What Polars and Rust say where memory or threads are short; damaged files may bring it out."""
_lock = threading.Lock()
_known: dict[tuple[str, int, int, int], str] = {}
_process: subprocess.Popen[str] | None = None
_owner = 0  # the process that may speak to it: a fork shares the pipes


def check_room(path: Path, error: BaseException) -> None:
    """Raise NoRoomError where Polars met an error for lack of memory, under a limit of it."""
    if os.name == "posix" and _SHORT.search(str(error)) and _room() < _ROOM:
        raise _unchecked(path, _limited()) from error


def fault_of_parquet(path: Path) -> str:
    """What is wrong with a Parquet file, in its reader's words; empty where it can be read.

    Raises NoRoomError: memory does not suffice to try it.
    """
    found = path.stat()
    identity = str(path.absolute()), found.st_ino, found.st_size, found.st_mtime_ns
    if not 0 < found.st_size <= _MOST_BYTES or os.name != "posix":
        return "" if found.st_size else "an empty file"
    with _lock:
        if identity not in _known:
            _known[identity] = _try(path.absolute())
        return _known[identity]


def _try(path: Path) -> str:
    global _process, _owner
    if _process is None or _owner != os.getpid() or _process.poll() is not None:
        try:
            _process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(_room())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C is for us
                env=os.environ | {"POLARS_MAX_THREADS": "1", "RUST_BACKTRACE": "0"},
            )
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.EAGAIN):
                raise
            raise _unchecked(path, f"its reader does not start: {error.strerror}") from error
        _owner = os.getpid()
    assert _process.stdin is not None
    assert _process.stdout is not None
    try:
        _process.stdin.write(json.dumps(str(path)) + "\n")
        _process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(_process.stdout, selectors.EVENT_READ)
            answer = _process.stdout.readline() if selector.select(_SECONDS) else None
    except BrokenPipeError:
        answer = ""
    said = json.loads(answer) if answer else None
    if said is not None and not _SHORT.search(said):
        return str(said)
    is_killed = answer == "" and _process.wait() == -signal.SIGKILL  # as Linux does for memory
    _end()
    if is_killed or _room() < _ROOM:
        raise _unchecked(path, "the system ended its reader" if is_killed else _limited())
    return (
        f"not read within {_SECONDS:.0f} s" if answer is None else "it crashes the Parquet reader"
    )


def _unchecked(path: Path, why: str) -> NoRoomError:
    return NoRoomError(
        f"{path}: not enough memory to check whether it is whole ({why}). Make room and run the "
        "same command again."
    )


def _limited() -> str:
    return f"its reader had {_room() / 2**30:.1f} of {_ROOM >> 30} GiB, see 'ulimit -v'"


def _room() -> int:
    """Bytes of address space that the reader may have: as this process, but `_ROOM` at most."""
    import resource  # POSIX alone

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _ROOM if soft == resource.RLIM_INFINITY else min(soft, _ROOM)


@atexit.register
def _end() -> None:
    global _process
    if _process is not None and _owner == os.getpid():
        _process.kill()
        _process.communicate()
        _process = None
