"""The 70x70 PatchGAN of pix2pix and CycleGAN.

Source: Isola et al. 2017, arXiv 1611.07004, section 6.1.2; biases and start as in the authors' PyTorch code
(junyanz/pytorch-CycleGAN-and-pix2pix, `n_layers_D` = 3).
"""

from __future__ import annotations

from torch import Tensor, nn

from mrict_core.errors import MrictError, unknown_name
from mrict_core.networks.layers import in_full, normal_weights

SLOPE = 0.2  # of LeakyReLU for negative values
STRIDES = (2, 2, 2, 1)  # of the blocks; their channels double
MIN_SIZE = 24  # pixels: the last two kernels need 3 cells and 2, padded
NORMS = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


class Patch70(nn.Module):
    """4x4 convolutions to a map of logits, one per patch of 70 pixels.  # (B, in_channels, H, W) => (B, 1, h, w)"""

    def __init__(self, width: int, in_channels: int, norm: str) -> None:
        super().__init__()
        self.in_channels = in_channels
        bias = norm == "instance"  # batch norm has one of its own
        layers: list[nn.Module] = []
        c_in, c_out = in_channels, width
        for block, stride in enumerate(STRIDES):
            first = block == 0
            layers.append(nn.Conv2d(c_in, c_out, kernel_size=4, stride=stride, padding=1, bias=bias or first))
            if not first:
                layers.append(NORMS[norm](c_out))
            layers.append(nn.LeakyReLU(SLOPE))
            c_in, c_out = c_out, 2 * c_out
        layers.append(nn.Conv2d(c_in, 1, kernel_size=4, stride=1, padding=1))
        self.model = nn.Sequential(*layers)
        normal_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits. Raises MrictError for a wrong channel count or an image that is too small."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < MIN_SIZE:
            raise MrictError(
                f"discriminator: input of shape {tuple(x.shape)}, expected (B, {self.in_channels}, H, W) with H and W "
                f"at least {MIN_SIZE}; check method.conditional and the canvas size"
            )
        return in_full(self.model(x))  # losses need float32


def patch70(width: int = 64, in_channels: int = 1, norm: str = "batch") -> Patch70:
    """Return the discriminator: 30x30 patches of 70 px at 256x256. 2,764,609 parameters with two channels."""
    return Patch70(width, in_channels, norm)


def _check_options(*, norm: str = "batch", **_: object) -> None:
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)


patch70.check_options = _check_options
