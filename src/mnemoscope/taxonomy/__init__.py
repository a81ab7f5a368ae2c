"""What kind of memorization a sequence is: nodes, taxonomies, labels, balanced samples.

The room's shop window. Names are loaded on first use, so importing it loads neither Polars nor
SciPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.taxonomy.catalogue import PAPER, PRASHANTH, load_taxonomies
    from mnemoscope.taxonomy.labels import count_classes, label_sequences
    from mnemoscope.taxonomy.names import Taxonomy, parse_taxonomy
    from mnemoscope.taxonomy.nodes import Node, parse_node
    from mnemoscope.taxonomy.partition import match_classes
    from mnemoscope.taxonomy.sampling import Impossible, Sample, sample_classes
    from mnemoscope.taxonomy.splitting import find_groups
    from mnemoscope.taxonomy.yaml_file import read_taxonomies

_HOMES = {
    "PAPER": "catalogue",
    "PRASHANTH": "catalogue",
    "Impossible": "sampling",
    "Node": "nodes",
    "Sample": "sampling",
    "Taxonomy": "names",
    "count_classes": "labels",
    "find_groups": "splitting",
    "label_sequences": "labels",
    "load_taxonomies": "catalogue",
    "match_classes": "partition",
    "parse_node": "nodes",
    "parse_taxonomy": "names",
    "read_taxonomies": "yaml_file",
    "sample_classes": "sampling",
}

__all__ = [
    "PAPER",
    "PRASHANTH",
    "Impossible",
    "Node",
    "Sample",
    "Taxonomy",
    "count_classes",
    "find_groups",
    "label_sequences",
    "load_taxonomies",
    "match_classes",
    "parse_node",
    "parse_taxonomy",
    "read_taxonomies",
    "sample_classes",
]


def __getattr__(name: str) -> Any:
    """Load the module that holds `name`, once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
