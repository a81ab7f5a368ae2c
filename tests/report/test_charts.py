"""Δ is drawn exactly: scaling, zones, profile, and the pictures' pixels."""

import struct
import zlib

import numpy as np
import pytest

from mnemoscope.analysis.figures import Chart, Series
from mnemoscope.localize.regions import layer_profile
from mnemoscope.report.charts import (
    chart_view,
    png_grey,
    png_ink,
    png_ramp,
    scale_by_layer,
    strongest_layer,
    token_ticks,
    zone_shares,
)
from mnemoscope.report.style import RAMP_LIGHT


def read_png(data: bytes) -> tuple[np.ndarray, dict[bytes, bytes]]:
    """Read an 8-bit PNG without filters after the specification: pixels and other chunks."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert zlib.crc32(kind + body) == check
        chunks[kind] = body
        at += 12 + size
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    channels = {3: 1, 4: 2}[colour]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert depth == 8
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:].reshape(height, width, channels), chunks


def test_every_layer_is_scaled_by_its_own_maximum_over_classes(build_delta):
    delta = build_delta(3, 5, seed=1)
    scaled = scale_by_layer(delta)
    np.testing.assert_allclose(scaled.max(axis=(0, 2, 3)), 1)
    np.testing.assert_allclose(scaled[:, 2] * delta[:, 2].max(), delta[:, 2], rtol=1e-6)
    delta[:, 1] = 0  # a layer without decisiveness stays zero
    assert scale_by_layer(delta)[:, 1].max() == 0
    assert layer_profile(np.zeros_like(delta)).max() == 0


def test_pixels_give_the_scaled_value_back(build_delta):
    scaled = scale_by_layer(build_delta(3, 2, seed=4))[1, 0]
    pixels, _ = read_png(png_grey(scaled))
    root = 1 - pixels[:, :, 0] / 255
    below = np.tri(len(scaled), dtype=bool)
    # half a step of 1/255 in the root
    np.testing.assert_allclose(root[below], np.sqrt(scaled[below]), atol=0.5 / 255 + 1e-6)
    assert (pixels[:, :, 1] == np.where(below, 255, 0)).all()


def test_ink_is_as_dense_as_the_value(build_delta):
    scaled = scale_by_layer(build_delta(3, 2, seed=4))[1, 0]
    pixels, chunks = read_png(png_ink(scaled, (10, 20, 30)))
    assert chunks[b"PLTE"] == bytes((10, 20, 30)) * 256
    assert chunks[b"tRNS"] == bytes(range(256))
    np.testing.assert_allclose(pixels[:, :, 0] / 255, np.sqrt(scaled), atol=0.5 / 255 + 1e-6)


def test_the_ramp_shows_the_value_and_nothing_above_the_diagonal(build_delta):
    scaled = scale_by_layer(build_delta(3, 2, seed=4))[1, 0]
    pixels, chunks = read_png(png_ramp(scaled))
    below = np.tri(len(scaled), dtype=bool)
    np.testing.assert_allclose((pixels[below, 0] - 1) / 254, scaled[below], atol=0.5 / 254 + 1e-6)
    assert (pixels[~below] == 0).all()
    assert chunks[b"tRNS"] == b"\0"  # the first colour alone is transparent
    shades = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[1:]
    assert bytes(shades[0]).hex() == RAMP_LIGHT[0][1:]
    assert bytes(shades[-1]).hex() == RAMP_LIGHT[-1][1:]


def test_planted_decisiveness_lies_in_its_zone() -> None:
    for query, key, zone in ((31, 31, "prefix"), (32, 31, "suffix_to_prefix"), (32, 32, "suffix")):
        delta = np.zeros((2, 3, 64, 64), np.float32)
        delta[0, 1, query, key] = 0.3
        shares = zone_shares(delta)
        assert shares[0][zone] == 1
        assert sum(shares[0].values()) == 1
        assert shares[1] is None
        assert strongest_layer(delta) == 1


def test_the_profile_is_the_sum_of_each_layer_over_the_largest(build_delta):
    delta = build_delta(3, 4, seed=2)
    sums = np.array([[float(layer.sum()) for layer in of_class] for of_class in delta])
    # float32 against float64 sums of 4,096 terms
    np.testing.assert_allclose(layer_profile(delta), sums / sums.max(), rtol=1e-4)


@pytest.mark.parametrize("form", ["line", "points", "bars"])
@pytest.mark.parametrize("axes", [{}, {"log_x": True}, {"log_y": True}])
def test_a_chart_without_a_value_is_drawn_empty(form, axes):
    gap = Series(name="gap", x=(None,), y=(None,))
    view = chart_view(Chart(title="nothing", series=(gap,), form=form, **axes))
    assert view.series[0].points == []
    assert view.x_ticks
    assert view.y_ticks


@pytest.mark.parametrize(
    ("names", "form", "colours"),
    [
        (("planted, Recall (5)", "planted, Guess (4)"), "line", [2, 1]),
        (("control, Recall", "planted, Recall", "Guess", "Non-Memo"), "line", [2, 2, 1, 0]),
        (("Recall", "Guess"), "bars", [2, 1]),
        (("Recall, mean", "Recall, max"), "bars", [1, 2]),  # bars have no dashes to tell them by
        (("Recall", "the twin"), "line", [1, 2]),
        (("Recalled", "Guessing"), "line", [1, 2]),
    ],
)
def test_guess_is_blue_and_recall_orange_in_every_chart(names, form, colours):
    series = tuple(Series(name=name, x=(0,), y=(1,)) for name in names)
    chart = Chart(title="", series=series, form=form, x_names=("a",) if form == "bars" else ())
    strokes = [one.stroke for one in chart_view(chart).series]
    assert [one.colour for one in strokes] == colours
    assert len({(one.colour, one.dash) for one in strokes}) == len(names)


@pytest.mark.parametrize(
    ("length", "prefix", "named"),
    [(64, 32, "1 16 32 48 64"), (80, 16, "1 8 16 48 80"), (3, 1, "1 2 3"), (2, 1, "1 2")],
)
def test_ticks_name_tokens_at_the_middle_of_their_pixels(length, prefix, named):
    ticks = token_ticks(length, prefix)
    assert [one.text for one in ticks] == named.split()
    assert [one.at for one in ticks] == [(int(one.text) - 0.5) / length for one in ticks]
