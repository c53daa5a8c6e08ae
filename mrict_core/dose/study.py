"""One case: plans made on the CT, their doses on the CT and on every synthetic CT, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk

from mrict_core.dose import engine, sampling
from mrict_core.dose.targets import SEED, Sphere, place_targets
from mrict_core.errors import MrictError, unknown_name
from mrict_core.metrics import dose as measures
from mrict_core.metrics.gamma import gamma_index, pass_rate
from mrict_core.pairing.itk_grids import Grid

COARSEST = 4  # dose voxels across a target, at least
OUTSIDE_SHARE = 0.05  # of a target that may lie outside the body; it is cut off
EDGE_SHARE = 0.02  # of the body's surface on the field's edge is worth a word
Say = Callable[[str], None]


@dataclass(frozen=True)
class DoseSettings:
    """How the doses of a case are made and compared."""

    modalities: tuple[str, ...] = engine.MODALITIES
    dose_gy: float = 2.0
    grid_mm: float = 3.0
    targets: int = 2  # test targets, if none is given
    seed: int = SEED

    def __post_init__(self) -> None:
        if not self.modalities:
            raise MrictError(f"no modality; expected {' or '.join(engine.MODALITIES)}; name one")
        if len(set(self.modalities)) < len(self.modalities):
            raise MrictError(f"modality {', '.join(self.modalities)}: expected each once; leave out the repeated one")
        if self.targets < 1:
            raise MrictError(f"{self.targets} test targets: expected 1 or more")
        for modality in self.modalities:
            if modality not in engine.MODALITIES:
                raise unknown_name("modality", modality, engine.MODALITIES)
            self.plan(modality)

    def plan(self, modality: str) -> engine.PlanSettings:
        """Return the settings of a modality's plans."""
        return engine.PlanSettings(modality, self.dose_gy, self.grid_mm)


@dataclass(frozen=True)
class Scans:
    """The images of a case, on one grid of any orientation: CT and synthetic CTs in HU, masks 0 and 1 (uint8)."""

    ct: sitk.Image
    body: sitk.Image
    scts: Mapping[str, sitk.Image]  # model => synthetic CT
    targets: Mapping[str, sitk.Image] = field(default_factory=dict)  # none: test targets
    organs: Mapping[str, sitk.Image] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What a plan irradiates."""

    name: str
    mask: sitk.Image  # on the CT's grid
    on_grid: sitk.Image  # on the dose grid
    sphere: Sphere | None = None  # of a test target


@dataclass(frozen=True)
class PlanDoses:
    """A plan and its doses, on the dose grid."""

    name: str
    plan: engine.Plan
    target: Target
    ct_dose: sitk.Image
    sct_doses: Mapping[str, sitk.Image]
    on_ct: Mapping[str, Mapping[str, float]]  # structure => D98 and others on the CT
    models: Mapping[str, Mapping[str, Any]]  # model => measures, structures, beams
    gammas: Mapping[str, np.ndarray]  # model => gamma by the first criterion, dose grid (z, y, x); NaN: not judged
    faults: tuple[str, ...] = ()  # why the plan is not acceptable: it is kept and shown, not averaged


@dataclass(frozen=True)
class Study:
    """All plans of a case."""

    plans: Sequence[PlanDoses]
    notes: tuple[str, ...]

    def measure(self, model: str, modality: str, key: str) -> float:
        """Return a measure's mean over the acceptable plans of a modality; NaN without one."""
        found = [
            plan.models[model]["measures"][key]
            for plan in self.plans
            if plan.plan.settings.modality == modality and not plan.faults
        ]
        found = [value for value in found if np.isfinite(value)]
        return float(np.mean(found)) if found else float("nan")


def study(scans: Scans, settings: DoseSettings, say: Say = lambda _: None) -> Study:
    """Plan on the CT, and compute each plan's dose on the CT and on the synthetic CTs.

    Plans, dose grid and test targets depend on the CT, the masks and the settings alone: they are the same for every
    model, and repeat bit for bit. Raises MrictError for structures that cannot be planned.
    """
    grid = sampling.dose_grid(scans.body, settings.grid_mm)
    body = sampling.mask_on(scans.body, grid)
    ct = sampling.hu_on(scans.ct, scans.body, grid)
    scts = {name: sampling.hu_on(image, scans.body, grid) for name, image in scans.scts.items()}
    notes = [*_edges(scans.body), *_beyond_table(scans)]
    targets = _targets(scans, grid, ct, body, settings, notes)
    organs = _organs(scans, grid, targets, notes)
    plans = []
    for modality in settings.modalities:
        for target in targets:
            name = f"{modality} {target.name}"
            say(f"{name}: plan on the CT")
            plan = engine.make_plan(ct, body, target.on_grid, organs, settings.plan(modality))
            say(f"{name}: dose on the CT")
            ct_dose = plan.dose(ct)
            sct_doses = {}
            for model, sct in scts.items():
                say(f"{name}: dose on {model}")
                sct_doses[model] = plan.dose(sct)
            plans.append(_compared(name, plan, target, scans, (ct, scts), ct_dose, sct_doses))
    return Study(plans, tuple(notes))


