"""Slices larger than a network's canvas: overlapping tiles, blended by MONAI's sliding window."""

from __future__ import annotations

import numpy as np
import torch

from mrict_core.inference.synthesizer import Synthesizer


@torch.inference_mode()
def slices_to_hu(
    synthesizer: Synthesizer, mr: np.ndarray, overlap: float = 0.5, sample: int | None = None
) -> np.ndarray:
    """Return HU of prepared slices at least as large as the network's canvas.  # (N, H, W) => (N, H, W) float32

    A network that sees volumes predicts any size in patches that overlap in all three directions.
    Larger slices are predicted in tiles that overlap by at least `overlap` of their side, with Gaussian weights. Noise
    is drawn for the whole slice and cut like it, so overlapping tiles see the same. sample: see
    `Synthesizer.slices_to_hu`.
    """
    size = synthesizer.facts.size
    if synthesizer.volumes:
        return synthesizer.slices_to_hu(mr, overlap=overlap)
    if mr.shape[1:] == (size, size):
        return synthesizer.slices_to_hu(mr, sample=sample)
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer((size, size), synthesizer.batch_size, overlap=overlap, mode="gaussian")

    hu = np.empty(mr.shape, np.float32)
    for positions in synthesizer.batches(len(mr)):
        seen, noise = synthesizer.gathered(mr, positions), synthesizer.noise(positions, mr.shape[1:], sample)
        channels = seen.shape[1]

        def predict(tiles: torch.Tensor, channels: int = channels) -> torch.Tensor:
            cut = tiles[:, channels:].transpose(0, 1)[:, :, None]  # (samples, tiles, 1, H, W)
            return synthesizer.to_hu(tiles[:, :channels], cut if len(cut) else None)[:, None]

        if noise is not None:
            seen = torch.cat([seen, *noise], dim=1)  # (B, C + samples, H, W)
        joined = inferer(seen, predict)
        hu[positions] = joined[:, 0].numpy()
    return hu
