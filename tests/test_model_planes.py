"""A model trained on three planes: predicted in each and merged, on the cache's slices and on any volume alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from test_synthesize_volume import expected_copy, turned
from tiny_models import head_array, run_of, untrained_checkpoint, with_network, write_head
from torch import nn

from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.volumes import Volume
from mrict_core.data.masks import outline
from mrict_core.data.splits import load_split
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.files import read_json
from mrict_core.inference import Synthesizer, load_synthesizer
from mrict_core.inference.gate import before
from mrict_core.inference.volume import COLS, ROWS, SynthesisOptions, flips_of, synthesize_volume
from mrict_core.pipeline.synthesis import load_model, load_models, synthesize_case
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings

ALL = ["axial", "coronal", "sagittal"]
SMOKE = get_profile("smoke")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("models") / "three.pt", name="mk7_2", planes=ALL)


@pytest.fixture(scope="module")
def three(path) -> Synthesizer:
    return load_synthesizer(path, device="cpu")


class Middle(nn.Module):
    """Return the middle slice of a slab."""

    def forward(self, x):
        return x[:, x.shape[1] // 2 : x.shape[1] // 2 + 1]


class Smooth(Middle):
    """Return the middle slice smoothed over five pixels: their size in mm shows, their place on the canvas does not."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=1, padding=2)

    def forward(self, x):
        return self.pool(super().forward(x))


@pytest.fixture(scope="module")
def copying(three) -> Synthesizer:
    return with_network(three, Middle())


def volume_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    return Volume(head_array(shape, spacing), np.diag([*spacing, 1.0]), Path("head.nii.gz"))


# ------------------------------------------------------------------------------------------------------- whole volumes


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SAL", "ASR"])
def test_what_is_copied_in_three_planes_lands_in_its_place(code, copying):
    volume = turned(volume_of((30, 34, 26), (6.0, 6.0, 6.0)), code)
    found = synthesize_volume(copying, volume)
    np.testing.assert_allclose(found.hu, expected_copy(volume, copying), atol=0.01)
    assert (found.facts["planes"], found.facts["passes"], found.warnings) == (ALL, 3, ())


@pytest.mark.parametrize("code", ["LPS", "PIR", "ASR"])
@pytest.mark.parametrize("spacing", [(6.0, 6.0, 6.0), (5.0, 5.0, 6.0), (4.0, 4.0, 12.0)])
def test_a_reoriented_volume_gives_the_reoriented_ct(code, spacing, three):
    straight = volume_of((30, 34, 14), spacing)
    one, other = (synthesize_volume(three, volume) for volume in (straight, turned(straight, code)))
    moved = turned(Volume(one.hu, straight.affine, straight.path), code).array
    np.testing.assert_allclose(other.hu, moved, atol=0.5)  # HU; resampled from the other end, the last bits differ
    assert one.hu[one.body].std() > 1


@pytest.mark.parametrize("spacing", [(5.0, 5.0, 6.0), (4.0, 4.0, 12.0)])
def test_thick_slices_return_on_their_grid(spacing, copying):
    """Rows of coronal and sagittal slices are resampled; the axial slabs keep their distance, as in training."""
    volume = volume_of((40, 44, 20), spacing)
    volume = dataclasses.replace(volume, array=ndimage.gaussian_filter(volume.array, 1.0))
    found = synthesize_volume(copying, volume)
    core = ndimage.binary_erosion(found.body, iterations=2)
    assert core.sum() > 1000
    assert np.abs(found.hu - expected_copy(volume, copying))[core].mean() < 60, "of the 4024 HU of the MR's range"
    assert found.facts["network_spacing_mm"] == [spacing[2], *spacing[:2]]
    assert found.warnings == ()


def test_a_sagittal_scan_of_thick_slices_gets_square_axial_pixels_first(copying):
    """5 mm from slice to slice are 5 mm wide columns of its axial slices: coronal rows of 5 mm would be a loss."""
    volume = volume_of((16, 60, 50), (10.0, 3.0, 3.0))
    volume = dataclasses.replace(volume, array=ndimage.gaussian_filter(volume.array, 1.0))
    found = synthesize_volume(copying, volume)
    assert found.facts["network_spacing_mm"] == [3.0, 3.0, 3.0]
    assert [text for text in found.warnings if "3 x 10 mm" in text]
    core = ndimage.binary_erosion(found.body, iterations=2)
    assert np.abs(found.hu - expected_copy(volume, copying))[core].mean() < 100


