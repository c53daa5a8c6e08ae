"""Cards of the corrected twins."""

from __future__ import annotations

from mrict_core.metrics.cards import MetricCard

_RANGE = "[-1000, 1000] HU clipped and mapped to [-1, 1], the same for every slice"
_MASK = "the data set's own mask, mask > 0, on the canvas"
_POOLED = "pooled over the masked voxels of a case's slices; mean over the cases; SD with ddof 1"

TWIN_CARDS = (
    MetricCard(
        name="corrected_mse",
        unit="1",
        better="lower",
        range=_RANGE,
        mask=_MASK,
        dimensionality="2D",
        aggregation=_POOLED,
        weights="none",
        note="predecessor_mse without the background; 1 unit is 1000 HU; no augmentation",
    ),
    MetricCard(
        name="corrected_ssim",
        unit="1",
        better="higher",
        range=f"{_RANGE}; data_range 2",
        mask=f"{_MASK}; air outside it; 3 pixels at the edges of a slice left out",
        dimensionality="2D",
        aggregation=_POOLED,
        weights="none",
        note="predecessor_ssim without the background and with one range for all slices; no augmentation",
    ),
)
