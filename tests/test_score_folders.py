"""`score` of folders and of other grids: everything is scored or listed with its reason, and shares are said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_score import AFFINE, head, write
from typer.testing import CliRunner

from mrict_core.cli import app
from mrict_core.data.images.volumes import save_nifti
from mrict_core.errors import MrictError
from mrict_core.evaluation.image_scores import CaseFiles, ScoreOptions, find_cases, score_files
from mrict_core.reporting.score_report import score_folders


def flat(root: Path, names: dict[str, str], cases: tuple[str, ...] = ("p1", "p2")) -> dict[str, Path]:
    """Write folders ct, sct and mask of files named as `names` says, {folder: pattern}; return the folders."""
    for number, case in enumerate(cases):
        for role, array in head(number).items():
            (root / role).mkdir(parents=True, exist_ok=True)
            save_nifti(root / role / (names[role].format(case) + ".nii.gz"), array, AFFINE)
    return {role: root / role for role in names}


NAMINGS = {
    "all end in _ct": {"ct": "{}_ct", "sct": "{}_ct", "mask": "{}_ct"},
    "each its own": {"ct": "{}_ct", "sct": "{}_sct", "mask": "{}_mask"},
    "no ending": {"ct": "{}", "sct": "{}", "mask": "{}"},
    "an ending within an ending": {"ct": "{}_ct", "sct": "{}_synthetic_ct", "mask": "{}_body"},
    "capitals and hyphens": {"ct": "{}-CT", "sct": "{}_Synthetic-CT", "mask": "{}_MASK"},
    "only the sCT has one": {"ct": "{}", "sct": "{}_fake_B", "mask": "{}"},
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_cases_are_found_under_usual_names(tmp_path: Path, naming: str) -> None:
    cases, problems = find_cases(**flat(tmp_path, NAMINGS[naming]))
    assert [case.name for case in cases] == ["p1", "p2"]
    assert problems == {}
    assert all({case.ct.parent.name, case.sct.parent.name} == {"ct", "sct"} for case in cases)


def test_one_folder_may_hold_all_roles(tmp_path: Path) -> None:
    for number, case in enumerate(("p1", "p2")):
        for role, array in head(number).items():
            save_nifti(tmp_path / f"{case}_{role}.nii.gz", array, AFFINE)
        save_nifti(tmp_path / f"{case}_mr.nii.gz", array, AFFINE)
    cases, problems = find_cases(tmp_path, tmp_path)
    assert [(case.name, case.ct.name, case.sct.name) for case in cases] == [
        ("p1", "p1_ct.nii.gz", "p1_sct.nii.gz"),
        ("p2", "p2_ct.nii.gz", "p2_sct.nii.gz"),
    ]
    assert problems == {}


def extra_case(folders: dict[str, Path]) -> None:
    shutil.copy(folders["sct"] / "p1_sct.nii.gz", folders["sct"] / "p9_sct.nii.gz")


def extra_mask(folders: dict[str, Path]) -> None:
    shutil.copy(folders["mask"] / "p1_mask.nii.gz", folders["mask"] / "p9_mask.nii.gz")


def deeper(folders: dict[str, Path]) -> None:
    (folders["sct"] / "p9" / "run").mkdir(parents=True)
    shutil.copy(folders["sct"] / "p1_sct.nii.gz", folders["sct"] / "p9" / "run" / "sct.nii.gz")


def unknown_name(folders: dict[str, Path]) -> None:
    (folders["sct"] / "p9").mkdir()
    shutil.copy(folders["sct"] / "p1_sct.nii.gz", folders["sct"] / "p9" / "output.nii.gz")


def other_role(folders: dict[str, Path]) -> None:
    shutil.copy(folders["sct"] / "p1_sct.nii.gz", folders["sct"] / "p9_ct.nii.gz")


def no_images(folders: dict[str, Path]) -> None:
    (folders["ct"] / "series").mkdir()
    (folders["ct"] / "series" / "1.dcm").write_bytes(b"x")


def twice(folders: dict[str, Path]) -> None:
    shutil.copy(folders["ct"] / "p1_ct.nii.gz", folders["ct"] / "p1.nii.gz")


LEFT_OUT: dict[str, tuple[Callable[[dict[str, Path]], None], str]] = {
    "a case without CT": (extra_case, "not scored: p9: no ct in"),
    "a mask without images": (extra_mask, "not scored: p9: no ct in"),
    "a file too deep": (deeper, "deeper than a case's folder"),
    "a file of unknown name": (unknown_name, "belongs to no case"),
    "a file named as another role": (other_role, "named as a ct, which is expected in"),
    "a folder without images": (no_images, "no readable image in it"),
    "two files of one case": (twice, "two files for one ct"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_left_out_is_listed_counted_and_no_success(tmp_path: Path, kind: str) -> None:
    folders = flat(tmp_path, NAMINGS["each its own"])
    change, reason = LEFT_OUT[kind]
    change(folders)
    words = [word for role, folder in folders.items() for word in (f"--{role}", str(folder))]
    done = CliRunner().invoke(app, ["score", *words, "--csv", str(tmp_path / "scores.csv")])
    assert done.exit_code == 1
    assert reason in done.stdout
    scored = 1 if kind == "two files of one case" else 2
    left = 1
    assert f"{scored + left} found: {scored} scored, {left} not scored; 0 other files" in done.stdout.splitlines()[-1]
    table = pd.read_csv(tmp_path / "scores.csv")
    assert (table["status"] == "scored").sum() == scored
    assert len(table) == scored + left


def test_files_of_other_types_are_counted_and_do_no_harm(tmp_path: Path) -> None:
    folders = flat(tmp_path, NAMINGS["each its own"])
    (folders["sct"] / "p1_sct.json").write_text("{}")
    (folders["ct"] / ".hidden").write_text("")
    words = [word for role, folder in folders.items() for word in (f"--{role}", str(folder))]
    done = CliRunner().invoke(app, ["score", *words, "--csv", str(tmp_path / "scores.csv")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "2 found: 2 scored, 0 not scored; 1 other files"


def test_nothing_scored_leaves_no_csv_and_gives_every_reason(tmp_path: Path) -> None:
    folders = flat(tmp_path, NAMINGS["each its own"])
    for path in folders["sct"].iterdir():
        path.write_bytes(b"no image")
    words = [word for role, folder in folders.items() for word in (f"--{role}", str(folder))]
    done = CliRunner().invoke(app, ["score", *words, "--csv", str(tmp_path / "scores.csv")])
    assert done.exit_code == 1
    assert isinstance(done.exception, (MrictError, SystemExit))
    assert not list(tmp_path.glob("*.csv"))
    places = [str(folders[role]) for role in ("ct", "sct", "mask")]
    with pytest.raises(MrictError, match=r"none of the 2 cases can be scored, .*p1: .* \| p2: "):
        score_folders(*places, ScoreOptions(), tmp_path / "scores.csv", json=False, progress=None)


def part(role: str, kept: int, tmp_path: Path) -> CaseFiles:
    """Return a case of which one image is cut to `kept` slices."""
    arrays = head()
    case = write(tmp_path)
    save_nifti(getattr(case, role), arrays[role][:, :, :kept], AFFINE)
    return case


@pytest.mark.parametrize("role", ["sct", "mask"])
def test_an_image_that_covers_most_of_the_mask_is_scored_there(tmp_path: Path, role: str) -> None:
    arrays = head()
    case = part(role, 12, tmp_path)
    found = score_files(case, ScoreOptions(resample=True))
    inside = arrays["mask"] > 0
    inside[:, :, 12:] = False
    error = np.abs(arrays["sct"] - arrays["ct"])[inside].mean()
    assert found["mae_hu"] == pytest.approx(error, rel=1e-5)
    assert found["n_voxels"] == inside.sum()
    if role == "sct":
        share = inside.sum() / (arrays["mask"] > 0).sum()
        assert any(f"covers only {share:.1%} of the mask" in warning for warning in found["warnings"])


def test_a_mask_that_changes_by_rounding_alone_is_whole(tmp_path: Path) -> None:
    case = write(tmp_path)
    fine, affine = np.repeat(head()["mask"], 2, axis=0), AFFINE @ np.diag([0.5, 1, 1, 1])
    unseen = np.flatnonzero((fine == 0) & (np.arange(len(fine))[:, None, None] % 2 == 1))  # between the CT's voxels
    fine.ravel()[unseen[: np.count_nonzero(fine) // 100]] = 1
    save_nifti(case.mask, fine, affine)
    warnings = score_files(case, ScoreOptions(resample=True))["warnings"]
    assert any("mask resampled" in text for text in warnings)
    assert not any("of the mask is on" in text for text in warnings)


def test_an_image_that_covers_too_little_is_refused(tmp_path: Path) -> None:
    case = part("sct", 7, tmp_path)
    with pytest.raises(MrictError, match=r"covers only \d+\.\d% of the mask; expected at least 90%.*--as-is"):
        score_files(case, ScoreOptions(resample=True))
    found = score_files(case, ScoreOptions(resample=True, as_is=True))
    assert found["n_voxels"] == (head()["mask"][:, :, :7] > 0).sum()


def test_images_of_different_places_are_refused(tmp_path: Path) -> None:
    case = write(tmp_path)
    far = AFFINE.copy()
    far[:3, 3] += 500
    save_nifti(case.sct, head()["sct"], far)
    with pytest.raises(MrictError, match="covers none of the mask"):
        score_files(case, ScoreOptions(resample=True, as_is=True))
    case = write(tmp_path / "mask")
    half = AFFINE.copy()
    half[2, 3] += 20
    save_nifti(case.mask, head()["mask"], half)
    with pytest.raises(MrictError, match=r"only \d+\.\d% of the mask is on the CT; expected at least 90%"):
        score_files(case, ScoreOptions(resample=True))
