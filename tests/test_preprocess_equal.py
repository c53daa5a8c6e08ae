"""Fast preprocessing gives the same bits as the plain forms that define it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import masks as plain_masks
from reference import preprocess as plain
from samples import sample
from scipy import ndimage

from mrict_core.data import masks
from mrict_core.data.cache.canvas import CropPad
from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.paths import ROOT

SEEDS = st.integers(0, 2**32 - 1)
REGIONS = {"brain": (5.0, 6.0), "pelvis": (8.0, 12.0)}


@pytest.fixture(scope="module", params=REGIONS)
def patients(request, tmp_path_factory) -> list[Path]:
    """Three phantoms of three centres, each with its own file order, one of them tilted."""
    root = tmp_path_factory.mktemp(request.param)
    return write_cohort(root, request.param, 1, 0, PhantomSpec(request.param, *REGIONS[request.param]), workers=1)


@pytest.mark.parametrize("size", [24, 41, 72])
def test_protocol_patient_is_its_plain_form(patients: list[Path], tmp_path: Path, size: int) -> None:
    store = preprocess(patients[0].parents[2], tmp_path / "store", region=patients[0].parent.name, size=size)
    plain.patients(patients, tmp_path / "plain", size)
    assert len(store.patients) == 3
    for patient in store.patients:
        for name in ("mr", "ct", "mask", "body"):
            found, expected = (tmp_path / kind / patient / f"{name}.npy" for kind in ("store", "plain"))
            assert found.read_bytes() == expected.read_bytes(), (patient, name)


@pytest.mark.parametrize("size", [24, 41, 72])
def test_protocol_predecessor_is_the_notebooks(patients: list[Path], tmp_path: Path, size: int) -> None:
    store = preprocess(
        patients[0].parents[2], tmp_path / "store", region=patients[0].parent.name, size=size, protocol="predecessor"
    )
    inputs, outputs = (np.load(path) for path in plain.notebooks(patients, tmp_path / "plain", size))
    assert inputs.dtype == outputs.dtype == np.float64
    mr = np.concatenate([store.slices(patient.name).mr for patient in patients])
    ct = np.concatenate([store.slices(patient.name).ct for patient in patients])
    np.testing.assert_array_equal(mr, (inputs.astype(np.float32) * 2 - 1).astype(np.float16))
    np.testing.assert_array_equal(ct, np.rint(outputs * 2000 - 1000))
    np.testing.assert_allclose(outputs * 2000 - 1000, ct, atol=1e-9)


def test_worker_processes_start_without_torch() -> None:
    code = "import sys, mrict_core.data.cache.preprocess; sys.exit(any(m in sys.modules for m in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(("name", "region"), [("synthrad_brain_axial", "brain"), ("pelvis_bulk", "pelvis")])
def test_real_samples_are_their_plain_form(tmp_path: Path, name: str, region: str) -> None:
    folders = sorted(sample(f"{name}/Task1/{region}").iterdir())[::24]
    (tmp_path / "source").mkdir()
    for folder in folders:
        (tmp_path / "source" / folder.name).symlink_to(folder)
    preprocess(tmp_path / "source", tmp_path / "store", region=region, size=200)
    plain.patients(folders, tmp_path / "plain", 200)
    for path in (tmp_path / "plain").glob("*/*.npy"):
        assert path.read_bytes() == (tmp_path / "store" / path.parent.name / path.name).read_bytes(), path


def volume(rng: np.random.RandomState, shape: tuple[int, int, int]) -> np.ndarray:
    """Return smoothed noise of several widths, partly in whole numbers, so that ties and specks occur."""
    smooth = sum(w * ndimage.gaussian_filter(rng.normal(size=shape), w) for w in (0.7, 2, 5))
    values = np.abs(smooth) ** rng.uniform(0.5, 3) * 10 ** rng.uniform(0, 3)
    return (np.rint(values) if rng.rand() < 0.5 else values).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_masks_are_their_plain_forms(seed: int) -> None:
    rng = np.random.RandomState(seed)
    shape = (*rng.randint(5, 40, 2), rng.choice([1, 2, 5, 9, 20]))
    mr, ct = volume(rng, shape), volume(rng, shape) - 1000
    order = rng.choice(["C", "F", "slices"])
    if order == "F":
        mr, ct = np.asfortranarray(mr), np.asfortranarray(ct)
    if order == "slices":  # as a file of coronal slices is seen
        mr = np.ascontiguousarray(mr.transpose(2, 0, 1)).transpose(1, 2, 0)[:, ::-1]
    spacing = rng.uniform(0.5, 6, 3)
    np.testing.assert_array_equal(masks.body_mask(mr, spacing), plain_masks.body_mask(mr, spacing))
    if mr.min() < mr.max() and ct.min() < ct.max():
        np.testing.assert_array_equal(masks.union_otsu_mask(mr, ct), plain_masks.union_otsu_mask(mr, ct))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("specks", [0, 1, 30, 400])
def test_a_nearly_empty_volume_is_treated_as_before(specks: int) -> None:
    mr = np.zeros((40, 44, 12), np.float32)
    mr.ravel()[np.random.RandomState(0).permutation(mr.size)[: specks + 1]] = 500
    np.testing.assert_array_equal(masks.body_mask(mr, (3, 3, 3)), plain_masks.body_mask(mr, (3, 3, 3)))


def between(values: np.ndarray, above: np.ndarray) -> float:
    """Return the variance between the two classes, which Otsu's threshold maximises."""
    share = above.mean()
    return share * (1 - share) * (values[above].mean() - values[~above].mean()) ** 2


@settings(max_examples=80, deadline=None)
@example(340)
@given(SEEDS)
def test_otsu_is_itks(seed: int) -> None:
    rng = np.random.RandomState(seed)
    shape = tuple(rng.randint(2, 12, 3))
    values = rng.choice(
        [
            lambda: rng.randint(-1024, 3000, shape),
            lambda: rng.randint(0, rng.randint(2, 400), shape),
            lambda: rng.choice([0, 1, 5, 900], shape),
            lambda: np.rint(rng.normal(rng.choice([0, 500], shape), 30)),
            lambda: rng.normal(0, 1, shape),
        ]
    )().astype(np.float32)
    if values.min() < values.max():
        found, expected = values > np.float64(masks._otsu_level(values)), plain_masks.otsu_mask(values)
        if not np.array_equal(found, expected):  # a value on the edge of a bin may fall on either side
            assert between(values, found) == pytest.approx(between(values, expected), rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_collecting_slices_is_applying_to_their_stack(seed: int) -> None:
    rng = np.random.RandomState(seed)
    rows, cols, size, top, left = (int(v) for v in (*rng.randint(1, 30, 3), *rng.randint(-35, 35, 2)))
    crop, stack = CropPad(size, rows, cols, top, left), rng.rand(4, rows, cols).astype(np.float32)
    np.testing.assert_array_equal(crop.collect(iter(stack), 4, -1, np.float32), crop.apply(stack, -1))
