"""3x3 convolutions of frozen networks by Winograd's F(2x2, 3x3): 16 products for 4 pixels where 36 are the rule.

A tile of 4x4 pixels, a kernel of 3x3 and the 2x2 pixels that come of them are taken into a space where convolving is
multiplying, entry by entry; over all channels that is 16 matrix products, which a CPU runs near its peak:

    Y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A        d: tile, w: kernel, Y: output    (Lavin and Gray 2016, arXiv 1509.09308)

The result is that of the direct sum up to rounding, in float32 no worse. It pays where there are many channels; the
kernels are transformed once, so it is for weights that do not change. The gradient to the image is a convolution of
the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS_MIN = 256  # below, the transforms cost as much as the products save
TILES = 256  # at a time: what lies between the transforms stays in the processor's cache
G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def transform_kernel(weight: Tensor) -> Tensor:
    """Return G w Gᵀ of every kernel.  # (O, C, 3, 3) => (16, C, O)"""
    g = torch.tensor(G, dtype=torch.float64)
    return torch.einsum("ia,ocab,jb->ijco", g, weight.double(), g).flatten(0, 1).to(weight.dtype).contiguous()


def _tile_to_products(lines: tuple[Tensor, ...], out: Tensor) -> None:
    """Bᵀ d along one axis: four lines of the tile => four."""
    torch.sub(lines[0], lines[2], out=out[0])
    torch.add(lines[1], lines[2], out=out[1])
    torch.sub(lines[2], lines[1], out=out[2])
    torch.sub(lines[1], lines[3], out=out[3])


def _products_to_pixels(lines: Tensor, out: Tensor) -> None:
    """Aᵀ m along one axis: four lines => two pixels."""
    torch.add(lines[0], lines[1], out=out[0]).add_(lines[2])
    torch.sub(lines[1], lines[2], out=out[1]).sub_(lines[3])


def _portions(images: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield images and tile rows of about TILES tiles."""
    rows_each = min(rows, max(1, TILES // columns))
    images_each = max(1, TILES // (columns * rows)) if rows_each == rows else 1
    for image in range(0, images, images_each):
        for row in range(0, rows, rows_each):
            yield slice(image, min(image + images_each, images)), slice(row, min(row + rows_each, rows))


def convolve(image: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution with zeros around the image.  # (B, C, H, W), (16, C, O), (O,) => (B, O, H, W)"""
    height, width = image.shape[2:]
    rows, columns = -(-height // 2), -(-width // 2)  # of tiles
    channels, outputs = kernel.shape[1:]
    padded = F.pad(image.permute(0, 2, 3, 1), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
    size = (len(image), outputs, 2 * rows, 2 * columns)
    result = torch.empty(size, dtype=image.dtype, memory_format=torch.channels_last)
    written = result.permute(0, 2, 3, 1)
    for which, row in _portions(len(image), rows, columns):
        n, k = which.stop - which.start, row.stop - row.start
        part = padded[which, 2 * row.start : 2 * row.stop + 2]
        across = image.new_empty(4, n, k, 2 * columns + 2, channels)
        _tile_to_products(tuple(part[:, i : i + 2 * k - 1 : 2] for i in range(4)), across)
        tiles = image.new_empty(4, 4, n, k, columns, channels)
        down = (across[:, :, :, j : j + 2 * columns - 1 : 2] for j in range(4))
        _tile_to_products(tuple(down), tiles.transpose(0, 1))
        products = torch.bmm(tiles.view(16, -1, channels), kernel).view(4, 4, n, k, columns, outputs)
        half = image.new_empty(2, 4, n, k, columns, outputs)
        _products_to_pixels(products, half)
        pixels = written[which, 2 * row.start : 2 * row.stop].view(n, k, 2, columns, 2, outputs)
        _products_to_pixels(half.transpose(0, 1), pixels.permute(4, 2, 0, 1, 3, 5))
    if bias is not None:
        written += bias
    whole = (height % 2, width % 2) == (0, 0)
    return result if whole else result[:, :, :height, :width].clone(memory_format=torch.channels_last)


class _Convolution(torch.autograd.Function):
    """`convolve` with its gradient to the image; the weights are frozen."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, forth: Tensor, back: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(back)
        return convolve(image, forth, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        return convolve(gradient, back), None, None, None


class WinogradConv2d(nn.Module):
    """A frozen convolution (3x3, stride 1, padding 1) with the names of `nn.Conv2d`; for float32 and float64 on a CPU.

    Elsewhere it calls torch's own. `prepare` must follow any change of the weights or of their type.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.prepare()

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a convolution that gains by it."""
        if not isinstance(module, nn.Conv2d) or min(module.in_channels, module.out_channels) < CHANNELS_MIN:
            return False
        shape = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
        return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and module.padding_mode == "zeros"

    def prepare(self) -> None:
        """Transform the kernels, those of the forward and those of the backward pass."""
        weight = self.weight.detach()
        self.used = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
        turned = weight.flip(2, 3).transpose(0, 1)
        empty = weight.new_empty(0)
        self.register_buffer("forth", transform_kernel(weight) if self.used else empty, persistent=False)
        self.register_buffer("back", transform_kernel(turned) if self.used else empty, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the convolution.  # (B, C, H, W) => (B, O, H, W)"""
        if self.used and image.device.type == "cpu" and image.dtype == self.weight.dtype:
            return _Convolution.apply(image, self.forth, self.back, self.bias)
        return F.conv2d(image, self.weight, self.bias, padding=1)


def use_winograd(network: nn.Module) -> nn.Module:
    """Replace in `network` every convolution that gains by it, and prepare those replaced before; return it."""
    for name, module in network.named_children():
        if isinstance(module, WinogradConv2d):
            module.prepare()
        elif WinogradConv2d.suits(module):
            setattr(network, name, WinogradConv2d(module))
        else:
            use_winograd(module)
    return network
