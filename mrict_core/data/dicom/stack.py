"""Stack frames into one volume: order, spacing, affine. Gaps, duplicates and shear are errors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from mrict_core.data.dicom.attributes import FACTS
from mrict_core.data.dicom.frames import Frame
from mrict_core.data.dicom.series_parts import NAMED, doubles
from mrict_core.data.images.grids import LPS_TO_RAS
from mrict_core.data.images.headers import SPACING_MM
from mrict_core.errors import MrictError
from mrict_core.paths import shown

SHEAR_MM = 0.05  # allowed sideways offset of a slice from the normal through the first one
UNEVEN = 0.02  # of the slice distance, and at least UNEVEN_MM: rounding of positions in the file
UNEVEN_MM = 0.02


def stack(frames: list[Frame], path: Path, whole: bool = True) -> tuple[list[Frame], np.ndarray, list[str]]:
    """Return the frames sorted along their normal, the affine (column, row, slice) -> RAS mm, and remarks.

    Frames have one size, spacing and direction (`series_parts.one_image`); `whole`: they are a complete series.
    Raises `MrictError` for duplicates, gaps, uneven distances and sheared stacks.
    """
    axes = frames[0].axes
    places = np.array([f.position for f in frames]) @ axes.T
    order = np.argsort(places[:, 2], kind="stable")
    frames, places = [frames[k] for k in order], places[order]
    heights = places[:, 2]
    _check_doubles(frames, path)
    aside = np.abs(places[:, :2] - places[0, :2]).max()
    if aside > SHEAR_MM:
        steps = np.diff(heights)
        apart = f" and {steps.min():.4g} to {steps.max():.4g} mm apart" if np.ptp(steps) > UNEVEN_MM else ""
        raise MrictError(
            f"{shown(path)}: slices are shifted sideways by up to {aside:.3g} mm{apart} (a tilted gantry or several "
            "stacks); expected slices straight above each other; resample it to a straight grid first"
        )
    step = _step(frames, heights, path)
    down, across = frames[0].spacing_mm
    sizes = (across, down, step)
    if min(sizes) < SPACING_MM[0] or max(sizes) > SPACING_MM[1]:
        size, (low, high) = " x ".join(f"{s:.3g}" for s in sizes), SPACING_MM
        raise MrictError(f"{shown(path)}: voxels of {size} mm; expected {low:g} to {high:g} mm; export it again")
    affine = np.eye(4)
    affine[:3, :3] = axes.T * sizes
    affine[:3, 3] = frames[0].position
    return frames, LPS_TO_RAS @ affine, _remarks(frames, step, whole)


def _check_doubles(frames: list[Frame], path: Path) -> None:
    """Raise for frames at the same height, which no attribute separates."""
    pairs = doubles(frames)
    if not pairs:
        return
    a, b = (frames[k] for k in pairs[0])
    where = f"{a.name} and {b.name} ({len(pairs)} such pairs)"
    aside = float(np.linalg.norm(np.subtract(a.position, b.position)))
    if aside > SHEAR_MM:
        raise MrictError(
            f"{shown(path)}: slices at the same height, {aside:.3g} mm apart sideways: {where}; expected one stack; "
            "export each stack as a series"
        )
    raise MrictError(
        f"{shown(path)}: several images of one place: {where}; they differ in none of the {len(FACTS)} tags "
        "that separate images; expected one image; export each image as a series"
    )


def _step(frames: list[Frame], heights: np.ndarray, path: Path) -> float:
    """Return the slice distance in mm."""
    if len(frames) == 1:
        step = frames[0].between_mm or frames[0].thickness_mm
        if not step or step <= 0:
            raise MrictError(
                f"{shown(path)}: one slice without SliceThickness; expected its thickness or more slices; export again"
            )
        return abs(step)
    steps = np.diff(heights)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    slack = max(UNEVEN * usual, UNEVEN_MM)
    wide = [k for k, s in enumerate(steps) if abs(s - usual) > slack]
    gaps = {k: round(steps[k] / usual) - 1 for k in wide if abs(steps[k] / usual - round(steps[k] / usual)) < 0.1}
    if wide and len(gaps) == len(wide) and min(gaps.values()) > 0:
        named = [f"{gaps[k]} between {heights[k]:.2f} and {heights[k + 1]:.2f} mm" for k in wide[:NAMED]]
        more = " and elsewhere" if len(wide) > NAMED else ""
        raise MrictError(
            f"{shown(path)}: {sum(gaps.values())} slices are missing from a stack with {usual:.4g} mm distance: "
            f"{', '.join(named)}{more}; expected no gap; copy or export the whole series"
        )
    step = float((heights[-1] - heights[0]) / (len(heights) - 1))
    drift = float(np.abs(heights - heights[0] - step * np.arange(len(heights))).max())
    if wide or drift > slack:
        low, high = steps.min(), steps.max()
        raise MrictError(
            f"{shown(path)}: uneven slices, {low:.4g} to {high:.4g} mm apart; expected one distance; "
            "export the series on an even grid"
        )
    return step


def _remarks(frames: list[Frame], step: float, whole: bool) -> list[str]:
    """Return what may be missing; a part (not `whole`) need not have consecutive instance numbers."""
    remarks = []
    between = frames[0].between_mm
    if between and between > 0 and round(step / between) > 1 and abs(step / between - round(step / between)) < 0.01:
        remarks.append(
            f"slices are {step:.4g} mm apart, but SpacingBetweenSlices is {between:.4g}: slices may be missing"
        )
    rescaled = sum(f.rescaled for f in frames)
    if 0 < rescaled < len(frames):
        remarks.append(f"only {rescaled} of {len(frames)} slices have a RescaleSlope: the others were not rescaled")
    numbers = sorted(f.instance for f in frames if f.instance is not None)
    apart = len(set(numbers)) == len(frames)  # else they do not number slices
    if whole and apart and (numbers[0] > 1 or any(b - a != 1 for a, b in pairwise(numbers))):
        count = f"{len(frames)} slices" if len(frames) > 1 else "one slice"
        remarks.append(
            f"{count}, numbered {numbers[0]} to {numbers[-1]}: other slices or images of the series may be missing"
        )
    return remarks
