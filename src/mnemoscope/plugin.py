"""The tool box of whoever writes an analysis, a file reader or a taxonomy node.

Public, as `import mnemoscope` is, whose functions serve here too. docs/plugins.md lists every name
and shows how the parts fit together. A name is loaded when it is first used: a node loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemoscope.analysis.figures import Chart as Chart
    from mnemoscope.analysis.figures import HeatMap as HeatMap
    from mnemoscope.analysis.figures import Series as Series
    from mnemoscope.analysis.figures import bars_by as bars_by
    from mnemoscope.analysis.figures import counted as counted
    from mnemoscope.analysis.figures import counted_names as counted_names
    from mnemoscope.analysis.figures import plain as plain
    from mnemoscope.analysis.figures import series_beside as series_beside
    from mnemoscope.analysis.figures import series_by as series_by
    from mnemoscope.analysis.figures import series_of as series_of
    from mnemoscope.analysis.inputs import OWN as OWN
    from mnemoscope.analysis.inputs import AnalysisInputs as AnalysisInputs
    from mnemoscope.analysis.inputs import AnalysisResult as AnalysisResult
    from mnemoscope.analysis.inputs import AnalysisSettings as AnalysisSettings
    from mnemoscope.analysis.predictors import FEATURES as FEATURES
    from mnemoscope.analysis.predictors import add_predictors as add_predictors
    from mnemoscope.analysis.predictors import count_ngrams as count_ngrams
    from mnemoscope.analysis.predictors import count_perplexed as count_perplexed
    from mnemoscope.analysis.predictors import frequency_source as frequency_source
    from mnemoscope.analysis.predictors import libraries_of as libraries_of
    from mnemoscope.analysis.registry import Entry as Entry
    from mnemoscope.analysis.rows import Generated as Generated
    from mnemoscope.analysis.rows import LevelSettings as LevelSettings
    from mnemoscope.analysis.rows import Prompt as Prompt
    from mnemoscope.analysis.rows import ask_by_words as ask_by_words
    from mnemoscope.analysis.rows import ask_exactly as ask_exactly
    from mnemoscope.analysis.rows import categories_of as categories_of
    from mnemoscope.analysis.rows import classes_of as classes_of
    from mnemoscope.analysis.rows import complete_rows as complete_rows
    from mnemoscope.analysis.rows import count_by_level as count_by_level
    from mnemoscope.analysis.rows import count_lacking as count_lacking
    from mnemoscope.analysis.rows import decode_rows as decode_rows
    from mnemoscope.analysis.rows import draw_rows as draw_rows
    from mnemoscope.analysis.rows import entropy_of as entropy_of
    from mnemoscope.analysis.rows import generate_by_level as generate_by_level
    from mnemoscope.analysis.rows import groups_of as groups_of
    from mnemoscope.analysis.rows import guessable as guessable
    from mnemoscope.analysis.rows import hash_arrays as hash_arrays
    from mnemoscope.analysis.rows import keep_blocks as keep_blocks
    from mnemoscope.analysis.rows import members as members
    from mnemoscope.analysis.rows import refuse_one_sided as refuse_one_sided
    from mnemoscope.analysis.rows import run_arm as run_arm
    from mnemoscope.analysis.rows import seen_in_training as seen_in_training
    from mnemoscope.analysis.rows import states_of as states_of
    from mnemoscope.analysis.rows import stream_rows as stream_rows
    from mnemoscope.analysis.rows import training_rows as training_rows
    from mnemoscope.analysis.rows import unseen_note as unseen_note
    from mnemoscope.analysis.rows import unseen_rows as unseen_rows
    from mnemoscope.benchmark.table import score_benchmark as score_benchmark
    from mnemoscope.data.features import add_features as add_features
    from mnemoscope.data.table import look_up as look_up
    from mnemoscope.data.table import token_matrix as token_matrix
    from mnemoscope.data.table import whole_mask as whole_mask
    from mnemoscope.errors import nearest as nearest
    from mnemoscope.errors import pip_install as pip_install
    from mnemoscope.lm.attention import capture_pooled as capture_pooled
    from mnemoscope.lm.classifier import Classified as Classified
    from mnemoscope.lm.classifier import Encoded as Encoded
    from mnemoscope.lm.classifier import classified as classified
    from mnemoscope.lm.classifier import fit_classifier as fit_classifier
    from mnemoscope.lm.continue_ import best_tokens as best_tokens
    from mnemoscope.lm.continue_ import draw_continuations as draw_continuations
    from mnemoscope.lm.continue_ import right_tokens as right_tokens
    from mnemoscope.lm.continue_ import run_lengths as run_lengths
    from mnemoscope.lm.edges import total_effects as total_effects
    from mnemoscope.lm.fine_tuning import FineTuning as FineTuning
    from mnemoscope.lm.fine_tuning import StepSettings as StepSettings
    from mnemoscope.lm.intervene import right_with_states as right_with_states
    from mnemoscope.lm.model import LanguageModel as LanguageModel
    from mnemoscope.lm.probe import hidden_states as hidden_states
    from mnemoscope.lm.probe import matched_layers as matched_layers
    from mnemoscope.lm.probe import neuron_activations as neuron_activations
    from mnemoscope.lm.probe import teacher_forced as teacher_forced
    from mnemoscope.lm.prompts import AS_IT_IS as AS_IT_IS
    from mnemoscope.lm.prompts import WORD_KINDS as WORD_KINDS
    from mnemoscope.lm.prompts import ChangedPrompt as ChangedPrompt
    from mnemoscope.lm.prompts import Vocabulary as Vocabulary
    from mnemoscope.lm.prompts import make_prompts as make_prompts
    from mnemoscope.lm.prompts import suffix_runs as suffix_runs
    from mnemoscope.maps.shape import attention_shape as attention_shape
    from mnemoscope.maps.shape import copy_edges as copy_edges
    from mnemoscope.progress import Progress as Progress
    from mnemoscope.progress import track as track
    from mnemoscope.stats import FEWEST_GROUPS as FEWEST_GROUPS
    from mnemoscope.stats import FIGURE as FIGURE
    from mnemoscope.stats import Z as Z
    from mnemoscope.stats import correlate_ranks as correlate_ranks
    from mnemoscope.stats import draw_within as draw_within
    from mnemoscope.stats import estimate_of as estimate_of
    from mnemoscope.stats import fewest_groups as fewest_groups
    from mnemoscope.stats import frame_of as frame_of
    from mnemoscope.stats import grouped_variance as grouped_variance
    from mnemoscope.stats import n_groups as n_groups
    from mnemoscope.stats import resampled_auc as resampled_auc
    from mnemoscope.stats import resampled_mean as resampled_mean
    from mnemoscope.stats import resampled_means as resampled_means
    from mnemoscope.stats import resampled_ratio as resampled_ratio
    from mnemoscope.stats import rows_of as rows_of
    from mnemoscope.stats import separation as separation
    from mnemoscope.stats import share_true as share_true
    from mnemoscope.taxonomy import PRASHANTH as PRASHANTH
    from mnemoscope.taxonomy.catalogue import make_node as make_node
    from mnemoscope.taxonomy.groups import find_groups as find_groups
    from mnemoscope.taxonomy.groups import other_rows as other_rows
    from mnemoscope.taxonomy.names import parse_taxonomy as parse_taxonomy
    from mnemoscope.taxonomy.nodes import Node as Node
    from mnemoscope.words import ranged as ranged

SECTIONS: dict[str, dict[str, str]] = {
    "Declare an analysis or a node": {
        "analysis.registry": "Entry",
        "analysis.inputs": "AnalysisInputs AnalysisResult AnalysisSettings OWN",
        "taxonomy.nodes": "Node",
        "taxonomy.catalogue": "make_node",
    },
    "Rows, and which of them": {
        "data.table": "token_matrix look_up whole_mask",
        "analysis.rows": (
            "draw_rows groups_of members categories_of classes_of guessable refuse_one_sided "
            "seen_in_training unseen_rows unseen_note training_rows"
        ),
        "data.features": "add_features",
        "taxonomy": "PRASHANTH",
        "taxonomy.names": "parse_taxonomy",
        "taxonomy.groups": "find_groups other_rows",
    },
    "Keep results, and show progress": {
        "analysis.rows": "keep_blocks hash_arrays",
        "progress": "Progress track",
    },
    "Ask the model": {
        "lm.model": "LanguageModel",
        "analysis.rows": (
            "complete_rows decode_rows Prompt ask_exactly ask_by_words LevelSettings "
            "Generated generate_by_level states_of entropy_of count_lacking count_by_level"
        ),
        "lm.continue_": "best_tokens right_tokens run_lengths draw_continuations",
        "lm.prompts": ("Vocabulary make_prompts ChangedPrompt AS_IT_IS WORD_KINDS suffix_runs"),
    },
    "Look inside the model": {
        "lm.probe": "teacher_forced hidden_states neuron_activations matched_layers",
        "lm.intervene": "right_with_states",
    },
    "Train a copy further": {
        "lm.fine_tuning": "FineTuning StepSettings",
        "analysis.rows": "run_arm stream_rows",
    },
    "Classifiers of texts": {"lm.classifier": "Classified Encoded classified fit_classifier"},
    "Attention maps, and readers of them": {
        "lm.attention": "capture_pooled",
        "lm.edges": "total_effects",
        "maps.shape": "attention_shape copy_edges",
        "benchmark.table": "score_benchmark",
    },
    "What predicts memorization": {
        "analysis.predictors": (
            "FEATURES add_predictors count_perplexed count_ngrams frequency_source libraries_of"
        ),
    },
    "Statistics": {
        "stats": (
            "FIGURE FEWEST_GROUPS Z frame_of rows_of share_true resampled_mean "
            "resampled_means resampled_ratio draw_within estimate_of resampled_auc "
            "separation correlate_ranks grouped_variance n_groups fewest_groups"
        ),
    },
    "Figures": {
        "analysis.figures": (
            "Chart HeatMap Series bars_by plain series_by series_of series_beside counted "
            "counted_names"
        ),
    },
    "Words": {
        "words": "ranged",
        "errors": "nearest pip_install",
    },
}
"""What each section of the tool box takes from which room, names apart by spaces."""

_WHERE = {
    name: room
    for section in SECTIONS.values()
    for room, names in section.items()
    for name in names.split()
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    """Resolve a name on first use, so that importing loads nothing heavy."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mnemoscope.plugin' has no attribute '{name}'")
    return getattr(import_module(f"mnemoscope.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return [*__all__]
