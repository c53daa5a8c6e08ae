"""`mrict pair` on real files: pairs with a known pose, a second run, its refusals, a full disk, privacy."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import PLANTED
from pair_files import head, moved, pelvis, pose, write_ct_dicom, write_mr_dicom, write_pair
from test_cli import error_of, invoke, ok
from test_synthesize_bad import full_disk

from mrict_core.data.discovery import discover
from mrict_core.data.images.volumes import load_volume, save_nifti
from mrict_core.errors import MrictError
from mrict_core.pairing.itk_grids import Grid, resample
from mrict_core.pipeline.pair import PairSettings, output_grid, pair_scans
from mrict_core.pipeline.pair_folder import make_pair
from mrict_core.pipeline.pair_folders import Found, PairInput
from mrict_core.pipeline.pair_inputs import find_inputs
from mrict_core.pipeline.pair_sides import array_of, as_image, hash_side
from mrict_core.pipeline.pairs import pair_all

FILES = {"mr.nii.gz", "ct.nii.gz", "mask.nii.gz", "pair.json", "transform.tfm"}


def images(patient=None, other=None) -> tuple[sitk.Image, sitk.Image]:
    """Return the MR of a phantom and the CT of it, or of another, in its own pose."""
    patient = patient or head()
    other = other or patient
    return as_image(patient.mr, patient.affine), as_image(other.ct, moved(other.affine, pose()))


def error_mm(matrix: list, patient=None) -> float:
    """Return the mean distance, over the body, between where a transform and the truth put the MR's points."""
    patient = patient or head()
    lps = np.diag([-1, -1, 1, 1]) @ patient.affine
    points = np.c_[np.argwhere(patient.mask)[::37], np.ones(len(np.argwhere(patient.mask)[::37]))] @ lps.T
    truth = np.array([pose().TransformPoint(point[:3].tolist()) for point in points])
    return float(np.linalg.norm((points @ np.array(matrix).T)[:, :3] - truth, axis=1).mean())


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Two good pairs (files, DICOM), a CT of another person, one of another region, and a file that is none."""
    folder = tmp_path_factory.mktemp("scans")
    write_pair(folder / "p1")
    write_mr_dicom(folder / "p2" / "MR")
    write_ct_dicom(folder / "p2" / "CT")
    write_pair(folder / "other_person", head(), head("1BC002", 5))
    write_pair(folder / "other_region", head(), pelvis())
    shutil.copytree(folder / "p1", folder / "damaged")
    (folder / "damaged" / "ct.nii.gz").write_bytes((folder / "p1" / "ct.nii.gz").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def batch(scans, tmp_path_factory):
    """The folder of the pairs, and what the command printed."""
    output = tmp_path_factory.mktemp("pairs") / "out"
    return output, invoke("pair", str(scans), "-o", str(output), "--grid", "mr", "--jobs", "2")


def record_of(output: Path, patient: str) -> dict:
    return json.loads((output / "Task1" / "brain" / patient / "pair.json").read_text())


def test_batch(batch):
    output, result = batch
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1, result.output
    folders = {folder.name for folder in (output / "Task1" / "brain").iterdir()}
    assert {"p1", "p2"} <= folders
    assert "damaged" not in folders
    lines = result.output.splitlines()
    assert any("damaged: failed: " in line and "cut short" in line for line in lines)
    for name in ("other_person", "other_region"):  # no registration makes a pair of them
        assert any(line.startswith(f"{name}: ") for line in lines)
        assert name not in folders or record_of(output, name)["quality"]["verdict"] != "good"
    assert any("paired" in line and "look at it" in line and line.endswith(" failed") for line in lines)
    assert (output / "pairs.html").is_file()
    assert (output / "pairs.csv").is_file()
    assert not [path for path in output.rglob("*") if path.name.startswith(".new-")]


@pytest.mark.parametrize("patient", ["p1", "p2"])
def test_a_good_pair(batch, patient):
    output, _ = batch
    folder = output / "Task1" / "brain" / patient
    assert {path.name for path in folder.iterdir()} == FILES
    record = record_of(output, patient)
    assert record["quality"]["verdict"] != "not a pair"
    assert error_mm(record["transform"]) < 2  # of voxels of 5 x 5 x 7 mm
    mr, ct, mask = (nib.load(folder / f"{name}.nii.gz") for name in ("mr", "ct", "mask"))
    assert {nib.aff2axcodes(image.affine) for image in (mr, ct, mask)} == {("L", "P", "S")}
    assert [image.get_data_dtype() for image in (mr, ct, mask)] == [np.float32, np.int16, np.uint8]
    assert mr.shape == ct.shape == mask.shape
    values = np.asanyarray(ct.dataobj)
    assert (values.min(), values.max()) >= (-1024, 0)
    assert values.max() <= head().ct.max()
    turned = load_volume(folder / "mr.nii.gz").array[::-1, ::-1]
    assert np.array_equal(turned, head().mr)  # the MR's voxels are not resampled


def test_the_suite_takes_the_pairs(batch):
    output, _ = batch
    found = discover(output, "brain")
    assert {"p1", "p2"} <= {patient.patient for patient in found.patients}
    assert not found.skipped


def test_nothing_names_the_person(batch):
    output, result = batch
    texts = [result.output, *(str(path.relative_to(output)) for path in output.rglob("*"))]
    texts += [
        path.read_text(errors="replace") for path in output.rglob("*") if path.suffix in (".json", ".csv", ".html")
    ]
    assert not [one for one in PLANTED if len(one) > 4 and any(one in text for text in texts)]


def test_a_second_run_keeps(batch, scans):
    output, _ = batch
    times = {path: path.stat().st_mtime_ns for path in output.rglob("mr.nii.gz")}
    result = invoke("pair", str(scans), "-o", str(output), "--grid", "mr", "--jobs", "1")
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert f"0 paired, {len(times)} kept" in result.output
    assert {path: path.stat().st_mtime_ns for path in output.rglob("mr.nii.gz")} == times


@pytest.fixture
def one(tmp_path) -> Path:
    """A folder with one patient, p1."""
    write_pair(tmp_path / "scans" / "p1")
    return tmp_path / "scans"


def test_pairs_inside_the_folder_of_their_patient(tmp_path):
    folder = write_pair(tmp_path / "p1")
    how = ("pair", str(folder), "-o", str(folder / "pairs"), "--grid", "mr", "--no-register")
    assert "1 paired, 0 kept" in invoke(*how).output
    again = invoke(*how).output
    assert "0 paired, 1 kept" in again
    assert "left out" not in again


def test_what_is_beside_dicom_is_no_part_of_the_scan(tmp_path):
    folder = write_mr_dicom(tmp_path / "MR")
    before = hash_side(folder)
    save_nifti(folder / "pairs" / "mr.nii.gz", head().mr, head().affine)
    assert hash_side(folder) == before
    next(folder.glob("*.dcm")).unlink()
    assert hash_side(folder) != before


def test_a_record_without_identifiers(one, tmp_path):
    (given,) = find_inputs(one)
    file = given.ct.rename(given.ct.with_name("Müller_ct.nii.gz"))
    given = replace(given, ct=file, centre="name Müller 50")
    settings, hidden = PairSettings(grid="mr", register=False, margin_mm=50.0), frozenset({"Müller", "50", "name"})
    record = make_pair(given, tmp_path / "out", settings, hidden=hidden)
    assert record["inputs"]["ct"]["name"] == "[identifier]_ct.nii.gz"
    assert record["centre"] == "[identifier] [identifier] [identifier]"
    assert record["settings"]["margin_mm"] == 50  # numbers and keys are no text of a user's
    assert "ller_ct" not in (tmp_path / "out" / "Task1" / "brain" / "p1" / "pair.json").read_text()


def test_other_settings_need_overwrite(one, tmp_path):
    output = str(tmp_path / "out")
    write_pose(tmp_path / "pose.txt")
    how = ("pair", str(one), "-o", output, "--transform", str(tmp_path / "pose.txt"))
    ok(*how, "--grid", "mr")
    result = invoke(*how, "--grid", "ct")
    assert "(grid 'mr', now 'ct'); expected this one or none; give another --output, or --overwrite" in result.output
    assert "1 failed" in result.output
    assert record_of(tmp_path / "out", "p1")["settings"]["grid"] == "mr"
    ok(*how, "--grid", "ct", "--overwrite")
    assert record_of(tmp_path / "out", "p1")["settings"]["grid"] == "ct"
    mr = one / "p1" / "mr.nii.gz"
    save_nifti(mr, head().mr + 1, head().affine)
    assert "of other scans" in invoke(*how, "--grid", "ct").output


def write_pose(path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(pose().GetMatrix(), (3, 3))
    matrix[:3, 3] = pose().TransformPoint((0.0, 0.0, 0.0))
    np.savetxt(path, matrix)


def test_a_folder_of_others_is_never_replaced(one, tmp_path):
    folder = tmp_path / "out" / "Task1" / "brain" / "p1"
    folder.mkdir(parents=True)
    (folder / "mr.nii.gz").write_text("mine")
    result = invoke("pair", str(one), "-o", str(tmp_path / "out"), "--no-register", "--overwrite")
    assert "was not made by this command" in result.output
    assert (folder / "mr.nii.gz").read_text() == "mine"


REFUSED = {
    "output is a file": (("-o", "FILE"), "a file; expected a folder"),
    "output is the input": (("-o", "INPUT"), "the folder of the scans"),
    "output is a patient's folder": (("-o", "PATIENT"), "expected no scans; give another --output"),
    "grid": (("-o", "out", "--grid", "1,2"), "grid '1,2': expected mr, ct or three spacings"),
    "fine grid": (("-o", "out", "--grid", "0.01,1,1"), "three spacings of 0.3 to 20 mm"),
    "margin": (("-o", "out", "--margin", "-3"), "margin -3 mm"),
    "deformable without": (("-o", "out", "--deformable", "--no-register"), "contradict"),
    "deformable on the CT": (("-o", "out", "--deformable", "--grid", "ct"), "another --grid"),
    "region": (("-o", "out", "--region", "../x"), "'../x'"),
    "no transform": (("-o", "out", "--transform", "none.tfm"), "no such file"),
    "jobs": (("-o", "out", "--jobs", "0"), "--jobs 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, one, tmp_path):
    arguments, message = REFUSED[name]
    (tmp_path / "file").write_text("x")
    places = {
        "FILE": str(tmp_path / "file"),
        "INPUT": str(one),
        "PATIENT": str(one / "p1"),
        "out": str(tmp_path / "out"),
    }
    assert message in error_of("pair", str(one), *(places.get(argument, argument) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_transform_of_one_pair_only(one, tmp_path):
    shutil.copytree(one / "p1", one / "p2")
    write_pose(tmp_path / "pose.txt")
    message = error_of("pair", str(one), "-o", str(tmp_path / "out"), "--transform", str(tmp_path / "pose.txt"))
    assert "found 2; give a csv with a column transform" in message


# --------------------------------------------------------------------------------------------- grids and values


GRIDS = {  # region, --grid => spacing, and the box of which scan
    "brain": ("brain", "", (1, 1, 1), 0),
    "pelvis": ("pelvis", "", (1, 1, 2.5), 0),
    "knee": ("knee", "", None, 0),
    "mr": ("brain", "mr", None, 0),
    "ct": ("brain", "ct", None, 1),
    "own": ("brain", "2,2,3", (2, 2, 3), 0),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids(name):
    region, asked, spacing, scan = GRIDS[name]
    scans = images()
    grid = output_grid(*scans, PairSettings(region, asked))
    turned = Grid.of(sitk.DICOMOrient(scans[scan], "LPS"))
    assert np.allclose(grid.spacing_mm, spacing or turned.spacing_mm)
    boxes = [np.multiply(one.size, one.spacing_mm) for one in (grid, turned)]
    assert np.abs(boxes[0] - boxes[1]).max() <= max(grid.spacing_mm)
    assert np.diag(np.reshape(grid.direction, (3, 3))).min() > 0.9


@pytest.mark.parametrize("grid", ["mr", "ct"])
def test_the_true_transform_brings_both_together(grid):
    mr, ct = images()
    paired = pair_scans(mr, ct, PairSettings(grid=grid), transform=pose())
    pairs = ((array_of(paired.mr), head().mr), (array_of(paired.ct), head().ct))
    for found, true in pairs:  # each is back where the phantom was
        assert np.abs(np.float32(found)[::-1, ::-1] - true)[2:-2, 2:-2, 2:-2].max() <= 1
    kept, true = pairs[("mr", "ct").index(grid)]
    assert np.array_equal(kept[::-1, ::-1], true)
    assert str(paired.quality.verdict) != "not a pair"


def test_what_the_ct_does_not_cover_is_air_and_not_scored():
    mr, ct = images()
    cut = ct[:, :, : ct.GetSize()[2] // 2]
    paired = pair_scans(mr, cut, PairSettings(grid="mr", margin_mm=10), transform=pose())
    values, mask = array_of(paired.ct), array_of(paired.mask)
    top = values.shape[2] - 3
    assert (values[:, :, top:] == -1024).all()
    assert not mask[:, :, top:].any()
    assert mask.any()
    assert paired.quality.covered < 0.9


def test_a_mask_of_the_user(tmp_path):
    mr, ct = images()
    mine = as_image(head().mask, head().affine)
    of_ct = as_image(head().mask, moved(head().affine, pose()))
    masks = [
        array_of(pair_scans(mr, ct, PairSettings(grid="mr"), mask=one, transform=pose()).mask) for one in (mine, of_ct)
    ]
    for mask in masks:
        truth = head().mask[::-1, ::-1] > 0
        assert (2 * np.count_nonzero(truth & (mask > 0)) / (truth.sum() + mask.sum())) > 0.97


def test_nothing_is_scored_where_the_mr_has_no_data():
    mr, ct = (as_image(array, head().affine) for array in (head().mr, head().ct))
    body, half = as_image(head().mask, head().affine), mr[:, :, mr.GetSize()[2] // 2 :]
    settings = PairSettings(grid="ct", register=False, margin_mm=30)
    for mask in (None, body):
        scored = array_of(pair_scans(half, ct, settings, mask=mask).mask)
        assert not scored[:, :, : mr.GetSize()[2] // 2].any()
        assert scored[:, :, mr.GetSize()[2] // 2 :].any()


def test_metal_smaller_than_a_voxel_of_the_pair_is_found():
    mr, ct = (as_image(array, head().affine) for array in (head().mr, head().ct))
    fine = Grid.of(ct).with_spacing(2.0)
    sharp = resample(sitk.Cast(ct, sitk.sitkInt16), fine)
    middle = [n // 2 for n in sharp.GetSize()]
    sharp[tuple(middle)] = 3071
    place = sharp.TransformIndexToPhysicalPoint(middle)
    steel = pair_scans(mr, sharp, PairSettings(grid="mr", register=False)).metal
    assert steel is not None
    assert steel[steel.TransformPhysicalPointToIndex(place)] == 1


def test_a_transform_leaves_nothing_to_deform():
    with pytest.raises(MrictError, match="--deformable and a transform contradict each other"):
        pair_scans(*images(), PairSettings(deformable=True), transform=pose())


def test_scans_far_apart_need_a_registration():
    mr, ct = images()
    ct.SetOrigin((2000.0, 2000.0, 2000.0))
    with pytest.raises(MrictError, match=r"do not overlap; .*leave out --no-register"):
        pair_scans(mr, ct, PairSettings(grid="mr", register=False))
    paired = pair_scans(mr, ct, PairSettings(grid="mr"))
    assert str(paired.quality.verdict) != "not a pair"


def test_n4_and_clip_are_recorded_and_change_the_mr(one, tmp_path):
    (given,) = find_inputs(one)
    settings = PairSettings(grid="mr", register=False, n4=True, clip=True)
    record = make_pair(given, tmp_path / "out", settings)
    assert (record["settings"]["n4"], record["settings"]["clip"]) == (True, True)
    mr = load_volume(tmp_path / "out" / "Task1" / "brain" / "p1" / "mr.nii.gz").array
    assert mr.max() < head().mr.max()


class Killer(PairInput):
    """A patient whose process ends at once, as if killed by the system."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_process_costs_one_patient(one, tmp_path):
    (given,) = find_inputs(one)
    scans = given.mr, given.ct
    pairs = [PairInput("p1", *scans), Killer("p2", *scans), PairInput("p3", *scans)]
    how = PairSettings(grid="mr", register=False)
    done = pair_all(Found(pairs), tmp_path / "out", how, jobs=2)
    assert [(result.patient, result.status) for result in done.results] == [
        ("p1", "paired"),
        ("p2", "failed"),
        ("p3", "paired"),
    ]
    assert "was killed, often for lack of memory" in done.results[1].reasons[0]


