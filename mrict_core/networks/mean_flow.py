"""MK9's networks in one: a few regressions, each of which has not seen some of the training people, and a flow.

One module, so that one training, one checkpoint and one published model hold all that a sample needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrict_core.networks.residual_unet import ResidualUNet
from mrict_core.networks.residual_unet import check_options as check_unet
from mrict_core.networks.timed_unet import TimedUNet
from mrict_core.parts import expect

GUIDES = 2  # images that the flow sees besides the view: the mean, and the state relative to it


class MeanFlow(nn.Module):
    """`means`: regressions of the CT; `flow`: the velocity from a point near the mean to the CT.

    `flow_steps` counts the steps that trained the flow; 0: only the mean is known yet.
    """

    def __init__(self, width: int, in_channels: int, *, folds: int, norm: str, stem: str, depth: int) -> None:
        super().__init__()
        kind = {"norm": norm, "stem": stem, "depth": depth}
        self.means = nn.ModuleList(ResidualUNet(width, in_channels, 1, log_b=False, **kind) for _ in range(folds))
        self.flow = TimedUNet(width, in_channels + GUIDES, **kind)
        self.multiple = self.flow.multiple
        self.register_buffer("flow_steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of the regressions' CTs.  # (B, in_channels, H, W) in [-1, 1] => (B, 1, H, W) float32"""
        return torch.stack([mean(x) for mean in self.means]).mean(dim=0)


def mean_flow(
    width: int = 32,
    in_channels: int = 1,
    out_channels: int = 1,
    folds: int = 5,
    norm: str = "batch",
    stem: str = "fold",
    depth: int = 5,
) -> MeanFlow:
    """Return MK9's networks; folds: number of regressions; the rest as in `residual_unet`."""
    return MeanFlow(width, in_channels, folds=folds, norm=norm, stem=stem, depth=depth)


def check_options(*, folds: int = 5, out_channels: int = 1, **unet: object) -> None:
    check_unet(**unet)
    expect("folds", folds, folds >= 2, "at least 2: each regression leaves some people out")
    expect("out_channels", out_channels, out_channels == 1, "1")


mean_flow.check_options = check_options
