"""The synthesize command on DICOM: a series in, a series or an image out, identifiers nowhere unless asked for."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import IDENTIFIERS, new_uids, write_mr_series
from samples import sample
from test_cli import invoke, ok
from test_dicom_privacy import content_of, found_in
from tiny_models import head_array, untrained_checkpoint, write_head

from mrict_core.data.dicom import list_series, read_series
from mrict_core.data.images.grids import corner_gap_mm
from mrict_core.data.images.resample import itk_image
from mrict_core.data.images.volumes import Volume, load_volume

SHAPE, SPACING = (34, 40, 7), (5.0, 5.0, 6.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(untrained_checkpoint(tmp_path_factory.mktemp("models") / "a.pt"))


@pytest.fixture
def series(tmp_path):
    c, s = np.cos(0.15), np.sin(0.15)
    axes = np.array([[-c, s, 0], [-s, -c, 0], [0, 0, 1]]) * SPACING
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, (80, 90, -20)
    write_mr_series(tmp_path / "mr", np.rint(head_array(SHAPE, SPACING)).clip(0, 65535).astype(np.uint16), affine)
    return tmp_path / "mr"


def run(*arguments: object) -> str:
    return ok("synthesize", *map(str, arguments), "--device", "cpu")


def test_a_series_becomes_a_series_of_its_study_on_its_grid(series, tmp_path, model):
    text = run(series, "-o", tmp_path / "ct", "--model", model, "--qa", tmp_path / "qa.html")
    assert (tmp_path / "ct.json").is_file()
    run(series, "-o", tmp_path / "image.nii.gz", "--model", model)
    mr, back, image = (
        read_series(series),
        read_series(tmp_path / "ct", modality="CT"),
        load_volume(tmp_path / "image.nii.gz"),
    )
    np.testing.assert_array_equal(back.affine, mr.affine)
    np.testing.assert_array_equal(back.array, image.array)
    assert corner_gap_mm(image.affine, mr.affine, mr.shape) < 1e-3
    assert back.array.min() == -1024 < back.array.max()
    assert back.source.study_uid == mr.source.study_uid
    assert back.source.frame_of_reference_uid == mr.source.frame_of_reference_uid
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "ct"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(names)), itk_array(back))
    assert found_in(text) == []
    for written in (tmp_path / "ct", tmp_path / "image.nii.gz", tmp_path / "qa.html", tmp_path / "ct.json"):
        content = content_of(written) if written.is_dir() else written.read_bytes()
        assert found_in(content) == [], written.name


def itk_array(volume: Volume) -> np.ndarray:
    """Return the voxels as SimpleITK reads them: slices along the normal of rows and columns."""
    image = sitk.DICOMOrient(itk_image(volume), "LPS")
    return sitk.GetArrayFromImage(image)


def test_identifiers_are_written_only_when_asked_for(series, tmp_path, model):
    run(series, "-o", tmp_path / "plain", "--model", model)
    run(series, "-o", tmp_path / "named", "--model", model, "--keep-identifiers")
    names = {
        folder: str(pydicom.dcmread(next((tmp_path / folder).iterdir())).PatientName) for folder in ("plain", "named")
    }
    assert names == {"plain": "ANONYMOUS^MRICT", "named": IDENTIFIERS["PatientName"]}


@pytest.mark.parametrize("code", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_a_nifti_becomes_a_series_and_comes_back(code, tmp_path, model):
    affine = np.diag([*(c * s for c, s in zip(code, SPACING, strict=True)), 1.0])
    source = write_head(tmp_path / "mr.nii.gz", SHAPE, affine)
    run(source, "-o", tmp_path / "image.nii.gz", "--model", model)
    run(source, "-o", tmp_path / "ct", "--model", model)
    image, back = load_volume(tmp_path / "image.nii.gz"), read_series(tmp_path / "ct", modality="CT")
    assert np.unique(back.array).size > 2
    for axes in (image, back):  # DICOM may count an axis the other way: voxel by voxel in one orientation
        assert sorted(np.round(np.linalg.norm(axes.affine[:3, :3], axis=0), 4)) == sorted(SPACING)
    one, other = (nib.as_closest_canonical(nib.Nifti1Image(v.array, v.affine)) for v in (image, back))
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


def test_folders_of_series_are_many_cases(series, tmp_path, model):
    study = tmp_path / "study"
    study.mkdir()
    series.rename(study / "case_1")
    text = run(study, "-o", tmp_path / "out", "--model", model)
    assert "1 written" in text
    assert (tmp_path / "out" / "case_1_sct.nii.gz").is_file()
    assert "1 kept" in run(study, "-o", tmp_path / "out", "--model", model)


def test_one_of_several_series_is_chosen_by_name(series, tmp_path, model):
    write_mr_series(series, np.full((20, 20, 3), 500, np.uint16), np.diag([-5.0, -5.0, 5.0, 1.0]), prefix="OTHER")
    result = invoke("synthesize", str(series), "-o", str(tmp_path / "ct"), "--model", model)
    assert result.exit_code != 0
    wanted = next(found for found in list_series(series) if found.images == SHAPE[2])
    run(series, "-o", tmp_path / "ct", "--model", model, "--series", wanted.name)
    assert read_series(tmp_path / "ct", modality="CT").shape == SHAPE


def test_one_echo_of_a_series_is_chosen_by_the_text_of_the_error(tmp_path, model):
    head = np.rint(head_array(SHAPE, SPACING)).clip(0, 65535).astype(np.uint16)
    affine, uids = np.diag([-5.0, -5.0, 6.0, 1.0]), new_uids()
    for echo in (12, 100):
        write_mr_series(tmp_path / "mr", head // (1 + echo // 50), affine, uids=uids, prefix=f"E{echo}_", EchoTime=echo)
    result = invoke("synthesize", str(tmp_path / "mr"), "-o", str(tmp_path / "ct.nii"), "--model", model)
    typed = re.findall(r"--series \S+", str(result.exception))
    assert len(typed) == 2
    text = run(tmp_path / "mr", "-o", tmp_path / "ct.nii", "--model", model, *typed[0].split())
    assert re.search(rf"note: read: EchoTime=\d+, {SHAPE[2]} of the {2 * SHAPE[2]} images of its series", text)
    assert load_volume(tmp_path / "ct.nii").shape == SHAPE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mr", "-o", "full"), "exists already"),
        (("mr", "-o", "full", "--overwrite"), "contains files other"),
        (("mr.nii", "-o", "ct", "--keep-identifiers"), "keep"),
        (("mr.nii", "-o", "ct", "--series", "x"), "not DICOM"),
        (("mr", "-o", "mr", "--overwrite"), "same file|same"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(arguments, message, series, tmp_path, model, monkeypatch):
    write_head(tmp_path / "mr.nii")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("of the user")
    before = content_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = invoke("synthesize", *arguments, "--model", model, "--device", "cpu")
    assert result.exit_code != 0
    assert message.split("|")[0] in str(result.exception) or message.split("|")[-1] in str(result.exception)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize(("data", "patient"), [("brainweb_head", "brain/BW04"), ("pelvis_bulk", "pelvis/P3")])
def test_samples_through_nifti_and_dicom(data, patient, tmp_path, model):
    mr_file = sample(f"{data}/Task1/{patient}") / "mr.nii.gz"
    run(mr_file, "-o", tmp_path / "image.nii.gz", "--model", model)
    run(mr_file, "-o", tmp_path / "ct", "--model", model)
    mr, image, back = (
        load_volume(mr_file),
        load_volume(tmp_path / "image.nii.gz"),
        read_series(tmp_path / "ct", modality="CT"),
    )
    assert image.shape == mr.shape
    np.testing.assert_array_equal(image.affine, mr.affine)
    one, other = (nib.as_closest_canonical(nib.Nifti1Image(v.array, v.affine)) for v in (image, back))
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
