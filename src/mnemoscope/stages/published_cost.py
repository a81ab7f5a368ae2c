"""What the published pipeline needs for the same question: every job captures for itself.

A job is one taxonomy on one model. It runs the model with eager attention on the sequences that
it samples, stores the weights of all heads as float16, and trains the eight CNN settings on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mnemoscope.stages.model_shape import ModelShape
from mnemoscope.taxonomy.names import Taxonomy

__all__ = ["PAPER_JOBS", "PublishedCost", "bytes_a_sequence", "paper_bytes", "published_cost"]

PAPER_JOBS = 180
"""Jobs of the published pipeline (arXiv 2508.02573), on three models."""
_SEQUENCES_A_CLASS = 6000
_FAMILIES = {3: 27, 4: 27}
"""Published taxonomies by their number of classes."""
_SETTINGS = 8
_BYTES = 2  # float16


@dataclass(frozen=True)
class PublishedCost:
    """The published pipeline for one study's taxonomies.

    Attributes:
        n_jobs: taxonomies, each captured for itself.
        n_sequences: sequences captured, in all jobs.
        n_bytes: stored, in all jobs.
        n_trainings: CNNs.
    """

    n_jobs: int
    n_sequences: int
    n_bytes: int
    n_trainings: int


def bytes_a_sequence(shape: ModelShape, length: int = 64) -> int:
    """Attention weights of one sequence with all heads: layers × heads × length² × 2 bytes.

    >>> round(bytes_a_sequence(ModelShape(36, 40, 5120, 50688, 0, "")) / 1e6, 1)
    11.8
    """
    return shape.n_layers * shape.n_heads * length * length * _BYTES


def published_cost(
    taxonomies: Sequence[Taxonomy], shape: ModelShape | None, *, per_class: int, length: int
) -> PublishedCost:
    """Count what the published pipeline would do for these taxonomies on this model.

    Args:
        taxonomies: one job each.
        shape: of the model; None leaves the bytes 0.
        per_class: training and evaluation sequences a class.
        length: tokens a sequence.
    """
    n_sequences = per_class * sum(len(taxonomy.classes) for taxonomy in taxonomies)
    size = bytes_a_sequence(shape, length) if shape is not None else 0
    return PublishedCost(
        len(taxonomies), n_sequences, n_sequences * size, _SETTINGS * len(taxonomies)
    )


def paper_bytes(shape: ModelShape) -> int:
    """All that the paper's 180 jobs store, each counted at this shape.

    The mean published taxonomy has (27 · 3 + 27 · 4) / 54 = 3.5 classes of 6,000 sequences. At
    Pythia-12b's shape: 180 × 21,000 × 11.8 MB = 44.6 TB, the 45 TB that it is known to need.
    """
    n_classes = sum(classes * count for classes, count in _FAMILIES.items())
    a_job = _SEQUENCES_A_CLASS * n_classes // sum(_FAMILIES.values())
    return PAPER_JOBS * a_job * bytes_a_sequence(shape)
