"""Progress inside an epoch; samples; real signals to real trainings, in a process of the command line and a kernel."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import jupyter_client
import numpy as np
import pytest
import torch

from mrict_core.errors import Interrupted
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.paths import ROOT, Workspace
from mrict_core.pipeline import TrainSettings, prepare_run
from mrict_core.training import progress
from mrict_core.training.loop import train
from mrict_core.training.run import SAMPLED, sampled_epochs

# The smoke profile with more epochs than will be waited for.
LONG = """
from dataclasses import replace
from mrict_core.experiments.profiles import PROFILES
PROFILES["smoke"] = replace(PROFILES["smoke"], epochs_min=500, epochs_max=None)
"""
LINE = re.compile(
    r"mk1: interrupted; (\d+) of 500 epochs are saved in \S+; "
    r"the same command, or this cell run again, goes on from there"
)


@pytest.mark.parametrize(
    ("total", "seconds", "expected"),
    [
        (100, 60.0, ["25 of 100", "50 of 100", "75 of 100"]),
        (100, 0.1, []),  # a short epoch has only the line at its end
        (8, 60.0, ["2 of 8", "4 of 8", "6 of 8"]),
        (3, 60.0, ["1 of 3", "2 of 3"]),
        (1, 60.0, []),
    ],
)
def test_at_most_three_lines_per_epoch(total, seconds, expected, monkeypatch):
    """With a clock that moves by `seconds` in every step."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    with progress.Lines(total, "mk1 epoch 1/2", said.append) as lines:
        for _ in range(total):
            now[0] += seconds
            lines.step(torch.tensor(0.5))
    assert [re.search(r": (\d+ of \d+) batches, loss 0\.500, .* left", line)[1] for line in said] == expected


def test_the_time_left_is_that_of_the_epoch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    with progress.Lines(4, "mk1 epoch 1/2", said.append) as lines:
        for _ in range(4):
            now[0] += 60.0
            lines.step(torch.tensor(0.25))
    assert said == [
        "mk1 epoch 1/2: 1 of 4 batches, loss 0.250, 3 min left in this epoch",
        "mk1 epoch 1/2: 2 of 4 batches, loss 0.250, 2 min left in this epoch",
        "mk1 epoch 1/2: 3 of 4 batches, loss 0.250, 60 s left in this epoch",
    ]


@pytest.mark.parametrize(
    ("live", "terminal", "kind"), [(True, False, "Bar"), (False, True, "Bar"), (False, False, "Lines")]
)
def test_a_bar_where_a_person_watches(live, terminal, kind, monkeypatch):
    monkeypatch.setattr(progress, "live_front_end", lambda: live)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress.automatic(3, "mk1 epoch 1/2") as epoch:
        epoch.step(torch.tensor(0.5))
    assert type(epoch).__name__ == kind


@pytest.mark.parametrize("epochs", [1, 2, 7, 50, 200])
def test_sampled_epochs_hold_the_first_and_the_last(epochs):
    found = sampled_epochs(epochs)
    assert (found[0], found[-1]) == (1, epochs)
    assert len(found) <= SAMPLED


def test_samples_are_what_the_networks_of_their_epoch_make(fresh_space: Workspace):
    """The last one is compared with a prediction by the networks of the last checkpoint."""
    from mrict_core.training.checkpoint import load_checkpoint

    result = train(get("mk1"), get_profile("smoke"), fresh_space, TrainSettings(device="cpu"), report=lambda line: None)
    run = prepare_run(get("mk1"), get_profile("smoke"), fresh_space, TrainSettings(device="cpu"))
    method = run.method()
    method.generator.load_state_dict(load_checkpoint(result.last)["networks"]["G"])
    expected = run.validator(torch.device("cpu")).sample(method)
    (path,) = (result.run.folder / "samples").iterdir()
    found = np.load(path)
    assert path == result.run.sample(1)
    assert (found.dtype, found.shape) == (np.int16, (64, 64))
    assert np.array_equal(found, expected)


def interrupt_a_training(space: Workspace, lines_before: int, how: int) -> tuple[list[str], str, int]:
    """Train by the command line in a process of its own; send it a signal after so many lines of output.

    Return its output, errors and status.
    """
    argv = ["mrict_core", "train", "mk1", "--profile", "smoke", "--data", str(space.data_dir), "--device", "cpu"]
    code = f"{LONG}\nimport sys\nsys.argv = {argv!r}\nfrom mrict_core.cli import main\nmain()"
    command = [sys.executable, "-u", "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) == lines_before:
                break
        process.send_signal(how)
        rest, errors = process.communicate(timeout=60)
    return [*lines, *rest.splitlines()], errors, process.returncode


def test_ctrl_c_or_a_cancelled_job_is_one_line_and_the_same_command_goes_on(fresh_space):
    _, errors, status = interrupt_a_training(fresh_space, 2, signal.SIGINT)  # in its third epoch
    assert status == 130
    saved = LINE.fullmatch(errors.strip())
    assert saved, errors
    lines, errors, status = interrupt_a_training(fresh_space, 1, signal.SIGTERM)
    assert status == 130
    assert lines[0].startswith(f"mk1: resuming after epoch {saved[1]} of 500")
    assert int(LINE.fullmatch(errors.strip())[1]) >= int(saved[1])


def test_the_stop_button_of_a_notebook_shows_one_line_and_the_cell_goes_on(fresh_space):
    code = (
        "from mrict_core import pipeline\nfrom mrict_core.experiments import get\n"
        "from mrict_core.paths import workspace\n"
        f"space = workspace('smoke', {str(fresh_space.data_dir)!r})\n"
        "settings = pipeline.TrainSettings(device='cpu')\n"
        "pipeline.train_and_evaluate(get('mk1'), PROFILES['smoke'], space, settings)"
    )
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    try:
        client.execute_interactive(LONG, timeout=60)
        first, error = stopped_cell(manager, client, code)
        assert error["ename"] == Interrupted.__name__
        (line,) = error["traceback"]
        saved = LINE.fullmatch(line)
        assert saved, line
        again, _ = stopped_cell(manager, client, code)
        assert f"mk1: resuming after epoch {saved[1]} of 500" in again
        assert "resuming" not in first
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def stopped_cell(manager, client, code: str) -> tuple[str, dict]:
    """Run a cell and press the stop button in its third epoch; return what it printed, and its error."""
    printed: list[str] = []

    def receive(message: dict) -> None:
        if message["msg_type"] == "stream":
            before = "".join(printed).count(" epoch ")
            printed.append(message["content"]["text"])
            if before < 2 <= "".join(printed).count(" epoch "):
                manager.interrupt_kernel()
        elif message["msg_type"] == "error":
            errors.append(message["content"])

    errors: list[dict] = []
    client.execute_interactive(code, timeout=120, output_hook=receive, allow_stdin=False)
    return "".join(printed), errors[0]
