"""Several models as one give the paper's headline, and refuse what is not of one kind."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from mnemoscope.benchmark.published import published_confusions, published_table
from mnemoscope.benchmark.table import score_together


def three_models(confusion: np.ndarray, seed: int) -> list[np.ndarray]:
    """Three matrices of whole counts that sum to one, split at random cell by cell."""
    generator = np.random.default_rng(seed)
    parts = generator.multinomial(confusion.ravel(), [0.5, 0.3, 0.2])
    return [part.reshape(confusion.shape) for part in parts.T]


@pytest.mark.parametrize("place", range(0, 54, 9))
def test_three_models_that_sum_to_a_published_matrix_give_its_printed_figures(place) -> None:
    published = published_confusions()[place]
    found = score_together(three_models(published.confusion, place))
    assert found["confusion"] == published.confusion.tolist()
    assert round(100 * found["min_f1"], 1) == published.min_f1
    assert round(100 * found["mean_f1"], 1) == published.mean_f1


def test_the_headline_is_the_papers() -> None:
    matrices = {one.taxonomy: one.confusion for one in published_confusions()}
    for name, printed in (
        ("Non-Memo, Guess, Others", 89.0),
        ("Non-Memo, Recite[5], Reconstruct, Others", 64.7),
    ):
        found = score_together(three_models(matrices[name], 7))
        assert round(100 * found["min_f1"], 1) == printed


def test_summed_confusions_are_not_the_mean_of_the_models_figures() -> None:
    """The printed figures of each model average to something else than the printed sum."""
    name = "Non-Memo, Code, Others"
    own = [
        dict(published_table(model).select("tax_name", "min_f1").rows())[name]
        for model in ("12b", "6.9b", "2.8b")
    ]
    whole = dict(published_table("all").select("tax_name", "min_f1").rows())[name]
    assert abs(np.mean(own) - whole) < 3
    # And on matrices where one model errs one way and one the other, by far:
    found = score_together([np.array([[10, 0], [10, 0]]), np.array([[0, 10], [0, 10]])])
    assert found["min_f1"] == pytest.approx(0.5)


def test_figures_are_those_of_scikit_learn_on_all_predictions() -> None:
    generator = np.random.default_rng(0)
    true, predicted, matrices = [], [], []
    for _ in range(3):
        truth, guess = generator.integers(0, 3, (2, 200))
        true.append(truth)
        predicted.append(guess)
        matrices.append(
            np.array([[((truth == a) & (guess == b)).sum() for b in range(3)] for a in range(3)])
        )
    found = score_together(matrices)
    precision, recall, f1, _ = precision_recall_fscore_support(
        np.concatenate(true), np.concatenate(predicted)
    )
    for name, wanted in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert np.allclose(found[name], wanted, atol=1e-12)


def test_intervals_are_quantiles_of_the_summed_resamples() -> None:
    generator = np.random.default_rng(1)
    draws = [generator.uniform(1, 9, (300, 2, 2)) for _ in range(3)]
    found = score_together([np.full((2, 2), 5)] * 3, draws)
    total = draws[0] + draws[1] + draws[2]
    f1 = np.stack(
        [2 * total[:, c, c] / (total[:, c].sum(1) + total[:, :, c].sum(1)) for c in range(2)], 1
    )
    assert found["low"] == pytest.approx(np.quantile(f1.min(1), 0.025))
    assert found["high"] == pytest.approx(np.quantile(f1.min(1), 0.975))
    assert found["mean_f1_low"] == pytest.approx(np.quantile(f1.mean(1), 0.025))


def test_matrices_of_different_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be summed"):
        score_together([np.eye(2), np.eye(3)])
