"""Tables of the paper to the letter, on made-up results: what is counted, of how many, and how."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments.letter.run import summed
from experiments.letter.tables import PAGE, tables

PAPER = "Non-Memo, Guess, Others"
NAMES = [PAPER, "B, Others", "C, Others", "D, Others", "E, Others"]
WRITTEN = [0.50, 0.46, 0.30, 0.25, 0.41]
OURS = "Non-Memo, Recite[50], Reconstruct, Others"


def run_of(values, *, untrained=0, best="holds", names=NAMES, maxima=None):
    """One seed of a variant, with min-F1 in the order of `names`."""
    parts = {"mean": dict(zip(names, values, strict=True))}
    if maxima is not None:
        parts["max"] = dict(zip(names, maxima, strict=True))
    figures = {
        "min_f1": dict(zip(names, values, strict=True)),
        "conclusions": {"best": best, "confused": "does not hold", "few-shot": "cannot be told"},
    }
    return {
        "classes": ["Non-Memo", "Guess", "Recall"],
        "profiles": {"as_run": [[0.5, 1.0]] * 3, "correct": [[0.4, 1.0]] * 3},
        "cnns": 40,
        "untrained": untrained,
        "seconds": 1,
        "sequences": {name: [10, 5] for name in names},
        "parts": parts,
        "every": figures,
        "trained": figures,
    }


@pytest.fixture
def found():
    first = [0.48, 0.40, 0.30, 0.20, 0.45]
    second = [0.52, 0.44, 0.30, 0.20, 0.41]
    return {
        "impossible": ["Non-Memo, Recite[5], Reconstruct, Others"],
        "variants": {
            "as run": [run_of(first, untrained=3), run_of(second, best="does not hold")],
            "as run, by group": [run_of(WRITTEN), run_of(WRITTEN[::-1])],
            "as written": [
                run_of(WRITTEN, maxima=sorted(WRITTEN)),
                run_of(WRITTEN, maxima=WRITTEN),
            ],
            "ours": [
                run_of([0.6, 0.5], names=[PAPER, OURS]),
                run_of([0.7, 0.6], names=[PAPER, OURS]),
            ],
        },
    }


def cells(text):
    """Rows of a table by their first cell."""
    rows = [line.strip("| \n").split(" | ") for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_figures_are_means_with_their_range_and_say_of_how_many(found) -> None:
    made = tables(found)
    rows = cells(made[PAGE, "findings"])
    assert rows["min-F1 of Guess or Recall, % (published 89.0)"][0] == "50.0 [48.0, 52.0]"
    of = "of 27 (34 names)"
    said = [f"{n} {of}; 2 seeds" for n in (5, 5, 5, 5, 2)]
    assert rows["taxonomies measured, with how many seeds"] == said
    assert rows["CNNs"] == ["80", "77", "80", "80", "80"]
    assert rows["Guess or Recall is the best of all: with how many seeds"][0] == (
        "holds (1 of 2; 5 taxonomies); does not hold (1 of 2; 5 taxonomies)"
    )
    runs = found["variants"]["as run"]
    values = [list(one["every"]["min_f1"].values()) for one in runs]
    wanted = [spearmanr(one, WRITTEN).statistic for one in values]
    order = rows["order of the taxonomies: Spearman with as run"]
    by_seed = rows["order: Spearman between trainings with two seeds"]
    for column, pair in ((0, values), (2, (WRITTEN, WRITTEN[::-1]))):
        said = f"{spearmanr(*pair).statistic:.2f} of 5 taxonomies"
        assert by_seed[column] == said.replace("-", "−")
    by_pooling = rows["order: Spearman between CNNs over the mean and over the maximum"]
    least = spearmanr(WRITTEN, sorted(WRITTEN)).statistic
    said = f"{(least + 1) / 2:.2f} [{least:.2f}, 1.00] of 5 taxonomies".replace("-", "−")
    assert by_pooling == ["–", "–", "–", said, "–"]
    assert order[0] == "–"
    ends = f"{np.mean(wanted):.2f} [{min(wanted):.2f}, {max(wanted):.2f}]"
    assert order[3] == f"{ends} of 5 taxonomies"
    assert "3 of 80 as run" in made[PAGE, "lines"]
    assert "largest difference of a layer's profile 0.10" in made[PAGE, "lines"]
    assert cells(made[PAGE, "profile"])["Guess"] == [
        "0.50, 1.00",
        "0.40, 1.00",
        "0.50, 1.00",
        "0.50, 1.00",
        "0.40, 1.00",
    ]
    more = np.array(WRITTEN) - np.mean(values, axis=0)
    said = f"{100 * more.mean():.1f} [{100 * more.min():.1f}, {100 * more.max():.1f}]".replace(
        "-", "−"
    )
    assert (
        rows["min-F1 less that of as run, points"][3] == f"{said}, mean and range of 5 taxonomies"
    )


def test_what_cannot_be_asked_here_is_no_gap_of_the_measurement(found) -> None:
    made = tables(found)
    rows = cells(made[PAGE, "findings"])
    assert set(rows["min-F1 of Prashanth et al. at δ = 5, % (published 64.7)"]) == {
        "cannot be trained here"
    }
    at_50 = rows["min-F1 of Prashanth et al. at δ = 50, %"]
    assert at_50[0] == "not measured"
    assert at_50[-1] == "55.0 [50.0, 60.0]"
    order = rows["order of the taxonomies: Spearman with as run"]
    assert order[-1] == "cannot be said: fewer than 4 taxonomies in common"
    assert "not measured" in tables({})[PAGE, "findings"]


def test_cnns_that_did_not_train_are_summed_apart() -> None:
    def part(name, every, trained, untrained):
        return {
            "taxonomy": name,
            "classes": ["Non-Memo", "Guess", "Recall"],
            "n_train": 10,
            "n_eval": 5,
            "cnns": 8,
            "untrained": untrained,
            "seconds": 1.0,
            "every": every,
            "parts": {"mean": every},
            "trained": trained,
            "profiles": {},
        }

    right, none = [[10, 0], [0, 10]], [[0, 0], [0, 0]]
    half = [[15, 5], [5, 15]]
    facts = summed([part("A", half, right, 4), part("B", half, none, 8)])
    assert facts["every"]["min_f1"] == {"A": 0.75, "B": 0.75}
    assert facts["trained"]["min_f1"] == {"A": 1.0}  # of B none trained
    assert (facts["cnns"], facts["untrained"]) == (16, 12)
    assert facts["sequences"] == {"A": [10, 5], "B": [10, 5]}
