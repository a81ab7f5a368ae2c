"""How well a taxonomy matches attention, and how much of that the text alone explains.

Names are resolved on first use, so that importing this room loads neither torch nor
scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.benchmark.auc import PairwiseAuc, auc_pairs, bootstrap_auc, pair_names
    from mnemoscope.benchmark.baseline import BaselineFit, fit_baseline
    from mnemoscope.benchmark.blind import blind_maps, ngram_logits
    from mnemoscope.benchmark.columns import BENCHMARK_SCHEMA
    from mnemoscope.benchmark.comparison import (
        COMPARISON_SCHEMA,
        Comparison,
        OurFigures,
        compare_with_published,
        published_conclusions,
    )
    from mnemoscope.benchmark.conclusions import Conclusion, Measured, draw_conclusions
    from mnemoscope.benchmark.control_task import permute_labels
    from mnemoscope.benchmark.correlation import RankCorrelation, correlate_ranks
    from mnemoscope.benchmark.excess import CONTROLS, Excess, measure_excess
    from mnemoscope.benchmark.inputs import INPUTS_SCHEMA, score_inputs
    from mnemoscope.benchmark.logits import classify_logprobs
    from mnemoscope.benchmark.matched import Match, match_on_scores, standardized_difference
    from mnemoscope.benchmark.paired import PairedDifference, compare_pair, resample_jointly
    from mnemoscope.benchmark.published import (
        PUBLISHED_MODELS,
        PublishedConfusion,
        published_confusions,
        published_rho,
        published_table,
    )
    from mnemoscope.benchmark.several import TOGETHER_SCHEMA, score_together
    from mnemoscope.benchmark.statistics import (
        ALL_STATISTICS,
        STATISTICS,
        all_statistics,
        classify_statistics,
        map_statistics,
    )
    from mnemoscope.benchmark.table import SOURCES, score_benchmark
    from mnemoscope.benchmark.verdict import BenchmarkFigures, Verdict, give_verdict
    from mnemoscope.benchmark.votes import Votes, collect_votes

__all__ = [
    "ALL_STATISTICS",
    "BENCHMARK_SCHEMA",
    "COMPARISON_SCHEMA",
    "CONTROLS",
    "INPUTS_SCHEMA",
    "PUBLISHED_MODELS",
    "SOURCES",
    "STATISTICS",
    "TOGETHER_SCHEMA",
    "BaselineFit",
    "BenchmarkFigures",
    "Comparison",
    "Conclusion",
    "Excess",
    "Match",
    "Measured",
    "OurFigures",
    "PairedDifference",
    "PairwiseAuc",
    "PublishedConfusion",
    "RankCorrelation",
    "Verdict",
    "Votes",
    "all_statistics",
    "auc_pairs",
    "blind_maps",
    "bootstrap_auc",
    "classify_logprobs",
    "classify_statistics",
    "collect_votes",
    "compare_pair",
    "compare_with_published",
    "correlate_ranks",
    "draw_conclusions",
    "fit_baseline",
    "give_verdict",
    "map_statistics",
    "match_on_scores",
    "measure_excess",
    "ngram_logits",
    "pair_names",
    "permute_labels",
    "published_conclusions",
    "published_confusions",
    "published_rho",
    "published_table",
    "resample_jointly",
    "score_benchmark",
    "score_inputs",
    "score_together",
    "standardized_difference",
]

_MODULES = {
    "ALL_STATISTICS": "statistics",
    "COMPARISON_SCHEMA": "comparison",
    "Comparison": "comparison",
    "OurFigures": "comparison",
    "compare_with_published": "comparison",
    "published_conclusions": "comparison",
    "Conclusion": "conclusions",
    "Measured": "conclusions",
    "draw_conclusions": "conclusions",
    "RankCorrelation": "correlation",
    "correlate_ranks": "correlation",
    "PairedDifference": "paired",
    "compare_pair": "paired",
    "resample_jointly": "paired",
    "TOGETHER_SCHEMA": "several",
    "score_together": "several",
    "BENCHMARK_SCHEMA": "columns",
    "BaselineFit": "baseline",
    "BenchmarkFigures": "verdict",
    "CONTROLS": "excess",
    "Excess": "excess",
    "INPUTS_SCHEMA": "inputs",
    "Match": "matched",
    "PairwiseAuc": "auc",
    "PUBLISHED_MODELS": "published",
    "PublishedConfusion": "published",
    "SOURCES": "table",
    "STATISTICS": "statistics",
    "Verdict": "verdict",
    "Votes": "votes",
    "all_statistics": "statistics",
    "auc_pairs": "auc",
    "blind_maps": "blind",
    "bootstrap_auc": "auc",
    "classify_logprobs": "logits",
    "classify_statistics": "statistics",
    "collect_votes": "votes",
    "fit_baseline": "baseline",
    "give_verdict": "verdict",
    "map_statistics": "statistics",
    "match_on_scores": "matched",
    "measure_excess": "excess",
    "ngram_logits": "blind",
    "pair_names": "auc",
    "permute_labels": "control_task",
    "published_confusions": "published",
    "published_rho": "published",
    "published_table": "published",
    "score_benchmark": "table",
    "score_inputs": "inputs",
    "standardized_difference": "matched",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