def _compared(
    name: str,
    plan: engine.Plan,
    target: Target,
    scans: Scans,
    images: tuple[sitk.Image, Mapping[str, sitk.Image]],
    ct_dose: sitk.Image,
    sct_doses: Mapping[str, sitk.Image],
) -> PlanDoses:
    """Return a plan's doses with their measures: of structures on the CT's grid, gamma and ranges on the dose grid."""
    dose_gy, masks = plan.settings.dose_gy, {name: _bool(mask) for name, mask in scans.organs.items()}
    marked = _bool(target.mask)
    fine_ct = sitk.GetArrayFromImage(sampling.dose_on(ct_dose, scans.body))
    structures = {"target": marked} | masks
    on_ct = {key: measures.structure_doses(fine_ct, mask, dose_gy) for key, mask in structures.items()}
    models, gammas = {}, {}
    for model, sct_dose in sct_doses.items():
        fine = sitk.GetArrayFromImage(sampling.dose_on(sct_dose, scans.body))
        on_sct = {key: measures.structure_doses(fine, mask, dose_gy) for key, mask in structures.items()}
        found = {
            "dose_mae": measures.target_mae(fine_ct, fine, dose_gy),
            "dvh": measures.dvh_measure(fine_ct, fine, marked, masks, dose_gy),
            "dvh_official": measures.dvh_measure(fine_ct, fine, marked, masks, dose_gy, official=True),
            **measures.changes(on_ct["target"], on_sct["target"], dose_gy),
        }
        coarse_ct, coarse = sitk.GetArrayFromImage(ct_dose), sitk.GetArrayFromImage(sct_dose)
        points = 0
        for key, criterion in measures.GAMMAS.items():
            gamma = gamma_index(coarse_ct, coarse, ct_dose.GetSpacing()[::-1], dose_gy, criterion)
            found[key], points = pass_rate(gamma), int(np.isfinite(gamma).sum())
            gammas.setdefault(model, gamma)  # of the first criterion
        beams = _ranges(plan, target, (images[0], images[1][model]), (ct_dose, sct_dose))
        changes = [beam["range_mm"] for beam in beams if np.isfinite(beam["range_mm"])]
        found["range_mm"] = float(np.mean(changes)) if changes else float("nan")
        found["range_mae_mm"] = float(np.mean(np.abs(changes))) if changes else float("nan")
        models[model] = {"measures": found, "structures": on_sct, "beams": beams, "gamma_points": points}
    return PlanDoses(name, plan, target, ct_dose, sct_doses, on_ct, models, gammas, _faults(plan, on_ct["target"]))


def _ranges(
    plan: engine.Plan,
    target: Target,
    images: tuple[sitk.Image, sitk.Image],
    doses: tuple[sitk.Image, sitk.Image],
) -> list[dict[str, Any]]:
    """Return the range of every proton beam on CT and sCT along the line through the target's centre."""
    if plan.settings.modality != "protons":
        return []
    marked = np.argwhere(_bool(target.on_grid)).mean(0)[::-1]
    centre = np.array(target.on_grid.TransformContinuousIndexToPhysicalPoint(marked.tolist())) * (-1, -1, 1)
    spacing, origin = np.array(doses[0].GetSpacing()), np.array(doses[0].GetOrigin())
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])  # of the dose grid, voxel -> RAS mm
    affine[:3, 3] = origin * (-1, -1, 1)
    as_file = [sitk.GetArrayFromImage(image).T for image in (*doses, *images, plan.body)]
    ct_dose, sct_dose, ct, sct, body = as_file
    return [
        {"gantry_deg": angle}
        | measures.beam_range(
            {"ct": ct_dose, "sct": sct_dose},
            {"ct": ct, "sct": sct},
            body > 0,
            affine,
            centre,
            angle,
            plan.settings.dose_gy,
        )
        for angle in plan.settings.angles
    ]


