"""Several folders of patients: equal ids are one person, who stays in one set; nothing is left out silently."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import write_patient, write_slice
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mrict_core.cli import app
from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.discovery import discover
from mrict_core.data.images.orders import PLANES
from mrict_core.data.splits import SETS, make_split
from mrict_core.errors import MrictError
from mrict_core.paths import Workspace, workspace
from mrict_core.pipeline import prepare_data
from mrict_core.suite.plan import data_fingerprint

IDS = [f"1B{centre}00{number}" for centre in "ABC" for number in (1, 2)]


@pytest.fixture(scope="module")
def planes(tmp_path_factory) -> list[Path]:
    """Three folders with one slice of the same six people, each in another plane."""
    root = tmp_path_factory.mktemp("planes")
    for seed, patient in enumerate(IDS):
        for plane in PLANES:
            write_slice(root / plane / "Task1" / "brain" / patient, plane, seed)
    return [root / plane for plane in PLANES]


def words(folders: list[Path]) -> list[str]:
    return [word for folder in folders for word in ("--data", str(folder))]


def run(*arguments: str) -> str:
    """Run a command, which must succeed; return what it prints."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(*arguments: str) -> str:
    """Run a command that must fail; return its error."""
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, MrictError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_one_folder_keeps_its_name_and_content(planes, tmp_path):
    alone = workspace("smoke", str(planes[0]))
    assert alone == workspace("smoke", [planes[0]])
    assert (alone.data_dir, alone.data_dirs, alone.data_name) == (planes[0], (planes[0],), "axial")
    assert data_fingerprint([planes[0]]) == data_fingerprint(alone.data_dirs)
    one, list_of_one = (
        preprocess(given, tmp_path / "store", region="brain", size=48) for given in (planes[0], planes[:1])
    )
    assert one.index == list_of_one.index
    assert one.patients == IDS
    assert one.index["data_dir"] == str(planes[0])
    assert one.meta(IDS[0])["sources"]["mr"]["path"] == f"Task1/brain/{IDS[0]}/mr.nii.gz"


def test_several_folders_have_a_workspace_of_their_own(planes):
    every = [workspace("smoke", given) for given in (planes, planes[::-1], planes[:2], *planes)]
    assert len({space.name for space in every}) == len(every)
    assert every[0].name.startswith("smoke-axial_and_2_more-brain-")
    assert (every[0].data_dir, every[0].data_name) == (planes[0].parent, "axial, coronal, sagittal")
    assert len({data_fingerprint(space.data_dirs) for space in every[2:]}) == 4


def test_equal_ids_are_one_person_in_one_set(planes, tmp_path):
    lines: list[str] = []
    prepared = prepare_data("smoke", planes, report=lines.append)
    store = prepared.store
    assert "18 patients are 6 subjects; a subject stays in one set" in lines
    assert store.patients == sorted(IDS + [f"{one}~{plane}" for one in IDS for plane in ("coronal", "sagittal")])
    assert {p: store.plane(p) for p in store.patients} == {p: p.partition("~")[2] or "axial" for p in store.patients}
    assert store.subjects() == {p: p[:6] for p in store.patients}
    assert [store.centre(p) for p in store.patients] == [p[2] for p in store.patients]
    assert store.source("1BA001~coronal", "ct") == planes[1] / "Task1" / "brain" / "1BA001" / "ct.nii.gz"
    assert prepared.summary == "18 found: 18 used, 0 skipped, 0 not recognised"
    sets = [{p[:6] for p in getattr(prepared.split, name)} for name in SETS]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 6
    again = preprocess(planes, prepared.workspace.store, region="brain", size=store.size)
    assert again.index == store.index

    (tmp_path / "groups.csv").write_text("patient,subject\n" + "".join(f"{one},{one[:3]}\n" for one in IDS))
    for rule in (str(tmp_path / "groups.csv"), r"^(1B[A-Z])\d+$"):  # both see the ids as the folders have them
        grouped = prepare_data("smoke", planes, group_by=rule, report=lambda line: None)
        assert grouped.store.subjects() == {p: p[:3] for p in store.patients}


@given(st.integers(0, 10**6), st.sampled_from(["stratified", "leave_out_A", "leave_out_B"]))
def test_no_split_separates_a_person(seed, kind):
    people = [f"1B{centre}{number:03d}" for centre in "ABC" for number in range(6)]
    centres = {f"{one}{suffix}": one[2] for one in people for suffix in ("", "~coronal", "~sagittal")}
    split = make_split(centres, seed, kind, subjects={p: p[:6] for p in centres})
    sets = [{p[:6] for p in getattr(split, name)} for name in SETS]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 18
    assert all(len(getattr(split, name)) == 3 * len(one) for name, one in zip(SETS, sets, strict=True))
    if kind == "stratified":
        assert [sum(one[2] == centre for one in sets[2]) in (1, 2) for centre in "ABC"] == [True] * 3


def test_names_of_equal_ids(tmp_path):
    """The plane names further images; where it is taken, their number; upper and lower case count alike."""
    for name, plane, patient in (("a", "axial", "P1"), ("b", "axial", "p1"), ("c", "coronal", "P1")):
        write_slice(tmp_path / name / patient, plane, seed=ord(name))
    write_slice(tmp_path / "d" / "Task1" / "brain" / "P1", "coronal", seed=4)
    write_slice(tmp_path / "d" / "P2", "sagittal", seed=5)
    found = discover([tmp_path / name for name in "abcd"])
    names = {files.patient: (files.person, files.mr.parent) for files in found.patients}
    assert names == {
        "P1": ("P1", tmp_path / "a" / "P1"),
        "P1~2": ("P1", tmp_path / "b" / "p1"),
        "P1~coronal": ("P1", tmp_path / "c" / "P1"),
        "P1~4": ("P1", tmp_path / "d" / "Task1" / "brain" / "P1"),
        "P2": ("P2", tmp_path / "d" / "P2"),
    }
    assert found.root == tmp_path


