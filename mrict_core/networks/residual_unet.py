"""The residual U-Net of MK7.

A U-Net (Ronneberger et al. 2015) of residual blocks (He et al. 2016), made for regression on a CPU:

    stem       folds the image to half its side, so that the widest stage costs a quarter
    decoder    resizes and convolves: transposed convolutions leave a checkerboard (Odena et al. 2016)
    head       is linear and in float32: tanh bends HU near the ends of the window, bfloat16 rounds them by up to 8 HU
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core.errors import unknown_name
from mrict_core.hu import SYNTHRAD2023, WATER_HU
from mrict_core.networks.layers import autocast, check_input, in_full
from mrict_core.parts import expect

STAGES = (1, 2, 4, 8, 8)  # channels, in units of the width
BLOCKS = (1, 2, 2, 2, 2)  # residual blocks of the encoder; the decoder has one per stage
SLOPE = 0.01  # of LeakyReLU for negative values
UNIT_PER_1000_HU = 2000.0 / SYNTHRAD2023.width
WATER = float(SYNTHRAD2023.to_unit(WATER_HU))

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(math.gcd(8, channels), channels),
    "none": lambda channels: nn.Identity(),
}
STEMS = {"fold": 2, "stride": 2, "full": 1}  # name => side of a pixel of the first stage, in image pixels


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.  # (B, c_in, H, W) => (B, c_out, H / stride, W / stride)"""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=bias)
        self.norm1 = NORMS[norm](c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=bias)
        self.norm2 = NORMS[norm](c_out)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        y = self.norm2(self.conv2(y))
        x = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return F.leaky_relu(y + self.shortcut(x), SLOPE)


class ResidualUNet(nn.Module):
    """Residual U-Net with a linear head.  # (B, in_channels, H, W) in [-1, 1] => (B, out_channels, H, W), float32

    The head's unit is 1000 HU, and it starts near water. `log_b`: a second head for the scale of a
    Laplace distribution, which leaves the shared layers alone, see `with_log_b`.
    """

    def __init__(
        self, width: int, in_channels: int, out_channels: int, *, norm: str, stem: str, depth: int, log_b: bool
    ) -> None:
        super().__init__()
        fold = STEMS[stem]
        channels = [width * unit for unit in STAGES[:depth]]
        self.in_channels, self.stem_kind, self.fold = in_channels, stem, fold
        self.multiple = fold * 2 ** (depth - 1)  # pixels, of an image's sides
        self.stem = {
            "fold": lambda: nn.Conv2d(in_channels * fold**2, width, 3, padding=1),
            "stride": lambda: nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            "full": lambda: nn.Conv2d(in_channels, width, 3, padding=1),
        }[stem]()
        self.encoder = nn.ModuleList()
        for depth_now, (c_in, c_out, blocks) in enumerate(zip([width, *channels], channels, BLOCKS, strict=False)):
            first = Block(c_in, c_out, 2 if depth_now else 1, norm)
            self.encoder.append(nn.Sequential(first, *(Block(c_out, c_out, 1, norm) for _ in range(blocks - 1))))
        upward = list(zip(channels[:0:-1], channels[-2::-1], strict=True))  # (below, of the skip), deepest first
        self.reduce = nn.ModuleList(nn.Conv2d(below, skip, 1) for below, skip in upward)
        self.decoder = nn.ModuleList(Block(2 * skip, skip, 1, norm) for _, skip in upward)
        self.fine = nn.Conv2d(width + in_channels, max(8, width // 2), 3, padding=1)
        self.head = nn.Conv2d(self.fine.out_channels, out_channels, 1)
        self.head_log_b = nn.Conv2d(self.fine.out_channels, 1, 1) if log_b else None
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the synthetic image. Raises MrictError for a wrong channel count or image size."""
        return self._mu(self._features(x))

    def with_log_b(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the synthetic image and the logarithm of its Laplace scale, (B, 1, H, W), None without that head.

        The features are detached before the second head: otherwise it would change what the first learns.
        """
        features = self._features(x)
        if self.head_log_b is None:
            return self._mu(features), None
        with autocast(x.device, torch.float32):
            return self._mu(features), self.head_log_b(in_full(features).detach())

    def _mu(self, features: Tensor) -> Tensor:
        with autocast(features.device, torch.float32):
            return WATER + UNIT_PER_1000_HU * self.head(in_full(features))

    def _features(self, x: Tensor, *times: Tensor) -> Tensor:
        """Return what the heads see; `times`: what the blocks of a `TimedUNet` take besides."""
        check_input(x, self.in_channels, self.multiple)
        y = self.stem(F.pixel_unshuffle(x, self.fold) if self.stem_kind == "fold" else x)
        skips = []
        for stage in self.encoder:
            for block in stage:
                y = block(y, *times)
            skips.append(y)
        skips.pop()
        for reduce, block in zip(self.reduce, self.decoder, strict=True):
            y = block(torch.cat([F.interpolate(reduce(y), scale_factor=2), skips.pop()], dim=1), *times)
        if self.fold > 1:
            y = F.interpolate(y, scale_factor=self.fold)
        return F.leaky_relu(self.fine(torch.cat([y, x.to(y.dtype)], dim=1)), SLOPE)


def residual_unet(
    width: int = 32,
    in_channels: int = 1,
    out_channels: int = 1,
    norm: str = "batch",
    stem: str = "fold",
    depth: int = 5,
    log_b: bool = False,
) -> ResidualUNet:
    """Return MK7's network; depth: number of stages. 7.8 million parameters at width 32."""
    return ResidualUNet(width, in_channels, out_channels, norm=norm, stem=stem, depth=depth, log_b=log_b)


def check_options(*, norm: str = "batch", stem: str = "fold", depth: int = 5, width: int = 8, **_: object) -> None:
    for kind, name, known in (("norm", norm, NORMS), ("stem", stem, STEMS)):
        if name not in known:
            raise unknown_name(kind, name, known)
    expect("depth", depth, 2 <= depth <= len(STAGES), f"2 to {len(STAGES)}")
    expect("width", width, width >= 1, "at least 1")


residual_unet.check_options = check_options
