"""The paper's conclusions hold on its own figures, and planted figures turn each verdict."""

from dataclasses import replace

import numpy as np
import pytest

from mnemoscope.benchmark.published import (
    Measured,
    draw_conclusions,
    pair_errors,
    published_conclusions,
    published_confusions,
    published_rho,
    published_rho_name,
    published_table,
)
from mnemoscope.taxonomy.names import parse_taxonomy

GUESS = "Non-Memo, Guess, Others"
PRASHANTH = "Non-Memo, Recite[5], Reconstruct, Others"
SETTINGS = published_rho().select("Rouge-L", "Rouge-3", "Threshold").rows()


def matrix(n_classes: int, f1: float, size: float = 100.0) -> np.ndarray:
    """Every class with this recall, the errors spread evenly: then F1 is the recall."""
    confusion = np.full((n_classes, n_classes), size * (1 - f1) / (n_classes - 1))
    np.fill_diagonal(confusion, size * f1)
    return confusion


def measured(name: str, f1: float, noise: float | None = None, seed: int = 0) -> Measured:
    """A taxonomy with this F1 everywhere; resamples around it where a noise is given."""
    n_classes = len(name.split(", "))
    draws = None
    if noise is not None:
        values = np.random.default_rng(seed).normal(f1, noise, 400).clip(0, 1)
        draws = np.stack([matrix(n_classes, value) for value in values])
    return Measured(name, f1, matrix(n_classes, f1), draws)


def named(ones: list[Measured]) -> dict[str, Measured]:
    return {one.name: one for one in ones}


def others(f1: float, noise: float | None = None) -> list[Measured]:
    names = ["Reconstruct", "Code", "Recite[5]"]
    return [
        measured(f"Non-Memo, {name}, Others", f1 - 0.01 * place, noise, seed=place + 1)
        for place, name in enumerate(names)
    ]


def sweep(inside: float, slope: float, noise: float | None = None, wobble: float = 0.0):
    """Min-F1 flat from 0.5 up (but for a wobble) and falling by `slope` a tenth below."""
    found = {}
    for place, (rouge_l, rouge_3, rho) in enumerate(SETTINGS):
        value = inside - slope * max(0.0, round(10 * (0.5 - rho)))
        value += wobble * (rho == 0.7)
        name = published_rho_name(rouge_l, rouge_3, rho)
        found[name] = measured(name, value, noise, seed=place)
    return found


def test_all_conclusions_hold_on_the_published_figures() -> None:
    assert [one.verdict for one in published_conclusions()] == ["holds"] * 3


def test_published_figures_of_the_best_are_those_of_the_printed_table() -> None:
    best = published_conclusions()[0]
    printed = sorted(published_table()["min_f1"].to_list())[::-1]
    assert best.figures["min_f1"] == printed[0] / 100
    assert best.figures["rival_min_f1"] == printed[1] / 100
    assert "89.0" in best.reason
    assert "87.7" in best.reason


def test_published_error_of_recite_and_recollect_is_that_of_the_printed_matrix() -> None:
    matrix_of = {one.taxonomy: one.confusion for one in published_confusions()}
    whole = matrix_of[PRASHANTH]
    two = whole[np.ix_([1, 3], [1, 3])]
    wanted = 1 - np.trace(two) / two.sum()
    assert published_conclusions()[1].figures["error"] == pytest.approx(wanted, abs=1e-12)


def test_published_plateau_is_that_of_the_printed_sweep() -> None:
    both = published_rho().filter(published_rho()["Rouge-L"] & published_rho()["Rouge-3"])
    printed = dict(zip(both["Threshold"], both["min_f1"], strict=True))
    inside = [printed[rho] for rho in (0.5, 0.6, 0.7, 0.8, 0.9)]
    figures = published_conclusions()[2].figures
    spread, drop = (figures[f"ROUGE-L or ROUGE-3 {name}"] for name in ("spread", "drop"))
    assert 100 * spread == pytest.approx(max(inside) - min(inside))
    assert 100 * drop == pytest.approx(np.mean(inside) - printed[0.1])


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_setting_of_rho_is_named_as_our_taxonomies_are(setting) -> None:
    name = published_rho_name(*setting)
    assert parse_taxonomy(name).published_name == name


def test_each_pair_error_is_the_share_of_wrong_names_between_the_two() -> None:
    errors = pair_errors(np.array([[8.0, 2, 0], [1, 5, 4], [0, 6, 4]]))
    assert errors[0, 1] == pytest.approx(3 / 16)
    assert errors[1, 2] == pytest.approx(10 / 19)
    assert errors[0, 2] == 0


@pytest.mark.parametrize(
    ("f1", "noise", "verdict"),
    [
        (0.80, 0.001, "holds"),
        (0.70, 0.001, "does not hold"),
        (0.76, 0.05, "cannot be told"),
        (0.76, None, "holds"),
        (0.74, None, "does not hold"),
    ],
)
def test_guess_is_the_best_where_its_lead_is_beyond_the_noise(f1, noise, verdict) -> None:
    catalogue = named([measured(GUESS, f1, noise), *others(0.75, noise)])
    assert draw_conclusions(catalogue, {})[0].verdict == verdict


