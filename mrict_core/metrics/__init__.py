"""Image metrics, numpy in and floats out, each with the card that defines it."""

from mrict_core.metrics.cards import MetricCard
from mrict_core.metrics.clinical import clinical_panel
from mrict_core.metrics.definitions import CARDS, card, card_in_range
from mrict_core.metrics.predecessor import (
    FrechetDistance,
    predecessor_mse,
    predecessor_scores,
    predecessor_ssim,
    predecessor_vgg,
    to_unit,
)
from mrict_core.metrics.synthrad import (
    PROTOCOLS,
    RANGES,
    HuRange,
    SsimScore,
    mae_hu,
    ms_ssim,
    psnr_db,
    score_case,
    ssim,
)
from mrict_core.metrics.twins import corrected_mse, corrected_ssim

__all__ = [
    "CARDS",
    "PROTOCOLS",
    "RANGES",
    "FrechetDistance",
    "HuRange",
    "MetricCard",
    "SsimScore",
    "card",
    "card_in_range",
    "clinical_panel",
    "corrected_mse",
    "corrected_ssim",
    "mae_hu",
    "ms_ssim",
    "predecessor_mse",
    "predecessor_scores",
    "predecessor_ssim",
    "predecessor_vgg",
    "psnr_db",
    "score_case",
    "ssim",
    "to_unit",
]
