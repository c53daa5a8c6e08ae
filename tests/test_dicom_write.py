"""Synthetic CT written as DICOM: the MR's grid and study, a valid object, nothing half-written."""

from __future__ import annotations

import contextlib
import itertools
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_enhanced, write_mr_series
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage
from samples import sample
from scipy.spatial.transform import Rotation
from test_dicom_read import PYDICOM, grid, sitk_volume, stored

from mrict_core.data.dicom import DicomVolume, read_series, write_ct_series
from mrict_core.data.images.grids import corner_gap_mm
from mrict_core.data.images.orders import own_plane
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.errors import MrictError

BY = {"model": "mk3@0123abcd", "version": "0.1.0"}
SIGNED = [
    np.array(m)
    for order in itertools.permutations(np.eye(3))
    for signs in itertools.product((1, -1), repeat=3)
    for m in [np.array(order).T * signs]
]


def some_hu(shape) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1024, 3000, shape).astype(np.float32)


@pytest.fixture
def mr(tmp_path) -> DicomVolume:
    axes = Rotation.from_euler("xyz", (12.3, -4, 2), degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
    write_mr_series(tmp_path / "mr", stored(), grid(axes))
    return read_series(tmp_path / "mr")


def slices_of(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def test_reads_back_on_the_identical_grid(tmp_path, mr):
    hu = some_hu(mr.shape)
    folder = write_ct_series(tmp_path / "ct", hu, mr, **BY)
    back = read_series(folder, modality="CT")
    np.testing.assert_array_equal(back.array, np.rint(hu))
    np.testing.assert_array_equal(back.affine, mr.affine)
    array, affine = sitk_volume(folder)
    np.testing.assert_array_equal(array, np.rint(hu))
    assert corner_gap_mm(affine, mr.affine, mr.shape) < 1e-4
    theirs, ours = (sitk.ReadImage(sorted(map(str, p.iterdir()))[0]) for p in (tmp_path / "mr", folder))
    assert theirs.GetSpacing()[:2] == ours.GetSpacing()[:2]


def test_object_belongs_to_the_study_and_says_what_it_is(tmp_path, mr):
    write_ct_series(tmp_path / "ct", some_hu(mr.shape), mr, **BY)
    originals = {d.SOPInstanceUID: d for d in slices_of(tmp_path / "mr")}
    images = slices_of(tmp_path / "ct")
    one = next(iter(originals.values()))
    for number, image in enumerate(images, 1):
        assert image.SOPClassUID == image.file_meta.MediaStorageSOPClassUID == CTImageStorage
        assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
        assert (image.StudyInstanceUID, image.FrameOfReferenceUID) == (one.StudyInstanceUID, one.FrameOfReferenceUID)
        assert image.SeriesInstanceUID == images[0].SeriesInstanceUID != one.SeriesInstanceUID
        original = originals[image.SourceImageSequence[0].ReferencedSOPInstanceUID]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PatientPosition"):
            assert image[keyword].value == original[keyword].value
        assert image.InstanceNumber == number
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert image.SeriesDescription == "synthetic CT (MRICT mk3@0123abcd), not for clinical use"
        assert "model mk3@0123abcd; not for clinical use" in image.DerivationDescription
        assert (image.SoftwareVersions, image.ContentQualification) == ("0.1.0", "RESEARCH")
        assert (image.RescaleSlope, image.RescaleIntercept, image.LossyImageCompression) == (1, -1024, "00")
    assert len({image.SOPInstanceUID for image in images} | set(originals)) == 2 * len(images)


def test_of_multi_frame_names_the_frame(tmp_path):
    write_enhanced(tmp_path / "mr", stored(), grid(), order=[3, 0, 5, 1, 2, 4])
    mr = read_series(tmp_path / "mr")
    write_ct_series(tmp_path / "ct", some_hu(mr.shape), mr, **BY)
    numbers = [image.SourceImageSequence[0].ReferencedFrameNumber for image in slices_of(tmp_path / "ct")]
    assert numbers == [2, 4, 5, 1, 6, 3]
    np.testing.assert_array_equal(read_series(tmp_path / "ct", modality="CT").affine, mr.affine)


def test_lossy_once_is_lossy_always(tmp_path):
    write_mr_series(tmp_path / "mr", stored(), grid(), LossyImageCompression="01")
    mr = read_series(tmp_path / "mr")
    write_ct_series(tmp_path / "ct", some_hu(mr.shape), mr, **BY)
    assert {image.LossyImageCompression for image in slices_of(tmp_path / "ct")} == {"01"}


@settings(max_examples=25, deadline=None)
@given(
    axes=st.sampled_from(SIGNED),
    angles=st.tuples(*[st.floats(-30, 30)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_of_a_nifti_in_any_of_48_codes_keeps_every_voxel_in_place(tmp_path_factory, axes, angles, spacing, shape):
    folder = tmp_path_factory.mktemp("nifti")
    affine = grid(Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes, spacing)
    hu = some_hu(shape)
    write_ct_series(folder / "ct", hu, Volume(hu, affine, folder / "mr.nii.gz"), **BY)
    back = read_series(folder / "ct", modality="CT")
    codes = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIR"}[own_plane(shape, affine)]
    assert "".join(nib.aff2axcodes(back.affine)) == codes
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    found = (world - back.affine[:3, 3]) @ np.linalg.inv(back.affine[:3, :3]).T
    assert np.abs(found - np.rint(found)).max() < 1e-3
    there = tuple(np.rint(found).astype(int).T)
    np.testing.assert_array_equal(back.array[there], np.rint(hu)[tuple(index.T)])


def test_values_below_air_are_kept(tmp_path, mr):
    hu = np.full(mr.shape, -1500.4, np.float32)
    hu[0, 0, 0] = 30000
    write_ct_series(tmp_path / "ct", hu, mr, **BY)
    np.testing.assert_array_equal(read_series(tmp_path / "ct", modality="CT").array, np.rint(hu))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN or infinite HU"), (1e6, "expected a range of 16 bits"), (None, "of shape")]
)
def test_broken_output_is_refused(tmp_path, mr, value, message):
    hu = some_hu(mr.shape)
    if value is None:
        hu = hu[1:]
    else:
        hu[1, 1, 1] = value
    with pytest.raises(MrictError, match=message):
        write_ct_series(tmp_path / "ct", hu, mr, **BY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mr"]


def test_sheared_nifti_is_refused(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.2
    with pytest.raises(MrictError, match="not at right angles, which DICOM cannot store"):
        write_ct_series(tmp_path / "ct", some_hu((3, 3, 3)), Volume(some_hu((3, 3, 3)), affine, tmp_path / "x"), **BY)


def test_existing_folders(tmp_path, mr):
    hu = some_hu(mr.shape)
    folder = write_ct_series(tmp_path / "ct", hu, mr, **BY)
    with pytest.raises(MrictError, match="exists already"):
        write_ct_series(folder, hu, mr, **BY)
    write_ct_series(folder, hu + 1, mr, overwrite=True, **BY)
    np.testing.assert_array_equal(read_series(folder, modality="CT").array, np.rint(hu + 1))
    (folder / "plan.txt").write_text("precious")
    with pytest.raises(MrictError, match=r"contains files other.*nothing was overwritten"):
        write_ct_series(folder, hu, mr, overwrite=True, **BY)
    assert (folder / "plan.txt").read_text() == "precious"
    with pytest.raises(MrictError, match="contains files other"):
        write_ct_series(tmp_path / "mr", hu, mr, overwrite=True, **BY)
    with pytest.raises(MrictError, match="is not a folder"):
        write_ct_series(folder / "plan.txt", hu, mr, overwrite=True, **BY)
    (tmp_path / "empty").mkdir()
    write_ct_series(tmp_path / "empty", hu, mr, **BY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ct", "empty", "mr"]


def test_a_series_of_others_is_never_replaced(tmp_path, mr):
    """Files named as ours are, but of a scanner."""
    for file in (tmp_path / "mr").iterdir():
        file.rename(file.with_name(file.name.replace("IM", "CT")))
    before = {file.name: file.read_bytes() for file in (tmp_path / "mr").iterdir()}
    with pytest.raises(MrictError, match="contains files other"):
        write_ct_series(tmp_path / "mr", some_hu(mr.shape), mr, overwrite=True, **BY)
    assert {file.name: file.read_bytes() for file in (tmp_path / "mr").iterdir()} == before


def test_a_place_that_cannot_be_is_named(tmp_path, mr):
    (tmp_path / "file").write_text("")
    with pytest.raises(MrictError, match=r"file/ct: cannot be written \(.+\); free space"):
        write_ct_series(tmp_path / "file" / "ct", some_hu(mr.shape), mr, **BY)


def test_leftovers_of_a_killed_writer_are_not_read(tmp_path, mr):
    write_ct_series(tmp_path / "mr" / ".ct.killed", some_hu(mr.shape), mr, **BY)
    assert read_series(tmp_path / "mr").notes == ("skipped: hidden folder (1)",)


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow beyond 900 bytes: the system refuses the write, as it does on a full disk.

    No fixture: pytest writes its own output, perhaps to a file, before a fixture ends.
    """
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_leaves_what_was_there(tmp_path, mr):
    hu = some_hu(mr.shape)
    folder = write_ct_series(tmp_path / "ct", hu, mr, **BY)
    for name in ("ct", "new"):
        with small_files(), pytest.raises(MrictError, match=r"cannot be written \(File too large\); free space"):
            write_ct_series(tmp_path / name, hu, mr, overwrite=True, **BY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ct", "mr"]
    np.testing.assert_array_equal(read_series(folder, modality="CT").array, np.rint(hu))


@pytest.mark.parametrize("kind", ["series", "identified", "multi-frame", "nifti", "real"])
def test_valid_by_dciodvfy(tmp_path, kind):
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy of dicom3tools is not installed")
    if kind == "multi-frame":
        write_enhanced(tmp_path / "mr", stored(), grid())
    elif kind != "real":
        write_mr_series(tmp_path / "mr", stored(), grid())
    place = PYDICOM / "MR_small.dcm" if kind == "real" else tmp_path / "mr"
    mr = read_series(place, keep_identifiers=kind == "identified")
    volume = Volume(mr.array, mr.affine, tmp_path / "mr.nii") if kind == "nifti" else mr
    hu = some_hu(mr.shape)
    folder = write_ct_series(tmp_path / "ct", hu, volume, keep_identifiers=kind == "identified", **BY)
    for file in folder.iterdir():
        checked = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True)
        said = checked.stdout + checked.stderr
        assert "CTImage" in said
        assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_head_through_dicom_and_back(tmp_path):
    """A whole head: MR as DICOM, its CT written into the study, read back on the MR's own grid."""
    case = sample("brainweb_head/Task1/brain/BW04")
    mr, ct = load_volume(case / "mr.nii.gz"), load_volume(case / "ct.nii.gz")
    affine, shape = mr.affine, mr.shape
    flip = slice(None)
    if np.linalg.det(affine) < 0:  # DICOM's slices are counted along their normal
        flip = slice(None, None, -1)
        affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, shape[2] - 1], [0, 0, 0, 1.0]])
    pixels = np.rint(mr.array[:, :, flip]).clip(0, 65535).astype(np.uint16)
    write_mr_series(tmp_path / "mr", pixels, affine)
    volume = read_series(tmp_path / "mr")
    np.testing.assert_array_equal(volume.array, pixels)
    assert corner_gap_mm(volume.affine, affine, shape) < 1e-3
    hu = ct.array[:, :, flip]
    write_ct_series(tmp_path / "ct", hu, volume, **BY)
    back = read_series(tmp_path / "ct", modality="CT")
    np.testing.assert_array_equal(back.array, np.rint(hu))
    np.testing.assert_array_equal(back.affine, volume.affine)
