"""The feature cache of validation: features of the real slices are computed once, not every epoch."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch

from mrict_core import ranks
from mrict_core.metrics.frechet import Cloud, frechet_distance, joined
from mrict_core.metrics.predecessor import VGG_SIDE, Features, feature_errors, frechet_vectors, vgg_features

KEEP_MIB = 2048  # VGG16's features take 3 MiB a slice: the predecessor's 650 validation slices


class RealSide:
    """Compares synthetic slices with real ones whose features are cached.

    `place` identifies a batch of real slices, the same in every epoch. VGG's features are cached in main memory up to
    `keep_mib` and recomputed beyond, with equal values. fid_features, vgg_features: None omits the metric.
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
        self.batch_size = 8 if torch.device(device).type == "cpu" else 32  # more takes memory without being faster
        self.room = keep_mib * 2**20  # bytes
        self.maps: dict[Hashable, torch.Tensor] = {}  # VGG's features by place
        self.vectors: dict[Hashable, np.ndarray] = {}  # by place, until `cloud` replaces them
        self.cloud: Cloud | None = None

    def vgg_errors(self, place: Hashable, real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
        """Return each slice's mean squared difference of features.  # two of (B, H, W) in [-1, 1] => (B,)"""
        fake = self._maps(fake_unit)
        if place in self.maps:
            return feature_errors(self.maps[place].to(self.device), fake)
        real = self._maps(real_unit)
        if real.nbytes <= self.room:
            self.room -= real.nbytes
            self.maps[place] = real.cpu()
        return feature_errors(real, fake)

    def fake_vectors(self, place: Hashable, real_unit: np.ndarray, fake_unit: np.ndarray) -> np.ndarray:
        """Return the synthetic slices' vectors for the Fréchet distance, and cache the real ones."""
        if self.cloud is None and place not in self.vectors:
            self.vectors[place] = frechet_vectors(real_unit, self.fid_features, self.device, self.batch_size)
        return frechet_vectors(fake_unit, self.fid_features, self.device, self.batch_size)

    def frechet(self, fake: list[np.ndarray]) -> float:
        """Return the Fréchet distance of all real slices to the synthetic vectors of one epoch."""
        if self.cloud is None:
            real = {place: vectors for part in ranks.gathered(self.vectors) for place, vectors in part.items()}
            self.cloud, self.vectors = Cloud.of(joined([real[place] for place in sorted(real)])), {}
        return frechet_distance(self.cloud, Cloud.of(joined(fake)))

    def _maps(self, stack_unit: np.ndarray) -> torch.Tensor:
        return vgg_features(stack_unit, self.vgg_features, self.vgg_side, self.device, self.batch_size)
