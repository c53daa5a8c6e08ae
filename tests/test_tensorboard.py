"""`--tensorboard`: what is logged, that an interrupted log goes on without gaps, and that training does not notice."""

from __future__ import annotations

import dataclasses
import importlib.util
import io

import numpy as np
import pytest
import torch
from howto import Howto
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import error_of, ok
from tiny_models import run_of

from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.methods.pix2pix import Pix2Pix
from mrict_core.methods.regression import Regression
from mrict_core.training import loop
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.loop import TrainResult, train
from mrict_core.training.run import TrainSettings, prepare_run
from mrict_core.training.runs import size_bytes
from mrict_core.training.tensorboard import FOLDER, PICTURE
from mrict_core.training.validation import sample_item

FOUR = dataclasses.replace(get_profile("smoke"), epochs_min=4, epochs_max=4)
PLAIN = TrainSettings(max_pairs=17, device="cpu")
LOGGED = dataclasses.replace(PLAIN, tensorboard=True)
QUIET = {"report": lambda line: None}


@pytest.fixture(autouse=True)
def _every_step(monkeypatch):
    monkeypatch.setattr(loop, "EVERY", 1)


def log_of(result: TrainResult) -> EventAccumulator:
    """Return the log as TensorBoard reads it."""
    return EventAccumulator(str(result.run.folder / FOLDER), size_guidance={"scalars": 0, "images": 0}).Reload()


def curve(log: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in log.Scalars(name)]


@pytest.mark.parametrize(
    ("name", "logged"),
    [
        ("mk1", {"step/loss_g", "step/loss_d", "step/lr_G", "step/lr_D", "round/val_mae_hu", "round/val_ssim"}),
        ("mk7", {"step/loss_g", "step/grad_norm", "step/lr_G", "round/val_mae_hu", "round/lr_G"}),
    ],
)
def test_a_log_holds_the_history_and_leaves_the_weights_alone(name, logged, fresh_space):
    plain = train(get(name), FOUR, fresh_space, PLAIN, **QUIET)
    expected = load_checkpoint(plain.last)
    result = train(get(name), FOUR, fresh_space, LOGGED, retrain=True, **QUIET)
    assert result.run.trained == plain.run.trained
    torch.testing.assert_close(load_checkpoint(result.last)["networks"], expected["networks"], rtol=0, atol=0)
    log = log_of(result)
    assert logged <= set(log.Tags()["scalars"])
    rounds = curve(log, "round/val_mae_hu")
    assert [value for _, value in rounds] == pytest.approx(result.history["val_mae_hu"].tolist(), rel=1e-5)
    losses = curve(log, "step/loss_g")
    assert [step for step, _ in losses] == list(range(1, rounds[-1][0] + 1))
    of_round = np.array_split([value for _, value in losses], len(rounds))
    assert [means.mean() for means in of_round] == pytest.approx(result.history["loss_g"].tolist(), rel=1e-4)


def test_a_picture_shows_mr_synthetic_ct_and_ct(fresh_space):
    result = train(get("mk7"), FOUR, fresh_space, LOGGED, stop_after=2, **QUIET)
    inside = [path for path in result.run.folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert size_bytes(result.run) == sum(path.stat().st_size for path in inside)
    events = log_of(result).Images(PICTURE)
    assert [event.step for event in events] == [step for step, _ in curve(log_of(result), "round/val_mae_hu")]
    picture = np.asarray(Image.open(io.BytesIO(events[-1].encoded_image_string)).convert("L"), float)
    side = picture.shape[0]
    assert picture.shape == (side, 3 * side)
    run = prepare_run(get("mk7"), FOUR, fresh_space, PLAIN)
    slices = run.validation_sets()[0]
    batch = slices[sample_item(slices)]
    mr, _, ct = np.split(picture, 3, axis=1)
    assert np.abs(mr - (batch.real_A[0, 2].numpy() + 1) * 127.5).max() <= 1  # the slab's own slice
    assert np.corrcoef(ct.ravel(), batch.real_B[0, 0].numpy().ravel())[0, 1] > 0.95


@pytest.mark.parametrize(("name", "method"), [("mk1", Pix2Pix), ("mk7", Regression)])
def test_an_interrupted_log_goes_on_without_gap_or_repetition(name, method, fresh_space, monkeypatch):
    whole = log_of(train(get(name), FOUR, fresh_space, LOGGED, **QUIET))
    expected = {tag: curve(whole, tag) for tag in whole.Tags()["scalars"] if not tag.endswith("seconds")}
    total, count, step = len(expected["step/loss_g"]), [], method.train_step

    def interrupted(self, batch):
        if len(count) == total - 1:  # in the last round: what it has logged is trained again
            raise KeyboardInterrupt
        count.append(1)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(method, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(get(name), FOUR, fresh_space, LOGGED, retrain=True, **QUIET)
    resumed = train(get(name), FOUR, fresh_space, LOGGED, **QUIET)
    assert (resumed.epochs, len(list((resumed.run.folder / FOLDER).iterdir()))) == (4, 2)
    found = log_of(resumed)
    assert {tag: curve(found, tag) for tag in expected} == expected
    assert len(found.Images(PICTURE)) == 4


def test_a_training_that_began_without_a_log_gets_its_first_rounds(fresh_space):
    train(get("mk1"), FOUR, fresh_space, PLAIN, stop_after=2, **QUIET)
    log = log_of(train(get("mk1"), FOUR, fresh_space, LOGGED, **QUIET))
    assert [value for _, value in curve(log, "round/epoch")] == [1, 2, 3, 4]
    assert curve(log, "step/loss_g")[0][0] == curve(log, "round/epoch")[1][0] + 1


def test_a_finished_training_says_that_it_has_no_log(fresh_space):
    lines: list[str] = []
    train(get("mk1"), FOUR, fresh_space, PLAIN, **QUIET)
    train(get("mk1"), FOUR, fresh_space, LOGGED, report=lines.append)
    assert lines[0] == "mk1: trained before, without a TensorBoard log; --retrain trains again, with one"
    assert not (run_of(fresh_space, "mk1").folder / FOLDER).exists()


@pytest.mark.parametrize("command", [["train", "mk1", "--profile", "smoke"], ["suite", "--profile", "smoke"]])
def test_without_the_package_one_line_says_what_to_install(command, fresh_space, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == FOLDER else found(name, *a))
    text = error_of(*command, "--data", str(fresh_space.data_dir), "--tensorboard")
    assert text == "package tensorboard is not installed; expected it here; pip install -r requirements.txt"


def test_the_page_does_what_it_says(fresh_space):
    """The training of docs/howto/tensorboard.md, in profile smoke; its tags are those that the page names."""
    page = Howto("tensorboard")
    training = next(command for command in page.commands() if command[:4] == ["python", "-m", "mrict_core", "train"])
    ok(*training[3:], "--profile", "smoke", "--data", str(fresh_space.data_dir))
    folder = run_of(fresh_space, get(training[4]).name).folder / FOLDER
    tags = EventAccumulator(str(folder)).Reload().Tags()
    text = page.path.read_text(encoding="utf-8")
    named = {tag for tag in ("step/loss_g", "step/lr_G", "round/val_mae_hu", PICTURE) if f"`{tag}`" in text}
    assert len(named) == 4
    assert named <= {*tags["scalars"], *tags["images"]}
