"""Coronal and sagittal slices cut from axial ones: orientation, resampling, round trip, and pairs of all planes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_slice
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_models import head_array

from mrict_core.data.batches import VIEWS, PairedSlices, loader
from mrict_core.data.cache.patient import PreparedMr, prepare_mr
from mrict_core.data.images.volumes import Volume
from mrict_core.data.planes import TURNS, Cut, full_planes
from mrict_core.errors import MrictError
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.hu import AIR_FLOOR_HU, SYNTHRAD2023
from mrict_core.paths import Workspace
from mrict_core.pipeline import prepare_data
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run

SMOKE = get_profile("smoke")
ALL = ["axial", "coronal", "sagittal"]
SIZES = st.tuples(st.integers(1, 40), st.integers(2, 12), st.integers(2, 12))  # slices, rows, columns
SPACINGS = st.tuples(*[st.floats(0.4, 9.0)] * 3)


def prepared(plane: str, size: int, spacing: float = 4.0, shape=(40, 46, 30)) -> PreparedMr:
    volume = Volume(head_array(shape, (spacing,) * 3), np.diag([*(spacing,) * 3, 1.0]), Path("head.nii"))
    return prepare_mr(volume, size, plane=plane)


# ----------------------------------------------------------------------------------------------------------- the cut


@pytest.mark.parametrize("plane", list(TURNS))
@pytest.mark.parametrize("size", [64, 32])
def test_a_cut_is_what_the_volume_prepared_in_that_plane_is(plane, size):
    """Pixel for pixel on cubic voxels: which way is up, what is left, and where the body is on the canvas."""
    axial, own = prepared("axial", size), prepared(plane, size)
    cut = Cut(plane, len(axial.z), axial.order.spacing_mm(np.diag([4.0, 4.0, 4.0, 1.0])))
    canvases = cut.canvas(cut.stack(axial.mr), size, -1)
    first = axial.crop.top if plane == "coronal" else axial.crop.left  # slice 0 of the cut, in the volume
    shared = [k for k, z in enumerate(own.z) if 0 <= z - first < size]
    assert len(shared) >= min(size, 30)
    np.testing.assert_array_equal(canvases[own.z[shared] - first], own.mr[shared])
    mirrored = np.abs(canvases[own.z[shared] - first][:, :, ::-1] - own.mr[shared]).mean()
    assert mirrored > 0.01, "the head does not look like its mirror image"


@settings(max_examples=60, deadline=None)
@given(shape=SIZES, plane=st.sampled_from(list(TURNS)), spacing=st.floats(0.4, 9.0), seed=st.integers(0, 9))
def test_cubic_voxels_return_exactly(shape, plane, spacing, seed):
    axial = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    cut = Cut(plane, len(axial), (spacing,) * 3)
    canvases = cut.canvas(cut.stack(axial), cut.tall(32, 32), -1)
    np.testing.assert_array_equal(cut.axial(canvases), axial)


@settings(max_examples=60, deadline=None)
@given(shape=SIZES, plane=st.sampled_from(list(TURNS)), spacing=SPACINGS)
def test_other_voxels_return_closely(shape, plane, spacing):
    """A smooth image survives the way to square pixels and back, at its own place: a shift by one slice would show."""
    cut = Cut(plane, shape[0], spacing)
    assume(cut.rows >= shape[0])  # slices at least as thick as pixels
    along = np.sin(np.arange(shape[0]) / 4)[:, None, None].astype(np.float32)
    axial = along + np.arange(shape[1], dtype=np.float32)[:, None] / 9 + np.arange(shape[2], dtype=np.float32) / 5
    back = cut.axial(cut.canvas(cut.stack(axial), cut.tall(32, 32), -1))
    assert back.shape == shape
    np.testing.assert_allclose(back, axial, atol=0.07)


@settings(max_examples=60, deadline=None)
@given(
    shape=SIZES, plane=st.sampled_from(list(TURNS)), spacing=SPACINGS, seed=st.integers(0, 9), height=st.integers(2, 70)
)
def test_masks_stay_masks_and_images_in_their_range(shape, plane, spacing, seed, height):
    cut, random = Cut(plane, shape[0], spacing), np.random.default_rng(seed)
    mask = random.integers(0, 2, shape).astype(np.uint8)
    made = cut.canvas(cut.stack(mask), height, 0, nearest=True)
    across = shape[TURNS[plane][0]], height, shape[TURNS[plane][2]]
    assert made.shape == across
    assert set(np.unique(made)) <= {0, 1}
    image = random.uniform(-0.5, 1, shape).astype(np.float16)
    grey = cut.canvas(cut.stack(image), height, -1)
    inside = grey[grey != -1]
    assert image.min() - 1e-3 <= inside.min(initial=1)
    assert inside.max(initial=-1) <= image.max() + 1e-3
    assert (grey == -1).any() == (height > cut.rows)


@pytest.mark.parametrize("plane", list(TURNS))
def test_rows_that_a_low_canvas_loses_are_nan_and_no_others(plane):
    axial = np.arange(20 * 6 * 6, dtype=np.float32).reshape(20, 6, 6)
    cut = Cut(plane, 20, (1.0, 1.0, 1.0))
    back = cut.axial(cut.canvas(cut.stack(axial), 12, -1))
    lost = np.isnan(back).all(axis=(1, 2))
    assert np.flatnonzero(~lost).tolist() == list(range(4, 16)), "half of the lost rows are at either end"
    np.testing.assert_array_equal(back[4:16], axial[4:16])
    assert [cut.tall(size, 32) for size in (6, 20, 64)] == [32, 20, 64]
    assert [Cut(plane, 20, (3.0, 1.0, 1.0)).tall(32, multiple) for multiple in (32, 256)] == [64, 256]


@pytest.mark.parametrize(
    ("sides_mm", "planes"),
    [
        ((60, 200, 180), ALL),
        ((59, 200, 180), ["axial"]),
        ((160, 200, 10), ["sagittal"]),
        ((160, 10, 180), ["coronal"]),
        ((10, 10, 180), ALL),
    ],
)
def test_planes_without_a_short_side(sides_mm, planes):
    assert full_planes(ALL, sides_mm) == planes


def test_pixels_become_square():
    """Rows take the size of the columns: of the axial columns in a coronal slice, of the axial rows in a sagittal."""
    spacing = (6.0, 2.0, 3.0)
    assert [Cut(plane, 10, spacing).rows for plane in TURNS] == [20, 30]


# ------------------------------------------------------------------------------------------------- pairs of all planes


class Store:
    """A dataset cache in memory: patients of random slices, with a mask that leaves the first column out."""

    size, window = 32, SYNTHRAD2023

    def __init__(self, **patients: tuple) -> None:  # name => slices, spacing_mm, plane
        self.records = patients
        self.patients = sorted(patients)
        self.arrays = {name: self._slices(k, *record) for k, (name, record) in enumerate(patients.items())}

    def _slices(self, seed: int, count: int, spacing: tuple, plane: str) -> SimpleNamespace:
        random, shape = np.random.default_rng(seed), (count, self.size, self.size)
        mask = np.zeros(shape, np.uint8)
        mask[:, 8:20, 6:25] = 1
        mr = np.where(mask, random.uniform(-0.9, 1, shape), -1).astype(np.float16)
        ct = np.where(mask, random.integers(-900, 1500, shape), AIR_FLOOR_HU).astype(np.int16)
        return SimpleNamespace(mr=mr, ct=ct, mask=mask)

    def counts(self) -> dict[str, int]:
        return {name: record[0] for name, record in self.records.items()}

    def subjects(self) -> dict[str, str]:
        return {name: name for name in self.records}

    def spacing_mm(self, name: str) -> tuple:
        return self.records[name][1]

    def plane(self, name: str) -> str:
        return self.records[name][2]

    def slices(self, name: str) -> SimpleNamespace:
        return self.arrays[name]


THICK, CUBIC = (5.0, 2.0, 2.0), (2.0, 2.0, 2.0)
STORE = Store(a=(9, THICK, "axial"), b=(40, CUBIC, "axial"), c=(1, CUBIC, "axial"), d=(1, CUBIC, "coronal"))


def pairs(patients: str, view: dict, keep=None, store: Store = STORE) -> PairedSlices:
    name = view.pop("name", "slice")
    return PairedSlices(store, list(patients), keep, VIEWS.build(name, view))


@pytest.mark.parametrize(
    ("planes", "patients", "counts"),
    [
        ([], "abcd", {"a": 9, "b": 40, "c": 1, "d": 1}),
        (["axial"], "ab", {"a": 9, "b": 40}),
        (["coronal"], "ab", {"a": 12, "b": 12}),  # rows 8 to 19 of the canvas hold mask
        (["sagittal"], "ab", {"a": 19, "b": 19}),
        (ALL, "abcd", {"a": 9 + 12 + 19, "b": 40 + 12 + 19, "c": 1, "d": 1}),
    ],
)
def test_a_plane_gives_its_slices_with_mask(planes, patients, counts):
    dataset = pairs(patients, {"planes": planes})
    found = [patient for patient, *_ in dataset.index]
    assert {patient: found.count(patient) for patient in patients} == counts
    assert len(set(dataset.index)) == len(dataset.index)
    assert {plane for patient, plane, _ in dataset.index if patient == "d"} <= {"coronal"}


@pytest.mark.parametrize("view", [{"planes": ALL}, {"name": "slab", "radius": 2, "planes": ALL}])
def test_slices_of_all_planes_make_one_batch(view):
    dataset = pairs("abcd", dict(view))
    for batch in loader(dataset, 50):
        assert batch.real_A.shape[1:] == (dataset.view.in_channels, 32, 32)
        assert batch.real_B.shape == batch.mask.shape == (len(batch), 1, 32, 32)
        assert batch.mask.flatten(1).amax(1).min() == 1, "every slice has mask"
        assert set(batch.mask.unique().tolist()) <= {0.0, 1.0}
        assert -1 <= batch.real_A.min() <= batch.real_A.max() <= 1
        assert -1 <= batch.real_B.min() <= batch.real_B.max() <= 1
    every = loader(dataset, len(dataset))
    (whole,) = every
    assert whole.mirrors.tolist() == [plane != "sagittal" for _, plane, _ in dataset.index]


@pytest.mark.parametrize("plane", list(TURNS))
def test_a_slice_of_a_plane_pairs_the_same_voxels(plane):
    """MR, CT and mask come from one place: on cubic voxels each pixel is a voxel of the stored volume."""
    dataset, slices = pairs("b", {"planes": [plane]}), STORE.slices("b")
    at = dataset.index.index(("b", plane, 10))
    batch, rows = dataset[at], np.arange(39, -1, -1)[4:36]  # from the head down; the canvas loses four at either end
    voxels = (rows, 10) if plane == "coronal" else (rows, slice(None), 10)
    np.testing.assert_array_equal(batch.real_A[0, 0], slices.mr[voxels].astype(np.float32))
    np.testing.assert_allclose(STORE.window.to_hu(batch.real_B)[0, 0], slices.ct[voxels], atol=1e-3)
    np.testing.assert_array_equal(batch.mask[0, 0], slices.mask[voxels])


def test_a_slice_whose_mask_the_canvas_loses_is_none():
    """The mask of this patient is at the head alone, above what a canvas of 32 rows shows."""
    store = Store(a=(80, CUBIC, "axial"))
    store.arrays["a"].mask[:70] = 0
    assert pairs("a", {"planes": ["axial", "coronal"]}, store=store).index == [("a", "axial", k) for k in range(80)]


def test_a_slab_reaches_its_neighbours_along_the_cut_and_repeats_the_ends():
    dataset, slices = pairs("b", {"name": "slab", "radius": 1, "planes": ["coronal"]}), STORE.slices("b")
    batch = dataset[dataset.index.index(("b", "coronal", 8))]
    for channel, row in enumerate((7, 8, 9)):
        np.testing.assert_array_equal(batch.real_A[0, channel], slices.mr[35:3:-1, row].astype(np.float32))
    thin = Store(a=(1, CUBIC, "axial"), b=(2, CUBIC, "axial"))
    for patient, position, expected in (
        ("a", 0, [0, 0, 0, 0, 0]),
        ("b", 0, [0, 0, 0, 1, 1]),
        ("b", 1, [0, 0, 1, 1, 1]),
    ):
        slab = pairs(patient, {"name": "slab"}, store=thin)[position].real_A[0]
        np.testing.assert_array_equal(slab, thin.slices(patient).mr[expected].astype(np.float32))


def test_a_patient_of_whom_some_slices_are_kept_gives_no_other_plane():
    kept = np.array([1, 4])
    found = pairs("ab", {"planes": ["axial", "coronal"]}, {"a": kept, "b": np.arange(40)})
    assert [row for row in found.index if row[0] == "a"] == [("a", "axial", 1), ("a", "axial", 4)]
    assert sum(row[0] == "b" for row in found.index) == 40 + 12
    with pytest.raises(MrictError, match="no slice"):
        pairs("a", {"planes": ["coronal"]}, {"a": kept})


def test_planes_that_are_all_cut_are_validated_in_full(fresh_space):
    coronal = with_values(get("mk7_2"), {"data.view.planes": ["coronal"]})
    few = dataclasses.replace(SMOKE, validation_slices=2)
    every, some = (prepare_run(coronal, profile, fresh_space, TrainSettings()) for profile in (SMOKE, few))
    assert [one.index for one in some.validation_sets()] == [one.index for one in every.validation_sets()]


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ("axial", "planes is axial, expected a list"),
        (["axial", "axial"], "expected a list of different planes"),
        (["coronel"], "did you mean 'coronal'"),
        ([["axial"]], "unknown plane"),
        ({"axial": 1}, "expected a list"),
        (None, "planes is None, expected a list"),
        (3, "planes is 3, expected a list"),
    ],
)
@pytest.mark.parametrize("view", ["slice", "slab"])
def test_wrong_planes_are_refused(view, planes, message):
    with pytest.raises(MrictError, match=message):
        VIEWS.check(view, {"planes": planes}, "data.view")


# --------------------------------------------------------------------------------- what patients of one slice can give


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Workspace:
    """Nine people of one axial slice each."""
    root = tmp_path_factory.mktemp("single")
    for seed, patient in enumerate(f"1B{centre}{number:03d}" for centre in "ABC" for number in (1, 2, 3)):
        write_slice(root / "Task1" / "brain" / patient, "axial", seed)
    return prepare_data("smoke", str(root), report=lambda line: None).workspace


def refused(name: str, changes: dict, space: Workspace, **settings) -> str:
    with pytest.raises(MrictError) as caught:
        train(with_values(get(name), changes), SMOKE, space, TrainSettings(**settings), report=lambda line: None)
    assert not (space.checkpoints / name).exists(), "nothing is written"
    return str(caught.value)


def test_planes_that_no_patient_can_give_are_refused_before_training(single):
    text = refused("mk7_2", {}, single)
    assert text.startswith("mk7_2: data.view.planes has coronal, sagittal, which no training patient gives: a single")
    text = refused("mk7_2", {"data.view.planes": ["coronal"]}, single)
    assert "of 1BA001, 1BA002, 1BA003 and 6 more there is only one axial slice" in text


def test_a_cap_that_cuts_every_patient_leaves_no_plane(fresh_space):
    assert "a patient cut short by max_pairs" in refused("mk7_2", {}, fresh_space, max_pairs=5)


def test_a_slab_of_single_slices_repeats_them_and_says_so_once(single):
    lines: list[str] = []
    result = train(get("mk7_1"), SMOKE, single, TrainSettings(steps=2), report=lines.append)
    assert result.complete
    said = [line for line in lines if "single slice" in line]
    assert said == ["mk7_1: every patient is a single slice, so its slab repeats it; view slice does the same, faster"]
