"""The real half of validation's feature metrics: G changes from epoch to epoch, the real slices do not."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch

from mrict_core.metrics.frechet import Cloud, frechet_distance, joined
from mrict_core.metrics.predecessor import VGG_SIDE, Features, feature_errors, frechet_vectors, vgg_features

KEEP_MIB = 2048  # VGG16's features take 3 MiB a slice: the predecessor's 650 validation slices


class RealSide:
    """Compares synthetic slices with real ones whose features were computed once and kept.

    Every batch of real slices has a `place`, which must stand for the same slices every time. Of VGG's features as many
    batches are kept as `keep_mib` holds, in ordinary memory; those of the others are computed again. No value depends
    on it. fid_features, vgg_features: None leaves the metric out.
    """

    def __init__(
        self,
        fid_features: Features | None,
        vgg_features: Features | None,
        vgg_side: int | None = VGG_SIDE,
        device: torch.device | str = "cpu",
        keep_mib: int = KEEP_MIB,
    ) -> None:
        self.fid_features, self.vgg_features, self.vgg_side, self.device = fid_features, vgg_features, vgg_side, device
        self.batch_size = 8 if torch.device(device).type == "cpu" else 32  # more is no faster there, and takes memory
        self.room = keep_mib * 2**20  # bytes
        self.maps: dict[Hashable, torch.Tensor] = {}  # VGG's features by place
        self.vectors: dict[Hashable, np.ndarray] = {}  # by place, until all are there and `cloud` replaces them
        self.cloud: Cloud | None = None

    def vgg_errors(self, place: Hashable, real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
        """Return the mean squared difference of features of every slice, (B, H, W) in [-1, 1] twice => (B,)."""
        fake = self._maps(fake_unit)
        if place in self.maps:
            return feature_errors(self.maps[place].to(self.device), fake)
        real = self._maps(real_unit)
        if real.nbytes <= self.room:
            self.room -= real.nbytes
            self.maps[place] = real.cpu()
        return feature_errors(real, fake)

    def fake_vectors(self, place: Hashable, real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
        """Return the vectors of synthetic slices for the Fréchet distance; see to it that the real ones are there."""
        if self.cloud is None and place not in self.vectors:
            self.vectors[place] = frechet_vectors(real_unit, self.fid_features, self.device, self.batch_size)
        return frechet_vectors(fake_unit, self.fid_features, self.device, self.batch_size)

    def frechet(self, fake: list[np.ndarray]) -> float:
        """Return the Fréchet distance of all real slices and the synthetic vectors of a whole pass."""
        if self.cloud is None:
            self.cloud, self.vectors = Cloud.of(joined(list(self.vectors.values()))), {}
        return frechet_distance(self.cloud, Cloud.of(joined(fake)))

    def _maps(self, stack_unit: np.ndarray) -> torch.Tensor:
        return vgg_features(stack_unit, self.vgg_features, self.vgg_side, self.device, self.batch_size)
