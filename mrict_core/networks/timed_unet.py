"""MK9's network for one step of a flow: MK7's residual U-Net, with the time t in every block.

    t  ->  sines and cosines of 32 frequencies  ->  a small perceptron  ->  a scale and a shift for every channel

The last step is feature-wise linear modulation (FiLM, Perez et al. 2018). It starts at a scale of 1 and a shift of 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core.networks.layers import autocast, in_full
from mrict_core.networks.residual_unet import SLOPE, UNIT_PER_1000_HU, Block, ResidualUNet

FREQUENCIES = 32
HIGHEST = 50.0  # radians per unit of t: eight turns, which tell a few hundred times apart


class Times(nn.Module):
    """Features of the time.  # (B,) in [0, 1] => (B, 4 width) float32"""

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = torch.linspace(0, math.log(HIGHEST), FREQUENCIES)
        self.register_buffer("frequencies", steps.exp(), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies
        return F.silu(self.layers(torch.cat([angles.sin(), angles.cos()], dim=1)))


class TimedBlock(nn.Module):
    """A residual block whose first norm is followed by a scale and a shift made from the time."""

    def __init__(self, block: Block, width: int) -> None:
        super().__init__()
        self.block = block
        self.film = nn.Linear(4 * width, 2 * block.conv1.out_channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        block = self.block
        scale, shift = self.film(times)[:, :, None, None].chunk(2, dim=1)
        y = F.leaky_relu(block.norm1(block.conv1(x)) * (1 + scale) + shift, SLOPE)
        y = block.norm2(block.conv2(y))
        x = F.avg_pool2d(x, block.stride) if block.stride > 1 else x
        return F.leaky_relu(y + block.shortcut(x), SLOPE)


class TimedUNet(ResidualUNet):
    """Residual U-Net of an image and a time.  # (B, in_channels, H, W), (B,) => (B, 1, H, W) float32

    The head is linear, in units of 1000 HU, and starts at zero: the flow then leaves its start where it is.
    """

    def __init__(self, width: int, in_channels: int, *, norm: str, stem: str, depth: int) -> None:
        super().__init__(width, in_channels, 1, norm=norm, stem=stem, depth=depth, log_b=False)
        self.times = Times(width)
        timed = [nn.ModuleList(TimedBlock(block, width) for block in stage) for stage in self.encoder]
        self.encoder = nn.ModuleList(timed)
        self.decoder = nn.ModuleList(TimedBlock(block, width) for block in self.decoder)
        nn.init.zeros_(self.head.weight)

    @torch.no_grad()
    def start_from(self, trained: ResidualUNet) -> None:
        """Take over the weights of a trained network of the same width that sees the first of this one's channels.

        Further channels, the times and the head start at zero.
        """
        own = self.state_dict()
        for name, value in trained.state_dict().items():
            stage, *rest = name.split(".")
            if stage == "head":
                continue
            at = {"encoder": 2, "decoder": 1}.get(stage, 0)  # places in a stage
            place = ".".join([stage, *rest[:at], *(["block"] if at else []), *rest[at:]])
            if own[place].shape != value.shape:
                own[place].zero_()
                own[place][:, : value.shape[1]] = value
            else:
                own[place].copy_(value)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity. Raises MrictError for a wrong channel count or image size."""
        features = self._features(x, self.times(t))
        with autocast(x.device, torch.float32):
            return UNIT_PER_1000_HU * self.head(in_full(features))
