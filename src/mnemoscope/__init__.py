"""How a language model memorized what it repeats: guessed or recalled, and where it shows.

In a notebook:

    import mnemoscope as ms

    study = ms.run(ms.demo_settings(), "demo")   # or ms.Study("demo") for one that is there
    study.sequences                               # a Polars frame, with all columns so far
    study.benchmark                               # one row a taxonomy and source
    ms.benchmark_figure(study)                    # pictures (SVG) show themselves
    ms.analyze(study, "length").frames            # a neighbouring analysis: its tables
    ms.audit("embedded", "docs/", "audit").spans  # passages of documents that a model repeats
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnemoscope.version import __version__ as __version__

if TYPE_CHECKING:
    from mnemoscope.audits.library import audit
    from mnemoscope.flow.analyze import analyze
    from mnemoscope.flow.run import demo_settings, run, run_stage
    from mnemoscope.lm.graft import graft_parts, grafted, patched
    from mnemoscope.progress import show_progress
    from mnemoscope.report.notebook import (
        allocation,
        allocation_figure,
        benchmark_figure,
        compare,
        conclusions,
        decisiveness,
        delta_figure,
        graft_figure,
        layer_profile_figure,
        together,
    )
    from mnemoscope.study.folder import Study
    from mnemoscope.study.settings import StudySettings, load_settings
    from mnemoscope.training.history import read_history
    from mnemoscope.training.watch import MemorizationCallback, MemorizationWatch, make_canaries
    from mnemoscope.training.windows import WatchedWindows

__all__ = [
    "MemorizationCallback",
    "MemorizationWatch",
    "Study",
    "StudySettings",
    "WatchedWindows",
    "allocation",
    "allocation_figure",
    "analyze",
    "audit",
    "benchmark_figure",
    "compare",
    "conclusions",
    "decisiveness",
    "delta_figure",
    "demo_settings",
    "graft_figure",
    "graft_parts",
    "grafted",
    "layer_profile_figure",
    "load_settings",
    "make_canaries",
    "patched",
    "read_history",
    "run",
    "run_stage",
    "show_progress",
    "together",
]

_WHERE = {
    "Study": "study.folder",
    "StudySettings": "study.settings",
    "load_settings": "study.settings",
    "show_progress": "progress",
    "analyze": "flow.analyze",
    "audit": "audits.library",
    "demo_settings": "flow.run",
    "run": "flow.run",
    "run_stage": "flow.run",
    "graft_parts": "lm.graft",
    "grafted": "lm.graft",
    "patched": "lm.graft",
    "MemorizationCallback": "training.watch",
    "MemorizationWatch": "training.watch",
    "WatchedWindows": "training.windows",
    "make_canaries": "training.watch",
    "read_history": "training.history",
}


def __getattr__(name: str) -> Any:
    """Resolve a name of `__all__` on first use, so that importing loads nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module 'mnemoscope' has no attribute '{name}'")
    return getattr(import_module(f"mnemoscope.{_WHERE.get(name, 'report.notebook')}"), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return [*__all__, "__version__"]
