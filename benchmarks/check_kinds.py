"""Wrong and good CTs, and synthetic CTs of bad models, derived from sound ones: tables for benchmark and tests.

Arrays are volumes of one shape: `a` in HU, `m` the body (bool).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy import ndimage

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def zscore(a: np.ndarray, where: np.ndarray) -> np.ndarray:
    return (a - a[where].mean()) / a[where].std()


def picture(a: np.ndarray, top: float, low: float = -1024, high: float = 3000) -> np.ndarray:
    return (a.clip(low, high) - low) / (high - low) * top


SCALED: dict[str, tuple[Change, str]] = {
    "wrap of uint16": (
        lambda a, m: np.round(a) + 65536 * (np.round(a) < 0),
        "wrapped by an unsigned 16",
    ),
    "wrap of uint32": (lambda a, m: np.round(a) + 2.0**32 * (np.round(a) < 0), "by an unsigned 32-bit type"),
    "wrap of 12 bits": (lambda a, m: np.round(a) + 4096 * (np.round(a) < 0), "wrapped at 12 bits"),
    "wrap of uint8": (lambda a, m: np.round(a) % 256, "fill 8 bits"),
    "16-bit picture": (lambda a, m: picture(a, 65535), "scaled to 16 bits"),
    "16-bit picture of a window": (lambda a, m: picture(a, 65535, -1000, 1000), "scaled to 16 bits"),
    "8-bit picture": (lambda a, m: np.round(picture(a, 255)), "8 bits"),
    "8-bit picture of a window": (lambda a, m: np.round(picture(a, 255, -1000, 1000)), "8 bits"),
    "int8 clip": (lambda a, m: np.round(a).clip(-128, 127), "fill 8 bits"),
    "uint8 clip": (lambda a, m: np.round(a).clip(0, 255), "fill 8 bits"),
    "z-scores in the mask": (lambda a, m: zscore(a, m), "normalised"),
    "z-scores of all": (lambda a, m: zscore(a, np.ones_like(m)), "normalised"),
    "z-scores on 0": (lambda a, m: np.where(m, zscore(a, m), 0), "normalised"),
    "[-1, 1]": (lambda a, m: picture(a, 2) - 1, "normalised"),
    "[0, 1]": (lambda a, m: picture(a, 1), "normalised"),
    "HU / 1000": (lambda a, m: a / 1000, "normalised"),
    "[0, 1000]": (lambda a, m: picture(a, 1000), r"scaled to 0…1000"),
    "[0, 1000] of a window": (lambda a, m: picture(a, 1000, -1000, 1000), "multiply by 2 and subtract 1024"),
    "times 10": (lambda a, m: a * 10, "HU multiplied by 10"),
    "times 0.1": (lambda a, m: a * 0.1, r"HU multiplied by 0\.1"),
    "times 0.5": (lambda a, m: a * 0.5, r"HU multiplied by 0\.5"),
    "times 16": (lambda a, m: a * 16, "HU multiplied by about 1"),
    "slope 0.01 lost": (lambda a, m: (a + 1024) * 100, "scaled to a range of its own"),
    "slope lost": (lambda a, m: (a + 1024) / 2, "slope and intercept lost.*; multiply by 2 and subtract 1024"),
    "slope 0.5 lost": (lambda a, m: (a + 1024) * 2, r"slope and intercept lost.*; multiply by 0\.5 and subtract 1024"),
    "intercept lost": (lambda a, m: a + 1024, "intercept of -1024 lost.*; subtract 1024"),
    "intercept of 1000 lost": (lambda a, m: a + 1000, "intercept of -1024 lost.*; subtract 1024"),
    "intercept twice": (lambda a, m: a - 1024, "applied twice.*; add 1024"),
}


def padded(value: float) -> Change:
    return lambda a, m: np.where(ndimage.binary_dilation(m, iterations=2), a, value)


GOOD: dict[str, Change] = {
    "plain": lambda a, m: a,
    "low dose": lambda a, m: a + np.random.default_rng(0).normal(0, 100, a.shape),
    "metal on an extended scale": lambda a, m: np.where(np.random.default_rng(0).random(a.shape) < 0.002, 30000, a),
    **{f"padded with {value}": padded(value) for value in (-1024, -2000, -2048, -3024, -32768)},
    "two kinds of padding": lambda a, m: np.where(np.indices(a.shape)[0] < 3, -3024, padded(-2000)(a, m)),
    "window to 1000": lambda a, m: a.clip(-1000, 1000),
    "masked with air": lambda a, m: np.where(m, a, -1024),
    "bone up to 3071": lambda a, m: np.where(a > 900, 3071, a),
}


def bad_models(ct: np.ndarray, body: np.ndarray) -> dict[str, np.ndarray]:
    """Return synthetic CTs in HU of bad models, {fault: sCT}."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, ct.shape)
    air, zero = (lambda a: np.where(body, a, -1024.0)), (lambda a: np.where(body, a, 0.0))
    found = {
        "constant": np.full(ct.shape, 37.0),
        "constant 0": np.zeros(ct.shape),
        "nearly constant": 37 + noise,
        "nearly 0": 0.3 * noise,
        "collapsed to 0": air(2 * noise),
        "collapsed to air": -1000 + 5 * noise,
        "noise": 400 * noise,
        "water": air(np.zeros(ct.shape)),
        "all soft tissue": air(40 + 15 * noise),
        "all soft tissue on 0": zero(40 + 15 * noise),
        "mean CT": air(ct[body].mean() + 0 * ct),
        "half air": np.where(body, -500 + 0.5 * ndimage.gaussian_filter(ct, 2), -1000),
        "mirrored": ct[::-1],
        "aside": np.roll(ct, 8, 0),
        "bone as air": np.where(ct > 300, -1000, 1000) + 5 * noise,
        "masked with 0": zero(ct),
        "narrow window": ct.clip(-160, 240),
    }
    found |= {f"noise of {sd} HU": ct + sd * noise for sd in (100, 400, 800)}
    found |= {f"blurred by {s}": ndimage.gaussian_filter(ct, s) for s in (1, 3, 6)}
    for name, around in (("", lambda a: a), (", air around", air), (", 0 around", zero)):
        found |= {f"bias of {b} HU{name}": around(ct + b) for b in (-600, -400, -150, 150, 400, 600)}
        found |= {f"contrast {k}{name}": around(40 + k * (ct - 40)) for k in (0.1, 0.3, 0.5, 0.7, 1.5, 2) if name}
    return found


