"""The synthesize command on real files: headers, formats, many cases, resume, bad input, nothing half-written."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from test_cli import invoke, ok
from test_volumes import CODES, affine_of
from tiny_models import head_array, untrained_checkpoint, write_head

from mrict_core import cli
from mrict_core.data.resample import itk_image
from mrict_core.data.store import SliceStore
from mrict_core.data.volumes import ITK, Volume, corner_gap_mm, load_volume
from mrict_core.errors import MrictError
from mrict_core.inference import load_synthesizer
from mrict_core.inference.output import NOTE, format_of, sidecar_path, write_ct
from mrict_core.inference.reading import read_input
from mrict_core.inference.volume import SynthesisOptions
from mrict_core.pipeline.cases import find_cases, synthesize_cases
from mrict_core.pipeline.synthesize import find_model, load_models, synthesize_case

SECRET = "DOE^JOHN"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    untrained_checkpoint(folder / "a.pt")
    untrained_checkpoint(folder / "b.pt", seed=1)
    return folder


@pytest.fixture(scope="module")
def models(checkpoints):
    return load_models([str(checkpoints / "a.pt")], device="cpu")


def error_of(*arguments: str) -> str:
    """Return the one line that a failing command prints."""
    result = invoke(*arguments)
    assert isinstance(result.exception, MrictError), result.output + repr(result.exception)
    text = str(result.exception)
    assert "\n" not in text
    return text


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond `limit` bytes: writers then meet the error of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --------------------------------------------------------------------------------------------------- one case, headers


def test_one_mr_becomes_a_ct_a_map_and_a_json(tmp_path, checkpoints):
    mr = write_head(tmp_path / "patient_mr.nii.gz")
    out, spread = tmp_path / "out" / "ct.nii.gz", tmp_path / "out" / "sd.nii.gz"
    names = [str(checkpoints / f"{x}.pt") for x in "ab"]
    text = ok(
        *("synthesize", str(mr), "-o", str(out), "--model", names[0], "--model", names[1]),
        *("--tta", "--uncertainty", str(spread), "--device", "cpu"),
    )
    assert "not for clinical use" in text
    assert files_in(out.parent) == ["ct.json", "ct.nii.gz", "sd.nii.gz"]
    ct, sd = nib.load(out), nib.load(spread)
    assert ct.get_data_dtype() == np.int16
    assert sd.get_data_dtype() == np.float32
    hu = np.asarray(ct.dataobj)
    assert hu.shape == sd.shape == (34, 40, 7)
    assert hu[0, 0, 0] == -1024
    assert np.asarray(sd.dataobj).max() > 0
    facts = json.loads((out.parent / "ct.json").read_text())
    assert facts["what"] == NOTE
    assert [m["variant"] for m in facts["models"]] == ["mk6_3_4", "mk6_3_4"]
    assert len({m["hash"] for m in facts["models"]}) == 2
    assert facts["options"]["tta"] is True
    assert any("profile smoke" in text for text in facts["warnings"])
    written = (out.parent / "ct.json").read_text()
    assert str(tmp_path) not in written
    assert "patient_mr" not in written


def oblique() -> np.ndarray:
    affine = np.diag([-5.0, 5.0, 6.0, 1.0])
    c, s = np.cos(0.2), np.sin(0.2)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = (12.5, -80.25, 33.0)
    return affine


def with_both_forms(image: nib.Nifti1Image) -> None:
    other = oblique()
    other[:3, 3] += 7
    image.set_qform(other, 1)
    image.set_sform(oblique(), 4)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (nib.Nifti1Image, lambda image: image.header.set_xyzt_units("mm", "sec")),
        (nib.Nifti1Image, with_both_forms),
        (nib.Nifti1Image, lambda image: (image.set_sform(None, 0), image.set_qform(oblique(), 3))),
        (nib.Nifti1Image, lambda image: (image.set_qform(None, 0), image.set_sform(oblique(), 2))),
        (nib.Nifti2Image, with_both_forms),
    ],
    ids=["units", "two forms", "qform alone", "sform alone", "NIfTI-2"],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_keeps_its_header_and_nothing_that_may_name_a_patient(kind, change, suffix, tmp_path, models):
    image = kind(head_array((34, 40, 7)), oblique())
    change(image)
    image.header["descrip"] = image.header["aux_file"] = SECRET.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"of {SECRET}".encode()))
    image.header["cal_max"] = 900
    nib.save(image, tmp_path / "mr.nii.gz")
    synthesize_case(tmp_path / "mr.nii.gz", tmp_path / f"ct{suffix}", models)
    before, after = nib.load(tmp_path / "mr.nii.gz"), nib.load(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim", "quatern_b", "qoffset_x", "srow_x", "srow_z"):
        np.testing.assert_array_equal(after.header[field], before.header[field], err_msg=field)
    assert type(after) is kind
    assert after.get_data_dtype() == np.int16
    assert np.asarray(after.dataobj).dtype == np.int16  # no scaling
    assert after.header["descrip"].item().decode().startswith(NOTE)
    assert SECRET.encode() not in (tmp_path / "ct.json").read_bytes()
    with nib.openers.Opener(tmp_path / f"ct{suffix}") as file:
        assert SECRET.encode() not in file.read()


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_files_keep_origin_spacing_and_direction_exactly(suffix, tmp_path, models):
    image = sitk.GetImageFromArray(head_array((34, 40, 7)).T)
    c, s = np.cos(0.31), np.sin(0.31)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    image.SetOrigin((-83.123456789, 12.3, 1 / 3))
    image.SetSpacing((5.000001, 4.7, 6.1))
    image.SetMetaData("PatientName", SECRET)
    sitk.WriteImage(image, str(tmp_path / f"mr{suffix}"))
    synthesize_case(tmp_path / f"mr{suffix}", tmp_path / f"ct{suffix}", models)
    before, after = (sitk.ReadImage(str(tmp_path / f"{name}{suffix}")) for name in ("mr", "ct"))
    assert after.GetPixelID() == sitk.sitkInt16
    for get in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert getattr(after, get)() == getattr(before, get)()
    content = (tmp_path / f"ct{suffix}").read_bytes()
    assert SECRET.encode() not in content
    assert NOTE.encode() in content


@pytest.mark.parametrize("source", [".nii.gz", ".mha", ".nrrd", ".mhd"])
@pytest.mark.parametrize("target", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_any_format_becomes_any_other_on_the_same_grid(source, target, tmp_path, models):
    nifti = write_head(tmp_path / "mr.nii.gz", affine=oblique())
    if source != ".nii.gz":
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(tmp_path / f"mr{source}"))
    synthesize_case(nifti, tmp_path / "reference.nii", models)
    synthesize_case(tmp_path / f"mr{source}", tmp_path / f"ct{target}", models)
    reference, found = load_volume(tmp_path / "reference.nii"), load_volume(tmp_path / f"ct{target}")
    np.testing.assert_array_equal(found.array, reference.array)
    assert corner_gap_mm(found.affine, reference.affine, found.shape) < 1e-3


@settings(max_examples=60, deadline=None)
@given(
    code=st.sampled_from(CODES),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 20)] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    source=st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd"]),
    target=st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd"]),
)
def test_every_grid_survives_every_pair_of_formats(code, shape, spacing, angles, origin, source, target):
    affine = affine_of(code, spacing)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = origin
    array = np.random.default_rng(1).normal(300, 90, shape).astype(np.float32)
    hu = np.random.default_rng(2).integers(-1024, 3000, shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        mr, ct = Path(name) / f"mr{source}", Path(name) / f"ct{target}"
        if source in ITK:
            sitk.WriteImage(itk_image(Volume(array, affine, mr)), str(mr))
        else:
            nib.save(nib.Nifti1Image(array, affine), mr)
        volume = read_input(mr)
        write_ct(ct, hu, volume)
        found = load_volume(ct)
    np.testing.assert_array_equal(found.array, hu)
    assert corner_gap_mm(found.affine, volume.affine, shape) < 1e-3
    assert corner_gap_mm(found.affine, affine, shape) < 2e-3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_any_type_and_byte_order_is_read(order, dtype, tmp_path, models):
    array = (head_array((34, 40, 7)) / (6 if dtype == "u1" else 1)).astype(np.dtype(dtype).newbyteorder(order))
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype)
    header.set_sform(oblique(), 1)
    nib.save(nib.Nifti1Image(array, oblique(), header), tmp_path / "mr.nii")
    synthesize_case(tmp_path / "mr.nii", tmp_path / "ct.nii", models)
    found = nib.load(tmp_path / "ct.nii")
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / "mr.nii").affine)
    assert (np.asarray(found.dataobj) > -1024).any()


# ------------------------------------------------------------------------------------------------------------ bad input


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
    "a mask": (lambda p: nifti(p, (head_array((20, 20, 5)) > 100).astype(np.float32)), "as a mask does"),
    "a CT": (lambda p: nifti(p, head_array((20, 20, 5)) * 1.5 - 1000), "look like a CT in HU"),
    "absent": (lambda p: None, "no such file"),
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
        (["mr.nii.gz", "-o", "ct.nii", "--uncertainty", "ct.nii"], "the same file for CT and uncertainty"),
        (["mr.nii.gz", "-o", "there.nii"], "there.nii: exists already"),
        (["mr.nii.gz", "-o", "ct.nii", "--uncertainty", "there.nii"], "there.nii: exists already"),
        (["mr.nii.gz", "-o", "noted.nii"], "noted.json: exists already"),
        (["mr.nii.gz", "-o", "folder.nii"], "folder.nii: a folder"),
        (["mr.nii.gz", "-o", "ct.png"], "not an image type that is written"),
        (["mr.nii.gz", "-o", "ct.mhd"], "not an image type that is written"),
        (["mr.nii.gz", "-o", ".nii.gz"], "not an image type that is written"),
        (["mr.nii.gz", "-o", "ct.nii", "--uncertainty", "sd.nii"], "uncertainty needs several predictions"),
        (["mr.nii.gz", "-o", "ct.nii", "--csv", "x.csv"], "--csv and --format are for many cases"),
        (["mr.nii.gz", "-o", "ct.nii", "--model", "MODEL"], "given twice"),
        (["mr.nii.gz", "-o", "ct.nii", "--model", "mk6_3_5"], "unknown model 'mk6_3_5': did you mean"),
        (["mr.nii.gz", "-o", "ct.nii", "--model", "nowhere/x.pt"], "no such checkpoint"),
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


def test_no_model_is_an_error_and_overwrite_replaces(tmp_path, checkpoints):
    mr = write_head(tmp_path / "mr.nii.gz")
    assert "--model is empty" in error_of("synthesize", str(mr), "-o", str(tmp_path / "ct.nii"))
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
        seen.append((volume.shape, facts["size"]))
        return ["the body is small"]

    facts = synthesize_case(mr, tmp_path / "ct.nii", models, check=check)
    assert facts["warnings"][0] == "the body is small"
    assert seen == [((34, 40, 7), 64)]
    with pytest.raises(MrictError, match=r"mr\.nii\.gz: the body is small \(refused by --strict\)"):
        synthesize_case(mr, tmp_path / "strict.nii", models, check=check, strict=True)
    late = {"check_output": lambda synthesis, facts: [f"{synthesis.body.sum()} voxels of doubt"], "strict": True}
    with pytest.raises(MrictError, match="voxels of doubt"):
        synthesize_case(mr, tmp_path / "strict.nii", models, **late)
    synthesize_case(mr, tmp_path / "strict.nii", models, strict=True)  # remarks on the model are not the input's fault
    assert files_in(tmp_path) == ["ct.json", "ct.nii", "mr.nii.gz", "strict.json", "strict.nii"]


# ----------------------------------------------------------------------------------------------------------- many cases


@pytest.fixture
def cohort_folder(tmp_path) -> Path:
    """Two cases as files, one as a folder, one in SynthRAD's layout, one damaged, one that is two files."""
    root = tmp_path / "cases"
    for name in ("a/x", "Task1/brain/1BA001"):
        (root / name).mkdir(parents=True)
    write_head(root / "one_mr.nii.gz")
    write_head(root / "two.nii", (30, 30, 5))
    write_head(root / "a" / "mr.nii.gz", (28, 36, 4))
    write_head(root / "Task1/brain/1BA001/mr.nii.gz", (26, 26, 3))
    write_head(root / "Task1/brain/1BA001/ct.nii.gz")
    (root / "bad.nii.gz").write_bytes(b"nothing")
    write_head(root / "twice.nii.gz")
    write_head(root / "twice_mr.nii")
    (root / "readme.txt").write_text("no image")
    return root


