"""The page shows what parts of the reference break of each class, and says what that allows."""

import re
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest

from mnemoscope.columns import schema_of
from mnemoscope.localize.grafts import Finding
from mnemoscope.pipeline.causes import graft_statements
from mnemoscope.pipeline.graft import SPECIFIC_COLUMNS
from mnemoscope.report.grafts import graft_of
from mnemoscope.report.pictures import draw_doses
from mnemoscope.report.tables import graft_tables
from mnemoscope.stats import Estimate, frame_of
from mnemoscope.study.settings import StudySettings
from pages import words_of
from tests.report.conftest import make_taxonomy, page_of

TAXONOMY = "Non-Memo, Guess, Recall"
PARTS = ("layers.3.mlp", "layers.0.qk")
TWIN = {"Guess": 0.78, "Recall": 0.04}
SIZES = {"n": 250, "n_groups": 120}


def graft_rows():
    for name, whole in TWIN.items():
        for part in PARTS:
            for control, share in (("twin", 0.5), ("twin", 1.0), ("flip", 1.0)):
                left = 1 - (1 - whole) * (share if control == "twin" else 0.5)
                yield SIZES | {
                    **{"taxonomy": TAXONOMY, "class": name, "part": part, "control": control},
                    **{"direction": "twin_in_model", "heldout_loss": 3.4, "share": share},
                    "survive": Estimate(left, left - 0.03, left + 0.03),
                }
            yield SIZES | {
                **{"taxonomy": TAXONOMY, "class": name, "part": part, "control": "same size"},
                **{"direction": "twin_in_model", "heldout_loss": 3.3, "share": 1.0},
                "survive": Estimate(0.94, 0.9, 0.98),
            }
    for part, share in (("", 0.0), ("layers.3.mlp", 0.015)):
        yield SIZES | {
            **{"taxonomy": TAXONOMY, "class": "Recall", "part": part, "control": "twin"},
            **{"direction": "model_in_twin", "survive": Estimate(share, 0.0, 0.03)},
            **{"heldout_loss": 3.5, "share": 1.0},
        }


def curve_rows():
    """Two directions under which both classes break alike."""
    for part in PARTS:
        for draw in (0, 1):
            for scale, left in ((1.0, 0.9), (1.25, 0.5), (1.5625, 0.1)):
                for name in TWIN:
                    yield {
                        **{"taxonomy": TAXONOMY, "class": name, "part": part, "control": "random"},
                        **{"draw": draw, "scale": scale, "survive": left, "heldout_loss": 3.3},
                    }


def specific(finding=Finding.SPECIFIC, **changes):
    rows = []
    for part, value in zip(PARTS, (0.048, 0.277), strict=True):
        for pair, sign in ((("Recall", "Guess"), 1), (("Guess", "Recall"), -1)):
            rows.append(
                {
                    **{"taxonomy": TAXONOMY, "is_found": False, "part": part, "broken": pair[0]},
                    **{"spared": pair[1], "n_walks": 16, "largest_scale": 2.4, "kept_broken": 0.04},
                    **{"kept_spared": 0.78, "random_broken": 0.04 + sign * value},
                    "specific": Estimate(sign * value, sign * value - 0.1, sign * value + 0.1),
                    **{"p_value": 0.004, "scatter": 0.09},
                    **{"crude": Estimate(0.31), "equal_total": Estimate(0.12)},
                    "over_flip": Estimate(0.2, 0.1, 0.3),
                    "finding": Finding.ALIKE.name,
                }
            )
    rows[2] |= {"finding": finding.name} | changes
    if finding in (Finding.OUT_OF_REACH, Finding.FEW):
        blank = {"specific": None, "p_value": None, "random_broken": None, "crude": None}
        rows = [row | blank | {"finding": finding.name} | changes for row in rows]
    return frame_of(rows, schema_of(SPECIFIC_COLUMNS))


@pytest.fixture
def study():
    frames = {
        "graft.parquet": frame_of(graft_rows()),
        "graft_specificity.parquet": specific(),
        "graft_curves.parquet": pl.DataFrame(list(curve_rows())),
    }
    return SimpleNamespace(
        is_done=lambda stage: stage == "graft",
        manifest=lambda _: {"counts": {"heldout_loss": 3.2}},
        frames=frames,
        read=frames.__getitem__,
        settings=StudySettings(),
    )


