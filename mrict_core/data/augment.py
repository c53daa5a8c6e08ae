"""Joint augmentation of an MR/CT pair: geometry on both, photometry on the MR alone ("two types").

Batched, on the device of the input. All randomness comes from one `torch.Generator`, so that an epoch can be repeated
or resumed bit for bit. Evaluation never calls this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mrict_core.ranks import ALONE, Ranks


@dataclass(frozen=True)
class AugmentSettings:
    """Strengths of the random transforms. The defaults follow the predecessor where it had a value."""

    flip_horizontal: float = 0.5  # probability
    flip_vertical: float = 0.5  # probability
    rotation_degrees: float = 10.0  # uniform in ±
    translation: float = 0.03  # uniform in ±, of the image side
    scale: float = 0.05  # uniform in 1 ±
    gamma: float = 0.15  # MR: log-uniform exponent in exp(±)
    bias_field: float = 0.15  # MR: log amplitude of a smooth multiplicative field
    noise: float = 0.02  # MR: largest SD, of the [0, 1] intensity scale
    elastic: float = 0.0  # largest shift of a smooth random deformation, of the image side
    crop: int = 0  # side of a random crop, pixels; 0, or at least the image's side: the whole image


NONE = AugmentSettings(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class JointTransform:
    """Callable `real_A, real_B, mask = transform(real_A, real_B, mask, mirrors)`.

    real_A: (B, C, H, W), real_B: (B, 1, H, W) in [-1, 1], background -1; mask: (B, 1, H, W) of 0/1. Types are kept, and
    shapes unless cropped; the channels of an MR move together, and each gets its own noise. So do the slices of
    volumes, (B, C, D, H, W): they turn about the axis across them. Images are interpolated linearly (a convex
    combination: no value leaves the input's range), the mask by nearest neighbour. Outside is background. Columns are
    flipped only where `mirrors`, (B,) bool, is true: in a sagittal slice a flip turns the face backwards.

    ranks: numbers are drawn for the batches of all ranks, and each uses its own, so that their number changes nothing.
    """

    def __init__(
        self,
        settings: AugmentSettings = AugmentSettings(),
        generator: torch.Generator | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.settings = settings
        self.generator = generator
        self.ranks = ranks

    def __call__(
        self, real_A: Tensor, real_B: Tensor, mask: Tensor, mirrors: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if real_A.ndim == 5:  # slices as channels
            images = (real_A, real_B, mask)
            moved = self(*(image.flatten(1, 2) for image in images), mirrors)
            return tuple(new.unflatten(1, old.shape[1:3]) for new, old in zip(moved, images, strict=True))
        if 0 < self.settings.crop < real_A.shape[-1]:
            real_A, real_B, mask = self.random_crop(real_A, real_B, mask)
        grid = self.random_grid(real_A, mirrors)
        support = (real_A > -1).to(real_A.dtype)
        real_A = self.jitter_mr(real_A, support)
        images = warp(torch.cat([real_A, real_B], dim=1), grid)
        warped_mask = F.grid_sample(
            mask.to(real_A.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False
        )
        real_A, real_B = images.split([real_A.shape[1], real_B.shape[1]], dim=1)
        return real_A, real_B, warped_mask.to(mask.dtype)

    def random_crop(self, *images: Tensor) -> list[Tensor]:
        """Return one crop of each image of a batch, at the same place in all `images`."""
        side, (rows, cols) = self.settings.crop, images[0].shape[-2:]
        tops, lefts = (
            self._own(torch.randint(length - side + 1, self._all((len(images[0]),)), generator=self.generator)).tolist()
            for length in (rows, cols)
        )
        places = [(slice(None), slice(t, t + side), slice(c, c + side)) for t, c in zip(tops, lefts, strict=True)]
        return [torch.stack([one[place] for one, place in zip(image, places, strict=True)]) for image in images]

    def _all(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return a shape with the rows of all ranks."""
        return (shape[0] * self.ranks.count, *shape[1:])

    def _own(self, drawn: Tensor) -> Tensor:
        """Return this rank's rows."""
        return drawn[self.ranks.own(len(drawn))]

    def _uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uniform in [-1, 1), drawn on the CPU so that a seed means the same on every device."""
        return (2 * self._own(torch.rand(self._all(shape), generator=self.generator)) - 1).to(like.device)

    def _normal(self, like: Tensor) -> Tensor:
        """Standard normal of the shape of `like`; a GPU draws its own from a seed, to save the wait."""
        if like.device.type == "cpu":
            return self._own(torch.randn(self._all(like.shape), generator=self.generator))
        generator = torch.Generator(like.device)
        generator.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
        return self._own(torch.randn(self._all(like.shape), generator=generator, device=like.device))

    def random_grid(self, images: Tensor, mirrors: Tensor | None = None) -> Tensor:
        """Return one sampling grid per image, (B, H, W, 2)."""
        s, count = self.settings, images.shape[0]
        angle = self._uniform((count,), images) * torch.pi * s.rotation_degrees / 180
        zoom = 1 + self._uniform((count,), images) * s.scale
        shift = self._uniform((count, 2), images) * 2 * s.translation  # the grid spans 2 units
        flipped = self._uniform((count,), images) < 2 * s.flip_horizontal - 1
        flip_x = torch.where(flipped if mirrors is None else flipped & mirrors, -1.0, 1.0)
        flip_y = torch.where(self._uniform((count,), images) < 2 * s.flip_vertical - 1, -1.0, 1.0)
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        # Sampling matrix rotation · diag(flip), then the shift; one row of six entries per image.
        entries = [cos * flip_x, -sin * flip_y, shift[:, 0], sin * flip_x, cos * flip_y, shift[:, 1]]
        theta = torch.stack(entries, dim=1).view(count, 2, 3)
        grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
        return grid + self._elastic(images) if s.elastic else grid

    def _elastic(self, images: Tensor) -> Tensor:
        """Return a smooth shift of every pixel of a sampling grid, (B, H, W, 2): splines between 5 x 5 knots."""
        knots = self._uniform((len(images), 2, 5, 5), images) * 2 * self.settings.elastic
        return F.interpolate(knots, size=images.shape[-2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)

    def jitter_mr(self, real_A: Tensor, support: Tensor) -> Tensor:
        """Change the MR's gamma, add a bias field and noise, only inside its support; result in [-1, 1]."""
        s, (count, _, height, width) = self.settings, real_A.shape
        value = (real_A + 1) / 2
        if s.gamma:
            exponent = torch.exp(self._uniform((count, 1, 1, 1), real_A) * s.gamma)
            value = value.clamp_min(1e-6) ** exponent
        if s.bias_field:
            knots = self._uniform((count, 1, 4, 4), real_A) * s.bias_field
            value = value * torch.exp(F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True))
        if s.noise:
            level = self._uniform((count, 1, 1, 1), real_A).abs() * s.noise
            value = value + level * self._normal(value)
        return torch.where(support > 0, value.clamp(0, 1) * 2 - 1, real_A)


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """Sample images (B, C, H, W) in [-1, 1] at `grid` (B, H, W, 2) linearly; outside is -1."""
    moved = F.grid_sample(images + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (moved - 1).clamp(-1, 1)
