"""Learning-rate schedules and the score they watch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from mrict_core.errors import unknown_name
from mrict_core.experiments.schema import Schedule, Score
from mrict_core.methods.checks import SCHEDULES

FORMER = {"lr_generator": "lr_G", "lr_discriminator": "lr_D"}  # columns in histories of earlier versions


def linear(schedule: Schedule, fraction: float, rate: float) -> float:
    """Return the rate, constant up to `decay_from` of the training, then falling to 0 (pix2pix, CycleGAN: 0.5)."""
    start = 0.5 if schedule.decay_from is None else schedule.decay_from
    return rate * min(1.0, (1 - fraction) / (1 - start))


def warmup_cosine(schedule: Schedule, fraction: float, rate: float) -> float:
    """Return the rate, rising over the first `warmup` of the training, then half a cosine down to `eta_min`.

    (Loshchilov & Hutter 2017, without restarts)
    """
    warmup, least = schedule.warmup or 0.0, schedule.eta_min or 0.0
    if fraction < warmup:
        return rate * max(fraction / warmup, 0.01)  # a first step of rate 0 would be lost
    return least + (rate - least) * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup))) / 2


FACTORS = {"linear": linear, "warmup_cosine": warmup_cosine}


class ScheduleStepper:
    """One optimiser's schedule.

    A plateau watches a column of the history and is stepped once per epoch, as is the cosine with restarts. (The
    predecessor passed it the score as an epoch number.) `linear` and `warmup_cosine` follow the fraction done of the
    training, step by step, whether it counts in epochs, steps or minutes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.schedule, self.optimizer = schedule, optimizer
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.scheduler: lr_scheduler.LRScheduler | None = None
        if schedule.kind == "plateau":
            self.scheduler = lr_scheduler.ReduceLROnPlateau(
                optimizer, mode=schedule.mode or "min", factor=schedule.factor, patience=schedule.patience
            )
        elif schedule.kind == "cosine":
            self.scheduler = lr_scheduler.CosineAnnealingWarmRestarts(
                optimizer, T_0=schedule.t_0, T_mult=schedule.t_mult or 1, eta_min=schedule.eta_min or 0.0
            )
        elif schedule.kind not in ("constant", *FACTORS):
            raise unknown_name("schedule", schedule.kind, SCHEDULES)

    def follow(self, fraction: float) -> None:
        """Set the learning rates for a step; fraction: of the training done, in [0, 1)."""
        if factor := FACTORS.get(self.schedule.kind):
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = factor(self.schedule, fraction, rate)

    def step(self, row: Mapping[str, float]) -> None:
        """End an epoch with this row of the history."""
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
    """Return the score after `epoch` (from 0), see `Score`; columns of weight zero may be missing."""
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
    """Return the predecessor's score for early stopping and the best checkpoint: 0.5 FID + 0.5 VGG."""
    return 0.5 * row["val_fid"] + 0.5 * row["val_vgg"]


def todays_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a history row of any version under today's names."""
    return {FORMER.get(name, name): value for name, value in row.items()}
