"""The section beside the published figures: every row with its figures, every reason told."""

from dataclasses import replace

import numpy as np
import pytest
from markupsafe import escape

from mnemoscope.benchmark.published import OurFigures, compare_with_published, published_table
from mnemoscope.cnn.metrics import f1_per_class
from mnemoscope.report.published import published_view
from mnemoscope.stats import Estimate
from mnemoscope.taxonomy.catalogue import catalogue
from mnemoscope.taxonomy.names import parse_taxonomy
from tests.report.conftest import page_of

REASON = "Recite[1k] has 12 & <b>needs</b> 60"


def figures(name: str, f1: float) -> OurFigures:
    """A measured taxonomy with this recall in every class."""
    n_classes = name.count(",") + 1
    confusion = np.full((n_classes, n_classes), 1000 * (1 - f1) / (n_classes - 1))
    np.fill_diagonal(confusion, 1000 * f1)
    f1 = f1_per_class(confusion)
    low, mean = f1.min(), f1.mean()
    both = Estimate(low, low - 0.02, low + 0.03), Estimate(mean, mean - 0.01, mean + 0.01)
    return OurFigures(name, name, "measured", "", 3000, *both, confusion)


@pytest.fixture
def view() -> dict:
    """All 54: those of a thousand duplicates are impossible, the rest ten points lower."""
    ours: dict[str, OurFigures] = {}
    for name, value in published_table().select("tax_name", "min_f1").rows():
        impossible = OurFigures(name, name, "impossible", REASON)
        one = impossible if "1k" in name else figures(name, value / 100 - 0.1)
        ours.setdefault(parse_taxonomy(name).partition_key, one)
    found = published_view(compare_with_published(list(ours.values())))
    assert found is not None
    return found


def test_every_measured_taxonomy_has_its_row_and_every_other_its_reason(view):
    html = page_of(published=view)
    part = view["parts"][0]
    assert len(part["rows"]) + len(part["missing"]) == 54
    assert part["absent"] == ""
    table = html[html.index('class="chart paired"') :]
    for row in part["rows"]:
        assert f">{row['name']}" in table
    guess = next(row for row in part["rows"] if row["name"] == "Guess, Others")
    assert guess["published_min_f1"] == 0.89
    assert guess["min_f1"].value == pytest.approx(0.79)
    assert guess["difference"].value == pytest.approx(-0.1)
    by_model = [guess[f"published_min_f1_{one}"] for one in part["models"]]
    assert by_model == [0.892, 0.889, 0.884]
    assert "−10.0" in table
    body = table[table.index("<tbody") : table.index("</table>")]
    assert body.count("<tr ") == len(part["rows"])
    assert html.count(str(escape(REASON))) >= len(part["missing"])
    assert "<b>needs</b>" not in html
    aliases = {row["name"]: row["alias_of"] for row in part["rows"] if row["alias_of"]}
    assert aliases == {
        "Recollect[5], Others": "Recite[5], Others",
        "Recite[50], Others": "Recollect[50], Others",
    }
    assert "here the same as Recite[5], Others" in html
    for ours, published in view["conclusions"]:
        for text in (ours.claim, ours.reason, published.reason):
            assert str(escape(text)) in html
    assert [published.verdict for _, published in view["conclusions"]] == ["holds"] * 5
    best = view["conclusions"][0][0]
    assert best.figures["difference"]["value"] > 0  # ten points lower keeps the order
    assert best.verdict == "cannot be told"  # of figures without resamples
    assert "Spearman 1.00" in html


def test_a_taxonomy_with_a_title_has_no_second_name():
    own = "Non-Memo, Recite[5], Reconstruct, Recollect"
    published = "Non-Memo, Recite[5], Reconstruct, Others"
    ours = [
        replace(figures(published, 0.5), taxonomy=own),
        figures("Non-Memo, Guess, Others", 0.8),
    ]
    found = published_view(compare_with_published(ours), {own: "Prashanth et al."})
    assert found is not None
    names = [row["name"] for row in found["parts"][0]["rows"]]
    assert names == ["Prashanth et al.", "Guess, Others"]
    assert found["renamed"] == [("Prashanth et al.", "Recite[5], Reconstruct, Others")]
    html = page_of(published=found)
    assert html.count("Recite[5], Reconstruct, Others") == 1  # where it is explained
    assert "the best of the others is Prashanth et al. with" in html


def test_settings_of_rho_are_read_measure_by_measure():
    found = published_view(compare_with_published([figures("Non-Memo, Guess, Others", 0.8)]))
    assert found is not None
    sweep = found["parts"][1]
    assert [row["name"] for row in sweep["rows"]] == ["ROUGE-L or ROUGE-3, ρ = 0.5"]
    assert sweep["absent"] == "26 of the 27 settings of ρ are not in this study."
    assert sweep["models"] == ()
    assert sweep["beside"].startswith("The published figures sum Pythia 12b, 6.9b and 2.8b")
    assert found["parts"][0]["beside"] == ""  # no taxonomy with Code
    of_code = published_view(compare_with_published([figures("Non-Memo, Code, Others", 0.8)]))
    assert of_code is not None
    assert "the 16 taxonomies with Code divide otherwise" in of_code["parts"][0]["beside"]
    assert sum("Code" in one.published_name for one in catalogue()) == 16
    assert "code-natural-language-fasttext-classifier" in page_of(published=of_code)
    assert published_view(compare_with_published([])) is None
    assert 'id="published"' not in page_of()
