"""Pairs with a known pose: an aligned MR and CT of one body, the CT turned, shifted, resampled, cut and noisy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from samples import HOW_TO_GET, SAMPLES
from scipy.spatial.transform import Rotation

from mrict_core.data.phantom import PhantomSpec
from mrict_core.data.phantom.patients import write_patient
from mrict_core.files import code_hash
from mrict_core.hu import AIR_FLOOR_HU, CEILING_HU
from mrict_core.pairing.itk_grids import Grid, resample
from mrict_core.pairing.starts import rigid
from mrict_core.paths import shown

FILES = ("mr.nii.gz", "ct.nii.gz", "mask.nii.gz")
TURN_DEG, SHIFT_MM = 15.0, 30.0  # at most, about and along each axis
CUT = 0.25  # of the slices, at most, at one end
PADDING_MM = 40.0  # around the CT, so that a moved body stays inside
CT_NOISE_HU, MR_NOISE = 40.0, 0.04  # SD at most; of the MR's 99th percentile
POINTS = 2000  # of the body, where the error is measured
PEOPLE = 3  # phantoms of each region, one a centre
SEED = 42


@dataclass(frozen=True)
class Anatomy:
    """A set of aligned pairs. sample: its folder in the samples; "" for phantoms."""

    name: str
    region: str
    sample: str = ""
    voxels_mm: tuple[float, float] = (2.0, 2.5)  # of phantoms: in plane, slices

    @property
    def missing(self) -> str:
        """Return why it is absent; "" if it is there."""
        there = not self.sample or (SAMPLES / self.sample).is_dir()
        return "" if there else f"{self.name}: not measured, no {shown(SAMPLES / self.sample)}; {HOW_TO_GET}"

    def folder(self, number: int, cache: Path) -> Path:
        """Return the folder with the files of the pair of pose `number`; phantoms are made once, below `cache`."""
        if self.sample:
            return SAMPLES / self.sample
        patient = f"1{self.region[0].upper()}{'ABC'[number % PEOPLE]}{1:03d}"
        spec = PhantomSpec(self.region, *self.voxels_mm)
        folder = cache / f"phantoms-{code_hash('data/phantom')}-{self.voxels_mm[0]:g}" / patient
        if not all((folder / name).is_file() for name in FILES):
            write_patient(folder, patient, SEED, spec)
        return folder


ANATOMIES = (
    Anatomy("phantom head", "brain"),
    Anatomy("phantom pelvis", "pelvis", voxels_mm=(2.5, 3.0)),
    Anatomy("brainweb_head", "brain", "brainweb_head/Task1/brain/BW04"),
    Anatomy("pelvis_bulk", "pelvis", "pelvis_bulk/Task1/pelvis/P3"),
)


@dataclass(frozen=True)
class Case:
    """mr and ct, each on a grid of its own; truth: MR points to CT points; points (N, 3) of the body, LPS mm."""

    mr: sitk.Image
    ct: sitk.Image
    truth: sitk.Euler3DTransform
    points: np.ndarray
    facts: dict[str, Any]

    def errors_mm(self, transform: sitk.Transform) -> np.ndarray:
        """Return the distance of each point from where it belongs (target registration error)."""
        found, wanted = (
            np.array([one.TransformPoint(point.tolist()) for point in self.points]) for one in (transform, self.truth)
        )
        return np.linalg.norm(found - wanted, axis=1)


def make_case(anatomy: Anatomy, number: int, cache: Path) -> Case:
    """Return a pair in a pose; the same for equal arguments."""
    rng = np.random.default_rng([SEED, [a.name for a in ANATOMIES].index(anatomy.name), number])
    folder = anatomy.folder(number, cache)
    mr, ct, mask = (sitk.ReadImage(str(folder / name)) for name in FILES)
    inside = rng.permutation(np.argwhere(sitk.GetArrayViewFromImage(mask) > 0))[:POINTS, ::-1]
    points = np.array([mask.TransformIndexToPhysicalPoint(p.tolist()) for p in inside])
    turn, shift = rng.uniform(-TURN_DEG, TURN_DEG, 3), rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
    centre = points.mean(0)
    truth = rigid(centre, centre + shift, Rotation.from_euler("xyz", turn, degrees=True))
    facts = {"turn_deg": turn.round(2).tolist(), "shift_mm": shift.round(2).tolist()}
    moved, facts["ct"] = _scanned(_posed(ct, truth, rng), rng)
    fixed, facts["mr"] = _scanned(mr, rng)
    ct_noise, mr_noise = rng.uniform(0, CT_NOISE_HU), rng.uniform(0, MR_NOISE)
    facts |= {"ct_noise_hu": round(ct_noise, 1), "mr_noise": round(mr_noise, 3)}
    sd = mr_noise * float(np.percentile(sitk.GetArrayViewFromImage(fixed), 99))
    moved = _changed(moved, lambda a: (a + rng.normal(0, ct_noise, a.shape)).clip(AIR_FLOOR_HU, CEILING_HU))
    fixed = _changed(fixed, lambda a: np.hypot(a + rng.normal(0, sd, a.shape), rng.normal(0, sd, a.shape)))  # Rician
    return Case(fixed, moved, truth, points, facts)


def _posed(ct: sitk.Image, truth: sitk.Transform, rng: np.random.Generator) -> sitk.Image:
    """Return the CT of the moved body, with a spacing of its own."""
    spacing = np.array(ct.GetSpacing())
    pad = np.ceil(PADDING_MM / spacing).astype(int)
    box = Grid.of(ct).box((-pad).tolist(), (ct.GetSize() + 2 * pad).tolist())
    return resample(ct, box.with_spacing(spacing * rng.uniform(0.8, 1.5, 3)), truth.GetInverse())


def _scanned(image: sitk.Image, rng: np.random.Generator) -> tuple[sitk.Image, dict[str, Any]]:
    """Return an image with one end of its slices cut in half of all cases, and with axes in another order."""
    along = int(np.argmax(np.abs(np.reshape(image.GetDirection(), (3, 3))[2])))  # the axis along the body
    count, share, end = image.GetSize()[along], rng.choice([0.0, rng.uniform(0, CUT)]), rng.integers(2)
    cut = round(share * count)
    start, size = [0, 0, 0], list(image.GetSize())
    start[along], size[along] = cut * int(end), count - cut
    letters = [pair[rng.integers(2)] for pair in rng.permutation(["RL", "AP", "IS"])]
    found = sitk.DICOMOrient(sitk.RegionOfInterest(image, size, start), "".join(letters))
    spacing = [round(v, 2) for v in found.GetSpacing()]
    return found, {"cut": round(float(share), 2), "codes": "".join(letters), "spacing_mm": spacing}


def _changed(image: sitk.Image, change: Any) -> sitk.Image:
    found = sitk.GetImageFromArray(np.rint(change(sitk.GetArrayFromImage(image).astype(np.float32))).astype(np.int16))
    found.CopyInformation(image)
    return found
