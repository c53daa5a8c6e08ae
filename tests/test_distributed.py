"""Training on several ranks: gloo processes on the CPU against one process with the same batches."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import rank_cases
import torch
from test_cli import error_of, invoke, ok
from torch.utils.data import BatchSampler, SequentialSampler

from mrict_core import ranks
from mrict_core.cli.progress import say
from mrict_core.data.augment import AugmentSettings, JointTransform
from mrict_core.data.batches import OwnPart, batches_of_pass
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.paths import ROOT
from mrict_core.pipeline import prepare_run
from mrict_core.ranks import Ranks
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.distributed import check_ranks, own_states, threads
from mrict_core.training.processes import check_machine, launch
from mrict_core.training.run import TrainSettings
from mrict_core.training.runs import all_runs
from mrict_core.training.validation import Validator


@pytest.fixture(scope="module")
def two(space, cohort, tmp_path_factory):
    """What two ranks found, and how their launch ended."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(MrictError) as error:
        launch(2, rank_cases.two, folder, str(cohort))
    return SimpleNamespace(**torch.load(folder / "two.pt"), error=str(error.value), folder=folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    launch(3, rank_cases.three, folder)
    return torch.load(folder / "three.pt")


def run_in(folder, monkeypatch):
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(folder))
    return all_runs()[-1]


# ------------------------------------------------------------------------------------------------------ same as alone


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", rank_cases.EXPERIMENTS)
def test_steps_equal_those_of_one_process_with_the_whole_batch(name, count, request):
    found = vars(request.getfixturevalue("two"))[name] if count == 2 else request.getfixturevalue("three")[name]
    expected = rank_cases.steps(name, count)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def test_a_whole_training_with_augmentation_equals_one_process(two, space, cohort, tmp_path, monkeypatch):
    run = run_in(two.folder / "alike", monkeypatch)
    alone = rank_cases.trained(rank_cases.ALIKE, tmp_path, str(cohort), [], settings=rank_cases.WHOLE)
    history = pd.read_csv(run.history)
    assert list(history["ranks"]) == [2, 2]
    for name in ("loss_g", "grad_norm", "val_mae_hu", "val_mse", "val_ssim", "output_sd_hu"):
        np.testing.assert_allclose(history[name], alone.history[name], rtol=2e-3, err_msg=name)
    assert run.id == alone.run.id, "the number of ranks is no part of what is trained"


def test_ranks_draw_apart_what_their_networks_draw(two):
    assert len(set(two.random)) == 1, "before a training they are seeded alike"
    states = [r["torch"] for r in load_checkpoint(all_in(two.folder / "whole").last)["rng"]["ranks"]]
    assert not torch.equal(*states)


def all_in(folder):
    with pytest.MonkeyPatch.context() as patch:
        return run_in(folder, patch)


