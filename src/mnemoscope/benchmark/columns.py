"""The columns of the benchmark table.

All shares are fractions in [0, 1] (an excess in [-1, 1]), all intervals 95 %. Null: the column
does not apply to the source, or the source did not train.
"""

import polars as pl
from polars.datatypes import DataType, DataTypeClass

__all__ = ["BENCHMARK_SCHEMA"]

_Share = pl.Float64
_Shares = pl.List(pl.Float64)  # one a class, in the order of the classes

_COLUMNS: dict[str, DataType | DataTypeClass] = {
    "taxonomy": pl.String,
    "source": pl.String,  # one of table.SOURCES
    # Trainings; those that left chance on their training set, which alone count below;
    # the mean min-F1 of these on their training sets; evaluation sequences.
    "did_train": pl.Boolean,
    "n_runs": pl.Int64,
    "n_trained": pl.Int64,
    "training_min_f1": _Share,
    "n_eval": pl.Int64,
    "min_f1": _Share,
    "low": _Share,
    "high": _Share,
    "mean_f1": _Share,
    "mean_f1_low": _Share,
    "mean_f1_high": _Share,
    "f1": _Shares,
    "f1_low": _Shares,
    "f1_high": _Shares,
    "precision": _Shares,
    "precision_low": _Shares,
    "precision_high": _Shares,
    "recall": _Shares,
    "recall_low": _Shares,
    "recall_high": _Shares,
    # Rows true, columns predicted, summed over trained runs and epochs.
    "confusion": pl.List(pl.List(pl.Int64)),
    # Pairs of classes in the order of auc.auc_pairs ("Guess | Recall"), and how well each two
    # are told apart: area under the ROC curve of p_a / (p_a + p_b) on the sequences of the two,
    # averaged over trained runs; one a pair.
    "auc_pairs": pl.List(pl.String),
    "auc": _Shares,
    "auc_low": _Shares,
    "auc_high": _Shares,
    # From here on in the model's row alone. The control that the excess is over; the kind
    # of verdict ("adds", "unclear", "nothing", "cannot") and its sentence.
    "excess": _Share,
    "excess_low": _Share,
    "excess_high": _Share,
    "excess_over": pl.String,
    # The model's min-F1 that the excess is counted from: of its trainings with the CNN settings
    # that the controls had too (excess_settings), same seeds. The excess of the AUC of each pair
    # is over the largest of blind, ngram and reference for that pair.
    "excess_min_f1": _Share,
    "excess_settings": pl.List(pl.String),
    "auc_excess": _Shares,
    "auc_excess_low": _Shares,
    "auc_excess_high": _Shares,
    "verdict_kind": pl.String,
    "verdict": pl.String,
    # The model on the matched sequences; what the blind baseline that matched them
    # (matched_by) still reaches there; sequences left a class; the largest standardized
    # difference of its scores before and after; why there is no figure.
    "matched_min_f1": _Share,
    "matched_low": _Share,
    "matched_high": _Share,
    "matched_f1": _Shares,
    "matched_f1_low": _Shares,
    "matched_f1_high": _Shares,
    "matched_blind_min_f1": _Share,
    "matched_blind_low": _Share,
    "matched_blind_high": _Share,
    "matched_by": pl.String,
    "matched_n_per_class": pl.Int64,
    "difference_before": _Share,
    "difference_after": _Share,
    "matched_note": pl.String,
    # Min-F1 of all the model's CNNs minus that of the regression on statistics of the same maps,
    # paired as the excess is.
    "over_statistics": _Share,
    "over_statistics_low": _Share,
    "over_statistics_high": _Share,
}

BENCHMARK_SCHEMA = pl.Schema(_COLUMNS)
