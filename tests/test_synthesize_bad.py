"""Bad input, targets that must not be touched, full disks, checks: one clear line, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_cli import error_of, invoke, ok
from tiny_models import files_in, head_array, write_head

from mrict_core.data.images.volumes import load_volume
from mrict_core.errors import MrictError
from mrict_core.inference.gate import Finding
from mrict_core.pipeline.synthesis import synthesize_case


def ct_array(shape: tuple[int, int, int]) -> np.ndarray:
    """Return a ball of soft tissue with layers of fat, in air, in HU."""
    tissue = np.where(np.indices(shape)[0] % 3 == 0, -90, 40)
    return np.where(head_array(shape) > 100, tissue, -1000).astype(np.float32)


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond `limit` bytes: writers then meet the error of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.diag([5.0, 5.0, 6.0, 1.0]) if affine is None else affine), path)


def colours(path: Path) -> None:
    rgb = np.zeros((8, 8, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), path)


def flat_affine(path: Path) -> None:
    image = nib.Nifti1Image(head_array((20, 20, 5)), np.eye(4))
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = (1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0)
    kept = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    nib.save(kept, path)


def with_nan(path: Path) -> None:
    array = head_array((20, 20, 5))
    array[3, 3, 3] = np.nan
    nifti(path, array)


def without_voxels(path: Path) -> None:
    nifti(path, np.zeros((4, 0, 3), np.float32))


def cut_short(path: Path) -> None:
    write_head(path)
    path.write_bytes(path.read_bytes()[:900])


BAD = {
    "colours": (colours, "holds colours"),
    "four dimensions": (lambda p: nifti(p, np.ones((8, 8, 4, 2), np.float32)), "4-D image of shape"),
    "two dimensions": (lambda p: nifti(p, np.ones((8, 8), np.float32)), "2-D image of shape"),
    "affine": (flat_affine, "affine not invertible"),
    "nan": (with_nan, "1 voxels are NaN or infinite"),
    "zero size": (without_voxels, "mr.nii.gz: "),
    "not an image": (lambda p: p.write_bytes(b"hello"), "cannot be read"),
    "cut short": (cut_short, "cannot be read"),
    "constant": (lambda p: nifti(p, np.full((9, 9, 3), 4.0, np.float32)), "constant"),
    "a mask": (lambda p: nifti(p, (head_array((20, 20, 5)) > 100).astype(np.float32)), "like a mask"),
    "a CT": (lambda p: nifti(p, ct_array((20, 20, 5))), "look like a CT in HU"),
    "absent": (lambda p: None, "no such file or folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(name, tmp_path, checkpoints):
    make, message = BAD[name]
    make(tmp_path / "mr.nii.gz")
    mr, out, model = (str(p) for p in (tmp_path / "mr.nii.gz", tmp_path / "out" / "ct.nii", checkpoints / "a.pt"))
    text = error_of("synthesize", mr, "-o", out, "--model", model)
    assert message in text
    assert "mr.nii.gz" in text
    assert files_in(tmp_path) == (["mr.nii.gz"] if name != "absent" else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mr.nii.gz", "-o", "mr.nii.gz"], "input and output are the same file"),
        (["mr.nii.gz", "-o", "link.nii.gz"], "input and output are the same file"),
        (["mr.nii.gz", "-o", "ct.nii", "--uncertainty", "mr.nii.gz"], "input and output are the same file"),
        (["mr.nii.gz", "-o", "ct.nii", "--uncertainty", "ct.nii"], "two outputs with the same name"),
        (["mr.nii.gz", "-o", "there.nii"], "there.nii: exists already"),
        (["mr.nii.gz", "-o", "ct.nii", "--uncertainty", "there.nii"], "there.nii: exists already"),
        (["mr.nii.gz", "-o", "noted.nii"], "noted.json: exists already"),
        (["mr.nii.gz", "-o", "folder.nii"], "folder.nii: a folder"),
        (["mr.nii.gz", "-o", "ct.png"], "not an image type that is written"),
        (["mr.nii.gz", "-o", "ct.mhd"], "not an image type that is written"),
        (["mr.nii.gz", "-o", ".nii.gz"], "not an image type that is written"),
        (["mr.nii.gz", "-o", "ct.nii", "--csv", "x.csv"], "--csv and --format are for many cases"),
        (["mr.nii.gz", "-o", "ct.nii", "--model", "MODEL"], "given twice"),
        (["mr.nii.gz", "-o", "ct.nii", "--model", "mk6_3_5"], "'mk6_3_5': did you mean 'mk6_3_4'"),
        (["mr.nii.gz", "-o", "ct.nii", "--model", "nowhere/x.pt"], "nowhere/x.pt: not a model"),
        (["mr.nii.gz", "-o", "ct.nii", "--device", "tpu"], "device 'tpu' is not known"),
        (["mr.nii.gz", "-o", "ct.nii", "--precision", "half"], "unknown precision 'half'"),
        (["mr.nii.gz", "-o", "ct.nii", "--resample-to-mm", "-2"], "expected 0.05 to 50 mm"),
        (["", "-o", "ct.nii"], "INPUT is empty"),
    ],
)
def test_targets_and_options_are_checked_first(arguments, message, tmp_path, checkpoints, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mr = write_head(Path("mr.nii.gz"))
    Path("link.nii.gz").symlink_to(mr)
    Path("there.nii").write_text("there")
    Path("noted.json").write_text("noted")
    Path("folder.nii").mkdir()
    before = files_in(tmp_path)
    model = str(checkpoints / "a.pt")
    arguments = [model if a == "MODEL" else a for a in arguments]
    assert message in error_of("synthesize", *arguments, "--model", model)
    assert files_in(tmp_path) == before
    assert Path("there.nii").read_text() == "there"


def test_an_input_that_is_not_there_is_said_before_a_model_is_chosen(tmp_path):
    result = invoke("synthesize", str(tmp_path / "mr.nii.gz"), "-o", str(tmp_path / "ct.nii"))
    assert "mr.nii.gz: no such file or folder; expected an MR" in str(result.exception)
    assert result.output == ""


def test_no_model_is_an_error_and_overwrite_replaces(tmp_path, checkpoints):
    mr = write_head(tmp_path / "mr.nii.gz")
    assert "--model is empty" in error_of("synthesize", str(mr), "-o", str(tmp_path / "ct.nii"), "--model", "")
    arguments = ["synthesize", str(mr), "-o", str(tmp_path / "ct.nii"), "--model"]
    ok(*arguments, str(checkpoints / "a.pt"))
    first = (tmp_path / "ct.nii").read_bytes()
    assert "exists already" in error_of(*arguments, str(checkpoints / "b.pt"))
    ok(*arguments, str(checkpoints / "b.pt"), "--overwrite")
    assert (tmp_path / "ct.nii").read_bytes() != first


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("limit", [0, 3000])
def test_a_full_disk_leaves_nothing_half_written(suffix, limit, tmp_path, models):
    mr = write_head(tmp_path / "mr.nii.gz")
    with full_disk(limit), pytest.raises(MrictError, match="cannot be written"):
        synthesize_case(mr, tmp_path / "out" / f"ct{suffix}", models)
    assert files_in(tmp_path) == ["mr.nii.gz"]


def test_a_full_disk_keeps_what_overwrite_would_replace(tmp_path, models):
    mr = write_head(tmp_path / "mr.nii.gz")
    synthesize_case(mr, tmp_path / "ct.nii", models)
    before = {name: (tmp_path / name).read_bytes() for name in ("ct.nii", "ct.json")}
    with full_disk(3000), pytest.raises(MrictError, match="cannot be written"):
        synthesize_case(mr, tmp_path / "ct.nii", models, overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_checks_warn_and_strict_refuses(tmp_path, models):
    mr = write_head(tmp_path / "mr.nii.gz")
    seen = []

    def check(volume, facts):
        seen.append((volume.shape, facts.size))
        return [Finding("small", "the body is small")]

    facts = synthesize_case(mr, tmp_path / "ct.nii", models, check=check)
    assert "the body is small" in facts["warnings"]
    assert seen == [((34, 40, 7), 64)]
    with pytest.raises(MrictError, match=r"mr\.nii\.gz: the body is small \(refused by --strict\)"):
        synthesize_case(mr, tmp_path / "strict.nii", models, check=check, strict=True)
    late = {
        "check": None,
        "check_output": lambda synthesis, facts: [Finding("doubt", f"{synthesis.body.sum()} voxels of doubt")],
        "strict": True,
    }
    with pytest.raises(MrictError, match="voxels of doubt"):
        synthesize_case(mr, tmp_path / "strict.nii", models, **late)
    synthesize_case(
        mr, tmp_path / "strict.nii", models, check=None, strict=True
    )  # remarks on the model are not the input's fault
    assert files_in(tmp_path) == ["ct.json", "ct.nii", "mr.nii.gz", "strict.json", "strict.nii"]


def contradictory(path: Path) -> Path:
    image = nib.Nifti1Image(head_array((34, 40, 7)), np.diag([5.0, 5.0, 6.0, 1.0]))
    other = image.affine.copy()
    other[0, 3] += 10
    image.set_qform(image.affine, 1)
    image.set_sform(other, 1)
    nib.save(image, path)
    return path


def test_what_the_reader_had_to_decide_is_said_everywhere_and_strict_refuses_it(tmp_path, checkpoints):
    mr = contradictory(tmp_path / "mr.nii.gz")
    arguments = ["synthesize", str(mr), "-o", str(tmp_path / "ct.nii"), "--model", str(checkpoints / "a.pt")]
    text = ok(*arguments, "--qa", str(tmp_path / "page.html"))
    (remark,) = load_volume(mr).remarks
    assert f"warning: {remark}" in text
    assert remark in json.loads((tmp_path / "ct.json").read_text())["warnings"]
    assert "10 mm" in (tmp_path / "page.html").read_text()
    arguments[3] = str(tmp_path / "strict.nii")
    assert "10 mm" in error_of(*arguments, "--strict")
    (tmp_path / "in").mkdir()
    mr.rename(tmp_path / "in" / "p.nii.gz")
    text = ok("synthesize", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *arguments[4:])
    assert f"warning: p: {remark}" in text
    assert remark in pd.read_csv(tmp_path / "out" / "summary.csv")["warnings"][0]


@pytest.mark.parametrize("many", [False, True])
def test_uncertainty_of_one_model_takes_the_flips_by_itself(many, tmp_path, checkpoints):
    (tmp_path / "in").mkdir()
    mr = write_head(tmp_path / "in" / "p.nii")
    source, out, sd = (mr, "ct.nii", "sd.nii") if not many else (mr.parent, "out", "sd")
    model = ["--model", str(checkpoints / "a.pt")]
    ok("synthesize", str(source), "-o", str(tmp_path / out), "--uncertainty", str(tmp_path / sd), *model)
    ok("synthesize", str(mr), "-o", str(tmp_path / "tta.nii"), "--tta", *model)
    written, spread = (tmp_path / (f"{name}/p_sct.nii" if many else name) for name in (out, sd))
    np.testing.assert_array_equal(load_volume(written).array, load_volume(tmp_path / "tta.nii").array)
    assert load_volume(spread).array.max() > 0
    assert json.loads(written.with_suffix(".json").read_text())["options"]["tta"] is True
    if many:
        again = ok("synthesize", str(source), "-o", str(tmp_path / out), "--uncertainty", str(tmp_path / sd), *model)
        assert "0 written, 1 kept" in again
