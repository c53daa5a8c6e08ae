"""The predecessor's three discriminators: PatchGANs (Isola et al. 2017), and one that averages to a single score.

All return logits: the predecessor's sigmoid is part of the losses (BCE with logits is numerically stable). Module
indices match the predecessor's checkpoint files.
"""

from __future__ import annotations

from torch import Tensor, nn

from mrict_core.errors import MrictError
from mrict_core.networks.layers import in_full

SLOPE = 0.2  # of LeakyReLU for negative values


class PatchGAN(nn.Module):
    """Strided 4x4 convolutions, then one 4x4 convolution of stride 1 to a map of logits, one per patch.

    # (B, in_channels, H, W) => (B, 1, h, w) logits; with `pool`: (B, 1), the mean logit
    """

    def __init__(
        self,
        *,
        width: int,  # channels of the first block; they double with every block
        in_channels: int,  # 1: the CT; 2: MR and CT concatenated
        dropout: float,  # probability, after every block but the last
        blocks: int,  # strided blocks; they determine the receptive field
        last_padding: int,  # of the last convolution
        pool: bool,  # global average over the map
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.pool = pool
        self.min_size = 2**blocks * (4 - 2 * last_padding)  # pixels: the last kernel needs 4 cells, padding included
        layers: list[nn.Module] = []
        c_in = in_channels
        for index in range(blocks):
            c_out = width * 2**index
            layers.append(nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1))
            if index:
                layers.append(nn.BatchNorm2d(c_out))
            layers += [nn.LeakyReLU(SLOPE, inplace=True), nn.Dropout(dropout)]
            c_in = c_out
        layers.append(nn.Conv2d(c_in, 1, kernel_size=4, stride=1, padding=last_padding))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits. Raises MrictError for a wrong channel count or an image that is too small."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < self.min_size:
            raise MrictError(
                f"discriminator: input of shape {tuple(x.shape)}, expected (B, {self.in_channels}, H, W) with H and W "
                f"at least {self.min_size}; check method.conditional and the canvas size"
            )
        logits = in_full(self.model(x))  # losses and gradient penalty need float32
        return logits.mean(dim=(2, 3)) if self.pool else logits


def patch4(width: int = 64, in_channels: int = 1, dropout: float = 0.1) -> PatchGAN:
    """Return D-4: 15x15 patches of 94 px at 256x256; 2,764,481 parameters at width 64."""
    return PatchGAN(width=width, in_channels=in_channels, dropout=dropout, blocks=4, last_padding=1, pool=False)


def patch3(width: int = 64, in_channels: int = 1, dropout: float = 0.1) -> PatchGAN:
    """Return D-3: 31x31 patches of 46 px at 256x256; 661,697 parameters at width 64."""
    return PatchGAN(width=width, in_channels=in_channels, dropout=dropout, blocks=3, last_padding=1, pool=False)


def scalar(width: int = 64, in_channels: int = 3, dropout: float = 0.1) -> PatchGAN:
    """Return the practice notebooks' discriminator: D-4's trunk, unpadded last convolution, one logit per image."""
    return PatchGAN(width=width, in_channels=in_channels, dropout=dropout, blocks=4, last_padding=0, pool=True)
