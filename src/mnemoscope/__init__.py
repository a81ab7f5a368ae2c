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
    from mnemoscope.audits.library import Audit as Audit
    from mnemoscope.audits.library import Judgement as Judgement
    from mnemoscope.audits.library import audit as audit
    from mnemoscope.contamination.found import Items as Items
    from mnemoscope.contamination.run import items as items
    from mnemoscope.diffusion.found import Images as Images
    from mnemoscope.diffusion.run import images as images
    from mnemoscope.errors import DamagedDataError as DamagedDataError
    from mnemoscope.errors import MnemoscopeError as MnemoscopeError
    from mnemoscope.errors import NoRoomError as NoRoomError
    from mnemoscope.errors import UserError as UserError
    from mnemoscope.flow.analyze import analyze as analyze
    from mnemoscope.flow.run import demo_settings as demo_settings
    from mnemoscope.flow.run import run_stage as run_stage
    from mnemoscope.flow.study import Study as Study
    from mnemoscope.flow.study import run as run
    from mnemoscope.forgetting.run import Forgetting as Forgetting
    from mnemoscope.forgetting.run import forget as forget
    from mnemoscope.library.excess import Excess as Excess
    from mnemoscope.library.excess import excess as excess
    from mnemoscope.library.maps import Maps as Maps
    from mnemoscope.library.maps import capture as capture
    from mnemoscope.library.membership import Membership as Membership
    from mnemoscope.library.membership import membership as membership
    from mnemoscope.library.reader import Reader as Reader
    from mnemoscope.library.reader import fit as fit
    from mnemoscope.library.reader import fit_blind as fit_blind
    from mnemoscope.library.sequences import classify as classify
    from mnemoscope.library.sequences import scan as scan
    from mnemoscope.library.sequences import windows as windows
    from mnemoscope.lm.graft import graft_parts as graft_parts
    from mnemoscope.lm.graft import grafted as grafted
    from mnemoscope.lm.graft import patched_activations as patched_activations
    from mnemoscope.progress import show_progress as show_progress
    from mnemoscope.report.notebook import allocation_figure as allocation_figure
    from mnemoscope.report.notebook import benchmark_figure as benchmark_figure
    from mnemoscope.report.notebook import delta_figure as delta_figure
    from mnemoscope.report.notebook import graft_figure as graft_figure
    from mnemoscope.report.notebook import layer_profile_figure as layer_profile_figure
    from mnemoscope.stats import Estimate as Estimate
    from mnemoscope.study.settings import StudySettings as StudySettings
    from mnemoscope.study.settings import load_settings as load_settings
    from mnemoscope.training.callback import MemorizationCallback as MemorizationCallback
    from mnemoscope.training.history import read_history as read_history
    from mnemoscope.training.watch import MemorizationWatch as MemorizationWatch
    from mnemoscope.training.watch import make_canaries as make_canaries
    from mnemoscope.training.windows import WatchedWindows as WatchedWindows

_ROOMS = {
    "audits.library": "Audit Judgement audit",
    "contamination.found": "Items",
    "contamination.run": "items",
    "diffusion.found": "Images",
    "diffusion.run": "images",
    "errors": "DamagedDataError MnemoscopeError NoRoomError UserError",
    "flow.analyze": "analyze",
    "flow.run": "demo_settings run_stage",
    "flow.study": "Study run",
    "forgetting.run": "Forgetting forget",
    "library.excess": "Excess excess",
    "library.maps": "Maps capture",
    "library.membership": "Membership membership",
    "library.reader": "Reader fit fit_blind",
    "library.sequences": "classify scan windows",
    "lm.graft": "graft_parts grafted patched_activations",
    "progress": "show_progress",
    "report.notebook": (
        "allocation_figure benchmark_figure delta_figure graft_figure layer_profile_figure"
    ),
    "stats": "Estimate",
    "study.settings": "StudySettings load_settings",
    "training.callback": "MemorizationCallback",
    "training.history": "read_history",
    "training.watch": "MemorizationWatch make_canaries",
    "training.windows": "WatchedWindows",
}
"""The public names of each room, apart by spaces."""
_WHERE = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = sorted(_WHERE)

_RENAMED: dict[str, tuple[str, str]] = {}
"""Names that are to go: what stands in their place, and the first version without them."""


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use, so that importing loads nothing heavy."""
    if name in _RENAMED:
        instead, version = _RENAMED[name]
        said = f"mnemoscope.{name} goes with version {version}; use mnemoscope.{instead}"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        name = instead
    if name not in _WHERE:
        raise AttributeError(f"module 'mnemoscope' has no attribute '{name}'")
    return getattr(import_module(f"mnemoscope.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return [*__all__, "__version__"]
