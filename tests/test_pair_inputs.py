"""What `pair` finds in a folder, a BIDS tree or a csv, and what it refuses to read."""

from __future__ import annotations

import re
import shutil
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import PLANTED, position, retag
from pair_files import head, moved, pose, write_ct_dicom, write_mr_dicom, write_pair

from mrict_core.data.dicom import list_series
from mrict_core.data.images.volumes import NOTE, save_nifti
from mrict_core.errors import MrictError
from mrict_core.pipeline.pair_inputs import find_all, find_inputs, read_side
from mrict_core.pipeline.pair_sides import identifiers_of, kind_named, names_someone, redacted


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """One patient's scans, as files and as DICOM, to be copied: mr.nii.gz, ct.nii.gz, MR/, CT/."""
    folder = tmp_path_factory.mktemp("scans")
    write_pair(folder)
    write_mr_dicom(folder / "MR")
    write_ct_dicom(folder / "CT")
    return folder


def put(source: Path, target: Path) -> Path:
    """Copy a file or folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    return target


NAMES = {
    "mr": "mr",
    "MRI": "mr",
    "1BA001_mr": "mr",
    "T1w": "mr",
    "sub-01_T1w": "mr",
    "t2_tse": "mr",
    "head-flair": "mr",
    "mprage": "mr",
    "ct": "ct",
    "CT": "ct",
    "pCT": "ct",
    "planning-ct 2": "ct",
    "ctv": "",
    "sct": "",
    "cbct": "",
    "mrt": "",
    "ct_on_mr": "",
    "act": "",
    "": "",
}


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_kinds_by_name(name, kind):
    assert kind_named(name) == kind


# layout: patient's files => what is found for the patient p1
LAYOUTS = {
    "plain": ({"p1/mr.nii.gz": "mr", "p1/ct.nii.gz": "ct"}, "p1/mr.nii.gz", "p1/ct.nii.gz"),
    "named": ({"p1/p1_T1.nii.gz": "mr", "p1/p1-CT.nii.gz": "ct"}, "p1/p1_T1.nii.gz", "p1/p1-CT.nii.gz"),
    "folders": ({"p1/MR/a.nii.gz": "mr", "p1/CT/b.nii.gz": "ct"}, "p1/MR/a.nii.gz", "p1/CT/b.nii.gz"),
    "flat": ({"p1_mr.nii.gz": "mr", "p1_ct.nii.gz": "ct"}, "p1_mr.nii.gz", "p1_ct.nii.gz"),
    "named like a CT": (
        {"ct1/ct1_mr.nii.gz": "mr", "ct1/ct1_ct.nii.gz": "ct"},
        "ct1/ct1_mr.nii.gz",
        "ct1/ct1_ct.nii.gz",
    ),
    "DICOM": ({"p1/x": "MR", "p1/y": "CT"}, "p1/x", "p1/y"),
    "DICOM and file": ({"p1/x": "MR", "p1/ct.nii.gz": "ct"}, "p1/x", "p1/ct.nii.gz"),
    "BIDS": (
        {"sub-01/anat/sub-01_T1w.nii.gz": "mr", "sub-01/ct/sub-01_ct.nii.gz": "ct"},
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/ct/sub-01_ct.nii.gz",
    ),
    "exact names first": (
        {"p1/mr.nii.gz": "mr", "p1/ct.nii.gz": "ct", "p1/ct_2.nii.gz": "ct"},
        "p1/mr.nii.gz",
        "p1/ct.nii.gz",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, scans, tmp_path):
    files, mr, ct = LAYOUTS[name]
    for target, kind in files.items():
        put(scans / (f"{kind}.nii.gz" if kind.islower() else kind), tmp_path / target)
    (found,) = find_inputs(tmp_path)
    assert (found.mr, found.ct) == (tmp_path / mr, tmp_path / ct)
    assert found.patient == {"BIDS": "sub-01", "named like a CT": "ct1"}.get(name, "p1")
    assert bool(find_all(tmp_path).left_out) == (name == "exact names first")
    sides = [read_side(found.mr, "mr", found.mr_series), read_side(found.ct, "ct", found.ct_series)]
    assert [side.GetPixelID() for side in sides] == [sitk.sitkFloat32, sitk.sitkInt16]


def test_one_folder_with_all_files_of_both(scans, tmp_path):
    for kind in ("MR", "CT"):
        for file in (scans / kind).iterdir():
            put(file, tmp_path / "p1" / f"{kind}{file.name}")
    (found,) = find_inputs(tmp_path)
    assert found.mr == found.ct == tmp_path / "p1"
    assert read_side(found.ct, "ct", found.ct_series).GetPixelID() == sitk.sitkInt16


def test_one_patient_alone(scans, tmp_path):
    for kind in ("MR", "CT"):
        put(scans / kind, tmp_path / "p7" / kind)
    assert [found.patient for found in find_inputs(tmp_path / "p7")] == ["p7"]


def test_sessions_of_bids(scans, tmp_path):
    for session in ("1", "2"):
        for place, end, kind in (("anat", "T1w", "mr"), ("ct", "ct", "ct")):
            name = f"sub-01_ses-{session}_{end}.nii.gz"
            put(scans / f"{kind}.nii.gz", tmp_path / "sub-01" / f"ses-{session}" / place / name)
    put(scans / "mr.nii.gz", tmp_path / "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz")
    put(scans / "mr.nii.gz", tmp_path / "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz")
    put(scans / "ct.nii.gz", tmp_path / "sub-02/ses-2/ct/sub-02_ses-2_ct.nii.gz")
    for run in ("1", "2"):
        put(scans / "mr.nii.gz", tmp_path / f"sub-03/anat/sub-03_run-{run}_T1w.nii.gz")
    put(scans / "ct.nii.gz", tmp_path / "sub-03/ct/sub-03_ct.nii.gz")
    found = find_all(tmp_path)
    assert [pair.patient for pair in found.pairs] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert ["T2w" in line for line in found.left_out] == [True]
    assert "MR in ses-1, CT in ses-2" in found.failed["sub-02"][0]
    reason = found.failed["sub-03"][0]
    assert all(text in reason for text in ("sub-03_run-1_T1w", "sub-03_run-2_T1w", "in a csv"))


def test_two_candidates_are_both_named(scans, tmp_path):
    put(scans / "mr.nii.gz", tmp_path / "p1" / "t1_a.nii.gz")
    put(scans / "mr.nii.gz", tmp_path / "p1" / "t1_b.nii.gz")
    put(scans / "ct.nii.gz", tmp_path / "p1" / "ct.nii.gz")
    with pytest.raises(MrictError, match=r"2 that may be the MR: .*t1_a.*t1_b.*expected one.*csv"):
        find_inputs(tmp_path)


def test_csv(scans, tmp_path):
    put(scans / "mr.nii.gz", tmp_path / "a" / "x.nii.gz")
    put(scans / "ct.nii.gz", tmp_path / "a" / "y.nii.gz")
    lines = ["patient;mr;ct;centre", "p1;a/x.nii.gz;a/y.nii.gz;A", "p2;a/x.nii.gz;none.nii.gz;", "p3;a/x.nii.gz;;"]
    lines += ["p/4;a/x.nii.gz;a/y.nii.gz;", "p5;a/x.nii.gz;a/y.nii.gz;", "P5;a/x.nii.gz;a/y.nii.gz;"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    found = find_all(tmp_path / "list.csv")
    assert [(pair.patient, pair.centre, pair.mr.name) for pair in found.pairs] == [("p1", "A", "x.nii.gz")]
    reasons = {patient: reason for patient, (reason, _) in found.failed.items()}
    assert re.search("line 3.*none.nii.gz", reasons["p2"])
    assert "no ct" in reasons["p3"]
    assert "folder" in reasons["p/4"]
    assert "2 pairs of one name" in reasons["P5"]


CSV_LINES = {  # rows of the patients p1, whose scans are there, and others => what is said of one
    "repeated, one without its file": (["p1,MR,CT", "p1,MR,none.nii.gz"], "lines 2, 3: 2 pairs of one name"),
    "repeated, none with its file": (["p1,MR,no.nii.gz", "p1,MR,none.nii.gz"], "lines 2, 3: 2 pairs of one name"),
    "unknown user": (["p1,~nobody-here/mr.nii.gz,CT"], "line 2: .*nobody-here.* not found"),
    "null byte": (["p1,a\0b,CT"], r"line 2: .*a\\x00b not found"),
    "too long": ([f"p1,{'x' * 5000},CT"], "line 2: .*xxx not found"),
}


@pytest.mark.parametrize("name", CSV_LINES)
def test_bad_rows_of_a_csv(name, scans, tmp_path):
    rows, message = CSV_LINES[name]
    places = {"MR": str(scans / "mr.nii.gz"), "CT": str(scans / "ct.nii.gz")}
    rows = [",".join(places.get(cell, cell) for cell in row.split(",")) for row in rows]
    (tmp_path / "list.csv").write_text("\n".join(["patient,mr,ct", *rows]))
    found = find_all(tmp_path / "list.csv")
    assert not found.pairs
    assert re.search(message, found.failed["p1"][0])
    assert len(found.failed["p1"][0]) < 700


def test_a_misspelt_column_of_a_csv_is_named(scans, tmp_path):
    row = f"p1,{scans / 'mr.nii.gz'},{scans / 'ct.nii.gz'},A"
    (tmp_path / "list.csv").write_text(f"patient,mr,ct,center\n{row}\n")
    found = find_all(tmp_path / "list.csv")
    assert len(found.pairs) == 1
    (line,) = found.left_out
    assert "the column center, not one of mask, centre" in line


def test_a_name_that_macos_wrote(scans, tmp_path):
    for kind in ("mr", "ct"):
        put(scans / f"{kind}.nii.gz", tmp_path / unicodedata.normalize("NFD", "Möhre") / f"{kind}.nii.gz")
    assert [found.patient for found in find_inputs(tmp_path)] == ["Möhre"]


def test_one_subject_of_bids(scans, tmp_path):
    for session in ("1", "2"):
        for place, end, kind in (("anat", "T1w", "mr"), ("ct", "ct", "ct")):
            name = f"sub-01_ses-{session}_{end}.nii.gz"
            put(scans / f"{kind}.nii.gz", tmp_path / "sub-01" / f"ses-{session}" / place / name)
    assert [found.patient for found in find_inputs(tmp_path / "sub-01")] == ["sub-01_ses-1", "sub-01_ses-2"]


def test_pairs_that_were_made_here_are_no_scans(scans, tmp_path):
    for place in ("p1", "old_pairs/Task1/brain/p1"):
        for kind in ("mr", "ct"):
            put(scans / f"{kind}.nii.gz", tmp_path / place / f"{kind}.nii.gz")
    (tmp_path / "old_pairs/Task1/brain/p1/pair.json").write_text("{}")
    found = find_all(tmp_path)
    assert [pair.patient for pair in found.pairs] == ["p1"]
    assert ["old_pairs: pairs that were made here" in line for line in found.left_out] == [True]
    with pytest.raises(MrictError, match="holds pairs that were made here; expected scans"):
        find_all(tmp_path / "old_pairs")


def test_linked_folders_of_a_patient_are_named(scans, tmp_path):
    put(scans / "mr.nii.gz", tmp_path / "p1" / "mr.nii.gz")
    (tmp_path / "p1" / "CT").symlink_to(scans / "CT")
    found = find_all(tmp_path)
    assert "no CT" in found.failed["p1"][0]
    assert ["CT: a link to a folder" in line for line in found.left_out] == [True]


NO_INPUT = {
    "missing": (lambda p: p / "none", "no such file or folder"),
    "empty": (lambda p: p, "no pair found; expected a folder for each patient"),
    "one file": (lambda p: save_nifti(p / "mr.nii.gz", head().mr, head().affine), "one file"),
}


@pytest.mark.parametrize("name", NO_INPUT)
def test_no_input(name, tmp_path):
    make, message = NO_INPUT[name]
    with pytest.raises(MrictError, match=message):
        find_all(make(tmp_path))


def test_no_ct_among_the_series(scans, tmp_path):
    put(scans / "MR", tmp_path / "p1" / "x")
    with pytest.raises(MrictError, match=r"1 DICOM series and no CT among them: \w+ \(MR, 28 images\); expected one"):
        find_inputs(tmp_path)


# ---------------------------------------------------------------------------------------------- reading a side


def nifti(folder: Path, array: np.ndarray, affine=None) -> Path:
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, head().affine if affine is None else affine), path)
    return path


def sheared() -> np.ndarray:
    affine = head().affine.copy()
    affine[1, 2] += 1.0
    return affine


def ct_with(value: float, place) -> np.ndarray:
    array = head().ct.astype(np.float32)
    array[place] = value
    return array


def gap(folder: Path) -> Path:
    write_ct_dicom(folder / "CT")
    files = {file.name: file for file in (folder / "CT").iterdir()}
    for name in sorted(files)[:2]:
        files[name].unlink()
    return folder / "CT"


def phases(folder: Path) -> Path:
    write_mr_dicom(folder / "MR", EchoTime=lambda k: 5.0)
    write_mr_dicom(folder / "later", EchoTime=lambda k: 9.0, prefix="B")
    uid = list_series(folder / "MR")[0].uid
    for file in (folder / "later").iterdir():
        retag(file, SeriesInstanceUID=uid)
        file.rename(folder / "MR" / file.name)
    return folder / "MR"


def tilted(folder: Path) -> Path:
    affine = moved(head().affine, pose((0, 0, 0), (0, 0, 0)))
    affine[1, 2] += 1.5
    straight = [position(affine, k) for k in range(head().ct.shape[2])]
    return write_ct_dicom(folder / "CT", ImagePositionPatient=lambda k: straight[k])


def made_by_the_suite(folder: Path) -> Path:
    image = nib.Nifti1Image(head().ct, head().affine)
    image.header["descrip"] = NOTE[:79].encode()
    nib.save(image, folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


REFUSED = {
    "MR as CT": ("ct", lambda p: nifti(p, head().mr), "expected HU"),
    "CT as MR": ("mr", lambda p: nifti(p, head().ct), "holds the values of a CT"),
    "4-D": ("mr", lambda p: nifti(p, np.stack([head().mr] * 2, -1)), "4-D"),
    "one slice": ("mr", lambda p: nifti(p, head().mr[:, :, :1]), "expected at least 4 along each axis"),
    "NaN inside": ("ct", lambda p: nifti(p, ct_with(np.nan, (20, 20, 14))), "NaN or infinite"),
    "constant": ("mr", lambda p: nifti(p, np.ones((9, 9, 9), np.float32)), "constant value 1"),
    "sheared": ("ct", lambda p: nifti(p, head().ct, sheared()), "not at right angles"),
    "cut short": ("ct", lambda p: cut(nifti(p, head().ct)), "cut short"),
    "gaps": ("ct", gap, "slices are missing|uneven slices"),
    "gantry tilt": ("ct", tilted, "tilted gantry"),
    "phases": ("mr", phases, "EchoTime"),
    "localizer": (
        "mr",
        lambda p: write_mr_dicom(p / "MR", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "localizer",
    ),
    "CT series as MR": ("mr", lambda p: write_ct_dicom(p / "CT"), "no MR series"),
    "made here": ("ct", made_by_the_suite, "of this suite"),
    "mask with levels": ("mask", lambda p: nifti(p, head().labels), "different values; expected a mask"),
    "not an image": ("mr", lambda p: text(p / "scan.mha"), "scan.mha"),
}


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def text(path: Path) -> Path:
    path.write_text("nothing")
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    kind, make, message = REFUSED[name]
    with pytest.raises(MrictError, match=message) as caught:
        read_side(make(tmp_path), kind)
    assert not re.search("\n|--series", str(caught.value))


def test_several_series_point_to_the_csv(scans, tmp_path):
    put(scans / "MR", tmp_path / "x" / "a")
    write_mr_dicom(tmp_path / "x" / "b")
    with pytest.raises(MrictError, match="2 series; expected one; choose one in a csv, in its column mr_series"):
        read_side(tmp_path / "x", "mr")


READ = {
    "oblique": lambda p: nifti(p, head().mr, moved(head().affine, pose())),
    "NaN at the border": lambda p: nifti(
        p, np.where(np.arange(head().mr.shape[0])[:, None, None] < 2, np.nan, head().mr)
    ),
}


@pytest.mark.parametrize("name", READ)
def test_read(name, tmp_path):
    image = read_side(READ[name](tmp_path), "mr")
    assert image.GetSize() == head().mr.shape
    assert ("NaN" in image.GetMetaData("notes")) == (name == "NaN at the border")


def test_padding_below_air_is_air(tmp_path):
    ct = ct_with(-3024, (slice(0, 3), slice(0, 3), slice(None)))
    image = read_side(nifti(tmp_path, ct), "ct")
    assert sitk.GetArrayFromImage(image).min() == -1024


def test_points_stay_where_they_are(scans, tmp_path):
    """The file, the DICOM series and ITK agree on where a voxel is."""
    file = put(scans / "ct.nii.gz", tmp_path / "ct.nii.gz")
    images = read_side(file, "ct"), read_side(scans / "CT", "ct"), sitk.ReadImage(str(file))
    for image in images[:2]:
        here, there = (np.array(i.TransformIndexToPhysicalPoint((5, 30, 20))) for i in (image, images[2]))
        assert np.abs(here - there).max() < 1e-2


# ---------------------------------------------------------------------------------------------------- privacy


def test_identifiers(scans, tmp_path):
    found = identifiers_of([scans / "MR", scans / "mr.nii.gz"])
    assert {"DOE", "JOHN", "HOSP-778899"} <= found
    for name, someone in (
        ("doe_john", True),
        ("HOSP778899", True),
        ("p1_Doe", True),
        ("p1", False),
        ("doeling", False),
    ):
        assert names_someone(name, found) == someone
    assert not [one for one in PLANTED if one in redacted("x/DOE^JOHN/HOSP-778899 does", found) and one in found]
    assert redacted("it does", found) == "it does"
    assert names_someone("MR 2025-03-17", found)  # the date of the study
    assert "03" not in redacted("a/2025-03-17/20250318/CT", found)
    apart = unicodedata.normalize("NFD", "Müller_1")
    assert names_someone(apart, {"Müller"})
    assert names_someone("Ким_2", {"Ким"})
    assert not names_someone("Кимберли", {"Ким"})
    assert redacted(f"{apart}/ct", {"Müller"}) == "[identifier]_1/ct"
    clean = write_mr_dicom(tmp_path / "clean", PatientIdentityRemoved="YES")
    assert identifiers_of([clean]) == frozenset()
    nobody = write_mr_dicom(tmp_path / "nobody", PatientName="Anonymous", PatientID="Anon")
    assert not names_someone("anonymous_1", identifiers_of([nobody]))


SPELLINGS = {  # PatientName => names of folders that tell it, and one that does not
    "Jäger^Li": (("Jäger", "jaeger_2", "JAGER", unicodedata.normalize("NFD", "Jäger")), "Jagd"),
    "JAEGER^LI": (("Jäger",), "Jager"),
    "Wang^Xiaodong=王^小東": (("王小東", "wang", "p_小東"), "王"),
    "Li^Bo": (("Li_Bo", "bo-li"), "libor"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_names_in_other_letters(name, tmp_path):
    tags = {"OtherPatientIDs": "", "AccessionNumber": "", "PatientID": "77", "SpecificCharacterSet": "ISO_IR 192"}
    found = identifiers_of([write_mr_dicom(tmp_path / "MR", PatientName=name, **tags)])
    told, other = SPELLINGS[name]
    assert [names_someone(one, found) for one in (*told, other)] == [*[True] * len(told), False]


def test_accents_of_two_characters_are_hidden_too():
    text = redacted(unicodedata.normalize("NFD", "scans/Jäger/CT: damaged"), {"Jäger"})
    assert text == "scans/[identifier]/CT: damaged"
