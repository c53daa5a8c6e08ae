"""What methods that draw samples share: checks, seeded noise, and the solver of a flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment

SPREAD = 1_000_003  # prime, so that seed, sample and position give different seeds
SEEDS = 2**62


def check_drawing(experiment: Experiment, network: str) -> None:
    """Raise MrictError for a network other than the method's, and for planes: noise has one."""
    if (name := experiment.network["G"].name) != network:
        method = experiment.method.name
        raise MrictError(f"network.G is {name}, method {method} needs {network}; set network.G.name={network}")
    if planes := experiment.data.view.options.get("planes"):
        raise MrictError(
            f"data.view.planes is {list(planes)}: the noise of a volume belongs to its slices as prepared; "
            "leave planes out"
        )


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
