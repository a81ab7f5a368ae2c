"""The page shows every cut of a knockout: curves with intervals, indices, copy edges, in words."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest

from mnemoscope.pipeline.causes import SPECIFICITY_FILE, cut_verdicts
from mnemoscope.report.advice import Deciding
from mnemoscope.report.charts import WIDTH, chart_view, knockout_drawing
from mnemoscope.report.content import knockout_of
from mnemoscope.report.lead import CUTS, MECHANISM, OWN_CUTS, conclusion, lead_of
from mnemoscope.stats import NO_ESTIMATE, Estimate, frame_of
from mnemoscope.study.settings import StudySettings
from mnemoscope.taxonomy.sample import SampleKey
from pages import words_of
from tests.report.conftest import make_taxonomy, page_of

NAMES = ("Non-Memo", "Guess", "Recall")
KEY = SampleKey(", ".join(NAMES))
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
FALL = {"random": 0.08, "equal mass": 0.2, "same layers": 0.13, "highest mass": 0.22}


def cut_rows():
    """Survival falls with the strength, fastest by a class's own decisive edges."""
    for name in NAMES[1:]:
        yield cut("nothing", "", 0.0, name, 1.0, 0.0)
        for place, strength in enumerate(STRENGTHS):
            kinds = [
                (one, of) for one in (*FALL, "decisive") for of in NAMES[1:] if one != "random"
            ]
            for choice, of in (("random", ""), *kinds):
                step = FALL.get(choice, 0.24 if of == name else 0.1)
                yield cut(choice, of, strength, name, max(0.0, 1 - step * place), 0.02 * place)
        yield cut("copy", "", None, name, 0.29, 0.017)
        yield cut("copy, random", "", None, name, 0.73, 0.009)
        yield cut("copy, equal mass", "", None, name, 0.64, 0.016)
        for choice, kept in (("own", 0.05), ("own, equal mass", 0.88), ("own, another's", 0.92)):
            yield cut(choice, "", None, name, kept, 0.004) | {"n_edges": 8.0}


def cut(choice, edges_of, strength, name, survival, mass):
    return {
        **KEY._asdict(),
        "by": "value_norm_contrast",
        "choice": choice,
        "edges_of": edges_of,
        "strength": strength,
        "class": name,
        "n": 100,
        "draws": 1 if choice in ("copy", "nothing", "decisive", "highest mass") else 5,
        "n_edges": 80.0 * (strength or 1.0),
        "mass": mass,
        "survival": Estimate(survival, max(0.0, survival - 0.06), min(1.0, survival + 0.05)),
        "score": 0.5 + survival / 2,
        "logprob": survival - 1.5,
    }


def index_rows(beyond=(0.04, 0.18)):
    for strength in STRENGTHS:
        for own, other in (NAMES[1:], NAMES[:0:-1]):
            yield {
                **KEY._asdict(),
                "class": own,
                "strength": strength,
                "broken_own": Estimate(0.48, 0.4, 0.56),
                "broken_own_equal_mass": Estimate(0.37, 0.3, 0.44),
                "beyond_equal_mass": Estimate(0.11, *beyond),
                "broken_others": json.dumps({other: Estimate(0.2, 0.1, 0.3)._asdict()}),
                "broken_own_by_others": json.dumps({other: Estimate(0.12)._asdict()}),
                "by": "value_norm_contrast",
                "specificity": Estimate(0.281, 0.213, -0.01 if own == "Recall" else 0.35),
            }


@pytest.fixture
def study():
    frames = {
        "knockout.parquet": frame_of(cut_rows()),
        "specificity.parquet": frame_of(index_rows()),
    }
    return SimpleNamespace(
        is_done=lambda stage: stage == "knockout", read=frames.__getitem__, settings=StudySettings()
    )


@pytest.fixture
def section(study):
    def section() -> str:
        view = knockout_of(study, KEY)
        html = page_of(replace(make_taxonomy(n_layers=1), knockout=view))
        return html.split('-knockout">')[-1].split("</section>")[0]

    return section


def test_one_strength_is_a_row_a_cut_with_its_interval(section):
    html = section().split("Show survival at every strength")[0]
    for name, drawn in zip(NAMES[1:], html.split("<table")[1:], strict=True):
        assert f"{name} : share of" in words_of(drawn)
        assert "when 1 % of edges are cut" in words_of(drawn)
        rows = drawn.split("<tr")[2:]
        assert len(rows) == 6
        assert all('class="interval' in row and 'class="mark' in row for row in rows)
    rows = html.split('<th scope="row"')[1:]
    guess = next(row for row in rows if "most decisive for Guess" in row)
    assert 'cx="52.00%"' in guess
    assert "52.0 [46.0, 57.0]" in words_of(guess)


def test_each_tried_class_has_its_curves_with_bands_and_every_point_its_figures(
    section,
):
    html = section()
    figures = html.split("<figure")[1:]
    assert len(figures) == 2
    for figure in figures:
        drawn = figure.split("</figure>")[0]
        # Both classes' decisive edges, random, and the three controls of its own class.
        assert drawn.count("<polyline") == drawn.count("<polygon") == 6
        assert drawn.count("<title>") == 6 * len(STRENGTHS)
        assert drawn.count('<g class="class-') == 2
        assert drawn.count('<g class="neutral">') == 4
    assert re.search(r"<title>most decisive for Guess, 1: 52 \[46, 57\]</title>", html)


