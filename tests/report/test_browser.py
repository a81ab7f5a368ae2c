"""The report in a real browser: no network, no overflow, interaction, and without JavaScript."""

from pathlib import Path

import pytest

from chromium import NEEDS_CHROMIUM, UNFOLD, Visit, hard_to_use
from mnemoscope.report.content import ReportContent
from mnemoscope.report.page import write_report

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, content: ReportContent) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, content)
    return path


@pytest.fixture
def visit(browser, report: Path):
    made = []

    def start(width: int = 1280, **options) -> Visit:
        window = {"viewport": {"width": width, "height": 800}, "is_mobile": width < 500}
        made.append(Visit(browser, report.as_uri(), reduced_motion="reduce", **window, **options))
        return made[-1]

    yield start
    for one in made:
        one.context.close()


def test_the_body_never_scrolls_sideways_and_nothing_is_asked_of_the_network(visit):
    one = visit()
    assert one.page.evaluate("document.documentElement.scrollHeight") <= 6000
    for first in (".found", "#memory-or-text tbody .plot"):  # the answer is on the first screen
        box = one.page.locator(first).first.bounding_box()
        assert box["y"] + box["height"] <= 800
    for width in (1280, 768, 390, 320):
        one.page.set_viewport_size({"width": width, "height": 800})
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    one.page.evaluate(UNFOLD)
    for width in (320, 390, 768, 1280):
        one.page.set_viewport_size({"width": width, "height": 800})
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    assert one.asked
    assert all(url.startswith(("file:", "data:")) for url in one.asked)
    assert not one.trouble


def test_a_chosen_layer_shows_that_layers_maps(visit):
    shown = visit().page.evaluate(
        """(() => {
          const delta = document.querySelector("[data-delta]");
          const range = delta.querySelector(".layers input");
          range.value = 2;
          range.dispatchEvent(new Event("input"));
          const large = delta.querySelectorAll(".large img");
          const cells = delta.querySelectorAll('.strip [data-map-layer="1"] image');
          return [...large].slice(0, 4).map((image, i) =>
            image.src === cells[i].getAttribute("href"));
        })()"""
    )
    assert shown == [True] * 4


def test_the_keyboard_reads_a_map(visit, content: ReportContent):
    page = visit().page
    page.evaluate(UNFOLD)
    page.focus(".frame")
    for key in ("ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    where = page.locator("[data-where]").first.text_content()
    assert where == "Token 63 (suffix) looks at token 2 (prefix)."
    page.locator(".readout b").nth(3).wait_for()  # the pictures are read in their own time
    lines = page.evaluate(
        "[...document.querySelectorAll('.readout b')].slice(0, 4)"
        ".map((line) => parseFloat(line.textContent))"
    )
    delta = content.taxonomies[0].deltas[0].delta
    layer = int(page.evaluate("document.querySelector('.layers input').value")) - 1
    expected = 100 * delta[:, layer, 62, 1] / delta[:, layer].max()
    # The picture holds the square root in 8 bits: half a step of 1/255, twice the root, rounded.
    assert lines == pytest.approx(expected.tolist(), abs=0.45)


def test_the_page_is_whole_without_javascript(visit):
    page = visit(java_script_enabled=False).page
    for fold in page.locator("details").all():  # outer ones first
        fold.locator("> summary").click()
    for shown in (".large img", '[data-attribution="guided"] .strip image', ".chart .mark"):
        assert page.locator(shown).first.bounding_box() is not None
    assert page.locator(".controls").first.bounding_box() is None


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious_and_dark_pages_have_a_dark_ground(visit, width, scheme):
    page = visit(width, color_scheme=scheme).page
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ground = sum(int(part) for part in colour[4:-1].split(","))
    assert ground > 3 * 230 if scheme == "light" else ground < 3 * 40
    page.evaluate(UNFOLD)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The other taxonomy has every kind of element that this one has.
    page.evaluate("document.getElementById('taxonomy-1').remove()")
    assert hard_to_use(page) == []


def test_a_link_or_a_print_opens_what_is_folded(visit):
    page = visit().page
    term, fold = page.locator("#term-min-f1"), page.locator("details")
    assert not term.is_visible()
    page.click('#memory-or-text a[href="#term-min-f1"]')
    assert term.is_visible()
    assert page.evaluate("document.getElementById('terms-title').closest('details').open")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")
    assert fold.count() > 10


def test_a_filter_shows_the_examples_that_hold_what_is_typed(visit, content):
    page = visit().page
    page.evaluate(UNFOLD)
    part = page.locator("details:has(> summary > h3#taxonomy-1-examples)")
    examples = content.taxonomies[0].examples
    wanted = [one for one in examples if "self.table" in one["prefix"] + "".join(one["suffix"])]
    assert 0 < len(wanted) < len(examples)
    part.locator("[data-filter]").fill("SELF.table")
    assert part.locator(".example:visible").count() == len(wanted)
    assert part.locator("output").text_content() == f"{len(wanted)} of {len(examples)}"
    part.locator("[data-filter]").fill("")
    assert part.locator("output").text_content() == ""
