"""Trainings that share one fitted scaling against trainings that each fit their own.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_scaling.py [MAPS LAYERS TRAININGS]

CPU seconds of the scaling alone, for so many trainings on the same maps (settings, seeds and the
control task), beside one whole training with the preset `small`; all in one run.
"""

import time

import torch

from benchmarks.bench_windows import processor
from benchmarks.given import given
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
    began = time.process_time()
    scalings = [fit_scaling(maps, preset) for _ in range(n_trainings)]
    each = time.process_time() - began
    began = time.process_time()
    shared = fit_scaling(maps, preset)
    once = time.process_time() - began
    setting = CnnSetting(6, 10, "mean")
    trained, seconds = [], []
    for scaling in (None, shared):
        began = time.process_time()
        (found,) = train_cnns(
            maps, [Wanted(labels, setting, 0)], n_classes=3, preset=preset, scaling=scaling
        )
        seconds.append(time.process_time() - began)
        trained.append(pack_cnn(found))
    assert all(torch.equal(one.mean, shared.mean) for one in scalings)  # type: ignore[arg-type]
    print(f"{processor()}; {n_maps} maps of {n_layers} layers, {n_trainings} trainings")
    print(f"scaling once a training: {each:.2f} s, once for all: {once:.2f} s ({each / once:.1f})")
    print(f"one training: {seconds[0]:.2f} s with its own, {seconds[1]:.2f} s with the shared")
    print(f"weights equal, byte for byte: {trained[0] == trained[1]}")


if __name__ == "__main__":
    main()