# ---------------------------------------------------------------------------------------- full disk, identifiers


def test_full_disk(one, tmp_path):
    (given,) = find_inputs(one)
    with full_disk(20_000), pytest.raises(MrictError, match=r"cannot be written .*free space"):
        make_pair(given, tmp_path / "out", PairSettings(grid="mr", register=False))
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    assert not (tmp_path / "out" / "Task1" / "brain" / "p1").exists()


def test_a_patient_named_by_an_identifier(tmp_path):
    scans = tmp_path / "scans"
    write_mr_dicom(scans / "Doe_John" / "MR")
    write_ct_dicom(scans / "Doe_John" / "CT")
    save_nifti(scans / "Doe_John" / "more.nii.gz", head().mr, head().affine)
    how = ("pair", str(scans), "-o", str(tmp_path / "out"), "--no-register", "--grid", "mr")
    result = invoke(*how)
    assert "patient 1 of 1: failed: its name is in its DICOM headers" in result.output
    assert "doe" not in result.output.lower()
    assert not (tmp_path / "out" / "Task1").exists()
    ok_or_verdict = invoke(*how, "--keep-identifiers")
    assert "1 paired" in ok_or_verdict.output
    assert (tmp_path / "out" / "Task1" / "brain" / "Doe_John" / "pair.json").is_file()


