"""A page of sections alone, for what is no study, with the signs and colours of the report."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from mnemoscope import __version__, atomic_write
from mnemoscope.report.analysis import AnalysisSection
from mnemoscope.report.build import asset, environment

__all__ = ["Page", "render_page", "write_page"]


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
