"""The discriminator of MK10: patches of volumes, judged with the features of every layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mrict_core.errors import unknown_name
from mrict_core.parts import expect

NORMS = {"instance": "INSTANCE", "batch": "BATCH"}
MOST_LAYERS = 4
LAST = 3  # voxels that the last two layers, of kernel 4 without a stride, need along a side


def patchgan3d(
    width: int = 64,
    in_channels: int = 2,
    layers: int = 2,
    norm: str = "instance",
    spatial_dims: int = 3,
    sides: Sequence[int] = (),
) -> nn.Module:
    """Return MONAI's PatchDiscriminator with width / 2 channels; it returns a list: features, then a map of logits.

    layers: between the first and the last; all but the last of them halve the sides, and so does the first of all. With
    two, a logit sees 34 voxels along each side. Patches with a side too short for so many get fewer layers.
    """
    from monai.networks.nets import PatchDiscriminator

    while layers > 1 and min(sides, default=LAST << layers) >> layers < LAST:
        layers -= 1
    return PatchDiscriminator(
        spatial_dims, channels=max(1, width // 2), in_channels=in_channels, num_layers_d=layers, norm=NORMS[norm]
    )


def check_options(*, layers: int = 2, norm: str = "instance", **_: object) -> None:
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    expect("layers", layers, 1 <= layers <= MOST_LAYERS, f"1 to {MOST_LAYERS}")


patchgan3d.check_options = check_options
