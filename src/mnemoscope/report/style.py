"""How pages and pictures look: colours and fonts, style sheets, and the templates of all rooms."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from mnemoscope import words

_COLOURS = {  # light, dark
    "page": ("#faf9f6", "#14171b"),
    "surface": ("#ffffff", "#1b1f25"),
    "ink": ("#1b1e24", "#e8e6e1"),
    "muted": ("#575d69", "#a5abb6"),
    "line": ("#dcd8cf", "#343a43"),
    "grid": ("#e9e6df", "#282d35"),
    "model": ("#1f5bb5", "#7db3ff"),
    "other": ("#4c5360", "#b4bac5"),
    "text-band": ("#ece7dc", "#2b2a26"),
    "text-hatch": ("#d9d1bf", "#403d35"),
    "text-edge": ("#85754f", "#b5a577"),
    "beyond": ("#0f6b52", "#5fd0a8"),
    "undecided": ("#8a5300", "#f0b45c"),
    "prefix": ("#575d69", "#a5abb6"),
    "suffix-ground": ("#e4edf9", "#1d2d44"),
    "differs-ground": ("#fbe3d3", "#47281a"),
    "differs": ("#94380a", "#ffb38a"),
    "recall": ("#9c3d00", "#f7ab76"),
    "recall-ground": ("#fde3d0", "#4a2a17"),
    "guess": ("#00568c", "#85c8f5"),
    "guess-ground": ("#dcecf9", "#17344a"),
    "class-0": ("#6b7280", "#9aa3af"),
    "class-1": ("#0068a8", "#5fb8f0"),
    "class-2": ("#c04f00", "#f59a5c"),
    "class-3": ("#007f5c", "#3cc99b"),
    "class-4": ("#9a4a94", "#d99bd3"),
    "class-5": ("#7a6a00", "#d6c24a"),
}
LIGHT = {name: light for name, (light, _) in _COLOURS.items()}
DARK = {name: dark for name, (_, dark) in _COLOURS.items()}
N_CLASS_COLOURS = 6
PAPER_COLOURS = {"Non-Memo": 0, "Guess": 1, "Recall": 2}
"""Of the paper's classes, on every page."""
FONTS = {
    "serif": "Charter, 'Bitstream Charter', 'Iowan Old Style', 'Palatino Linotype', Georgia, "
    "'Noto Serif', 'DejaVu Serif', serif",
    "sans": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Helvetica, Arial, "
    "'Liberation Sans', 'DejaVu Sans', sans-serif",
    "mono": "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', 'DejaVu Sans Mono', "
    "monospace",
}
"""No font is fetched: the first that a system has."""

# From nothing to the most: one hue, luminance steadily falling (light) or rising (dark).
RAMP_LIGHT = ("#f3f1ec", "#cfe0f1", "#8fbce3", "#4a8fd0", "#1f5bb5", "#12346f", "#081a3c")
_RAMP_DARK = ("#20252c", "#1f3b63", "#2a60a8", "#4a8fe0", "#86bbf7", "#c8e1fd", "#fbfdff")


def css_variables(values: Mapping[str, str]) -> Markup:
    """Write our own colours or fonts as CSS custom properties: `--ink: #000000;`."""
    return Markup(" ".join(f"--{name}: {value};" for name, value in values.items()))


def map_ramp(positions: Sequence[float] | np.ndarray, *, dark: bool = False) -> np.ndarray:
    """Colours of Δ from 0 (nothing) to 1 (the most in a layer): RGB fractions, (positions, 3)."""
    ramp = _RAMP_DARK if dark else RAMP_LIGHT
    stops = np.array([list(bytes.fromhex(colour[1:])) for colour in ramp]) / 255
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(positions, places, stops[:, channel]) for channel in range(3)], 1)


def asset(name: str, package: str = "mnemoscope.report") -> Markup:
    """Read one of our own files that stand beside the templates of a package."""
    folder = resources.files(package) / "templates"
    return Markup(folder.joinpath(name).read_text("utf-8"))


@cache
def environment(*packages: str) -> jinja2.Environment:
    """The templates of these packages before the report's; all text is escaped.

    A name that a template does not know is an error.
    """
    loaders = [jinja2.PackageLoader(package) for package in (*packages, "mnemoscope.report")]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "count": words.count,
        "marks": words.mark_hidden,
        "part_words": words.part_words,
        "x": _coordinate,
    }
    made.globals |= {
        "asset": asset,
        "class_colour": class_colour,
        "css_variables": css_variables,
        "dark": DARK,
        "fonts": FONTS,
        "light": LIGHT,
        "n_class_colours": N_CLASS_COLOURS,
    }
    return made


def class_colour(classes: Sequence[str], name: str) -> int:
    """The number of a class's colour, which the paper's classes keep whichever others are there.

    The others have the free numbers in their order; beyond six they come round again.
    """
    taken = {PAPER_COLOURS[one] for one in classes if one in PAPER_COLOURS}
    free = [at for at in range(1, len(classes) + len(taken) + 1) if at not in taken]
    others = [one for one in classes if one not in PAPER_COLOURS]
    place = PAPER_COLOURS.get(name, 0) if name not in others else free[others.index(name)]
    return place % N_CLASS_COLOURS


def fill(template: jinja2.Template, **values: Any) -> str:
    """Fill a template that may hold any text."""
    return words.whole_characters(template.render(**values))


def _coordinate(value: float) -> str:
    """Place a fraction on an axis from 0 to 1 that is 100 % wide."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"
