"""Regions: names and spellings, folders of any region, and SynthRAD2025's layout with its deformed CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mrict_core.data.discovery import Kind, centre_of, discover
from mrict_core.errors import MrictError
from mrict_core.paths import as_region, is_folder_of, workspace

FILES = ("mr", "ct", "mask")


def write(folder: Path, names: tuple[str, ...] = FILES) -> Path:
    """Write small MHA files on one grid; discovery reads headers only."""
    folder.mkdir(parents=True)
    for name in names:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 6, 5), np.int16)), str(folder / f"{name}.mha"))
    return folder


@pytest.mark.parametrize(
    ("given", "region"),
    [
        *(("brain", "brain"), ("Brain", "brain"), ("head", "brain"), ("PELVIS", "pelvis")),
        *(("HN", "HN"), ("head-neck", "HN"), ("head_and_neck", "HN"), ("Head and Neck", "HN")),
        *(("TH", "TH"), ("thorax", "TH"), ("chest", "TH"), ("AB", "AB"), ("abdomen", "AB")),
        *(("knee", "knee"), ("Knee", "knee"), ("brain2", "brain2"), ("lower-leg", "lower-leg")),
    ],
)
def test_a_region_in_any_spelling(given: str, region: str, tmp_path: Path) -> None:
    assert as_region(given) == region
    assert is_folder_of(region, given)
    assert workspace("smoke", tmp_path, given) == workspace("smoke", tmp_path, region)


@pytest.mark.parametrize("given", ["brian", "pelvus", "thorx", "", "..", "../x", "a/b", "1", "x" * 41, "knee?", "é"])
def test_what_is_no_region(given: str, tmp_path: Path) -> None:
    with pytest.raises(MrictError, match="unknown region"):
        workspace("smoke", tmp_path, given)


def test_phantoms_have_no_region_of_ones_own() -> None:
    with pytest.raises(MrictError, match="unknown region 'knee'"):
        workspace("smoke", "", "knee")


def test_names_of_known_runs_stay(tmp_path: Path) -> None:
    assert workspace("demo").name == "demo-phantom-brain"
    assert workspace("demo", modality="cbct").name == "demo-phantom-brain-cbct"
    given = workspace("cpu", tmp_path, "HN")
    assert given.name.startswith(f"cpu-{tmp_path.name}".replace("-", "_").replace("cpu_", "cpu-"))
    assert workspace("cpu", tmp_path, "HN", ct="deformed").name == f"{given.name}-deformed"


@pytest.mark.parametrize(
    ("region", "folder", "ids"),
    [
        ("HN", "Task1/HN", ("1HNA001", "1HNB010")),
        ("HN", "Task1/head-neck", ("1HNA001", "own")),
        ("TH", "Task1/TH", ("1THB002", "1THC003")),
        ("TH", "thorax", ("1THB002",)),
        ("AB", "", ("1ABC001",)),
        ("knee", "Task1/knee", ("anna", "ben")),
        ("knee", "Knee", ("anna",)),
        ("knee", "", ("anna",)),
    ],
)
def test_patients_of_any_region(tmp_path: Path, region: str, folder: str, ids: tuple[str, ...]) -> None:
    for patient in ids:
        write(tmp_path / folder / patient)
    found = discover(tmp_path, region)
    assert [p.patient for p in found.patients] == list(ids)
    assert {p.region for p in found.patients} == {region}
    assert found.skipped == found.aside == ()


def test_regions_do_not_mix(tmp_path: Path) -> None:
    for folder in ("Task1/HN/1HNA001", "Task1/TH/1THA001", "Task1/knee/anna", "Task2/HN/2HNA001"):
        write(tmp_path / folder)
    for region, patient in (("HN", "1HNA001"), ("TH", "1THA001"), ("knee", "anna")):
        found = discover(tmp_path, region)
        assert [p.patient for p in found.patients] == [patient]
        assert {a.kind for a in found.aside} == {Kind.ELSEWHERE}
        assert len(found.aside) == 3
    with pytest.raises(MrictError, match="its patients are of region HN, TH, knee, not hip; choose that region"):
        discover(tmp_path, "hip")


@pytest.mark.parametrize(("patient", "centre"), [("1HNA001", "A"), ("1THB12", "B"), ("2ABC003", "C"), ("knee7", "?")])
def test_the_centre_of_an_id_of_2025(patient: str, centre: str) -> None:
    assert centre_of(patient) == centre


def test_the_deformed_ct_is_used_only_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "Task1/AB/1ABA001", (*FILES, "ct_def"))
    write(tmp_path / "Task1/AB/1ABA002")
    usual, deformed = discover(tmp_path, "AB"), discover(tmp_path, "AB", ct="deformed")
    assert [p.ct.name for p in usual.patients] == ["ct.mha", "ct.mha"]
    assert [a.kind for a in usual.aside] == [Kind.BESIDE]
    assert [(p.patient, p.ct.name) for p in deformed.patients] == [("1ABA001", "ct_def.mha")]
    assert "ct_def.nii.gz is missing; expected mr, ct_def and mask" in deformed.skipped[0].reason


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ct": "bent"}, "unknown ct 'bent'"),
        ({"ct": "deformed"}, "the phantoms have one CT"),
        ({"modality": "pet"}, "unknown input 'pet'"),
        ({"modality": "cbct", "protocol": "predecessor"}, "that protocol is of MR"),
    ],
)
def test_choices_that_do_not_exist(more: dict[str, str], said: str) -> None:
    with pytest.raises(MrictError, match=said):
        workspace("smoke", **more)