def test_each_part_has_its_classes_and_its_strongest_finding(study):
    html = page_of(replace(make_taxonomy(n_layers=1), graft=graft_of(study, TAXONOMY)))
    text = words_of(html.split('-graft">')[-1].split("</section>")[0])
    first, second = text[text.index("layers.0.qk queries and keys of layer 0 78.0") :].split(
        "layers.3.mlp"
    )[:2]
    assert "78.0 [75.0, 81.0] 4.0 [1.0, 7.0]" in first
    assert "Recall beyond Guess: specific p = 0.004 +27.7 [17.7, 37.7] +31.0" in first
    # 78 % of Guess: 3 tenths of the way from 90 % at 3.3 to 50 % at 3.3, beside 3.2 as it is.
    assert "+20.0 [10.0, 30.0] +0.20 random +0.10" in first
    assert "Recall beyond Guess: not shown" in second
    assert "Recall comes out most with layers.3.mlp , 1.5" in text


def test_dose_curves_place_walks_twin_and_flip(study):
    view = graft_of(study, TAXONOMY)
    dose = view["doses"][0]
    assert dose["row"]["part"] == "layers.0.qk"  # the strongest finding first
    assert dose["walks"] == [[(1.0, 1.0), (0.9, 0.9), (0.5, 0.5), (0.1, 0.1)]] * 2
    assert dose["twin"] == [
        pytest.approx((0.89, 0.52)),
        pytest.approx((0.78, 0.04)),
    ]  # spared, then broken
    assert dose["flip"] == [pytest.approx((0.89, 0.52))]
    assert min(dose["mean"])[0] == pytest.approx(0.1)
    assert all(x == pytest.approx(y) for x, y in dose["mean"])
    html = page_of(replace(make_taxonomy(n_layers=1), graft=view))
    picture = html.split('<section id="parts"')[1].split("</section>")[0]
    assert picture.count("<figure") == 2
    figure = picture.split("<figure")[1]
    label = figure.split('aria-label="')[1].split('"')[0]
    assert "random changes that break as much of Guess leave 31.7" in label
    assert 'class="mark class" cx="156.0" cy="192.0" r="5.5"' in figure  # 78 and 4 of 200
    assert 'class="mark class-hollow" cx="178.0" cy="96.0"' in figure
    assert figure.count('<polyline class="walk"') == 2
    # The picture for notebook and print has the very marks of the page, in its class's colour.
    svg = draw_doses(view["doses"], TAXONOMY.split(", "), "<b>").svg
    assert "<b>" not in svg
    for line in re.findall(r"<(?:circle|polyline)[^>]+>", figure):
        assert line in svg
    assert 'class="class-2"' in svg.split('class="walk"')[0]


def test_a_mean_curve_ends_where_half_of_the_walks_end(study):
    rows = study.frames["graft_curves.parquet"]
    study.frames["graft_curves.parquet"] = rows.filter(
        (pl.col("draw") == 0) | (pl.col("scale") == 1)
    )
    dose = graft_of(study, TAXONOMY)["doses"][0]
    assert min(dose["mean"])[0] == pytest.approx(0.1)
    third = rows.filter(draw=1, scale=1.0).with_columns(draw=pl.lit(2, dtype=pl.Int64))
    study.frames["graft_curves.parquet"] = pl.concat([study.frames["graft_curves.parquet"], third])
    dose = graft_of(study, TAXONOMY)["doses"][0]
    assert min(dose["mean"])[0] == pytest.approx(0.9)


def test_one_class_has_its_shares_and_nothing_to_compare(study):
    for name, frame in study.frames.items():
        if "class" in frame.columns:
            study.frames[name] = frame.filter(pl.col("class") == "Recall")
    study.frames["graft_specificity.parquet"] = specific().clear()
    view = graft_of(study, TAXONOMY)
    assert (view["first"], view["doses"]) == (None, [])
    assert view["rows"][0]["random"] == [Estimate(0.94, 0.9, 0.98)]
    assert "no verdict" in view["statement"]
    assert "Recall has 120" in view["statement"]
    assert [row["part"] for row in view["rows"]] == list(PARTS)
    # The one stands first that breaks more beyond random changes, not the one that breaks more.
    grafts = study.frames["graft.parquet"]
    is_first = (pl.col("control") == "same size") & (pl.col("part") == view["rows"][0]["part"])
    broken = pl.lit(Estimate(0.0, 0.0, 0.0)._asdict(), dtype=grafts.schema["survive"])
    study.frames["graft.parquet"] = grafts.with_columns(
        pl.when(is_first).then(broken).otherwise("survive").alias("survive")
    )
    again = [row["part"] for row in graft_of(study, TAXONOMY)["rows"]]
    assert again == [*PARTS[1:], PARTS[0]]
    html = page_of(replace(make_taxonomy(n_layers=1), graft=view))
    assert '<section id="parts"' not in html
    assert "random 94.0 [90.0, 98.0]" in words_of(html)
    assert words_of(html).count("no verdict: ") == 1  # where it is open, not above too
    assert not list(graft_tables(study))


