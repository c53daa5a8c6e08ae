"""Image files in and out, grids, and slice orders over all axis codes."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mrict_core.data.images import volumes
from mrict_core.data.images.grids import check_same_grid
from mrict_core.data.images.orders import SliceOrder
from mrict_core.errors import MrictError

CODES = [
    "".join(letters[k][side] for k, side in zip(order, sides, strict=True))
    for letters in (("LR", "PA", "IS"),)
    for order in itertools.permutations(range(3))
    for sides in itertools.product((0, 1), repeat=3)
]
SHAPES = st.tuples(*[st.integers(1, 5)] * 3)


def affine_of(code: str, spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)) -> np.ndarray:
    ras = nib.orientations.axcodes2ornt(code)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, direction) in enumerate(ras):
        affine[int(world), axis] = direction * spacing_mm[axis]
    affine[:3, 3] = (-20.0, 7.0, 31.0)
    return affine


def world_position(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the RAS position of every voxel: (nx, ny, nz, 3)."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


def test_there_are_48_axis_codes() -> None:
    assert len(set(CODES)) == 48
    assert all("".join(nib.aff2axcodes(affine_of(code))) == code for code in CODES)


@pytest.mark.parametrize("code", CODES)
def test_axial_order_shows_patients_alike_and_inverts(code: str) -> None:
    affine = affine_of(code, (0.7, 1.1, 3.0))
    position = world_position(affine, (3, 4, 5))
    order = SliceOrder.axial(affine)
    right_left, back_front, up = (order.to_slices(position[..., k]) for k in range(3))
    assert (np.diff(up, axis=0) > 0).all()  # inferior -> superior
    assert (np.diff(back_front, axis=1) < 0).all()  # rows: anterior -> posterior
    assert (np.diff(right_left, axis=2) < 0).all()  # columns: the patient's right -> left
    array = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(order.to_array(order.to_slices(array)), array)
    steps_mm = [abs(np.diff(v, axis=a)).max() for a, v in enumerate((up, back_front, right_left))]
    np.testing.assert_allclose(order.spacing_mm(affine), steps_mm)


@given(code=st.sampled_from(CODES), shape=SHAPES, angles=st.tuples(*[st.floats(-180, 180)] * 3))
def test_orders_invert_for_every_shape_and_oblique_affine(
    code: str, shape: tuple[int, int, int], angles: tuple[float, float, float]
) -> None:
    affine = affine_of(code)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ affine[:3, :3]
    array = np.random.RandomState(0).rand(*shape)
    for order in (SliceOrder.axial(affine), SliceOrder.raw()):
        slices = order.to_slices(array)
        assert sorted(slices.shape) == sorted(shape)
        np.testing.assert_array_equal(order.to_array(slices), array)


@pytest.mark.parametrize("code", CODES[::7])
def test_small_tilts_keep_the_nearest_code(code: str) -> None:
    affine = affine_of(code)
    tilted = affine.copy()
    tilted[:3, :3] = Rotation.from_euler("xyz", (12, -9, 15), degrees=True).as_matrix() @ affine[:3, :3]
    assert SliceOrder.axial(tilted) == SliceOrder.axial(affine)


def test_raw_order_is_axis_2_untouched() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    slices = SliceOrder.raw().to_slices(array)
    assert slices.shape == (4, 2, 3)
    np.testing.assert_array_equal(slices[1], array[:, :, 1])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_nifti_round_trip(tmp_path: Path, suffix: str, dtype: type) -> None:
    array = np.random.RandomState(1).randint(0, 200, (4, 5, 6)).astype(np.float32)
    affine = affine_of("PIR", (0.9, 1.2, 2.5))
    path = volumes.save_nifti(tmp_path / f"ct{suffix}", array, affine, dtype=dtype)
    volume = volumes.load_volume(path)
    assert nib.load(path).get_data_dtype() == dtype
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm, (0.9, 1.2, 2.5), atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_rounds_clips_and_keeps_the_header_codes(tmp_path: Path) -> None:
    source = nib.Nifti1Image(np.zeros((2, 2, 1), np.int16), np.eye(4))
    source.set_sform(np.eye(4), 4)
    array = np.array([[[-1024.6], [40.5]], [[1e6], [-1e6]]])
    volumes.save_nifti(tmp_path / "sct.nii.gz", array, np.eye(4), source.header, np.int16)
    image = nib.load(tmp_path / "sct.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).ravel(), [-1025, 40, 32767, -32768])
    assert int(image.header["sform_code"]) == 4


def test_equal_volumes_give_equal_bytes(tmp_path: Path) -> None:
    files = [volumes.save_nifti(tmp_path / f"{n}.nii.gz", np.ones((2, 2, 2)), np.eye(4)) for n in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_files_lie_where_their_nifti_twin_lies(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetSpacing((0.5, 1.0, 2.0))
    image.SetDirection(Rotation.from_euler("xyz", (90, 10, 5), degrees=True).as_matrix().ravel().tolist())
    twins = [tmp_path / f"mr{suffix}", tmp_path / "mr.nii.gz"]
    for path in twins:
        sitk.WriteImage(image, str(path))
    itk, nifti = (volumes.load_volume(path) for path in twins)
    np.testing.assert_array_equal(itk.array, nifti.array)
    np.testing.assert_allclose(itk.affine, nifti.affine, atol=1e-4)
    assert volumes.read_geometry(twins[0])[0] == (3, 4, 5)


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def noise(shape: tuple[int, ...] = (16, 16, 16)) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 999, shape).astype(np.int16)


def truncated(path: Path, keep: float) -> None:
    write(path, noise())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def flipped_byte(path: Path) -> None:
    content = bytearray(gzip.compress(nib.Nifti1Image(noise(), np.eye(4)).to_bytes(), compresslevel=0))
    content[len(content) // 2] ^= 0xFF  # still a valid stream: only gzip's check sum can tell
    path.write_bytes(content)


def with_value(path: Path, value: float) -> None:
    array = noise().astype(np.float32)
    array[3, 4, 5] = value
    write(path, array)


def flat_affine(path: Path) -> None:
    image = nib.Nifti1Image(noise(), np.eye(4))
    image.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), 2)
    nib.save(image, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no bytes": (lambda p: p.write_bytes(b""), "cannot be read"),
    "not gzip": (lambda p: p.write_bytes(b"no image at all" * 99), "cannot be read"),
    "cut in the header": (lambda p: p.write_bytes(gzip.compress(noise().tobytes())[:100]), "cannot be read"),
    "cut in half": (lambda p: truncated(p, 0.5), "cannot be read"),
    "last byte missing": (lambda p: truncated(p, 0.9999), "cannot be read"),
    "one wrong byte": (flipped_byte, "cannot be read"),
    "NaN": (lambda p: with_value(p, np.nan), "1 voxels are NaN or infinite"),
    "infinite": (lambda p: with_value(p, -np.inf), "1 voxels are NaN or infinite"),
    "4-D": (lambda p: write(p, noise((4, 4, 4, 2))), "4-D image"),
    "2-D": (lambda p: write(p, noise((4, 4))), "2-D image"),
    "no voxel": (lambda p: write(p, noise((4, 0, 4))), "holds no voxel"),
    "flat affine": (flat_affine, "not invertible"),
    "missing": (lambda p: None, "no such file"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named_in_one_line(tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    path = tmp_path / "mr.nii.gz"
    damage(path)
    with pytest.raises(MrictError, match=message) as caught:
        volumes.load_volume(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
def test_other_damaged_types(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(noise()), str(path))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(MrictError, match="cannot be read"):
        volumes.load_volume(path)


def test_unknown_type_says_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "ct.dcm").write_bytes(b"DICM")
    with pytest.raises(MrictError, match=r"allowed: \.nii\.gz"):
        volumes.load_volume(tmp_path / "ct.dcm")


def test_a_fourth_axis_of_one_volume_is_3d(tmp_path: Path) -> None:
    write(tmp_path / "mr.nii.gz", noise((4, 5, 6, 1)))
    assert volumes.load_volume(tmp_path / "mr.nii.gz").shape == (4, 5, 6)


def test_unwritable_place_is_named() -> None:
    with pytest.raises(MrictError, match=r"/proc/nowhere/ct\.nii\.gz: cannot be written"):
        volumes.save_nifti("/proc/nowhere/ct.nii.gz", np.ones((2, 2, 2)), np.eye(4))


def grids(shape: tuple[int, ...], affine: np.ndarray) -> dict[str, tuple[tuple[int, ...], np.ndarray, Path]]:
    return {"mr": ((200, 200, 100), np.eye(4), Path("mr.nii.gz")), "ct": (shape, affine, Path("p/ct.nii.gz"))}


@pytest.mark.parametrize("shift_mm", [0.0, 9e-4, 0.01])
def test_equal_grids_pass(shift_mm: float) -> None:
    affine = np.eye(4)
    affine[0, 3] = shift_mm
    check_same_grid(grids((200, 200, 100), affine))


@pytest.mark.parametrize(
    ("shape", "entry", "change", "message"),
    [
        ((200, 200, 99), (0, 0), 0.0, r"ct has 200×200×99 voxels .*, mr \(mr.nii.gz\) has 200×200×100 voxels"),
        ((200, 200, 100), (2, 3), 0.1, r"0.1 mm \(0.1 of a voxel\) apart"),
        ((200, 200, 100), (0, 0), 1e-3, "0.199 mm"),  # a tiny difference of spacing adds up across the volume
    ],
)
def test_differing_grids_are_named(shape: tuple, entry: tuple, change: float, message: str) -> None:
    affine = np.eye(4)
    affine[entry] += change
    with pytest.raises(MrictError, match=message):
        check_same_grid(grids(shape, affine))
