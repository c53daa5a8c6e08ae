"""Worker processes of the suite: trainings one after another, failures in one line, ends with the suite."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker

import psutil
import pytest

from mrict_core.errors import MrictError
from mrict_core.evaluation import read_record
from mrict_core.experiments import Experiment, get, user, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.paths import ROOT, Workspace, workspace
from mrict_core.suite.workers import Training, Workers
from mrict_core.training.runs import runs_of

SMOKE = get_profile("smoke")


def own(name: str, **changes: object) -> Experiment:
    """A user's own variant, which no process knows by name."""
    return dataclasses.replace(get("mk1"), name=name, parent="mk1", **changes)


@pytest.fixture(scope="module")
def place(cohort, space, tmp_path_factory) -> Workspace:
    """The prepared cohort with folders of its own, which all tests share as their worker does."""
    root = tmp_path_factory.mktemp("workers")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("checkpoints", "reports"):
            patch.setenv(f"MRICT_{name.upper()}", str(root / name))
        yield workspace("smoke", str(cohort))


@pytest.fixture(scope="module")
def workers(place):
    with Workers() as pool:
        yield pool


def training(space: Workspace, *chain: Experiment, epochs: int = 1, retrain: bool = False, **more: object) -> Training:
    profile = dataclasses.replace(SMOKE, epochs_min=epochs, epochs_max=epochs)
    return Training(chain, profile, space, {"seed": 1, "device": "cpu", "max_pairs": 8} | more, retrain)


def quiet(line: str) -> None:
    pass


def test_trains_and_scores_one_variant_after_another_in_one_process(workers, place):
    parent, child, said = own("first"), own("second", init_from="first", select_by="fid_vgg"), []
    workers.train(training(place, parent), said.append)
    (process,) = [worker.process.pid for worker in workers.idle]
    workers.train(training(place, parent, child), said.append)
    assert [worker.process.pid for worker in workers.idle] == [process]
    assert [line.split(":")[0] for line in said if " epoch " in line] == ["first epoch 1/1", "second epoch 1/1"]
    assert not any("first: unchanged" in line for line in said)  # nothing of a parent that is reused
    for name in ("first", "second"):
        assert read_record(place.metrics, name)["seeds"]["values"] == [1]
    assert runs_of(place, "second")[0].trained["parent"] == runs_of(place, "first")[0].id


def test_reuses_what_is_there_unless_told_to_train_again(workers, place):
    task, record = training(place, own("third")), place.metrics / "third.json"
    workers.train(task, quiet)
    text = record.read_text()
    workers.train(task, quiet)
    assert (len(runs_of(place, "third")), record.read_text()) == (1, text)
    record.write_text("[")
    workers.train(task, quiet)
    assert (len(runs_of(place, "third")), record.read_text()) == (1, text)
    workers.train(dataclasses.replace(task, retrain=True), quiet)
    newest = runs_of(place, "third")[-1].folder.name
    assert (len(runs_of(place, "third")), read_record(place.metrics, "third")["context"]["run"]) == (2, newest)


def test_a_worker_knows_the_parts_in_a_file_of_the_users(place, tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(
        "from mrict_core.losses import LOSSES\n"
        "@LOSSES.register('of_worker')\n"
        "def of_worker(out, batch):\n    return out.fake_B.abs().mean()\n"
    )
    monkeypatch.setenv("MRICT_EXPERIMENTS", "")
    user.load(path)
    with Workers() as workers:
        one = with_values(own("of_file"), {"loss.of_worker.weight": 1})
        workers.train(training(place, one), quiet)
    (trained,) = runs_of(place, "of_file")
    assert "loss_g_of_worker" in trained.history.read_text().splitlines()[0]
    assert "mine.py" in trained.versions


def test_scores_of_other_code_are_taken_again(workers, place):
    task, path = training(place, own("fourth")), place.metrics / "fourth.json"
    workers.train(task, quiet)
    todays = read_record(place.metrics, "fourth")["context"]["code_hash"]
    path.write_text(path.read_text().replace(todays, "0123456789abcdef"))
    workers.train(task, quiet)
    assert read_record(place.metrics, "fourth")["context"]["code_hash"] == todays


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pairs": -1}, r"^mk1: cap of -1 training pairs: expected at least 1"),
        ({"sed": 1}, r"^mk1: failed with TypeError: .*'sed' \(mrict_core/suite/workers.py, line \d+\)$"),
    ],
)
def test_a_failure_names_the_variant_and_the_error_in_one_line(workers, place, settings, message):
    with pytest.raises(MrictError, match=message) as caught:
        workers.train(training(place, own("mk1"), **settings), quiet)
    assert "\n" not in str(caught.value)
    assert len(workers.idle) == 1  # the process is as good as before


@pytest.mark.parametrize(("number", "error"), [(signal.SIGKILL, MrictError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_process_that_is_ended_or_interrupted(place, number, error):
    def press(line: str) -> None:
        started = [child for child in psutil.Process().children() if child.pid not in before]
        for child in started:
            child.send_signal(number)

    resource_tracker.ensure_running()
    before = {child.pid for child in psutil.Process().children()}
    name = f"stopped_{number}"
    with Workers() as workers, pytest.raises(error) as caught:
        workers.train(training(place, own(name), epochs=50), press)
    if error is MrictError:
        assert str(caught.value).startswith(f"{name}: its process was killed")
    else:
        assert [path.name for path in place.checkpoints.rglob(".new-*")] == []
    assert before >= {child.pid for child in psutil.Process().children()}


def test_ctrl_c_does_not_reach_a_process_that_waits(workers, place):
    task = training(place, own("fifth"))
    workers.train(task, quiet)
    (process,) = [worker.process for worker in workers.idle]
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.is_alive()
    workers.end_idle()
    assert (workers.idle, process.is_alive()) == ([], False)


def test_workers_end_with_the_suite_also_by_kill_9(place, tmp_path):
    (tmp_path / "job").write_bytes(pickle.dumps(training(place, get("mk1"), epochs=500)))
    code = (
        "import pickle, sys\nfrom mrict_core.suite.workers import Workers\n"
        "job = pickle.load(open(sys.argv[1], 'rb'))\n"
        "with Workers() as workers:\n    workers.train(job, lambda line: print(line, flush=True))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "job")]
    suite = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert any("epoch 1/500" in line for line in suite.stdout)  # a slow machine first says how long it will take
        family = psutil.Process(suite.pid).children(recursive=True)
    finally:
        suite.kill()
        suite.wait()
    assert family
    assert psutil.wait_procs(family, timeout=20)[1] == []
