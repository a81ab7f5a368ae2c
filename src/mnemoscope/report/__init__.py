"""Pictures and pages: the self-contained HTML report, figures for notebooks, the README's picture.

`build.write_report` makes the page from a `content.ReportContent`, `figures` gives plotly figures,
`picture.write_svg` a standalone SVG.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Benchmark": "content",
    "BenchmarkRow": "content",
    "ClassFacts": "content",
    "CnnFacts": "content",
    "CnnRun": "content",
    "CountRow": "content",
    "Counts": "content",
    "DeltaMaps": "content",
    "Estimate": "content",
    "Example": "examples",
    "Excess": "content",
    "FragileLabels": "content",
    "MatchedScores": "content",
    "ModelFacts": "content",
    "ReportContent": "content",
    "Table": "content",
    "TaxonomyResult": "content",
    "benchmark_figure": "figures",
    "decode_pieces": "examples",
    "delta_figure": "figures",
    "layer_profile_figure": "figures",
    "render_report": "build",
    "write_report": "build",
    "write_svg": "picture",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a name's module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mnemoscope.report' has no attribute {name!r}")
    return getattr(import_module(f"mnemoscope.report.{_HOMES[name]}"), name)
