"""`score`: real files through the command line, folders of cases, and everything that must not be scored in silence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from test_cli import main
from typer.testing import CliRunner

from mrict_core import metrics
from mrict_core.cli import app
from mrict_core.data.checks.hu_values import check_sct, sct_remarks
from mrict_core.data.images.resample import grid_text, resample_to, same_grid
from mrict_core.data.images.volumes import Volume, load_volume, save_nifti
from mrict_core.errors import MrictError
from mrict_core.evaluation.image_scores import (
    CaseFiles,
    ScoreOptions,
    find_cases,
    score_cases,
    score_files,
    summary_of,
)
from mrict_core.paths import ROOT

SHAPE = (24, 26, 14)
AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2.0, 0, -25], [0, 0, 3.0, 4], [0, 0, 0, 1]])


def head(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    radius = np.sqrt(sum(a**2 for a in axes))
    ct = np.select([radius < 0.6, radius < 0.8], [35.0, 900.0], -1000.0) + rng.normal(0, 6, SHAPE)
    return {
        "ct": ct.round().astype(np.float32),
        "sct": (ct + rng.normal(20, 60, SHAPE)).astype(np.float32),
        "mask": (radius < 0.9).astype(np.float32),
    }


def write(folder: Path, suffix: str = ".nii.gz", affine: np.ndarray = AFFINE, **changed: np.ndarray) -> CaseFiles:
    folder.mkdir(parents=True, exist_ok=True)
    for role, array in (head() | changed).items():
        save_nifti(folder / f"{role}{suffix}", array, affine)
    return CaseFiles("case", *(folder / f"{role}{suffix}" for role in ("ct", "sct", "mask")))


@pytest.fixture
def case(tmp_path: Path) -> CaseFiles:
    return write(tmp_path / "case")


def arguments(case: CaseFiles) -> list[str]:
    return ["score", "--ct", str(case.ct), "--sct", str(case.sct), "--mask", str(case.mask)]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mrict_core", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment())


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_command_prints_the_direct_numbers_with_their_cards(case):
    done = main(*arguments(case), "--json", "--clinical")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    arrays = head()
    inside = arrays["mask"] > 0
    error = (arrays["sct"] - arrays["ct"])[inside]
    assert found["mae_hu"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert found["ssim"] == pytest.approx(metrics.ssim(arrays["ct"], arrays["sct"], inside).value, rel=1e-6)
    assert found["me_hu"] == pytest.approx(error.mean(), rel=1e-5)
    assert found["n_voxels"] == inside.sum()
    assert found["hu_range"] == "synthrad2023 [-1024, 3000]"
    assert set(found["cards"]) >= {"mae_hu", "psnr_db", "ssim", "wepl_mae_mm", "dice_bone_250"}
    assert all(all(card.values()) for card in found["cards"].values())
    assert len(found["files"]["sct"]["hash"]) == 16
    text = main(*arguments(case)).stdout
    for part in (
        f"{found['mae_hu']:.1f}",
        f"{found['psnr_db']:.2f}",
        "24×26×14 voxels of 2×2×3 mm, axes LAS",
        "[-1024, 3000] HU",
    ):
        assert part in text


def test_the_2025_protocol_and_its_ranges(case):
    runner = CliRunner()
    wide = json.loads(runner.invoke(app, [*arguments(case), "--json", "--protocol", "synthrad2025"]).stdout)
    narrow = [*arguments(case), "--json", "--protocol", "synthrad2025", "--range", "synthrad2025_metrics"]
    narrow = json.loads(runner.invoke(app, narrow).stdout)
    arrays = head()
    expected = metrics.ms_ssim(arrays["ct"], arrays["sct"], arrays["mask"])
    assert wide["ms_ssim"] == pytest.approx(expected, rel=1e-6)
    assert "ssim" not in wide
    assert any("more padding than image" in warning for warning in wide["warnings"])
    assert "3071" in wide["cards"]["psnr_db"]["range"]
    assert "3000" in narrow["cards"]["ms_ssim"]["range"]
    assert wide["psnr_db"] - narrow["psnr_db"] == pytest.approx(20 * np.log10(4095 / 4024), rel=1e-4)
    last = json.loads(
        runner.invoke(
            app, [*arguments(case), "--json", "--protocol", "synthrad2025", "--luminance", "last_scale"]
        ).stdout
    )
    assert last["ms_ssim"] != wide["ms_ssim"]
    assert "last scale" in last["cards"]["ms_ssim"]["note"]


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
def test_other_file_types_give_the_same_numbers(case, tmp_path, suffix):
    other = {}
    for role in ("ct", "sct", "mask"):
        target = tmp_path / f"{role}{suffix}"
        sitk.WriteImage(sitk.ReadImage(str(getattr(case, role))), str(target))
        other[role] = target
    expected = score_files(case)
    found = score_files(CaseFiles("case", **other))
    assert [found[m] for m in ("mae_hu", "psnr_db", "ssim")] == [expected[m] for m in ("mae_hu", "psnr_db", "ssim")]


def test_another_grid_is_named_on_both_sides_and_resampled_on_request(case, tmp_path):
    image = sitk.ReadImage(str(case.sct))
    permuted = sitk.PermuteAxes(image, [1, 0, 2])  # the same voxels at the same places, stored otherwise
    sitk.WriteImage(permuted, str(tmp_path / "sct.mha"))
    other = CaseFiles("case", case.ct, tmp_path / "sct.mha", case.mask)
    with pytest.raises(MrictError) as error:
        score_files(other)
    for part in (
        "sct.mha",
        "26×24×14",
        "24×26×14",
        "2×2×3 mm",
        "axes ALS",
        "axes LAS, from (20, -25, 4)",
        "--resample",
    ):
        assert part in str(error.value)
    found = score_files(other, ScoreOptions(resample=True))
    assert found["mae_hu"] == pytest.approx(score_files(case)["mae_hu"], rel=1e-5)
    assert "sCT resampled from 26×24×14" in found["warnings"][0]


def test_the_same_shape_elsewhere_is_another_grid(case, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    save_nifti(tmp_path / "mask.nii.gz", head()["mask"], moved)
    with pytest.raises(MrictError, match=r"the mask has first voxel at \(20\.5, -25, 4\)"):
        score_files(CaseFiles("case", case.ct, case.sct, tmp_path / "mask.nii.gz"))


def volume(array: np.ndarray, affine: np.ndarray) -> Volume:
    return Volume(np.asarray(array, np.float32), affine, Path("x.nii.gz"))


def field(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A linear field of world coordinates: linear interpolation reproduces it exactly."""
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = ijk @ affine[:3, :3].T + affine[:3, 3]
    return world @ np.array([3.0, -2.0, 5.0]) + 7


