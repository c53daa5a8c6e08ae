"""Evaluation: scores per patient, trivial baselines, and the records behind tables and figures."""

from mrict_core.evaluation.baselines import baseline_predictions
from mrict_core.evaluation.leaderboards import centre_table, leaderboard, leave_out_table, pairwise_table, seeds_sd
from mrict_core.evaluation.predictions import Predictions, StoredPredictions
from mrict_core.evaluation.records import (
    combine_seeds,
    is_current,
    metrics_record,
    read_metrics,
    read_record,
    seeds_of,
    seeds_remark,
    shown_name,
    slices_remark,
    summarise,
    write_metrics,
)
from mrict_core.evaluation.scores import Scores, columns, score_patients

__all__ = [
    "Predictions",
    "Scores",
    "StoredPredictions",
    "baseline_predictions",
    "centre_table",
    "columns",
    "combine_seeds",
    "is_current",
    "leaderboard",
    "leave_out_table",
    "metrics_record",
    "pairwise_table",
    "read_metrics",
    "read_record",
    "score_patients",
    "seeds_of",
    "seeds_remark",
    "seeds_sd",
    "shown_name",
    "slices_remark",
    "summarise",
    "write_metrics",
]
