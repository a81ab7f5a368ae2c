"""The report in a real browser: no network, no overflow, interaction, and without JavaScript."""

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from chromium import NEEDS_CHROMIUM, UNFOLD, Visit, hard_to_use
from mnemoscope.analysis.figures import Chart, HeatMap, Series
from mnemoscope.report.charts import Flow, sankey_view
from mnemoscope.report.content import ReportContent
from mnemoscope.report.page import write_report, write_sections
from mnemoscope.report.sequences import BrowsedSequences, Division
from mnemoscope.report.tables import AnalysisSection, Table
from mnemoscope.stats import Estimate

pytestmark = [*NEEDS_CHROMIUM, pytest.mark.whole]


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
    for first in (".whole", ".passage .text", ".questions li"):  # the answer is on the first screen
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


def test_charts_are_whole_and_copy_stands_on_one_line_in_narrow_windows(browser, content, tmp_path):
    chart = Chart(title="A chart", series=(Series(name="a", x=(0, 1), y=(0, 1)),))
    section = AnalysisSection("length", "Length", "How long?", "So long.", figures=(chart, chart))
    steps = [("Write the figures", "mnemoscope localize a-study-with-a-name --export figures")]
    path = tmp_path / "report.html"
    write_report(path, replace(content, analyses=[section], next_steps=steps))
    one = Visit(browser, path.as_uri(), viewport={"width": 390, "height": 800})
    one.page.evaluate(UNFOLD)
    assert one.page.locator(".next .tool").bounding_box()["height"] < 40
    assert one.page.locator(".answer > p > code").all_inner_texts() == [steps[0][1]]
    one.page.set_viewport_size({"width": 1100, "height": 800})
    drawn = one.page.locator(".knockout .drawn .scroll")
    cut = "all => all.filter((one) => one.scrollWidth > one.clientWidth).length"
    assert (drawn.count(), drawn.evaluate_all(cut)) == (2, 0)
    one.context.close()