@pytest.mark.parametrize("degrees", [0, 20])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.7, -1.3, 2.2)])
def test_resampling_reproduces_a_linear_field(degrees, shift):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    source = np.eye(4)
    source[:3, :3] = turn @ np.diag([1.5, -2.0, 2.5])
    source[:3, 3] = shift
    big, small = (40, 44, 36), (6, 5, 7)
    target = np.diag([2.0, 1.0, 1.5, 1.0])
    target[:3, 3] = source[:3, :3] @ [18, 20, 16] + source[:3, 3] - [5, 2, 5]
    moved = resample_to(volume(field(source, big), source), volume(np.zeros(small), target))
    assert moved.array == pytest.approx(field(target, small), abs=1e-2)
    assert same_grid(moved, volume(np.zeros(small), target))


def test_resampling_keeps_an_equal_grid_and_fills_with_air():
    here = volume(np.ones((5, 5, 5)), np.eye(4))
    assert resample_to(here, here) is here
    away = np.eye(4)
    away[0, 3] = 100
    assert (resample_to(here, volume(np.zeros((3, 3, 3)), away)).array == -1024).all()
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    with pytest.raises(MrictError, match="right angles"):
        resample_to(volume(np.ones((5, 5, 5)), sheared), here)
    assert grid_text(here) == "5×5×5 voxels of 1×1×1 mm, axes RAS, from (0, 0, 0) mm"


def changed(what: str) -> dict[str, np.ndarray]:
    arrays = head()
    match what:
        case "stored values":
            arrays["sct"] += 1024
        case "offset the other way":
            arrays["sct"] -= 1024
        case "8 bits":
            arrays["sct"] = np.clip((arrays["sct"] + 1000) / 2000 * 255, 0, 255).round()
        case "unit":
            arrays["sct"] = np.clip(arrays["sct"] / 1000, -1, 1)
        case "NaN":
            arrays["sct"][3, 3, 3] = np.nan
        case "CT stored values":
            arrays["ct"] += 1024
        case "few voxels":
            arrays["mask"][:] = 0
            arrays["mask"][9:15, 9:15, 5:9] = 1
        case "empty mask":
            arrays["mask"][:] = 0
        case "labels":
            arrays["mask"][10:12] *= 2
    return {role: array.astype(np.float32) for role, array in arrays.items()}


