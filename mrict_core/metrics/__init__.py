"""Image metrics from numpy arrays. Each is a row of the table, with the card that defines it."""

from mrict_core.hu import RANGES, HuRange, range_of
from mrict_core.metrics.case import Case
from mrict_core.metrics.clinical import counts, curves
from mrict_core.metrics.metric import BETTER, CARD_FIELDS, CARD_LABELS, NOTHING, Metric
from mrict_core.metrics.predecessor import (
    FrechetDistance,
    predecessor_mse,
    predecessor_scores,
    predecessor_ssim,
    predecessor_vgg,
    to_unit,
)
from mrict_core.metrics.synthrad import SsimScore, mae_hu, ms_ssim, psnr_db, ssim, structure
from mrict_core.metrics.table import (
    PANELS,
    PROTOCOLS,
    TABLE,
    definitions,
    heading,
    keys,
    metric,
    protocol_scores,
    recorded,
    score_case,
    values,
)
from mrict_core.metrics.twins import corrected_mse, corrected_ssim

__all__ = [
    "BETTER",
    "CARD_FIELDS",
    "CARD_LABELS",
    "NOTHING",
    "PANELS",
    "PROTOCOLS",
    "RANGES",
    "TABLE",
    "Case",
    "FrechetDistance",
    "HuRange",
    "Metric",
    "SsimScore",
    "corrected_mse",
    "corrected_ssim",
    "counts",
    "curves",
    "definitions",
    "heading",
    "keys",
    "mae_hu",
    "metric",
    "ms_ssim",
    "predecessor_mse",
    "predecessor_scores",
    "predecessor_ssim",
    "predecessor_vgg",
    "protocol_scores",
    "psnr_db",
    "range_of",
    "recorded",
    "score_case",
    "ssim",
    "structure",
    "to_unit",
    "values",
]