def test_a_sheared_volume_has_planes_too(three):
    affine = np.diag([5.0, 5.0, 6.0, 1.0])
    affine[0, 1] = 1.0
    found = synthesize_volume(three, Volume(head_array((34, 40, 20), (5.0, 5.0, 6.0)), affine, Path("sheared.nii")))
    assert (found.facts["planes"], found.warnings) == (ALL, ())
    assert np.isfinite(found.hu).all()


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_a_thin_stack_is_predicted_in_its_full_plane_alone(plane, axis, three):
    shape = [40, 44, 36]
    shape[axis] = 3
    found = synthesize_volume(three, volume_of(tuple(shape), (5.0, 5.0, 5.0)))
    others = " and ".join(other for other in ALL if other != plane)
    assert found.facts["planes"] == [plane]
    assert found.warnings == (f"its {others} slices are narrower than 60 mm: predicted in its {plane} ones alone",)


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_a_gate_of_axial_slices_does_not_judge_one_of_another_plane(plane, axis, three):
    shape = [40, 44, 36]
    shape[axis] = 1
    facts = dataclasses.replace(three.facts, fingerprint={"protocol": "patient", "features": {}})
    found = before(volume_of(tuple(shape), (5.0, 5.0, 5.0)), facts)
    assert [finding.name for finding in found] == ["no_fingerprint" if plane == "axial" else "other_plane"]


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_one_slice_is_predicted_in_its_plane_alone(plane, axis, copying, three):
    shape = [40, 44, 36]
    shape[axis] = 1
    volume = volume_of(tuple(shape), (5.0, 5.0, 5.0))
    found = synthesize_volume(copying, volume)
    assert (found.facts["planes"], found.facts["passes"], found.facts["slices"]) == ([plane], 1, 1)
    np.testing.assert_allclose(found.hu, expected_copy(volume, copying), atol=0.01)
    alone = synthesize_volume(
        dataclasses.replace(three, facts=dataclasses.replace(three.facts, planes=[plane])), volume
    )
    np.testing.assert_array_equal(synthesize_volume(three, volume).hu, alone.hu)
    flips = len(flips_of(three, plane))
    if flips == 1:
        with pytest.raises(MrictError, match=r"head\.nii\.gz: one model gives one prediction of its sagittal"):
            synthesize_volume(three, volume, SynthesisOptions(uncertainty=True, tta=True))
    else:
        spread = synthesize_volume(three, volume, SynthesisOptions(uncertainty=True, tta=True)).sd_hu
        assert np.isfinite(spread).all()


# -------------------------------------------------------------------------------------------------- merging and spread


def test_flips_follow_the_training_and_the_plane(three, tmp_path):
    """MK7 mirrors left and right alone, which a sagittal slice does not show; MK1 also turns slices upside down."""
    assert {plane: flips_of(three, plane) for plane in ALL} == {
        "axial": [(), (COLS,)],
        "coronal": [(), (COLS,)],
        "sagittal": [()],
    }
    old = load_synthesizer(untrained_checkpoint(tmp_path / "old.pt", name="mk1"), device="cpu")
    assert flips_of(old, "axial") == [(), (COLS,), (ROWS,), (ROWS, COLS)]
    assert flips_of(old, "sagittal") == [(), (ROWS,)]