def test_a_method_that_bypasses_its_attributes_is_refused(two):
    assert "its weights differ between the processes" in two.bypassed


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("slices", [5, 12, 13, 23, 24, 35])
def test_ranks_get_equal_parts_of_each_batch_and_no_slice_twice(slices, count):
    batches = BatchSampler(SequentialSampler(range(slices)), 12, drop_last=False)
    own = [list(OwnPart(batches, Ranks(rank, count))) for rank in range(count)]
    assert {len(batches) for batches in own} == {batches_of_pass(slices, 12, Ranks(0, count))}
    for parts in zip(*own, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert len(parts[0]) >= 2
        together = [item for part in parts for item in part]
        assert together == list(range(together[0], together[0] + len(together)))
    used = Counter(item for batches in own for batch in batches for item in batch)
    assert set(used.values()) <= {1}
    left = slices - len(used)
    assert left == (slices % 12) % count if slices % 12 >= 2 * count else left == slices % 12


def test_augmentation_is_that_of_one_process():
    drawn = torch.Generator().manual_seed(3)
    images = [torch.rand(6, c, 32, 32, generator=drawn) * 2 - 1 for c in (3, 1)]
    images += [torch.ones(6, 1, 32, 32), torch.ones(6, dtype=torch.bool)]
    settings = AugmentSettings(elastic=0.02, crop=24)
    whole = JointTransform(settings, torch.Generator().manual_seed(7))(*images)
    parts = [
        JointTransform(settings, torch.Generator().manual_seed(7), place)(*(x[place.own(6)] for x in images))
        for place in (Ranks(rank, 3) for rank in range(3))
    ]
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(pieces), one, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_validation_patient_is_scored_by_one_rank(count):
    sizes = [3, 10, 4, 4, 1, 7, 2]
    datasets = [SimpleNamespace(slices=n) for n in sizes]  # also of volumes, which are one item each
    validator = Validator(None, datasets, batch_size=1, device=torch.device("cpu"))
    dealt = []
    for rank in range(count):
        with ranks.among(Ranks(rank, count)):
            dealt.append(validator._own_patients())
    assert sorted(number for own in dealt for number in own) == list(range(len(sizes)))
    loads = sorted(sum(sizes[number] for number in own) for own in dealt)
    assert all(more - less <= max(sizes) for less, more in pairwise(loads))


# -------------------------------------------------------------------------------------------------------------- resume


def same_files(one, other):
    found, expected = load_checkpoint(one.last), load_checkpoint(other.last)
    for part in ("networks", "optimizers", "method_state", "rng"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)
    columns = [c for c in expected["history"][0] if c not in ("seconds", "train_seconds")]
    pd.testing.assert_frame_equal(
        pd.DataFrame(found["history"])[columns], pd.DataFrame(expected["history"])[columns], check_exact=True
    )


def test_two_ranks_resume_bit_for_bit(two, monkeypatch):
    whole, half = (run_in(two.folder / name, monkeypatch) for name in ("whole", "half"))
    assert (half.epoch, half.complete) == (2, True)
    same_files(half, whole)


def test_one_process_goes_on_where_two_stopped(two, cohort, monkeypatch):
    lines = []
    assert run_in(two.folder / "alone", monkeypatch).epoch == 1
    done = rank_cases.trained(rank_cases.POOLED, two.folder / "alone", str(cohort), lines)
    assert "cyclegan_mk1: resuming after epoch 1 of 2" in lines
    assert done.complete
    assert list(done.history["ranks"].fillna(1)) == [2, 1]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_more_ranks_go_on_with_the_first_ones_states_and_new_seeds(two, rank):
    saved = load_checkpoint(all_in(two.folder / "whole").last)
    torch.manual_seed(5)
    with ranks.among(Ranks(rank, 3)):
        rng, state = own_states(saved, 42)
    assert torch.equal(rng["torch"], saved["rng"]["torch"]) is (rank == 0)
    assert torch.equal(rng["shuffle"], saved["rng"]["shuffle"])
    assert state == saved["method_state"]


# ---------------------------------------------------------------------------------------------------------- the output


def test_the_first_rank_alone_reports(two):
    text = "cyclegan_mk1: 2 processes, each with 4 of a batch's 8 slices; 2 of 18 slices stay over in an epoch"
    assert [line for line in two.lines if line.startswith(text)]
    assert len([line for line in two.lines if "epoch 1/2" in line]) == 1


def test_a_killed_rank_ends_all_with_one_line(two):
    expected = "process 1 of 2 was killed (SIGKILL), often for lack of memory; all were ended; the same command resumes"
    assert two.error == f"{expected} after the last saved epoch"
    assert multiprocessing.active_children() == []


def test_torchrun_joins_the_command_and_the_command_starts_processes(cohort, space, tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path))
    words = ("train", "mk7_0", "--profile", "smoke", "--device", "cpu", "--data", str(cohort), "--minutes", "0.05")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "mrict_core", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mk7_0 epoch 1/1") == 1
    assert len(re.findall("^best checkpoint: ", done.stdout, re.MULTILINE)) == 1

    def launched(count, target, *given):  # `two` and `three` start real processes by it
        assert count == 2
        target, given = pickle.loads(pickle.dumps((target, given)))
        target(*given)

    monkeypatch.setattr("mrict_core.training.processes.launch", launched)
    assert ok(*words, "--gpus", "2").count("mk7_0: unchanged, 1 epochs exist") == 1


# ------------------------------------------------------------------------------------------------------- interruptions

