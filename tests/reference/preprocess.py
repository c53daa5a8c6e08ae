"""Preprocessing written down plainly: the predecessor's two notebooks, and protocol `patient` on whole volumes.

The notebooks (docs/lineage.md, data `brain-new`): one writes a union mask beside every patient's files, the other reads
everything again as float64, cuts it into slices, keeps all slices of all patients in lists and saves them as arrays.
Their crop fails where a side exceeds the canvas by exactly one; here it does not.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mrict_core.data import intensity
from mrict_core.data.cache.canvas import centred_crop
from mrict_core.data.checks import hu_values
from mrict_core.data.images.orders import SliceOrder
from mrict_core.files import hash_file
from mrict_core.hu import AIR_FLOOR_HU
from reference import masks

UNION = "union_mask.nii.gz"


def create_masks(folders: Sequence[Path], output: Path) -> None:
    """Write every patient's union mask to `output`/<patient>/: the notebook that ran before the other."""
    for folder in folders:
        mr = nib.load(folder / "mr.nii.gz")
        union = masks.union_otsu_mask(mr.get_fdata(), nib.load(folder / "ct.nii.gz").get_fdata())
        (output / folder.name).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(union.astype(np.float32), mr.affine), output / folder.name / UNION)


def crop_or_pad(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image centred on a canvas: odd crops lose the extra row on top, the extra column on the right."""
    rows, cols = image.shape
    if rows > size:
        image = image[-(-(rows - size) // 2) :][:size]
    else:
        image = np.pad(image, ((-(-(size - rows) // 2), (size - rows) // 2), (0, 0)))
    if cols > size:
        return image[:, (cols - size) // 2 :][:, :size]
    return np.pad(image, ((0, 0), ((size - cols) // 2, -(-(size - cols) // 2))))


def minmax(image: np.ndarray) -> np.ndarray:
    """Return an image scaled to [0, 1] by its own range."""
    return (image - image.min()) / (image.max() - image.min() + 1e-5)


def slices_of(folder: Path, union: Path, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return a patient's MR and CT slices (size, size) in [0, 1], float64, 0 outside the union mask."""
    mr, ct, mask = (nib.load(p).get_fdata() for p in (folder / "mr.nii.gz", folder / "ct.nii.gz", union))
    inputs, outputs = [], []
    for k in range(mr.shape[2]):
        keep = minmax(mask[:, :, k]) > 0  # nothing of a slice that the mask covers wholly, which no head does
        target = (np.clip(ct[:, :, k], -1000, 1000) + 1000) / 2000
        inputs.append(crop_or_pad(np.where(keep, minmax(mr[:, :, k]), 0), size))
        outputs.append(crop_or_pad(np.where(keep, target, 0), size))
    return inputs, outputs


def notebooks(folders: Sequence[Path], output: Path, size: int) -> tuple[Path, Path]:
    """Run both notebooks on patients' folders; return the arrays' files (N, size, size), patient by patient."""
    create_masks(folders, output)
    inputs: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    for folder in folders:
        mr, ct = slices_of(folder, output / folder.name / UNION, size)
        inputs.extend(mr)
        outputs.extend(ct)
    paths = output / "train_input.npy", output / "train_output.npy"
    for path, slices in zip(paths, (inputs, outputs), strict=True):
        np.save(path, np.array(slices))
    return paths


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (array float32, affine) of a .nii.gz whose check sum holds."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    return image.get_fdata(dtype=np.float32), image.affine


def check(ct: np.ndarray, mask: np.ndarray) -> None:
    """Raise `ValueError` for what `check_mask` and `check_hu` look for most: two values, plausible medians in HU."""
    low, high = hu_values.TISSUE_MEDIAN_HU
    if np.unique(mask).size != 2 or not low <= np.median(ct[mask > 0]) <= high or np.median(ct[mask == 0]) > 300:
        raise ValueError("implausible mask or CT")


def patient(folder: Path, size: int) -> dict[str, np.ndarray]:
    """Return the arrays of protocol `patient` in the store's types, made of whole volumes."""
    for role in ("mr", "ct", "mask"):
        hash_file(folder / f"{role}.nii.gz")
    (mr, affine), (ct, _), (mask, _) = (load(folder / f"{role}.nii.gz") for role in ("mr", "ct", "mask"))
    check(ct, mask)
    mask = mask > 0
    order = SliceOrder.axial(affine)
    rows_mm, cols_mm, slice_mm = (order.spacing_mm(affine)[k] for k in (1, 2, 0))
    stack, kept = order.to_slices(mr), order.to_slices(mask)
    body = np.moveaxis(masks.body_mask(np.moveaxis(stack, 0, 2), (rows_mm, cols_mm, slice_mm)), 2, 0)
    z = np.flatnonzero((body | kept).any(axis=(1, 2)))
    low, high = (float(v) for v in np.percentile(stack[body], intensity.MR_PERCENTILES))
    crop = centred_crop(body, size)
    unit = np.where(body[z], intensity.normalise_mr(stack[z], low, high), np.float32(-1))
    hu = crop.apply(np.where(kept[z], order.to_slices(ct)[z], np.float32(AIR_FLOOR_HU)), AIR_FLOOR_HU)
    short = hu.clip(-32768, 32767).astype(np.int16)
    return {
        "mr": crop.apply(unit, -1).astype(np.float16),
        "ct": short if np.array_equal(short, hu) else hu,
        "mask": crop.apply(kept[z], False).astype(np.uint8),
        "body": crop.apply(body[z], False).astype(np.uint8),
    }


def patients(folders: Sequence[Path], output: Path, size: int) -> None:
    """Write the arrays of protocol `patient` of all patients, one after the other."""
    for folder in folders:
        (output / folder.name).mkdir(parents=True, exist_ok=True)
        for name, array in patient(folder, size).items():
            np.save(output / folder.name / f"{name}.npy", array)