def test_planes_are_merged_by_their_mean_and_spread_without_flips(three):
    volume = volume_of((30, 34, 20), (6.0, 6.0, 6.0))
    planes = [dataclasses.replace(three.facts, planes=[plane]) for plane in ALL]
    single = np.stack([synthesize_volume(dataclasses.replace(three, facts=facts), volume).hu for facts in planes])
    assert len({one.tobytes() for one in single}) == 3
    found = synthesize_volume(three, volume, SynthesisOptions(uncertainty=True))
    np.testing.assert_allclose(found.hu, single.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(found.sd_hu, single.std(axis=0, ddof=1), atol=0.05)
    flipped = synthesize_volume(three, volume, SynthesisOptions(uncertainty=True, tta=True))
    assert flipped.facts["passes"] == 5
    assert np.isfinite(flipped.sd_hu).all()
    np.testing.assert_array_equal(flipped.sd_hu[~outline(flipped.body, volume.spacing_mm)], 0)


# ------------------------------------------------------------------------------------------------- names and the record


def test_a_prefix_chooses_one_of_its_planes(path):
    models = load_models([f"coronal={path}", str(path)], device="cpu")
    assert [model.synthesizer.facts.all_planes for model in models] == [["coronal"], ALL]
    assert [model.as_dict()["plane"] for model in models] == ["coronal", "axial,coronal,sagittal"]
    with pytest.raises(MrictError, match="given twice"):
        load_models([f"coronal={path}", f"coronal={path}"], device="cpu")


def test_the_record_names_the_planes(path, tmp_path):
    mr, keys = write_head(tmp_path / "mr.nii.gz", (30, 34, 20), spacing_mm=(6.0, 6.0, 6.0)), []
    for prefix, planes in (("", ALL), ("sagittal=", ["sagittal"])):
        model = load_model(f"{prefix}{path}", device="cpu")
        target = tmp_path / f"ct{len(keys)}.nii.gz"
        facts = synthesize_case(mr, target, [model])
        written = read_json(target.with_name(target.name.replace(".nii.gz", ".json")))
        assert written["planes"] == facts["planes"] == planes
        assert written["models"][0]["plane"] == ",".join(planes)
        keys.append(written["key"])
    assert len(set(keys)) == 2
    with pytest.raises(MrictError, match=r"one prediction of its sagittal slices, .*; give several models$"):
        synthesize_case(mr, tmp_path / "x.nii.gz", [model], uncertainty=tmp_path / "sd.nii.gz")
    assert not list(tmp_path.glob("x*"))
    facts = synthesize_case(mr, tmp_path / "y.nii.gz", load_models([f"axial={path}"]), uncertainty=tmp_path / "sd.nii")
    assert (facts["options"]["tta"], facts["passes"]) == (True, 2), "a single plane needs its flips for a spread"


# --------------------------------------------------------------------------------------------------- the cache's slices


def on_both_ways(model: Synthesizer, store: SliceStore, patient: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the HU of a patient's mask: as evaluated, as synthesised from its file; and of the CT."""
    _, mask, mr = store.reference(patient)
    found = synthesize_volume(model, mr)
    inside = mask & found.body & (store.to_volume(patient, store.slices(patient).body.astype(np.int16)) == 1)
    return store.to_volume(patient, model(store, patient))[inside], found.hu[inside], mr.array[inside]


@pytest.mark.parametrize("planes", [["axial"], ["coronal"], ["sagittal"], ["axial", "coronal"], ALL])
def test_evaluation_sees_the_slices_that_synthesis_sees(planes, three, space):
    """Slices 5 mm apart become rows of 4 mm both ways; a network that smooths pixels would show any other size."""
    store = SliceStore(space.store)
    facts = dataclasses.replace(three.facts, planes=planes)
    model = dataclasses.replace(with_network(three, Smooth()), facts=facts)
    evaluated, synthesised, _ = on_both_ways(model, store, store.patients[0])
    assert len(evaluated) > 1000
    assert evaluated.std() > 300
    difference = np.abs(evaluated - synthesised)
    assert difference.mean() < 2, "HU; the cache holds float16"


def test_a_model_of_other_planes_needs_no_axial_one(three, space):
    store = SliceStore(space.store)
    hu = dataclasses.replace(three, facts=dataclasses.replace(three.facts, planes=["coronal"]))(
        store, store.patients[0]
    )
    assert np.isfinite(hu).all()
    assert hu.shape == store.slices(store.patients[0]).ct.shape


def test_a_trained_model_of_three_planes_predicts_test_patients_alike_both_ways(fresh_space):
    result = train(get("mk7_2"), SMOKE, fresh_space, TrainSettings(steps=30), report=lambda line: None)
    model, store = load_synthesizer(run_of(fresh_space, "mk7_2").best, device="cpu"), SliceStore(fresh_space.store)
    assert (result.complete, model.facts.planes) == (True, ALL)
    for patient in load_split(fresh_space.split_file).test:
        evaluated, synthesised, _ = on_both_ways(model, store, patient)
        assert evaluated.std() > 10
        assert np.abs(evaluated - synthesised).mean() < 2
