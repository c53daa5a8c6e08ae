"""Evaluation: per-patient scores, trivial baselines, and the records that tables and figures are made from."""

from mrict_core.evaluation.baselines import baseline_predictors
from mrict_core.evaluation.records import (
    centre_table,
    leaderboard,
    metrics_record,
    read_metrics,
    read_record,
    summarise,
    write_metrics,
)
from mrict_core.evaluation.scores import COLUMNS, METRICS, Predict, score_patients

__all__ = [
    "COLUMNS",
    "METRICS",
    "Predict",
    "baseline_predictors",
    "centre_table",
    "leaderboard",
    "metrics_record",
    "read_metrics",
    "read_record",
    "score_patients",
    "summarise",
    "write_metrics",
]
