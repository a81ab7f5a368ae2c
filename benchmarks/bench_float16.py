"""What float16 in the store and bfloat16 in training move: differences in maps, and in min-F1.

Run: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_float16.py [SEQUENCES_A_CLASS] [SEEDS]

The embedded model and its shipped sequences; classes Non-Memo (with the model's own continuation)
and memorized. The same CNN (preset small) on the same maps, once as stored, once as captured, and
once as stored with `train.precision: bfloat16`; CPU seconds of either number format.
"""

import numpy as np
import torch

from benchmarks.bench_windows import processor
from benchmarks.given import given
from benchmarks.measured import Spent, spent
from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.presets import PRESETS, CnnSetting, Precision
from mnemoscope.cnn.training import Wanted, predict_logits, train_cnns
from mnemoscope.data.table import read_table, token_matrix
from mnemoscope.embedded import model_path, sequences_path
from mnemoscope.lm.attention import capture_pooled
from mnemoscope.lm.continue_ import continue_sequences
from mnemoscope.lm.load import load_model
from mnemoscope.lm.model import LanguageModel
from mnemoscope.maps.triangle import pack_triangle
from mnemoscope.maps.views import TensorMaps

SETTING = CnnSetting(6, 10, "mean")


class Float32Maps(TensorMaps):
    """Maps that were never rounded to float16."""

    def __init__(self, packed: torch.Tensor) -> None:
        super().__init__(packed)
        self._packed = packed.detach()


def classes_of(lm: LanguageModel, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Shown tokens and labels: n memorized, n not and shown with the model's continuation."""
    tokens = token_matrix(read_table(sequences_path()).sample(8 * n, seed=0))
    found = list(continue_sequences(lm, tokens, batch_size=64))
    score = np.concatenate([one.score for one in found])
    own = tokens.copy()
    own[:, 32:] = np.concatenate([one.tokens for one in found])
    memorized, others = np.flatnonzero(score == 1)[:n], np.flatnonzero(score < 1)[:n]
    n_each = min(len(memorized), len(others))
    shown = np.concatenate([tokens[memorized[:n_each]], own[others[:n_each]]])
    return shown, np.repeat([1, 0], n_each)


def score(
    maps: TensorMaps,
    rows: np.ndarray,
    labels: np.ndarray,
    seed: int,
    precision: Precision = "float32",
) -> tuple[float, Spent]:
    """Min-F1 on the last third of a CNN trained on the rest, and what training took."""
    cut = 2 * len(rows) // 3
    chosen = [type(maps)(maps.read(torch.from_numpy(part))) for part in (rows[:cut], rows[cut:])]
    taken, (trained,) = spent(
        lambda: train_cnns(
            chosen[0],
            [Wanted(torch.from_numpy(labels[rows[:cut]]), SETTING, seed)],
            n_classes=2,
            preset=PRESETS["small"],
            precision=precision,
        )
    )
    predicted = predict_logits(trained, chosen[1]).argmax(dim=1).numpy()
    return min_f1(confusion_matrix(labels[rows[cut:]], predicted, 2)), taken


def main() -> None:
    n, n_seeds = given(__doc__, sequences=120, seeds=2)
    seeds = range(n_seeds)
    lm = load_model(model_path())
    shown, labels = classes_of(lm, n)
    batches = list(capture_pooled(lm, shown, batch_size=64))
    packed = pack_triangle(torch.cat([one.mean for one in batches]))
    largest = pack_triangle(torch.cat([one.max for one in batches]))
    rows = np.random.default_rng(0).permutation(len(labels))
    print(processor())
    print(f"{len(labels)} sequences, half of them memorized; maps of {lm.n_layers} layers")
    for name, one in (("mean", packed), ("max", largest)):
        error = (one - one.half().float()).abs()
        print(f"float32 against float16, {name}: largest difference {error.max():.2g}")
    for seed in seeds:
        stored, taken = score(TensorMaps(packed), rows, labels, seed)
        exact, _ = score(Float32Maps(packed), rows, labels, seed)
        rounded, other = score(TensorMaps(packed), rows, labels, seed, "bfloat16")
        print(
            f"min-F1, seed {seed}: as stored {stored:.4f}, float32 maps {exact:.4f}, "
            f"bfloat16 steps {rounded:.4f} ({taken.seconds:.1f} s, {other.seconds:.1f} s; "
            f"{taken.megabytes:.0f} and {other.megabytes:.0f} MB more)",
            flush=True,
        )


if __name__ == "__main__":
    main()
