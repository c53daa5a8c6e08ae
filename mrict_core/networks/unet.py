"""The predecessor's two generators: a U-Net with two decoder widths.

Source: Ronneberger et al. 2015 (U-Net), with the strided 4x4 convolutions of Isola et al. 2017 (pix2pix). Module names
match the predecessor's checkpoint files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrict_core.networks.layers import autocast, check_input, in_full

STRIDE = 32  # five halvings: encoder 1-4 and the bottleneck
ENCODER = (1, 2, 4, 8)  # channels of enc1..enc4, in units of the width


def _block(
    conv: type[nn.Conv2d] | type[nn.ConvTranspose2d], c_in: int, c_out: int, dropout: float, slope: float
) -> nn.Sequential:
    return nn.Sequential(
        conv(c_in, c_out, kernel_size=4, stride=2, padding=1),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(slope, inplace=True),
        nn.Dropout(dropout),
    )


class UNet(nn.Module):
    """U-Net with tanh output.  # (B, in_channels, H, W) in [-1, 1] => (B, out_channels, H, W) in (-1, 1)

    H and W must be multiples of 32. Weights have torch's default initialisation, like the predecessor's. The last layer
    always runs in float32.
    """

    multiple = STRIDE  # pixels, of an image's sides

    def __init__(
        self,
        width: int,  # channels of enc1
        in_channels: int,
        out_channels: int,
        dropout: float,  # probability, after every block
        slope: float,  # of LeakyReLU for negative values
        *,
        bottleneck: int,  # channels, in units of the width
        decoder: tuple[int, int, int, int],  # channels of dec4..dec1, in units of the width
        skip_enc1: bool,  # False: dec1 is a bare transposed convolution and enc1 is not concatenated
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.skip_enc1 = skip_enc1
        e1, e2, e3, e4 = (width * m for m in ENCODER)
        d4, d3, d2, d1 = (width * m for m in decoder)
        deepest = width * bottleneck

        self.enc1 = _block(nn.Conv2d, in_channels, e1, dropout, slope)
        self.enc2 = _block(nn.Conv2d, e1, e2, dropout, slope)
        self.enc3 = _block(nn.Conv2d, e2, e3, dropout, slope)
        self.enc4 = _block(nn.Conv2d, e3, e4, dropout, slope)
        self.bottleneck = _block(nn.Conv2d, e4, deepest, dropout, slope)
        self.dec4 = _block(nn.ConvTranspose2d, deepest, d4, dropout, slope)
        self.dec3 = _block(nn.ConvTranspose2d, d4 + e4, d3, dropout, slope)
        self.dec2 = _block(nn.ConvTranspose2d, d3 + e3, d2, dropout, slope)
        if skip_enc1:
            self.dec1 = _block(nn.ConvTranspose2d, d2 + e2, d1, dropout, slope)
        else:
            self.dec1 = nn.ConvTranspose2d(d2 + e2, d1, kernel_size=4, stride=2, padding=1)
        last = d1 + e1 if skip_enc1 else d1
        self.final_upsample = nn.ConvTranspose2d(last, out_channels, kernel_size=4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the synthetic image. Raises MrictError for a wrong channel count or image size."""
        check_input(x, self.in_channels, STRIDE)
        e1 = self.enc1(x)
        e2 = self.enc2(e1)
        e3 = self.enc3(e2)
        e4 = self.enc4(e3)
        d4 = self.dec4(self.bottleneck(e4))
        d3 = self.dec3(torch.cat((d4, e4), dim=1))
        d2 = self.dec2(torch.cat((d3, e3), dim=1))
        d1 = self.dec1(torch.cat((d2, e2), dim=1))
        last = torch.cat((d1, e1), dim=1) if self.skip_enc1 else d1
        with autocast(x.device, torch.float32):  # bfloat16 would round the image to steps of up to 8 HU
            return torch.tanh(self.final_upsample(in_full(last)))


def unet_a(
    width: int = 64, in_channels: int = 1, out_channels: int = 1, dropout: float = 0.1, slope: float = 0.14
) -> UNet:
    """Return G-A (MK1, MK2, MK4, practice): narrow decoder, no enc1 skip. 11,214,529 parameters at width 64."""
    return UNet(width, in_channels, out_channels, dropout, slope, bottleneck=8, decoder=(4, 2, 1, 1), skip_enc1=False)


def unet_b(
    width: int = 64, in_channels: int = 1, out_channels: int = 1, dropout: float = 0.1, slope: float = 0.14
) -> UNet:
    """Return G-B (MK3 and later, CycleGAN): symmetric, a skip at every level. 25,046,657 parameters at width 64."""
    return UNet(width, in_channels, out_channels, dropout, slope, bottleneck=16, decoder=(8, 4, 2, 1), skip_enc1=True)
