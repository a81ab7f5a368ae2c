"""Make the pictures of `docs/gallery.md`, of `docs/app.md` and of the README.

    python -m experiments.gallery.run demo [-o docs/pictures]

DEMO is what `mnemoscope demo -o demo` makes; the knockout curve is drawn where `mnemoscope knockout
demo` has run. The audit is the example report of `experiments/audits/example.py`, the dose curve
is drawn from the small Hubble's results. Needs Chromium, playwright and the extra `figures`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from experiments.pages import results_of
from experiments.small_hubble.tables import ROLES
from mnemoscope.analysis.figures import Chart, Series, plain
from mnemoscope.report import style
from mnemoscope.report.charts import Drawing, Stroke, chart_view
from mnemoscope.report.export import export_localization
from mnemoscope.report.pictures import draw_charts
from mnemoscope.study.folder import Study
from mnemoscope.study.models import Models
from mnemoscope.taxonomy import PAPER
from mnemoscope.taxonomy.names import NON_MEMO

DOCS = Path(__file__).parents[2] / "docs"
HERO = Path(__file__).with_name("hero.svg.j2")
EXPORTED = {
    "delta-guess-recall.svg": "non-memo-guess-recall-gradient-model-maps.svg",
    "profile-guess-recall.svg": "non-memo-guess-recall-gradient-profile.svg",
    "knockout-guess-recall.svg": "non-memo-guess-recall-knockout.svg",
}
PASSAGES = {
    "Guess": (28, "Guess: anyone could continue this"),
    "Recall": (9625, "Recall: only a model that has read it could"),
}
"""Sequences of the README's picture, chosen by hand among the demo's; colours as on the page."""
WIDTH = 1100
HEIGHTS = {"report.png": 760, "audit.png": 676}


def photograph(pages: dict[str, Path], out: Path) -> None:
    """Save the top of each page as PNG."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light")
        for name, path in pages.items():
            page.set_viewport_size({"width": WIDTH, "height": HEIGHTS[name]})
            page.goto(path.resolve().as_uri())
            page.screenshot(path=out / name)
        browser.close()


def photograph_app(demo: Path, out: Path) -> None:
    """Audit a few windows of the study in the app, choose a recalled passage, save it as PNG."""
    from playwright.sync_api import sync_playwright

    labels, table = Study(demo).labels, Study(demo).sequences
    texts = [
        table.filter(labels[PAPER] == name)["text"].head(2).to_list()
        for name in ("Recall", "Guess", NON_MEMO)
    ]
    words = [sys.executable, "-m", "mnemoscope", "app", str(demo), "--port", "7899"]
    with subprocess.Popen(words) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light", viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)
        for _ in range(60):
            with suppress(Exception):  # not yet there
                page.goto("http://127.0.0.1:7899/")
                break
            time.sleep(1)
        page.wait_for_selector("#start")
        page.fill("#document textarea", "\n\n".join(chain(*zip(*texts, strict=True))))
        page.click("#start")
        page.click(".result mark.recall[data-pick]")
        page.wait_for_selector(".pictures .stack img.delta")
        page.screenshot(path=out / "app.png", full_page=True)
        browser.close()
        server.terminate()


def chromium() -> str | None:
    """The system's browser; None takes playwright's."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def export(demo: Path, out: Path) -> None:
    """Copy what `localize --export` draws of the demo, under the names that the docs use."""
    with tempfile.TemporaryDirectory() as folder:
        export_localization(Study(demo), folder)
        for name, made in EXPORTED.items():
            if (Path(folder) / made).is_file():
                shutil.copy(Path(folder) / made, out / name)


def dose_chart(shown: str, title: str, names: Sequence[str]) -> Chart:
    """A figure of the small Hubble and its twin, by how often a passage was inserted."""
    rows, series = results_of("small_hubble")["dose"], []
    for role, name in zip(ROLES, names, strict=True):
        y, low, high = (plain(one) for one in zip(*(row[shown][role] for row in rows), strict=True))
        series.append(Series(name=name, x=plain(range(len(rows))), y=y, low=low, high=high))
    return Chart(
        title=title,
        series=tuple(series),
        x_label="times inserted",
        x_names=tuple(str(row["count"]) for row in rows),
        percent=shown == "out",
    )


def dose() -> bytes:
    """Draw share and AUC by how often a passage of the small Hubble was inserted."""
    titles = {
        "out": "come out word for word, %",
        "auc": "AUC of attention against passages never inserted",
    }
    panels = {title: dose_chart(one, title, ("model", "twin")) for one, title in titles.items()}
    title = "The small Hubble: passages by how often they were inserted"
    return draw_charts(panels, title).printed()["svg"]


def hero(demo: Path) -> str:
    """The README's picture: a guessed and a recalled passage beside a chart with its answer."""
    study = Study(demo)
    tokenizer, table = Models(study.settings).tokenizer(), study.sequences
    n_prefix, y, passages = study.settings.sequences.n_prefix, 34, []
    for colour, (name, (sequence, title)) in enumerate(PASSAGES.items(), 1):
        (tokens,) = table.filter(study.labels[PAPER] == name, sequence_id=sequence)["tokens"]
        lines = list(marked_lines(*map(tokenizer.decode, (tokens[:n_prefix], tokens[n_prefix:]))))
        passages.append({"title": title, "y": y, "lines": lines, "colour": colour})
        y += 19 * len(lines) + 50
    chart = dose_chart("auc", "", ("the model", "its twin"))
    view = chart_view(Drawing(chart, [Stroke(3, "", True), Stroke(None, "dash")]), width=420)
    template = style.environment().from_string(HERO.read_text("utf-8"))
    return template.render(
        passages=passages, view=view, height=round(max(y + 10, view.height + 140))
    )


def marked_lines(shown: str, written: str) -> Iterator[tuple[str, str]]:
    """The lines of a passage, each in two parts: shown to the model, written by it."""
    is_written = False
    for line in textwrap.dedent(f"{shown}\0{written}".strip("\n")).split("\n"):
        for part in textwrap.wrap(line, 54, drop_whitespace=False) or [""]:
            before, mark, after = part.partition("\0")
            yield ("", part) if is_written else (before, after)
            is_written = is_written or bool(mark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=DOCS / "pictures")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    (wanted.out / "dose.svg").write_bytes(dose())
    pages = {"report.png": wanted.demo / "report.html", "audit.png": DOCS / "example-audit.html"}
    photograph(pages, wanted.out)
    photograph_app(wanted.demo, wanted.out)
    export(wanted.demo, wanted.out)
    (wanted.out.parent / "images" / "hero.svg").write_text(hero(wanted.demo), encoding="utf-8")
    print(f"Wrote {wanted.out}.")


if __name__ == "__main__":
    main()
