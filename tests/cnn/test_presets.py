"""The preset `paper` and the grid are the paper's; `small` makes the steps it promises."""

from itertools import product

from mnemoscope.cnn.presets import PAPER_GRID, PRESETS


def test_grid_and_preset_are_kept_to_the_papers_letter() -> None:
    grid = {(setting.kernel, setting.filters, setting.pooling) for setting in PAPER_GRID}
    assert grid == set(product((6, 8), (10, 16), ("mean", "max")))
    assert len(PAPER_GRID) == len({setting.slug for setting in PAPER_GRID}) == 8
    paper = PRESETS["paper"]
    assert (paper.epochs, paper.min_steps, paper.batch_size) == (3, 0, 16)
    assert (paper.learning_rate, paper.weight_decay, paper.dropout) == (1e-3, 0.1, 0.5)
    assert (paper.schedule, paper.scaling, paper.scores_every_epoch) == ("constant", "raw", True)
    for n_classes, n_steps in ((3, 2_250), (4, 3_000)):  # published
        assert paper.n_epochs(4_000 * n_classes) * 4_000 * n_classes / 16 == n_steps


def test_small_makes_at_least_800_steps() -> None:
    small = PRESETS["small"]
    for n_maps in (16, 100, 333, 1_000, 5_000):
        assert small.n_epochs(n_maps) * -(-n_maps // small.batch_size) >= 800
        assert small.n_epochs(n_maps) >= small.epochs
