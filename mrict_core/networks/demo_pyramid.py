"""The convolutions of `demo_features`: fixed random weights, bit-equal on every platform."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DemoPyramid(nn.Module):
    """Random convolutions with ReLU and pooling (cf. Saxe et al. 2011; Ustyuzhaninov et al. 2016, on random features).

    # (B, 3, H, W), 0 for air, H and W multiples of 16 => (B, 576, H/16, W/16)

    Features at 1/4, 1/8 and 1/16 of the input's side; the finer maps are folded into channels (space to depth), so one
    tensor holds all scales. Nothing is learned: it compares local patterns at three scales and knows neither tissue nor
    anatomy. At 64x64 it costs about an eighth of the width-16 generator.

    `GAINS` make each scale contribute 0.1 to the mean squared difference, measured on 24 MR/CT pairs of real heads
    (patient window, 64x64): 0.3 in total (0.08 to 1 per pair), 0.5 at 256x256.
    """

    SEED = 20240923
    STEM = (3, 8, 5)  # channels in, channels out, kernel
    STAGES = ((8, 24, 3), (24, 32, 3), (32, 64, 3))
    GAINS = (0.57, 0.91, 1.53)
    COARSEST = 64  # the last channels of the output are the features at 1/16
    MULTIPLE = 16  # pixels

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):  # torch's own initialisation would draw from the global random state
            self.stem = nn.Conv2d(*self.STEM, stride=2, padding=2)
            self.stages = nn.ModuleList(nn.Conv2d(*stage, padding=1) for stage in self.STAGES)
        raw = np.random.PCG64(self.SEED)
        for conv in (self.stem, *self.stages):
            bound = math.sqrt(6.0 / conv.weight[0].numel())  # He et al. 2015 for ReLU, uniform
            conv.weight = nn.Parameter(_uniform(raw, conv.weight.shape, bound))
            conv.bias = nn.Parameter(_uniform(raw, conv.bias.shape, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled features, finest scale first."""
        x = F.relu(self.stem(x))
        scales = []
        for stage, gain, fold in zip(self.stages, self.GAINS, (4, 2, 1), strict=True):
            x = F.relu(stage(F.avg_pool2d(x, 2)))
            scales.append(F.pixel_unshuffle(x, fold) * gain)
        return torch.cat(scales, dim=1)


def _uniform(raw: np.random.PCG64, shape: tuple[int, ...], bound: float) -> Tensor:
    """Return float32 values in [-bound, bound), bit-equal on every platform.

    numpy guarantees the stream of raw integers; 24 bits fit a float32 exactly, and one product is correctly rounded.
    """
    integers = raw.random_raw(math.prod(shape)) >> np.uint64(40)
    unit = integers.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return torch.from_numpy((unit * np.float32(bound)).reshape(shape))
