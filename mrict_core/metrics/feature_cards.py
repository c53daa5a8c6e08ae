"""Cards of the feature metrics."""

from __future__ import annotations

from mrict_core.metrics.cards import MetricCard

_RANGE = "[-1024, 3000] HU, the whole window"
_MASK = "the data set's own mask; air outside it"
_INCEPTION = "Inception v3 of the FID (2048-d) by torch-fidelity; its file's hash stands with each value"
_RESIZE = "resized to 299 x 299 inside the network as TensorFlow 1 did, without antialiasing; three equal channels"

FEATURE_CARDS = (
    MetricCard(
        name="fid",
        unit="1",
        better="lower",
        range=f"{_RANGE}, to 0…255",
        mask=_MASK,
        dimensionality="2D",
        aggregation="one value per set of slices",
        weights=_INCEPTION,
        note="Fréchet distance by metrics/frechet.py; biased upwards below 2048 slices and then never ranked by; "
        f"{_RESIZE}",
    ),
    MetricCard(
        name="kid",
        unit="1",
        better="lower",
        range=f"{_RANGE}, to 0…255",
        mask=_MASK,
        dimensionality="2D",
        aggregation="one value per set of slices; 95 % bootstrap over patients",
        weights=_INCEPTION,
        note="unbiased squared maximum mean discrepancy, cubic kernel of torchmetrics, all slices at once by "
        f"metrics/features.py; {_RESIZE}",
    ),
    MetricCard(
        name="lpips",
        unit="1",
        better="lower",
        range=f"{_RANGE}, to [-1, 1]",
        mask=_MASK,
        dimensionality="2D",
        aggregation="mean over the slices of a patient, then over patients; 95 % bootstrap over patients",
        weights="SqueezeNet 1.1 of torchvision and the LPIPS v0.1 head; the backbone's hash stands with each value",
        note="learned perceptual distance by torchmetrics; three equal channels; slices below 64 pixels padded with "
        "air; trained on photographs, not on CT",
    ),
    MetricCard(
        name="corrected_vgg",
        unit="1",
        better="lower",
        range=f"{_RANGE}, to [-1, 1], then ImageNet's mean and spread",
        mask=_MASK,
        dimensionality="2D",
        aggregation="mean over the slices of a patient, then over patients; 95 % bootstrap over patients",
        weights="VGG16 of torchvision up to relu3_3; its file's hash stands with each value",
        note="mean squared difference of features at 224 x 224: predecessor_vgg with ImageNet normalisation, the whole "
        "window, inside the mask, without augmentation",
    ),
)