def test_one_failure_does_not_stop_the_others_and_a_second_run_goes_on(cohort_folder, tmp_path, checkpoints):
    out = tmp_path / "out"
    arguments = ["synthesize", str(cohort_folder), "-o", str(out), "--model", str(checkpoints / "a.pt")]
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "4 written, 0 kept, 2 failed" in result.output
    assert "two files for one mr" in result.output
    table = pd.read_csv(out / "summary.csv").set_index("case")
    assert table["status"].to_dict() == {
        **{"1BA001": "written", "a": "written", "bad": "failed", "one": "written", "twice": "failed", "two": "written"}
    }
    assert "bad.nii.gz: cannot be read" in table.loc["bad", "reason"]
    names = ["1BA001_sct.nii.gz", "a_sct.nii.gz", "one_sct.nii.gz", "two_sct.nii"]
    assert [f for f in files_in(out) if "nii" in f] == names
    stamps = {name: (out / name).stat().st_mtime_ns for name in names}
    write_head(cohort_folder / "bad.nii.gz", (24, 24, 3))
    (cohort_folder / "twice_mr.nii").unlink()
    (out / "a_sct.nii.gz").unlink()
    (out / "a_sct.json").unlink()
    text = ok(*arguments)
    assert "3 written, 3 kept, 0 failed" in text
    assert all((out / name).stat().st_mtime_ns == stamps[name] for name in names if name != "a_sct.nii.gz")


