"""Volumes to network input and target: pure functions, shared by preprocessing and inference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mrict_core.data import intensity, masks
from mrict_core.data.cache.canvas import CropPad, centred_crop, predecessor_crop, restore_volume, whole_crop
from mrict_core.data.images.orders import PLANES, SliceOrder, own_plane
from mrict_core.data.images.volumes import Volume
from mrict_core.errors import MrictError, unknown_name
from mrict_core.hu import AIR_FLOOR_HU, HALF_WATER_HU, PREDECESSOR
from mrict_core.modalities import MR, Modality
from mrict_core.paths import shown

STORED_MR = np.float16
PREDECESSOR_AXES = "SLP"  # slices, rows, columns: axis 2, 0, 1 of a file whose axes run L, P, S


@dataclass(frozen=True)
class PreparedMr:
    """The network's input for one volume, and how to map an output back to its grid."""

    mr: np.ndarray  # (N, S, S) float32 (in the cache float16) in [-1, 1], -1 outside the body
    body: np.ndarray  # (N, S, S) bool
    z: np.ndarray  # (N,) int: position of each slice in the volume
    shape: tuple[int, int, int]  # of the file
    order: SliceOrder
    crop: CropPad
    mr_range: tuple[float, float]  # MR values that became -1 and 1

    def to_volume(self, hu_slices: np.ndarray) -> np.ndarray:
        """Return HU slices (N, S, S) on the grid of the MR file, air outside slices and canvas."""
        return restore_volume(hu_slices, self.z, self.shape, self.order, self.crop)


Prepared = tuple[dict[str, np.ndarray], PreparedMr]  # arrays of the cache (mr, ct, mask, body), and the MR part


def body_slices(mr: Volume, order: SliceOrder, modality: Modality = MR) -> np.ndarray:
    """Return the body mask (N, rows, cols) of an MR volume in the given slice order; of a CBCT that above -500 HU."""
    stack = order.to_slices(mr.array)
    spacing = order.spacing_mm(mr.affine)
    level = HALF_WATER_HU if modality.window else None
    body = masks.body_mask(np.moveaxis(stack, 0, 2), (spacing[1], spacing[2], spacing[0]), level)
    return np.moveaxis(body, 2, 0)


def body_of(mr: Volume, modality: Modality = MR) -> np.ndarray:
    """Return the body mask of an MR volume in file order, found on its axial slices; raise if there is none.

    In a volume one voxel thick it is found on the one slice, whatever its plane.
    """
    intensity.check_input(mr.array, mr.path, modality)
    order = SliceOrder.own(mr.shape, mr.affine)
    return order.to_array(_some(body_slices(unpadded(mr, modality), order, modality), mr))


def unpadded(mr: Volume, modality: Modality = MR) -> Volume:
    """Return an MR volume with its padding set to background, and a note; see `intensity.without_padding`.

    A CBCT is unchanged: its padding is air.
    """
    if modality.window:
        return mr
    array = intensity.without_padding(mr.array)
    if array is mr.array:
        return mr
    note = f"its padding of {mr.array.min():g} is taken as background ({array.min():g})"
    return replace(mr, array=array, notes=(*mr.notes, note))


def _some(body: np.ndarray, mr: Volume) -> np.ndarray:
    if not body.any():
        raise MrictError(f"{shown(mr.path)}: no body found; expected tissue brighter than air; check the file")
    return body


def prepare_mr(
    mr: Volume,
    size: int,
    keep: np.ndarray | None = None,
    *,
    plane: str = "",
    whole: bool = False,
    body: np.ndarray | None = None,
    mr_range: tuple[float, float] | None = None,
    dtype: type = np.float32,
    modality: Modality = MR,
) -> PreparedMr:
    """Return the network's input of protocol `patient` from the MR, or CBCT, alone.

    Slices of `plane` ("": `own_plane`) with body (or a voxel of `keep`, (N, rows, cols)), normalised over the whole
    volume inside the body, cropped and padded around the body to size x size at native spacing. `whole` enlarges the
    canvas to fit body and `keep`. If not given, `body` (file order) is found by `body_of`, `mr_range` inside the body;
    that of a CBCT is its window.
    """
    plane = plane or own_plane(mr.shape, mr.affine)
    if plane not in PLANES:
        raise unknown_name("plane", plane, PLANES)
    mr, order = unpadded(mr, modality), SliceOrder.toward(mr.affine, PLANES[plane])
    stack = order.to_slices(mr.array)
    body = order.to_slices(body_of(mr, modality) if body is None else _some(body, mr))
    held = body if keep is None else body | keep
    z = np.flatnonzero(held.any(axis=(1, 2)))
    low, high = mr_range or intensity.input_range(stack, body, mr.path, modality)
    crop = whole_crop(body, held, size) if whole else centred_crop(body, size)
    unit = (np.where(body[k], intensity.normalise_mr(stack[k], low, high), np.float32(-1)) for k in z)
    images = crop.collect(unit, len(z), -1, dtype)
    return PreparedMr(images, crop.apply(body[z], False), z, mr.shape, order, crop, (low, high))


