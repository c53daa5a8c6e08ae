"""What the mean over samples hides: one step, one sample and the mean of a model that draws samples, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrict_core.metrics.spectrum import spectrum_distance

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore
    from mrict_core.inference import Synthesizer

KINDS = ("one step", "one sample", "mean of samples")


def drawn_of(synthesizer: Synthesizer, mr: np.ndarray) -> dict[str, np.ndarray]:
    """Return a patient's slices of each kind.  # (N, S, S) in [-1, 1] => (N, S, S) float32 HU each"""
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for positions in synthesizer.batches(len(mr)):
        seen, noise = synthesizer.gathered(mr, positions), synthesizer.noise(positions, mr.shape[1:])
        samples = synthesizer.drawn_hu(seen, noise).numpy()
        parts["one step"].append(synthesizer.drawn_hu(seen, noise[:1], steps=1)[0].numpy())
        parts["one sample"].append(samples[0])
        parts["mean of samples"].append(samples.mean(axis=0))
    return {kind: np.concatenate(own) for kind, own in parts.items()}


def sample_scores(synthesizer: Synthesizer, store: SliceStore, patients: Sequence[str]) -> dict[str, Any]:
    """Return {"samples": {kind: {mae_hu, spectrum_db}}}, means over the patients, on the slices of the cache.

    One step is the flow as a regression. A sample is never ranked by MAE: a likely image is further from the CT than
    the mean of all, by up to the square root of 2.
    """
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for patient in patients:
        slices = store.slices(patient)
        real, inside = np.asarray(slices.ct, np.float32), np.asarray(slices.mask) > 0
        for kind, hu in drawn_of(synthesizer, slices.mr).items():
            error = float(np.abs(hu - real)[inside].mean())
            found[kind].append((error, spectrum_distance(real, hu, inside)))
    means = {kind: np.mean(rows, axis=0) for kind, rows in found.items()}
    return {"samples": {kind: {"mae_hu": float(a), "spectrum_db": float(b)} for kind, (a, b) in means.items()}}
