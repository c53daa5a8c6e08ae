"""The predecessor's four validation numbers, to stand beside its published table (never to rank by).

All are taken on whole slices, background included, in the unit range [-1, 1] of the HU window [-1000, 1000]. Averages
run over slices; the predecessor averaged batch means, which gives its last, smaller batch the weight of a full one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.errors import MrictError

if TYPE_CHECKING:
    import torch

HU_LOW = -1000.0
HU_HIGH = 1000.0
SSIM_WINDOW = 7
VGG_SIDE = 224  # pixels, the side the predecessor resized to before VGG16

Features = Callable[["torch.Tensor"], "torch.Tensor"]  # (B, 3, H, W) => (B, ...)


def to_unit(hu: np.ndarray) -> np.ndarray:
    """Return HU clipped to [-1000, 1000] and mapped to [-1, 1], float32."""
    middle, half = (HU_HIGH + HU_LOW) / 2, (HU_HIGH - HU_LOW) / 2
    return ((np.clip(np.asarray(hu, np.float32), HU_LOW, HU_HIGH) - middle) / half).astype(np.float32)


def predecessor_scores(real_hu: np.ndarray, fake_hu: np.ndarray) -> dict[str, float]:
    """Return {"mse", "ssim"} of a stack of slices in HU, both (N, H, W): the mean of the per-slice values."""
    real, fake = to_unit(real_hu), to_unit(fake_hu)
    return {"mse": float(predecessor_mse(real, fake).mean()), "ssim": float(predecessor_ssim(real, fake).mean())}


def predecessor_mse(real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
    """Return the mean squared error of every slice, (N, H, W) in [-1, 1] twice => (N,) float64; 1 unit is 1000 HU."""
    check_stacks(real_unit, fake_unit)
    return np.square(real_unit.astype(np.float64) - fake_unit).mean(axis=(1, 2))


def predecessor_ssim(real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
    """Return the structural similarity of every slice, (N, H, W) in [-1, 1] twice => (N,) float64.

    Uniform 7x7 window over the full slice, data_range = max - min of the *real* slice. A constant real slice has no
    range of its own, and the formula would divide zero by zero: there the whole range, 2.0, is used.
    """
    from skimage.metrics import structural_similarity

    check_stacks(real_unit, fake_unit)
    return np.array(
        [
            structural_similarity(real, fake, win_size=SSIM_WINDOW, data_range=float(np.ptp(real)) or 2.0)
            for real, fake in zip(real_unit.astype(np.float64), fake_unit.astype(np.float64), strict=True)
        ]
    )


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
    VGG16 [:16] without ImageNet normalisation after a bilinear, antialiased resize to 224; `side=None` keeps the size
    of the slices.
    """
    import torch

    check_stacks(real_unit, fake_unit)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(real_unit), batch_size):
            part = slice(start, start + batch_size)
            real, fake = (features(_resized(_rgb(stack[part]).to(device), side)) for stack in (real_unit, fake_unit))
            total += float((real.double() - fake.double()).square().flatten(1).mean(dim=1).sum())
    return total / len(real_unit)


class FrechetDistance:
    """The Fréchet distance between the feature clouds of real and synthetic slices, fed part by part.

    `features` maps uint8 images (B, 3, H, W) on `device` to vectors (B, D), at most `batch_size` at a time. The images
    are made as the predecessor made them, clamp(255 x, 0, 255), so only 0 to 1000 HU is seen. It needs two slices of
    each kind; below 2048 slices the value is biased upwards and must be shown with N.
    """

    def __init__(self, features: Features, device: torch.device | str = "cpu", batch_size: int = 32) -> None:
        self.features, self.device, self.batch_size = features, device, batch_size
        self.count = 0
        self.metric: torch.nn.Module | None = None  # made with the first images, which tell the vectors' length

    def update(self, real_unit: np.ndarray, fake_unit: np.ndarray) -> None:
        """Take in real and synthetic slices, (N, H, W) in [-1, 1] twice."""
        import torch
        from torchmetrics.image.fid import FrechetInceptionDistance

        with torch.no_grad():
            if self.metric is None:
                length = int(self.features(_uint8(real_unit[:1]).to(self.device)).shape[1])
                self.metric = FrechetInceptionDistance(feature=_adapter(self.features, length))  # sums on the CPU
            for start in range(0, len(real_unit), self.batch_size):
                part = slice(start, start + self.batch_size)
                self.metric.update(_uint8(real_unit[part]).to(self.device), real=True)
                self.metric.update(_uint8(fake_unit[part]).to(self.device), real=False)
        self.count += len(real_unit)

    def compute(self) -> float:
        """Return the distance over everything taken in."""
        if self.count < 2:
            raise MrictError(f"the Fréchet distance needs at least 2 slices, {self.count} was given; score more slices")
        return max(0.0, float(self.metric.compute()))  # rounding can leave equal clouds just below zero


def _adapter(features: Features, count: int) -> torch.nn.Module:
    """Return `features` as the module that torchmetrics asks for: with `num_features`, float64 vectors on the CPU."""
    import torch

    class Adapter(torch.nn.Module):
        num_features = count

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return features(images).double().cpu()

    return Adapter()


def _rgb(stack: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32))[:, None].repeat(1, 3, 1, 1)


def _uint8(stack: np.ndarray) -> torch.Tensor:
    import torch

    return (_rgb(stack) * 255).clamp(0, 255).to(torch.uint8)


def _resized(images: torch.Tensor, side: int | None) -> torch.Tensor:
    import torch

    if side is None:
        return images
    return torch.nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def check_stacks(real: np.ndarray, fake: np.ndarray) -> None:
    """Raise MrictError unless both are finite stacks (N, H, W) of one shape, large enough for SSIM's window."""
    if real.ndim != 3 or real.shape != fake.shape or not len(real):
        raise MrictError(f"slice stacks must be (N, H, W) of one shape: real has {real.shape}, fake {fake.shape}")
    if min(real.shape[1:]) < SSIM_WINDOW:
        raise MrictError(f"slices must be at least {SSIM_WINDOW}×{SSIM_WINDOW} pixels, they are {real.shape[1:]}")
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise MrictError("a slice holds NaN or infinite values; it cannot be scored")
