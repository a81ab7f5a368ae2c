"""What a plugin is made of: an analysis, a reader or a taxonomy node in a package of your own.

Public, as `import mnemoscope` is; docs/plugins.md shows how the parts fit together.
"""

from mnemoscope.analysis.inputs import AnalysisInputs as AnalysisInputs
from mnemoscope.analysis.inputs import AnalysisResult as AnalysisResult
from mnemoscope.analysis.inputs import AnalysisSettings as AnalysisSettings
from mnemoscope.analysis.registry import Entry as Entry
from mnemoscope.stats import share_true as share_true
from mnemoscope.taxonomy.catalogue import make_node as make_node
from mnemoscope.taxonomy.nodes import Node as Node

__all__ = [
    "AnalysisInputs",
    "AnalysisResult",
    "AnalysisSettings",
    "Entry",
    "Node",
    "make_node",
    "share_true",
]
