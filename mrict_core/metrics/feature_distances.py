"""Feature metrics of slices: FID, KID with a patient bootstrap, LPIPS, VGG. Networks are arguments.

Images are HU clipped to the whole window, air outside the scoring mask, without augmentation. A value that would be
misleading is absent, with a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.hu import SYNTHRAD2023
from mrict_core.metrics import frechet
from mrict_core.metrics.metric import Metric
from mrict_core.metrics.predecessor import in_batches, predecessor_vgg
from mrict_core.metrics.statistics import bootstrap_mean

if TYPE_CHECKING:
    import torch

FID_MIN_SLICES = 2048  # dimensions of the Inception features: below it the covariance is singular
KID_MIN_SLICES = 10
KID_FEW_SLICES = 100
LPIPS_SIDE_MIN = 64  # pixels; smaller slices are padded with air
RESAMPLES = 1000
LEVEL = (2.5, 97.5)  # per cent
BATCH = 32
Embedding = Callable[["torch.Tensor"], "torch.Tensor"]  # (B, 3, H, W) uint8 => (B, D)


@dataclass(frozen=True)
class FeatureScore:
    """One feature metric of one model; without a `value`, `reason` says why."""

    name: str
    value: float | None = None
    low: float | None = None  # 95 % patient bootstrap
    high: float | None = None
    n: int = 0  # slices
    patients: int = 0
    weights: str = ""
    weights_hash: str = ""
    reason: str = ""
    warning: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the score as plain json values."""
        return dataclasses.asdict(self)


