"""Sharpness: the power spectrum of an image's slices against that of the CT.

An average of possible images is too smooth: its power at high frequencies is too low, which no error per voxel shows.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.metrics.metric import Metric

LOWEST = 0.25  # cycles per pixel: the upper half of the frequencies
BAND = 0.025  # width of a ring of frequencies, cycles per pixel
LEAST_SIDE = 16  # pixels; smaller slices have too few frequencies
CEILING_HU = 3000.0


def ring_powers(slices: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the mean power of each ring of frequencies from `LOWEST` to 0.5, over all slices with mask.

    The power is that of the gradient: each frequency's times its square. Outside the mask is air, in any image.

    # (N, H, W) HU and bool => (10,) float64
    """
    rows, cols = (np.fft.fftfreq(side) for side in slices.shape[1:])
    radius = np.hypot(rows[:, None], cols[None, :])
    ring = np.floor((radius - LOWEST) / BAND).astype(int)
    count = round((0.5 - LOWEST) / BAND)
    used = (ring >= 0) & (ring < count)
    power, held = np.zeros(count), np.flatnonzero(inside.any(axis=(1, 2)))
    sizes = np.bincount(ring[used], minlength=count)
    for k in held:
        image = np.where(inside[k], np.clip(slices[k], AIR_FLOOR_HU, CEILING_HU), AIR_FLOOR_HU) - AIR_FLOOR_HU
        spectrum = np.abs(np.fft.fft2(image)) ** 2 * radius**2
        power += np.bincount(ring[used], spectrum[used], minlength=count) / sizes
    return power / max(1, len(held))


def spectrum_distance(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, axis: int = 0) -> float:
    """Return mean |10 log10(power of sCT / power of CT)| over the rings, in dB; NaN without power, or of small slices.

    ct, sct: HU, one 3-D shape; axis: that of the slices.
    """
    a, b, inside = (np.moveaxis(np.asarray(volume), axis, 0) for volume in (ct, sct, mask))
    if min(a.shape[1:]) < LEAST_SIDE:
        return float("nan")
    real, fake = ring_powers(a, inside > 0), ring_powers(b, inside > 0)
    if not (real > 0).all() or not (fake > 0).all():
        return float("nan")
    return float(np.mean(np.abs(10 * np.log10(fake / real))))


_row = partial(
    Metric,
    panels=("clinical",),
    mask="the data set's own mask, mask > 0, on the original grid; outside is air in both images",
    dimensionality="2D",
    aggregation="power averaged over the slices of a case, one value per case; mean over the cases; SD with ddof 1",
)

METRICS = (
    _row(
        *("spectrum_db", "gradient spectrum (dB)", "distance of the gradients' power spectra", "dB", 2, "lower"),
        range=f"HU clipped to [{AIR_FLOOR_HU:g}, {CEILING_HU:g}]; 0.25 to 0.5 cycles per pixel, in rings of {BAND:g}",
        note="sharpness: mean absolute difference of the logarithms of the power, 10 log10, in the upper half of the "
        "frequencies of a slice. A blurred image and a noisy one are both away from 0; the place of an edge does not "
        "matter",
        absent="a slice has a side of less than 16 voxels, or an image has no power in a ring",
        value=lambda case: case.once(spectrum_distance, case.axis),
    ),
)
