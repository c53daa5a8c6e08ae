"""Figures of a plan: isodose lines on CT and synthetic CT, their difference and gamma; dose-volume curves; ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mrict_core.data.images.orders import sides
from mrict_core.dose.sampling import dose_on
from mrict_core.dose.study import PlanDoses, Scans
from mrict_core.hu import AIR_HU
from mrict_core.metrics.dose import GAMMAS
from mrict_core.pairing.itk_grids import Grid, resample
from mrict_core.reporting import style

ISODOSES = {  # percent of the prescription => colour
    95: style.PALETTE["vermilion"],
    80: style.PALETTE["orange"],
    50: style.PALETTE["green"],
    20: style.PALETTE["sky"],
}
DIFFERENCE_LIMIT = 10.0  # percent of the prescription, of the colours
GAMMA_LIMIT = 1.5
PICTURE_MM = 1.0  # of the images below the lines
PLANES = ("axial", "coronal", "sagittal")
CURVE_STEPS = 800
SHOULDER = (0.85, 1.1)  # of the prescription
NOTE = "generic machine, not for clinical use"


@style.styled
def plan_figure(plan: PlanDoses, model: str, scans: Scans, label: str) -> Figure:
    """Return three planes through the target: isodose lines on CT and sCT, difference of doses, gamma."""
    coarse, settings = Grid.of(plan.ct_dose), plan.plan.settings
    fine = coarse.with_spacing(PICTURE_MM)
    body = resample(scans.body, fine, nearest=True, fill=0)
    images = [sitk.Mask(resample(image, fine, fill=AIR_HU), body, AIR_HU) for image in (scans.ct, scans.scts[model])]
    doses = [dose_on(dose, body) for dose in (plan.ct_dose, plan.sct_doses[model])]
    percent = [100 * sitk.GetArrayFromImage(dose) / settings.dose_gy for dose in doses]
    ct, sct = (sitk.GetArrayFromImage(image) for image in images)
    gamma = sitk.GetImageFromArray(plan.gammas[model].astype(np.float32))
    gamma.CopyInformation(plan.ct_dose)
    passed = sitk.GetArrayFromImage(resample(gamma, fine, nearest=True, fill=float("nan")))
    target = sitk.GetArrayFromImage(resample(plan.target.mask, fine, nearest=True, fill=0)) > 0
    inside = sitk.GetArrayFromImage(body) > 0
    middle = np.argwhere(target).mean(0).round().astype(int)
    heights = [ct.shape[1], ct.shape[0], ct.shape[0]]
    title = f"{plan.name}: {model}, {NOTE}"
    figure = style.new_figure(
        style.PAGE_IN, style.PAGE_IN * sum(heights) / (4 * ct.shape[2]) + 1.5, title=title, label=label
    )
    axes = figure.subplots(3, 4, squeeze=False, gridspec_kw={"height_ratios": heights})
    for line, plane in enumerate(PLANES):
        cut = [_slice(volume, middle, plane) for volume in (ct, sct, *percent, passed, target, inside)]
        drawn = _row(axes[line], cut, plane)
    criterion = next(iter(GAMMAS.values()))
    for axis, text in zip(axes[0], ("CT", "synthetic CT", "dose, sCT − CT", f"gamma {criterion}"), strict=True):
        axis.set_title(text)
    lines = [Line2D([], [], color=colour, label=f"{level} %") for level, colour in ISODOSES.items()]
    lines.append(Line2D([], [], color=style.PALETTE["yellow"], linestyle=":", label="target"))
    figure.legend(handles=lines, loc="outside lower left", ncols=len(lines))
    bars = ((slice(0, 2), "HU"), (slice(2, 3), "% of the prescription"), (slice(3, 4), "gamma"))
    for (columns, text), image in zip(bars, drawn, strict=True):
        wide = 18 * (columns.stop - columns.start)
        figure.colorbar(image, ax=axes[:, columns], location="bottom", label=text, aspect=wide, pad=0.02, extend="both")
    return figure


def _slice(volume: np.ndarray, middle: np.ndarray, plane: str) -> np.ndarray:
    """Return a plane of (z, y, x) through a voxel; head up in the upright ones."""
    if plane == "axial":
        return volume[middle[0]]
    return (volume[:, middle[1], :] if plane == "coronal" else volume[:, :, middle[2]])[::-1]


def _row(axes: Sequence[Axes], cut: Sequence[np.ndarray], plane: str) -> list[Any]:
    """Draw a plane; return the images with a colour bar."""
    ct, sct, ct_dose, sct_dose, gamma, target, inside = cut
    low, high = style.window_hu("wide")
    for axis, hu, dose in zip(axes[:2], (ct, sct), (ct_dose, sct_dose), strict=True):
        grey = axis.imshow(hu, vmin=low, vmax=high)
        levels = [level for level in sorted(ISODOSES) if dose.max() > level > dose.min()]
        if levels:
            axis.contour(dose, levels=levels, colors=[ISODOSES[level] for level in levels], linewidths=0.8)
    change = np.where(inside, sct_dose - ct_dose, np.nan)
    limit = DIFFERENCE_LIMIT
    found = [grey, axes[2].imshow(change, cmap=style.ERROR_MAP, vmin=-limit, vmax=limit)]
    found.append(axes[3].imshow(gamma, cmap="viridis", vmin=0, vmax=GAMMA_LIMIT))
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        if target.any():
            axis.contour(target, levels=[0.5], colors=[style.PALETTE["yellow"]], linewidths=0.9, linestyles=":")
    for axis in axes[2:]:
        if inside.any():
            axis.contour(inside, levels=[0.5], colors=[style.FAINT], linewidths=0.6)
    axes[0].set_ylabel(plane)
    marks = sides(plane)
    for mark, x, across in zip(marks, (0.02, 0.98), ("left", "right"), strict=False):
        axes[0].text(x, 0.5, mark, transform=axes[0].transAxes, ha=across, color="white", fontsize=style.SMALLEST_PT)
    return found


@style.styled
def dvh_figure(plan: PlanDoses, scans: Scans, label: str) -> Figure:
    """Return dose-volume curves of target and organs, and the target's shoulder beside: CT solid, each sCT dashed."""
    dose_gy = plan.plan.settings.dose_gy
    figure = style.new_figure(style.PAGE_IN, 3.0, title=f"{plan.name}: dose-volume curves, {NOTE}", label=label)
    axis, shoulder = figure.subplots(1, 2)
    masks = {"target": plan.target.mask} | dict(scans.organs)
    doses = {"CT": plan.ct_dose} | dict(plan.sct_doses)
    of_structures, of_roles = _colours(len(masks)), _colours(len(doses))
    for place, (role, dose) in enumerate(doses.items()):
        fine = sitk.GetArrayFromImage(dose_on(dose, scans.body))
        look = "-" if role == "CT" else style.MODEL_LINES[1 + (place - 1) % 4]
        for (name, mask), of_structure in zip(masks.items(), of_structures, strict=True):
            colour = of_structure if scans.organs else of_roles[place]  # with a target alone, a colour for each model
            levels, volumes = dvh_curve(fine, sitk.GetArrayFromImage(mask) > 0, dose_gy)
            for each in (axis, shoulder) if name == "target" else (axis,):
                each.plot(levels, volumes, color=colour, linestyle=look, label=f"{name}, {role}")
    for each, title in ((axis, "all"), (shoulder, "target near the prescription")):
        each.axvline(dose_gy, color=style.FAINT, linewidth=0.6, linestyle=":")
        each.set(xlabel="dose of one fraction (Gy)", ylim=(0, 101), title=title)
    axis.set_ylabel("volume with at least this dose (%)")
    shoulder.set_xlim(*(share * dose_gy for share in SHOULDER))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def dvh_curve(dose: np.ndarray, mask: np.ndarray, dose_gy: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (doses in Gy, percent of a structure's volume with at least each), from 0 to beyond the prescription."""
    levels = np.linspace(0, 1.2 * dose_gy, CURVE_STEPS)
    own = np.sort(dose[mask])
    return levels, 100 * (1 - np.searchsorted(own, levels) / max(own.size, 1))


def _colours(count: int) -> list[str]:
    return [style.MODEL_COLOURS[k % len(style.MODEL_COLOURS)] for k in range(count)]


@style.styled
def range_figure(beams: Mapping[str, Sequence[Mapping[str, float]]], label: str) -> Figure | None:
    """Return proton range against water-equivalent path length, sCT - CT in mm, a point for each beam; by model.

    A longer path in water ends a beam earlier: points on the falling line are predicted by the path length alone. None
    without a beam that has both.
    """
    known = {
        model: np.array([(one["wepl_mm"], one["range_mm"]) for one in found if np.isfinite(one["range_mm"])])
        for model, found in beams.items()
    }
    known = {model: points for model, points in known.items() if len(points)}
    if not known:
        return None
    title = f"Range of proton beams and path length, {NOTE}"
    figure = style.new_figure(style.COLUMN_IN + 1.4, 3.2, title=title, label=label)
    axis = figure.subplots()
    reach = max(np.abs(points).max() for points in known.values()) * 1.1 + 0.1
    axis.plot([-reach, reach], [reach, -reach], color=style.FAINT, linewidth=0.7)
    for model, points in known.items():
        look = style.model_look(model)
        axis.plot(*points.T, linestyle="", marker=look["marker"], color=look["color"], markersize=4, label=model)
    axis.set(xlabel="path length in water, sCT − CT (mm)", ylabel="range, sCT − CT (mm)")
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