def of_slices(which: Callable[[int], Iterable[int]], change: Change) -> Change:
    """Return a change of some slices along the last axis; `which` gets the number of slices."""

    def changed(a: np.ndarray, m: np.ndarray) -> np.ndarray:
        a = np.array(a, np.float32)
        for k in which(a.shape[2]):
            a[:, :, k] = change(a[:, :, k], m[:, :, k])
        return a

    return changed


def every(step: int) -> Callable[[int], Iterable[int]]:
    return lambda count: range(0, count, step)


def two(count: int) -> Iterable[int]:
    return (count // 2, count // 2 + 1)


def one(count: int) -> Iterable[int]:
    return (count // 3,)


def noise(m: np.ndarray, level: float, sd: float) -> np.ndarray:
    return np.random.default_rng(0).normal(level, sd, m.shape)


SLICES: dict[str, tuple[Change, str]] = {  # kind => change, expected outcome
    "every third +1024": (of_slices(every(3), lambda a, m: a + 1024), "refused"),
    "every second +1024": (of_slices(every(2), lambda a, m: a + 1024), "refused"),
    "lower half +1024": (of_slices(lambda n: range(n // 2), lambda a, m: a + 1024), "refused"),
    "one +1024": (of_slices(one, lambda a, m: a + 1024), "refused"),
    "one +1024, air around": (of_slices(one, lambda a, m: np.where(m, a + 1024, -1024)), "refused"),
    "one -1024": (of_slices(one, lambda a, m: a - 1024), "named"),
    "every third +200": (of_slices(every(3), lambda a, m: a + 200), "named"),
    "one +150": (of_slices(one, lambda a, m: a + 150), "named"),
    "one times 0.5": (of_slices(one, lambda a, m: a * 0.5), "named"),
    "one times 2": (of_slices(one, lambda a, m: a * 2), "named"),
    "two zeroed": (of_slices(two, lambda a, m: 0 * a), "named"),
    "two all air": (of_slices(two, lambda a, m: 0 * a - 1024), "named"),
    "two of noise like air": (of_slices(two, lambda a, m: noise(m, -1000, 10)), "named"),
    "one of noise": (of_slices(one, lambda a, m: noise(m, 0, 300)), "named"),
    "one all soft tissue": (of_slices(one, lambda a, m: np.where(m, noise(m, 40, 8), -1000)), "named"),
    "one of turned sign": (of_slices(one, lambda a, m: -a), ""),  # not tested
}


def moved(mm: float, axis: int) -> Callable[[np.ndarray, tuple[float, ...]], np.ndarray]:
    return lambda a, spacing_mm: np.roll(a, max(1, round(mm / spacing_mm[axis])), axis)


def reordered(a: np.ndarray, back: bool) -> np.ndarray:
    order = np.r_[0 : a.shape[2] : 2, 1 : a.shape[2] : 2]
    return a[:, :, np.argsort(order) if back else order]


POSES: dict[str, Callable[[np.ndarray, tuple[float, ...]], np.ndarray]] = {
    **{f"moved {mm} mm along axis {axis}": moved(mm, axis) for mm in (3, 6, 10, 20) for axis in range(3)},
    **{f"mirrored along axis {axis}": (lambda a, s, axis=axis: np.flip(a, axis)) for axis in range(3)},
    "every other slice first": lambda a, s: reordered(a, False),
    "slices interleaved": lambda a, s: reordered(a, True),
    "turned by 180 degrees": lambda a, s: a[::-1, ::-1],
    "turned by 5 degrees": lambda a, s: ndimage.rotate(a, 5, reshape=False, order=1, mode="nearest"),
    "turned by 10 degrees": lambda a, s: ndimage.rotate(a, 10, reshape=False, order=1, mode="nearest"),
}
