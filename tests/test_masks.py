"""Masks: the MR-only body, the predecessor's union, and the check of the data set's own."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from samples import sample
from scipy import ndimage
from skimage import morphology

from mrict_core.data import masks
from mrict_core.data.discovery import discover
from mrict_core.data.images.volumes import load_volume
from mrict_core.errors import MrictError


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def head(depth: int = 6, spacing_mm: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return (MR, body): scalp, dark skull, brain, and a sinus that opens to the outside at the front."""
    x, y, z = np.mgrid[-60:60, -60:60, 0:depth].astype(float)
    radius = np.hypot(x * spacing_mm / 80, y * spacing_mm / 95)
    mr = np.select([radius < 0.8, radius < 0.92, radius < 1.0], [400.0, 40.0, 600.0], 0.0)
    mr[(np.abs(x) * spacing_mm < 4) & (y * spacing_mm > 60)] = 0.0
    return mr + 0 * z, radius < 1.0


def disturbed(mr: np.ndarray, noise: float, bias: float) -> np.ndarray:
    """Return the MR with a smooth coil profile and Rician noise (`noise` relative to brain)."""
    random = np.random.RandomState(0)
    shading = np.exp(bias * np.linspace(-1, 1, mr.shape[0]))[:, None, None]
    real, imaginary = (400 * noise * random.randn(*mr.shape) for _ in range(2))
    return np.hypot(mr * shading + real, imaginary).astype(np.float32)


@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize(("noise", "bias"), [(0, 0), (0.05, 0), (0.15, 0), (0, 0.8), (0.08, 0.6)])
def test_body_is_found_whatever_noise_and_shading(depth: int, noise: float, bias: float) -> None:
    mr, body = head(depth)
    found = masks.body_mask(disturbed(mr, noise, bias), (2.0, 2.0, 4.0))
    assert found.dtype == bool
    assert found.shape == mr.shape
    assert dice(found, body) > 0.97
    assert np.count_nonzero(body & ~found) < 0.01 * np.count_nonzero(body)


def test_body_is_one_piece_without_holes_or_neighbours() -> None:
    mr, body = head()
    mr[2:6, 20:100] = 300.0  # a coil or cushion apart from the head
    mr[110:112, 60] = 900.0
    found = masks.body_mask(mr, (2.0, 2.0, 4.0))
    assert ndimage.label(found)[1] == 1
    assert not found[2:6].any()
    assert all(np.array_equal(ndimage.binary_fill_holes(found[..., k]), found[..., k]) for k in range(found.shape[2]))
    assert dice(found, body) > 0.97


def test_a_cavity_closed_only_in_3d_is_filled() -> None:
    mr, body = head(9)
    mr[55:65, 55:, 3:6] = 0.0  # open to the front in three slices, wider than the closing
    mr[:, :, :2], mr[:, :, 7:] = head(9)[0][:, :, :2], head(9)[0][:, :, 7:]
    found = masks.body_mask(mr, (2.0, 2.0, 2.0))
    assert found[..., 0].sum() > 0.97 * body[..., 0].sum()
    shell = np.zeros((20, 20, 7), bool)
    shell[4:16, 4:16, 1:6] = True
    shell[8:12, 8:12, 2:5] = False
    assert masks.filled(np.moveaxis(shell, 2, 0))[1:6, 4:16, 4:16].all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_body_does_not_depend_on_mr_units(scale: float) -> None:
    mr, _ = head(2)
    mr = disturbed(mr, 0.05, 0.3)
    reference = masks.body_mask(mr, (2.0, 2.0, 4.0))
    assert dice(masks.body_mask(mr * scale + 7 * scale, (2.0, 2.0, 4.0)), reference) > 0.999


def test_no_contrast_gives_an_empty_body() -> None:
    assert not masks.body_mask(np.full((9, 9, 2), 3.0), (1.0, 1.0, 1.0)).any()


def predecessor_mask(volume: np.ndarray) -> np.ndarray:
    """Lineage 1.3 word by word, one volume."""
    binary = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(volume.astype(np.float64)), 0, 1)) > 0
    return morphology.remove_small_objects(ndimage.binary_fill_holes(binary), max_size=63, connectivity=1)


def test_union_mask_follows_the_predecessor() -> None:
    mr, body = head(8)
    mr = disturbed(mr, 0.05, 0.2)
    ct = np.where(body, 40.0, -1000.0)
    ct[4:8, 10:110] = -200.0  # the couch stays in this mask
    ct[20:23, 20:23, 2:5] = 500.0  # 27 voxels: a speck, removed
    union = masks.union_otsu_mask(mr, ct)
    np.testing.assert_array_equal(union, predecessor_mask(mr) | predecessor_mask(ct))
    assert union[5, 50, 3]
    assert not union[21, 21, 3]


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks_pass(high: int) -> None:
    mask = np.zeros((4, 4, 2), np.float32)
    mask[1:3] = high
    assert masks.check_mask(mask, "mask.nii.gz").sum() == 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 0.0, 0.0), "mask is empty"),
        ((0.0, 1.0, 2.0), r"3 values \(0, 1, 2\)"),
        ((0.0, 0.5, 0.7, 0.8, 1.0), r"5 values \(0, 0.5, 0.7, 0.8 …\)"),
        ((1.0, 2.0), r"2 values \(1, 2\)"),
        ((-1024.0, 40.0), r"2 values \(-1024, 40\)"),
        ((1.0, 1.0), "covers every voxel"),
    ],
)
def test_other_masks_are_refused(values: tuple[float, ...], message: str) -> None:
    mask = np.resize(np.array(values), (5, 4, 1))
    with pytest.raises(MrictError, match=message) as caught:
        masks.check_mask(mask, "1BA001/mask.nii.gz")
    assert str(caught.value).startswith("1BA001/mask.nii.gz: ")


def sample_patients(name: str, region: str, every: int = 1) -> list:
    return list(discover(sample(name), region).patients[::every])


@pytest.mark.parametrize(
    ("name", "region", "every", "recall", "fit"),
    [
        ("synthrad_brain_axial", "brain", 8, 0.60, 0.94),  # its masks keep a margin of 9 to 19 voxels around the head
        ("brainweb_head", "brain", 1, 0.99, 0.97),
        ("pelvis_bulk", "pelvis", 1, 0.99, 0.98),
    ],
)
def test_body_on_real_anatomy(name: str, region: str, every: int, recall: float, fit: float) -> None:
    for files in sample_patients(name, region, every):
        mr, mask = load_volume(files.mr), load_volume(files.mask).array > 0
        body = masks.body_mask(mr.array, mr.spacing_mm)
        outside = np.count_nonzero(body & ~mask) / np.count_nonzero(body)
        assert outside < 0.05, f"{files.patient}: body reaches out of the data set's mask"
        assert np.count_nonzero(body & mask) > recall * np.count_nonzero(mask), files.patient
        reach = ndimage.distance_transform_edt(~np.pad(body[..., body.shape[2] // 2], 30))
        target = np.pad(mask[..., body.shape[2] // 2], 30)
        assert max(dice(reach <= margin, target) for margin in range(25)) > fit, files.patient


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 2.0, 8.0)])
def test_the_outline_is_the_body_with_its_margin_in_mm(spacing_mm):
    body = np.zeros((61, 61, 61), bool)
    body[30, 30, 30] = True
    away = np.indices(body.shape).T - 30
    distance_mm = np.linalg.norm(away * spacing_mm, axis=-1).T
    assert np.array_equal(masks.outline(body, spacing_mm), distance_mm <= masks.MARGIN_MM)
