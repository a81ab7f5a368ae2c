"""Make the report: content and templates into one HTML page that needs nothing else.

Styles, script and pictures are within it, and its content security policy forbids the rest.
"""

import base64
import hashlib
import textwrap
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mnemoscope import words
from mnemoscope.cnn.presets import INPUTS
from mnemoscope.files import write_bytes, write_text
from mnemoscope.parse import flatten
from mnemoscope.progress import say
from mnemoscope.report import answer, charts, style
from mnemoscope.report.advice import first_steps
from mnemoscope.report.content import FLOWS, ReportContent, TaxonomyResult, report_content
from mnemoscope.report.lead import lead_of
from mnemoscope.report.sequences import FIGURES, WORDS
from mnemoscope.report.tables import AnalysisSection
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.study.settings import DRAWS_BESIDE, NO_MODEL
from mnemoscope.version import __version__
from mnemoscope.words import FEW_OF_A_CLASS, share_or_count

REPORT_FILE = "report.html"
MOST_SUMMARIZED = 4
"""Taxonomies in the chart of the first screen; where there are more, one chart has them all."""
MOST_PARTS = 2
"""Parts whose dose curves are on the first screen."""

_SIZE_MARK = "\N{OBJECT REPLACEMENT CHARACTER}size\N{OBJECT REPLACEMENT CHARACTER}"
_RAMP_STEPS = 65
_LINE = 100  # characters of a line on the terminal
_SCRIPTS = ("report.js", "tools.js", "browse.js")


def report_stage(study: Study, models: Models) -> None:
    """Write `report.html`; it opens offline and holds no outside address.

    Without CNNs the page shows what there is and says what is missing; the stage is not done.
    Raises UserError: it is not known what is memorized.
    """
    has_model = study.settings.model.name != NO_MODEL
    if has_model:
        study.require("continue")
    content = report_content(study, models.tokenizer(to_decode=True) if has_model else None)
    path = study.folder / REPORT_FILE
    if content.missing is not None:
        write_without_cnns(study, content)
        say(f"{path} shows what there is.")
        for line in (*textwrap.wrap(content.missing, _LINE), *first_steps(study)):
            say(line)
        return
    with study.finishing("report") as counts:
        page = render_report(content).encode("utf-8")
        study.write(REPORT_FILE, page)
        counts["bytes"] = len(page)


def write_without_cnns(study: Study, content: ReportContent) -> None:
    """Write the page of what there is, and that it was written."""
    started = time.monotonic()
    write_report(study.folder / REPORT_FILE, content)
    study.log("report", time.monotonic() - started)


def write_report(path: Path | str, content: ReportContent) -> int:
    """Write the report's page and give its size in bytes; errors as `write_bytes`."""
    data = render_report(content).encode("utf-8")
    write_bytes(path, data)
    return len(data)


def render_report(content: ReportContent) -> str:
    """Render a report as one HTML page; the same content always gives the same page."""
    html = _render(
        "report.html.j2",
        content=content,
        contents=[],  # sections add themselves: id and title
        lead=lead_of(content),
        **_with_scripts(_SCRIPTS),
        deltas=charts.delta_views(
            [one.deltas for one in content.taxonomies], prefix=content.prefix
        ),
        size_mark=_SIZE_MARK,
    )
    before, _, after = html.rpartition(_SIZE_MARK)
    return before + page_size(len(html.encode("utf-8"))) + after


def write_sections(path: Path, title: str, sections: Sequence[AnalysisSection]) -> None:
    """Write a page of sections alone, for what is no study; errors as `write_text`."""
    values = {"title": title, "sections": sections, **_with_scripts(["tools.js"])}
    write_text(path, _render("sections.html.j2", **values))


def _with_scripts(names: Sequence[str]) -> dict[str, str]:
    """Scripts of a page, and their hash for its content security policy."""
    script = Markup("").join(map(style.asset, names))
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    hashed = "sha256-" + base64.b64encode(digest).decode("ascii")
    return {"script": script, "script_hash": hashed}


def page_size(n_bytes: int) -> str:
    """Print the size of a page."""
    return words.size(n_bytes, least="kB", whole_below=1e6, space=words.NARROW)


def _render(template: str, **values: Any) -> str:
    return style.fill(environment().get_template(template), version=__version__, **values)


@cache
def environment() -> jinja2.Environment:
    """The templates of a report with everything that they may call."""
    made = style.environment()
    made.filters |= {
        "decimal": words.decimal,
        "nats": words.nats,
        "points": words.points,
        "seconds": words.duration,
        "sentence": answer.as_sentence,
    }
    functions = (
        *(answer.answer, answer.balance_sentence, answer.benchmark_sentence),
        answer.like_with_like,
        *(charts.chart_view, charts.delta_view, charts.heat_view),
        *(
            charts.class_ink,
            charts.cut_stroke,
            charts.knockout_drawing,
            words.part_words,
            words.share,
        ),
        *(by_excess, ramp_tables, setting_lines),
        written_runs,
    )
    made.globals |= {one.__name__: one for one in functions} | {
        "browsed_figures": FIGURES,
        "browsed_words": WORDS,
        "flows_title": FLOWS,
        "inputs": INPUTS,
        "most_parts": MOST_PARTS,
        "share_or_count": share_or_count,
        "few_of_a_class": FEW_OF_A_CLASS,
        "patch_draws": DRAWS_BESIDE,
        "most_summarized": MOST_SUMMARIZED,
        "phone": charts.PHONE,
    }
    return made


def by_excess(taxonomies: Sequence[TaxonomyResult]) -> list[tuple[int, TaxonomyResult]]:
    """Number the taxonomies from 1 and order them by falling excess, those without one last."""

    def rank(numbered: tuple[int, TaxonomyResult]) -> float:
        main = numbered[1].main
        value = main.excess.value if main is not None and main.excess else None
        return float("inf") if value is None else -value

    return sorted(enumerate(taxonomies, 1), key=rank)


def setting_lines(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Turn nested settings into sections of (dotted name, value) lines, in the order given."""
    sections: dict[str, list[tuple[str, str]]] = {"": []}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            sections[name] = [(key, _setting(inner)) for key, inner in flatten(value)]
        else:
            sections[""].append((name, _setting(value)))
    return [(name, lines) for name, lines in sections.items() if name or lines]


def written_runs(written: Sequence[tuple[str, bool]]) -> list[tuple[bool, list[words.Mark]]]:
    """Group what the model wrote into runs that are the suffix's and runs that differ."""
    runs = groupby(written, key=lambda one: one[1])
    return [
        (differs, words.mark_hidden("".join(text for text, _ in run), breaks=True))
        for differs, run in runs
    ]


def _setting(value: Any) -> str:
    """Print a setting: lists with commas, nothing as a dash."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    return words.UNKNOWN if value is None else str(value)


def ramp_tables(*, is_dark: bool, is_linear: bool) -> list[str]:
    """Red, green and blue for grey pictures of Δ, which hold 1 - sqrt(Δ); linear: of Δ itself."""
    grey = [step / (_RAMP_STEPS - 1) for step in range(_RAMP_STEPS)]
    positions = [(1 - level) ** 2 if is_linear else 1 - level for level in grey]
    return [
        " ".join(f"{value:.3f}" for value in channel)
        for channel in style.map_ramp(positions, dark=is_dark).T
    ]
