"""Precision of forward passes; a check of their input; a start of weights; patch sizes; frozen networks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mrict_core.errors import MrictError


def in_full(x: Tensor) -> Tensor:
    """Return `x` in float32 if autocast made it bfloat16, else unchanged."""
    return x.float() if x.dtype == torch.bfloat16 else x


def normal_weights(network: nn.Module) -> None:
    """Draw the start of Isola et al. 2017: convolutions from N(0, 0.02), batch norm from N(1, 0.02), biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def patch_size(network: nn.Module) -> tuple[int, int]:
    """Return what an output of a chain of convolutions sees, and the distance of two outputs, in pixels of the image.

    Kernels and strides are taken in the order of the layers (Dumoulin and Visin 2016, arXiv 1603.07285).
    """
    size, step = 1, 1
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            size += (layer.kernel_size[0] - 1) * step
            step *= layer.stride[0]
    return size, step


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Return a context for forward passes in `precision`, float32 (no effect) or bfloat16."""
    if device.type == "meta":  # shapes only
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


def check_input(x: Tensor, in_channels: int, multiple: int) -> None:
    """Raise MrictError unless `x` is (B, in_channels, H, W) with H and W multiples of `multiple`."""
    if x.ndim != 4 or x.shape[1] != in_channels or x.shape[2] % multiple or x.shape[3] % multiple:
        raise MrictError(
            f"generator: input of shape {tuple(x.shape)}, expected (B, {in_channels}, H, W) with H and W "
            f"multiples of {multiple}; crop or pad the slices"
        )


class Frozen(nn.Module):
    """A network without gradients to its weights that stays in evaluation mode, also when its parent is trained."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)
