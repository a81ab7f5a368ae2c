"""What a run would do, said before it does it: counts, bytes on disk, forward passes."""

from pathlib import Path

from mnemoscope.config import StudySettings
from mnemoscope.stages.models import Models
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
            f"Taxonomies: {len(taxonomies)}, up to {per_class:,} sequences a class.",
            f"Maps: at most {at_most:,} of {bytes_a_map / 1e6:.2f} MB = "
            f"{at_most * bytes_a_map / 1e9:.2f} GB a model (per head it would be "
            f"{at_most * n_layers * model.n_heads * length * length * 2 / 1e9:.1f} GB).",
            f"CNNs: at most {len(taxonomies) * n_sets * n_cnns * sources:,} "
            f"({n_cnns} a taxonomy and source).",
            "Stages to run: " + (", ".join(s.name for s in STAGES if s.name not in done) or "none"),
        ]
    )


def _done(settings: StudySettings, folder: Path) -> set[str]:
    """Stages that would be left as they are."""
    if not is_study(folder):
        return set()
    study = Study(folder)
    study.settings = settings
    return {stage.name for stage in STAGES if study.is_done(stage.name)}
