"""What a run would do, said before it does it: counts, bytes on disk, time."""

import time
from pathlib import Path

import numpy as np

from mnemoscope.config import StudySettings
from mnemoscope.lm.capture import capture_pooled
from mnemoscope.lm.loading import LanguageModel
from mnemoscope.sequences.schema import token_matrix
from mnemoscope.stages.models import Models, reference_name
from mnemoscope.stages.sequences import check_sources
from mnemoscope.study import STAGES, Study, is_study
from mnemoscope.taxonomy.catalogue import load_taxonomies

__all__ = ["plan"]


def plan(settings: StudySettings, folder: Path) -> str:
    """A few lines on what `run` would do; nothing is written.

    Raises:
        UserError: whatever `run` would refuse before it begins.
    """
    models = Models(settings)
    frame = check_sources(settings, models).frame
    model = models.model()
    taxonomies = load_taxonomies(settings.label.taxonomies)
    done = _done(settings, folder)
    n_layers, length = model.n_layers, settings.sequences.length
    bytes_a_map = 2 * n_layers * length * (length + 1) // 2 * 2
    per_class = settings.label.n_train + settings.label.n_eval
    at_most = min(frame.height, sum(per_class * len(one.classes) for one in taxonomies))
    n_sets = 2 if settings.label.match else 1
    grid = settings.train
    n_cnns = len(grid.kernels) * len(grid.filters) * len(grid.poolings) * len(grid.seeds)
    sources = 4 if settings.benchmark.controls else 1
    return "\n".join(
        [
            f"Study {folder} ({'there already' if is_study(folder) else 'new'}).",
            f"Model {settings.model.name}: {n_layers} layers, {model.n_heads} heads, "
            f"{model.dtype} on {model.device}.",
            f"Sequences: {frame.height:,}, each continued by {length // 2} tokens.",
            _time_estimate(model, token_matrix(frame), at_most, settings),
            f"Taxonomies: {len(taxonomies)}, up to {per_class:,} sequences a class.",
            f"Maps: at most {at_most:,} of {bytes_a_map / 1e6:.2f} MB = "
            f"{at_most * bytes_a_map / 1e9:.2f} GB a model (per head it would be "
            f"{at_most * n_layers * model.n_heads * length * length * 2 / 1e9:.1f} GB).",
            f"CNNs: at most {len(taxonomies) * n_sets * n_cnns * sources:,} "
            f"({n_cnns} a taxonomy and source).",
            "Stages to run: " + (", ".join(s.name for s in STAGES if s.name not in done) or "none"),
        ]
    )


def _time_estimate(
    model: LanguageModel, tokens: np.ndarray, n_maps: int, settings: StudySettings
) -> str:
    """Time one forward pass with capture here, and count with it."""
    sample = tokens[: settings.model.batch_size]
    for _ in range(2):  # the first pass warms up
        started = time.perf_counter()
        for _ in capture_pooled(model, sample, batch_size=settings.model.batch_size):
            pass
    seconds = (time.perf_counter() - started) / len(sample)
    n_models = 2 if reference_name(settings) else 1
    total = seconds * (2 * len(tokens) + n_models * n_maps)
    return (
        f"Time: about {total / 60:.1f} min for continuation and capture on this machine "
        f"({1000 * seconds:.1f} ms a forward pass and sequence); the CNNs come on top."
    )


def _done(settings: StudySettings, folder: Path) -> set[str]:
    """Stages that would be left as they are."""
    if not is_study(folder):
        return set()
    study = Study(folder)
    study.settings = settings
    return {stage.name for stage in STAGES if study.is_done(stage.name)}
