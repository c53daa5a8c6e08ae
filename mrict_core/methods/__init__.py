"""Methods: build the networks of a variant and take one training step."""

from __future__ import annotations

import torch

from mrict_core.errors import unknown_name
from mrict_core.methods.base import Method, translate
from mrict_core.methods.cyclegan import CycleGAN
from mrict_core.methods.pix2pix import Pix2Pix
from mrict_core.profiles import Profile
from mrict_core.variant import Variant

METHODS: dict[str, type[Method]] = {"pix2pix": Pix2Pix, "cyclegan": CycleGAN}

__all__ = ["METHODS", "CycleGAN", "Method", "Pix2Pix", "build_method", "translate"]


def build_method(
    variant: Variant,
    profile: Profile,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
) -> Method:
    """Return the method of `variant` with fresh networks and optimisers at the profile's width."""
    if variant.method not in METHODS:
        raise unknown_name("method", variant.method, METHODS)
    return METHODS[variant.method](variant, profile, torch.device(device), precision)
