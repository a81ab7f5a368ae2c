"""What a store takes at the shapes of the Pythia suite, beside the published layout, as a table.

`docs/storage.md` holds what `storage_table` gives; a test compares the two.
"""

from mnemoscope.stages.model_shape import ModelShape, find_shape, pythia_facts
from mnemoscope.stages.plan_cost import map_bytes
from mnemoscope.stages.published_cost import bytes_a_sequence, paper_bytes

__all__ = ["PAPER_MODELS", "benchmark_bytes", "most_maps", "published_bytes", "storage_table"]

PAPER_MODELS = ("2.8b", "6.9b", "12b")
"""The three models of the paper (arXiv 2508.02573)."""
_LENGTH = 64


def storage_table() -> str:
    """Bytes a sequence of both layouts at every shape of the suite, as a Markdown table."""
    lines = [
        "| Pythia | layers × heads | published layout | here | times smaller |",
        "|---|---|---|---|---|",
    ]
    for name in pythia_facts()["models"]:
        shape = _shape(name)
        theirs, ours = bytes_a_sequence(shape, _LENGTH), map_bytes(shape.n_layers, _LENGTH)
        lines.append(
            f"| {name} | {shape.n_layers} × {shape.n_heads} | {theirs / 1e6:.2f} MB | "
            f"{ours / 1e6:.3f} MB | {theirs / ours:.0f} |"
        )
    return "\n".join(lines) + "\n"


def benchmark_bytes(n_maps: int) -> int:
    """Bytes of the three paper models' stores, each with so many maps.

    >>> round(benchmark_bytes(30_000) / 1e9, 1)
    25.0
    """
    return n_maps * sum(map_bytes(_shape(name).n_layers, _LENGTH) for name in PAPER_MODELS)


def most_maps(n_bytes: float) -> int:
    """How many maps a model the three stores may hold to take so many bytes together.

    >>> most_maps(60e9)
    72115
    """
    return int(n_bytes // benchmark_bytes(1))


def published_bytes() -> int:
    """What the paper's 180 jobs store, each counted at the shape of the largest model."""
    return paper_bytes(_shape("12b"))


def _shape(name: str) -> ModelShape:
    """A shape of the suite."""
    shape = find_shape(f"EleutherAI/pythia-{name}")
    assert shape is not None
    return shape
