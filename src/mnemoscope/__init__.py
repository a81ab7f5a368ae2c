"""How a language model memorized what it repeats: guessed or recalled, and where it shows.

In a notebook:

    import mnemoscope as ms

    windows = ms.windows(texts, tokenizer)        # texts cut into 32 + 32 tokens
    windows = ms.scan(model, windows)             # which of them does the model reproduce
    windows = ms.classify(windows, "Non-Memo, Guess, Recall")
    maps = ms.capture(model, windows)             # its attention, pooled over heads
    reader = ms.fit(maps, windows["class"], groups=windows["group"])
    blind = ms.fit_blind(windows)                 # the text alone, which needs no memory
    ms.excess({"model": reader, "blind": blind})

    ms.audit(model, {"chapter 1": text})          # passages that the model repeats
    study = ms.run(model, texts, "study")         # all of it, in one folder, resumable
    study.excess(), study.report()

A model is a name, a path, or one that is loaded; so are texts. Mistakes are `ms.UserError`.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnemoscope.version import __version__ as __version__

if TYPE_CHECKING:
    from mnemoscope.audits.library import Audit, audit
    from mnemoscope.contamination.found import Items
    from mnemoscope.contamination.run import items
    from mnemoscope.errors import DamagedDataError, MnemoscopeError, NoRoomError, UserError
    from mnemoscope.flow.analyze import analyze
    from mnemoscope.flow.run import demo_settings, run_stage
    from mnemoscope.flow.study import Study, run
    from mnemoscope.forgetting.run import Forgetting, forget
    from mnemoscope.library.maps import Maps, capture
    from mnemoscope.library.membership import Membership, membership
    from mnemoscope.library.reader import Excess, Reader, excess, fit, fit_blind
    from mnemoscope.library.sequences import classify, scan, windows
    from mnemoscope.lm.graft import graft_parts, grafted, patched_activations
    from mnemoscope.progress import show_progress
    from mnemoscope.report.notebook import (
        allocation_figure,
        benchmark_figure,
        delta_figure,
        graft_figure,
        layer_profile_figure,
    )
    from mnemoscope.stats import Estimate
    from mnemoscope.study.settings import StudySettings, load_settings
    from mnemoscope.training.callback import MemorizationCallback
    from mnemoscope.training.history import read_history
    from mnemoscope.training.watch import MemorizationWatch, make_canaries
    from mnemoscope.training.windows import WatchedWindows

__all__ = [
    "Audit",
    "DamagedDataError",
    "Estimate",
    "Excess",
    "Forgetting",
    "Items",
    "Maps",
    "Membership",
    "MemorizationCallback",
    "MemorizationWatch",
    "MnemoscopeError",
    "NoRoomError",
    "Reader",
    "Study",
    "StudySettings",
    "UserError",
    "WatchedWindows",
    "allocation_figure",
    "analyze",
    "audit",
    "benchmark_figure",
    "capture",
    "classify",
    "delta_figure",
    "demo_settings",
    "excess",
    "fit",
    "fit_blind",
    "forget",
    "graft_figure",
    "graft_parts",
    "grafted",
    "items",
    "layer_profile_figure",
    "load_settings",
    "make_canaries",
    "membership",
    "patched_activations",
    "read_history",
    "run",
    "run_stage",
    "scan",
    "show_progress",
    "windows",
]

_WHERE = {
    "Audit": "audits.library",
    "audit": "audits.library",
    "Items": "contamination.found",
    "items": "contamination.run",
    "DamagedDataError": "errors",
    "MnemoscopeError": "errors",
    "NoRoomError": "errors",
    "UserError": "errors",
    "analyze": "flow.analyze",
    "demo_settings": "flow.run",
    "run_stage": "flow.run",
    "Study": "flow.study",
    "run": "flow.study",
    "Forgetting": "forgetting.run",
    "forget": "forgetting.run",
    "Maps": "library.maps",
    "capture": "library.maps",
    "Membership": "library.membership",
    "membership": "library.membership",
    "Excess": "library.reader",
    "Reader": "library.reader",
    "excess": "library.reader",
    "fit": "library.reader",
    "fit_blind": "library.reader",
    "classify": "library.sequences",
    "scan": "library.sequences",
    "windows": "library.sequences",
    "graft_parts": "lm.graft",
    "grafted": "lm.graft",
    "patched_activations": "lm.graft",
    "show_progress": "progress",
    "allocation_figure": "report.notebook",
    "benchmark_figure": "report.notebook",
    "delta_figure": "report.notebook",
    "graft_figure": "report.notebook",
    "layer_profile_figure": "report.notebook",
    "Estimate": "stats",
    "StudySettings": "study.settings",
    "load_settings": "study.settings",
    "read_history": "training.history",
    "MemorizationCallback": "training.callback",
    "MemorizationWatch": "training.watch",
    "make_canaries": "training.watch",
    "WatchedWindows": "training.windows",
}


_RENAMED: dict[str, tuple[str, str]] = {}
"""Names that are to go: what stands in their place, and the first version without them."""


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use, so that importing loads nothing heavy."""
    if name in _RENAMED:
        instead, version = _RENAMED[name]
        said = f"mnemoscope.{name} goes with version {version}; use mnemoscope.{instead}"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        name = instead
    if name not in __all__:
        raise AttributeError(f"module 'mnemoscope' has no attribute '{name}'")
    return getattr(import_module(f"mnemoscope.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return [*__all__, "__version__"]
