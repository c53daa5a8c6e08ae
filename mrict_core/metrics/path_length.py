"""Water-equivalent path length (WEPL) of straight beams: a surrogate for dose, not dose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mrict_core.errors import MrictError
from mrict_core.metrics.case import checked_volumes

# HU -> relative stopping power (water 1), piecewise linear: the default look-up table of matRad (Wieser et al., Medical
# Physics 44, 2017, 2556), file dicom/hlutLibrary/matRad_default.hlut of github.com/e0404/matRad, constant beyond its
# ends. A clinic's own curve differs by some per cent; the error of an sCT hardly depends on it.
HU_TO_RSP = (
    (-1024.0, 0.00324),
    (200.0, 1.20000),
    (449.0, 1.20001),
    (2000.0, 2.49066),
    (2048.0, 2.53060),
    (3071.0, 2.53061),
)
STEP_MM = 1.0  # along a beam, at most


@dataclass(frozen=True)
class Wepl:
    """WEPL along every beam; errors are sCT - CT."""

    angles_deg: tuple[float, ...]  # in the axial plane, from right-left towards anterior-posterior
    ct_mm: tuple[float, ...]
    error_mm: tuple[float, ...]

    @property
    def wepl_mae_mm(self) -> float:
        return float(np.abs(self.error_mm).mean())

    @property
    def wepl_max_mm(self) -> float:
        return float(np.abs(self.error_mm).max())

    @property
    def wepl_me_mm(self) -> float:
        return float(np.mean(self.error_mm))


def relative_stopping_power(hu: np.ndarray) -> np.ndarray:
    """Return the stopping power relative to water of HU values of any shape, by `HU_TO_RSP`."""
    table = np.array(HU_TO_RSP)
    return np.interp(hu, table[:, 0], table[:, 1])


def wepl_errors(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, affine: np.ndarray, step_deg: float = 15.0) -> Wepl:
    """Return the WEPL of CT and the error of sCT along straight beams through the mask's centre of mass.

    The beams lie in the patient's axial plane (by `affine`, voxel -> RAS mm, oblique or not) at 0, step, … below 180
    degrees; 15 to 45 degrees are usual. WEPL = sum of RSP(HU) ds, with ds at most 1 mm and half a voxel; RSP is 0
    outside the mask and interpolated linearly, so that a plate counts with its thickness at any beam angle. NaN for a
    single slice of another plane, which no beam stays in.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    if not 0 < step_deg <= 180:
        raise MrictError(f"angle step of {step_deg:g} degrees: expected more than 0, at most 180; 15 to 45 are usual")
    affine = np.asarray(affine, np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    step = min(STEP_MM, float(spacing.min()) / 2)
    centre = affine[:3, :3] @ np.array(ndimage.center_of_mass(inside)) + affine[:3, 3]
    reach = float(np.linalg.norm(spacing * ct.shape))  # no line inside the volume is longer
    along = np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1) * step
    angles = np.arange(0.0, 180.0 - 1e-9, step_deg)
    directions = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles)), np.zeros(len(angles))], axis=1)
    points = centre + along[None, :, None] * directions[:, None, :]  # (beams, steps, 3) in mm
    voxels = np.moveaxis((points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T, -1, 0)
    ct_mm, sct_mm = (_integrals(volume, inside, voxels) * step for volume in (ct, sct))
    lying = np.abs(affine[2, :3]) / spacing < np.sqrt(0.5)  # file axes nearer to the axial plane than to its normal
    if np.any(lying & (np.array(ct.shape) == 1)):
        ct_mm, sct_mm = np.full((2, len(angles)), np.nan)
    return Wepl(tuple(angles.tolist()), tuple(ct_mm.tolist()), tuple((sct_mm - ct_mm).tolist()))


def _integrals(volume: np.ndarray, inside: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Return the sums of RSP at sample points (3, beams, steps) in voxels => (beams,); reads only the part needed."""
    flat = voxels.reshape(3, -1)
    held = ((flat > -1) & (flat < np.array(volume.shape)[:, None])).all(axis=0)
    first = np.clip(np.floor(flat[:, held].min(axis=1)).astype(int), 0, None)
    last = np.ceil(flat[:, held].max(axis=1)).astype(int) + 1
    part = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    rsp = np.where(inside[part], relative_stopping_power(volume[part]), 0.0)
    sampled = ndimage.map_coordinates(rsp, flat - first[:, None], order=1, mode="grid-constant", cval=0.0)
    return sampled.reshape(voxels.shape[1:]).sum(axis=1)
