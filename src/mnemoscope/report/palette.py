"""The colours of every picture, for light and dark pages: one definition for CSS, SVG and plotly.

Text reaches contrast 4.5 on its ground and marks reach 3 (tests/report/test_palette.py); no
meaning is carried by colour alone. Class colours after Okabe and Ito (2008), darkened or
lightened for their ground.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["CLASS_DASHES", "DARK", "LIGHT", "class_colour", "css_variables", "map_ramp"]

LIGHT = {
    "page": "#faf9f6",
    "surface": "#ffffff",
    "ink": "#1b1e24",
    "muted": "#575d69",
    "line": "#dcd8cf",
    "grid": "#e9e6df",
    "model": "#1f5bb5",
    "other": "#4c5360",
    "text-band": "#ece7dc",
    "text-hatch": "#d9d1bf",
    "text-edge": "#85754f",
    "beyond": "#0f6b52",
    "undecided": "#8a5300",
    "prefix": "#575d69",
    "suffix-ground": "#e4edf9",
    "differs-ground": "#fbe3d3",
    "differs": "#94380a",
    "class-0": "#6b7280",
    "class-1": "#0068a8",
    "class-2": "#c04f00",
    "class-3": "#007f5c",
    "class-4": "#9a4a94",
    "class-5": "#7a6a00",
}
DARK = {
    "page": "#14171b",
    "surface": "#1b1f25",
    "ink": "#e8e6e1",
    "muted": "#a5abb6",
    "line": "#343a43",
    "grid": "#282d35",
    "model": "#7db3ff",
    "other": "#b4bac5",
    "text-band": "#2b2a26",
    "text-hatch": "#403d35",
    "text-edge": "#b5a577",
    "beyond": "#5fd0a8",
    "undecided": "#f0b45c",
    "prefix": "#a5abb6",
    "suffix-ground": "#1d2d44",
    "differs-ground": "#47281a",
    "differs": "#ffb38a",
    "class-0": "#9aa3af",
    "class-1": "#5fb8f0",
    "class-2": "#f59a5c",
    "class-3": "#3cc99b",
    "class-4": "#d99bd3",
    "class-5": "#d6c24a",
}
CLASS_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
N_CLASS_COLOURS = 6

# From nothing to the most: one hue, luminance steadily falling (light) or rising (dark).
_RAMP_LIGHT = ("#f3f1ec", "#cfe0f1", "#8fbce3", "#4a8fd0", "#1f5bb5", "#12346f", "#081a3c")
_RAMP_DARK = ("#20252c", "#1f3b63", "#2a60a8", "#4a8fe0", "#86bbf7", "#c8e1fd", "#fbfdff")


def class_colour(index: int, *, dark: bool = False) -> str:
    """Give the colour of a class; beyond six they come round again with another dash."""
    return (DARK if dark else LIGHT)[f"class-{index % N_CLASS_COLOURS}"]


def css_variables(colours: dict[str, str]) -> str:
    """Write colours as CSS custom properties.

    >>> css_variables({"ink": "#000000"})
    '--ink: #000000;'
    """
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def map_ramp(positions: Sequence[float] | np.ndarray, *, dark: bool = False) -> np.ndarray:
    """Give the colours of Δ at positions between 0 (nothing) and 1 (the layer's maximum).

    Returns:
        Fractions of red, green and blue, float (positions, 3).
    """
    stops = np.array([_rgb(colour) for colour in (_RAMP_DARK if dark else _RAMP_LIGHT)])
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(positions, places, stops[:, channel]) for channel in range(3)], 1)


def _rgb(colour: str) -> list[float]:
    """Turn ``#rrggbb`` into fractions."""
    return [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
