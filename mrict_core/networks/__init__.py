"""Networks by name: generators and discriminators, MONAI's among them; frozen feature networks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from torch import nn

from mrict_core.errors import unknown_name
from mrict_core.experiments.schema import Part
from mrict_core.networks.denoiser import denoiser
from mrict_core.networks.features import build_features
from mrict_core.networks.mean_flow import mean_flow
from mrict_core.networks.patch70 import patch70
from mrict_core.networks.patchgan import patch3, patch4, scalar
from mrict_core.networks.patchgan3d import patchgan3d
from mrict_core.networks.residual_unet import residual_unet
from mrict_core.networks.resnet import resnet
from mrict_core.networks.unet import unet_a, unet_b
from mrict_core.networks.unet_256 import unet_256
from mrict_core.networks.volume_unet import volume_unet
from mrict_core.parts import Parts

__all__ = ["DISCRIMINATORS", "GENERATORS", "NETWORKS", "build_features", "build_network", "count_parameters"]

MONAI = "monai."  # before the name of a class of monai.networks.nets


class Networks(Parts):
    """Our networks by name, and every class of MONAI's as `monai.<class>`."""

    def find(self, name: str) -> Callable[..., nn.Module]:
        """Return the constructor of a network; an unknown name is an error with the nearest one."""
        if not name.startswith(MONAI):
            return super().find(name)
        from monai.networks import nets

        classes = {f"{MONAI}{n}": c for n, c in vars(nets).items() if isinstance(c, type) and c.__name__ == n}
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=5) or ["monai.BasicUNet", "monai.UNet"]
            raise unknown_name("class of monai.networks.nets", name, near)
        return classes[name]


NETWORKS = Networks(
    "network", supplied=("in_channels", "sides"), offered=("out_channels", "width", "canvas", "spatial_dims")
)
NETWORKS |= {"unet_a": unet_a, "unet_b": unet_b, "patch4": patch4, "patch3": patch3, "scalar": scalar}
NETWORKS |= {"volume_unet": volume_unet, "patchgan3d": patchgan3d, "mean_flow": mean_flow, "denoiser": denoiser}
NETWORKS |= {"residual_unet": residual_unet, "unet_256": unet_256, "resnet": resnet, "patch70": patch70}
GENERATORS, DISCRIMINATORS = ("unet_a", "unet_b"), ("patch4", "patch3", "scalar")  # the predecessor's


def build_network(
    part: Part,
    *,
    in_channels: int,
    out_channels: int = 1,
    width: int = 64,
    canvas: int = 256,
    dimensions: int = 2,
    depth: int | None = None,
    sides: Sequence[int] = (),
) -> nn.Module:
    """Return a new network from its options and the other arguments that its constructor takes.

    width: channels of the first block, for networks that scale with it (predecessor: 64). canvas: side of the slices,
    pixels, for networks whose depth follows it. dimensions: 2 for slices, 3 for volumes. depth: number of stages, for
    networks that take one; None: their own. sides: of an image or patch, in pixels. A network that needs image
    sides of a multiple of n pixels has an attribute `multiple`; of a network of volumes, it has a number for each.
    """
    sizes = {"in_channels": in_channels, "out_channels": out_channels, "width": width, "canvas": canvas}
    own = {} if depth is None else {"depth": depth}
    return NETWORKS.build(part.name, part.options, **sizes, **own, spatial_dims=dimensions, sides=sides)


def count_parameters(module: nn.Module) -> int:
    """Return the number of learnable values (without buffers such as running means)."""
    return sum(p.numel() for p in module.parameters())
