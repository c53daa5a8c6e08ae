"""Volumes one voxel thick: one slice of its own plane, in every orientation and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import write_slice
from geometry import affines
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import sample

from mrict_core import metrics
from mrict_core.data.cache.patient import prepare_mr
from mrict_core.data.cache.preprocess import in_plane_shapes, preprocess
from mrict_core.data.checks.pairing import check_pair
from mrict_core.data.discovery import discover
from mrict_core.data.images.orders import PLANES, SliceOrder, own_plane
from mrict_core.data.images.volumes import Volume

THIN = {"sagittal": 0, "coronal": 1, "axial": 2}  # plane => axis of its one slice in an LPS or RAS file
CODES = ("RAS", "LPS", "SRA", "ALI", "PIR")


def test_a_volume_is_axial():
    for shape in ((5, 6, 7), (1, 1, 7), (1, 6, 1), (1, 1, 1)):
        assert own_plane(shape, np.eye(4)) == "axial"
        assert own_plane(shape, np.eye(4), "sagittal") == "sagittal"


@pytest.mark.parametrize("tilt_deg", [0, 30, -44])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("plane", PLANES)
def test_one_slice_has_the_plane_of_its_thin_axis(plane, code, tilt_deg):
    turn = np.radians(tilt_deg)
    tilted = np.eye(4)
    tilted[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    shape = [5, 6, 7]
    shape[THIN[plane]] = 1
    image = nib.Nifti1Image(np.zeros(shape, np.int16), tilted)
    ornt = nib.orientations.axcodes2ornt
    image = image.as_reoriented(nib.orientations.ornt_transform(ornt("RAS"), ornt(code)))
    assert own_plane(image.shape, image.affine) == plane
    order = SliceOrder.own(image.shape, image.affine)
    assert order == SliceOrder.toward(image.affine, PLANES[plane])
    assert image.shape[order.axes[0]] == 1


@settings(deadline=None, max_examples=60)
@given(affines(), st.sampled_from(sorted(PLANES)), st.integers(8, 20), st.integers(8, 20), st.integers(4, 24))
def test_one_slice_returns_exactly_to_its_file(affine, plane, rows, cols, size):
    order = SliceOrder.toward(affine, PLANES[plane])
    shape = np.zeros(3, int)
    shape[list(order.axes)] = 1, rows, cols
    values = np.arange(rows * cols, dtype=np.float32).reshape(shape)
    body = np.ones(shape, bool)
    prepared = prepare_mr(Volume(values, affine, Path("mr.nii.gz")), size, whole=True, body=body)
    assert prepared.mr.shape == (1, prepared.crop.size, prepared.crop.size)
    canvas = prepared.crop.apply(prepared.order.to_slices(values), -1024)
    np.testing.assert_array_equal(prepared.to_volume(canvas), values)


@pytest.mark.parametrize("plane", PLANES)
def test_the_file_order_of_one_slice_makes_no_difference(plane, tmp_path):
    """All orders of the axes give the same arrays, and every array returns to its own file."""
    for code in CODES:
        write_slice(tmp_path / code, plane, code=code)
    found = discover(tmp_path)
    assert set(in_plane_shapes(found)) == {{"axial": (46, 40), "coronal": (36, 40), "sagittal": (36, 46)}[plane]}
    store = preprocess(tmp_path, tmp_path / ".store", region="brain", size=48)
    assert (store.patients, store.warnings()) == (["ALI"], {})  # the others are its copies
    assert sorted(skip["patient"] for skip in store.skipped) == sorted(set(CODES) - {"ALI"})
    prepared = {path.parent.name: np.load(path) for path in (tmp_path / ".store").glob("*/ct.npy")}
    assert set(prepared) == set(CODES)
    for ct in prepared.values():
        np.testing.assert_array_equal(ct, prepared["ALI"])
    ct, mask, _ = store.reference("ALI")
    back = store.to_volume("ALI", store.slices("ALI").ct)
    np.testing.assert_array_equal(back[mask], ct.array[mask])
    assert back.shape == ct.array.shape
    assert store.plane("ALI") == plane
    assert store.meta("ALI").get("plane") == (None if plane == "axial" else plane)
    across, down, thick = (4.0, 5.0, 4.0) if plane != "axial" else (4.0, 4.0, 5.0)
    assert store.spacing_mm("ALI") == (thick, down, across)


def test_a_line_is_refused(tmp_path):
    write_slice(tmp_path / "good", "coronal")
    shutil.copytree(tmp_path / "good", tmp_path / "line")
    for role in ("mr", "ct", "mask"):
        nib.save(nib.load(tmp_path / "line" / f"{role}.nii.gz").slicer[:1], tmp_path / "line" / f"{role}.nii.gz")
    found = discover(tmp_path)
    assert [files.patient for files in found.patients] == ["good"]
    (skip,) = found.skipped
    assert skip.reason.endswith("line/mr.nii.gz: 1×1×36 voxels are a line; expected slices; export again")


def test_the_predecessor_keeps_axis_2(tmp_path):
    write_slice(tmp_path / "a", "axial")
    found = discover(tmp_path)
    assert in_plane_shapes(found, "predecessor") == [(40, 46)]
    store = preprocess(tmp_path, tmp_path / ".store", region="brain", protocol="predecessor", size=48)
    assert (store.plane("a"), store.meta("a")["order"]["axes"]) == ("axial", [2, 0, 1])


def test_slice_orders_are_not_searched_in_one_slice():
    """In one coronal slice the last axis holds rows, not slices."""
    image = np.random.default_rng(0).normal(size=(40, 1, 1)) + np.linspace(0, 9, 40)
    mixed = image[:, :, np.concatenate((np.arange(0, 40, 2), np.arange(1, 40, 2)))]
    assert not [line for line in check_pair(image, mixed * 100, (1, 1, 1)) if "slices" in line]
    whole = [np.repeat(one, 8, axis=1) for one in (image, mixed * 100)]
    assert "with its slices" in check_pair(*whole, (1, 1, 1))[0]


@pytest.mark.parametrize(("plane", "finite"), [("axial", True), ("coronal", False), ("sagittal", False)])
def test_beams_need_an_axial_plane(plane, finite):
    shape = [30, 30, 30]
    shape[THIN[plane]] = 1
    ct = np.random.default_rng(0).uniform(-100, 100, shape)
    case = metrics.Case(ct, ct + 10, np.ones(shape, bool), np.eye(4), THIN[plane])
    found = metrics.values(metrics.keys("clinical"), case)
    assert np.isfinite(found["wepl_mae_mm"]) == finite
    assert found["me_hu"] == pytest.approx(10, abs=1e-3)


def test_real_slices_of_three_planes_are_all_used(tmp_path):
    roots = []
    for plane in PLANES:
        source = sample(f"synthrad_brain_{plane}") / "Task1" / "brain"
        roots.append(tmp_path / plane)
        roots[-1].mkdir()
        for centre in "ABC":
            for patient in sorted(source.glob(f"1B{centre}*"))[:2]:
                (roots[-1] / patient.name).symlink_to(patient)
    store = preprocess(roots, tmp_path / "store", region="brain", size=288)
    assert (len(store.patients), store.skipped, store.warnings(), store.remarks) == (18, [], {}, [])
    for patient in store.patients:
        assert store.plane(patient) == (patient.partition("~")[2] or "axial")
        assert store.spacing_mm(patient) == (1, 1, 1)
        ct, mask, _ = store.reference(patient)
        slices = store.slices(patient)
        assert slices.mr.shape == (1, 288, 288)
        np.testing.assert_array_equal(store.to_volume(patient, slices.ct)[mask], ct.array[mask])
        assert store.meta(patient)["tissue_outside_body"] < 0.15
        assert store.meta(patient)["air_in_body"] < 0.1
