"""What an analysis is given, what it can be told, and what it hands back.

Models are loaded when they are first asked for. Every sequence put through one is counted.
"""

from collections.abc import Callable, Iterator, Mapping
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
    from torch import Tensor

    from mnemoscope.data.corpus import Corpus
    from mnemoscope.lm.model import LanguageModel
    from mnemoscope.maps.store import MapStore

_READ = ("input_ids", "inputs_embeds", "decoder_input_ids")
_CACHES = ("past_key_values", "cache")

OWN = "this model"
"""What the study's own model is called beside others, in tables and sentences."""

ResultCache = Callable[[str, Mapping[str, Any], Callable[[], pl.DataFrame]], pl.DataFrame]
"""`shelf(name, basis, make)`: the frame kept under the hash of name and basis, else made and kept.

The basis holds everything that decides the frame (`LanguageModel.basis`, the ids of the sequences,
settings), as plain values.
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
    """All that an analysis may look at.

    Attributes:
        where: the study's folder, for messages.
        table: one row a sequence, with the columns of the study's table: `sequence_id`, `tokens`,
            `is_memorized`, …; `memorization_score` is null where it was only scanned.
        load_model: loads the study's model, once; `model()` counts what goes through it too.
        labels: `sequence_id` and one column of class names a taxonomy.
        length: tokens of a sequence.
        n_prefix: tokens of the prefix; None is half of the sequence. See `prefix`.
        batch_size: sequences a forward pass.
        others: the second model, the checkpoints in their order, or the control and students.
        corpus: the training texts, if they were given.
        split: which published split the table is, for example `deduped_12b`.
        has_model: whether there is a model to ask; else labels and perplexities are the table's.
        maps: the model's stored attention, None without stage capture; read it by `stored_maps`.
        reference_maps: the reference's, where it was captured and is the one of `others`.
        given_columns: of a classifier's rows, what the user's table held.
        shelf: keeps frames that are expensive to compute, across analyses and runs:
            `shelf(name, basis, make)` gives the frame kept under the hash of name and basis, else
            what `make()` gives. The basis holds all that decides the frame: `lm.basis`, ids
            (`hash_arrays`), settings.
        forwards: counts what goes through the models.
    """

    where: str
    table: pl.DataFrame
    load_model: "Callable[[], LanguageModel]"
    labels: pl.DataFrame | None = None
    length: int = 64
    n_prefix: int | None = None
    batch_size: int = 64
    others: tuple[OtherModel, ...] = ()
    corpus: "Corpus | None" = None
    split: str | None = None
    has_model: bool = True
    maps: "MapStore | None" = None
    reference_maps: "MapStore | None" = None
    given_columns: tuple[str, ...] = ()
    shelf: ResultCache = lambda _name, _basis, make: make()
    forwards: Forwards = field(default_factory=Forwards)

    def near_duplicates(self, ids: pl.Series) -> "npt.NDArray[np.int64]":
        """Group of near duplicates of each sequence, (n,), which intervals draw.

        From the table's column `near_duplicates`; without it each sequence is a group of its own.
        """
        if "near_duplicates" not in self.table.columns:
            return ids.to_numpy()
        rows = look_up(ids.to_frame("sequence_id"), self.table, "near_duplicates")
        return rows["near_duplicates"].to_numpy()

    def captured(self) -> pl.DataFrame | None:
        """Sequences whose attention is stored, one row each; None without stage capture.

        Columns `sequence_id` and `suffix`: what the model read after the prefix, the text's own
        (`true`) or its continuation (`own`, which comes first where both are stored).
        """
        if self.maps is None:
            return None
        index = self.maps.index.select("sequence_id", "suffix").sort("sequence_id", "suffix")
        return index.unique("sequence_id", keep="first", maintain_order=True)

    def stored_maps(
        self, rows: pl.DataFrame, *, of_reference: bool = False
    ) -> "Iterator[Tensor] | None":
        """Stored attention of rows (`sequence_id`, `suffix`) in their order, mean over heads.

        Batches (batch, layers, query, key), float16, zeros above the diagonal; None where the map
        of any row is not stored.
        """
        store = self.reference_maps if of_reference else self.maps
        if store is None:
            return None
        import torch

        from mnemoscope.maps.format import find_rows, key_frame
        from mnemoscope.maps.triangle import unpack_triangle
        from mnemoscope.maps.views import rows_at_once

        keys = (rows["sequence_id"].to_numpy(), rows["suffix"].to_list())
        if find_rows(store.index, key_frame(*keys)).null_count():
            return None
        maps = store.dataset(*keys, "mean")
        batches = torch.split(torch.arange(len(maps)), rows_at_once(maps))
        return (unpack_triangle(maps.read(one)) for one in batches)

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
        given = [*args[:1], *(kwargs.get(name) for name in _READ)]
        first = next((one for one in given if one is not None), None)
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
    """The result of one analysis.

    Attributes:
        sentence: the result with its 95 % interval.
        frames: tables by the name of their file.
        figures: the most important first.
        further: what was left out, what cannot be said.
        cost: filled in where the analysis is run.
        libraries: distributions that made it beside those of every study; their versions are kept.

    Raises:
        TypeError: something else than a Polars frame among the frames.
    """

    sentence: str
    frames: Mapping[str, pl.DataFrame]
    figures: tuple[Figure, ...] = ()
    further: tuple[str, ...] = ()
    cost: Cost = field(default=Cost(0.0, 0))
    libraries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be stored, where it is made."""
        for name, frame in self.frames.items():
            if not isinstance(frame, pl.DataFrame):
                raise TypeError(f"AnalysisResult.frames, '{name}': no Polars frame")


class AnalysisSettings(BoundedSettings):
    """Settings that each analysis adds its own to: fields of pydantic, with a description.

    What `--set` gives is checked by them. Add fields with `pydantic.Field`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    seed: int = Field(default=0, ge=0, description="Seed of all that is drawn at random.")