def test_what_activations_break_is_folded_under_the_parts(study):
    shares = {
        ("Guess", "all"): (0.5, 0.9),
        ("Recall", "all"): (0.0, 0.8),
        ("Recall", "0-15"): (1.0, 1.0),
    }
    rows = [
        {
            **{"taxonomy": TAXONOMY, "class": name, "part": "layers.0.residual"},
            **{"positions": positions, "direction": direction, "control": control, "draw": draw},
            "survive": Estimate(share),
        }
        for (name, positions), both in shares.items()
        for control, draw, share in (
            ("twin", 0, both[0]),
            *(("other", at, both[1] - at / 10) for at in (0, 1)),
        )
        for direction in ("twin_in_model", "model_in_twin")
    ]
    study.frames["graft_patches.parquet"] = frame_of(rows)
    study.settings.graft.patch = True
    html = page_of(replace(make_taxonomy(n_layers=1), graft=graft_of(study, TAXONOMY)))
    folded = next(
        one for one in html.split("<details>") if one.startswith("<summary>Show activations")
    )
    text = words_of(folded.split("</details>")[0])
    assert "Guess: all Recall: all Recall: 0-15" in text
    assert "layers.0.residual 50.0 control 85.0 0.0 control 75.0 100.0 control 95.0" in text


def shares(*classes, n_groups=10):
    """What sentences are drawn from of `graft.parquet`."""
    rows = [
        {"taxonomy": TAXONOMY, "class": name, "n_groups": n_groups}
        for name in classes or ("Guess", "Recall")
    ]
    return pl.DataFrame(rows)


@pytest.mark.parametrize("classes", [("Recall",), ("Guess", "Recall")])
def test_classes_with_too_few_groups_have_no_verdict_but_a_sentence(classes):
    rows = specific(Finding.FEW)
    (line,) = graft_statements(
        rows if len(classes) > 1 else rows.clear(), shares(*classes, n_groups=9)
    )
    assert "no verdict" in line
    assert ", ".join(f"{name} has 9" for name in classes) in line


ALIKE = (
    "by 9 points; beside those that leave as much of both classes together, the difference is "
    "12 points; p = 0.004"
)


@pytest.mark.parametrize(
    ("finding", "unsaid", "said"),
    [
        (
            Finding.SPECIFIC,
            "verdict",
            ("Recall depends on the queries and keys of layer 0", "31.7"),
        ),
        (
            Finding.EITHER_WAY,
            "verdict",
            ("toward the reference or away from it", "28 points [18, 38]"),
        ),
        (Finding.ALIKE, "depends", ("found to break one class more", ALIKE, "28 points [18, 38]")),
        (Finding.OUT_OF_REACH, "depends", ("no verdict", "2.4 times")),
        (Finding.FEW, "depends", ("no verdict", "16 of a part")),
    ],
)
def test_the_sentence_says_what_the_finding_allows(finding, unsaid, said):
    (line,) = graft_statements(specific(finding), shares())
    assert [one for one in said if one not in line] == []
    assert unsaid not in line
    if finding is Finding.SPECIFIC:  # truth has its own words
        rows = specific(broken="read", spared="never read")
        truth = {"taxonomy": pl.lit("by truth")}
        of_classes = shares("never read", "read").with_columns(**truth)
        (line,) = graft_statements(rows.with_columns(**truth), of_classes)
        assert line.startswith(
            "Which part each class needs, by what was read and what never was, among sequences"
        )
        assert "what was read depends on the queries and keys" in line
        assert "than what was never read does" in line


def test_taxonomies_stand_by_their_strongest_finding(study):
    other = specific(Finding.ALIKE).with_columns(
        taxonomy=pl.lit("Non-Memo, Code, Recall"), is_found=pl.lit(True)
    )
    study.frames["graft_specificity.parquet"] = pl.concat([other, specific()])
    (table,) = graft_tables(study)
    assert [row[:2] for row in table.rows] == [
        (TAXONOMY, "specific"),
        ("Non-Memo, Code, Recall (found)", "not shown"),
    ]
    assert table.rows[0][5:8] == ("+27.7", "[17.7,\xa037.7]", "0.004")
