"""Wrong inputs derived from good ones; each kind is a function of volume and random generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mrict_core.data.images.orders import SliceOrder
from mrict_core.data.images.volumes import Volume

Kind = Callable[[Volume, np.random.Generator], Volume]


def _array(volume: Volume, array: np.ndarray) -> Volume:
    return replace(volume, array=np.ascontiguousarray(array, np.float32))


def inverted(volume: Volume, rng: np.random.Generator) -> Volume:
    return _array(volume, volume.array.max() - volume.array)


def inverted_in_body(volume: Volume, rng: np.random.Generator) -> Volume:
    """Invert the contrast of tissue; air stays dark."""
    top = np.percentile(volume.array, 99.5)
    return _array(volume, np.where(volume.array > 0.1 * top, np.clip(1.1 * top - volume.array, 0, None), volume.array))


def other_contrast(volume: Volume, rng: np.random.Generator) -> Volume:
    return _array(volume, volume.array.astype(float) ** 2 / max(float(volume.array.max()), 1.0))


def noise(volume: Volume, rng: np.random.Generator) -> Volume:
    return _array(volume, np.abs(rng.normal(0, 300, volume.shape)))


def noise_added(volume: Volume, rng: np.random.Generator) -> Volume:
    sigma = 0.3 * np.percentile(volume.array, 99)
    return _array(
        volume, np.hypot(volume.array + rng.normal(0, sigma, volume.shape), rng.normal(0, sigma, volume.shape))
    )


def cut(axis: int, share: float) -> Kind:
    """Return a kind that keeps the first `share` of slices (axis 0), rows (1) or columns (2)."""

    def made(volume: Volume, rng: np.random.Generator) -> Volume:
        order = SliceOrder.axial(volume.affine)
        stack = order.to_slices(volume.array)
        kept = [slice(None)] * 3
        kept[axis] = slice(0, max(1, round(share * stack.shape[axis])))
        return _array(volume, order.to_array(stack[tuple(kept)]))

    return made


def spacing(factor: float) -> Kind:
    def made(volume: Volume, rng: np.random.Generator) -> Volume:
        return replace(volume, affine=volume.affine @ np.diag([factor] * 3 + [1.0]))

    return made


def turned(*axes: int) -> Kind:
    """Return a kind that flips slices (axis 0), rows (1) or columns (2) and keeps the header."""

    def made(volume: Volume, rng: np.random.Generator) -> Volume:
        order = SliceOrder.axial(volume.affine)
        return _array(volume, order.to_array(np.flip(order.to_slices(volume.array), axes)))

    return made


KINDS: dict[str, Kind] = {
    "contrast inverted, air too": inverted,
    "contrast inverted inside the body": inverted_in_body,
    "other contrast (squared)": other_contrast,
    "noise alone": noise,
    "strong noise added": noise_added,
    "lower half of the slices alone": cut(0, 0.5),
    "back third cut off": cut(1, 0.67),
    "one side cut off": cut(2, 0.6),
    "spacing half": spacing(0.5),
    "spacing 10 times (cm for mm)": spacing(10.0),
    "upside down": turned(0),
    "front and back exchanged": turned(1),
    "left and right exchanged": turned(2),
}
SINGLE_SLICE = [kind for kind in KINDS if kind not in ("lower half of the slices alone", "upside down")]
