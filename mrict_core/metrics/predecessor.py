"""The predecessor's four validation numbers, for comparison with its published table (never for ranking).

All are computed on whole slices, background included, in the unit range [-1, 1] of the HU window [-1000, 1000]. Means
are over slices; the predecessor averaged batch means, which gives its smaller last batch the weight of a full one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.hu import PREDECESSOR
from mrict_core.machine import cpu_count
from mrict_core.metrics.frechet import Cloud, frechet_distance, joined
from mrict_core.metrics.metric import Metric
from mrict_core.metrics.plane_ssim import PlaneSsim

if TYPE_CHECKING:
    import torch

    from mrict_core.metrics.case import Case

SSIM_WINDOW = 7
VGG_SIDE = 224  # pixels, the side the predecessor resized to before VGG16

Features = Callable[["torch.Tensor"], "torch.Tensor"]  # (B, 3, H, W) => (B, ...)


def to_unit(hu: np.ndarray) -> np.ndarray:
    """Return HU clipped to [-1000, 1000] and mapped to [-1, 1], float32."""
    middle, half = (PREDECESSOR.high + PREDECESSOR.low) / 2, PREDECESSOR.width / 2
    return ((PREDECESSOR.clip(np.asarray(hu, np.float32)) - middle) / half).astype(np.float32)


def predecessor_scores(real_hu: np.ndarray, fake_hu: np.ndarray) -> dict[str, float]:
    """Return {"mse", "ssim"} of a stack of slices in HU, both (N, H, W): the mean of the per-slice values."""
    mse, ssim = slice_scores(to_unit(real_hu), to_unit(fake_hu))
    return {"mse": float(mse.mean()), "ssim": float(ssim.mean())}


def slice_scores(real_unit: np.ndarray, fake_unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `predecessor_mse` and `predecessor_ssim` of every slice, (N,) float64 each, on all CPUs."""
    check_stacks(real_unit, fake_unit)
    workers = min(cpu_count(), len(real_unit))
    shares = (np.array_split(stack, workers) for stack in (real_unit, fake_unit))

    def run(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _mse(real, fake), _ssim(real, fake)

    with ThreadPoolExecutor(workers) as pool:
        mse, ssim = zip(*pool.map(run, *shares), strict=True)
    return np.concatenate(mse), np.concatenate(ssim)


def predecessor_mse(real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
    """Return the mean squared error of every slice, (N, H, W) in [-1, 1] twice => (N,) float64; 1 unit is 1000 HU."""
    check_stacks(real_unit, fake_unit)
    return _mse(real_unit, fake_unit)


def predecessor_ssim(real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
    """Return the structural similarity of every slice, (N, H, W) in [-1, 1] twice => (N,) float64.

    Uniform 7x7 window over the full slice, data_range = max - min of the *real* slice: scikit-image's value. For a
    constant real slice, whose range is 0, the whole range 2.0 is used.
    """
    check_stacks(real_unit, fake_unit)
    return _ssim(real_unit, fake_unit)


def _mse(real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
    import cv2

    pairs = zip(real_unit, fake_unit, strict=True)
    return np.array([cv2.norm(real, fake, cv2.NORM_L2SQR) / real.size for real, fake in pairs])  # sums are float64


def _ssim(real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
    similarity = PlaneSsim(real_unit.shape[1:])
    widths = (float(real.max()) - float(real.min()) or 2.0 for real in real_unit)
    return np.array([similarity(*planes) for planes in zip(real_unit, fake_unit, widths, strict=True)])


def vgg_features(
    stack_unit: np.ndarray,
    features: Features,
    side: int | None = VGG_SIDE,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> torch.Tensor:
    """Return the features of slices, (N, H, W) in [-1, 1], as used by `predecessor_vgg`."""
    return in_batches(stack_unit, lambda part: features(_rgb(_resized(_grey(part).to(device), side))), batch_size)


def feature_errors(real: torch.Tensor, fake: torch.Tensor) -> np.ndarray:
    """Return the mean squared difference of two batches of features, (B, ...) twice => (B,) float64."""
    import torch

    gap = (real - fake).flatten(1)
    norms = torch.linalg.vector_norm(gap, dim=1, dtype=torch.float64)
    return (norms.square() / gap.shape[1]).cpu().numpy()


def predecessor_vgg(
    real_unit: np.ndarray,
    fake_unit: np.ndarray,
    features: Features,
    *,
    side: int | None = VGG_SIDE,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> float:
    """Return the mean squared difference of features, averaged over slices; the stacks are (N, H, W) in [-1, 1].

    `features` maps (B, 3, side, side) in [-1, 1] on `device`, three equal channels, to features. The predecessor's are
    VGG16 [:16] without ImageNet normalisation after a bilinear, antialiased resize to 224; `side=None` keeps the slice
    size.
    """
    check_stacks(real_unit, fake_unit)
    total = 0.0
    for start in range(0, len(real_unit), batch_size):
        part = slice(start, start + batch_size)
        pair = (vgg_features(stack[part], features, side, device) for stack in (real_unit, fake_unit))
        total += float(feature_errors(*pair).sum())
    return total / len(real_unit)


def frechet_vectors(
    stack_unit: np.ndarray, features: Features, device: torch.device | str = "cpu", batch_size: int = 32
) -> np.ndarray:
    """Return the vectors for the Fréchet distance, (N, H, W) in [-1, 1] => (N, D).

    `features` maps uint8 images (B, 3, H, W) on `device` to vectors (B, D), at most `batch_size` at a time. Images
    are made as in the predecessor, clamp(255 x, 0, 255), so only 0 to 1000 HU is visible.
    """
    vectors = in_batches(stack_unit, lambda part: features(_rgb(_uint8(part).to(device))), batch_size)
    return vectors.cpu().numpy()


class FrechetDistance:
    """The Fréchet distance between the feature clouds of real and synthetic slices, added part by part.

    See `frechet_vectors` for `features` and the images. It needs two slices of each kind; below 2048 slices the value
    is biased upwards and must be shown with N.
    """

    def __init__(self, features: Features, device: torch.device | str = "cpu", batch_size: int = 32) -> None:
        self.features, self.device, self.batch_size = features, device, batch_size
        self.real: list[np.ndarray] = []
        self.fake: list[np.ndarray] = []

    def update(self, real_unit: np.ndarray, fake_unit: np.ndarray) -> None:
        """Add real and synthetic slices, (N, H, W) in [-1, 1] twice."""
        for vectors, stack in ((self.real, real_unit), (self.fake, fake_unit)):
            vectors.append(frechet_vectors(stack, self.features, self.device, self.batch_size))

    def compute(self) -> float:
        """Return the distance over all slices added."""
        return frechet_distance(Cloud.of(joined(self.real)), Cloud.of(joined(self.fake)))


def in_batches(stack: np.ndarray, look: Callable[[np.ndarray], torch.Tensor], batch_size: int) -> torch.Tensor:
    """Return `look` of all slices, `batch_size` at a time."""
    import torch

    with torch.inference_mode():
        return torch.cat([look(stack[start : start + batch_size]) for start in range(0, len(stack), batch_size)])


def _grey(stack: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32))[:, None]


def _rgb(images: torch.Tensor) -> torch.Tensor:
    return images.expand(-1, 3, -1, -1)


def _uint8(stack: np.ndarray) -> torch.Tensor:
    import torch

    return (_grey(stack) * 255).clamp(0, 255).to(torch.uint8)


def _resized(images: torch.Tensor, side: int | None) -> torch.Tensor:
    import torch

    if side is None:
        return images
    return torch.nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def check_stacks(real: np.ndarray, fake: np.ndarray) -> None:
    """Raise MrictError unless both are finite stacks (N, H, W) of one shape, large enough for SSIM's window."""
    if real.ndim != 3 or real.shape != fake.shape or not len(real):
        raise MrictError(f"slice stacks must be (N, H, W) of one shape; real has {real.shape}, fake {fake.shape}")
    if min(real.shape[1:]) < SSIM_WINDOW:
        raise MrictError(f"slices must be at least {SSIM_WINDOW}×{SSIM_WINDOW} pixels; got {real.shape[1:]}")
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise MrictError("a slice has NaN or infinite values and cannot be scored")


def _means(case: Case) -> dict[str, float]:
    return case.once(_of_slices, case.slices)


def _of_slices(_ct: np.ndarray, _sct: np.ndarray, _inside: np.ndarray, slices: tuple) -> dict[str, float]:
    return predecessor_scores(*slices[:2])


_RANGE = f"{PREDECESSOR} clipped and mapped to [-1, 1]"
_OLD = "the predecessor's number, for comparison with its published table, not for ranking; dominated by background"
_row = partial(
    Metric,
    mask="none: the full slice on the canvas, background included",
    dimensionality="2D",
    aggregation="mean over the slices of a case, then over the cases (the predecessor averaged batch means)",
)

METRICS = (
    _row(
        *("predecessor_mse", "pred. MSE", "predecessor’s MSE", "1", 4, "lower"),
        panels=("predecessor", "procedure", "controls"),
        range=_RANGE,
        note=f"1 unit is 1000 HU; {_OLD}",
        value=lambda case: _means(case)["mse"],
        error=lambda mse: mse**0.5,
    ),
    _row(
        *("predecessor_ssim", "pred. SSIM", "predecessor’s SSIM", "1", 4, "higher"),
        panels=("predecessor", "procedure", "controls", "validation"),
        range=f"{_RANGE}; data_range = max - min of the real slice (2.0 if it is constant)",
        note=f"uniform 7x7 window, sample covariance; {_OLD}: an all-black output reached 0.688",
        value=lambda case: _means(case)["ssim"],
    ),
    _row(
        *("predecessor_fid", "pred. FID", "predecessor’s FID", "1", 1, "lower", ("procedure",)),
        range=f"{_RANGE}, then uint8 = clamp(255 x, 0, 255): everything below 0 HU is 0",
        aggregation="one value per set of slices",
        weights="named with each value",
        note="Fréchet distance by metrics/frechet.py; biased upwards below 2048 slices, then not for ranking; "
        "comparable with published FID only with the 2048-d Inception weights",
    ),
    _row(
        *("predecessor_vgg", "pred. VGG", "predecessor’s VGG distance", "1", 3, "lower", ("procedure",)),
        range=_RANGE,
        weights="named with each value",
        note="mean squared difference of features, in the predecessor VGG16 [:16] at 224 x 224 without ImageNet "
        "normalisation; the scale depends on the feature network",
    ),
)
NUMBERS = tuple(row.key.removeprefix("predecessor_") for row in METRICS)  # of its procedure, see `legacy.protocol`
