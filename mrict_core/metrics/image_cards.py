"""Cards of the SynthRAD2023 metrics and of the predecessor's own numbers."""

from __future__ import annotations

from mrict_core.metrics.cards import MetricCard

_SCORING_MASK = "the data set's own mask, mask > 0, on the original grid"
_SYNTHRAD = "SynthRAD2023 definition after 14 July 2023; numbers published earlier are not comparable"
_CASES = "mean over the cases; SD with ddof 1"
_UNIT_RANGE = "[-1000, 1000] HU clipped and mapped to [-1, 1]"
_SLICES = "mean over the slices of a case, then over the cases (the predecessor averaged batch means)"
_PREDECESSOR = "the predecessor's number, shown beside its published table, never ranked by; background dominates it"

IMAGE_CARDS = (
    MetricCard(
        name="mae_hu",
        unit="HU",
        better="lower",
        range="HU as they are, no clipping",
        mask=_SCORING_MASK,
        dimensionality="3D",
        aggregation=_CASES,
        weights="none",
        note=_SYNTHRAD,
    ),
    MetricCard(
        name="psnr_db",
        unit="dB",
        better="higher",
        range="both clipped to [-1024, 3000] HU; peak 4024",
        mask=_SCORING_MASK,
        dimensionality="3D",
        aggregation=_CASES,
        weights="none",
        note=f"{_SYNTHRAD}; equal volumes score infinity, written as null in json and left out of the mean",
        absent="the two images are equal, the ratio is infinite",
    ),
    MetricCard(
        name="ssim",
        unit="1",
        better="higher",
        range="both clipped to [-1024, 3000] HU, -1024 outside the mask; data_range 4024",
        mask=f"{_SCORING_MASK}; map averaged inside it after cropping 3 voxels from every face",
        dimensionality="3D",
        aggregation=_CASES,
        weights="none",
        note=f"uniform 7x7x7 window, sample covariance, K1 0.01, K2 0.03; {_SYNTHRAD}",
    ),
    MetricCard(
        name="ssim_2d",
        unit="1",
        better="higher",
        range="both clipped to [-1024, 3000] HU, -1024 outside the mask; data_range 4024",
        mask=f"{_SCORING_MASK}; maps averaged inside it after cropping 3 pixels from every edge of the slices",
        dimensionality="2D",
        aggregation=f"pooled over the masked pixels of a case's slices; {_CASES}",
        weights="none",
        note="stands in for ssim where a volume is thinner than 7 voxels: uniform 7x7 window per slice along the "
        "thin axis, same constants; not a SynthRAD number",
    ),
    MetricCard(
        name="ms_ssim",
        unit="1",
        better="higher",
        range="both clipped to [-1024, 3071] HU, -1024 outside the mask; data_range 4095",
        mask=f"{_SCORING_MASK}; map averaged inside it at every scale after cropping 3 voxels from every face",
        dimensionality="3D",
        aggregation=_CASES,
        weights="none",
        note="five scales, uniform 7x7x7 window, sample covariance, K1 0.01, K2 0.03; SynthRAD2025 definition as its "
        "code runs: luminance at every scale, exponents voxel by voxel",
    ),
    MetricCard(
        name="predecessor_mse",
        unit="1",
        better="lower",
        range=_UNIT_RANGE,
        mask="none: the full slice on the canvas, background included",
        dimensionality="2D",
        aggregation=_SLICES,
        weights="none",
        note=f"1 unit is 1000 HU; {_PREDECESSOR}",
    ),
    MetricCard(
        name="predecessor_ssim",
        unit="1",
        better="higher",
        range=f"{_UNIT_RANGE}; data_range = max - min of the real slice (2.0 where that slice is constant)",
        mask="none: the full slice on the canvas, background included",
        dimensionality="2D",
        aggregation=_SLICES,
        weights="none",
        note=f"uniform 7x7 window, sample covariance; {_PREDECESSOR}: an all-black output reached 0.688",
    ),
    MetricCard(
        name="predecessor_fid",
        unit="1",
        better="lower",
        range=f"{_UNIT_RANGE}, then uint8 = clamp(255 x, 0, 255): everything below 0 HU is 0",
        mask="none: the full slice on the canvas, background included",
        dimensionality="2D",
        aggregation="one value per set of slices",
        weights="named with each value",
        note="Fréchet distance by metrics/frechet.py; biased upwards below 2048 slices and then never ranked by; "
        "comparable with published FID only with the 2048-d Inception weights",
    ),
    MetricCard(
        name="predecessor_vgg",
        unit="1",
        better="lower",
        range=_UNIT_RANGE,
        mask="none: the full slice on the canvas, background included",
        dimensionality="2D",
        aggregation=_SLICES,
        weights="named with each value",
        note="mean squared difference of features; the predecessor's are VGG16 [:16] at 224 x 224 without "
        "ImageNet normalisation; another feature network gives another scale",
    ),
)
