"""The fingerprint of the training MR, and the gate: table of good and wrong inputs on small phantoms."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import run_of

from benchmarks.gate import phantom
from benchmarks.gate_kinds import KINDS
from mrict_core.data.fingerprint import fingerprint, patient_features, summarise, volume_features
from mrict_core.data.phantom import PhantomSpec, phantom_ids
from mrict_core.data.store import SliceStore
from mrict_core.data.volumes import load_volume
from mrict_core.inference.gate import Finding, check_input, check_output, in_words
from mrict_core.profiles import get_profile
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run
from mrict_core.variants import get

SPEC = PhantomSpec("brain", 3.6, 5.0, 1)


@pytest.fixture(scope="module")
def trained():
    return summarise([volume_features(phantom(p, 0, SPEC), 64)[0] for p in phantom_ids("brain", 3)], 64)


@pytest.mark.parametrize("patient", ["1BA001", "1BB002", "1BC003"])
def test_held_out_heads_pass(patient, trained):
    assert check_input(phantom(patient, 7, SPEC), None, trained) == []


CAUGHT = ["contrast inverted, air too", "noise alone", "one side cut off", "spacing 10 times (cm for mm)"]


@pytest.mark.parametrize("kind", CAUGHT)
def test_wrong_kinds_are_caught(kind, trained):
    wrong = KINDS[kind](phantom("1BA001", 7, SPEC), np.random.default_rng(0))
    assert check_input(wrong, None, trained)


def test_pelvis_and_ct_are_named(trained):
    pelvis = check_input(phantom("1PA001", 7, PhantomSpec("pelvis", 6.0, 10.0)), None, trained)
    assert any("another region?" in finding.text for finding in pelvis)
    (ct,) = check_input(phantom("1BA001", 7, SPEC, "ct"), None, trained)
    assert (ct.name, ct.severity) == ("ct_as_mr", "refuse")


def test_left_and_right_exchanged_cannot_be_seen(trained):
    mirrored = KINDS["left and right exchanged"](phantom("1BA001", 7, SPEC), np.random.default_rng(0))
    assert check_input(mirrored, None, trained) == []


def test_old_checkpoints_without_fingerprint_are_told():
    (finding,) = check_input(phantom("1BA001", 7, SPEC), None, None)
    assert finding.name == "no_fingerprint"


def test_round_trip_through_json(trained):
    text = json.dumps(trained)
    assert json.loads(text) == trained
    assert len(text) < 50_000


def test_features_of_store_and_volume_are_equal(space):
    store = SliceStore(space.store)
    for patient in store.patients[:3]:
        volume = load_volume(store.source(patient, "mr"))
        assert patient_features(store, patient) == volume_features(volume, store.size)


def test_training_writes_the_fingerprint(fresh_space):
    variant, profile, settings = get("mk1"), get_profile("smoke"), TrainSettings(device="cpu", max_pairs=17)
    run = prepare_run(variant, profile, fresh_space, settings)
    train(variant, profile, fresh_space, settings, report=lambda line: None)
    kept = load_checkpoint(run_of(fresh_space, "mk1").best)["fingerprint"]
    used = {patient for patient, _ in run.dataset.index}
    assert kept == run.fingerprint == fingerprint(run.store, used)
    assert kept["patients"] == len(used)


def test_the_worst_are_told_and_the_rest_counted():
    findings = [Finding(name, f"{name} is odd") for name in "abcdef"]
    assert in_words(findings[:2]) == ["a is odd", "b is odd"]
    assert in_words(findings)[-1] == "2 more features lie outside the training's range"
    assert in_words([]) == []


@pytest.mark.parametrize(("sd", "severity"), [(20, None), (150, "warn"), (500, "refuse")])
def test_disagreement_of_the_ensemble(sd, severity):
    found = check_output(np.full((4, 4, 4), sd, np.float32), np.ones((4, 4, 4), bool))
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert check_output(None, np.ones((4, 4, 4), bool)) == []


def test_no_body_is_refused(trained):
    volume = phantom("1BA001", 7, SPEC)
    (finding,) = check_input(replace(volume), np.zeros(volume.shape, bool), trained)
    assert finding.name == "no_body"