@pytest.mark.parametrize("change", ["input", "model", "options"])
def test_what_changed_is_not_kept_and_not_replaced_unasked(change, tmp_path, checkpoints):
    (tmp_path / "in").mkdir()
    write_head(tmp_path / "in" / "p.nii.gz")
    arguments = ["synthesize", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")]
    ok(*arguments)
    before = (tmp_path / "out" / "p_sct.nii.gz").read_bytes()
    if change == "input":
        write_head(tmp_path / "in" / "p.nii.gz", (30, 30, 5))
    elif change == "model":
        arguments[-1] = str(checkpoints / "b.pt")
    else:
        arguments.append("--tta")
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "exists already" in result.output
    assert (tmp_path / "out" / "p_sct.nii.gz").read_bytes() == before
    ok(*arguments, "--overwrite")
    assert (tmp_path / "out" / "p_sct.nii.gz").read_bytes() != before


def test_a_csv_names_cases_inputs_and_outputs(tmp_path, checkpoints):
    (tmp_path / "mr").mkdir()
    write_head(tmp_path / "mr" / "x.nii.gz")
    write_head(tmp_path / "mr" / "y.nii.gz", (30, 30, 5))
    rows = [
        "case,input,output",
        "first,mr/x.nii.gz,one.mha",
        "second,mr/y.nii.gz,",
        "third,mr/none.nii.gz,",
        "fourth,,",
    ]
    rows += ["../up,mr/x.nii.gz,", "same,mr/x.nii.gz,same.nii", "same,mr/y.nii.gz,other.nii", "png,mr/x.nii.gz,x.png"]
    (tmp_path / "list.csv").write_text("\ufeff" + "\n".join(rows), encoding="utf-8")
    result = invoke(
        *("synthesize", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")),
        *("--format", "nrrd", "--csv", str(tmp_path / "done.csv"), "--uncertainty", str(tmp_path / "sd"), "--tta"),
    )
    assert result.exit_code == 1
    table = pd.read_csv(tmp_path / "done.csv").set_index("case")
    assert (table["status"] == "written").sum() == 2
    reasons = table["reason"].to_dict()
    for case, reason in (
        ("third", "no such file"),
        ("fourth", "line 5 has no input"),
        ("../up", "line 6: case and output are plain names"),
        ("same", "two cases of this name"),
        ("png", "not an image type that is written"),
    ):
        assert reason in reasons[case], case
    assert files_in(tmp_path / "out") == ["one.json", "one.mha", "second_sct.json", "second_sct.nrrd"]
    assert files_in(tmp_path / "sd") == ["one.mha", "second_sct.nrrd"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no row"), ("mr\nx.nii\n", "expected a column 'input'"), (b"\xff\xfe\x00input", "not a readable csv")],
)
def test_a_csv_that_is_none_is_refused(content, message, tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MrictError, match=message):
        find_cases(path, tmp_path / "out")


def test_folders_that_cannot_be_meant_are_refused(tmp_path, checkpoints):
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("x")
    for source, output, more, message in (
        ("in", "out", {}, "no case found"),
        ("in", "in", {}, "the folder of the inputs"),
        ("in", "file", {}, "expected a folder for the results"),
        ("in", "out", {"uncertainty": tmp_path / "out"}, "the folder of the CTs too"),
        ("nowhere", "out", {}, "no such file or folder"),
    ):
        with pytest.raises(MrictError, match=message):
            find_cases(tmp_path / source, tmp_path / output, **more)
    write_head(tmp_path / "in" / "p.nii.gz")
    (tmp_path / "mine.csv").write_text("my,own,table\n")
    arguments = ["synthesize", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(checkpoints / "a.pt")]
    assert "is no summary of this suite" in error_of(*arguments, "--csv", str(tmp_path / "mine.csv"))
    assert "uncertainty needs several" in error_of(*arguments, "--uncertainty", str(tmp_path / "sd"))
    assert "unknown format 'png'" in error_of(*arguments, "--format", "png")
    assert not (tmp_path / "out").exists()


def test_cts_and_masks_beside_an_mr_are_no_cases(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "1PA004").mkdir()
    for name in ("p_mr.nii.gz", "p_ct.nii.gz", "p-mask.nii.gz", "p_sct.mha", "q.nii.gz", "ct_q2.nii"):
        (tmp_path / "flat" / name).touch()
    for name in ("mr.nii.gz", "ct.nii.gz", "mask.nii.gz"):
        (tmp_path / "1PA004" / name).touch()
    cases, problems = find_cases(tmp_path / "flat", tmp_path / "out")
    assert {case.name: case.source.name for case in cases} == {
        "p": "p_mr.nii.gz",
        "q": "q.nii.gz",
        "ct_q2": "ct_q2.nii",
    }
    assert not problems
    (one,), problems = find_cases(tmp_path / "1PA004", tmp_path / "out")
    assert (one.name, one.source.name, one.output.name) == ("1PA004", "mr.nii.gz", "1PA004_sct.nii.gz")
    (tmp_path / "1PA004" / "MR.nii").touch()
    cases, problems = find_cases(tmp_path / "1PA004", tmp_path / "out")
    assert not cases
    assert "two files for one mr" in problems["1PA004"]


def test_an_unforeseen_error_is_a_row_too(tmp_path, models):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_head(tmp_path / "in" / f"{name}.nii.gz", (24, 24, 3))
    cases, problems = find_cases(tmp_path / "in", tmp_path / "out")

    def check(volume, facts):
        if volume.path.name.startswith("a"):
            raise RuntimeError("out of memory\nor so")
        return []

    table = synthesize_cases(cases, problems, models, tmp_path / "s.csv", SynthesisOptions(), check=check)
    assert list(table["status"]) == ["failed", "written"]
    assert "RuntimeError: out of memory or so" in table["reason"][0]
    assert files_in(tmp_path / "out") == ["b_sct.json", "b_sct.nii.gz"]


# -------------------------------------------------------------------------------------------------- models, small parts


def test_a_name_means_the_newest_best_checkpoint(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path))
    with pytest.raises(MrictError, match="mk6_3_4: no checkpoint of it under"):
        find_model("mk6_3_4")
    for k, run in enumerate(("old", "new")):
        path = untrained_checkpoint(tmp_path / run / "mk6_3_4" / "best.pt", seed=k)
        os.utime(path, (1000 + k, 1000 + k))
    assert find_model("mk6_3_4") == tmp_path / "new" / "mk6_3_4" / "best.pt"
    assert find_model(str(checkpoints / "a.pt")) == checkpoints / "a.pt"
    coronal, axial = load_models(["coronal=mk6_3_4", "mk6_3_4"], device="cpu")
    assert [m.as_dict()["plane"] for m in (coronal, axial)] == ["coronal", "axial"]


def test_the_name_of_an_output_says_its_format(tmp_path):
    assert [format_of(f"x{s}") for s in (".nii", ".NII.GZ", ".mha", ".nrrd")] == [".nii", ".nii.gz", ".mha", ".nrrd"]
    assert sidecar_path("a/b.c.nii.gz") == Path("a/b.c.json")
    volume = load_volume(write_head(tmp_path / "mr.nii"))
    with pytest.raises(MrictError, match="expected that of the MR"):
        write_ct(tmp_path / "ct.nii", np.zeros((3, 3, 3)), volume)
    write_ct(tmp_path / "ct.nii", np.full(volume.shape, 40.4), volume, model="mk1")
    image = nib.load(tmp_path / "ct.nii")
    assert (np.asarray(image.dataobj) == 40).all()
    assert image.header["descrip"].item().decode() == f"{NOTE}; mk1"


def test_an_error_of_the_command_is_one_line(tmp_path, checkpoints, monkeypatch, capsys):
    arguments = ["mrict_core", "synthesize", str(tmp_path / "none.nii"), "-o", str(tmp_path / "ct.nii")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--model", str(checkpoints / "a.pt")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")


# ------------------------------------------------------------------------------------------------------- end to end


def test_a_trained_variant_synthesises_a_cohort_that_score_reads(cohort, fresh_space, tmp_path):
    ok("train", "mk1", "--profile", "smoke", "--data", str(cohort), "--device", "cpu")
    text = ok("synthesize", str(cohort), "-o", str(tmp_path / "sct"), "--model", "mk1", "--device", "cpu")
    assert "9 written, 0 kept, 0 failed" in text
    ok("score", "--ct", str(cohort), "--sct", str(tmp_path / "sct"), "--as-is", "--csv", str(tmp_path / "scores.csv"))
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert list(scores["status"]) == ["scored"] * 9
    assert scores["mae_hu"].between(1, 4024).all()
    store, synthesizer = SliceStore(fresh_space.store), load_synthesizer(find_model("mk1"), device="cpu")
    for patient in store.patients[:3]:
        evaluated = store.to_volume(patient, synthesizer(store, patient))
        written = load_volume(tmp_path / "sct" / f"{patient}_sct.nii.gz").array
        body = written > -1024
        assert body.any()
        gap = np.abs(written - evaluated)[body]
        assert np.median(gap) < 5  # the store keeps the MR as float16, the file the HU as whole numbers
        assert np.quantile(gap, 0.99) < 40


def test_bfloat16_is_near_float32_and_said(tmp_path, checkpoints):
    mr, model = write_head(tmp_path / "mr.nii"), str(checkpoints / "a.pt")
    for precision in ("float32", "bfloat16"):
        out = str(tmp_path / f"{precision}.nii")
        ok("synthesize", str(mr), "-o", out, "--model", model, "--precision", precision, "--device", "cpu")
        assert json.loads((tmp_path / f"{precision}.json").read_text())["precision"] == precision
    full, half = (load_volume(tmp_path / f"{p}.nii").array for p in ("float32", "bfloat16"))
    assert 0 < np.abs(full - half).max() < 150


def test_a_trailing_axis_of_one_is_dropped(tmp_path, models):
    array = head_array((34, 40, 7))
    nib.save(nib.Nifti1Image(array[..., None], oblique()), tmp_path / "mr.nii")
    nib.save(nib.Nifti1Image(array, oblique()), tmp_path / "plain.nii")
    for name in ("mr", "plain"):
        synthesize_case(tmp_path / f"{name}.nii", tmp_path / f"{name}_ct.nii", models)
    found, plain = (nib.load(tmp_path / f"{name}_ct.nii") for name in ("mr", "plain"))
    assert found.shape == (34, 40, 7)
    np.testing.assert_array_equal(found.affine, plain.affine)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(plain.dataobj))
