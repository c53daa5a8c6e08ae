"""Methods by name, one module each: how to train on a batch, and how to predict a CT.

Every module of this folder is imported, so a new method only needs to register itself.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

import torch

from mrict_core.experiments.profiles import Profile
from mrict_core.experiments.schema import Experiment
from mrict_core.methods.base import METHODS, Method, Setup
from mrict_core.methods.checks import check, check_networks, own_code

__all__ = ["METHODS", "Method", "build_method", "check", "check_networks", "own_code"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def build_method(
    experiment: Experiment,
    profile: Profile,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    *,
    training: bool = True,
    canvas: int = 256,
) -> Method:
    """Return an experiment's method with fresh networks at the profile's width, and its optimisers.

    training: False for the predicting network alone. canvas: side of the slices, pixels.
    """
    setup = Setup(experiment, profile, torch.device(device), precision, training, canvas)
    return METHODS.build(experiment.method.name, experiment.method.options, setup=setup)
