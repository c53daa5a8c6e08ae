"""--exclude-metal: a patient's metal mask leaves losses and scores, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import write_patient

from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.discovery import Kind, discover
from mrict_core.data.images.volumes import load_volume, save_nifti
from mrict_core.errors import MrictError
from mrict_core.evaluation.image_scores import CaseFiles, score_files
from mrict_core.paths import ROOT, workspace
from mrict_core.reporting import table_view

PATIENTS = ("1BA001", "1BA002")


def add_metal(folder: Path, values: np.ndarray | None = None) -> np.ndarray:
    """Write a metal mask beside a patient's images: a block in the middle of the mask; return it as bool."""
    given = nib.load(folder / "mask.nii.gz")
    if values is None:
        inside = np.argwhere(np.asarray(given.dataobj) > 0)
        low = np.median(inside, axis=0).astype(int)
        values = np.zeros(given.shape, np.uint8)
        values[tuple(slice(v - 2, v + 3) for v in low)] = 1
    nib.save(nib.Nifti1Image(values, given.affine), folder / "metal.nii.gz")
    return values > 0


@pytest.fixture
def root(tmp_path) -> Path:
    """Return a folder of two patients, the first with a metal mask."""
    for seed, patient in enumerate(PATIENTS):
        write_patient(tmp_path / "Task1" / "brain" / patient, seed)
    add_metal(tmp_path / "Task1" / "brain" / PATIENTS[0])
    return tmp_path


def prepared(root: Path, name: str, exclude_metal: bool):
    return preprocess(root, root / ".stores" / name, region="brain", size=48, exclude_metal=exclude_metal, workers=1)


def test_metal_leaves_the_mask_of_losses_and_of_scores(root):
    plain, without = prepared(root, "plain", False), prepared(root, "without", True)
    metal = np.asarray(nib.load(root / "Task1" / "brain" / PATIENTS[0] / "metal.nii.gz").dataobj) > 0
    before, after = plain.slices(PATIENTS[0]), without.slices(PATIENTS[0])
    assert before.mask.sum() - after.mask.sum() == metal.sum()
    for role in ("mr", "ct", "body"):
        assert np.array_equal(getattr(before, role), getattr(after, role)), role
    _, whole, _ = plain.reference(PATIENTS[0])
    _, scored, _ = without.reference(PATIENTS[0])
    assert np.array_equal(scored, whole & ~metal)
    assert plain.key != without.key


def test_without_the_option_a_metal_mask_changes_nothing(root):
    with_file = prepared(root, "with", False)
    (root / "Task1" / "brain" / PATIENTS[0] / "metal.nii.gz").unlink()
    without_file = prepared(root, "without", False)
    assert with_file.key == without_file.key
    assert with_file.meta(PATIENTS[0])["key"] == without_file.meta(PATIENTS[0])["key"]


def test_a_patient_without_metal_mask_is_used_and_a_line_says_so(root):
    store = prepared(root, "store", True)
    assert store.patients == list(PATIENTS)
    assert store.warnings()[PATIENTS[1]] == ["no metal mask beside it: all of its mask is used"]
    assert PATIENTS[0] not in store.warnings()


def test_an_empty_metal_mask_leaves_nothing_out(root):
    folder = root / "Task1" / "brain" / PATIENTS[0]
    add_metal(folder, np.zeros(nib.load(folder / "mask.nii.gz").shape, np.uint8))
    plain, without = prepared(root, "plain", False), prepared(root, "without", True)
    assert np.array_equal(plain.slices(PATIENTS[0]).mask, without.slices(PATIENTS[0]).mask)
    assert PATIENTS[0] not in without.warnings()


def test_a_changed_metal_mask_prepares_its_patient_again_and_is_refused_for_scores(root):
    store = prepared(root, "store", True)
    keys = {patient: store.meta(patient)["key"] for patient in PATIENTS}
    folder = root / "Task1" / "brain" / PATIENTS[0]
    add_metal(folder, np.roll(np.asarray(nib.load(folder / "metal.nii.gz").dataobj), 3, axis=0))
    with pytest.raises(MrictError, match=r"metal\.nii\.gz: changed since it was prepared"):
        store.reference(PATIENTS[0])
    again = prepared(root, "store", True)
    assert again.meta(PATIENTS[0])["key"] != keys[PATIENTS[0]]
    assert again.meta(PATIENTS[1])["key"] == keys[PATIENTS[1]]


def test_the_file_counts_as_used_only_with_the_option(root):
    for exclude, kinds in ((False, {Kind.BESIDE}), (True, set())):
        found = discover(root, exclude_metal=exclude)
        assert {a.kind for a in found.aside if "metal" in a.path} == kinds
        assert [bool(p.metal) for p in found.patients] == [exclude, False]


BAD = {
    "three values": (lambda shape: np.arange(np.prod(shape)).reshape(shape).astype(np.int16) % 3, "metal.*expected 0"),
    "every voxel": (lambda shape: np.ones(shape, np.uint8), "metal.*covers every voxel"),
    "another grid": (lambda shape: np.ones((shape[0], shape[1], shape[2] + 1), np.uint8), "metal"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_metal_mask_leaves_its_patient_out_with_a_reason(root, kind):
    make, words = BAD[kind]
    folder = root / "Task1" / "brain" / PATIENTS[0]
    add_metal(folder, make(nib.load(folder / "mask.nii.gz").shape))
    store = prepared(root, "store", True)
    (skip,) = store.skipped
    assert skip["patient"] == PATIENTS[0]
    assert re.search(words, skip["reason"])


def test_two_metal_files_leave_the_patient_out(root):
    folder = root / "Task1" / "brain" / PATIENTS[0]
    shutil.copy(folder / "mask.nii.gz", folder / "METAL.nii.gz")
    (skip,) = discover(root, exclude_metal=True).skipped
    assert "expected one metal file" in skip.reason


def test_notebook_09_scores_without_metal(root, monkeypatch):
    """Run its cell on an image that is wrong in the metal alone."""
    cells = json.loads((ROOT / "notebooks" / "11_synthesize.ipynb").read_text(encoding="utf-8"))["cells"]
    (code,) = [text for cell in cells if "score_files(" in (text := "".join(cell["source"]))]
    metal = np.asarray(nib.load(root / "Task1" / "brain" / PATIENTS[0] / "metal.nii.gz").dataobj) > 0
    case = next(found for found in discover(root).patients if found.patient == PATIENTS[0])
    ct, errors = load_volume(case.ct), {}
    save_nifti(root / "sct.nii.gz", np.where(metal, ct.array + 500, ct.array), ct.affine)
    for name in ("plain", "without"):
        names = {"store": prepared(root, name, name == "without"), "folder": root / ".stores", "case": case}
        names |= {"output": root / "sct.nii.gz", "input_file": "", "table_view": table_view, "pd": pd, "np": np}
        names |= {"score_files": score_files, "CaseFiles": CaseFiles, "save_nifti": save_nifti}
        monkeypatch.setattr(table_view, "show_table", lambda table, name=name: errors.update({name: table["value"][0]}))
        exec(code, names | {"MrictError": MrictError})
    assert errors["plain"] > 1
    assert errors["without"] == 0


def test_the_workspace_is_another_one(root):
    plain, without = (workspace("demo", root, exclude_metal=exclude) for exclude in (False, True))
    assert without.name == f"{plain.name}-no_metal"
    assert (plain.exclude_metal, without.exclude_metal) == (False, True)
