"""LPIPS v0.1 (Zhang et al. 2018) with SqueezeNet 1.1, by torchmetrics, from checked weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from mrict_core.errors import MrictError
from mrict_core.networks.layers import Frozen
from mrict_core.networks.weights import load_into, locate

HEAD_SHA256 = "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"  # the authors' v0.1/squeeze.pth


class LpipsSqueeze(Frozen):
    """A perceptual distance.  # (B, 3, H, W) in [-1, 1] twice => (B,), 0 for equal images

    Architecture and linear head come from torchmetrics, SqueezeNet's weights from `weights`.
    """

    name = "lpips_squeeze_v0.1"

    def __init__(self) -> None:
        super().__init__()
        found = locate("squeezenet1_1")
        from torchmetrics.functional.image import lpips
        from torchvision import models

        with torch.device("meta"):  # no initialisation: the values are replaced
            backbone = models.squeezenet1_1(weights=None).features
        self.weights_hash = load_into(backbone, "squeezenet1_1", found)
        head = Path(lpips.__file__).parent / "lpips_models" / "squeeze.pth"
        if not head.is_file() or hashlib.sha256(head.read_bytes()).hexdigest() != HEAD_SHA256:
            raise MrictError(
                f"LPIPS: torchmetrics' {head.name} is not the authors' v0.1 head (sha256 {HEAD_SHA256[:8]}…); "
                "install the torchmetrics of requirements.txt"
            )
        with torch.random.fork_rng(devices=[]):  # the constructor draws values, replaced below
            self.network = lpips._LPIPS(pretrained=True, net="squeeze", pnet_rand=True)
        for part in self.network.net.slices:
            for index in list(part._modules):
                part._modules[index] = backbone[int(index)]
        self.freeze()

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the distance of every pair.  # (B, 3, H, W) in [-1, 1] twice => (B,)"""
        for images in (real, fake):
            if images.ndim != 4 or images.shape[1] != 3:
                raise MrictError(
                    f"{self.name}: input of shape {tuple(images.shape)}, expected (B, 3, H, W); repeat grey images"
                )
        return self.network(real, fake).flatten()