def test_the_record_holds_no_name_of_a_dicom_folder(tmp_path):
    scans = tmp_path / "scans"
    write_mr_dicom(scans / "Planted General Hospital 20250318", PatientName="Mask^Null")  # words of the record itself
    write_ct_dicom(scans / "CT")
    (scans / "list.csv").write_text("patient,mr,ct\np1,Planted General Hospital 20250318,CT\n")
    output = tmp_path / "my pairs"
    said = ok("pair", str(scans / "list.csv"), "-o", str(output), "--no-register", "--grid", "mr")
    assert f"--data '{output}'" in said  # can be pasted
    record = record_of(output, "p1")
    assert {kind: given["name"] for kind, given in record["inputs"].items()} == {"mr": "DICOM", "ct": "DICOM"}
    assert {"mask_voxels", "quality", "spacing_mm"} <= set(record)


def test_a_transform_for_a_patient_that_is_refused_tells_why(one, tmp_path):
    (one / "p1" / "ct.nii.gz").unlink()
    write_pose(tmp_path / "pose.txt")
    result = invoke("pair", str(one), "-o", str(tmp_path / "out"), "--transform", str(tmp_path / "pose.txt"))
    assert "p1: failed: " in result.output
    assert "no CT" in result.output


def test_messages_hide_what_a_path_says(tmp_path):
    place = tmp_path / "scans" / "DOE"
    write_mr_dicom(place / "MR")
    shutil.copytree(place / "MR", place / "CT")  # an MR in place of the CT
    (tmp_path / "scans" / "list.csv").write_text("patient,mr,ct\np1,DOE/MR,DOE/CT\n")
    result = invoke("pair", str(tmp_path / "scans" / "list.csv"), "-o", str(tmp_path / "out"))
    assert "p1: failed: " in result.output
    assert "no CT series" in result.output
    assert "DOE" not in result.output
