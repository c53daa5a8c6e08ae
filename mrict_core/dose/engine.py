"""The dose of a plan by pyRadPlan: planned on one CT, recomputed on others. The only file that imports it.

Photons and protons of pyRadPlan's generic machines, which are not commissioned: research only, not for clinical use.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import SimpleITK as sitk

from mrict_core.errors import MrictError, UnavailableError, unknown_name
from mrict_core.hu import AIR_HU
from mrict_core.pairing.itk_grids import Grid
from mrict_core.paths import DOSE_PINS, shown

PACKAGE = "pyRadPlan"
INSTALL = f"pip install --no-deps -r {shown(DOSE_PINS)}"
MODALITIES = ("photons", "protons")
GANTRY_DEG = {"photons": tuple(range(0, 360, 40)), "protons": (60, 120)}
TABLE_HU = (-1024.0, 3000.0)  # of the table below
PRIORITIES = {"target": 1000.0, "organ": 100.0, "body": 30.0}  # weights of the squared deviations
TOLERANCE = 1e-4  # relative; the library's 1e-5 takes twice as long for the same target dose, and may not converge
ORGAN_LIMIT, BODY_LIMIT = 0.4, 0.5  # of the prescription: dose above it is penalised


@dataclass(frozen=True)
class PlanSettings:
    """How a plan is made; doses are of one fraction."""

    modality: str
    dose_gy: float = 2.0
    grid_mm: float = 3.0  # of the dose; a 5 mm grid leaves the edge of a target cold
    bixel_mm: float = 5.0  # width of a pencil beam
    gantry_deg: tuple[float, ...] = ()  # none: those of the modality

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise unknown_name("modality", self.modality, MODALITIES)
        for name, low, high in (("dose_gy", 0.1, 100), ("grid_mm", 1, 10), ("bixel_mm", 1, 20)):
            if not low <= getattr(self, name) <= high:
                raise MrictError(f"{name} {getattr(self, name):g}: expected {low} to {high}; change it")

    @property
    def angles(self) -> tuple[float, ...]:
        """The gantry angles of the beams, in degrees; 0 comes from anterior, 90 from the patient's left."""
        return tuple(float(angle) for angle in self.gantry_deg or GANTRY_DEG[self.modality])


@dataclass(frozen=True)
class Plan:
    """Beams, energies and fluence as planned on the CT, to be recomputed on any image of the same grid."""

    settings: PlanSettings
    body: sitk.Image
    converged: bool
    iterations: int
    steering: Any  # pyRadPlan's
    weights: np.ndarray

    def dose(self, image: sitk.Image) -> sitk.Image:
        """Return the dose of one fraction in Gy (float32, the image's grid, 0 outside the body) on an image in HU.

        Radiological depths and distances to the skin are the image's own; the rest is the plan's.
        """
        with _quiet() as lib:
            scan, structures = _patient(lib, image, self.body, {}, self.settings.dose_gy)
            plan = _plan(lib, self.settings, image)
            found = lib.calc_dose_forward(scan, structures, self.steering, plan, self.weights)["physical_dose"]
        return sitk.Mask(sitk.Cast(found, sitk.sitkFloat32), self.body)  # interpolation lets it leak into the air


def make_plan(
    ct: sitk.Image,
    body: sitk.Image,
    target: sitk.Image,
    organs: Mapping[str, sitk.Image],
    settings: PlanSettings,
) -> Plan:
    """Return a plan for a target, made on a CT in HU; all images are on one grid with axes along L, P and S.

    Raises MrictError if the target is empty or no beam meets it, UnavailableError without pyRadPlan.
    """
    if not np.any(sitk.GetArrayViewFromImage(target)):
        raise MrictError("the target is empty; expected 1 inside it; check the mask")
    with _quiet() as lib:
        scan, structures = _patient(lib, ct, body, {"target": target} | dict(organs), settings.dose_gy)
        steering = lib.generate_stf(scan, structures, _plan(lib, settings, ct))
        if not steering.total_number_of_bixels:
            raise MrictError(f"{settings.modality}: no beam meets the target; expected one inside the body; check it")
        influence = lib.calc_dose_influence(scan, structures, steering, _plan(lib, settings, ct))
        problem = lib.problem(_plan(lib, settings, ct))
        problem.solver = lib.solver()
        weights, outcome = problem.solve(scan, structures, steering, influence)
    return Plan(settings, body, bool(outcome.success), int(outcome.nit), steering, np.asarray(weights))


