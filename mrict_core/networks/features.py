"""Frozen feature networks for perceptual losses and Fréchet distances, by name.

Each takes images in [-1, 1] with 1 or 3 channels (grey is repeated); gradients flow to the image, not to the weights.
The predecessor fed [-1, 1] to torchvision's VGG unscaled; `imagenet_normalisation` is the corrected twin.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mrict_core.errors import MrictError, unknown_name
from mrict_core.networks.demo_pyramid import DemoPyramid
from mrict_core.networks.layers import Frozen, in_full
from mrict_core.networks.lpips import LpipsSqueeze
from mrict_core.networks.weights import load_into, local_only, locate

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALISED_NAMES = ("2", "3", "5", "6", "7", "9", "10", "12", "13", "14", "16", "17")  # layers of vgg19_normalised


class FeatureNetwork(Frozen):
    """A frozen feature network.  # (B, 1 or 3, H, W) in [-1, 1] => (B, C, h, w)

    `name` and `weights_hash` go into checkpoints and metric cards; `dimension` is the length of an embedding.
    """

    def __init__(
        self,
        layers: nn.Module,
        *,
        name: str,
        weights_hash: str,
        dimension: int,  # C, channels of the features
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),  # input is (x - mean) / std, x in [-1, 1]
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        multiple: int = 1,  # H and W must be a multiple of this many pixels
    ) -> None:
        super().__init__()
        self.layers = layers.to(memory_format=torch.channels_last)  # a third to a half faster
        self.name = name
        self.weights_hash = weights_hash
        self.dimension = dimension
        self.multiple = multiple
        self.dtype = torch.float32  # of the layers
        self.first, conv = next((f"{n}.weight", m) for n, m in layers.named_modules() if isinstance(m, nn.Conv2d))
        self.grey_is_enough = len(set(mean)) == len(set(std)) == 1  # that layer sees three equal channels
        self.register_buffer("grey_weight", conv.weight.detach().sum(dim=1, keepdim=True), persistent=False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.freeze()

    def prepare(self, x: Tensor) -> Tensor:
        """Return `x` with 3 channels in the range of the weights."""
        if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            sides = f" and H, W multiples of {self.multiple}" if self.multiple > 1 else ""
            raise MrictError(
                f"{self.name}: input of shape {tuple(x.shape)}, expected (B, 1 or 3, H, W){sides}; crop or pad it"
            )
        return (x.expand(-1, 3, -1, -1) - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, float32.  # (B, 1 or 3, H, W) in [-1, 1] => (B, C, h, w)"""
        prepared = self.prepare(x).to(self.dtype)
        if x.shape[1] == 1 and self.grey_is_enough:  # the first weights, summed over channels, give the same result
            return in_full(functional_call(self.layers, {self.first: self.grey_weight}, prepared[:, :1]))
        return in_full(self.layers(prepared))

    def compute_in(self, dtype: torch.dtype) -> FeatureNetwork:
        """Run the layers in `dtype`; input and features stay float32."""
        self.dtype = dtype
        self.layers.to(dtype, memory_format=torch.channels_last)
        self.grey_weight = self.grey_weight.to(dtype, memory_format=torch.channels_last)
        return self

    def embed(self, x: Tensor) -> Tensor:
        """Return the spatial mean of the features.  # (B, 1 or 3, H, W) => (B, dimension)"""
        return self.forward(x).mean(dim=(2, 3))


def _vgg(name: str, weights: str, depth: int | None, dimension: int, imagenet_normalisation: bool) -> FeatureNetwork:
    """Return the first `depth` layers (None: all) of torchvision's VGG with the named weights."""
    found = locate(weights)
    from torchvision import models

    with torch.device("meta"):  # no initialisation: the values are replaced
        layers = getattr(models, weights)(weights=None, init_weights=False).features[:depth]
    digest = load_into(layers, weights, found)
    scaling = {}
    if imagenet_normalisation:  # ((x + 1) / 2 - m) / s, written for x in [-1, 1]
        name += "+imagenet_normalisation"
        scaling = {"mean": tuple(2 * m - 1 for m in IMAGENET_MEAN), "std": tuple(2 * s for s in IMAGENET_STD)}
    return FeatureNetwork(layers, name=name, weights_hash=digest, dimension=dimension, **scaling)


