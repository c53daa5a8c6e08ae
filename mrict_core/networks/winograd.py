"""3x3 convolutions of frozen networks by Winograd's F(4x4, 3x3): 36 products for 16 pixels where 144 are the rule.

A tile of 6x6 pixels, a kernel of 3x3 and the 4x4 pixels that come of them are taken into a space where convolving is
multiplying, entry by entry; over all channels that is 36 matrix products, which a CPU runs near its peak:

    Y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A        d: tile, w: kernel, Y: output    (Lavin and Gray 2016, arXiv 1509.09308)

A, G and B are values of polynomials at `POINTS` (Toom and Cook's construction). The result is that of the direct sum up
to rounding, in float32 to about 1.5e-6 of its size; with the usual points, 0, ±1 and ±2, it would be more than twice
that (on the choice: Barabasz et al. 2020, arXiv 1803.10986). It pays where there are many channels; the kernels are
transformed once, so it is for weights that do not change. The gradient to the image is a convolution of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity
OUT, KERNEL = 4, 3  # pixels of a tile's result and of a kernel, along one axis
TILE = OUT + KERNEL - 1
CHANNELS_MIN = 128  # below, the transforms cost as much as the products save
VALUES = 2**15  # tiles times channels at a time: what lies between the transforms stays in the processor's cache


def _powers(count: int) -> Tensor:
    """Return the first powers of every point; at infinity the highest alone counts.  # => (TILE, count)"""
    finite = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(count)
    infinity = torch.zeros(1, count, dtype=torch.float64)
    infinity[0, -1] = 1
    return torch.cat([finite, infinity])


@cache
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return B and A for both axes of a tile at once.  # => (TILE², TILE²), (OUT², TILE²)"""
    to_products = torch.linalg.inv(_powers(TILE)).T.contiguous()
    to_pixels = _powers(OUT).T.contiguous()
    return torch.kron(to_products, to_products).to(dtype), torch.kron(to_pixels, to_pixels).to(dtype)


def transform_kernel(weight: Tensor) -> Tensor:
    """Return G w Gᵀ of every kernel.  # (O, C, 3, 3) => (TILE², C, O)"""
    g = _powers(KERNEL)
    return torch.einsum("ia,ocab,jb->ijco", g, weight.double(), g).flatten(0, 1).to(weight.dtype).contiguous()


def _portions(images: int, rows: int, columns: int, tiles: int) -> Iterator[tuple[slice, slice]]:
    """Yield images and rows of tiles, about `tiles` tiles at a time."""
    rows_each = min(rows, max(1, tiles // columns))
    images_each = max(1, tiles // (columns * rows)) if rows_each == rows else 1
    for image in range(0, images, images_each):
        for row in range(0, rows, rows_each):
            yield slice(image, min(image + images_each, images)), slice(row, min(row + rows_each, rows))


def _tiles(pixels: Tensor, row: slice, columns: int) -> Tensor:
    """Return every pixel of the tiles in these rows, zeros around the image.  # (B, H, W, C) => (TILE², tiles · C)"""
    height, width, channels = pixels.shape[1:]
    top, bottom = OUT * row.start - 1, OUT * row.stop + 1
    around = (0, 0, 1, OUT * columns - width + 1, max(-top, 0), max(bottom - height, 0))
    padded = F.pad(pixels[:, max(top, 0) : bottom], around)
    image, down, across, _ = padded.stride()
    shape = (TILE, TILE, len(padded), row.stop - row.start, columns, channels)
    return padded.as_strided(shape, (down, across, image, OUT * down, OUT * across, 1)).reshape(TILE**2, -1)


def convolve(image: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution with zeros around the image.  # (B, C, H, W), (TILE², C, O), (O,) => (B, O, H, W)"""
    to_products, to_pixels = _transforms(image.dtype)
    height, width = image.shape[2:]
    rows, columns = -(-height // OUT), -(-width // OUT)  # of tiles
    channels, outputs = kernel.shape[1:]
    pixels = image.permute(0, 2, 3, 1).contiguous()
    size = (len(image), outputs, OUT * rows, OUT * columns)
    result = torch.empty(size, dtype=image.dtype, memory_format=torch.channels_last)
    by_tile = result.permute(0, 2, 3, 1).view(len(image), rows, OUT, columns, OUT, outputs)
    for which, row in _portions(len(image), rows, columns, VALUES // max(channels, outputs)):
        tiles = to_products @ _tiles(pixels[which], row, columns)
        products = torch.bmm(tiles.view(TILE**2, -1, channels), kernel)
        sums = (to_pixels @ products.view(TILE**2, -1)).view(OUT**2, -1, outputs)
        if bias is not None:
            sums += bias
        written = by_tile[which, row].permute(2, 4, 0, 1, 3, 5)
        written.copy_(sums.view(written.shape))
    whole = (height % OUT, width % OUT) == (0, 0)
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
