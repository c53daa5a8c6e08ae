"""The generator of pix2pix: a U-Net that halves the image down to one pixel, at 256 pixels with 8 halvings.

Source: Isola et al. 2017, arXiv 1611.07004, section 6.1.1; biases and start as in the authors' PyTorch code
(junyanz/pytorch-CycleGAN-and-pix2pix), where it has the same name. Dropout acts in the three deepest decoder blocks, as
in the paper and its Lua code; the PyTorch code has it one block higher.

A smaller canvas takes fewer halvings, as many as its side allows; the deepest levels are then missing.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core.networks.layers import autocast, check_input, in_full, normal_weights

ENCODER = (1, 2, 4, 8, 8, 8, 8, 8)  # channels, in units of the width
FEWEST = 5  # halvings
DROPPED = 3  # decoder blocks with dropout, deepest first
SLOPE = 0.2  # of LeakyReLU for negative values


class DeepUNet(nn.Module):
    """U-Net with tanh output.  # (B, in_channels, H, W) in [-1, 1] => (B, out_channels, H, W) in (-1, 1)

    H and W must be multiples of 2^depth. The last layer always runs in float32.
    """

    def __init__(self, width: int, in_channels: int, out_channels: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.multiple = 2**depth  # pixels, of an image's sides
        channels = [width * unit for unit in ENCODER[:depth]]
        self.down = nn.ModuleList()
        for level, (c_in, c_out) in enumerate(pairwise([in_channels, *channels])):
            layers: list[nn.Module] = [nn.LeakyReLU(SLOPE)] if level else []
            layers.append(nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False))
            if 0 < level < depth - 1:  # not the deepest: one pixel of one image normalises to zero
                layers.append(nn.BatchNorm2d(c_out))
            self.down.append(nn.Sequential(*layers))
        self.up = nn.ModuleList()  # deepest first
        for level, (below, c_out) in enumerate(pairwise(reversed(channels))):
            c_in = 2 * below if level else below  # with the skip, which the deepest does not have
            layers = [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False)]
            layers.append(nn.BatchNorm2d(c_out))
            if level < DROPPED:
                layers.append(nn.Dropout(dropout))
            self.up.append(nn.Sequential(*layers))
        self.last = nn.ConvTranspose2d(2 * channels[0], out_channels, kernel_size=4, stride=2, padding=1)
        normal_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the synthetic image. Raises MrictError for a wrong channel count or image size."""
        check_input(x, self.in_channels, self.multiple)
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.up:
            x = torch.cat((skips.pop(), up(x)), dim=1)
        with autocast(x.device, torch.float32):  # bfloat16 would round the image to steps of up to 8 HU
            return torch.tanh(self.last(F.relu(in_full(x))))


def depth_for(canvas: int) -> int:
    """Return how often a side of `canvas` pixels can be halved, 5 to 8 times: 8 at 256, 6 at 64, 5 at 96 and 224."""
    return max((depth for depth in range(FEWEST, len(ENCODER) + 1) if canvas % 2**depth == 0), default=FEWEST)


def unet_256(
    width: int = 64, in_channels: int = 1, out_channels: int = 1, canvas: int = 256, dropout: float = 0.5
) -> DeepUNet:
    """Return the generator for slices of `canvas` pixels. 54,407,809 parameters at width 64 and 256 pixels."""
    return DeepUNet(width, in_channels, out_channels, dropout, depth_for(canvas))
