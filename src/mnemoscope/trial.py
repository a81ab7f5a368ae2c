"""Let another process read a Parquet file first, where nothing says that it is whole.

Of one flipped bit Polars may ask for 2^61 bytes, and Rust then ends the process on the spot; no
exception tells. One small process a session reads each such file; if it dies, the file is damaged.
"""

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from pathlib import Path

_MOST_BYTES = 64 << 20  # of a file; larger ones take seconds, and their reader is not tried
_SECONDS = 60.0  # on a busy machine; a file of this size takes less than one
_PROGRAM = """
import json, resource, sys
import polars as pl
resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for line in sys.stdin:
    try:
        pl.read_parquet(json.loads(line), glob=False)
        said = ""
    except BaseException as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
    print(json.dumps(said), flush=True)
"""
_lock = threading.Lock()
_known: dict[tuple[str, int, int, int], str] = {}
_process: subprocess.Popen[str] | None = None
_owner = 0  # the process that may speak to it: a fork shares the pipes


def fault_of_parquet(path: Path) -> str:
    """What is wrong with a Parquet file, empty where it can be read; its reader's own words.

    Raises:
        OSError: missing or unreadable.
    """
    found = path.stat()
    identity = str(path.absolute()), found.st_ino, found.st_size, found.st_mtime_ns
    if not 0 < found.st_size <= _MOST_BYTES:
        return "" if found.st_size else "an empty file"
    with _lock:
        if identity not in _known:
            _known[identity] = _try(path.absolute())
        return _known[identity]


def _try(path: Path) -> str:
    global _process, _owner
    if _process is None or _owner != os.getpid() or _process.poll() is not None:
        _owner = os.getpid()
        _process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for us
            env=os.environ | {"POLARS_MAX_THREADS": "1", "RUST_BACKTRACE": "0"},
        )
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
    if answer:
        return str(json.loads(answer))
    _end()
    return "its reader dies of it" if answer == "" else f"not read within {_SECONDS:.0f} s"


@atexit.register
def _end() -> None:
    """End the process, if there is one."""
    global _process
    if _process is not None and _owner == os.getpid():
        _process.kill()
        _process.communicate()
        _process = None
