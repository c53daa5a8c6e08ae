"""The files of `synthesize` open rightly in 3D Slicer, which reads images through ITK: read here by SimpleITK."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_mr_series
from test_cli import ok
from tiny_models import head_array

from mrict_core.data.images.grids import LPS_TO_RAS, corner_gap_mm

SHAPE, SPACING = (34, 40, 7), (5.0, 5.0, 6.0)


def turned(code: tuple[int, int, int]) -> np.ndarray:
    """Return an oblique affine, voxel -> RAS mm, with its axes near ±R, ±A, ±S."""
    c, s = np.cos(0.15), np.sin(0.15)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(code) * SPACING
    affine[:3, 3] = (80, 90, -20)
    return affine


def itk_affine(image: sitk.Image) -> np.ndarray:
    """Return where ITK, and so Slicer, places the voxels: voxel -> RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


@pytest.fixture(scope="module")
def written(tmp_path_factory, checkpoints) -> Path:
    """A folder of an MR, its synthetic CT and SD as NIfTI and NRRD, and an MR series with its CT series."""
    folder = tmp_path_factory.mktemp("viewers")
    mr = nib.Nifti1Image(head_array(SHAPE, SPACING), turned((1, 1, 1)))
    mr.set_qform(mr.affine, 1)
    mr.set_sform(mr.affine, 1)
    mr.header.set_xyzt_units("mm")
    nib.save(mr, folder / "mr.nii.gz")
    stored = np.rint(head_array(SHAPE, SPACING)).clip(0, 65535).astype(np.uint16)
    write_mr_series(folder / "series", stored, turned((-1, -1, 1)))
    model = ("--model", str(checkpoints / "a.pt"), "--device", "cpu")
    for suffix in ("nii.gz", "nrrd"):
        ct, sd = (str(folder / suffix / f"{name}.{suffix}") for name in ("ct", "sd"))
        ok("synthesize", str(folder / "mr.nii.gz"), "-o", ct, "--uncertainty", sd, *model)
    ok("synthesize", str(folder / "series"), "-o", str(folder / "dicom"), *model)
    return folder


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
@pytest.mark.parametrize(("name", "kind"), [("ct", sitk.sitkInt16), ("sd", sitk.sitkFloat32)])
def test_an_image_lies_on_its_mr_and_holds_hu(name, kind, suffix, written):
    image, mr = sitk.ReadImage(written / suffix / f"{name}.{suffix}"), sitk.ReadImage(written / "mr.nii.gz")
    assert image.GetPixelID() == kind
    assert image.GetSize() == SHAPE
    assert corner_gap_mm(itk_affine(image), itk_affine(mr), SHAPE) < 1e-3
    assert corner_gap_mm(itk_affine(image), turned((1, 1, 1)), SHAPE) < 1e-3
    values = sitk.GetArrayFromImage(image)
    assert np.isfinite(values).all()
    assert values.min() == {"ct": -1024, "sd": 0}[name]
    assert values.max() > values.min()


@pytest.mark.parametrize("name", ["ct", "sd"])
def test_nifti_has_one_orientation_in_mm_and_values_as_stored(name, written):
    image = nib.load(written / "nii.gz" / f"{name}.nii.gz")
    forms = (image.get_qform(coded=True), image.get_sform(coded=True))
    for affine, code in forms:
        assert code == 1
        np.testing.assert_allclose(affine, turned((1, 1, 1)), atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header["scl_slope"] in (1, 0) or np.isnan(image.header["scl_slope"])
    assert b"not for clinical use" in bytes(image.header["descrip"])


@pytest.mark.parametrize("name", ["ct", "sd"])
def test_nrrd_says_its_space(name, written):
    header = (written / "nrrd" / f"{name}.nrrd").read_bytes().split(b"\n\n")[0].decode()
    assert "space: left-posterior-superior" in header
    assert "space directions: (" in header
    assert "note:=" in header


def test_a_dicom_series_is_one_ct_volume_with_presets(written):
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(written / "dicom"))
    image = sitk.ReadImage(names)
    values = sitk.GetArrayFromImage(image)
    assert len(names) == SHAPE[2]
    assert values.min() == -1024
    assert corner_gap_mm(itk_affine(image), turned((-1, -1, 1)), SHAPE) < 1e-3
    slices = [pydicom.dcmread(name) for name in names]
    mr = pydicom.dcmread(next(iter((written / "series").iterdir())))
    for ct in slices:
        assert (ct.Modality, ct.RescaleSlope, ct.RescaleIntercept, ct.RescaleType) == ("CT", 1, -1024, "HU")
        assert list(ct.WindowCenter) == [40, 500]
        assert list(ct.WindowWidth) == [400, 2000]
        assert list(ct.WindowCenterWidthExplanation) == ["SOFT TISSUE", "BONE"]
        assert ct.SeriesDescription.startswith("synthetic CT (MRICT ")
        assert ct.SliceThickness == SPACING[2]
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientPosition", "ImageOrientationPatient"):
            assert ct[keyword].value == mr[keyword].value, keyword
    steps = np.diff([ct.ImagePositionPatient for ct in slices], axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), SPACING[2], atol=1e-3)  # even: no warning in Slicer


def test_a_threshold_in_hu_means_the_same_in_every_file(written):
    image = sitk.GetArrayFromImage(sitk.ReadImage(written / "nii.gz" / "ct.nii.gz"))
    same = sitk.GetArrayFromImage(sitk.ReadImage(written / "nrrd" / "ct.nrrd"))
    middle = float(np.median(image[image > -1024]))
    np.testing.assert_array_equal(image > middle, same > middle)
    assert 0 < (image > middle).mean() < 1
