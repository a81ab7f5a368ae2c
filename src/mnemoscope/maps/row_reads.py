"""Rows of open files into memory, in one compiled loop over the system's `pread`.

From Python a read costs a microsecond more than the system needs: as much as the row of a model of
few layers.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np

__all__ = ["read_rows"]


def read_rows(
    maps: np.ndarray, order: np.ndarray, first: int, places: np.ndarray, files: np.ndarray
) -> int:
    """Fill an array row by row; stops at the first row that does not come whole.

    Args:
        maps: contiguous, shape (n, ...); written.
        order: in which order its rows are read, int64, shape (n,).
        first: where in `order` to begin.
        places: for each row of `maps` its file and its row there, int64, shape (2, n).
        files: for each file its descriptor and the byte at which its rows begin, int64, shape
            (2, files); a negative descriptor stops too.

    Returns:
        Where in `order` it stopped; n when all came, `first` where the system has no `pread`.
    """
    loop = _compiled()
    if loop is None:
        return first
    return loop(maps.ctypes.data, maps[:1].nbytes, order, first, places, files)


@cache
def _compiled() -> Callable[[int, int, np.ndarray, int, np.ndarray, np.ndarray], int] | None:
    try:
        pread = ctypes.CDLL(None).pread
    except (AttributeError, TypeError, OSError):  # Windows
        return None
    pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
    pread.restype = ctypes.c_ssize_t

    from numba import njit

    @njit(nogil=True)
    def loop(
        address: int,
        n_bytes: int,
        order: np.ndarray,
        first: int,
        places: np.ndarray,
        files: np.ndarray,
    ) -> int:
        for at in range(first, len(order)):
            row = order[at]
            file = places[0, row]
            start = files[1, file] + places[1, row] * n_bytes
            if pread(files[0, file], address + row * n_bytes, n_bytes, start) != n_bytes:
                return at
        return len(order)

    return loop