def _faults(plan: engine.Plan, target: Mapping[str, float]) -> tuple[str, ...]:
    """Return why a plan is not acceptable."""
    found = []
    if not plan.converged:
        found.append(f"the optimisation did not converge in {plan.iterations} steps")
    least = measures.COVERED_SHARE * plan.settings.dose_gy
    if target["d98_gy"] < least:
        found.append(f"target D98 on the CT is {target['d98_gy']:.2f} Gy, below {least:.2f} Gy")
    return tuple(found)


def _targets(
    scans: Scans, grid: Grid, ct: sitk.Image, body: sitk.Image, settings: DoseSettings, notes: list[str]
) -> list[Target]:
    """Return the given targets, cut to the body, or test targets."""
    if not scans.targets:
        spheres = place_targets(ct, body, settings.targets, settings.seed)
        if len(spheres) < settings.targets:
            notes.append(f"{len(spheres)} of {settings.targets} test targets fit")
        return [
            Target(f"test target {k}", sphere.mask(scans.body), sphere.mask(ct), sphere)
            for k, sphere in enumerate(spheres, 1)
        ]
    inside, found = _bool(scans.body), []
    for name, mask in scans.targets.items():
        marked = _bool(mask)
        if not marked.any():
            raise MrictError(f"{name}: empty; expected 1 inside the target; check the mask")
        outside = np.count_nonzero(marked & ~inside) / np.count_nonzero(marked)
        if outside > OUTSIDE_SHARE:
            raise MrictError(
                f"{name}: {outside:.0%} of it lies outside the body; expected a target inside; check both masks"
            )
        if outside:
            notes.append(f"{name}: {outside:.1%} of it lies outside the body and is cut off")
        cut = sitk.Mask(mask, scans.body)
        on_grid = sampling.mask_on(cut, grid)
        _check_width(name, on_grid, settings.grid_mm)
        found.append(Target(name, cut, on_grid))
    return found


def _check_width(name: str, target: sitk.Image, grid_mm: float) -> None:
    places = np.argwhere(_bool(target))
    across = int((np.ptp(places, axis=0) + 1).min()) if places.size else 0
    if across < COARSEST:
        raise MrictError(
            f"{name}: {across} dose voxels of {grid_mm:g} mm across; expected {COARSEST} or more; give a smaller "
            "--grid-mm"
        )


def _organs(scans: Scans, grid: Grid, targets: Sequence[Target], notes: list[str]) -> dict[str, sitk.Image]:
    """Return the organs on the dose grid for the plan; all are judged on the CT's grid, these or not."""
    found = {}
    for name, mask in scans.organs.items():
        marked = _bool(mask)
        if not marked.any():
            raise MrictError(f"{name}: empty; expected 1 inside the organ; check the mask")
        for target in targets:
            if shared := np.count_nonzero(marked & _bool(target.mask)) / np.count_nonzero(marked):
                notes.append(f"{name}: {shared:.0%} of it is in {target.name}, where the target's dose comes first")
        on_grid = sampling.mask_on(mask, grid)
        if _bool(on_grid).any():
            found[name] = on_grid
        else:
            notes.append(f"{name}: smaller than a dose voxel, so the plan does not spare it; it is judged")
    return found


def _edges(body: sitk.Image) -> list[str]:
    """Return a note if much of the body's surface lies on the field's edge: dose beyond it is unknown."""
    inside = _bool(body)
    faces = [inside.take(end, axis) for axis in range(3) for end in (0, -1)]
    surface = sum(np.count_nonzero(np.diff(inside, axis=axis)) for axis in range(3))
    cut = sum(np.count_nonzero(face) for face in faces)
    share = cut / (cut + surface)
    if share < EDGE_SHARE:
        return []
    return [f"the body touches the field's edge ({share:.0%} of its surface): what lies beyond counts as air"]


def _beyond_table(scans: Scans) -> list[str]:
    """Return notes on HU beyond the machines' table, which are clipped."""
    inside, (low, high), found = _bool(scans.body), engine.TABLE_HU, []
    for name, image in {"CT": scans.ct, **scans.scts}.items():
        hu = sitk.GetArrayFromImage(image)[inside]
        if beyond := np.count_nonzero((hu < low) | (hu > high)):
            found.append(f"{name}: {beyond} voxels beyond the machines' table, {low:g} to {high:g} HU, clipped to it")
    return found


def _bool(mask: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(mask) > 0
