"""The fingerprint of the training MR, and the gate: table of good and wrong inputs on small phantoms."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import run_of

from benchmarks.gate import phantom
from benchmarks.gate_kinds import KINDS
from mrict_core.data.cache.fingerprint import fingerprint, patient_features, summarise, volume_features
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.volumes import load_volume
from mrict_core.data.phantom import PhantomSpec, phantom_ids
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.inference.gate import Finding, check_bone, check_input, check_output, distinct, in_words, verdict
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run

SPEC = PhantomSpec("brain", 3.6, 5.0, 1)


@pytest.fixture(scope="module")
def trained():
    return summarise([volume_features(phantom(p, 0, SPEC), 64)[0] for p in phantom_ids("brain", 3)], 64)


@pytest.mark.parametrize("patient", ["1BA001", "1BB002", "1BC003"])
def test_held_out_heads_pass(patient, trained):
    assert check_input(phantom(patient, 7, SPEC), trained) == []


CAUGHT = ["contrast inverted, air too", "noise alone", "one side cut off", "spacing 10 times (cm for mm)"]


@pytest.mark.parametrize("kind", CAUGHT)
def test_wrong_kinds_are_caught(kind, trained):
    wrong = KINDS[kind](phantom("1BA001", 7, SPEC), np.random.default_rng(0))
    assert check_input(wrong, trained)


def test_pelvis_and_ct_are_named(trained):
    pelvis = check_input(phantom("1PA001", 7, PhantomSpec("pelvis", 6.0, 10.0)), trained)
    assert any("another region?" in text for text in in_words(pelvis))
    (ct,) = check_input(phantom("1BA001", 7, SPEC, "ct"), trained)
    assert (ct.name, ct.severity) == ("unusable", "refuse")
    assert "look like a CT in HU" in ct.text


def test_left_and_right_exchanged_cannot_be_seen(trained):
    mirrored = KINDS["left and right exchanged"](phantom("1BA001", 7, SPEC), np.random.default_rng(0))
    assert check_input(mirrored, trained) == []


def test_old_checkpoints_without_fingerprint_are_told():
    (finding,) = check_input(phantom("1BA001", 7, SPEC), None)
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
    used = {patient for patient, *_ in run.dataset.index}
    assert kept == run.fingerprint == fingerprint(run.store, used)
    assert kept["patients"] == len(used)


def test_findings_of_one_kind_are_one_sentence_that_names_them_all():
    rows = Finding("spacing_rows", "rows are odd", kind="spacing", question="right units?")
    cols = Finding("spacing_cols", "cols are odd", kind="spacing", question="right units?")
    alone = Finding("disagreement", "they disagree")
    assert in_words([rows, alone, cols]) == ["rows are odd, also outside: spacing cols; right units?", "they disagree"]
    assert in_words([]) == []


def test_what_several_models_find_is_said_once_and_the_worst_decides():
    findings = [Finding("rim", "a little"), Finding("rim", "far", "refuse"), Finding("note", "by the way", "note")]
    assert [each.text for each in distinct(findings)] == ["far", "by the way"]
    assert verdict(distinct(findings)) == {"verdict": "do not use", "why": ["far"]}
    assert verdict(findings[:1]) == {"verdict": "doubtful", "why": ["a little"]}
    assert verdict(findings[2:]) == {"verdict": "fits", "why": []}


@pytest.mark.parametrize(("patients", "catches"), [(1, "next to nothing"), (3, "next to nothing"), (5, "little")])
def test_a_gate_that_learned_from_few_patients_says_so(patients, catches, trained):
    findings = check_input(phantom("1BA001", 7, SPEC), trained | {"patients": patients})
    assert [finding.name for finding in findings] == ["few_patients"]
    assert f"catches {catches}" in findings[0].text


BONE = {"patients": 9, "above_300_hu": {"low": 0.1, "high": 0.2}, "above_700_hu": {"low": 0.02, "high": 0.08}}


@pytest.mark.parametrize(
    ("hu", "share", "expected"),
    [
        (900, 0.15, {}),
        (900, 0.04, {}),
        (900, 0.03, {"bone_above_300_hu": "warn"}),
        (400, 0.15, {"bone_above_700_hu": "refuse"}),
        (40, 0.15, {"bone_above_300_hu": "refuse", "bone_above_700_hu": "refuse"}),
        (900, 0.5, {"bone_above_700_hu": "warn"}),
        (900, 1.0, {"bone_above_300_hu": "warn", "bone_above_700_hu": "refuse"}),
    ],
)
def test_bone_that_is_missing_or_too_much_is_said(hu, share, expected):
    image = np.full(1000, 40.0, np.float32)
    image[: round(1000 * share)] = hu
    found = check_bone(image, np.ones(1000, bool), {"bone": BONE})
    assert {finding.name: finding.severity for finding in found} == expected
    assert all(("missing" in f.text) is (f.value < f.low) for f in found)
    assert all(f"{100 * share:.0f} % of the body" in f.text for f in found if f.value)


def test_bone_of_few_patients_is_judged_with_more_room():
    image = np.full(1000, 40.0, np.float32)
    image[:30] = 900
    assert check_bone(image, np.ones(1000, bool), {"bone": BONE})
    assert not check_bone(image, np.ones(1000, bool), {"bone": BONE | {"patients": 3}})


@pytest.mark.parametrize("fingerprint", [None, {}, {"bone": {"patients": 0}}])
def test_old_models_say_that_bone_was_not_judged(fingerprint):
    (found,) = check_bone(np.zeros(9), np.ones(9, bool), fingerprint)
    assert (found.name, found.severity) == ("no_bone", "note")


def test_the_fingerprint_keeps_the_trainings_bone(space):
    store = SliceStore(space.store)
    kept = fingerprint(store, store.patients)["bone"]
    assert kept["patients"] == len(store.patients)
    for level in (300, 700):
        shares = []
        for patient in store.patients:
            slices = store.slices(patient)
            body = np.asarray(slices.body) > 0
            shares.append(np.count_nonzero((np.asarray(slices.ct) > level) & body) / np.count_nonzero(body))
        entry = kept[f"above_{level}_hu"]
        assert entry == pytest.approx({"centre": np.median(shares), "low": min(shares), "high": max(shares)})


@pytest.mark.parametrize(("sd", "severity"), [(20, None), (150, "warn"), (500, "refuse")])
def test_disagreement_of_the_ensemble(sd, severity):
    found = check_output(np.full((4, 4, 4), sd, np.float32), np.ones((4, 4, 4), bool))
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert check_output(None, np.ones((4, 4, 4), bool)) == []


def test_no_body_is_refused(trained):
    volume = phantom("1BA001", 7, SPEC)
    (finding,) = check_input(replace(volume, array=np.zeros_like(volume.array)), trained)
    assert (finding.name, finding.severity) == ("unusable", "refuse")
