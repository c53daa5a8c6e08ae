"""The synthesize command on one real file: headers, formats, grids, types, models."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import sample
from scipy.spatial.transform import Rotation
from test_cli import ok
from test_volumes import CODES, affine_of
from tiny_models import files_in, head_array, untrained_checkpoint, write_head

from mrict_core import cli
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.grids import corner_gap_mm
from mrict_core.data.images.resample import itk_image
from mrict_core.data.images.volumes import ITK, NOTE, Volume, load_volume
from mrict_core.errors import MrictError
from mrict_core.inference import load_synthesizer
from mrict_core.inference.input_files import read_input
from mrict_core.inference.output_files import format_of, sidecar_path, write_ct
from mrict_core.models.catalogue import find
from mrict_core.pipeline.synthesis import load_models, synthesize_case

SECRET = "DOE^JOHN"


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


# -------------------------------------------------------------------------------------------------- models, small parts


def test_a_name_means_a_trained_variant(tmp_path, checkpoints, monkeypatch):
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path))
    with pytest.raises(MrictError, match="mk6_3_4"):
        find("mk6_3_4")
    folder = tmp_path / "run" / "mk6_3_4"
    untrained_checkpoint(folder / "best.pt", seed=1, epoch=0)
    with pytest.raises(MrictError, match="mk6_3_4"):
        find("mk6_3_4")
    path = untrained_checkpoint(folder / "best.pt", seed=1, epoch=1, epochs=1)  # so it says
    assert find("mk6_3_4") == path
    assert find(str(checkpoints / "a.pt")) == checkpoints / "a.pt"
    coronal, axial = load_models(["coronal=mk6_3_4", "mk6_3_4"], device="cpu")
    assert [m.as_dict()["plane"] for m in (coronal, axial)] == ["coronal", "axial"]


def test_the_name_of_an_output_says_its_format(tmp_path):
    assert [format_of(f"x{s}") for s in (".nii", ".NII.GZ", ".mha", ".nrrd")] == [".nii", ".nii.gz", ".mha", ".nrrd"]
    assert sidecar_path("a/b.c.nii.gz") == Path("a/b.c.json")
    volume = load_volume(write_head(tmp_path / "mr.nii"))
    with pytest.raises(MrictError, match="expected the MR's shape"):
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
    store, synthesizer = SliceStore(fresh_space.store), load_synthesizer(find("mk1"), device="cpu")
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


@pytest.mark.parametrize("name", ["brainweb_head/Task1/brain/BW04", "pelvis_bulk/Task1/pelvis/P3"])
def test_sample_files_keep_their_grid(name, tmp_path):
    """A few slices of each, through an untrained network of the full canvas."""
    whole = nib.load(sample(name) / "mr.nii.gz")
    middle = whole.shape[2] // 2
    few = whole.slicer[..., middle : middle + 3]
    nib.save(few, tmp_path / "mr.nii.gz")
    model = untrained_checkpoint(tmp_path / "m.pt", size=256)
    ok("synthesize", str(tmp_path / "mr.nii.gz"), "-o", str(tmp_path / "ct.nii.gz"), "--model", str(model))
    before, after = nib.load(tmp_path / "mr.nii.gz"), nib.load(tmp_path / "ct.nii.gz")
    assert after.shape == few.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        np.testing.assert_array_equal(after.header[field], before.header[field])
    hu = np.asarray(after.dataobj)
    assert 0.1 < (hu > -1024).mean()
    assert json.loads((tmp_path / "ct.json").read_text())["tiled"] is False
