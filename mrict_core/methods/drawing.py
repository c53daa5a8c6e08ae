"""Seeded noise and the solver of a flow, for methods that draw samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

SPREAD = 1_000_003  # prime, so that seed, sample and position give different seeds
SEEDS = 2**62


def noise_of(positions: Iterable[int], sides: tuple[int, int], sample: int, seed: int = 0) -> Tensor:
    """Return slices of one sample's noise volume, standard normal, on the CPU.  # => (B, 1, H, W) float32

    A slice depends on its position, its sides, sample and seed alone: batches, slabs and the device change nothing, so
    the volume needs no memory of its own.
    """
    slices = []
    for position in positions:
        own = ((seed * SPREAD + sample) * SPREAD + position) % SEEDS
        slices.append(torch.randn((1, *sides), generator=torch.Generator().manual_seed(own)))
    return torch.stack(slices)


def euler(velocity: Callable[[Tensor, float], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return where the flow dx/dt = velocity(x, t) takes `start` from t = 0 to 1, in equal Euler steps."""
    x = start
    for step in range(steps):
        x = x + velocity(x, step / steps) / steps
    return x
