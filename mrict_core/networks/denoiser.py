"""The network of a plain conditional diffusion: MK9's timed U-Net, which sees the MR and one noisy CT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrict_core.errors import MrictError
from mrict_core.networks.residual_unet import check_options as check_unet
from mrict_core.networks.timed_unet import TimedUNet


class Denoiser(nn.Module):
    """`net` tells the noise in x.  # (B, in_channels, H, W), (B, 1, H, W), (B,) => (B, 1, H, W) float32"""

    def __init__(self, width: int, in_channels: int, *, norm: str, stem: str, depth: int) -> None:
        super().__init__()
        self.net = TimedUNet(width, in_channels + 1, norm=norm, stem=stem, depth=depth)
        self.multiple = self.net.multiple

    def forward(self, real_A: Tensor, x: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Return the noise at times t from 0 to 1; of the MR alone, that in an image of zeros at the end of time."""
        x = torch.zeros_like(real_A[:, :1]) if x is None else x
        t = torch.ones(len(real_A), device=real_A.device) if t is None else t
        return self.net(torch.cat([real_A, x], dim=1), t)


def denoiser(
    width: int = 32,
    in_channels: int = 1,
    out_channels: int = 1,
    norm: str = "batch",
    stem: str = "fold",
    depth: int = 5,
) -> Denoiser:
    """Return the network of method diffusion; arguments as in `residual_unet`."""
    return Denoiser(width, in_channels, norm=norm, stem=stem, depth=depth)


def check_options(*, out_channels: int = 1, **unet: object) -> None:
    check_unet(**unet)
    if out_channels != 1:
        raise MrictError(f"out_channels is {out_channels}, expected 1")


denoiser.check_options = check_options