REFUSED = {
    "stored values": r"sct\.nii\.gz: values .* the rescale intercept of -1024 lost \(undone.*; subtract 1024",
    "offset the other way": r"sct\.nii\.gz: .*applied twice .*; add 1024",
    "8 bits": r"sct\.nii\.gz: values 0…\d+ are not HU: scaled to 8 bits",
    "unit": r"sct\.nii\.gz: values -1…1 are normalised",
    "CT stored values": r"ct\.nii\.gz: values .* hold no air: stored values, the rescale intercept of -1024 lost",
    "few voxels": r"mask\.nii\.gz: mask has 144 voxels; expected at least 1000",
    "labels": r"mask\.nii\.gz: mask has 3 values",
}
FATAL = {"NaN": r"sct\.nii\.gz: 1 voxels are NaN", "empty mask": r"mask\.nii\.gz: mask is empty"}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_and_can_be_scored_as_it_is(tmp_path, what):
    case = write(tmp_path, **changed(what))
    with pytest.raises(MrictError, match=REFUSED[what]) as error:
        score_files(case)
    assert "--as-is" in str(error.value)
    assert "\n" not in str(error.value)
    found = score_files(case, ScoreOptions(as_is=True))
    assert any(str(error.value).split(";")[0].split(" (--as-is")[0][:40] in warning for warning in found["warnings"])
    assert np.isfinite(found["mae_hu"])


@pytest.mark.parametrize("what", FATAL)
def test_what_can_never_be_scored(tmp_path, what):
    case = write(tmp_path, **changed(what))
    for options in (ScoreOptions(), ScoreOptions(as_is=True)):
        with pytest.raises(MrictError, match=FATAL[what]):
            score_files(case, options)