def _vgg19_normalised() -> FeatureNetwork:
    """Return the activation-normalised Caffe VGG-19 of Gatys et al. 2016 up to relu3_1.

    The file's first layer, a 1x1 convolution, maps RGB in [0, 1] to BGR in 0..255 minus the Caffe mean.
    """
    found = locate("vgg19_normalised")
    from torchvision import models

    with torch.device("meta"):
        vgg = models.vgg19(weights=None, init_weights=False).features[: len(NORMALISED_NAMES)]
        scaling = nn.Conv2d(3, 3, kernel_size=1)
    layers = nn.Sequential(OrderedDict([("0", scaling), *zip(NORMALISED_NAMES, vgg, strict=True)]))
    digest = load_into(layers, "vgg19_normalised", found)
    return FeatureNetwork(
        layers,
        name="vgg19_normalised_relu3_1",
        weights_hash=digest,
        dimension=256,
        mean=(-1.0, -1.0, -1.0),
        std=(2.0, 2.0, 2.0),
    )


class DemoFeatures(FeatureNetwork):
    """`demo_features`: a substitute without weights, and without learned knowledge; see `DemoPyramid`."""

    def __init__(self) -> None:
        layers = DemoPyramid()
        values = b"".join(p.detach().numpy().astype("<f4").tobytes() for p in layers.parameters())
        super().__init__(
            layers,
            name="demo_features",
            weights_hash=hashlib.sha256(values).hexdigest(),
            dimension=DemoPyramid.COARSEST,
            mean=(-1.0, -1.0, -1.0),  # air becomes 0 and the rest positive
            std=(0.5, 0.5, 0.5),
            multiple=DemoPyramid.MULTIPLE,
        )

    def embed(self, x: Tensor) -> Tensor:
        """Return the spatial mean of the coarsest features.  # (B, 1 or 3, H, W) => (B, 64)"""
        return self.forward(x)[:, -self.dimension :].mean(dim=(2, 3))


class InceptionFid(Frozen):
    """Inception v3 of the FID (Heusel et al. 2017), by torch-fidelity.  # (B, 3, H, W) uint8 => (B, 2048)

    It resizes to 299x299 and scales. Calling it equals `embed`.
    """

    name = "inception_fid"
    dimension = 2048

    def __init__(self) -> None:
        super().__init__()
        found = locate("inception_fid")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class Checked(FeatureExtractorInceptionV3):
            """Its constructor would unpickle any object, so it gets an empty file; `load_into` loads the weights."""

            def load_state_dict(self, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
                return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None

        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        with torch.device("meta"):
            self.network = Checked("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
        self.weights_hash = load_into(self.network, "inception_fid", found)
        self.network.to(memory_format=torch.channels_last)
        self.freeze()

    def embed(self, x: Tensor) -> Tensor:
        """Return the 2048 pooled features of each image.  # (B, 3, H, W) uint8 => (B, 2048)"""
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
            raise MrictError(
                f"inception_fid: input of shape {tuple(x.shape)} and type {x.dtype}, expected (B, 3, H, W) uint8; "
                f"repeat grey images and scale them to 0..255"
            )
        return self.network(x)[0]

    forward = embed


FEATURES: dict[str, Callable[..., nn.Module]] = {
    "demo_features": DemoFeatures,
    "vgg19_pool5": partial(_vgg, "vgg19_pool5", "vgg19", None, 512),
    "vgg19_relu3_3": partial(_vgg, "vgg19_relu3_3", "vgg19", 16, 256),
    "vgg16_relu3_3": partial(_vgg, "vgg16_relu3_3", "vgg16", 16, 256),
    "vgg19_normalised_relu3_1": _vgg19_normalised,
    "inception_fid": InceptionFid,
    "lpips_squeeze": LpipsSqueeze,
}
IMAGENET_TWINS = ("vgg19_pool5", "vgg19_relu3_3", "vgg16_relu3_3")  # also available with ImageNet normalisation


def build_features(name: str, *, imagenet_normalisation: bool = False, download: bool = True) -> nn.Module:
    """Return the frozen feature network `name`; with `download=False` only from local weights.

    `imagenet_normalisation` (VGG only) maps [-1, 1] to the range the weights were trained on; the predecessor did not.
    Raises MrictError for an unknown name and for missing weights, which are never replaced by random values.
    """
    if name not in FEATURES:
        raise unknown_name("feature network", name, FEATURES)
    if not download:
        with local_only():
            return build_features(name, imagenet_normalisation=imagenet_normalisation)
    if name in IMAGENET_TWINS:
        return FEATURES[name](imagenet_normalisation)
    if imagenet_normalisation:
        raise MrictError(
            f"feature network '{name}' has its own scaling; imagenet_normalisation is for {', '.join(IMAGENET_TWINS)}"
        )
    return FEATURES[name]()
