"""Pixel losses: reconstruction (pix2pix), cycle consistency and identity (CycleGAN) are the same L1 distance."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def require_same_shape(fake: Tensor, real: Tensor) -> None:
    """Raise ValueError where the shapes differ; torch would broadcast and return a wrong number."""
    if fake.shape != real.shape:
        raise ValueError(f"fake has shape {tuple(fake.shape)}, real has {tuple(real.shape)}; they must be equal")


def l1(fake: Tensor, real: Tensor) -> Tensor:
    """Return mean |fake - real| over batch and the full image, in units of [-1, 1].  # two of (B, C, H, W) => ()"""
    require_same_shape(fake, real)
    return F.l1_loss(fake, real)
