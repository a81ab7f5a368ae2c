"""Trainings that share one fitted scaling against trainings that each fit their own.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_scaling.py [MAPS LAYERS TRAININGS]

CPU seconds of the scaling alone, for so many trainings on the same maps (settings, seeds and the
control task), beside one whole training with the preset `small`; all in one run.
"""

from functools import partial

import torch

from benchmarks.bench_windows import processor
from benchmarks.given import given
from benchmarks.measured import spent
from mnemoscope.cnn.inputs import fit_scaling
from mnemoscope.cnn.presets import PRESETS, CnnSetting
from mnemoscope.cnn.training import Wanted, pack_cnn, train_cnns
from mnemoscope.maps.triangle import pack_triangle
from mnemoscope.maps.views import TensorMaps


def main() -> None:
    n_maps, n_layers, n_trainings = given(__doc__, n_maps=900, n_layers=4, n_trainings=9)
    weights = torch.rand(n_maps, n_layers, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = TensorMaps(pack_triangle((weights / 32).tril()).half())
    labels, preset = torch.arange(n_maps) % 3, PRESETS["small"]
    each, scalings = spent(lambda: [fit_scaling(maps, preset) for _ in range(n_trainings)])
    once, shared = spent(lambda: fit_scaling(maps, preset))
    setting = CnnSetting(6, 10, "mean")
    trained, took = [], []
    for scaling in (None, shared):
        took_one, (found,) = spent(
            partial(
                train_cnns,
                maps,
                [Wanted(labels, setting, 0)],
                n_classes=3,
                preset=preset,
                scaling=scaling,
            )
        )
        took.append(took_one)
        trained.append(pack_cnn(found))
    assert all(torch.equal(one.mean, shared.mean) for one in scalings)  # type: ignore[arg-type]
    print(f"{processor()}; {n_maps} maps of {n_layers} layers, {n_trainings} trainings")
    print(
        f"scaling once a training: {each.seconds:.2f} s, {each.megabytes:.0f} MB more; once for "
        f"all: {once.seconds:.2f} s, {once.megabytes:.0f} MB ({each.seconds / once.seconds:.1f})"
    )
    for whose, one in zip(("its own", "the shared"), took, strict=True):
        print(f"one training with {whose}: {one.seconds:.2f} s, {one.megabytes:.0f} MB more")
    print(f"weights equal, byte for byte: {trained[0] == trained[1]}")


if __name__ == "__main__":
    main()