def to_unit_range(hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return slices for a network: [-1024, 3000] HU to [-1, 1], -1 outside the mask.  # (N, H, W) => float32"""
    return np.where(mask, SYNTHRAD2023.to_unit(hu), np.float32(-1))


def to_uint8(hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return slices as grey values: [-1024, 3000] HU to 0…255, 0 outside the mask.  # (N, H, W) => uint8"""
    return np.rint((to_unit_range(hu, mask) + 1) * 127.5).astype(np.uint8)


def embed(images: np.ndarray, features: Embedding, device: torch.device | str = "cpu") -> np.ndarray:
    """Return the features of grey images, three equal channels.  # (N, H, W) uint8 => (N, D) float64"""
    import torch

    def look(part: np.ndarray) -> torch.Tensor:
        return features(torch.from_numpy(part)[:, None].repeat(1, 3, 1, 1).to(device)).double().cpu()

    return in_batches(images, look, BATCH).numpy()


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the Fréchet distance of two clouds of features, (N, D) and (M, D)."""
    return frechet.frechet_distance(frechet.Cloud.of(real), frechet.Cloud.of(fake))


def kid(
    real: np.ndarray, fake: np.ndarray, groups: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Return (KID, low, high): the unbiased squared MMD with the cubic kernel, and its 95 % patient bootstrap.

    real, fake: (N, D) features of the same slices; groups: (N,) the patient of each. Binkowski et al. 2018, on all
    slices at once. The bootstrap draws patients; a slice drawn twice is not paired with itself. One patient has no
    interval (NaN).
    """
    import torch
    from torchmetrics.image.kid import poly_kernel

    x, y = (torch.from_numpy(np.asarray(cloud, np.float64)) for cloud in (real, fake))
    kernels = [poly_kernel(a, b).numpy() for a, b in ((x, x), (y, y), (x, y))]
    labels, which = np.unique(groups, return_inverse=True)
    ones = np.ones((1, len(which)))
    value = float(_mmd(*kernels, ones)[0])
    if len(labels) < 2:
        return value, float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(labels), size=(resamples, len(labels)))
    times = (draws[:, :, None] == np.arange(len(labels))).sum(axis=1)  # how often each patient was drawn
    times = times[(times > 0).sum(axis=1) > 1]  # a sample with one patient only is not used
    low, high = np.percentile(_mmd(*kernels, times[:, which].astype(float)), LEVEL)
    return value, float(low), float(high)


def _mmd(k_xx: np.ndarray, k_yy: np.ndarray, k_xy: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the unbiased squared MMD of slices weighted by how often they were drawn, weights (B, N) => (B,).

    Sums run over pairs of different slices; with all weights 1 this is the usual estimator.
    """
    total, squares = weights.sum(axis=1), np.square(weights)
    within = sum(((weights @ k) * weights).sum(axis=1) - squares @ np.diag(k) for k in (k_xx, k_yy))
    pairs = total**2 - squares.sum(axis=1)
    between = ((weights @ k_xy) * weights).sum(axis=1)
    return within / pairs - 2 * between / total**2


def lpips(
    real_unit: np.ndarray, fake_unit: np.ndarray, network: Callable, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Return the perceptual distance of every pair of slices, (N, H, W) in [-1, 1] twice => (N,) float64."""
    import torch

    gaps = [max(0, LPIPS_SIDE_MIN - n) for n in real_unit.shape[1:]]
    padding = [(0, 0), *((g // 2, g - g // 2) for g in gaps)]
    stacks = [np.pad(stack, padding, constant_values=-1.0) for stack in (real_unit, fake_unit)]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(real_unit), BATCH):
            pair = (torch.from_numpy(np.ascontiguousarray(s[start : start + BATCH], np.float32)) for s in stacks)
            parts.append(network(*(p[:, None].repeat(1, 3, 1, 1).to(device) for p in pair)).double().cpu().numpy())
    return np.concatenate(parts)


def vgg_error(
    real_unit: np.ndarray, fake_unit: np.ndarray, network: Callable, device: torch.device | str = "cpu"
) -> float:
    """Return the mean squared difference of VGG16 features at 224 x 224, averaged over slices, (N, H, W) in [-1, 1].

    The corrected twin of the predecessor's: ImageNet normalisation in the network, the whole window, air outside the
    mask.
    """
    return predecessor_vgg(real_unit, fake_unit, network, device=device)


class FeatureCollector:
    """Collects features, patient by patient, for FID, KID, LPIPS and corrected VGG; images are not kept.

    networks: {"inception": …, "lpips": …, "vgg": …}, modules with `name` and `weights_hash`, or the MrictError why one
    is not available; its metrics are then absent for that reason.
    """

    def __init__(self, networks: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        self.networks, self.device = networks, device
        self.slices: list[int] = []  # of each patient
        self.clouds: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self.means: dict[str, list[float]] = {"lpips": [], "corrected_vgg": []}

    def add(self, real_hu: np.ndarray, fake_hu: np.ndarray, mask: np.ndarray) -> None:
        """Add a patient's slices, (N, S, S) HU twice and bool."""
        self.slices.append(len(real_hu))
        inception, lpips_network, vgg = (self.networks[role] for role in ("inception", "lpips", "vgg"))
        if not isinstance(inception, MrictError):
            for cloud, hu in zip(self.clouds, (real_hu, fake_hu), strict=True):
                cloud.append(embed(to_uint8(hu, mask), inception, self.device))
        pair = [to_unit_range(hu, mask) for hu in (real_hu, fake_hu)]
        if not isinstance(lpips_network, MrictError):
            self.means["lpips"].append(float(lpips(*pair, lpips_network, self.device).mean()))
        if not isinstance(vgg, MrictError):
            self.means["corrected_vgg"].append(vgg_error(*pair, vgg, self.device))

    def scores(self) -> list[FeatureScore]:
        """Return the scores of all added patients, in the order fid, kid, lpips, corrected_vgg."""
        base = {"n": sum(self.slices), "patients": len(self.slices)}
        inception = self.networks["inception"]
        if isinstance(inception, MrictError):
            found = [FeatureScore(name, reason=str(inception), **base) for name in ("fid", "kid")]
        else:
            named = base | {"weights": inception.name, "weights_hash": inception.weights_hash}
            real, fake = (np.concatenate(cloud) for cloud in self.clouds)
            groups = np.repeat(np.arange(len(self.slices)), self.slices)
            found = [_fid_score(real, fake, named), _kid_score(real, fake, groups, named)]
        for name, role in (("lpips", "lpips"), ("corrected_vgg", "vgg")):
            network = self.networks[role]
            if isinstance(network, MrictError):
                found.append(FeatureScore(name, reason=str(network), **base))
            else:
                named = base | {"weights": network.name, "weights_hash": network.weights_hash}
                low, high = map(float, bootstrap_mean(np.array(self.means[name])))
                found.append(_with_interval(name, float(np.mean(self.means[name])), low, high, [], named))
        return found


def _fid_score(real: np.ndarray, fake: np.ndarray, named: Mapping[str, Any]) -> FeatureScore:
    if len(real) < 2:
        return FeatureScore("fid", reason="needs at least 2 slices", **named)
    warning = ""
    if len(real) < FID_MIN_SLICES:
        warning = f"{len(real)} slices of at least {FID_MIN_SLICES}: biased upwards, not for ranking"
    return FeatureScore("fid", frechet_distance(real, fake), warning=warning, **named)


def _kid_score(real: np.ndarray, fake: np.ndarray, groups: np.ndarray, named: Mapping[str, Any]) -> FeatureScore:
    if len(real) < KID_MIN_SLICES:
        return FeatureScore("kid", reason=f"{len(real)} slices of at least {KID_MIN_SLICES}", **named)
    value, low, high = kid(real, fake, groups)
    remarks = []
    if len(real) < KID_FEW_SLICES:
        remarks.append(f"{len(real)} slices: unbiased, but very uncertain")
    return _with_interval("kid", value, low, high, remarks, named)


def _with_interval(
    name: str, value: float, low: float, high: float, remarks: Sequence[str], named: Mapping[str, Any]
) -> FeatureScore:
    if np.isnan(low):
        return FeatureScore(name, value, warning="; ".join([*remarks, "one patient: no interval"]), **named)
    return FeatureScore(name, value, low, high, warning="; ".join(remarks), **named)


_RANGE = f"{SYNTHRAD2023}, the whole window"
_INCEPTION = "Inception v3 of the FID (2048-d) by torch-fidelity; the file's hash is given with each value"
_RESIZE = "resized to 299 x 299 inside the network as in TensorFlow 1, without antialiasing; three equal channels"
_PATIENTS = "mean over the slices of a patient, then over patients; 95 % bootstrap over patients"
_row = partial(
    Metric, panels=("features",), mask="the data set's own mask; air outside it", dimensionality="2D", better="lower"
)

METRICS = (  # of all slices together, by FeatureCollector
    _row(
        *("fid", "FID", "Fréchet inception distance", "1", 1),
        range=f"{_RANGE}, to 0…255",
        aggregation="one value per set of slices",
        weights=_INCEPTION,
        note="Fréchet distance by metrics/frechet.py; biased upwards below 2048 slices, then not for ranking; "
        f"{_RESIZE}",
    ),
    _row(
        *("kid", "KID", "kernel inception distance", "1", 4),
        range=f"{_RANGE}, to 0…255",
        aggregation="one value per set of slices; 95 % bootstrap over patients",
        weights=_INCEPTION,
        note="unbiased squared maximum mean discrepancy of all slices at once, with the cubic kernel of torchmetrics; "
        f"{_RESIZE}",
    ),
    _row(
        *("lpips", "LPIPS", "learned perceptual image patch similarity", "1", 4),
        range=f"{_RANGE}, to [-1, 1]",
        aggregation=_PATIENTS,
        weights="SqueezeNet 1.1 of torchvision and the LPIPS v0.1 head; the backbone's hash is given with each value",
        note="learned perceptual distance by torchmetrics; three equal channels; slices below 64 pixels padded with "
        "air; trained on photographs, not on CT",
    ),
    _row(
        *("corrected_vgg", "corr. VGG", "corrected VGG distance", "1", 3),
        range=f"{_RANGE}, to [-1, 1], then ImageNet normalisation",
        aggregation=_PATIENTS,
        weights="VGG16 of torchvision up to relu3_3; the file's hash is given with each value",
        note="mean squared difference of features at 224 x 224: predecessor_vgg with ImageNet normalisation, over the "
        "whole window, inside the mask, without augmentation",
    ),
)
