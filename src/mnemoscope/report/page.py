"""Make the report: content and templates into one HTML page that needs nothing else.

`mnemoscope report STUDY` calls `write_report`. The page loads nothing from outside: styles,
script and pictures are within it, and its content security policy forbids the rest.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from mnemoscope import __version__
from mnemoscope import files as atomic_write
from mnemoscope import words as numbers
from mnemoscope.report import answer
from mnemoscope.report import charts as views
from mnemoscope.report import content as examples
from mnemoscope.report import content as standing
from mnemoscope.report.analysis import AnalysisSection, chart_view, heat_view
from mnemoscope.report.charts import (
    CLASS_DASHES,
    DARK,
    LIGHT,
    N_CLASS_COLOURS,
    css_variables,
    map_ramp,
)
from mnemoscope.report.content import ReportContent, strength_place

# Make the report: content and templates into one HTML page that needs nothing else.

_SIZE_MARK = "\N{OBJECT REPLACEMENT CHARACTER}size\N{OBJECT REPLACEMENT CHARACTER}"
_RAMP_STEPS = 65
# More taxonomies than this are compared in one chart, a line each, and folded below it.
MOST_OPEN_TAXONOMIES = 4


def render_report(content: ReportContent) -> str:
    """Render a report as one HTML page.

    Args:
        content: what the report says.

    Returns:
        The page; the same content always gives the same page.
    """
    script = Markup(asset("report.js"))
    page = environment().get_template("report.html.j2")
    html = page.render(
        content=content,
        version=__version__,
        script=script,
        script_hash=_csp_hash(script),
        style=Markup(asset("report.css")),
        deltas=views.delta_views(content.taxonomies),
        is_folded=len(content.taxonomies) > MOST_OPEN_TAXONOMIES,
        size_mark=_SIZE_MARK,
    )
    html = html.encode("utf-8", "replace").decode("utf-8")
    before, _, after = html.rpartition(_SIZE_MARK)
    return before + page_size(len(html.encode("utf-8"))) + after


def write_report(path: Path | str, content: ReportContent) -> int:
    """Write the report's page, whole or not at all.

    Args:
        path: where to; an existing file is replaced.
        content: what the report says.

    Returns:
        The size of the page in bytes.

    Raises:
        NoRoomError: the disk is full.
        UserError: the folder is missing or cannot be written to.
    """
    data = render_report(content).encode("utf-8")
    atomic_write.write_bytes(path, data)
    return len(data)


@cache
def environment() -> jinja2.Environment:
    """Give the templates with everything they may call; every text is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("mnemoscope.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "percent": numbers.percent,
        "points": numbers.points,
        "interval": numbers.interval,
        "count": numbers.count,
        "seconds": numbers.duration,
        "visible": examples.visible,
        "sentence": answer.as_sentence,
        "x": _coordinate,
    }
    made.globals |= {
        "answer": answer.answer,
        "benchmark_sentence": answer.benchmark_sentence,
        "best_of_class": views.best_of_class,
        "best_without_memory": standing.best_without_memory,
        "by_excess": views.by_excess,
        "chart_groups": views.chart_groups,
        "chart_view": chart_view,
        "class_dashes": CLASS_DASHES,
        "continuation_pieces": examples.continuation_pieces,
        "css_variables": css_variables,
        "dark": DARK,
        "heat_view": heat_view,
        "input_words": views.INPUT_WORDS,
        "light": LIGHT,
        "n_class_colours": N_CLASS_COLOURS,
        "profile_points": views.profile_points,
        "profile_view": views.profile_view,
        "ramp_tables": _ramp_tables,
        "setting_lines": views.setting_lines,
        "share": numbers.share,
        "standing": standing.standing,
        "strength_place": strength_place,
        "taxonomy_standing": standing.taxonomy_standing,
    }
    return made


def page_size(n_bytes: int) -> str:
    """Print the size of a page."""
    return numbers.size(n_bytes, least="kB", whole_below=1e6, space=numbers.NARROW)


def asset(name: str) -> str:
    """Read one of our own files that go into the page."""
    return resources.files("mnemoscope.report").joinpath("templates", name).read_text("utf-8")


def _csp_hash(script: str) -> str:
    """Name the one script that the page's content security policy lets run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _coordinate(value: float) -> str:
    """Place a fraction on an axis from 0 to 1 that is 100 % wide."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def _ramp_tables(*, is_dark: bool, is_linear: bool) -> list[str]:
    """Give the red, green and blue tables that colour the grey pictures of Δ.

    A picture holds 1 - sqrt(Δ); the linear scale needs the colour of Δ itself.
    """
    grey = [step / (_RAMP_STEPS - 1) for step in range(_RAMP_STEPS)]
    positions = [(1 - level) ** 2 if is_linear else 1 - level for level in grey]
    return [
        " ".join(f"{value:.3f}" for value in channel)
        for channel in map_ramp(positions, dark=is_dark).T
    ]


# A page of sections alone, for what is no study, with the signs and colours of the report.


@dataclass(frozen=True)
class Page:
    """What the page says.

    Attributes:
        title: heading.
        sections: one below the other.
    """

    title: str
    sections: tuple[AnalysisSection, ...]


def render_page(page: Page) -> str:
    """Render one self-contained HTML page without script; every text is escaped."""
    template = environment().get_template("sections.html.j2")
    html = template.render(page=page, version=__version__, style=Markup(asset("report.css")))
    return html.encode("utf-8", "replace").decode("utf-8")


def write_page(path: Path, page: Page) -> None:
    """Write the page, whole or not at all.

    Raises:
        NoRoomError: the disk is full.
        UserError: the folder cannot be written to.
    """
    atomic_write.write_text(path, render_page(page))