# A thousand steps in 250 epochs: more than will be waited for, in all processes that load the file.
LONG = """
from dataclasses import replace
from mrict_core.experiments.profiles import PROFILES
from mrict_core.experiments.user import derive
PROFILES["smoke"] = replace(PROFILES["smoke"], epochs_min=250, epochs_max=None)
LONG = derive("mk8_0", "long", {"epochs": 250})
"""
STOPPED = re.compile(
    r"long: interrupted; (\d+) of 250 epochs are saved in \S+; "
    r"the same command, or this cell run again, goes on from there"
)


def of_session(number):
    """Return the running processes of a session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def stopped(command, environment, stop):
    """Start ranks, stop them after an epoch by `stop(pid)`; return the epoch that they resumed, errors and status."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "SSIM" in line:
                break
        stop(process.pid)
        _, errors = process.communicate(timeout=120)
        assert "SSIM" in lines[-1], (lines, errors)
    until = time.monotonic() + 10
    while (left := of_session(process.pid)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    resumed = re.search(r"long: resuming after epoch (\d+) of 250", "".join(lines))
    return int(resumed[1]) if resumed else 0, errors, process.returncode


def test_stopped_ranks_all_end_with_one_line_and_the_same_command_goes_on(cohort, space, tmp_path):
    """Ctrl-C reaches the whole group, the signal of a cancelled job the parent alone."""
    (tmp_path / "long.py").write_text(LONG)
    environment = os.environ | {"MRICT_CHECKPOINTS": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["--gpus", "2", "--steps", "1000", "--experiment", str(tmp_path / "long.py"), "--data", str(cohort)]
    command = [sys.executable, "-m", "mrict_core", "train", "--profile", "smoke", "--device", "cpu", *options]
    resumed, errors, status = stopped(command, environment, lambda pid: os.killpg(pid, signal.SIGINT))
    assert (resumed, status) == (0, 130), errors
    saved = STOPPED.fullmatch(errors.strip())
    assert saved, errors
    resumed, errors, status = stopped(command, environment, lambda pid: os.kill(pid, signal.SIGTERM))
    assert (resumed, status) == (int(saved[1]), 130), errors
    assert int(STOPPED.fullmatch(errors.strip())[1]) > resumed


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("count", "changes", "said"),
    [
        (3, {}, "a batch of 8 cannot be divided equally among 3 processes; expected --gpus 1, 2, 4, 8"),
        (16, {}, "cannot be divided equally among 16 processes"),
        (8, {"max_pairs": 7}, "7 training slices are too few for 8 processes with batches of 8"),
        (4, {}, "4 processes for 2 patients of the validation set"),
    ],
)
def test_ranks_that_cannot_share_are_refused(count, changes, said, space):
    run = prepare_run(get("mk7_0"), rank_cases.SMOKE, space, TrainSettings(**changes), report=lambda line: None)
    with ranks.among(Ranks(0, count)), pytest.raises(MrictError, match=re.escape(said)):
        check_ranks(run, say)


@pytest.mark.parametrize(
    ("count", "device", "said"),
    [
        (2, "auto", "--gpus 2: this machine has 0 CUDA devices; use --gpus 1, or --device cpu"),
        (2, "cuda:0", "--gpus 2 with --device cuda:0: expected cuda, auto or cpu"),
    ],
)
def test_gpus_that_are_not_there_are_refused(count, device, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MrictError, match=re.escape(said)):
        check_machine(count, device)


@pytest.mark.parametrize("count", ["3", "99", "10000000"])
def test_a_batch_that_cannot_be_shared_is_said_before_a_process_starts(count, monkeypatch):
    monkeypatch.setattr("mrict_core.training.processes.launch", lambda *given: pytest.fail("started"))
    said = error_of("train", "mk8", "--profile", "smoke", "--device", "cpu", "--gpus", count)
    assert f"mk8_0: a batch of 2 cannot be divided equally among {count} processes; expected --gpus 1, 2" in said


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "two", ""])
def test_a_count_of_gpus_is_a_whole_number_from_1(count):
    result = invoke("train", "mk8", "--profile", "smoke", "--gpus", count)
    assert result.exit_code == 2
    assert "Invalid value for '--gpus'" in result.output


def test_a_rank_takes_its_share_of_the_threads():
    assert threads(8) == 8
    with ranks.among(Ranks(1, 4, here=2)):
        assert threads(8) == 4
        assert threads(1) == 1
