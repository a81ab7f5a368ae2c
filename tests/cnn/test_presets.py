"""The preset `paper` and the grid are the paper's; `small` makes the steps it promises."""

from itertools import product

import pytest

from mnemoscope.cnn.presets import PAPER_GRID, PRESETS, get_preset
from mnemoscope.errors import UserError


def test_the_grid_is_every_combination_once() -> None:
    grid = {(setting.kernel, setting.filters, setting.pooling) for setting in PAPER_GRID}
    assert grid == set(product((6, 8), (10, 16), ("mean", "max")))
    assert len(PAPER_GRID) == 8
    assert len({setting.slug for setting in PAPER_GRID}) == 8


def test_paper_is_kept_to_the_letter() -> None:
    paper = get_preset("paper")
    assert (paper.epochs, paper.min_steps, paper.batch_size) == (3, 0, 16)
    assert (paper.learning_rate, paper.weight_decay, paper.dropout) == (1e-3, 0.1, 0.5)
    assert (paper.schedule, paper.scaling, paper.scores_every_epoch) == ("constant", "raw", True)


@pytest.mark.parametrize(("n_classes", "n_steps"), [(3, 2_250), (4, 3_000)])
def test_paper_makes_the_published_number_of_steps(n_classes: int, n_steps: int) -> None:
    n_maps = 4_000 * n_classes
    assert PRESETS["paper"].n_epochs(n_maps) * n_maps / 16 == n_steps


@pytest.mark.parametrize("n_maps", [16, 100, 333, 1_000, 5_000])
def test_small_makes_at_least_800_steps(n_maps: int) -> None:
    small = PRESETS["small"]
    assert small.n_epochs(n_maps) * -(-n_maps // small.batch_size) >= 800
    assert small.n_epochs(n_maps) >= small.epochs


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'paper'"):
        get_preset("papers")
