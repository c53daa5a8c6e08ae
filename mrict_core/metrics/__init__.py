"""Image metrics, numpy in and floats out, each with the card that defines it."""

from mrict_core.metrics.cards import CARDS, MetricCard, card
from mrict_core.metrics.predecessor import (
    FrechetDistance,
    predecessor_mse,
    predecessor_scores,
    predecessor_ssim,
    predecessor_vgg,
    to_unit,
)
from mrict_core.metrics.synthrad import SsimScore, mae_hu, psnr_db, ssim

__all__ = [
    "CARDS",
    "FrechetDistance",
    "MetricCard",
    "SsimScore",
    "card",
    "mae_hu",
    "predecessor_mse",
    "predecessor_scores",
    "predecessor_ssim",
    "predecessor_vgg",
    "psnr_db",
    "ssim",
    "to_unit",
]
