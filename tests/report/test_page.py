"""The page: one file without outside addresses, every text escaped, nothing left unsaid."""

import json
import re
from dataclasses import replace
from importlib import resources
from itertools import pairwise
from urllib.parse import parse_qs

import polars as pl
import pytest

from mnemoscope.report import content as c
from mnemoscope.report.charts import delta_views
from mnemoscope.report.page import render_report, write_report
from mnemoscope.report.sequences import BrowsedSequences, Division
from mnemoscope.report.tables import Table
from pages import Page, words_of
from tests.report.conftest import make_benchmark, make_taxonomy, page_of

SCRIPTS = ("report.js", "tools.js", "browse.js")
HOSTILE = "\"'><script>alert(1)</script></style><img src=x onerror=alert(2)>{{ 7*7 }}&amp;"
NOTHING = {"n_sequences": 0, "n_memorized": 0, "by_genre": [], "by_duplicates": []}


@pytest.fixture(scope="module")
def html() -> str:
    return page_of()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def addresses(page: Page) -> list[str]:
    names = ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "background")
    return [a[name] for _, a in page.elements for name in names if name in a]


def test_no_address_leads_outside_but_the_link_to_the_paper(page, html):
    found = addresses(page)
    assert len(found) > 50
    paper = "https://arxiv.org/abs/2508.02573"
    assert {one for one in found if not one.startswith(("data:", "#"))} == {paper}
    assert paper in [a["href"] for a in page.all("a")]
    style = "".join(text for tag, text in page.text if tag == "style")
    assert all(url.startswith("#") for url in re.findall(r"url\(\s*['\"]?([^)]*)", style))
    assert "@import" not in style
    assert re.findall(r"https?://[^\"]*", html) == [paper]
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline'; script-src 'sha256-" in policy


def test_every_element_is_closed_and_every_id_unique_and_found(page: Page):
    assert page.unbalanced == []
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= set(ids)
    named = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(named) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(a["alt"] for a in page.all("img"))
    assert all("scope" in a for a in page.all("th"))


def test_the_answer_comes_before_every_figure_and_each_has_its_controls(page: Page):
    words = page.words()
    order = [
        "4,044 of 6,700 sequences repeated: 900 predictable from the beginning "
        "(Guess), 900 not (Recall), 2,244 without a class",
        "Guess and Recall only say whether the beginning gives the end away",
        "Attention: did worse than the text",
        "Memory or only text?",
        "Under “Prashanth et al.” attention did worse",
        "What was looked at",
        "GPT-NeoX of 4.2",
        "How to read this page",
        "Settings and versions",
    ]
    words = re.sub(r"\s+", " ", words)
    places = [words.rindex(each) if i > 3 else words.index(each) for i, each in enumerate(order)]
    assert places == sorted(places)
    for name in ("Blind CNNs", "Blind n-grams", "Reference model", "Control task", "Logits"):
        assert words.count(name) >= 4
    assert "23.1 [19.1, 26.7]" in words
    assert "Excess −20.0 points [−25.0, −15.7]" in words
    assert "The paper prints 89.0 % for Pythia." in words


def test_hostile_text_stays_text(content):
    taxonomy = make_taxonomy(("Non-Memo", HOSTILE, "Recall"), title=HOSTILE)
    example = {
        "class": HOSTILE,
        "prefix": HOSTILE,
        "suffix": [HOSTILE, "\x00"],
        "written": [(HOSTILE, False), ("b", True)],
        "genre": HOSTILE,
        "document": HOSTILE,
        "flags": [HOSTILE],
        **dict.fromkeys(("sequence_id", "memorization_score", "rouge_l", "rouge_3")),
    }
    counted = {"name": HOSTILE, "n_sequences": 10, "n_memorized": 5}
    names = pl.Series(["Non-Memo", HOSTILE, "Recall"])
    division = Division(HOSTILE, names.to_list(), names, names.reshape((3, 1)))
    html = page_of(
        replace(taxonomy, examples=(example,), warnings=(HOSTILE,)),
        title=HOSTILE,
        model=content.model | dict.fromkeys(("name", "fingerprint", "note"), HOSTILE),
        counts=counted | {"by_genre": [counted], "by_duplicates": []},
        checks=(Table(HOSTILE, (HOSTILE, "n"), ((HOSTILE, 1),), HOSTILE),),
        warnings=(HOSTILE,),
        settings={HOSTILE: {HOSTILE: HOSTILE}},
        commands=(HOSTILE,),
        browser=BrowsedSequences("", 1, 2, ("genre",), [division]),
    )
    page = Page(html)
    assert len(page.all("script")) == 1
    folder = resources.files("mnemoscope.report").joinpath("templates")
    own = "".join(folder.joinpath(one).read_text("utf-8") for one in SCRIPTS)
    assert "".join(text for tag, text in page.text if tag == "script") == own
    page.assert_harmless("script", "style", "link")
    assert page.unbalanced == []
    assert page.words().count(HOSTILE) > 15
    (packed,) = [one for _, one in page.elements if one.get("id") == "packed"]
    assert json.loads(packed["data-classes"]) == [["Non-Memo", HOSTILE, "Recall"]]
    links = [parse_qs(one["data-browse"]) for _, one in page.elements if "data-browse" in one]
    assert {"genre": [HOSTILE]} in links
    assert {"taxonomy": ["0"], "class": [HOSTILE]} in links


