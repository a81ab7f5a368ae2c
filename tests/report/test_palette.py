"""Colours can be read: contrast on both grounds, told apart with every kind of colour vision."""

from itertools import combinations

import numpy as np
import pytest

from mnemoscope.report.charts import class_stroke
from mnemoscope.report.style import DARK, LIGHT, class_colour, map_ramp

# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB.
VISIONS = {  # each a matrix, row by row
    "usual": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "protan": [
        *(0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216),
        *(-0.003882, -0.048116, 1.051998),
    ],
    "deutan": [
        *(0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413),
        *(-0.011820, 0.042940, 0.968881),
    ],
    "tritan": [
        *(1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602),
        *(0.004733, 0.691367, 0.303900),
    ],
}
BOTH = pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(TO_XYZ[1] @ linear(colour))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@BOTH
def test_text_reaches_aa_contrast(colours: dict[str, str]):
    for text in ("ink", "muted", "model", "beyond", "undecided", "prefix"):
        for ground in ("page", "surface"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["differs"], colours["differs-ground"]) >= 4.5
    assert contrast(colours["ink"], colours["suffix-ground"]) >= 4.5


@BOTH
def test_marks_reach_contrast_3_on_page_and_band(colours: dict[str, str]):
    for mark in ("model", "other", "text-edge", *(f"class-{i}" for i in range(6))):
        assert contrast(colours[mark], colours["page"]) >= 3, mark
    for mark in ("model", "other"):
        assert contrast(colours[mark], colours["text-band"]) >= 3, mark
        assert contrast(colours[mark], colours["text-hatch"]) >= 3, mark


@BOTH
def test_the_four_first_classes_differ_in_every_vision(colours: dict[str, str]):
    # 10 in CIELAB is well above the just noticeable difference of about 2.3; dashes and labels
    # carry the same meaning once more.
    for vision in VISIONS.values():
        matrix = np.reshape(vision, (3, 3))
        seen = [lab(matrix @ linear(colours[f"class-{i}"])) for i in range(4)]
        for one, other in combinations(seen, 2):
            assert np.linalg.norm(one - other) > 10


@pytest.mark.parametrize(
    ("classes", "colours"),
    [
        (("Non-Memo", "Guess", "Recall"), [0, 1, 2]),
        (("Non-Memo", "Recall"), [0, 2]),  # Guess was too small and is left out
        (("Non-Memo", "Recite[5]", "Guess", "Recall"), [0, 3, 1, 2]),
        (("Non-Memo", "Recite[5]", "Reconstruct", "Recollect"), [0, 1, 2, 3]),
        (tuple("abcdefg"), [1, 2, 3, 4, 5, 0, 1]),
    ],
)
def test_a_class_has_one_colour_whichever_others_there_are(classes, colours):
    assert [class_colour(classes, one) for one in classes] == colours
    assert class_colour(classes, "Guess") == 1


@pytest.mark.parametrize("is_dark", [False, True])
def test_the_ramp_of_maps_is_steady_in_luminance(is_dark: bool):
    ramp = map_ramp(np.linspace(0, 1, 50), dark=is_dark)
    linear_ramp = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    steps = np.diff(linear_ramp @ TO_XYZ[1])
    assert (steps > 0).all() if is_dark else (steps < 0).all()
    assert class_stroke(7) == class_stroke(1) == (1, "dash", False)
