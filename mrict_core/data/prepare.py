"""Volumes to network input and target: pure functions, the same for preprocessing and for inference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrict_core.data import intensity, masks
from mrict_core.data.slicing import CropPad, centred_crop, predecessor_crop, restore_volume
from mrict_core.data.volumes import SliceOrder, Volume
from mrict_core.errors import MrictError
from mrict_core.paths import shown


@dataclass(frozen=True)
class PreparedMr:
    """The network's input for one volume, and what is needed to bring an output back onto its grid."""

    mr: np.ndarray  # (N, S, S) float32 in [-1, 1], -1 outside the body
    body: np.ndarray  # (N, S, S) bool
    z: np.ndarray  # (N,) int: position of each slice in the volume
    shape: tuple[int, int, int]  # of the file
    order: SliceOrder
    crop: CropPad
    mr_range: tuple[float, float]  # MR values that became -1 and 1

    def to_volume(self, hu_slices: np.ndarray) -> np.ndarray:
        """Return HU slices (N, S, S) on the grid of the MR file, air where there is no slice or canvas."""
        return restore_volume(hu_slices, self.z, self.shape, self.order, self.crop)


Prepared = tuple[dict[str, np.ndarray], PreparedMr]  # the store's arrays (mr, ct, mask, body), and the MR part


def body_slices(mr: Volume, order: SliceOrder) -> np.ndarray:
    """Return the body mask (N, rows, cols) of an MR volume in the given slice order."""
    stack = order.to_slices(mr.array)
    spacing = order.spacing_mm(mr.affine)
    body = masks.body_mask(np.moveaxis(stack, 0, 2), (spacing[1], spacing[2], spacing[0]))
    return np.moveaxis(body, 2, 0)


def prepare_mr(mr: Volume, size: int, keep: np.ndarray | None = None) -> PreparedMr:
    """Return the network's input of protocol `patient` from the MR alone.

    Axial slices in LPS order that hold body (or any voxel of `keep`, (N, rows, cols)), normalised over the whole
    volume inside the body, cropped and padded around the body to size x size at native spacing.
    """
    intensity.check_mr(mr.array, mr.path)
    order = SliceOrder.axial(mr.affine)
    stack, body = order.to_slices(mr.array), body_slices(mr, order)
    if not body.any():
        raise MrictError(f"{shown(mr.path)}: no body found; expected tissue brighter than air; check the file")
    z = np.flatnonzero((body if keep is None else body | keep).any(axis=(1, 2)))
    low, high = intensity.robust_mr_range(stack, body, mr.path)
    crop = centred_crop(body, size)
    unit = np.where(body[z], intensity.normalise_mr(stack[z], low, high), np.float32(-1))
    return PreparedMr(crop.apply(unit, -1), crop.apply(body[z], False), z, mr.shape, order, crop, (low, high))


def prepare_patient(mr: Volume, ct: Volume, mask: np.ndarray, size: int) -> Prepared:
    """Return the arrays of protocol `patient` (mr in [-1, 1], ct in HU, mask, body, each (N, S, S)) and the MR part.

    `mask` (file order) is the data set's: it bounds the target and the scores, never the input.
    """
    order = SliceOrder.axial(mr.affine)
    mask = order.to_slices(mask)
    prepared = prepare_mr(mr, size, keep=mask)
    kept = mask[prepared.z]
    hu = np.where(kept, order.to_slices(ct.array)[prepared.z], np.float32(intensity.AIR_HU))
    arrays = {
        "mr": prepared.mr,
        "ct": prepared.crop.apply(hu, intensity.AIR_HU),
        "mask": prepared.crop.apply(kept, False),
        "body": prepared.body,
    }
    return arrays, prepared


def prepare_predecessor(mr: Volume, ct: Volume, mask: np.ndarray, size: int) -> Prepared:
    """Return the same of protocol `predecessor`: union mask, every slice along axis 2,
    per-slice min-max, masked to 0, centre crop."""
    order, window = SliceOrder.raw(), intensity.WINDOWS["predecessor"]
    stack = order.to_slices(mr.array)
    union = order.to_slices(masks.union_otsu_mask(mr.array, ct.array))
    crop = predecessor_crop(*stack.shape[1:], size)
    unit = np.stack([intensity.minmax_slice(s) for s in stack]) * union * 2 - 1
    hu = np.where(union, order.to_slices(ct.array), window.low).clip(window.low, window.high)
    arrays = {
        "mr": crop.apply(unit, -1),
        "ct": crop.apply(hu, window.low),
        "mask": crop.apply(order.to_slices(mask), False),
        "body": crop.apply(union, False),
    }
    mr_range = (float(mr.array.min()), float(mr.array.max()))  # of the volume; the slices have their own
    return arrays, PreparedMr(arrays["mr"], arrays["body"], np.arange(len(stack)), mr.shape, order, crop, mr_range)


PROTOCOLS = {"patient": prepare_patient, "predecessor": prepare_predecessor}


def compact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in the store's types: CT as int16 only where that loses nothing."""
    ct = np.asarray(arrays["ct"], np.float32)
    short = ct.clip(-32768, 32767).astype(np.int16)
    return {
        "mr": arrays["mr"].astype(np.float16),
        "ct": short if np.array_equal(short, ct) else ct,
        "mask": arrays["mask"].astype(np.uint8),
        "body": arrays["body"].astype(np.uint8),
    }