def test_what_is_left_out_is_listed(tmp_path):
    """A copy, an id with the mark of further images, a damaged patient and an image elsewhere."""
    for seed, patient in enumerate(("P1", "P2", "P3")):
        write_patient(tmp_path / "a" / patient, seed)
    write_patient(tmp_path / "b" / "P1", seed=3)
    shutil.copytree(tmp_path / "a" / "P2", tmp_path / "b" / "P2")
    shutil.copytree(tmp_path / "a" / "P3", tmp_path / "b" / "P3~axial")
    shutil.copytree(tmp_path / "a" / "P3", tmp_path / "b" / "P3")
    (tmp_path / "b" / "P3" / "ct.nii.gz").unlink()
    shutil.copy(tmp_path / "a" / "P3" / "ct.nii.gz", tmp_path / "b" / "scan.nii.gz")
    folders = [tmp_path / "a", tmp_path / "b"]
    prepared = prepare_data("smoke", folders, report=lambda line: None)
    assert prepared.store.patients == ["P1", "P1~2", "P2", "P3"]
    assert prepared.summary == "8 found: 4 used, 3 skipped, 1 not recognised"
    reasons = {entry["path"]: entry["reason"] for entry in prepared.left_out}
    assert "P2: its MR and CT are those of P2; expected each person once" in reasons[str(tmp_path / "b" / "P2")]
    assert "P3~axial: a ~ in its name; expected none with several" in reasons[str(tmp_path / "b" / "P3~axial")]
    assert "P3: ct.nii.gz is missing" in reasons[str(tmp_path / "b" / "P3")]
    assert "outside a patient's folder" in reasons[str(tmp_path / "b" / "scan.nii.gz")]
    with pytest.raises(MrictError, match=r"ct\.nii\.gz is missing"):
        discover(folders, strict=True)
    (tmp_path / "b" / "P3" / "ct.nii.gz").write_bytes((tmp_path / "a" / "P3" / "ct.nii.gz").read_bytes())
    with pytest.raises(MrictError, match="a ~ in its name"):
        discover(folders, strict=True)
    assert discover(tmp_path / "b").patients[-1].patient == "P3~axial"  # as before in a single folder


@pytest.mark.parametrize(
    ("second", "more", "message"),
    [
        ("axial", [], "axial: given twice; expected every patient in one folder; leave one --data out"),
        ("axial/../axial", [], "axial: given twice"),
        ("axial/Task1", [], "axial/Task1: inside {root}/axial, which is given too; expected every patient in one"),
        ("", [], "axial: inside {root}, which is given too"),
        ("empty", [], "empty: no patient found; looked for Task1/brain/<patient>/"),
        ("missing", [], "missing: no such folder; give a folder of patients"),
        ("coronal", ["--region", "pelvis"], "axial: its patients are of region brain, not pelvis; choose that region"),
        ("coronal", ["--protocol", "predecessor"], "several folders; expected one with protocol predecessor"),
    ],
)
def test_folders_that_cannot_be_used_together(planes, second, more, message):
    root = planes[0].parent
    (root / "empty").mkdir(exist_ok=True)
    error = refusal("preprocess", "--profile", "smoke", *words([planes[0], root / second]), *more)
    assert message.format(root=root) in error
    assert str(root) in error or "several folders" in error


def test_an_empty_value_among_others(planes):
    assert refusal("preprocess", *words(planes[:1]), "--data", "").startswith("--data is empty; give a folder")


def test_no_patient_of_any_folder_can_be_used(tmp_path):
    for name in "ab":
        write_patient(tmp_path / name / "P1", seed=ord(name))
        nib.save(nib.Nifti1Image(np.ones((40, 46, 10)), np.eye(4)), tmp_path / name / "P1" / "mr.nii.gz")
    with pytest.raises(MrictError, match=r"a, .*b: none of its 2 patients can be used: .*a/P1.* \| .*b/P1"):
        prepare_data("smoke", [tmp_path / "a", tmp_path / "b"])


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    for name in ("MRICT_CHECKPOINTS", "MRICT_REPORTS"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path


def test_the_whole_pipeline_on_three_folders(planes, results):
    common = ("--profile", "smoke", *words(planes))
    assert "18 found: 18 used" in run("preprocess", *common)
    assert "best checkpoint" in run("train", "mk1", *common, "--device", "cpu")
    assert "mk1" in run("evaluate", "mk1", *common, "--device", "cpu")
    space: Workspace = workspace("smoke", planes)
    scored = (space.metrics / "mk1.csv").read_text()
    assert scored.count("~coronal,") == scored.count("~sagittal,") > 0
    assert "index.html" in run("report", *common, "--device", "cpu")
    assert "axial, coronal, sagittal" in (space.reports / "index.html").read_text()
    for folder in planes:
        mr, out = folder / "Task1" / "brain" / IDS[0] / "mr.nii.gz", results / folder.name / "sct.nii.gz"
        run("synthesize", str(mr), "-o", str(out), "--model", "mk1", "--device", "cpu")
        sct, image = nib.load(out), nib.load(mr)
        assert sct.shape == image.shape
        np.testing.assert_allclose(sct.affine, image.affine)
        assert (sct.get_fdata() > -1000).mean() > 0.2  # a body in the plane of the slice, not lines of it
