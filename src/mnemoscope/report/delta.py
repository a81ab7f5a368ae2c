"""Decisiveness as pictures: each layer scaled by its maximum, one small PNG a class and layer.

A pixel holds the square root of the scaled value in 8 bits, white for nothing and black for the
layer's maximum, transparent where a query cannot look (above the diagonal). The page colours it;
without colouring it is still a picture.
"""

import base64
import struct
import zlib
from typing import NamedTuple

import numpy as np

__all__ = [
    "ZoneShares",
    "png_grey",
    "png_ink",
    "png_uri",
    "scale_by_layer",
    "strongest_layer",
    "zone_shares",
]


class ZoneShares(NamedTuple):
    """Which share of a class's Δ lies where, fractions that add up to 1.

    Attributes:
        prefix: prefix tokens looking at the prefix.
        suffix_to_prefix: suffix tokens looking back at the prefix.
        suffix: suffix tokens looking at the suffix.
    """

    prefix: float
    suffix_to_prefix: float
    suffix: float


def scale_by_layer(delta: np.ndarray) -> np.ndarray:
    """Divide each layer by its largest value over all classes.

    Args:
        delta: (classes, layers, query, key), not negative.

    Returns:
        The same shape, float32 in [0, 1]; a layer that is zero everywhere stays zero.
    """
    largest = delta.max(axis=(0, 2, 3), keepdims=True)
    safe = np.where(largest > 0, largest, 1)
    scaled: np.ndarray = np.clip(delta / safe, 0, 1).astype(np.float32)
    return scaled


def strongest_layer(delta: np.ndarray) -> int:
    """Give the layer in which Δ of all classes together is largest."""
    return int(delta.sum(axis=(0, 2, 3)).argmax())


def zone_shares(delta: np.ndarray) -> list[ZoneShares | None]:
    """Say for each class which share of Δ lies in the three zones of a sequence.

    Args:
        delta: (classes, layers, query, key).

    Returns:
        One entry a class, None where Δ is zero.
    """
    half = delta.shape[-1] // 2
    shares: list[ZoneShares | None] = []
    for maps in delta.astype(np.float64).sum(axis=1):
        total = maps.sum()
        prefix, crossing = maps[:half, :half].sum(), maps[half:, :half].sum()
        shares.append(
            ZoneShares(prefix / total, crossing / total, maps[half:, half:].sum() / total)
            if total > 0
            else None
        )
    return shares


def png_grey(scaled: np.ndarray) -> bytes:
    """Encode one scaled map as a PNG of grey and alpha, as the module says.

    Args:
        scaled: (query, key), fractions in [0, 1].
    """
    size = len(scaled)
    grey = 255 - np.rint(255 * np.sqrt(scaled)).astype(np.uint8)
    alpha = np.where(np.tri(size, dtype=bool), 255, 0).astype(np.uint8)
    grey = np.where(alpha > 0, grey, 0).astype(np.uint8)
    return _png(np.stack([grey, alpha], axis=-1), colour_type=4)


def png_ink(scaled: np.ndarray, colour: tuple[int, int, int]) -> bytes:
    """Encode one scaled map as ink of one colour, the denser the larger: for any ground.

    Args:
        scaled: (query, key), fractions in [0, 1].
        colour: red, green, blue in 0 to 255.
    """
    alpha = np.rint(255 * np.sqrt(np.tril(scaled))).astype(np.uint8)
    palette = b"PLTE" + bytes(colour) * 256
    return _png(alpha, colour_type=3, palette=palette, alphas=b"tRNS" + bytes(range(256)))


def png_uri(png: bytes) -> str:
    """Write a PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _png(
    pixels: np.ndarray, *, colour_type: int, palette: bytes = b"", alphas: bytes = b""
) -> bytes:
    """Write 8-bit pixels (rows, columns[, channels]) as a PNG without filters."""
    n_rows, n_columns = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", n_columns, n_rows, 8, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [b"IHDR" + header, palette, alphas, b"IDAT" + zlib.compress(lines, 9), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
        if chunk
    )
