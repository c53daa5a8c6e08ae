"""From the MR and the CT of one patient to a training pair: one grid, a mask, a judgement of how well they fit."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from mrict_core.errors import MrictError
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.pairing.bodies import ct_body, metal, mr_body, scoring_mask
from mrict_core.pairing.itk_grids import Grid, field_of_view, resample
from mrict_core.pairing.mr_preparation import clip, correct_bias
from mrict_core.pairing.quality import Quality, judge
from mrict_core.pairing.registration import register
from mrict_core.paths import as_region

AXES = "LPS"  # of the output: toward left, back and head, as in SynthRAD
SYNTHRAD_MM = {"brain": (1.0, 1.0, 1.0), "pelvis": (1.0, 1.0, 2.5)}  # spacing of SynthRAD2023, also CBCT's
SPACING_MM = (0.3, 20.0)  # allowed
MARGIN_MM = 50.0  # at most


@dataclass(frozen=True)
class PairSettings:
    """How pairs are made. `grid`: "mr", "ct", a spacing such as "1,1,2.5", or "" for SynthRAD's of the region."""

    region: str = "brain"
    grid: str = ""
    register: bool = True
    deformable: bool = False
    n4: bool = False
    clip: bool = False
    margin_mm: float = 0.0
    strict: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "region", as_region(self.region))
        if not 0 <= self.margin_mm <= MARGIN_MM:
            raise MrictError(f"margin {self.margin_mm:g} mm: expected 0 to {MARGIN_MM:g}; change it")
        if self.deformable and not self.register:
            raise MrictError("--deformable and --no-register contradict each other; give one of them")
        if self.deformable and self.grid == "ct":
            raise MrictError("--deformable moves the CT, so the pair cannot be on its grid; give another --grid")
        self.spacing_mm  # noqa: B018 - raises for a grid that is none

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """The output's spacing along left, back and head; None for that of a scan."""
        if self.grid in ("mr", "ct"):
            return None
        if not self.grid:
            return SYNTHRAD_MM.get(self.region)
        try:
            numbers = tuple(float(part) for part in self.grid.split(","))
        except ValueError:
            numbers = ()
        low, high = SPACING_MM
        if len(numbers) != 3 or not all(low <= number <= high for number in numbers):
            raise MrictError(
                f"grid '{self.grid}': expected mr, ct or three spacings of {low:g} to {high:g} mm such as 1,1,2.5; "
                "change it"
            )
        return numbers

    @property
    def grid_in_words(self) -> str:
        """The grid of the output, and why that one."""
        spacing = self.spacing_mm
        if spacing is None:
            return f"that of the {(self.grid or 'mr').upper()}"
        size = " x ".join(f"{s:g}" for s in spacing)
        return f"{size} mm{'' if self.grid else f', as SynthRAD2023 for {self.region}'}"


@dataclass(frozen=True)
class Paired:
    """A pair on one grid. `metal` is None if the CT shows none; `transform` maps points of the MR to the CT, LPS mm."""

    mr: sitk.Image  # float32
    ct: sitk.Image  # int16 HU, -1024 outside the CT
    mask: sitk.Image  # uint8, where the pair is scored
    metal: sitk.Image | None  # uint8
    transform: sitk.Transform
    quality: Quality
    notes: tuple[str, ...]
    seconds: dict[str, float]


class _Clock:
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def stop(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step], self.last = round(now - self.last, 2), now


