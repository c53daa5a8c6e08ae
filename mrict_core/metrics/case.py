"""The input of the metrics: a patient's volumes, checked once, and the HU range they are clipped to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.hu import HuRange

T = TypeVar("T")


@dataclass
class Case:
    """One patient: CT, synthetic CT and scoring mask on the original grid, and scoring options."""

    ct: np.ndarray  # HU, 3-D, file order
    sct: np.ndarray  # HU, the same shape
    inside: np.ndarray  # the same shape; mask > 0
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))  # voxel -> RAS mm
    axis: int = 0  # the file axis of the slices
    slices: tuple[np.ndarray, ...] = ()  # CT, sCT (HU) and mask on the canvas, (N, S, S); none for files
    hu_range: HuRange | None = None  # instead of the metric's own
    luminance: str = "every_scale"  # of MS-SSIM
    exponents: str = "per_voxel"
    sd_hu: np.ndarray | None = None  # the same shape; calibrated, of models that draw samples
    _known: dict[Callable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.ct, self.sct, self.inside = checked_volumes(self.ct, self.sct, self.inside)

    @property
    def volumes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.ct, self.sct, self.inside

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size along the file axes, (3,)."""
        return np.linalg.norm(np.asarray(self.affine, np.float64)[:3, :3], axis=0)

    def once(self, compute: Callable[..., T], *more: Any) -> T:
        """Return `compute(ct, sct, inside, *more)`, computed once for all metrics that use it."""
        if compute not in self._known:
            self._known[compute] = compute(*self.volumes, *more)
        return self._known[compute]


def checked_volumes(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both volumes in float32 and the mask as bool; raise MrictError if they cannot be scored."""
    ct, sct = np.asarray(ct, dtype=np.float32), np.asarray(sct, dtype=np.float32)
    mask = np.asarray(mask)
    inside = mask if mask.dtype == bool else mask > 0
    if ct.ndim != 3 or ct.shape != sct.shape or ct.shape != inside.shape:
        raise MrictError(
            f"the metrics compare 3-D volumes of one shape: CT has {size_text(ct)}, sCT {size_text(sct)}, "
            f"mask {size_text(inside)}; bring the sCT to the CT's grid"
        )
    if not inside.any():
        raise MrictError("the scoring mask is empty: no voxel to score; check the mask file")
    for role, volume in (("CT", ct), ("sCT", sct)):
        if not np.isfinite(volume).all():
            count = int(np.size(volume) - np.isfinite(volume).sum())
            raise MrictError(f"the {role} has {count} NaN or infinite voxels and cannot be scored")
    return ct, sct, inside


def size_text(array: np.ndarray) -> str:
    """Return a shape as text, 96×96×40."""
    return "×".join(str(length) for length in array.shape)
