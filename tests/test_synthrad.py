"""Discovery: layouts, regions, duplicates, and a reason for every patient left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from mrict_core.data import synthrad
from mrict_core.data.synthrad import discover
from mrict_core.errors import MrictError
from mrict_core.paths import ROOT

SHAPE = (5, 6, 4)


def write_patient(folder: Path, shape: tuple[int, ...] = SHAPE, suffix: str = ".nii.gz") -> Path:
    """Write three small files on one grid; discovery reads headers only."""
    folder.mkdir(parents=True, exist_ok=True)
    for role in synthrad.ROLES:
        array = np.random.RandomState(0).randint(0, 2, shape).astype(np.int16)
        path = folder / f"{role}{suffix}"
        if suffix == ".mha":
            sitk.WriteImage(sitk.GetImageFromArray(array.T), str(path))
        else:
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    return folder


@pytest.mark.parametrize("parents", ["Task1/brain", "brain", ""])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
def test_every_layout_and_type_is_found(tmp_path: Path, parents: str, suffix: str) -> None:
    for patient in ("1BB002", "1BA010", "own_patient"):
        write_patient(tmp_path / parents / patient, suffix=suffix)
    found = discover(tmp_path, "brain")
    assert [(p.patient, p.centre) for p in found.patients] == [("1BA010", "A"), ("1BB002", "B"), ("own_patient", "?")]
    assert found.skipped == ()
    first = found.patients[0]
    assert (first.region, first.shape) == ("brain", SHAPE)
    assert first.ct == tmp_path / parents / "1BA010" / f"ct{suffix}"


def test_other_things_beside_patients_are_left_alone(tmp_path: Path) -> None:
    brain = tmp_path / "Task1" / "brain"
    write_patient(brain / "1BA001")
    write_patient(brain / ".hidden")
    (brain / "overview").mkdir()
    (brain / "overview" / "1_brain_train.xlsx").write_bytes(b"sheet")
    (brain / "overview.xlsx").write_bytes(b"sheet")
    found = discover(tmp_path, "brain")
    assert [p.patient for p in found.patients] == ["1BA001"]
    assert found.skipped == ()


def test_regions_are_kept_apart(tmp_path: Path) -> None:
    write_patient(tmp_path / "Task1" / "pelvis" / "1PA001")
    write_patient(tmp_path / "1BA001")
    write_patient(tmp_path / "1PC002")
    assert [p.patient for p in discover(tmp_path, "brain").patients] == ["1BA001"]
    assert [p.patient for p in discover(tmp_path, "pelvis").patients] == ["1PA001", "1PC002"]


@pytest.mark.parametrize(
    ("patient", "centre", "region"),
    [
        ("1BA001", "A", "brain"),
        ("1bc123", "C", "brain"),
        ("1PB004", "B", "pelvis"),
        ("1HNA001", "A", "HN"),
        ("BW04", "?", None),
        ("p1", "?", None),
    ],
)
def test_ids_name_centre_and_region(patient: str, centre: str, region: str | None) -> None:
    assert synthrad.centre_of(patient) == centre
    assert synthrad.region_of(patient) == region


def rewrite(path: Path, shape: tuple[int, ...] = SHAPE, shift_mm: float = 0.0) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[2, 3] = shift_mm
    nib.save(nib.Nifti1Image(np.ones(shape, np.int16), affine), path)


def copy_with_other_suffix(folder: Path) -> None:
    nib.save(nib.load(folder / "mr.nii.gz"), folder / "mr.nii")


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no ct": (lambda p: (p / "ct.nii.gz").unlink(), "ct.nii.gz is missing"),
    "no mr": (lambda p: (p / "mr.nii.gz").unlink(), "mr.nii.gz is missing"),
    "no mask": (lambda p: (p / "mask.nii.gz").unlink(), "mask.nii.gz is missing"),
    "empty folder": (empty, "mr.nii.gz is missing"),
    "two mr": (copy_with_other_suffix, "holds mr.nii and mr.nii.gz; expected one mr file"),
    "damaged header": (lambda p: (p / "ct.nii.gz").write_bytes(b"\x1f\x8b nothing"), "cannot be read"),
    "other shape": (lambda p: rewrite(p / "ct.nii.gz", (5, 6, 3)), "ct has 5×6×3 voxels"),
    "other place": (lambda p: rewrite(p / "mask.nii.gz", shift_mm=0.5), r"0.5 mm \(0.17 of a voxel\) apart"),
    "4-D": (lambda p: rewrite(p / "mr.nii.gz", (5, 6, 4, 3)), "4-D image"),
    "no voxel": (lambda p: rewrite(p / "mr.nii.gz", (5, 0, 4)), "holds no voxel"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_patient_is_listed_not_fatal(tmp_path: Path, case: str) -> None:
    fault, message = FAULTS[case]
    for patient in ("1BA001", "1BA002", "1BA003"):
        write_patient(tmp_path / patient)
    fault(tmp_path / "1BA002")
    found = discover(tmp_path, "brain")
    assert [p.patient for p in found.patients] == ["1BA001", "1BA003"]
    (skip,) = found.skipped
    assert (skip.patient, skip.path) == ("1BA002", str(tmp_path / "1BA002"))
    with pytest.raises(MrictError, match=message) as caught:
        discover(tmp_path, "brain", strict=True)
    assert skip.reason == str(caught.value)
    assert skip.reason.startswith(skip.path)
    assert skip.reason.count(";") >= 1  # cause; expectation; remedy
    assert "\n" not in skip.reason


@pytest.mark.parametrize("second", ["brain/1BA001", "brain/1ba001", "1BA001", "1Ba001"])
def test_an_id_counts_once(tmp_path: Path, second: str) -> None:
    first = write_patient(tmp_path / "Task1" / "brain" / "1BA001")
    again = write_patient(tmp_path / second)
    found = discover(tmp_path, "brain")
    assert [p.mr.parent for p in found.patients] == [first]
    (skip,) = found.skipped
    assert skip.path == str(again)
    assert str(first) in skip.reason
    assert "same id" in skip.reason


def test_one_folder_reached_by_several_layouts_is_no_duplicate(tmp_path: Path) -> None:
    write_patient(tmp_path / "brain" / "1BA001")
    for root in (tmp_path, tmp_path / "brain"):
        found = discover(root, "brain")
        assert [p.patient for p in found.patients] == ["1BA001"]
        assert found.skipped == ()


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "Task1" / "brain").mkdir(parents=True)
    with pytest.raises(MrictError, match="no patient found; looked for Task1/brain/<patient>/"):
        discover(tmp_path, "brain")
    write_patient(tmp_path / "p" / "1PA001")
    with pytest.raises(MrictError, match="of region pelvis, not brain"):
        discover(tmp_path / "p", "brain")
    with pytest.raises(MrictError, match="this is one patient: give the folder above it"):
        discover(tmp_path / "p" / "1PA001", "brain")
    with pytest.raises(MrictError, match="no such folder"):
        discover(tmp_path / "absent", "brain")


def test_the_real_samples_are_found_whole() -> None:
    root = ROOT.parent / "shared" / "samples" / "synthrad_brain_axial"
    if not root.is_dir():
        pytest.skip("sample set synthrad_brain_axial is not beside this repository")
    found = discover(root, "brain")
    assert {c: sum(p.centre == c for p in found.patients) for c in "ABC"} == {"A": 48, "B": 48, "C": 48}
    assert found.skipped == ()
