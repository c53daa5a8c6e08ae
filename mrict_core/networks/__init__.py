"""Networks by name: generators, discriminators, frozen feature networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mrict_core.errors import unknown_name
from mrict_core.networks.features import build_features
from mrict_core.networks.patchgan import PatchGAN, patch3, patch4, scalar
from mrict_core.networks.unet import UNet, unet_a, unet_b

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "build_discriminator",
    "build_features",
    "build_generator",
    "count_parameters",
]

GENERATORS: dict[str, Callable[..., UNet]] = {"unet_a": unet_a, "unet_b": unet_b}
DISCRIMINATORS: dict[str, Callable[..., PatchGAN]] = {"patch4": patch4, "patch3": patch3, "scalar": scalar}


def build_generator(name: str, *, width: int, channels: int, dropout: float, slope: float) -> UNet:
    """Return the generator `name`; `width` is the channel count of its first block (predecessor: 64)."""
    if name not in GENERATORS:
        raise unknown_name("generator", name, GENERATORS)
    return GENERATORS[name](width=width, channels=channels, dropout=dropout, slope=slope)


def build_discriminator(name: str, *, width: int, in_channels: int, dropout: float) -> PatchGAN:
    """Return the discriminator `name`, which returns logits; `in_channels` counts MR and CT when conditional."""
    if name not in DISCRIMINATORS:
        raise unknown_name("discriminator", name, DISCRIMINATORS)
    return DISCRIMINATORS[name](width=width, in_channels=in_channels, dropout=dropout)


def count_parameters(module: nn.Module) -> int:
    """Return the number of learnable values (buffers such as running means are not counted)."""
    return sum(p.numel() for p in module.parameters())
