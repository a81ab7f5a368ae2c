"""What an analysis works on: a study's table, its models, its corpus, its maps, and a shelf.

Models are loaded when they are first asked for. Every sequence put through one is counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from mnemoscope.lm.language_model import LanguageModel
    from mnemoscope.maps.store import MapStore
    from mnemoscope.sequences.corpus import Corpus

__all__ = ["AnalysisInputs", "OtherModel", "Shelf", "count_forwards", "make_always"]

Shelf = Callable[[str, Mapping[str, Any], Callable[[], pl.DataFrame]], pl.DataFrame]
"""`shelf(name, basis, make)`: the frame kept under the hash of name and basis, else made and kept.

The basis holds everything that decides the frame (model fingerprint, sequence ids, settings).
"""


def make_always(
    name: str,  # noqa: ARG001
    basis: Mapping[str, Any],  # noqa: ARG001
    make: Callable[[], pl.DataFrame],
) -> pl.DataFrame:
    """Be a shelf that keeps nothing.

    Args:
        name: not looked at.
        basis: not looked at.
        make: makes the frame.
    """
    return make()


@dataclass(frozen=True)
class OtherModel:
    """A model beside the study's own: a second one, or a checkpoint.

    Attributes:
        name: as the user wrote it.
        load: loads it, once.
    """

    name: str
    load: "Callable[[], LanguageModel]"


@dataclass
class Forwards:
    """How many sequences went through a model so far."""

    n: int = 0


@dataclass(frozen=True)
class AnalysisInputs:
    """All that an analysis may look at.

    Attributes:
        where: the study's folder, for messages.
        table: one row a sequence: `sequence_id`, `tokens`, `text`, `is_memorized`,
            `memorization_score` (null where only scanned), `duplicates`, and the other columns of
            the study's table.
        load_model: loads the study's model, once.
        labels: `sequence_id` and one column of class names a taxonomy; None without stage label.
        length: tokens of a sequence; the prefix is half of it.
        batch_size: sequences a forward pass.
        others: the second model, or the checkpoints in their order; empty without.
        corpus: the training texts, as `mnemoscope duplicates --corpus` takes them, or None.
        split: which published split the table is, for example `deduped_12b`, or None.
        has_model: whether there is a model to ask; else labels and perplexities are the table's.
        maps: the store of the model's pooled attention, None without stage capture.
        shelf: keeps frames that are dear to make, across analyses and runs.
        forwards: counts what goes through the models.
    """

    where: str
    table: pl.DataFrame
    load_model: "Callable[[], LanguageModel]"
    labels: pl.DataFrame | None = None
    length: int = 64
    batch_size: int = 64
    others: tuple[OtherModel, ...] = ()
    corpus: "Corpus | None" = None
    split: str | None = None
    has_model: bool = True
    maps: "MapStore | None" = None
    shelf: Shelf = make_always
    forwards: Forwards = field(default_factory=Forwards)

    @property
    def prefix(self) -> int:
        """Tokens of the prefix."""
        return self.length // 2

    def model(self) -> "LanguageModel":
        """The study's model, its forwards counted."""
        return count_forwards(self.load_model(), self.forwards)

    def other_models(self) -> "list[tuple[str, LanguageModel]]":
        """Name and model of each of the others, their forwards counted."""
        return [(one.name, count_forwards(one.load(), self.forwards)) for one in self.others]


def count_forwards(lm: "LanguageModel", forwards: Forwards) -> "LanguageModel":
    """Count every sequence that goes through a model from now on; twice asked is counted once.

    Args:
        lm: the model.
        forwards: where to count.

    Returns:
        The same model.
    """
    base = lm.model.base_model
    if getattr(base, "_mnemoscope_forwards", None) is forwards:
        return lm

    def count(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        forwards.n += len(first) if first is not None else 0

    base.register_forward_pre_hook(count, with_kwargs=True)
    base._mnemoscope_forwards = forwards
    return lm
