"""Synthetic CTs of test patients: made once, kept, and never believed when damaged or of something else."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_models import run_of
from typer.testing import CliRunner

from mrict_core import cli
from mrict_core.data.cache.store import SliceStore
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.evaluation import Predictions, StoredPredictions, read_record
from mrict_core.evaluation.samples import sample_rows
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.inference import load_synthesizer
from mrict_core.inference.output_files import write_ct
from mrict_core.paths import Workspace, workspace
from mrict_core.pipeline import compare_on_samples, evaluate_variant, open_data, predictions_of
from mrict_core.pipeline.report import write_report
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings
from mrict_core.training.runs import size_bytes

SMOKE, MK1 = get_profile("smoke"), get("mk1")
FEW = TrainSettings(max_pairs=17, device="cpu")


def silent(line: str) -> None:
    raise AssertionError(f"nothing was to be said, but: {line}")


def ramp(store: SliceStore, patient: str) -> np.ndarray:
    """A predictor that needs no network: the MR as HU, which are not whole."""
    return store.window.to_hu(np.asarray(store.slices(patient).mr, np.float32))


@pytest.fixture
def scored(cohort, space, tmp_path, monkeypatch) -> Workspace:
    """A workspace with one trained and scored variant."""
    for name in ("MRICT_CHECKPOINTS", "MRICT_REPORTS"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    own = workspace("smoke", str(cohort))
    train(MK1, SMOKE, own, FEW, report=lambda line: None)
    evaluate_variant(MK1, SMOKE, own, device="cpu", report=lambda line: None)
    return own


@contextlib.contextmanager
def counted(kind: type) -> Iterator[list[int]]:
    """Give a list that fills with the number of slices of every forward pass of networks of a class."""
    found: list[int] = []

    def note(module, inputs):
        if type(module) is kind and not inputs[0].is_meta:  # a check of shapes computes nothing
            found.append(len(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def test_a_test_patient_goes_through_the_network_once(scored):
    store, split = open_data(scored)
    run = run_of(scored, "mk1")
    generator = type(load_synthesizer(run.best, "mk1", "cpu").generator)
    slices = sum(store.counts()[patient] for patient in split.test)
    shutil.rmtree(run.predictions)
    shutil.rmtree(scored.metrics)
    with counted(generator) as passed:
        first, predictions = evaluate_variant(MK1, SMOKE, scored, device="cpu", report=lambda line: None)
    assert sum(passed) == 2 * slices, "one pass, and one for the predecessor's protocol, which rotates its input"
    with counted(generator) as passed:
        again, _ = evaluate_variant(MK1, SMOKE, scored, device="cpu", report=lambda line: None)
        write_report(SMOKE, scored, device="cpu")
        compared = compare_on_samples(scored, ["mk1"], device="cpu")
        rows = sample_rows(store, split.test, predictions)
    assert passed == []
    assert again == first
    assert all(np.array_equal(row["sct"], scts["mk1"]) for row, (_, scts) in zip(rows, compared, strict=True))


def test_other_code_of_the_metrics_scores_again_without_the_network(scored, monkeypatch):
    """What decides the scores alone does not decide the volumes."""
    path = next((scored.metrics / "seeds").glob("*.json"))
    path.write_text(path.read_text().replace('"key"', '"former"'))
    called = []
    monkeypatch.setattr("mrict_core.inference.Synthesizer.__call__", lambda self, *which: called.append(which))
    record, _ = evaluate_variant(MK1, SMOKE, scored, device="cpu", report=lambda line: None)
    assert called == []
    assert record["context"]["key"] in path.read_text()


def test_what_is_scored_is_what_a_file_would_hold(scored, tmp_path):
    store, split = open_data(scored)
    patient = split.test[0]
    synthesizer = load_synthesizer(run_of(scored, "mk1").best, "mk1", "cpu")
    predictions = predictions_of(scored, read_record(scored.metrics, "mk1"), "cpu", silent)
    hu = synthesizer(store, patient)
    assert np.array_equal(predictions.slices(patient), np.rint(hu))
    assert predictions.slices(patient).dtype == np.int16
    path = write_ct(tmp_path / "ct.nii.gz", store.to_volume(patient, hu), store.reference(patient)[2])
    assert np.array_equal(predictions.volume(patient), np.asanyarray(nib.load(path).dataobj))


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


def archive(**arrays: np.ndarray):
    def damage(path: Path) -> None:
        with np.load(path) as file:
            whole = dict(file)
        np.savez_compressed(path, **{name: array for name, array in (whole | arrays).items() if array is not None})

    return damage


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut to nothing": lambda path: path.write_bytes(b""),
    "a changed byte": lambda path: path.write_bytes(flip(path.read_bytes(), 300)),
    "text": lambda path: path.write_text("no archive"),
    "a plain array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "no key": archive(key=None),
    "no volume": archive(hu=None),
    "of something else": archive(key=np.array("0123456789abcdef")),
    "another type": archive(hu=np.zeros((10, 64, 64), np.float32)),
    "another shape": archive(hu=np.zeros((9, 64, 64), np.int16)),
    "of another patient": lambda path: shutil.copy(path.with_name("other.npz"), path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_cannot_be_believed_is_made_again_and_said(space, tmp_path, damage):
    store, _ = open_data(space)
    patient, other, *_ = store.patients
    said: list[str] = []
    StoredPredictions(store, ramp, tmp_path, "weights", silent).slices(other)
    (tmp_path / f"{other}.npz").rename(tmp_path / "other.npz")
    expected = StoredPredictions(store, ramp, tmp_path, "weights", silent).slices(patient)
    path = tmp_path / f"{patient}.npz"
    damage(path)
    predictions = StoredPredictions(store, ramp, tmp_path, "weights", said.append)
    assert np.array_equal(predictions.slices(patient), expected)
    assert len(said) == 1
    assert said[0].endswith("; recomputed")
    again = StoredPredictions(store, silent, tmp_path, "weights", silent)
    assert np.array_equal(again.slices(patient), expected)


def test_no_changed_byte_gives_another_volume(space, tmp_path):
    store, _ = open_data(space)
    patient = store.patients[0]
    expected = StoredPredictions(store, ramp, tmp_path, "weights", silent).slices(patient)
    path = tmp_path / f"{patient}.npz"
    whole = path.read_bytes()
    for at in (*range(0, 200), *range(200, len(whole) - 300, 97), *range(len(whole) - 300, len(whole))):
        path.write_bytes(flip(whole, at))
        found = StoredPredictions(store, ramp, tmp_path, "weights", lambda line: None).slices(patient)
        assert np.array_equal(found, expected), at


def test_other_weights_replace_the_volumes_and_that_is_said_once(space, tmp_path):
    store, _ = open_data(space)
    patients, said = store.patients[:3], []
    for patient in patients:
        StoredPredictions(store, ramp, tmp_path, "weights", silent).slices(patient)
    other = StoredPredictions(store, lambda *which: ramp(*which) / 2, tmp_path, "others", said.append)
    found = [other.slices(patient) for patient in patients]
    assert len(said) == 1
    assert "predictions of other weights, slices or code; recomputed" in said[0]
    again = StoredPredictions(store, silent, tmp_path, "others", silent)
    assert all(np.array_equal(again.slices(p), hu) for p, hu in zip(patients, found, strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{p}.npz" for p in patients], "none of the old is kept"


def test_a_fault_of_the_machine_is_no_damage(space, tmp_path, monkeypatch):
    store, _ = open_data(space)
    patient = store.patients[0]
    predictions = StoredPredictions(store, ramp, tmp_path, "weights", silent)
    predictions.slices(patient)

    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(UnavailableError, match="cannot be read"):
        predictions.slices(patient)
    monkeypatch.undo()
    StoredPredictions(store, silent, tmp_path, "weights", silent).slices(patient)


def make(store: SliceStore, folder: Path, start) -> None:
    start.wait()
    for patient in store.patients:
        StoredPredictions(store, ramp, folder, "weights", silent).slices(patient)


def test_two_processes_at_once_leave_whole_files(space, tmp_path):
    store, _ = open_data(space)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    workers = [context.Process(target=make, args=(store, tmp_path, start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    stored = StoredPredictions(store, silent, tmp_path, "weights", silent)
    for patient in store.patients:
        assert np.array_equal(stored.slices(patient), Predictions(store, ramp).slices(patient))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{p}.npz" for p in store.patients]


def test_pictures_are_of_what_was_scored_or_there_are_none(scored):
    """Also where training has continued since, which writes another checkpoint to the same place."""
    _, split = open_data(scored)
    record, run = read_record(scored.metrics, "mk1"), run_of(scored, "mk1")
    expected = predictions_of(scored, record, "cpu", silent).slices(split.test[0])
    payload = torch.load(run.best, weights_only=True)
    torch.save(payload | {"seconds": 1.0}, run.best)
    assert np.array_equal(predictions_of(scored, record, "cpu", silent).slices(split.test[0]), expected)
    shutil.rmtree(run.predictions)
    with pytest.raises(MrictError, match=r"best\.pt: is \w+, but \w+ was scored: training has continued; evaluate"):
        predictions_of(scored, record, "cpu", silent).slices(split.test[0])
    assert "training has continued; evaluate mk1 again" in write_report(SMOKE, scored)["page"].read_text()


def test_predictions_go_with_their_training(scored):
    run = run_of(scored, "mk1")
    files = sorted(run.predictions.iterdir())
    assert [path.stem for path in files] == sorted(open_data(scored)[1].test)
    assert size_bytes(run) > sum(path.stat().st_size for path in files)
    assert CliRunner().invoke(cli.app, ["runs", "--remove", str(run.folder)]).exit_code == 0
    assert not run.predictions.exists()
