"""The mean of several models: scored like a model, shown like one, and refused where it would mean nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_cli import error_of, ok
from tiny_models import untrained_checkpoint, write_head

from mrict_core.errors import MrictError
from mrict_core.evaluation import read_metrics
from mrict_core.evaluation.ensembles import mean_predictions, members_of
from mrict_core.evaluation.predictions import Predictions
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.files import read_json, write_json
from mrict_core.inference.volume import SynthesisOptions, check_models
from mrict_core.paths import Workspace, workspace
from mrict_core.pipeline import (
    current_records,
    evaluate_mean,
    evaluate_variant,
    open_data,
    predictions_of,
    prepare_data,
)
from mrict_core.pipeline.report import write_report
from mrict_core.pipeline.synthesis import load_models
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings

SMOKE = get_profile("smoke")
NAMES = ("mk1", "unet_l1")
NAME = "mean(mk1+unet_l1)"


@pytest.fixture(scope="module")
def scored(cohort, tmp_path_factory) -> Workspace:
    """A workspace with two scored variants, and their mean."""
    root = tmp_path_factory.mktemp("ensemble")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MRICT_CHECKPOINTS", "MRICT_REPORTS"):
            patch.setenv(name, str(root / name.lower()))
        prepare_data("smoke", str(cohort))
        own = workspace("smoke", str(cohort))
        for name in NAMES:
            train(get(name), SMOKE, own, TrainSettings(steps=2), report=lambda line: None)
            evaluate_variant(get(name), SMOKE, own, device="cpu", report=lambda line: None)
        evaluate_mean(NAMES, SMOKE, own, device="cpu", report=lambda line: None)
        yield own


def record_of(space: Workspace, name: str) -> dict:
    return next(record for record in read_metrics(space.metrics) if record["name"] == name)


def test_the_scores_are_those_of_the_mean_of_the_volumes(scored):
    store, split = open_data(scored)
    volumes = [predictions_of(scored, record_of(scored, name), "cpu") for name in NAMES]
    mean = predictions_of(scored, record_of(scored, NAME), "cpu")
    for patient in split.test:
        a, b = (own.slices(patient).astype(np.float64) for own in volumes)
        assert np.abs(a - b).max() > 10  # the mean of different models
        np.testing.assert_array_equal(mean.slices(patient), np.rint((a + b) / 2).astype(np.int16))
        ct, mask, _ = store.reference(patient)
        own = np.abs(mean.volume(patient).astype(np.float64) - ct.array)[mask].mean()
        row = next(row for row in record_of(scored, NAME)["patients"] if row["patient"] == patient)
        assert row["mae_hu"] == pytest.approx(own, rel=1e-3)


def test_the_record_names_its_models_and_the_first_seed(scored):
    record = record_of(scored, NAME)
    members = record["context"]["members"]
    assert members_of(record) == list(NAMES)
    assert [member["seed"] for member in members] == [42, 42]
    hashes = [record_of(scored, name)["context"]["checkpoint_hash"] for name in NAMES]
    assert [member["checkpoint_hash"] for member in members] == hashes
    assert record["context"]["checkpoint_hash"] == "+".join(hashes)
    assert record["kind"] == "variant"
    assert members_of(record_of(scored, "mk1")) == []


def test_the_report_shows_it_beside_its_models(scored):
    paths = write_report(SMOKE, scored, device="cpu")
    board = pd.read_csv(paths["leaderboard_csv"])
    assert set(board["name"]) >= {NAME, *NAMES}
    assert NAME in paths["page"].read_text(encoding="utf-8")
    write_report(SMOKE, scored, f"mk1,{NAME}", device="cpu")
    assert "unet_l1" not in set(pd.read_csv(paths["leaderboard_csv"])["name"])


def test_the_command_prints_it_and_scores_nothing_again(scored, cohort, monkeypatch):
    monkeypatch.setattr(
        "mrict_core.inference.Synthesizer.__call__", lambda self, *which: pytest.fail("predicted again")
    )
    text = ok("evaluate", "--mean", "mk1,unet_l1", "--data", str(cohort), "--profile", "smoke", "--device", "cpu")
    assert all(name in text for name in (NAME, *NAMES, "baseline_water_body"))


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ("mk1", "a mean of mk1: expected two models or more"),
        ("mk1,mk1", "mk1: given twice"),
        ("mk1,unet_l2", "unet_l2"),
        ("mk1,mk2", "mk2: not evaluated"),
        ("mk1,mean(mk1+unet_l1)", "mean(mk1+unet_l1): a mean itself"),
        ("mk1,", "unknown variant ''"),
    ],
)
def test_what_cannot_be_averaged_is_refused(mean, message, scored, cohort):
    error = error_of("evaluate", "--mean", mean, "--data", str(cohort), "--profile", "smoke", "--device", "cpu")
    assert message in error


def test_seeds_are_of_variants(scored, cohort):
    assert "takes the first seed" in error_of("evaluate", "--mean", "mk1,unet_l1", "--seeds", "1", "--profile", "smoke")


def test_models_of_other_data_are_not_averaged(scored):
    path = scored.metrics / "unet_l1.json"
    before = read_json(path)
    try:
        write_json(path, before | {"context": before["context"] | {"store_key": "other"}})
        with pytest.raises(MrictError, match="unet_l1: evaluated on other data"):
            evaluate_mean(NAMES, SMOKE, scored, device="cpu")
        write_json(path, before | {"context": before["context"] | {"checkpoint_hash": "other"}})
        with pytest.raises(MrictError, match="its models were scored again since; evaluate --mean again"):
            predictions_of(scored, record_of(scored, NAME), "cpu")
        records, missing = current_records(scored)  # the report goes on without it, and says so
        assert NAME not in [record["name"] for record in records]
        assert missing == {NAME: "its models were scored again since; evaluate --mean again"}
    finally:
        write_json(path, before)


def test_one_model_has_no_mean(scored):
    store, _ = open_data(scored)
    with pytest.raises(MrictError, match="a mean of 1 models"):
        mean_predictions(store, [Predictions(store, lambda *which: np.zeros(1))])


# ------------------------------------------------------------------------------------------------------- synthesis


def test_a_synthetic_ct_of_two_models_is_their_mean_and_names_both(checkpoints, tmp_path):
    write_head(tmp_path / "mr.nii.gz")
    given = {name: ("--model", str(checkpoints / f"{name}.pt")) for name in "ab"}
    for name, models in (given | {"ab": (*given["a"], *given["b"])}).items():
        ok("synthesize", str(tmp_path / "mr.nii.gz"), "-o", str(tmp_path / f"{name}.nii.gz"), *models)
    from mrict_core.data.images.volumes import load_volume

    a, b, both = (load_volume(tmp_path / f"{name}.nii.gz").array.astype(np.float64) for name in ("a", "b", "ab"))
    assert np.abs(a - b).max() > 1
    assert np.abs(both - (a + b) / 2).max() <= 1  # each file is in whole HU
    hashes = {name: read_json(tmp_path / f"{name}.json")["models"] for name in ("a", "b", "ab")}
    assert hashes["ab"] == [*hashes["a"], *hashes["b"]]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"fingerprint": {"region": "pelvis"}}, "models of brain and pelvis in one ensemble; expected one region"),
        ({"fingerprint": {"region": "brain", "modality": "cbct"}}, "expected one kind of input"),
        ({"protocol": "predecessor"}, "expected one protocol"),
    ],
)
def test_models_that_do_not_belong_together_make_no_ensemble(facts, message, tmp_path):
    first = untrained_checkpoint(tmp_path / "a.pt", fingerprint={"region": "brain"})
    second = untrained_checkpoint(tmp_path / "b.pt", seed=1, **facts)
    models = load_models([str(first), str(second)], device="cpu")
    with pytest.raises(MrictError, match=message):
        check_models([model.synthesizer for model in models], SynthesisOptions())
