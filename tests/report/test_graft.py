"""The page shows what parts of the reference break of each class, and says what that allows."""

from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest

from mnemoscope.pipeline.graft import _SCORES, _SPECIFICITY, graft_statements
from mnemoscope.report.content import graft_of
from mnemoscope.report.tables import graft_tables
from mnemoscope.study.settings import StudySettings

TAXONOMY = "Non-Memo, Guess, Recall"
PARTS = ("layers.0.qk", "layers.3.mlp")
SURVIVE = {
    "Guess": {"twin": 0.78, "random": 0.9, "shuffled": 0.7},
    "Recall": {"twin": 0.04, "random": 0.44, "shuffled": 0.24},
}
EVERY = {"taxonomy": TAXONOMY, "draw": 0, "share": 1.0, "n": 250, "n_groups": 120}


def graft_rows():
    for name, shares in SURVIVE.items():
        for control, share in shares.items():
            for part in PARTS:
                yield EVERY | {
                    **{"class": name, "part": part, "control": control},
                    **{"direction": "twin_in_model", "survive": share, "low": share - 0.03},
                    **{"high": share + 0.03, "heldout_loss": 3.4},
                }
    for part, share in (("", 0.0), ("layers.3.mlp", 0.015)):
        yield EVERY | {
            **{"class": "Recall", "part": part, "control": "twin", "survive": share},
            **{"direction": "model_in_twin", "low": 0.0, "high": 0.03, "heldout_loss": 3.5},
        }


def score(**changes):
    row = {
        **{"taxonomy": TAXONOMY, "n_classes": 2, "n_groups": 120, "draws": 3, "score": 0.38},
        **{"low": 0.27, "high": 0.49, "permuted": 0.02, "permuted_high": 0.15, "p_value": 0.005},
        **{"imbalance": 0.05, "agreement": 1.0, "differs": True},
        **{"by_logprob": 0.3, "by_logprob_low": 0.2, "by_logprob_high": 0.4},
        **{"by_logprob_imbalance": 0.05},
        **{"part": "layers.0.qk", "broken": "Recall", "spared": "Guess"},
    }
    return pl.DataFrame([row | changes], schema=_SCORES)


SPECIFIC = pl.DataFrame(
    [
        {
            **{"taxonomy": TAXONOMY, "class": name, "part": part, "lost": 0.3},
            **{"specificity": sign * value, "low": sign * value - 0.1, "high": sign * value + 0.1},
        }
        for name, sign in (("Guess", -1), ("Recall", 1))
        for part, value in zip(PARTS, (0.277, 0.048), strict=True)
    ],
    schema=_SPECIFICITY,
)


@pytest.fixture
def study():
    frames = {
        "graft.parquet": pl.DataFrame(list(graft_rows())),
        "graft_specificity.parquet": SPECIFIC,
        "graft_scores.parquet": score(),
    }
    return SimpleNamespace(
        is_done=lambda stage: stage == "graft",
        manifest=lambda _: {"counts": {"heldout_loss": 3.2}},
        read=frames.__getitem__,
        settings=StudySettings(),
    )


def test_each_part_has_its_classes_beside_the_mean_of_the_controls(
    study, page_of, build_taxonomy, words
):
    html = page_of(replace(build_taxonomy(n_layers=1), graft=graft_of(study, TAXONOMY)))
    text = words(html.split('-graft">')[-1].split("</section>")[0]).replace("\xa0", " ")
    row = text[text.index("layers.0.qk 78.0") :].split("layers.3.mlp")[0]
    assert "78.0 control 80.0" in row
    assert "4.0 control 34.0" in row
    assert "+27.7 [17.7, 37.7]" in row
    assert "+0.20" in row
    assert "Recall comes out most with layers.3.mlp , 1.5" in text
    assert "differ in mechanism" not in words(html)  # equal norm is not equal harm
    rows = html.split('<section id="parts"')[1].split("</section>")[0].split("<tr")[2:]
    assert "queries and keys of layer 0" in words(rows[0])  # which breaks most beyond the controls
    for cell in graft_of(study, TAXONOMY)["rows"][0]["cells"]:
        assert f'class="mark class" cx="{100 * cell["twin"].value:.2f}%"' in rows[0]
        assert f'class="mark class-hollow" cx="{100 * cell["control"]:.2f}%"' in rows[0]


def test_what_activations_break_is_folded_under_the_parts(study, page_of, build_taxonomy, words):
    shares = {
        ("Guess", "all"): (0.5, 0.9),
        ("Recall", "all"): (0.0, 0.8),
        ("Recall", "0-15"): (1.0, 1.0),
    }
    rows = [
        {
            **{"taxonomy": TAXONOMY, "class": name, "part": "layers.0.residual"},
            **{"positions": positions, "direction": direction, "control": control, "draw": draw},
            **{"survive": share, "low": None, "high": None},
        }
        for (name, positions), both in shares.items()
        for control, draw, share in (
            ("twin", 0, both[0]),
            *(("other", at, both[1] - at / 10) for at in (0, 1)),
        )
        for direction in ("twin_in_model", "model_in_twin")
    ]
    frames, read = {"graft_patches.parquet": pl.DataFrame(rows)}, study.read
    study.read = lambda name: frames[name] if name in frames else read(name)
    study.settings.graft.patch = True
    html = page_of(replace(build_taxonomy(n_layers=1), graft=graft_of(study, TAXONOMY)))
    folded = next(
        one for one in html.split("<details>") if one.startswith("<summary>Show activations")
    )
    text = words(folded.split("</details>")[0]).replace("\xa0", " ")
    assert "Guess: all Recall: all Recall: 0-15" in text
    assert "layers.0.residual 50.0 control 85.0 0.0 control 75.0 100.0 control 95.0" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "no verdict on mechanism"),
        ({"draws": 2}, "a verdict needs 3 draws of the controls, there are 2."),
        ({"differs": False}, "no part was found that holds one class more than another"),
        ({"imbalance": 0.3}, "no verdict"),
        ({"differs": False, "by_logprob_imbalance": 0.3}, "no verdict"),
        ({"differs": False, "by_logprob": None, "by_logprob_imbalance": None}, "no verdict"),
        (
            {"differs": False, "by_logprob_imbalance": 0.3, "low": -0.1},
            "no part was found that holds one class more than another",
        ),
        ({"agreement": 0.5}, "the part that divides two classes most, not always the same,"),
    ],
)
def test_the_sentence_says_what_the_figures_allow(changes, words):
    (line,) = graft_statements(score(**changes))
    assert words in line


def test_a_taxonomy_without_a_score_says_nothing_and_has_dashes(study):
    assert not list(graft_statements(score(score=None)))
    (table,) = graft_tables(study)
    assert table.rows[0][:3] == (TAXONOMY, "+38.0", "[27.0,\xa049.0]")
