"""The starter model in git: its scores repeat on the people kept out, and it knows what it was not made for."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from samples import sample
from test_cli import error_of, ok
from tiny_models import files_in

from benchmarks.gate import phantom
from mrict_core.data.images.volumes import load_volume, save_nifti
from mrict_core.data.phantom import PhantomSpec
from mrict_core.hu import AIR_FLOOR_HU, WATER_HU
from mrict_core.inference import load_synthesizer
from mrict_core.inference.volume import synthesize_volume
from mrict_core.paths import ROOT

STARTER = ROOT / "checkpoints" / "starter-brain"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Checkpoints that hold the starter and nothing else, as in a fresh clone."""
    root = tmp_path / "checkpoints"
    root.mkdir()
    (root / STARTER.name).symlink_to(STARTER)
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(root))
    monkeypatch.chdir(tmp_path)


def test_scores_of_the_card_repeat():
    """From the files in half precision, on the axial slices of the 29 people kept out."""
    folder = sample("synthrad_brain_axial") / "Task1" / "brain"
    kept_out = json.loads((ROOT / "docs" / "starter" / "split.json").read_text())["test"]
    model = load_synthesizer(STARTER, device="cpu")
    errors = []
    for patient in (name for name in kept_out if "~" not in name):
        mr, ct, mask = (load_volume(folder / patient / f"{role}.nii.gz") for role in ("mr", "ct", "mask"))
        errors.append(np.abs(synthesize_volume(model, mr).hu - ct.array)[mask.array > 0].mean())
    said = json.loads((STARTER / "scores.json").read_text())["summary"]["planes"]["axial"]["mae_hu"]
    assert len(errors) == said["n"] == 29
    assert np.mean(errors) == pytest.approx(said["mean"], abs=0.5)


def test_a_whole_head_of_another_world_gets_better_than_water(alone):
    head = sample("brainweb_head") / "Task1" / "brain" / "BW04"
    said = ok("synthesize", str(head / "mr.nii.gz"), "-o", "ct.nii.gz", "--model", "axial=starter-brain")
    assert "trained on middle slices" in said
    hu, ct, mask = (load_volume(path).array for path in ("ct.nii.gz", head / "ct.nii.gz", head / "mask.nii.gz"))
    inside, body = mask > 0, hu > AIR_FLOOR_HU
    water = np.where(body, WATER_HU, AIR_FLOOR_HU)
    error, of_water = (np.abs(each - ct)[inside].mean() for each in (hu, water))
    assert error < 0.9 * of_water


def write(region: str = "brain", role: str = "mr") -> None:
    """Write a coarse phantom as mr.nii.gz."""
    patient = {"brain": "1BA001", "pelvis": "1PA001"}[region]
    image = phantom(patient, 7, PhantomSpec(region, 6.0, 6.0), role)
    save_nifti("mr.nii.gz", image.array, image.affine)


def test_without_model_it_is_the_one_taken(alone):
    write()
    assert "starter-brain" in ok("synthesize", "mr.nii.gz", "-o", "ct.nii.gz")
    assert nib.load("ct.nii.gz").shape == nib.load("mr.nii.gz").shape


@pytest.mark.parametrize(
    ("region", "role", "strict", "says"),
    [("pelvis", "mr", ["--strict"], "another region?"), ("brain", "ct", [], "look like a CT in HU")],
)
def test_what_it_was_not_made_for_is_refused(region, role, strict, says, alone, tmp_path):
    write(region, role)
    before = files_in(tmp_path)
    assert says in error_of("synthesize", "mr.nii.gz", "-o", "ct.nii.gz", *strict)
    assert files_in(tmp_path) == before
