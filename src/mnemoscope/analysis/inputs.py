"""What an analysis is given, what it can be told, and what it hands back.

Models are loaded when they are first asked for. Every sequence put through one is counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import polars as pl
from pydantic import ConfigDict, Field

from mnemoscope.analysis.figures import Figure
from mnemoscope.data.table import look_up
from mnemoscope.study.settings import BoundedSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mnemoscope.data.corpus import Corpus
    from mnemoscope.lm.model import LanguageModel
    from mnemoscope.maps.store import MapStore

_CACHES = ("past_key_values", "cache")

OWN = "this model"
"""What the study's own model is called beside others."""

ResultCache = Callable[[str, Mapping[str, Any], Callable[[], pl.DataFrame]], pl.DataFrame]
"""`shelf(name, basis, make)`: the frame kept under the hash of name and basis, else made and kept.

The basis holds everything that decides the frame (model fingerprint, sequence ids, settings).
"""


class OtherModel(NamedTuple):
    """A model beside the study's own: a second one, or a checkpoint."""

    name: str
    load: "Callable[[], LanguageModel]"


@dataclass
class Forwards:
    """How many sequences went through models so far; `close` ends the counting."""

    n: int = 0
    hooks: WeakKeyDictionary[Any, Any] = field(default_factory=WeakKeyDictionary, repr=False)

    def close(self) -> None:
        """Take the counters off the models."""
        for base, hook in self.hooks.items():
            hook.remove()
            if getattr(base, "_mnemoscope_counter", None) is hook:
                del base._mnemoscope_counter
        self.hooks.clear()


@dataclass(frozen=True)
class AnalysisInputs:
    """All that an analysis may look at."""

    where: str  # the study's folder, for messages
    # one row a sequence, columns of the study's table; `memorization_score` is null where it was
    # only scanned
    table: pl.DataFrame
    load_model: "Callable[[], LanguageModel]"  # loads the study's model, once
    labels: pl.DataFrame | None = None  # `sequence_id` and one column of class names a taxonomy
    length: int = 64  # tokens of a sequence
    n_prefix: int | None = None  # tokens of the prefix; None is half of the sequence
    batch_size: int = 64  # sequences a forward pass
    # the second model, the checkpoints in their order, or the control and students
    others: tuple[OtherModel, ...] = ()
    # the training texts, as `mnemoscope data duplicates --corpus` takes them
    corpus: "Corpus | None" = None
    split: str | None = None  # which published split the table is, for example `deduped_12b`
    # whether there is a model to ask; else labels and perplexities are the table's
    has_model: bool = True
    maps: "MapStore | None" = None  # the model's pooled attention, None without stage capture
    # the reference's, where it was captured and is the one of `others`
    reference_maps: "MapStore | None" = None
    # keeps frames that are expensive to compute, across analyses and runs
    shelf: ResultCache = lambda _name, _basis, make: make()
    forwards: Forwards = field(default_factory=Forwards)  # counts what goes through the models

    def near_duplicates(self, ids: pl.Series) -> "npt.NDArray[np.int64]":
        """Group of near duplicates of each sequence, (n,), which intervals draw.

        From the table's column `near_duplicates`; without it each sequence is a group of its own.
        """
        if "near_duplicates" not in self.table.columns:
            return ids.to_numpy()
        rows = look_up(ids.to_frame("sequence_id"), self.table, "near_duplicates")
        return rows["near_duplicates"].to_numpy()

    @property
    def prefix(self) -> int:
        """Tokens of the prefix."""
        return self.length // 2 if self.n_prefix is None else self.n_prefix

    def model(self) -> "LanguageModel":
        """The study's model, its forwards counted."""
        return count_forwards(self.load_model(), self.forwards)

    def models(self) -> "list[tuple[str, LanguageModel]]":
        """Name and model: the study's own, called `OWN`, and the others."""
        return [(OWN, self.model()), *self.other_models()]

    def other_models(self) -> "list[tuple[str, LanguageModel]]":
        """Name and model of each of the others, their forwards counted."""
        return [(one.name, count_forwards(one.load(), self.forwards)) for one in self.others]


def count_forwards(lm: "LanguageModel", forwards: Forwards) -> "LanguageModel":
    """Count every sequence that goes through a model until `forwards` is closed.

    It does so in place of who counted before. A step that goes on from a key-value cache is no
    further sequence.
    """
    base = lm.model.base_model
    if (before := getattr(base, "_mnemoscope_counter", None)) is not None:
        before.remove()

    def count(_module: Any, args: Any, kwargs: Any) -> None:
        first = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        caches = [one for name in _CACHES if (one := kwargs.get(name)) is not None]
        if first is not None and not any(one.get_seq_length() for one in caches):
            forwards.n += len(first)

    hook = base.register_forward_pre_hook(count, with_kwargs=True)
    base._mnemoscope_counter = forwards.hooks[base] = hook
    return lm


class Cost(NamedTuple):
    """Seconds, and sequences put through a model, each once however many tokens it decodes."""

    seconds: float
    forward_passes: int


@dataclass(frozen=True)
class AnalysisResult:
    """The result of one analysis."""

    sentence: str  # the result with its 95 % interval
    frames: Mapping[str, pl.DataFrame]  # tables by the name of their file
    figures: tuple[Figure, ...] = ()  # the most important first
    further: tuple[str, ...] = ()  # what was left out, what cannot be said
    cost: Cost = field(default=Cost(0.0, 0))  # filled in by `registry.run_analysis`
    libraries: tuple[str, ...] = ()  # distributions that made it beside those of every study


class AnalysisSettings(BoundedSettings):
    """Settings that each analysis adds its own to."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    seed: int = Field(default=0, ge=0, description="Seed of all that is drawn at random.")