def test_the_tables_hold_what_is_not_drawn(section):
    text = words_of(section())
    assert "+28.1 [21.3, 35.0]" in text
    # The other class's controls are in the table of every cut alone.
    assert text.count("random edges, mass as most decisive for Recall") >= 5
    copies = text.split("copy edges cut in every layer")[1]
    assert "29.0 %" in copies
    assert "73.0 %" in copies
    assert "64.0 %" in copies


def test_a_single_memorized_class_has_its_shares_but_no_specificity(study, section):
    (row, *_) = (row for row in index_rows() if row["class"] == "Guess" and row["strength"] == 1)
    alone = row | {"broken_others": "{}", "broken_own_by_others": "{}"}
    alone["specificity"] = NO_ESTIMATE
    cuts = study.read("knockout.parquet").filter(pl.col("class") == "Guess")
    frames = {"knockout.parquet": cuts, "specificity.parquet": frame_of([alone])}
    study.read = frames.__getitem__
    text = words_of(section())
    assert (
        "breaks 48 % [40, 56] of Guess; random edges of equal mass break 37 % [30, 44] of it"
        in text
    )
    assert "None" not in text


@pytest.mark.parametrize(
    ("beyond", "looks"),
    [((0.04, 0.18), "BEYOND"), ((-0.04, 0.26), "UNDECIDED"), ((-0.2, -0.02), "WORSE")],
)
def test_the_first_screen_says_what_a_cut_breaks_beside_edges_of_equal_mass(
    study, content, beyond, looks
):
    frames = {"knockout.parquet": study.read("knockout.parquet")}
    frames["specificity.parquet"] = frame_of(index_rows(beyond))
    study.read = frames.__getitem__
    taxonomy = replace(make_taxonomy(n_layers=1), knockout=knockout_of(study, KEY))
    why = Deciding("cuts", taxonomy.name, "More of Guess", "mnemoscope knockout s")
    shown = replace(content, taxonomies=[taxonomy], deciding=[why])
    (badge,) = (one for one in lead_of(shown).badges if one.question == CUTS)
    row = {"broken": "Recall", "spared": "Guess", "part": "layers.0.qk", "finding": "ALIKE"}
    graft = {"first": row | {"specific": Estimate(0.1)}, "by_truth": None, "doses": []}
    both = replace(shown, taxonomies=[replace(taxonomy, graft=graft)])
    mechanism, *others = lead_of(both).badges
    assert mechanism.question == MECHANISM  # whose badge has what was cut beside it
    assert list(mechanism.beside) == [badge._replace(beside=()), *badge.beside]
    assert not {CUTS, OWN_CUTS} & {one.question for one in others}
    assert all(f"{one.question}: {one.answer}" in conclusion(both) for one in mechanism.beside)
    spoken = [one.partition(": ")[2].rstrip(".") for one in cut_verdicts(frames[SPECIFICITY_FILE])]
    assert badge.answer in spoken  # which the terminal prints
    said = "the 1 % of edges most decisive for Guess break 48 % [40, 56] of it and "
    said += "20 % [10, 30] of Recall; "
    said += "random edges that hold as much attention break 37 % [30, 44] of it"
    assert badge.answer.startswith(said)
    assert (badge.standing.name, badge.target) == (looks, "taxonomy-1-knockout")
    assert ("undecided" in badge.answer) == (looks == "UNDECIDED")
    assert (badge.decides, badge.command) == ("More of Guess", "mnemoscope knockout s")
    does = {"BEYOND": "more", "WORSE": "less"}.get(looks)
    said = "; of 5 strengths the one nearest to 1 % is named"
    said += f", at 0.1 and 0.3 and 3 and 10 % the decisive ones break {does} than random ones"
    assert (said in badge.answer) == (does is not None)
    (own,) = badge.beside
    assert own.question == OWN_CUTS
    assert own.answer == (
        "each sequence's own 8 edges of largest total effect break 95 % [90, 100] of Guess; "
        "as heavy ones of its own 12 % [7, 18], another sequence's 8 % [3, 14]"
    )
    assert own.standing.name == "BEYOND"


def test_without_a_knockout_the_page_says_nothing_of_it(study):
    assert "-knockout" not in page_of()
    assert knockout_of(study, SampleKey("Non-Memo, Code, Others")) is None
    study.is_done = lambda stage: False
    assert knockout_of(study, KEY) is None


def test_one_strength_stands_in_the_middle_and_order_is_kept(study):
    panel = knockout_of(study, KEY).panels[0]
    view = chart_view(knockout_drawing(panel, NAMES))
    places = [tick.at for tick in view.x_ticks]
    assert [tick.text for tick in view.x_ticks] == ["0.1", "0.3", "1", "3", "10"]
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= WIDTH
    curves = [replace(one, points=one.points[2:3]) for one in panel.curves]
    alone = chart_view(knockout_drawing(replace(panel, curves=curves), NAMES))
    assert alone.x_ticks[0].at == pytest.approx((places[0] + places[-1]) / 2)
