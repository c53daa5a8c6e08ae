"""The predecessor's `validate()` after every epoch, as in its notebooks: nothing cached.

Per batch: G's pass; the mean squared error in [-1, 1]; scikit-image's structural similarity, one slice after the other,
in the range of each real slice; both images as uint8 through Inception into torchmetrics' FID; both images, resized to
224 x 224, through VGG16 [:16]. The mean of batch means; the FID over everything.

Where its description is silent, this is assumed: structural similarity in float64, the range 2 for a constant real
slice (its formula would divide by zero), no gradients, networks in torch's default layout. Added to it is the masked
MAE in HU, patient by patient, which the suite's validation takes too. The predecessor's loader flipped and rotated;
batches come here as they are, for a real side that is augmented anew every time could not be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms import functional as TF

Batch = tuple[Tensor, Tensor, Tensor]  # real_A, real_B, mask, (B, 1, H, W) each; real_B in [-1, 1] of [-1000, 1000] HU
HALF_HU = 1000.0  # HU of one unit
SIDE = 224


@torch.no_grad()
def validate(
    generator: nn.Module,
    patients: Sequence[Iterable[Batch]],
    inception: nn.Module | None,  # (B, 3, H, W) uint8 => (B, D), with `num_features`; None leaves the FID out
    vgg: Callable[[Tensor], Tensor] | None,  # (B, 3, 224, 224) in [-1, 1] => features; None leaves it out
    *,
    side: int | None = SIDE,  # None: no resize before VGG
    batch_means: bool = True,  # False: every slice counts the same, as in the suite's validation
) -> dict[str, float]:
    """Return mse, ssim, fid, vgg and mae_hu."""
    generator.eval()
    fid = FrechetInceptionDistance(feature=inception) if inception is not None else None
    means: dict[str, list[float]] = {"mse": [], "ssim": [], "vgg": []}
    sizes, mae_hu = [], []
    for batches in patients:
        errors = []
        for real_A, real_B, mask in batches:
            fake_B = generator(real_A)
            means["mse"].append(F.mse_loss(fake_B, real_B).item())
            means["ssim"].append(slice_ssim(real_B[:, 0].double().numpy(), fake_B[:, 0].double().numpy()))
            if fid is not None:
                fid.update(as_uint8(real_B), real=True)
                fid.update(as_uint8(fake_B), real=False)
            if vgg is not None:
                means["vgg"].append(F.mse_loss(vgg(as_rgb(fake_B, side)), vgg(as_rgb(real_B, side))).item())
            errors.append((HALF_HU * (real_B - fake_B).abs())[mask > 0].numpy())
            sizes.append(len(real_A))
        mae_hu.append(np.concatenate(errors).mean(dtype=np.float64))
    weights = None if batch_means else sizes
    found = {name: float(np.average(values, weights=weights)) for name, values in means.items() if values}
    if fid is not None:
        found["fid"] = fid.compute().item()
    return found | {"mae_hu": float(np.nanmean(mae_hu))}


def slice_ssim(real_slices: np.ndarray, fake_slices: np.ndarray) -> float:
    """Return the mean structural similarity of slices (N, H, W), whole slices, 7 x 7."""
    values = []
    for real, fake in zip(real_slices, fake_slices, strict=True):
        width = real.max() - real.min()
        values.append(structural_similarity(real, fake, win_size=7, data_range=width if width > 0 else 2.0))
    return float(np.mean(values))


def as_uint8(images: Tensor) -> Tensor:
    """Return three equal channels as the predecessor made them: below 0 HU everything is 0."""
    return (images.repeat(1, 3, 1, 1) * 255).clamp(0, 255).to(torch.uint8)


def as_rgb(images: Tensor, side: int | None) -> Tensor:
    """Return three equal channels, resized (bilinear, antialiased)."""
    images = images.repeat(1, 3, 1, 1)
    return images if side is None else TF.resize(images, [side, side], antialias=True)