def otsu_body_of(mr: Volume) -> np.ndarray:
    """Return Otsu's mask of an MR volume in file order: the predecessor's union mask without the CT."""
    intensity.check_mr(mr.array, mr.path)
    mr, order = unpadded(mr), SliceOrder.toward(mr.affine, PREDECESSOR_AXES)
    return order.to_array(_some(masks.otsu_mask(np.ascontiguousarray(order.to_slices(mr.array))), mr))


def prepare_mr_predecessor(mr: Volume, size: int, *, whole: bool = False, body: np.ndarray | None = None) -> PreparedMr:
    """Return the network's input of protocol `predecessor` for a volume without a CT.

    Two differences from training: the mask is Otsu's of the MR alone, as the union of training needs the CT; slices are
    oriented as in SynthRAD files (axes LPS), while training used axis 2 of any file. `whole` enlarges the canvas to the
    slice if that is larger; `body` (file order) is `otsu_body_of(mr)` if not given.
    """
    mr, order = unpadded(mr), SliceOrder.toward(mr.affine, PREDECESSOR_AXES)
    stack = order.to_slices(mr.array)
    body = order.to_slices(otsu_body_of(mr) if body is None else _some(body, mr))
    crop = predecessor_crop(*stack.shape[1:], max(size, *stack.shape[1:]) if whole else size)
    unit = np.stack([intensity.minmax_slice(s) for s in stack]) * body * 2 - 1
    canvas, inside = crop.apply(unit, -1), crop.apply(body, False)
    return PreparedMr(canvas, inside, np.arange(len(stack)), mr.shape, order, crop, _extremes(mr))


def _extremes(mr: Volume) -> tuple[float, float]:
    """Return the range of the volume; the predecessor normalised every slice by its own."""
    return float(mr.array.min()), float(mr.array.max())


def prepare_patient(mr: Volume, ct: Volume, mask: np.ndarray, size: int, modality: Modality = MR) -> Prepared:
    """Return the arrays of protocol `patient` (mr in [-1, 1], ct in HU, mask, body, each (N, S, S)) and the MR part.

    `mask` (file order) is the data set's: it limits target and scores, never the input.
    """
    order = SliceOrder.own(mr.shape, mr.affine)
    mask = order.to_slices(mask)
    prepared = prepare_mr(mr, size, keep=mask, dtype=STORED_MR, modality=modality)
    kept, stack = mask[prepared.z], order.to_slices(ct.array)
    hu = (np.where(mask[k], stack[k], np.float32(AIR_FLOOR_HU)) for k in prepared.z)
    arrays = {
        "mr": prepared.mr,
        "ct": prepared.crop.collect(hu, len(kept), AIR_FLOOR_HU, stack.dtype),
        "mask": prepared.crop.apply(kept, False),
        "body": prepared.body,
    }
    return arrays, prepared


def prepare_predecessor(mr: Volume, ct: Volume, mask: np.ndarray, size: int, modality: Modality = MR) -> Prepared:
    """Return the same for protocol `predecessor`: union mask, slices of axis 2, per-slice min-max, centre crop.

    It knows MR alone; `modality` is refused before, by `modalities.check_input`.
    """
    mr, order, window = unpadded(mr), SliceOrder.raw(), PREDECESSOR
    stack, target = order.to_slices(mr.array), order.to_slices(ct.array)
    union = order.to_slices(masks.union_otsu_mask(mr.array, ct.array))
    crop = predecessor_crop(*stack.shape[1:], size)
    unit = (intensity.minmax_slice(image) * kept * 2 - 1 for image, kept in zip(stack, union, strict=True))
    hu = (
        np.where(kept, image, window.low).clip(window.low, window.high)
        for image, kept in zip(target, union, strict=True)
    )
    arrays = {
        "mr": crop.collect(unit, len(stack), -1, np.float32),
        "ct": crop.collect(hu, len(stack), window.low, target.dtype),
        "mask": crop.apply(order.to_slices(mask), False),
        "body": crop.apply(union, False),
    }
    z = np.arange(len(stack))
    return arrays, PreparedMr(arrays["mr"], arrays["body"], z, mr.shape, order, crop, _extremes(mr))


PROTOCOLS = {"patient": prepare_patient, "predecessor": prepare_predecessor}


def compact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in the types of the cache: CT as int16 if lossless."""
    return {
        "mr": arrays["mr"].astype(STORED_MR, copy=False),
        "ct": as_short(arrays["ct"]),
        "mask": arrays["mask"].view(np.uint8),
        "body": arrays["body"].view(np.uint8),
    }


def as_short(ct: np.ndarray) -> np.ndarray:
    """Return HU (N, rows, cols), float32 or int16, as int16 if lossless, else unchanged."""
    if ct.dtype == np.int16:
        return ct
    short = np.empty(ct.shape, np.int16)
    for image, whole in zip(ct, short, strict=True):
        whole[...] = image.clip(-32768, 32767)
        if not np.array_equal(whole, image):
            return ct
    return short
