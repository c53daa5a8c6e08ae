"""Are these values HU? Decided here for CT, synthetic CT and MR.

Values are refused if a scaling explains them: `_scalings` lists those that the range and the levels of air and tissue
allow; one counts if undoing it gives a CT (`_oddity`) or matches the true CT (`_explains`). A bad model is not refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.hu import (
    AIR_BELOW_HU,
    AIR_FLOOR_HU,
    AIR_HU,
    CEILING_HU,
    CONSTANT_SD_HU,
    SOFT_TISSUE_HU,
    SYNTHRAD2023,
    WATER_HU,
)
from mrict_core.paths import shown

EXPECTED = f"expected HU (air {AIR_HU:g}, water {WATER_HU:g})"
SAMPLE_VOXELS = 200_000  # evenly spread, for levels and shares
MIN_MASK_VOXELS = 1000  # fewer give no meaningful number
SURE_AIR_HU = -800.0
CT_AIR_HU, CT_AIR_SHARE, CT_FAT_BELOW_HU, CT_FAT_SHARE = (-1100.0, -850.0), 0.02, -20.0, 0.02  # of a CT given as an MR
AIR_SHARE = 0.002  # of the CT's voxels: with more, the sCT must show some
ALL_AIR_HU = -900.0
PADDING_BELOW_HU = -1100.0  # no tissue; a few single values there (-2000, -3024, -32768) are padding
PADDING_VALUES = 3
LOWEST_HU = -1500.0  # noise of air at low dose
BONE_MAX_HU = 3100.0  # above 12 bits there is only metal, on an extended scale: a small share
METAL_SHARE = 0.05
MAX_HU = 32768.0  # what 16 bits hold
OUTSIDE_MAX_HU = 300.0  # of the median outside the mask, which is air, padding or other tissue
BRIGHT_SHARE = 0.05  # of bone-dense voxels outside it, if there is less air
TISSUE_MEDIAN_HU = (-500.0, 700.0)  # of the voxels inside the mask, except masks of lung or cortical bone
SOFT_HU, SOFT_SHARE = (-150.0, 150.0), 0.03  # of all voxels, around such masks
SOFT_PART = 0.4  # of all but air, if a scaling is undone correctly
FAR = 3.0  # smallest factor searched for; a model's contrast may be off by less
LEVEL_HU = 150.0  # tolerance of air and of the median inside the mask after undoing a scaling
GAIN = 0.7  # undoing must reduce the error to this share if the CT shows no slope
LOSS = 1.5  # elsewhere it may grow less than this: padding or a window's end look like air on another scale
NO_HU_SHARE = 0.5  # of the mask outside the range of tissue: no model is that bad
SMALL = (-15.0, 30.0)  # the HU of a body exceed it
SLOPE, CORRELATION = (0.5, 1.6), 0.4  # of the undone values against the CT's: rules out noise and constants
SPREAD_HU = 50.0  # a CT that varies less inside the mask shows no slope


@dataclass(frozen=True)
class Scaling:
    """What changed HU, how the user undoes it, and the function that does."""

    cause: str
    remedy: str
    undo: Callable[[np.ndarray], np.ndarray]


def _linear(cause: str, remedy: str, slope: float, intercept: float) -> Scaling:
    """HU were changed to slope · HU + intercept."""
    return Scaling(cause, remedy, lambda values: (values - intercept) / slope)


def _unwrap(modulus: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: np.where(values > modulus * 3 / 4 - 1, values - modulus, values)


SIGN = Scaling("sign inverted", "multiply by -1", np.negative)
FIXED = (
    _linear("stored values, the rescale intercept of -1024 lost", "subtract 1024", 1, -AIR_FLOOR_HU),
    _linear("the rescale intercept of -1024 applied twice", "add 1024", 1, AIR_FLOOR_HU),
    *(_linear(f"HU multiplied by {factor:g}", f"divide by {factor:g}", factor, 0) for factor in (0.1, 10.0, 0.5, 2.0)),
    *(
        _linear(
            "stored values, rescale slope and intercept lost",
            f"multiply by {1 / slope:g} and subtract 1024",
            slope,
            -AIR_FLOOR_HU * slope,
        )
        for slope in (0.5, 2.0, 0.1, 10.0)
    ),
)


def _range_name(low: float, high: float) -> str:
    """Return the name of a range that HU are often mapped to, "" for others."""
    if -1.5 <= low and high <= 1.5:
        return "the range [-1, 1] of a network" if low < -0.1 else "the range [0, 1]"
    if low >= 0:
        pictures = ((255, "8 bits"), (1000, "0…1000"), (4095, "12 bits"), (65535, "16 bits"))
        return next((f"{name}, as pictures are" for top, name in pictures if high <= top), "a range of its own")
    return "small numbers, as z-scores or HU / 1000 are" if low > -60 and high < 100 else ""


def _wraps(low: float, high: float) -> Iterator[Scaling]:
    """Yield the unsigned types that would have wrapped negative HU to such a range."""
    if low >= 0 and CEILING_HU < high <= 4095:
        yield Scaling("negative HU wrapped at 12 bits", "subtract 4096 above 3071", _unwrap(4096))
    for bits in (16, 32):
        if low >= 0 and 0.6 < high / 2**bits <= 1:
            yield Scaling(
                f"negative HU wrapped by an unsigned {bits}-bit type", "save as signed int16", _unwrap(2**bits)
            )


def _scalings(low: float, high: float, air: float, tissue: float) -> Iterator[Scaling]:
    """Yield the scalings that fit this range and these levels of air and tissue, likeliest first."""
    yield from _wraps(low, high)
    yield from FIXED
    factor = air / AIR_HU
    if factor >= FAR:
        yield _linear(f"HU multiplied by about {factor:.3g}", f"divide by {factor:.3g}", factor, 0)
    slope = (tissue - air) / (SOFT_TISSUE_HU - AIR_HU)
    if slope > 0 and (name := _range_name(low, high)):
        yield _linear(f"scaled to {name}", "map it back to HU, or save it unscaled", slope, air - slope * AIR_HU)
    yield SIGN


def _clipped_to_bytes(low: float, high: float) -> bool:
    """Return whether values fill exactly the range of an 8-bit type."""
    return (low, high) in ((-128.0, 127.0), (0.0, 255.0))


def _small(low: float, high: float, fake: np.ndarray, real: np.ndarray) -> bool:
    """Return whether values within a few units follow the CT, like those of a normalised sCT."""
    if low < SMALL[0] or high > SMALL[1] or min(fake.std(), real.std()) == 0:
        return False
    return float(np.corrcoef(fake, real)[0, 1]) > CORRELATION


def spread_over(volume: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return evenly spread voxels of a volume, or of a mask in it, as float32."""
    flat = np.asarray(volume).ravel(order="K") if mask is None else np.asarray(volume)[mask]
    return flat[:: flat.size // SAMPLE_VOXELS + 1].astype(np.float32)


def is_ct(values: np.ndarray) -> bool:
    """Return whether the values of an MR are those of a CT: many at the level of air, and fat below water."""
    tissue = values[values > AIR_BELOW_HU]
    air = np.mean((values > CT_AIR_HU[0]) & (values < CT_AIR_HU[1]))
    return bool(air > CT_AIR_SHARE and tissue.size and np.mean(tissue < CT_FAT_BELOW_HU) > CT_FAT_SHARE)


def _padding(values: np.ndarray) -> np.ndarray:
    """Return the few single values below all tissue that are padding; none if there are many different ones."""
    lows, counts = np.unique(values[values < PADDING_BELOW_HU], return_counts=True)
    most = np.argsort(counts)[-PADDING_VALUES:]
    return lows[most] if counts[most].sum() >= max(0.8 * counts.sum(), 3 * PADDING_VALUES) else lows[:0]


def _soft_share(values: np.ndarray) -> float:
    return float(np.mean((values > SOFT_HU[0]) & (values < SOFT_HU[1]))) if values.size else 0.0


def _oddity(everywhere: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> str:
    """Return why these values are not those of a CT in HU, "" if they may be."""
    padding = _padding(everywhere)
    everywhere, inside, outside = (
        values[~np.isin(values, padding)] if padding.size else values for values in (everywhere, inside, outside)
    )
    if not everywhere.size or everywhere.min() > AIR_BELOW_HU:
        return "hold no air"
    if (lowest := float(np.percentile(everywhere, 0.1))) < LOWEST_HU:
        return f"reach down to {lowest:.0f}, which is neither noise of air nor padding"
    if inside.size:
        tissue = float(np.median(inside))
        if not TISSUE_MEDIAN_HU[0] <= tissue <= TISSUE_MEDIAN_HU[1] and _soft_share(everywhere) < SOFT_SHARE:
            return f"have the median {tissue:.0f} inside the mask"
        if (dense := float(np.mean(inside > BONE_MAX_HU))) > METAL_SHARE:
            return f"have {dense:.0%} of the mask above {BONE_MAX_HU:.0f}"
    if outside.size:
        around = float(np.median(outside))
        bright, dark = np.mean(outside > -SURE_AIR_HU), np.mean(outside < SURE_AIR_HU)
        if around > OUTSIDE_MAX_HU or bright > max(dark, BRIGHT_SHARE):
            return f"have the median {around:.0f} outside the mask, and {bright:.0%} above {-SURE_AIR_HU:.0f}"
    return ""


def check_hu(ct: np.ndarray, path: Path | str, mask: np.ndarray | None = None) -> list[str]:
    """Return warnings on a CT in HU (any shape); raise `MrictError` if it is not in HU, with the likely scaling.

    `mask` is the body, or a part of it.
    """
    low, high = float(np.min(ct)), float(np.max(ct))
    name, values = shown(path), f"values {low:g}…{high:g}"
    if low == high:
        raise MrictError(f"{name}: CT has the constant value {low:g}; {EXPECTED}; export it again")
    everywhere, none = spread_over(ct), np.empty(0, np.float32)
    inside, outside = (none, none) if mask is None else (spread_over(ct, mask), spread_over(ct, ~mask))
    air, tissue = float(np.percentile(everywhere, 5)), float(np.median(inside if inside.size else everywhere))
    oddity = _oddity(everywhere, inside, outside)
    if _clipped_to_bytes(low, high):
        raise MrictError(f"{name}: {values} fill 8 bits, or are an MR; {EXPECTED}; export the CT in 16 bits")
    _check_side(name, inside, outside)
    if oddity:
        raise MrictError(f"{name}: {values} {oddity}: {_cause(low, high, air, tissue, (everywhere, inside, outside))}")
    if everywhere.min() > SURE_AIR_HU and outside.size:
        return _half_or_window(name, low, everywhere, inside, outside)
    if share := float(np.mean(np.isin(inside, _padding(everywhere)))) if inside.size else 0:
        return [f"{share:.2%} of the mask holds padding ({low:g}), not HU"]
    return []


def _check_side(name: str, inside: np.ndarray, outside: np.ndarray) -> None:
    """Raise if a mask marks the surroundings of the body."""
    if inside.size and outside.size:
        within, beyond = float(np.median(inside)), float(np.median(outside))
        if within < ALL_AIR_HU and AIR_BELOW_HU < beyond < OUTSIDE_MAX_HU:
            raise MrictError(
                f"{name}: the mask marks air (median {within:.0f} HU, outside it {beyond:.0f}): inverted; "
                "expected the body; swap 0 and 1"
            )


def _cause(low: float, high: float, air: float, tissue: float, samples: tuple[np.ndarray, ...]) -> str:
    """Return which scaling, undone, makes a CT of the samples, and what to do."""
    if SMALL[0] <= low and high <= SMALL[1]:
        return f"normalised, or an MR; {EXPECTED}; map it back to HU"
    clipped = f"negative HU clipped, a narrow window, or an MR; {EXPECTED}; export the CT unwindowed, as a signed type"
    wrapped = any(_wraps(low, high)) and np.mean(samples[0] > high / 2) > BRIGHT_SHARE  # metal is rarer
    if low >= 0 and high > 255 and not wrapped and _soft_share(samples[1][samples[1] > 0]) > SOFT_PART:
        return clipped
    for scaling in _scalings(low, high, air, tissue):
        everywhere, inside, outside = (scaling.undo(sample) for sample in samples)
        soft = _soft_share(everywhere[everywhere > SURE_AIR_HU])
        placed = abs(float(np.percentile(everywhere, 5)) - AIR_HU) <= LEVEL_HU and soft > SOFT_PART
        filled = not inside.size or np.median(inside) > SURE_AIR_HU
        if placed and filled and not _oddity(everywhere, inside, outside):
            return f"{scaling.cause}{', or an MR' * (low > AIR_BELOW_HU)}; {EXPECTED}; {scaling.remedy}"
    if low > AIR_BELOW_HU:
        return clipped
    return f"no usual scaling explains that; {EXPECTED}; check slope and intercept, and that the mask fits"


def _half_or_window(
    name: str, low: float, everywhere: np.ndarray, inside: np.ndarray, outside: np.ndarray
) -> list[str]:
    """Judge a CT with its minimum in -800…-200 HU: a window cuts all air to one value, a lost slope does not."""
    doubled = [2 * sample for sample in (everywhere, inside, outside)]
    level, air = float(np.percentile(everywhere, 5)), everywhere[everywhere < 0.95 * low]
    if abs(2 * level - AIR_HU) > LEVEL_HU or _oddity(*doubled):
        return []
    if np.mean(air == low) < 0.95:
        raise MrictError(
            f"{name}: air is at {level:.0f} and nothing below {low:.0f}: HU multiplied by 0.5; "
            f"{EXPECTED}; divide by 0.5"
        )
    return [f"nothing is below {low:.0f} HU: clipped to a window, or HU multiplied by 0.5"]


def check_sct(sct: np.ndarray, ct: np.ndarray, mask: np.ndarray, path: Path | str) -> list[str]:
    """Return warnings for the scores of an sCT; raise `MrictError` if its values are not HU.

    All volumes have one shape, `ct` is in HU. An inverted sign and clipped negative values only give a warning.
    """
    low, high, inside = float(np.min(sct)), float(np.max(sct)), np.asarray(mask) > 0
    name, values = shown(path), f"values {low:g}…{high:g}"
    if low == high:
        return sct_remarks(sct, mask)
    far = (np.asarray(ct) < SURE_AIR_HU) & ~inside
    fake, real = spread_over(sct, inside), SYNTHRAD2023.clip(spread_over(ct, inside))
    around = spread_over(sct, far)
    air = float(np.median(around)) if around.size else float(np.percentile(fake, 1))
    if _small(low, high, fake, real):
        raise MrictError(f"{name}: {values} are normalised; {EXPECTED}; map the network's output back to HU")
    for scaling in _scalings(low, high, air, float(np.median(fake))):
        if _explains(scaling, fake, real, around):
            if scaling is SIGN:
                return [f"{values} rise where the CT's fall: {SIGN.cause}? {EXPECTED}; {SIGN.remedy}"]
            before, after = (_error(one, real) for one in (fake, scaling.undo(fake)))
            raise MrictError(
                f"{name}: {values} are not HU: {scaling.cause} (undone, the error inside the mask goes from "
                f"{before:.0f} to {after:.0f} HU); {EXPECTED}; {scaling.remedy}"
            )
    if _clipped_to_bytes(low, high):
        raise MrictError(f"{name}: {values} fill 8 bits, or are an MR; {EXPECTED}; save the sCT in 16 bits")
    remarks = sct_remarks(sct, mask)
    odd = float(np.mean((fake < PADDING_BELOW_HU) | (fake > BONE_MAX_HU)))
    beyond = f"{odd:.0%} of the mask is outside {PADDING_BELOW_HU:.0f}…{BONE_MAX_HU:.0f} HU"
    if odd > NO_HU_SHARE or float(np.mean(np.abs(fake) > MAX_HU)) > METAL_SHARE:
        raise MrictError(f"{name}: {values}: {beyond}; {EXPECTED}; check type, byte order, slope and intercept")
    if odd > METAL_SHARE:
        remarks.append(beyond)
    for where, lowest, true in (("", low, spread_over(ct)), (" inside the mask", float(fake.min()), real)):
        share = float(np.mean(true < SURE_AIR_HU))
        if lowest > AIR_BELOW_HU and share > AIR_SHARE:
            remarks.append(
                f"nothing{where} is below {lowest:.0f} HU, in the CT {share:.1%} are below {SURE_AIR_HU:.0f}: "
                "negative HU clipped by an unsigned type or a window, a background of 0, an MR, or no air predicted"
            )
            break
    return remarks


def _error(fake: np.ndarray, real: np.ndarray) -> float:
    return float(np.abs(SYNTHRAD2023.clip(fake) - real).mean())


def _explains(scaling: Scaling, fake: np.ndarray, real: np.ndarray, around: np.ndarray) -> bool:
    """Return whether undoing a scaling matches an sCT to the CT, inside the mask and in the air around it.

    Air, the median and the slope against the CT must fit: a model with low contrast, noise or a bias fails one of them.
    """
    undone = scaling.undo(fake)
    if abs(float(np.median(undone - real))) > LEVEL_HU:
        return False
    air = scaling.undo(around)
    if air.size and abs(float(np.median(air)) - AIR_HU) > LEVEL_HU:
        return False
    if real.std() < SPREAD_HU:
        return air.size > 0 and _error(undone, real) < GAIN * _error(fake, real)
    undone = undone.clip(SYNTHRAD2023.low, 2 * SYNTHRAD2023.high)
    if undone.std() < CONSTANT_SD_HU:
        return False
    correlation = float(np.corrcoef(undone, real)[0, 1])
    slope = correlation * float(undone.std() / real.std())
    reduced = _error(undone, real) < LOSS * _error(fake, real)
    return correlation > CORRELATION and SLOPE[0] <= slope <= SLOPE[1] and reduced


def sct_remarks(sct: np.ndarray, mask: np.ndarray) -> list[str]:
    """Return warnings for the scores of an sCT in HU that a collapsed model would give."""
    fake = np.asarray(sct, np.float32)[mask > 0]
    remarks = []
    if fake.std(dtype=np.float64) < CONSTANT_SD_HU:
        remarks.append(f"sCT is constant inside the mask ({float(fake.mean()):.0f} HU)")
    elif fake.max() < ALL_AIR_HU:
        remarks.append(f"sCT is all air inside the mask (at most {float(fake.max()):.0f} HU)")
    return remarks