def test_what_an_sct_does_not_hold_is_not_scored(tmp_path):
    images = head()
    part = images["sct"].copy()
    part[:2] = np.nan  # inside the mask too, or not
    covered = np.isfinite(part)[images["mask"] > 0].mean()
    found = score_files(write(tmp_path / "part", sct=part), ScoreOptions(as_is=True))
    assert found["n_voxels"] == np.count_nonzero((images["mask"] > 0) & np.isfinite(part))
    assert any(f"covers only {covered:.1%} of the mask" in text for text in found["warnings"]) == (covered < 1)
    part[:] = np.where(images["mask"] > 0, part, np.nan)
    part[: part.shape[0] // 2] = np.nan
    with pytest.raises(MrictError, match=r"covers only \d+\.\d% of the mask; expected at least"):
        score_files(write(tmp_path / "half", sct=part), ScoreOptions())


def test_a_collapsed_model_is_scored_and_flagged(tmp_path):
    arrays = head()
    air = write(tmp_path / "air", sct=np.random.default_rng(0).normal(-1000, 5, SHAPE).astype(np.float32))
    constant = write(tmp_path / "constant", sct=np.full(SHAPE, 40, np.float32))
    full = write(tmp_path / "full", mask=np.ones(SHAPE, np.float32))
    assert score_files(air)["warnings"] == [
        f"sCT is all air inside the mask (at most {load_volume(air.sct).array[arrays['mask'] > 0].max():.0f} HU)"
    ]
    assert score_files(constant)["warnings"] == ["sCT is constant inside the mask (40 HU)"]
    assert "covers every voxel" in score_files(full, ScoreOptions(as_is=True))["warnings"][0]


@pytest.mark.parametrize("bias", [-600, -300, 0, 300, 600, 1024])
def test_a_bad_but_honest_model_is_not_taken_for_stored_values(bias):
    """Constant images, strong biases and pure noise are the model's own fault."""
    arrays, rng = head(), np.random.default_rng(0)
    mask = arrays["mask"]
    for sct in (
        np.full(SHAPE, float(bias)),
        rng.normal(bias, 400, SHAPE),
        np.where(arrays["ct"] > 300, -1000, 1000) + rng.normal(0, 5, SHAPE),
        *([] if abs(bias) == 1024 else [arrays["ct"] + bias]),
    ):
        check_sct(sct, arrays["ct"], mask, "sct.nii.gz")
    assert sct_remarks(arrays["sct"], mask) == []


def test_one_file_for_both_is_refused(case):
    with pytest.raises(MrictError, match="CT and sCT are the same file"):
        score_files(CaseFiles("case", case.ct, case.ct, case.mask))
    shutil.copy(case.ct, case.sct)
    with pytest.raises(MrictError, match="sCT equals the CT voxel for voxel"):
        score_files(case)


def test_the_share_of_a_coarse_mask_on_the_ct_is_not_that_of_its_volume(case):
    mask = load_volume(case.mask)
    save_nifti(case.mask, mask.array[::2, ::2, ::2], mask.affine @ np.diag([2, 2, 2, 1]))
    found = score_files(case, ScoreOptions(resample=True))
    assert not any("is on the CT" in text for text in found["warnings"])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """CTs and masks in SynthRAD layout, sCTs as single files; p2 has no sCT, p4 no CT, p3 a broken one."""
    truth, made = tmp_path / "truth", tmp_path / "made"
    made.mkdir()
    for number in (1, 2, 3):
        folder = truth / "Task1" / "brain" / f"p{number}"
        write(folder, **head(number))
        (folder / "sct.nii.gz").rename(made / f"p{number}_sct.nii.gz")
    (made / "p2_sct.nii.gz").unlink()
    (made / "p3_sct.nii.gz").write_bytes(b"no image")
    shutil.copy(made / "p1_sct.nii.gz", made / "p4.nii.gz")
    return truth, made


def test_folders_are_scored_case_by_case(folders, tmp_path, monkeypatch):
    truth, made = folders
    done = run("score", "--ct", str(truth), "--sct", str(made), cwd=tmp_path)
    assert done.returncode == 1  # not every case was scored
    assert "error" not in done.stderr
    assert "score" in done.stderr  # the bar
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table["case"].tolist() == ["p1", "p2", "p3", "p4"]
    assert table["status"].tolist() == ["scored", "failed", "failed", "failed"]
    expected = score_files(
        CaseFiles(
            "p1",
            *(truth / "Task1/brain/p1" / f for f in ("ct.nii.gz",)),
            made / "p1_sct.nii.gz",
            truth / "Task1/brain/p1/mask.nii.gz",
        )
    )
    assert table["mae_hu"][0] == pytest.approx(expected["mae_hu"], rel=1e-9)
    assert "no sct in" in table["reason"][1]
    assert "cannot be read" in table["reason"][2]
    assert "no ct in" in table["reason"][3]
    cards = pd.read_csv(tmp_path / "scores.cards.csv").set_index("name")
    assert list(cards.index) == ["mae_hu", "psnr_db", "ssim"]
    assert not cards.isna().any().any()
    for part in ("over 1 of 4 cases", "not scored: p2", "not scored: p3", "not scored: p4", "cases: "):
        assert part in done.stdout
    before = (tmp_path / "scores.csv").read_bytes()
    monkeypatch.chdir(tmp_path)
    again = main("score", "--ct", str(truth), "--sct", str(made))
    assert again.returncode == 1
    assert "scores.csv: exists already" in again.stderr
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_all_cases_scored_is_success_with_mean_and_spread(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path / "all" / f"p{number}", **head(number))
    options = ScoreOptions()
    cases, problems = find_cases(tmp_path / "all", tmp_path / "all")
    assert [c.name for c in cases] == ["p1", "p2", "p3"]
    assert problems == {}
    frame = score_cases(cases, problems, options)
    summary = summary_of(frame, options).set_index("metric")
    assert summary.loc["mae_hu", "mean"] == pytest.approx(frame["mae_hu"].mean())
    assert summary.loc["mae_hu", "sd"] == pytest.approx(frame["mae_hu"].std(ddof=1))
    assert summary.loc["ssim", "n"] == 3
    target = tmp_path / "own.csv"
    words = ["score", "--ct", str(tmp_path / "all"), "--sct", str(tmp_path / "all"), "--csv", str(target), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["case"] for row in found["cases"]] == ["p1", "p2", "p3"]
    assert found["cards"]["ssim"]["range"].endswith("4024")
    assert target.is_file()


def test_folders_with_nothing_or_too_much(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(MrictError, match="no case found"):
        find_cases(tmp_path / "a", tmp_path / "a")
    with pytest.raises(MrictError, match="no such folder"):
        find_cases(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "a" / "p1")
    shutil.copy(tmp_path / "a" / "p1" / "sct.nii.gz", tmp_path / "a" / "p1" / "synthetic_ct.nii.gz")
    cases, problems = find_cases(tmp_path / "a", tmp_path / "a")
    assert cases == []
    assert "two files for one sct" in problems["p1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "synthrad2024"], "unknown protocol 'synthrad2024'"),
        (["--range", "wide"], "unknown HU range 'wide'"),
        (["--luminance", "none"], "unknown luminance"),
        (["--mask", ""], "--mask is missing"),
        (["--ct", ""], "--ct is empty"),
        (["--sct", "."], "a file; --ct, --sct and --mask are three files, or all folders"),
        (["--sct", "nowhere.nii.gz"], "nowhere.nii.gz: no such file"),
    ],
)
def test_wrong_words_are_one_line(case, words, message, tmp_path):
    done = main(*arguments(case), *words, "--csv", str(tmp_path / "scores.csv"))  # not the checkout's, which may exist
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_single_case_can_be_written_too(case, tmp_path):
    target = tmp_path / "one.csv"
    assert CliRunner().invoke(app, [*arguments(case), "--csv", str(target)]).exit_code == 0
    assert pd.read_csv(target)["mae_hu"][0] == pytest.approx(score_files(case)["mae_hu"])
