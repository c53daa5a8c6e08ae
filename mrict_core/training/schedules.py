"""Learning-rate schedules and the score they watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from mrict_core.errors import unknown_name
from mrict_core.experiments.schema import Schedule, Score
from mrict_core.methods.checks import SCHEDULES

FORMER = {"lr_generator": "lr_G", "lr_discriminator": "lr_D"}  # columns of histories that earlier versions wrote


class ScheduleStepper:
    """One optimiser's schedule, stepped once per epoch.

    A plateau watches a column of the history; cosine and constant ignore it. (The predecessor handed the score to a
    cosine schedule as if it were an epoch number; a cosine is stepped per epoch here.)
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.schedule = schedule
        self.scheduler: lr_scheduler.LRScheduler | None
        if schedule.kind == "plateau":
            self.scheduler = lr_scheduler.ReduceLROnPlateau(
                optimizer, mode=schedule.mode or "min", factor=schedule.factor, patience=schedule.patience
            )
        elif schedule.kind == "cosine":
            self.scheduler = lr_scheduler.CosineAnnealingWarmRestarts(
                optimizer, T_0=schedule.t_0, T_mult=schedule.t_mult or 1, eta_min=schedule.eta_min or 0.0
            )
        elif schedule.kind == "constant":
            self.scheduler = None
        else:
            raise unknown_name("schedule", schedule.kind, SCHEDULES)

    def step(self, row: Mapping[str, float]) -> None:
        """Close an epoch, of which `row` is the row of the history."""
        if self.schedule.kind == "plateau":
            self.scheduler.step(row[self.schedule.watch])
        elif self.scheduler is not None:
            self.scheduler.step()

    def state_dict(self) -> dict:
        return self.scheduler.state_dict() if self.scheduler else {}

    def load_state_dict(self, state: dict) -> None:
        if self.scheduler:
            self.scheduler.load_state_dict(state)


def schedule_score(score: Score, row: dict[str, float], epoch: int) -> float:
    """Return what the generator's schedule watches after `epoch` (from 0); terms of weight zero are unused."""
    value = 0.0
    if score.fid:
        value += score.fid * row["val_fid"]
    if score.vgg:
        value += score.vgg * row["val_vgg"]
    if score.ssim:
        value += score.ssim * (1 - row["val_ssim"])
    if score.loss_g:
        value += score.loss_g * row["loss_g"]
    return value * (1 + epoch / score.boost_epochs) if score.boost_epochs else value


def fid_vgg(row: dict[str, float]) -> float:
    """The predecessor's score for early stopping and its best checkpoint: 0.5 FID + 0.5 VGG."""
    return 0.5 * row["val_fid"] + 0.5 * row["val_vgg"]


def todays_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a history, whichever version wrote it, under today's names."""
    return {FORMER.get(name, name): value for name, value in row.items()}