def pair_scans(
    mr: sitk.Image,
    ct: sitk.Image,
    settings: PairSettings = PairSettings(),
    *,
    mask: sitk.Image | None = None,
    transform: sitk.Transform | None = None,
) -> Paired:
    """Return the pair of an MR and a CT (HU), each on its own grid, as `read_side` reads them.

    `transform` (points of the MR to points of the CT, LPS mm) replaces the registration; without one and with
    `settings.register` off the scans stay where their headers place them. `mask` replaces the two bodies: it is on the
    grid of the CT, or anywhere in the space of the MR. No voxel is scored where one of the scans has no data. Raises
    `MrictError` if the two scans have no body in common, and for a transform with `settings.deformable`.
    """
    if transform is not None and settings.deformable:
        raise MrictError("--deformable and a transform contradict each other, as nothing is registered; give one")
    clock, notes = _Clock(), []
    if transform is None and settings.register:
        found = register(mr, ct, deformable=settings.deformable)
        transform, notes = found.transform, list(found.notes)
    transform = sitk.Transform(3, sitk.sitkIdentity) if transform is None else transform
    clock.stop("registration")
    of_mr, of_ct = _ways(transform, settings)
    grid = output_grid(mr, ct, settings)
    darkest = float(sitk.GetArrayViewFromImage(mr).min())
    moved_mr = _on_grid(sitk.Cast(mr, sitk.sitkFloat32), grid, of_mr, fill=darkest)
    moved_ct = _on_grid(ct, grid, of_ct, fill=float(AIR_FLOOR_HU))
    field = field_of_view(ct, grid, of_ct)
    _check_common(field, "MR and CT do not overlap", settings)
    clock.stop("resampling")
    bodies = mr_body(moved_mr), ct_body(moved_ct)
    if mask is None:
        scored = scoring_mask(*bodies, field, settings.margin_mm)
    else:
        way = of_ct if _one_grid(mask, ct) and not _one_grid(mask, mr) else of_mr
        scored = sitk.And(_on_grid(mask, grid, way, nearest=True, fill=0), field)
    if settings.grid == "ct":  # which may reach beyond the MR
        scored = sitk.And(scored, field_of_view(mr, grid, of_mr))
    _check_common(scored, "MR and CT have no body in common where the CT has data", settings)
    steel = _on_grid(metal(ct), grid, of_ct, nearest=True, fill=0)  # a clip or seed is lost between coarser voxels
    clock.stop("masks")
    if settings.n4:
        moved_mr = correct_bias(moved_mr, bodies[0])
    if settings.clip:
        moved_mr = clip(moved_mr, bodies[0])
    clock.stop("MR preparation")
    quality = judge(moved_mr, moved_ct, *bodies, field)
    clock.stop("judgement")
    has_metal = bool(sitk.GetArrayViewFromImage(steel).any())
    return Paired(
        moved_mr, moved_ct, scored, steel if has_metal else None, transform, quality, tuple(notes), clock.seconds
    )


def _check_common(mask: sitk.Image, problem: str, settings: PairSettings) -> None:
    """Raise if a mask is empty."""
    if not sitk.GetArrayViewFromImage(mask).any():
        raise MrictError(
            f"{problem}; expected two scans of one part of one person; check that they belong together"
            f"{'' if settings.register else ', or leave out --no-register'}"
        )


def output_grid(mr: sitk.Image, ct: sitk.Image, settings: PairSettings) -> Grid:
    """Return the grid of a pair, axes toward left, back and head: the MR's, the CT's, or the MR's box in a spacing."""
    grid = Grid.of(sitk.DICOMOrient(ct if settings.grid == "ct" else mr, AXES))
    spacing = settings.spacing_mm
    return grid if spacing is None else grid.with_spacing(spacing)


def _ways(transform: sitk.Transform, settings: PairSettings) -> tuple[sitk.Transform | None, sitk.Transform | None]:
    """Return the transforms from the output's points to the MR's and to the CT's; None: the same points."""
    if settings.grid != "ct":
        return None, transform
    try:
        return transform.GetInverse(), None
    except RuntimeError:
        raise MrictError(
            "the transform cannot be inverted, so the pair cannot be on the CT's grid; expected a linear one; give "
            "--grid mr"
        ) from None


def _on_grid(image: sitk.Image, grid: Grid, way: sitk.Transform | None, **how: Any) -> sitk.Image:
    """Return an image on the output's grid; one that only has other axes there is turned and keeps its values."""
    turned = sitk.DICOMOrient(image, AXES)
    return turned if way is None and _same(Grid.of(turned), grid) else resample(image, grid, way, **how)


def _one_grid(image: sitk.Image, other: sitk.Image) -> bool:
    return _same(Grid.of(image), Grid.of(other))


def _same(one: Grid, other: Grid) -> bool:
    """Return whether two grids agree to a thousandth."""
    ours, theirs = (np.concatenate([np.ravel(v) for v in asdict(grid).values()]) for grid in (one, other))
    return bool(np.allclose(ours, theirs, atol=1e-3))
