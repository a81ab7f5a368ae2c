"""Regions named in numbers: planted Δ is found where it was put, against counts made by hand."""

import numpy as np
import pytest

from mnemoscope.localize.delta import find_regions, region_sentence

N_LAYERS, LENGTH = 6, 16
NOTHING = np.zeros((LENGTH, LENGTH))


def shares(delta, copies=NOTHING, **options):
    return {one.name: one for one in find_regions(delta, copies, **options)}


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ((0, 3, 0), ["first third of the layers", "prefix → prefix", "first token", "layer 1"]),
        ((2, 12, 2), ["middle third of the layers", "suffix → prefix", "layer 3"]),
        ((5, 15, 14), ["last third of the layers", "suffix → suffix", "layer 6"]),
    ],
)
def test_one_edge_lies_in_its_regions_alone(place, names):
    delta = np.zeros((N_LAYERS, LENGTH, LENGTH), np.float32)
    delta[place] = 0.4
    near = ["near the diagonal (|q−k| ≤ 4)"] if place[1] - place[2] <= 4 else []
    found = shares(delta)
    assert {name for name, one in found.items() if one.share == 1} == {*names, *near}
    assert {one.share for one in found.values()} == {0.0, 1.0}


def test_an_even_delta_has_every_region_at_its_even_share():
    delta = np.broadcast_to(np.tri(LENGTH), (N_LAYERS, LENGTH, LENGTH))
    copies = np.random.default_rng(0).random((LENGTH, LENGTH))
    found = shares(delta, copies)
    assert found == shares(np.ones_like(delta), copies)  # above the diagonal nothing counts
    for one in found.values():
        assert one.share == pytest.approx(one.even)
        assert one.ratio == pytest.approx(1)
    n = LENGTH * (LENGTH + 1) / 2
    assert found["first token"].even == pytest.approx(LENGTH / n)
    assert found["suffix → prefix"].even == pytest.approx(8 * 8 / n)
    assert found["near the diagonal (|q−k| ≤ 4)"].even == pytest.approx((5 * 16 - 10) / n)


def test_copies_count_by_their_sequences_and_channels_are_named_in_place_of_layers():
    delta = np.zeros((2, LENGTH, LENGTH))
    delta[1, 9, 4] = delta[1, 10, 5] = 1.0
    copies = NOTHING.copy()
    copies[9, 4] = 0.5
    assert shares(delta, copies)["copy diagonals"].share == 0.25
    found = shares(delta, channels=("same token earlier", "after the same token"))
    assert found["after the same token"].share == 1
    assert found["same token earlier"].even == 0.5
    assert not [name for name in found if "layer" in name]


def test_the_sentence_names_what_is_much_and_what_is_little():
    delta, even = np.zeros((N_LAYERS, LENGTH, LENGTH)), np.tri(LENGTH)[None].repeat(N_LAYERS, 0)
    nothing = region_sentence("Guess", find_regions(delta, NOTHING))
    delta[5, 12, 0] = 1.0
    said = region_sentence("Recall", find_regions(delta, NOTHING))
    assert "“last third of the layers” (100.0% where an even spread gives 33.3%)" in said
    for words, sentence in (
        ("much of Δ lies in “first token”", said),
        ("little in", said),
        ("about evenly", region_sentence("Guess", find_regions(even, np.tri(LENGTH)))),
        ("no Δ", nothing),
    ):
        assert words in sentence
