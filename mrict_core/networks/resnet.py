"""The generator of CycleGAN: residual blocks between two strided convolutions and two transposed ones.

Source: Zhu et al. 2017, arXiv 1703.10593, section 7.2, after Johnson et al. 2016; biases and start as in the authors'
PyTorch code (junyanz/pytorch-CycleGAN-and-pix2pix, `resnet_9blocks`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrict_core.errors import MrictError
from mrict_core.networks.layers import autocast, check_input, in_full, normal_weights


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity.  # (B, C, H, W) => (B, C, H, W)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, kernel_size=3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, kernel_size=3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResNet(nn.Module):
    """Generator with tanh output.  # (B, in_channels, H, W) in [-1, 1] => (B, out_channels, H, W) in (-1, 1)

    H and W must be multiples of 4. The last layer always runs in float32.
    """

    multiple = 4  # pixels, of an image's sides

    def __init__(self, width: int, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, width, kernel_size=7)]
        layers += [nn.InstanceNorm2d(width), nn.ReLU()]
        for c_out in (2 * width, 4 * width):
            layers.append(nn.Conv2d(c_out // 2, c_out, kernel_size=3, stride=2, padding=1))
            layers += [nn.InstanceNorm2d(c_out), nn.ReLU()]
        layers += [Residual(4 * width) for _ in range(blocks)]
        for c_out in (2 * width, width):
            layers.append(nn.ConvTranspose2d(2 * c_out, c_out, kernel_size=3, stride=2, padding=1, output_padding=1))
            layers += [nn.InstanceNorm2d(c_out), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.ReflectionPad2d(3))
        self.last = nn.Conv2d(width, out_channels, kernel_size=7)
        normal_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the synthetic image. Raises MrictError for a wrong channel count or image size."""
        check_input(x, self.in_channels, self.multiple)
        x = self.body(x)
        with autocast(x.device, torch.float32):  # bfloat16 would round the image to steps of up to 8 HU
            return torch.tanh(self.last(in_full(x)))


def resnet(width: int = 64, in_channels: int = 1, out_channels: int = 1, blocks: int = 9) -> ResNet:
    """Return the generator; the paper takes 6 blocks at 128 pixels, 9 at 256. 11,365,633 parameters at width 64."""
    return ResNet(width, in_channels, out_channels, blocks)


def _check_options(*, blocks: int = 9, **_: object) -> None:
    if blocks < 1:
        raise MrictError(f"blocks is {blocks}, expected at least 1")


resnet.check_options = _check_options