def test_sequences_keep_their_white_space():
    prefix = "def f(x):\n\tif  x:\n\n\t\treturn   1  \n"
    taxonomy = make_taxonomy()
    example = taxonomy.examples[-1] | {"prefix": prefix}
    page = Page(page_of(replace(taxonomy, examples=[example])))
    shown = "".join(text for tag, text in page.text if tag in ("span",))
    for sign in "↵⇥":
        shown = shown.replace(sign, "")
    assert prefix in shown
    style = "".join(text for tag, text in page.text if tag == "style")
    assert re.search(r"\.text \{[^}]*white-space: pre-wrap", style)


def test_the_models_dot_is_right_of_the_band_exactly_when_it_is_larger():
    for value in (0.2, 0.55, 0.9):
        scores = {"model": value, "blind": 0.5, "reference": 0.4, "control": 0.3, "logits": 0.95}
        taxonomy = make_taxonomy(benchmarks=(make_benchmark(scores=scores),))
        html = page_of(taxonomy)
        row = re.search(r'<tr class="model".*?</tr>', html, re.DOTALL).group()
        band = float(re.search(r'class="band" x="0" y="0" width="([\d.]+)%', row).group(1))
        mark = r'<svg x="([\d.]+)%"[^>]*>\s*<circle class="mark model"'
        dot = float(re.search(mark, row).group(1))
        assert band == 100 * taxonomy.main.best.value
        assert dot == pytest.approx(100 * value)
        assert (dot > band) == (value > 0.5)


def test_all_maps_are_there_without_a_script_but_beyond_the_budget(page, content):
    wanted = sum(
        maps.delta.shape[0] * (maps.delta.shape[1] + 1)
        for taxonomy in content.taxonomies
        for maps in taxonomy.deltas
    )
    assert len(page.all("img")) + len(page.all("image")) == wanted
    views = delta_views([one.deltas for one in content.taxonomies], budget_bytes=1)
    assert views[0][0].pictures
    assert not views[0][1].pictures
    assert len(views[1][0].values[0]) == 4


def test_the_smallest_study_is_a_page_too(content):
    page = Page(render_report(c.ReportContent("Labels only", content.model, NOTHING)))
    assert page.unbalanced == []
    assert "None. Only the blind baseline" in page.words()
    assert "0 sequences and finished 0 of them (–)" in page.words()


def test_impossible_untrained_uncontrolled_and_dropped_are_said():
    reason = "Class 'Recall' has 3 sequences where 60 are needed."
    impossible = replace(make_taxonomy(), benchmarks=(), deltas=(), impossible=reason)
    scores = {"model": None, "blind": 0.4}
    lost = make_benchmark(scores=scores, verdict=None, matched_by=None, confusion=None)
    untrained = make_taxonomy(benchmarks=(lost,), dropped=(("Code", 4),))
    bare = make_benchmark(scores={"model": 0.2}, verdict=None, matched_by=None)
    uncontrolled = make_taxonomy(benchmarks=(bare, c.Benchmark("matched", impossible=reason)))
    page = Page(page_of(impossible, untrained, uncontrolled))
    words = page.words()
    assert page.unbalanced == []
    assert words.count(reason) >= 3
    assert "did not train: no better than chance" in words
    assert "left out: too few sequences" in words
    assert "No controls were run: this figure cannot tell memory from text." in words


def test_many_taxonomies_share_one_chart_and_are_folded():
    several = [
        make_taxonomy(
            n_layers=1,
            title=f"number {value}",
            benchmarks=(make_benchmark(excess=(value, value - 0.1, value + 0.1)),),
        )
        for value in (-0.2, 0.3, 0.1, 0.0, -0.1)
    ]
    page = Page(page_of(*several))
    assert page.unbalanced == []
    titles = [a["id"] for a in page.all("h2") if re.fullmatch(r"taxonomy-\d-title", a["id"])]
    assert len(titles) == 5
    chart = page.words().split("In falling order of excess")[0].split("Verdict")[1]
    assert re.findall(r"number (-?[\d.]+)", chart) == ["0.3", "0.1", "0.0", "-0.1", "-0.2"]


def test_the_file_is_the_same_every_time(tmp_path, content, html):
    n_bytes = write_report(tmp_path / "report.html", content)
    assert (tmp_path / "report.html").read_text("utf-8") == html
    assert n_bytes == len(html.encode())


def test_a_gradient_by_scaled_maps_is_not_called_the_papers(content):
    taxonomy = content.taxonomies[0]
    for scaling in ("sqrt_standardized", "raw"):
        main = replace(taxonomy.main, settings={"scaling": scaling})
        said = "by the scaled maps that these CNNs read" in words_of(
            page_of(replace(taxonomy, benchmarks=(main,)))
        )
        assert said == (scaling != "raw")
