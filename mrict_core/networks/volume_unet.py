"""The network of MK8: a residual U-Net of volumes.

The residual blocks of MONAI's DynUNet, after nnU-Net (Isensee et al. 2021), in the shape of MK7's network:

    stem       folds rows and columns to half their number, so that the widest stage costs a quarter
    kernels    1x3x3 in the first stage and strides of 1x2x2 after it: slices are thicker than their pixels
    decoder    resizes and convolves
    head       is linear and in float32, in units of 1000 HU, and starts near water
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core.errors import MrictError, unknown_name
from mrict_core.networks.layers import autocast, in_full
from mrict_core.networks.residual_unet import SLOPE, UNIT_PER_1000_HU, WATER
from mrict_core.parts import expect

CHANNELS = (1, 2, 4, 8, 10, 10)  # of the stages, in units of the width
FLAT, CUBIC = (1, 3, 3), (3, 3, 3)  # kernels
FINE = 8  # channels at full resolution, at least
NORMS: dict[str, Any] = {
    "instance": ("INSTANCE", {"affine": True}),
    "batch": "BATCH",
    "layer": ("GROUP", {"num_groups": 1}),  # one mean for all channels keeps their proportions
}


class VolumeUNet(nn.Module):
    """Residual U-Net of volumes.  # (B, in_channels, D, H, W) in [-1, 1] => (B, out_channels, D, H, W), float32"""

    def __init__(self, width: int, in_channels: int, out_channels: int, *, norm: str, depth: int, fold: int) -> None:
        super().__init__()
        from monai.networks.blocks import UnetResBlock

        def block(c_in: int, c_out: int, stage: int, stride: int | tuple[int, ...] = 1) -> nn.Module:
            return UnetResBlock(3, c_in, c_out, CUBIC if stage else FLAT, stride, NORMS[norm])

        self.strides = [(1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * (depth - 2)]
        channels = [width * unit for unit in CHANNELS[:depth]]
        side = fold * 2 ** (depth - 1)
        self.multiple = (2 ** (depth - 2), side, side)  # voxels, of a patch's sides
        self.in_channels, self.fold = in_channels, fold
        self.stem = nn.Conv3d(in_channels * fold**2, width, FLAT, padding=(0, 1, 1))
        stages = zip([width, *channels], channels, self.strides, strict=False)
        self.encoder = nn.ModuleList(block(c_in, c_out, k, stride) for k, (c_in, c_out, stride) in enumerate(stages))
        upward = [(channels[k + 1], channels[k], k) for k in reversed(range(depth - 1))]  # below, of the skip, stage
        self.reduce = nn.ModuleList(nn.Conv3d(below, skip, 1) for below, skip, _ in upward)
        self.decoder = nn.ModuleList(block(2 * skip, skip, k) for _, skip, k in upward)
        self.fine = nn.Conv3d(width + in_channels, max(FINE, width // 2), FLAT, padding=(0, 1, 1))
        self.head = nn.Conv3d(self.fine.out_channels, out_channels, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the synthetic image. Raises MrictError for a wrong channel count or size."""
        sides = x.shape[2:]
        fits = x.ndim == 5 and x.shape[1] == self.in_channels
        if not fits or any(side % unit for side, unit in zip(sides, self.multiple, strict=True)):
            expected = ", ".join(f"{n}k" for n in self.multiple)
            raise MrictError(
                f"generator: input of shape {tuple(x.shape)}, expected (B, {self.in_channels}, {expected}), k whole; "
                "a view of volumes (data.view=patch3d) gives such patches"
            )
        y, skips = self.stem(self.folded(x)), []
        for stage in self.encoder:
            y = stage(y)
            skips.append(y)
        skips.pop()
        for reduce, stage, stride in zip(self.reduce, self.decoder, self.strides[:0:-1], strict=True):
            y = F.interpolate(reduce(y), scale_factor=[float(n) for n in stride])
            y = stage(torch.cat([y, skips.pop()], dim=1))
        if self.fold > 1:
            y = F.interpolate(y, scale_factor=(1.0, float(self.fold), float(self.fold)))
        y = F.leaky_relu(self.fine(torch.cat([y, x.to(y.dtype)], dim=1)), SLOPE)
        with autocast(x.device, torch.float32):
            return WATER + UNIT_PER_1000_HU * self.head(in_full(y))

    def folded(self, x: Tensor) -> Tensor:
        """Return the pixels of every slice folded into channels.  # (B, C, D, H, W) => (B, C f², D, H / f, W / f)"""
        slices = F.pixel_unshuffle(x.transpose(1, 2), self.fold)  # (B, D, C f², H / f, W / f)
        return slices.transpose(1, 2).contiguous()


def volume_unet(
    width: int = 32,
    in_channels: int = 1,
    out_channels: int = 1,
    norm: str = "instance",
    depth: int = 5,
    fold: int = 2,
) -> VolumeUNet:
    """Return MK8's network; depth: number of stages; fold: side of a pixel of the first stage, in image pixels."""
    return VolumeUNet(width, in_channels, out_channels, norm=norm, depth=depth, fold=fold)


def check_options(*, norm: str = "instance", depth: int = 5, fold: int = 2, width: int = 8, **_: object) -> None:
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    expect("depth", depth, 2 <= depth <= len(CHANNELS), f"2 to {len(CHANNELS)}")
    expect("fold", fold, 1 <= fold <= 4, "1 to 4")
    expect("width", width, 1 <= width <= 512, "1 to 512")


volume_unet.check_options = check_options