def version() -> str:
    """Return pyRadPlan's version; UnavailableError with the way to get it if it is not installed."""
    _library()
    return importlib.metadata.version(PACKAGE)


def hu_table() -> np.ndarray:
    """Return the machines' table (n, 2): HU and density relative to water, for electrons and stopping power alike."""
    with _quiet() as lib:
        return lib.table()


@dataclass(frozen=True)
class _Library:
    """What is used of pyRadPlan."""

    ct: Any
    structure_set: Any
    voi: Any
    grid: Any
    plans: Mapping[str, Any]
    too_little_or_much: Any
    too_much: Any
    generate_stf: Any
    calc_dose_influence: Any
    calc_dose_forward: Any
    problem: Any
    solver: Any
    table: Any


@cache
def _library() -> _Library:
    """Import pyRadPlan, at first use: it takes seconds, and the rest of the suite runs without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of its dependencies
            import pyRadPlan as lib
            from pyRadPlan.core import Grid as LibraryGrid
            from pyRadPlan.cst import create_voi
            from pyRadPlan.ct import default_hlut
            from pyRadPlan.optimization.objectives import SquaredDeviation, SquaredOverdosing
            from pyRadPlan.optimization.problems import get_problem_from_pln
            from pyRadPlan.optimization.solvers import OptimizerSciPy
    except ImportError as error:
        raise UnavailableError(f"dose needs {PACKAGE} ({error}); install it: {INSTALL}") from None

    class Solver(OptimizerSciPy):
        """L-BFGS-B that neither prints nor reads the keyboard."""

        allow_keyboard_cancel = False

        def __init__(self) -> None:
            super().__init__()
            self.options = {"ftol": TOLERANCE, "gtol": self.options["gtol"]}

    return _Library(
        lib.CT,
        lib.StructureSet,
        create_voi,
        LibraryGrid,
        {"photons": lib.PhotonPlan, "protons": lib.IonPlan},
        SquaredDeviation,
        SquaredOverdosing,
        lib.generate_stf,
        lib.calc_dose_influence,
        lib.calc_dose_forward,
        get_problem_from_pln,
        Solver,
        default_hlut,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[_Library]:
    """Yield the library without its log, its bars and the warnings of its dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _library()
        logger = logging.getLogger(PACKAGE)
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
                yield found
        finally:
            logger.setLevel(level)


def _patient(
    lib: _Library, image: sitk.Image, body: sitk.Image, parts: Mapping[str, sitk.Image], dose_gy: float
) -> tuple[Any, Any]:
    """Return pyRadPlan's CT and structures: the target first, then organs, always the body."""
    hu = sitk.Clamp(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkFloat32, *TABLE_HU)
    scan = lib.ct(cube_hu=sitk.Mask(hu, body, AIR_HU))
    vois = []
    for name, mask in (dict(parts) | {"body": body}).items():
        part = name if name in ("target", "body") else "organ"
        kind = {"target": "TARGET", "organ": "OAR", "body": "EXTERNAL"}[part]
        objective = (
            lib.too_little_or_much(d_ref=dose_gy, priority=PRIORITIES[part])
            if part == "target"
            else lib.too_much(
                d_max=(ORGAN_LIMIT if part == "organ" else BODY_LIMIT) * dose_gy, priority=PRIORITIES[part]
            )
        )
        voxels = sitk.GetArrayFromImage(sitk.Cast(mask, sitk.sitkUInt8))
        vois.append(lib.voi(voi_type=kind, name=name, ct_image=scan, mask=voxels, objectives=[objective]))
    return scan, lib.structure_set(vois=vois, ct_image=scan)


def _plan(lib: _Library, settings: PlanSettings, image: sitk.Image) -> Any:
    """Return a fresh description of the plan: the library removes entries from it."""
    grid = Grid.of(image).with_spacing(settings.grid_mm)
    return lib.plans[settings.modality](
        radiation_mode=settings.modality,
        machine="Generic",
        num_of_fractions=1,
        prescribed_dose=settings.dose_gy,
        prop_stf={
            "gantry_angles": list(settings.angles),
            "couch_angles": [0.0] * len(settings.angles),
            "bixel_width": settings.bixel_mm,
        },
        prop_dose_calc={
            "dose_grid": lib.grid(
                resolution=dict(zip("xyz", grid.spacing_mm, strict=True)),
                dimensions=grid.size,
                origin=np.array(grid.origin),
                direction=np.reshape(grid.direction, (3, 3)),
            )
        },
        prop_opt={"solver": "scipy"},
    )
