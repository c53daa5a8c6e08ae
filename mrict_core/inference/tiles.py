"""Slices larger than a network's canvas: overlapping tiles, blended by MONAI's sliding window."""

from __future__ import annotations

import numpy as np
import torch

from mrict_core.inference.synthesizer import Synthesizer


@torch.inference_mode()
def slices_to_hu(synthesizer: Synthesizer, mr: np.ndarray, overlap: float = 0.5) -> np.ndarray:
    """Return HU of prepared slices at least as large as the network's canvas.  # (N, H, W) => (N, H, W) float32

    A network that sees volumes predicts any size in patches that overlap in all three directions.
    Larger slices are predicted in tiles that overlap by at least `overlap` of their side, with Gaussian weights.
    """
    size = synthesizer.facts.size
    if synthesizer.volumes:
        return synthesizer.slices_to_hu(mr, overlap)
    if mr.shape[1:] == (size, size):
        return synthesizer.slices_to_hu(mr)
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer((size, size), synthesizer.batch_size, overlap=overlap, mode="gaussian")

    hu = np.empty(mr.shape, np.float32)
    for positions in synthesizer.batches(len(mr)):
        joined = inferer(synthesizer.gathered(mr, positions), lambda tiles: synthesizer.to_hu(tiles)[:, None])
        hu[positions] = joined[:, 0].numpy()
    return hu
