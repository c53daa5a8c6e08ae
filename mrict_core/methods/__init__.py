"""Methods: build the networks of a variant and take one training step."""

from __future__ import annotations

import torch

from mrict_core.errors import unknown_name
from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile
from mrict_core.legacy.flat_view import flat
from mrict_core.methods.base import Method, translate
from mrict_core.methods.cyclegan import CycleGAN
from mrict_core.methods.pix2pix import Pix2Pix

METHODS: dict[str, type[Method]] = {"pix2pix": Pix2Pix, "cyclegan": CycleGAN}

__all__ = ["METHODS", "CycleGAN", "Method", "Pix2Pix", "build_method", "check", "translate"]


def build_method(
    variant: Experiment,
    profile: Profile,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
) -> Method:
    """Return the method of `variant` with fresh networks and optimisers at the profile's width."""
    variant = flat(variant)
    if variant.method not in METHODS:
        raise unknown_name("method", variant.method, METHODS)
    return METHODS[variant.method](variant, profile, torch.device(device), precision)


def check(experiment: Experiment) -> None:
    """Raise MrictError, with the nearest name, where an experiment names what is not there."""
    from mrict_core.networks import DISCRIMINATORS, GENERATORS

    names = {"method": (experiment.method.name, METHODS)}
    known = {**GENERATORS, **DISCRIMINATORS}
    names |= {f"network {role}": (part.name, known) for role, part in experiment.network.items()}
    for kind, (name, known) in names.items():
        if name not in known:
            raise unknown_name(kind, name[:40], known)
