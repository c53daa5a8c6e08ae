"""Stack frames into one volume: order, spacing, affine; gaps, doubles and shear are errors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from mrict_core.data.dicom.frames import Frame
from mrict_core.data.volumes import LPS_TO_RAS, SPACING_MM
from mrict_core.errors import MrictError
from mrict_core.paths import shown

SAME_DIRECTION = 2e-4  # of direction cosines: four decimals in the file
SAME_SPACING = 1e-4  # relative
SAME_PLACE_MM = 1e-3
SHEAR_MM = 0.05  # how far a slice may lie beside the line through the first one
UNEVEN = 0.02  # of the slice distance, and at least UNEVEN_MM: rounding of positions in the file
UNEVEN_MM = 0.02
NAMED = 4  # so many examples in a message


def stack(frames: list[Frame], path: Path) -> tuple[list[Frame], np.ndarray, list[str]]:
    """Return the frames sorted along their normal, the affine (column, row, slice) -> RAS mm, and remarks.

    Raises `MrictError` for frames of different size, spacing or direction, two at one place, gaps, uneven distances
    and slices that lie askew of each other (a tilted gantry).
    """
    _check_alike(frames, path)
    axes = frames[0].axes
    places = np.array([f.position for f in frames]) @ axes.T
    order = np.argsort(places[:, 2], kind="stable")
    frames, places = [frames[k] for k in order], places[order]
    heights = places[:, 2]
    _check_doubles(frames, heights, path)
    step, remarks = _step(frames, heights, path)
    aside = np.abs(places[:, :2] - places[0, :2]).max()
    if aside > SHEAR_MM:
        raise MrictError(
            f"{shown(path)}: slices are shifted sideways by up to {aside:.3g} mm (a tilted gantry or several stacks); "
            "expected slices straight above each other; bring it to a straight grid first"
        )
    down, across = frames[0].spacing_mm
    sizes = (across, down, step)
    if min(sizes) < SPACING_MM[0] or max(sizes) > SPACING_MM[1]:
        size, (low, high) = " x ".join(f"{s:.3g}" for s in sizes), SPACING_MM
        raise MrictError(f"{shown(path)}: voxels of {size} mm; expected {low:g} to {high:g} mm; export it again")
    affine = np.eye(4)
    affine[:3, :3] = axes.T * sizes
    affine[:3, 3] = frames[0].position
    return frames, LPS_TO_RAS @ affine, remarks


def _check_alike(frames: list[Frame], path: Path) -> None:
    first = frames[0]
    for frame in frames[1:]:
        problem = ""
        if frame.shape != first.shape:
            problem = f"{frame.shape[0]} x {frame.shape[1]} pixels against {first.shape[0]} x {first.shape[1]}"
        elif not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=SAME_SPACING, atol=0):
            problem = "pixels of {:.4g} x {:.4g} mm".format(*frame.spacing_mm)
            problem += " against {:.4g} x {:.4g} mm".format(*first.spacing_mm)
        elif (gap := np.abs(np.subtract(frame.orientation, first.orientation)).max()) > SAME_DIRECTION:
            problem = f"directions differ by up to {gap:.2g}"
        if problem:
            raise MrictError(
                f"{shown(path)}: slices do not fit together: {frame.name} and {first.name}: {problem}; expected one "
                "stack of parallel slices (no localizer, no several stacks); put it into a folder of its own"
            )


def _check_doubles(frames: list[Frame], heights: np.ndarray, path: Path) -> None:
    doubles = [k for k, gap in enumerate(np.diff(heights)) if gap < SAME_PLACE_MM]
    if not doubles:
        return
    a, b = frames[doubles[0]], frames[doubles[0] + 1]
    where = f"{a.name} and {b.name} at {heights[doubles[0]]:.2f} mm"
    if a.sop_uid and a.sop_uid == b.sop_uid and a.index == b.index:
        raise MrictError(
            f"{shown(path)}: the same slice twice: {where} ({len(doubles)} such pairs); expected each slice once; "
            "remove the copies"
        )
    differ = [k for k in sorted({*a.variants, *b.variants}) if a.variants.get(k) != b.variants.get(k)]
    what = f"they differ in {', '.join(differ)}" if differ else "nothing in their headers tells them apart"
    raise MrictError(
        f"{shown(path)}: several images of one place: {where} ({len(doubles)} such pairs; {what}); expected one volume "
        "(one echo, one time); choose one: put its slices into a folder of their own"
    )


def _step(frames: list[Frame], heights: np.ndarray, path: Path) -> tuple[float, list[str]]:
    """Return the distance of the slices in mm, and remarks on what may be missing."""
    if len(frames) == 1:
        step = frames[0].between_mm or frames[0].thickness_mm
        if not step or step <= 0:
            raise MrictError(
                f"{shown(path)}: one slice without SliceThickness; expected its thickness or more slices; export again"
            )
        return abs(step), []
    steps = np.diff(heights)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    slack = max(UNEVEN * usual, UNEVEN_MM)
    wide = [k for k, s in enumerate(steps) if abs(s - usual) > slack]
    gaps = {k: round(steps[k] / usual) - 1 for k in wide if abs(steps[k] / usual - round(steps[k] / usual)) < 0.1}
    if wide and len(gaps) == len(wide) and min(gaps.values()) > 0:
        named = [f"{gaps[k]} between {heights[k]:.2f} and {heights[k + 1]:.2f} mm" for k in wide[:NAMED]]
        more = " and elsewhere" if len(wide) > NAMED else ""
        raise MrictError(
            f"{shown(path)}: {sum(gaps.values())} slices are missing of a stack every {usual:.4g} mm: "
            f"{', '.join(named)}{more}; expected no gap; copy or export the whole series"
        )
    step = float((heights[-1] - heights[0]) / (len(heights) - 1))
    drift = float(np.abs(heights - heights[0] - step * np.arange(len(heights))).max())
    if wide or drift > slack:
        low, high = steps.min(), steps.max()
        raise MrictError(
            f"{shown(path)}: slices lie unevenly, {low:.4g} to {high:.4g} mm apart; expected one distance; "
            "export the series on an even grid"
        )
    return step, _remarks(frames, step)


def _remarks(frames: list[Frame], step: float) -> list[str]:
    remarks = []
    between = frames[0].between_mm
    if between and between > 0 and round(step / between) > 1 and abs(step / between - round(step / between)) < 0.01:
        remarks.append(
            f"slices lie {step:.4g} mm apart, SpacingBetweenSlices says {between:.4g}: slices may be missing"
        )
    numbers = sorted(f.instance for f in frames if f.instance is not None)
    if len(numbers) == len(frames) and (numbers[0] > 1 or any(b - a != 1 for a, b in pairwise(numbers))):
        remarks.append(
            f"{len(frames)} slices numbered {numbers[0]} to {numbers[-1]}: slices at an end of the stack may be missing"
        )
    return remarks
