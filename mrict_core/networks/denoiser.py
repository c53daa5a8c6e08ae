"""The network of a plain conditional diffusion: MONAI's `DiffusionModelUNet`, which sees the MR and one noisy CT.

Four stages of a residual block each, and attention at the coarsest (Rombach et al. 2022); norms are over groups of
channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mrict_core.parts import expect

STAGES = (1, 2, 4, 4)  # their channels, in units of the width


class Denoiser(nn.Module):
    """`net` predicts v of a noisy x, see `methods.diffusion`.

    # (B, in_channels, H, W), (B, 1, H, W), (B,) => (B, 1, H, W) float32
    """

    multiple = 2 ** (len(STAGES) - 1)

    def __init__(self, width: int, in_channels: int) -> None:
        super().__init__()
        from monai.networks.nets import DiffusionModelUNet

        self.net = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=in_channels + 1,
            out_channels=1,
            num_res_blocks=1,
            channels=[width * unit for unit in STAGES],
            attention_levels=[False] * len(STAGES),  # the middle block has it always
            norm_num_groups=math.gcd(width, 8),
            num_head_channels=math.gcd(width, 8),
        )

    def forward(self, real_A: Tensor, x: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """Return v at times counted from 0; of the MR alone, that of an image of zeros at time 0."""
        x = torch.zeros_like(real_A[:, :1]) if x is None else x
        times = torch.zeros(len(real_A), device=real_A.device) if times is None else times
        return self.net(torch.cat([real_A, x], dim=1), times)


def denoiser(width: int = 32, in_channels: int = 1, out_channels: int = 1) -> Denoiser:
    """Return the network of method diffusion."""
    return Denoiser(width, in_channels)


def check_options(*, width: int = 8, out_channels: int = 1) -> None:
    expect("width", width, width >= 1, "at least 1")
    expect("out_channels", out_channels, out_channels == 1, "1")


denoiser.check_options = check_options