def test_a_name_that_shares_the_figures_of_the_best_is_no_rival_of_it() -> None:
    best = measured(GUESS, 0.9, 0.001)
    alias = replace(best, name="Non-Memo, Recite[50]-or-Guess, Others", trained_as=GUESS)
    rivals = others(0.75, 0.001)
    found = draw_conclusions(named([best, alias, *rivals]), {})[0]
    assert found.verdict == "holds"
    assert found.figures["n"] == 1 + len(rivals)
    assert alias.name not in found.reason


def test_among_equals_the_best_by_chance_is_not_called_better() -> None:
    """Eighteen taxonomies of one true F1: whatever leads, leads by noise; 95 % bounds."""
    generator = np.random.default_rng(7)
    verdicts = []
    for trial in range(100):
        f1 = generator.normal(0.5, 0.03, 18)
        names = [GUESS, *(f"Non-Memo, Recite[{limit}], Others" for limit in range(1, 18))]
        ones = [
            measured(name, value, 0.03, seed=100 * trial + place)
            for place, (name, value) in enumerate(zip(names, f1, strict=True))
        ]
        verdicts.append(draw_conclusions(named(ones), {})[0].verdict)
    # 2.5 % each way are expected; 9 of 100 has a chance below 0.1 % then.
    assert verdicts.count("does not hold") <= 8
    assert verdicts.count("holds") <= 8


def test_few_taxonomies_or_none_cannot_tell_the_best() -> None:
    few = named([measured(GUESS, 0.9, 0.001), *others(0.5, 0.001)[:2]])
    without = named(others(0.5, 0.001))
    for catalogue in ({}, without, few, named([measured(GUESS, 0.9)])):
        assert draw_conclusions(catalogue, {})[0].verdict == "cannot be told"


def prashanth(confused: tuple[int, int], error: float, noise: float | None) -> Measured:
    """Prashanth et al.'s taxonomy with one pair of classes confused, the others hardly."""
    generator = np.random.default_rng(0)

    def one(share: float) -> np.ndarray:
        counts = np.full((4, 4), 1.0)
        np.fill_diagonal(counts, 97.0)
        for a, b in (confused, confused[::-1]):
            counts[a, b], counts[a, a] = 98 * share, 98 * (1 - share)
        return counts

    draws = None
    if noise is not None:
        draws = np.stack([one(value) for value in generator.normal(error, noise, 300)])
    return Measured(PRASHANTH, 0.5, one(error), draws)


@pytest.mark.parametrize(
    ("confused", "error", "noise", "verdict"),
    [
        ((1, 3), 0.2, 0.01, "holds"),
        ((1, 3), 0.2, None, "holds"),
        ((2, 3), 0.2, 0.01, "does not hold"),
        ((1, 3), 0.02, 0.02, "cannot be told"),
    ],
)
def test_recite_and_recollect_are_held_against_every_other_pair(
    confused, error, noise, verdict
) -> None:
    found = draw_conclusions(named([prashanth(confused, error, noise)]), {})[1]
    assert found.verdict == verdict


def test_guessing_between_the_two_is_said() -> None:
    found = draw_conclusions(named([prashanth((1, 3), 0.5, 0.02)]), {})[1]
    assert "no better than by guessing" in found.reason
    found = draw_conclusions(named([prashanth((1, 3), 0.2, 0.02)]), {})[1]
    assert "no better than by guessing" not in found.reason


def test_without_their_taxonomy_recite_and_recollect_cannot_be_told() -> None:
    assert draw_conclusions(named(others(0.7)[:2]), {})[1].verdict == "cannot be told"


@pytest.mark.parametrize(
    ("inside", "slope", "noise", "wobble", "verdict"),
    [
        (0.85, 0.03, 0.002, 0.0, "holds"),
        (0.85, 0.03, None, 0.01, "holds"),
        (0.85, 0.03, 0.002, 0.10, "does not hold"),
        (0.70, -0.03, 0.002, 0.0, "does not hold"),
        (0.85, 0.0, 0.02, 0.0, "cannot be told"),
        (0.85, 0.02, 0.05, 0.0, "cannot be told"),
    ],
)
def test_a_plateau_is_flat_inside_and_falls_below(inside, slope, noise, wobble, verdict) -> None:
    found = draw_conclusions({}, sweep(inside, slope, noise, wobble))[2]
    assert found.verdict == verdict, found.reason


def test_a_sweep_of_one_measure_cannot_speak_for_all() -> None:
    whole = sweep(0.85, 0.03, 0.002)
    both = {published_rho_name(True, True, rho) for rho in np.arange(1, 10) / 10}
    part = {name: one for name, one in whole.items() if name in both}
    found = draw_conclusions({}, part)[2]
    assert found.verdict == "cannot be told"
    assert "holds" in found.reason
    few = {name: one for name, one in part.items() if "0.5" not in name and "0.6" not in name}
    assert "too few" in draw_conclusions({}, dict(list(few.items())[:4]))[2].reason
