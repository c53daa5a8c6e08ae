"""Discovery: layouts, regions, duplicates, and a reason for every patient left out."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from samples import sample

from mrict_core.data import discovery
from mrict_core.data.discovery import discover
from mrict_core.data.images.volumes import NOTE
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.pipeline import prepare_data

SHAPE = (5, 6, 4)


def write_patient(folder: Path, shape: tuple[int, ...] = SHAPE, suffix: str = ".nii.gz") -> Path:
    """Write three small files on one grid; discovery reads headers only."""
    folder.mkdir(parents=True, exist_ok=True)
    for role in discovery.ROLES:
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
    assert discovery.centre_of(patient) == centre
    assert discovery.region_of(patient) == region


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
    "one level deeper": (
        lambda p: (empty(p), write_patient(p / p.name)),
        "mr.nii.gz is missing; expected mr, ct and mask; move the files up from 1BA002/",
    ),
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
    with pytest.raises(MrictError, match="this is a single patient: give its parent folder"):
        discover(tmp_path / "p" / "1PA001", "brain")
    with pytest.raises(MrictError, match="no such folder"):
        discover(tmp_path / "absent", "brain")


def test_the_real_samples_are_found_whole() -> None:
    found = discover(sample("synthrad_brain_axial"), "brain")
    assert {c: sum(p.centre == c for p in found.patients) for c in "ABC"} == {"A": 48, "B": 48, "C": 48}
    assert found.skipped == ()


# --- everything below the folder is used or listed ------------------------------------------------------------------


def files(*names: str, content: bytes = b"x") -> Callable[[Path], None]:
    """Return what writes files of these names: of what is no patient, discovery reads nothing but names and marks."""

    def write(root: Path) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    return write


def patients(*names: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for name in names:
            write_patient(root / name)

    return write


def output(root: Path) -> None:
    files("p1_sct.nii.gz", "p1_sd.nii.gz", "out/p2_sct.nii.gz", content=gzip.compress(NOTE.encode()))(root)
    files("p1_sct.json", "out/p2_sct.json", content=b'{"what": "synthetic CT, not for clinical use"}')(root)


def loop(root: Path) -> None:
    (root / "again").symlink_to(root)


DICOM = b"\0" * 128 + b"DICM"
SURVEYS: dict[str, tuple[Callable[[Path], None], list[tuple[str, str, str]]]] = {
    "nothing else": (lambda root: None, []),
    "hidden": (files(".DS_Store/mr.nii", "lost+found/mr.nii", "__MACOSX/1BA001/mr.nii", "1BA001/._mr.nii.gz"), []),
    "a link to itself": (loop, []),
    "one level deeper": (
        patients("batch/1BA002", "batch/p3"),
        [
            ("not recognised", f"batch/{p}", "a patient deeper than the search; give --data {root}/batch")
            for p in ("1BA002", "p3")
        ],
    ),
    "a data set in a folder": (
        patients("zip/Task1/brain/1BA002"),
        [("not recognised", "zip/Task1/brain/1BA002", "give --data {root}/zip, or move it")],
    ),
    "a folder of the region in a folder": (
        patients("zip/brain/1BA002"),
        [("not recognised", "zip/brain/1BA002", "give --data {root}/zip, or move it")],
    ),
    "names not recognised": (
        files("p2/T1w.nii.gz", "p2/CT_reg.mha"),
        [("not recognised", "p2", "none of its images is named mr, ct or mask (first p2/CT_reg.mha)")],
    ),
    "names not recognised, deeper": (
        files("p2/anat/T1w.nii.gz"),
        [("not recognised", "p2", "named mr, ct or mask (first p2/anat/T1w.nii.gz)")],
    ),
    "right names, deeper": (files("p2/anat/mr.nii.gz"), [("not recognised", "p2/anat", "deeper than the search")]),
    "loose images": (
        files("p4_mr.nii.gz", "p4_ct.nrrd"),
        [("not recognised", f"p4_{role}", "an image outside a patient's folder") for role in ("ct.nrrd", "mr.nii.gz")],
    ),
    "DICOM by ending": (files("p5/1.dcm", "p5/2.dcm"), [("not recognised", "p5", "DICOM (p5/1.dcm) is not read here")]),
    "DICOM by content": (
        files("p6/mr/IM0001", "p6/ct/1.2.840.5", content=DICOM),
        [("not recognised", "p6", "DICOM (p6/ct/1.2.840.5) is not read here")],
    ),
    "Analyze": (
        files("p7/mr.hdr", "p7/mr.img"),
        [("not recognised", "p7", "p7/mr.hdr has an unsupported type; convert it")],
    ),
    "BIDS": (
        files("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"),
        [("not recognised", "sub-01", "BIDS (sub-01_ses-1_T1w.nii.gz) is not read")],
    ),
    "another region": (
        patients("Task1/pelvis/1PA001", "1PB002", "pelvis/own"),
        [
            ("of another region or task", p, "not of Task1, brain")
            for p in ("1PB002", "Task1/pelvis/1PA001", "pelvis/own")
        ],
    ),
    "another task": (patients("Task2/brain/2BA001"), [("of another region or task", "Task2/brain/2BA001", "not of")]),
    "images beside": (
        files("1BA001/T2.nii.gz", "1BA001/old/ct.nii.gz"),
        [
            ("beside", f"1BA001/{p}", "not used: only mr, ct and mask of 1BA001 are")
            for p in ("T2.nii.gz", "old/ct.nii.gz")
        ],
    ),
    "earlier outputs": (
        output,
        [("made by this suite", p, "a synthetic CT") for p in ("out/p2_sct.nii.gz", "p1_sct.nii.gz", "p1_sd.nii.gz")]
        + [("without an image", p, "not an image") for p in ("out/p2_sct.json", "p1_sct.json")],
    ),
    "other files": (
        files("list.xlsx", "overview/1BA001.png", "1BA001/note.txt"),
        [("without an image", p, "not an image") for p in ("1BA001/note.txt", "list.xlsx", "overview/1BA001.png")],
    ),
    "an empty folder": (lambda root: (root / "p8").mkdir(), [("without an image", "p8", "an empty folder")]),
}


def test_all_unusable_is_said_patient_by_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRICT_DATA", str(tmp_path / "data"))
    for patient in ("1BA001", "1BA002", "p3"):
        (write_patient(tmp_path / "in" / patient) / "ct.nii.gz").unlink()
    for strict in (False, True):
        with pytest.raises(MrictError) as caught:
            prepare_data("demo", str(tmp_path / "in"), strict=strict)
        named = [
            patient for patient in ("1BA001", "1BA002", "p3") if f"{patient}: ct.nii.gz is missing" in str(caught.value)
        ]
        assert named == (["1BA001"] if strict else ["1BA001", "1BA002", "p3"])
        assert strict or "none of its 3 patients can be used" in str(caught.value)


@pytest.mark.parametrize("case", SURVEYS)
def test_what_is_no_patient_is_listed(tmp_path: Path, case: str) -> None:
    make, expected = SURVEYS[case]
    write_patient(tmp_path / "1BA001")
    make(tmp_path)
    found = discover(tmp_path, "brain")
    assert ([p.patient for p in found.patients], found.skipped) == (["1BA001"], ())
    assert [(a.kind.split(" a p")[0], a.path) for a in found.aside] == [(k, str(tmp_path / p)) for k, p, _ in expected]
    for aside, (_, path, reason) in zip(found.aside, expected, strict=True):
        assert aside.reason.startswith(f"{tmp_path / path}: ")
        assert reason.replace("{root}", str(tmp_path)) in aside.reason


def test_what_is_skipped_is_counted_once(tmp_path: Path) -> None:
    write_patient(tmp_path / "1BA001")
    (tmp_path / "1BA002").mkdir()
    (tmp_path / "1BA003").symlink_to("nowhere")
    found = discover(tmp_path, "brain")
    assert [skip.patient for skip in found.skipped] == ["1BA002", "1BA003"]
    assert found.aside == ()


def test_the_suites_own_folders_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRICT_DATA", str(tmp_path))
    write_patient(tmp_path / "Task1" / "brain" / "1BA001")
    write_patient(tmp_path / "phantom" / "demo" / "Task1" / "brain" / "1BA001")
    (tmp_path / "stores" / "run").mkdir(parents=True)
    found = discover(tmp_path, "brain")
    assert [(a.kind, Path(a.path).name) for a in found.aside] == [
        ("made by this suite", "phantom"),
        ("made by this suite", "stores"),
    ]
    phantoms = discover(tmp_path / "phantom" / "demo", "brain")
    assert (len(phantoms.patients), phantoms.aside) == (1, ())


def test_where_nothing_is_found_all_that_is_there_is_named(tmp_path: Path) -> None:
    write_patient(tmp_path / "a" / "b" / "1BA001")
    files("p2/T1w.nii.gz")(tmp_path)
    with pytest.raises(
        MrictError, match=r"no patient found.*; 2 not recognised: .*1BA001: a patient deeper.* \| .*p2: no"
    ):
        discover(tmp_path, "brain")


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_disk_that_goes_away_while_it_is_searched_skips_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    for patient in ("1BA001", "1BA002", "own"):
        write_patient(tmp_path / "in" / patient)
    real, calls = discovery._role_files, []

    def unmounting(folder: Path, *wanted: object) -> dict[str, list[Path]]:
        calls.append(folder)
        if len(calls) == moment:
            (tmp_path / "in").rename(tmp_path / "away")
            (tmp_path / "in").mkdir()
        return real(folder, *wanted)

    monkeypatch.setattr(discovery, "_role_files", unmounting)
    with pytest.raises(UnavailableError, match=r"cannot be read|was listed and is gone"):
        discover(tmp_path / "in", "brain")