def test_a_chosen_layer_shows_that_layers_maps(visit):
    shown = visit().page.evaluate(
        """(() => {
          const delta = document.querySelector("[data-delta]");
          const range = delta.querySelector(".layers input");
          range.value = 1;
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
    layer = int(page.evaluate("document.querySelector('.layers input').value"))
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


def test_a_long_table_prints_its_first_rows_and_with_the_appendix_all(content, browser, tmp_path):
    columns = ("folder", "sequences", "repeated", "Guess", "Recall", "share repeated")
    rows = [(f"folder-{n}/", 90 - n, 40, 30, 10, "44.4 % [38.1, 50.9]") for n in range(32)]
    table = Table("By folder", columns, rows, "Text never read is the best control.", is_open=True)
    write_report(tmp_path / "long.html", replace(content, checks=[table]))
    one = Visit(browser, (tmp_path / "long.html").as_uri())
    page, shown = one.page, one.page.locator(".fold tbody tr:visible")
    assert shown.count() == 32
    page.emulate_media(media="print")
    assert shown.count() == 8
    assert page.locator(".in-print:visible").inner_text().startswith("24 more: ")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 3
    page.evaluate("window.print = () => {}")
    page.emulate_media(media="screen")
    page.click("[data-print]")
    page.emulate_media(media="print")
    assert page.locator("tbody tr", has_text="folder-31/").is_visible()
    assert page.locator(".in-print:visible").count() == 0
    one.context.close()


def test_a_link_opens_what_is_folded_and_print_gives_the_summary(visit):
    page = visit().page
    term = page.locator("#term-gain")
    assert not term.is_visible()
    page.click('#memory-or-text a[href="#term-gain"]')
    assert term.is_visible()
    assert page.evaluate("document.getElementById('terms-title').closest('details').open")
    page.reload()
    assert term.is_visible()
    page.goto(page.url.split("#")[0])
    page.emulate_media(media="print")
    shown = page.locator(".fold:visible")
    assert shown.count() == 0
    for part in (".whole", ".passage", ".questions", ".chart.summary", ".keep > p"):
        assert page.locator(part).first.is_visible()
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 4
    page.evaluate("window.print = () => { window.printed = true; }")
    page.emulate_media(media="screen")
    page.click("[data-print]")
    page.emulate_media(media="print")
    assert page.evaluate("window.printed")
    assert shown.count() > 5
    after = "all => all.map(one => getComputedStyle(one).breakAfter)"
    for heading in ("summary", "h3", ".name", ".intro", "caption", "thead"):  # none stands alone
        assert {*page.eval_on_selector_all(f"main {heading}", after)} == {"avoid"}, heading
    wrap = "all => all.map(one => getComputedStyle(one).whiteSpace)"
    assert {*page.eval_on_selector_all(".classes tbody th", wrap)} == {"nowrap"}


def test_the_contents_lead_to_every_section(visit):
    page = visit().page
    links = page.locator(".contents a")
    ids = [one.get_attribute("href")[1:] for one in links.all()]
    assert ids == page.evaluate(
        "[...document.querySelectorAll('.fold > section')].map((one) => one.id)"
    )
    links.nth(len(ids) - 1).click()
    assert page.locator(f"#{ids[-1]}").is_visible()


def test_a_word_is_explained_in_place_without_a_script(visit):
    page = visit(java_script_enabled=False).page
    for name in ("Guess", "Recall", "min-f1", "taxonomy"):
        words = page.locator(f"#short-{name}")
        assert not words.is_visible()
        page.locator(f'[popovertarget="short-{name}"]:visible').first.click()
        assert words.is_visible()
        page.keyboard.press("Escape")
        assert not words.is_visible()


SMALLEST = """() => {
  const sizes = [];
  const labels = "svg text, .ticks span, .side span, .axis span, small";
  for (const one of document.querySelectorAll(labels)) {
    if (!one.textContent.trim() || !one.checkVisibility()) continue;
    const scale = one instanceof SVGElement ? one.getScreenCTM().a || one.getScreenCTM().b : 1;
    sizes.push([Math.abs(scale) * parseFloat(getComputedStyle(one).fontSize), one.textContent]);
  }
  return sizes.sort((a, b) => a[0] - b[0]).slice(0, 3);
}"""


CUT = """() => [...document.querySelectorAll('.scroll')].filter((part) =>
  part.offsetParent && part.scrollWidth > part.clientWidth + 1).length"""


def test_charts_of_a_watched_training_fit_whole_on_a_phone(browser, tmp_path):
    """So the last step is in sight as the first one is."""
    path, names = tmp_path / "watch.html", ("very low",) * 5
    line = Series(name="Recall", x=(0, 1000, 143_000), y=(0.0, 0.5, 1.0))
    chart = Chart(title="shares", series=(line,), form="line", x_label="step")
    heat = HeatMap(
        title="levels", values=((1, 2, 3, 4, 5),), row_names=names[:1], column_names=names
    )
    write_sections(path, "a run", [AnalysisSection("watch", "t", "q", "s", figures=(chart, heat))])
    one = Visit(browser, path.as_uri(), viewport={"width": 390, "height": 800})
    for width in (390, 1280):
        one.page.set_viewport_size({"width": width, "height": 800})
        assert not one.page.evaluate(CUT)
        assert one.page.evaluate(SMALLEST)[0][0] >= 10
    one.context.close()


def test_no_label_is_below_ten_pixels_on_a_phone(visit):
    page = visit(390).page
    page.evaluate(UNFOLD)
    smallest = page.evaluate(SMALLEST)
    assert smallest[0][0] >= 10, smallest


def test_tables_and_charts_can_be_taken_along(visit):
    page = visit(accept_downloads=True).page
    page.evaluate(UNFOLD)
    with page.expect_download() as found:
        page.locator(".classes").first.locator(
            "xpath=ancestor::div[1]/following-sibling::button"
        ).first.click()
    lines = Path(found.value.path()).read_text("utf-8").splitlines()
    assert lines[0] == "Class,What it means,sequences,training,evaluation"
    assert lines[1] == "Non-Memo,a rule,900 25.0 %,333,166"
    with page.expect_download() as found:
        page.locator("figure.drawn .tool").first.click()
    svg = Path(found.value.path()).read_text("utf-8")
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "var(--" not in svg
    assert ElementTree.fromstring(svg).get("viewBox")


SEQUENCES = [  # number, class, read as, flow, genre, prefix, suffix, written
    (1, "Guess", ["Guess"], "Reconstruct to Guess", "code", "aaa", " aaa", ""),
    (2, "Recall", ["Guess"], None, "prose", "an onion", " painted <b>blue</b>", ""),
    (3, "Non-Memo", None, None, "prose", "a heron", " came\u202e back", " went"),
    (4, "Recall", ["Recall", "Guess"], "Recite to Recall", "code", "an onion", " in code", ""),
]


@pytest.fixture
def browse(browser, tmp_path, content):
    """A page whose browser holds `SEQUENCES`, at an address that ends with what is given."""
    columns = dict(
        zip(
            ("id", "class", "read", "flow", "genre", "prefix", "suffix", "written"),
            zip(*SEQUENCES, strict=True),
            strict=True,
        )
    )
    read, flows = columns["read"], columns.pop("flow")
    columns |= {"classes": [columns.pop("class"), flows], "read": [read, [None] * 4]}
    columns |= {"rouge_l": [0.9, 0.1, None, 0.05], "document": ["a.txt", "a.txt", "b/c", "b/c"]}
    known = [one["name"] for one in content.taxonomies[1].classes]
    names = ["Recite to Recall", "Reconstruct to Guess"]
    divisions = (
        Division("Guess or recall", known, pl.Series(columns["classes"][0]), pl.Series(read)),
        Division("Flows", names, pl.Series(flows)),
    )
    data = base64.b64encode(zlib.compress(json.dumps(columns).encode())).decode()
    packed = BrowsedSequences(data, 4, 4, ("rouge_l", "document", "genre"), divisions)
    pairs = [name.split(" to ") for name in names]
    flow = sankey_view([Flow(*pair, 0.5) for pair in pairs])
    rows = [
        {"prashanth": one, "paper": other, "n": 1, "share": Estimate(0.5), "published": 0.5}
        for one, other in pairs
    ]
    allocation = {"rows": rows, "ours": flow, "published": flow, "sentence": "A sentence."}
    more = {"browser": packed, "taxonomies": content.taxonomies[1:], "allocation": allocation}
    rows, looks = [("a.txt", 2), ("b/c", 2)], {"is_open": True, "filters": "document"}
    more["checks"] = [Table("By document", ("document", "sequences"), rows, **looks)]
    path = tmp_path / "report.html"
    write_report(path, replace(content, **more))
    made = []

    def start(end: str = "") -> Visit:
        made.append(Visit(browser, path.as_uri() + end, accept_downloads=True))
        return made[-1]

    yield start
    for one in made:
        one.context.close()


def numbers(page) -> list[str]:
    page.locator(".sequences tbody tr").first.wait_for()
    return page.locator(".sequences tbody th").all_text_contents()


def test_sequences_are_sorted_filtered_and_linked_to(browse):
    one = browse("#browser?sort=-rouge_l")
    page = one.page
    assert numbers(page) == ["1", "2", "4", "3"]  # what has no figure is last
    assert page.locator('[aria-sort="descending"]').text_content() == "ROUGE-L"
    page.click('[data-sort="rouge_l"]')
    assert numbers(page) == ["4", "2", "1", "3"]
    page.fill('[name="q"]', "ONION")
    assert numbers(page) == ["4", "2"]
    assert page.locator(".choices output").text_content() == "2 of 4"
    page.select_option('[name="genre"]', "prose")
    assert numbers(page) == ["2"]
    page.click(".sequences tbody a")
    assert page.locator("tr.open .suffix").text_content() == " painted <b>blue</b>"
    other = browse(f"#{page.url.split('#')[1]}").page  # the address leads to the same view
    assert numbers(other) == ["2"]
    assert other.locator("tr.open .suffix").text_content() == " painted <b>blue</b>"
    other.goto(other.url.split("#")[0] + "#browser?id=3")
    other.locator("tr.open .code").wait_for()
    assert other.locator("tr.open .code").text_content() == "U+202E"
    assert "went" in other.locator("tr.open").text_content()
    assert not one.trouble
    assert hard_to_use(other) == []


def test_a_chart_leads_to_its_passages_and_they_can_be_taken_along(browse):
    page = browse().page
    page.click(".top .legend a >> text=Recall")
    assert numbers(page) == ["2", "4"]
    with page.expect_download() as found:
        page.click("[data-csv]")
    lines = Path(found.value.path()).read_text("utf-8").splitlines()
    assert lines[0] == "id,genre,prefix,suffix,written,rouge_l,document,class 1,class 2"
    assert lines[1] == "2,prose,an onion, painted <b>blue</b>,,0.1,a.txt,Recall,"


def test_what_is_filtered_is_printed_as_a_plain_list_and_nothing_else(browse):
    one = browse("#browser?q=onion&sort=-id")
    page = one.page
    assert numbers(page) == ["4", "2"]
    page.evaluate("window.print = () => { window.printed = true; }")
    page.click("[data-list]")
    page.emulate_media(media="print")
    assert page.evaluate("window.printed")
    said = page.locator("body").inner_text()
    assert "contains “onion”: 2 of 4" in said
    assert "repeated: " not in said.split("contains")[1]  # the report itself is not printed
    rows = page.locator(".printed li")
    assert [row.split()[:2] for row in rows.all_inner_texts()] == [["4", "Recall"], ["2", "Recall"]]
    assert [row.split("\n")[0].split()[-1] for row in rows.all_inner_texts()] == ["b/c", "a.txt"]
    assert rows.nth(1).locator(".prefix").text_content() == "an onion"
    assert rows.nth(1).locator(".suffix").text_content() == " painted <b>blue</b>"
    assert rows.nth(1).locator("a").get_attribute("href") == "#browser?id=2"
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) == 1
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".printed").count() == 0
    page.emulate_media(media="screen")
    assert page.locator(".whole").is_visible()
    assert not one.trouble


def test_a_document_leads_to_its_sequences_and_its_table_is_printed(browse):
    one = browse()
    page = one.page
    page.emulate_media(media="print")
    assert page.get_by_role("cell", name="2").first.is_visible()
    page.emulate_media(media="screen")
    page.click("#check-1 a >> text=b/c")
    assert numbers(page) == ["4", "3"]  # what is memorized is first
    assert page.locator('[name="document"]').input_value() == "b/c"
    assert page.url.endswith("#browser?document=b%2Fc")
    page.click('[data-sort="document"]')
    page.select_option('[name="document"]', "")
    assert numbers(page) == ["1", "2", "3", "4"]
    assert not one.trouble
    assert hard_to_use(page) == []


def test_a_cell_of_a_confusion_matrix_leads_to_its_sequences_by_keyboard(browse):
    page = browse().page
    page.evaluate(UNFOLD)
    cell = page.locator(".confusion").first.get_by_role("link", name="Recall read as Guess")
    cell.focus()
    page.keyboard.press("Enter")
    assert numbers(page) == ["2", "4"]  # of several readers one is enough
    assert page.locator('[name="read"]').input_value() == "Guess"
    page.click(".sequences tbody a >> text=4")
    assert "as: Recall, Guess" in page.locator("tr.open").text_content()
    page.select_option('[name="read"]', "Recall")
    assert numbers(page) == ["4"]
    assert page.url.endswith("class=Recall&read=Recall")
    # Repetitions are other samples: their cells lead nowhere.
    assert page.locator(".confusion").nth(1).locator("a").count() == 0


def test_a_flow_leads_to_its_sequences_by_keyboard(browse):
    one = browse()
    page = one.page
    page.evaluate(UNFOLD)
    ribbons = page.locator("#allocation svg").first.get_by_role("link")
    assert ribbons.count() == 2
    assert page.locator("#allocation svg").nth(1).get_by_role("link").count() == 0  # published
    ribbons.nth(1).focus()
    page.keyboard.press("Enter")
    assert numbers(page) == ["1"]
    page.click("#allocation td a >> nth=0")
    assert numbers(page) == ["4"]
    assert not one.trouble
    assert hard_to_use(page) == []
