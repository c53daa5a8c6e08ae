"""What notebook 06 shows of MK7: single steps, both kinds of weights, and the planes of a patient."""

from __future__ import annotations

import numpy as np
import pytest

from mrict_core.data.batches import PairedSlices, Slice
from mrict_core.evaluation.samples import plane_rows
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.inference.synthesizer import merged
from mrict_core.pipeline import TrainSettings, few_steps, open_data, predictions_by_plane, prepare_run
from mrict_core.pipeline.outcome import Outcome
from mrict_core.training.loop import train
from mrict_core.training.run import Run

SMOKE = get_profile("smoke")


def run_of(space, name: str) -> Run:
    return prepare_run(get(name), SMOKE, space, TrainSettings(device="cpu"))


def test_steps_from_the_start_follow_the_schedule_and_repeat(fresh_space):
    run = run_of(fresh_space, "mk7_2")
    steps = few_steps(run, 6, every=3)
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert steps["lr"].iloc[0] < steps["lr"].iloc[1]
    assert steps["lr"].iloc[1:].is_monotonic_decreasing
    assert np.flatnonzero(steps["raw_mae_hu"].notna()).tolist() == [2, 5]
    assert (steps["raw_mae_hu"] != steps["averaged_mae_hu"]).all()
    assert np.isfinite(steps[["loss_g", "grad_norm"]]).all(axis=None)
    assert steps.equals(few_steps(run, 6, every=3))


def test_steps_after_a_training_start_from_its_weights_and_change_no_file(fresh_space):
    run = run_of(fresh_space, "mk7_2")
    last = train(run.variant, SMOKE, fresh_space, run.settings, report=lambda line: None).last
    before = last.read_bytes()
    steps = few_steps(run, 2, every=1, after=last)
    assert (steps["lr"] == run.variant.optimizer["G"].lr).all()
    assert steps["loss_g"].iloc[0] != few_steps(run, 1, every=1)["loss_g"].iloc[0]
    assert last.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "planes"), [("mk7_1", ["axial"]), ("mk7_2", ["axial", "coronal", "sagittal", "merged"])]
)
def test_each_plane_predicts_the_whole_patient(fresh_space, name, planes):
    run = run_of(fresh_space, name)
    training = train(run.variant, SMOKE, fresh_space, run.settings, report=lambda line: None)
    store, split = open_data(fresh_space)
    found = predictions_by_plane(Outcome(run.variant, training, {}), fresh_space, split.test[0], "cpu")
    assert list(found) == planes
    assert {hu.shape for hu in found.values()} == {store.slices(split.test[0]).ct.shape}
    *alone, final = found.values()
    assert np.array_equal(final, merged(alone or [final]))


def test_rows_are_the_slices_that_a_network_of_several_planes_sees(space):
    store, split = open_data(space)
    patient, planes = split.test[0], ("axial", "coronal", "sagittal")
    ct = np.asarray(store.slices(patient).ct, np.float32)
    dataset = PairedSlices(store, [patient], view=Slice(planes=planes))
    rows = plane_rows(store, patient, planes, ct)
    assert [row["patient"] for row in rows] == [f"{patient} {plane}" for plane in planes]
    for row, plane in zip(rows, planes, strict=True):
        batch = dataset[dataset.index.index((patient, plane, row["z"]))]
        assert np.array_equal(row["mr"], batch.real_A[0, 0])
        assert np.allclose(row["sct"], row["ct"], atol=1)
        assert np.array_equal(row["mask"], batch.mask[0, 0])
        assert np.mean((row["mr"] > -1) == (row["body"] > 0)) > 0.95, "the resampled MR ends within half a slice"
    spacing_mm = store.spacing_mm(patient)
    assert [row["spacing_mm"] for row in rows] == [spacing_mm[1:], (spacing_mm[2],) * 2, (spacing_mm[1],) * 2]
