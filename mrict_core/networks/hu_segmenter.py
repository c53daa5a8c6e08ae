"""A small segmenter of HU classes, trained on the training CTs themselves; its features compare a fake with a real CT.

The first place of SynthRAD2025 (nnsyn) compared features of a CT segmenter with downloaded weights and expert labels.
Here the labels are the CT's own HU classes. Thresholds find those in a clean CT without any learning, so the features
would be thresholds too. The segmenter therefore sees a damaged CT (blurred, noisy, shifted and scaled in HU, with
hidden patches) and predicts the classes of the clean one: it has to learn the shapes and surroundings of each class.
A synthetic CT is blurred and shifted too, so the features are learned on images of its kind. They hardly see a shift of
all HU; that is left to the L1 term.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrict_core.hu import TISSUE_EDGES_HU, TISSUES, WATER_HU, HuRange
from mrict_core.networks.layers import Frozen

WIDTHS = (8, 16, 32, 64)  # channels of a stage; each stage after the first halves the sides
GROUPS = 4  # of the group norm
LEARNING_RATE = 3e-3
SCORED_BATCHES = 8  # for the Dice that is reported

# The damage; each image draws its own
SCALE = (0.8, 1.2)
OFFSET_HU = 150.0
NOISE_SD_HU = 100.0
BLUR_SD = 2.0  # pixels; an image is mixed with its blurred copy
PATCHES, PATCH = 4, 0.2  # hidden squares; their largest side, as a share of the image's


class HuSegmenter(Frozen):
    """Four convolutions, each judged by a 1x1 convolution; the logits are their sum (Long et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        channels = pairwise((1, *WIDTHS))
        self.stages = nn.ModuleList(_stage(*pair, stride=2 if k else 1) for k, pair in enumerate(channels))
        self.heads = nn.ModuleList(nn.Conv2d(width, len(TISSUES), kernel_size=1) for width in WIDTHS)
        self.freeze()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of each stage, k = 0, 1, …  # (B, 1, H, W) in [-1, 1] => (B, C_k, H/2^k, W/2^k)"""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features

    def logits(self, image: Tensor) -> Tensor:
        """Return a logit for each class.  # (B, 1, H, W) in [-1, 1] => (B, 5, H, W)"""
        judged = (head(x) for head, x in zip(self.heads, self(image), strict=True))
        return sum(F.interpolate(x, size=image.shape[-2:], mode="bilinear") for x in judged)


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, out_channels), nn.LeakyReLU(0.01))


def fresh_segmenter(seed: int) -> HuSegmenter:
    """Return an untrained segmenter on the CPU; torch's global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return HuSegmenter()


def train_segmenter(
    network: HuSegmenter, pairs: Iterator[tuple[Tensor, Tensor]], window: HuRange, steps: int, seed: int
) -> dict[str, float]:
    """Train and freeze a fresh segmenter; return the Dice of each class on damaged slices, NaN for an absent class.

    pairs: CT in [-1, 1] and mask, each (B, 1, H, W), without end. window: what [-1, 1] stands for. All random numbers
    are drawn from `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(steps):
        logits, classes, mask = _attempt(network, *next(pairs), window, generator)
        errors = F.cross_entropy(logits, classes, reduction="none")
        optimizer.zero_grad()
        ((errors * mask).sum() / mask.sum().clamp(min=1)).backward()
        optimizer.step()
    network.freeze()
    both = total = torch.zeros(len(TISSUES))
    for _ in range(SCORED_BATCHES):
        logits, classes, mask = _attempt(network, *next(pairs), window, generator)
        found, real = (F.one_hot(x[mask > 0], len(TISSUES)).cpu() for x in (logits.argmax(dim=1), classes))
        both, total = both + (found * real).sum(dim=0), total + (found + real).sum(dim=0)
    return dict(zip(TISSUES, (2 * both / total).tolist(), strict=True))


def _attempt(
    network: HuSegmenter, ct: Tensor, mask: Tensor, window: HuRange, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits for a damaged CT, the clean one's classes, and the mask.  # => (B, 5, H, W), two of (B, H, W)"""
    hu = window.to_hu(ct)
    edges = torch.tensor(TISSUE_EDGES_HU, device=hu.device)
    damaged = in_mask(window.to_unit(damage(hu, generator)), mask)
    return network.logits(damaged), torch.bucketize(hu, edges, right=True)[:, 0], mask[:, 0]


def in_mask(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image with the lowest value outside the mask.  # (B, C, H, W) in [-1, 1], (B, 1, H, W)"""
    return torch.where(mask > 0, image, -1.0)


def damage(hu: Tensor, generator: torch.Generator) -> Tensor:
    """Return images blurred, scaled, shifted, noisy and with hidden squares.  # (B, 1, H, W) => the same shape, HU"""
    from torchvision.transforms.functional import gaussian_blur

    def drawn(low: float, high: float) -> Tensor:
        """Return a number for each image.  # (B, 1, 1, 1)"""
        return (low + (high - low) * torch.rand((len(hu), 1, 1, 1), generator=generator)).to(hu.device)

    height, width = hu.shape[-2:]
    blurred = gaussian_blur(hu, kernel_size=4 * round(BLUR_SD) + 1, sigma=BLUR_SD)
    noise = torch.randn(hu.shape, generator=generator).to(hu.device)
    hu = torch.lerp(hu, blurred, drawn(0, 1)) * drawn(*SCALE) + drawn(-OFFSET_HU, OFFSET_HU)
    hu = hu + noise * drawn(0, NOISE_SD_HU)
    rows = torch.arange(height, device=hu.device).view(-1, 1)
    columns = torch.arange(width, device=hu.device)
    for _ in range(PATCHES):
        half = drawn(0, PATCH / 2)
        near_row = (rows - drawn(0, height)).abs() < half * height
        near_column = (columns - drawn(0, width)).abs() < half * width
        hu = hu.masked_fill(near_row & near_column, WATER_HU)
    return hu
