"""A few-step flow around a cross-fitted mean; MK9.

    x0 = mu + sigma n        n standard normal, mu the regression's CT               x1 = y, the CT
    x_t = (1 - t) x0 + t x1, the network learns v(x_t, t, mu, MR) -> x1 - x0         (rectified flow: Liu et al. 2023)
    a sample is x0 moved along v in K Euler steps; the CT is the mean of N samples, their SD says where it is uncertain

Starting at the posterior mean follows Ohayon et al. 2025 (posterior-mean rectified flow). t is uniform, but a share of
the batch has t = 0 exactly: the first step starts there, and K = 1 is a regression.

On the people that it learned from, a regression is too good, and the flow would learn corrections that are too small.
So mu is cross-fitted: the training people are divided into F folds by seed, regression f learns from all but fold f,
and the flow sees a person's mu from the one regression that never saw the person. For new people mu is the mean of the
F regressions.

The flow's network starts from the weights of the first regression, which knows what an MR looks like; this is no leak,
for the flow learns from all training people anyway.

The regressions belong to the same training: its first part (`mean_share` of the budget) trains them in turn, so that
each gets the same number of steps, the rest trains the flow. Learning rates go through their schedule once in each
part. One checkpoint therefore holds everything, and mu is computed where it is needed, from the augmented MR, as at the
test; nothing is kept on disk that could belong to another training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment
from mrict_core.losses import LOSSES, Logs, Output, masked_mean
from mrict_core.methods.base import METHODS
from mrict_core.methods.drawing import check_drawing, euler, noise_of
from mrict_core.methods.regression import Regression
from mrict_core.networks.layers import in_full
from mrict_core.networks.residual_unet import UNIT_PER_1000_HU
from mrict_core.parts import expect

FLOW = "flow"
NETWORK = "mean_flow"


def folds_of(people: int, folds: int, seed: int) -> list[int]:
    """Return the fold that leaves each person out: as even as possible, drawn by seed."""
    order = list(range(people))
    random.Random(seed).shuffle(order)
    found = [0] * people
    for place, person in enumerate(order):
        found[person] = place % folds
    return found


@METHODS.register("flow")
@dataclass(eq=False)
class Flow(Regression):
    """The networks of `MeanFlow` as `G`, with averaged weights, and `raw`, those that the optimiser changes."""

    sigma_hu: float = 100.0  # SD of the noise around the mean
    steps: int = 4  # of a sample
    samples: int = 8  # behind a synthetic CT
    mean_share: float = 0.5  # of the training, for the regressions
    at_zero: float = 0.2  # share of a batch with t = 0

    logs: ClassVar = ("grad_norm", "flow_share")
    shares: ClassVar = False  # a step trains one part, whose people may all be on one rank

    @staticmethod
    def check_options(
        *,
        sigma_hu: float = 100.0,
        steps: int = 4,
        samples: int = 8,
        mean_share: float = 0.5,
        at_zero: float = 0.2,
        **regression: Any,
    ) -> None:
        Regression.check_options(**regression)
        expect("sigma_hu", sigma_hu, sigma_hu > 0, "a number above 0")
        expect("steps", steps, steps >= 1, "at least 1")
        expect("samples", samples, samples >= 2, "at least 2")
        expect("mean_share", mean_share, 0 < mean_share < 1, "between 0 and 1")
        expect("at_zero", at_zero, 0 <= at_zero <= 1, "from 0 to 1")

    @staticmethod
    def check_experiment(experiment: Experiment) -> None:
        """Raise MrictError for another network, a second plane, or a loss that needs more than a CT."""
        check_drawing(experiment, NETWORK)
        for name, term in experiment.loss.items():
            if "log_b" in LOSSES[term.function or name].needs:
                raise MrictError(f"loss.{name}: needs a second head, which {NETWORK} lacks; leave it out")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sigma = self.sigma_hu * UNIT_PER_1000_HU / 1000
        self.fraction = 0.0  # of the training
        self.people: list[str] = []
        self.fold_of: list[int] = []
        self.seen: list[set[str]] = [set() for _ in self.means]  # people that each regression learned from
        self.averaged: dict[str, int] = {}  # steps of each part

    @property
    def means(self) -> nn.ModuleList:
        """The regressions, with averaged weights."""
        return self.generator.means

    # ------------------------------------------------------------------------------------------------------ training

    def meet(self, people: Sequence[str], seed: int) -> None:
        folds = len(self.means)
        if (count := len(people)) < folds:
            remedy = f"add people, or set network.G.folds={count}" if count > 1 else "add people"
            raise MrictError(f"{count} training people, but each of {folds} regressions leaves some out; {remedy}")
        self.people, self.fold_of = list(people), folds_of(len(people), folds, seed)

    def follow(self, fraction: float) -> None:
        self.fraction = fraction

    def within(self, fraction: float) -> float:
        if fraction < self.mean_share:
            return fraction / self.mean_share
        return (fraction - self.mean_share) / (1 - self.mean_share)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.generator.eval()  # the averaged weights are only predicted with

    def train_step(self, batch: Batch) -> Logs:
        if not batch.people or not self.fold_of:
            raise MrictError("method flow trains on batches of known people; use `data.batches.paired_batches`")
        return self.mean_step(batch) if self.fraction < self.mean_share else self.flow_step(batch)

    def mean_step(self, batch: Batch) -> Logs:
        """Train one regression on the slices of its people."""
        kept = [[k for k, p in enumerate(batch.people) if self.fold_of[p] != fold] for fold in range(len(self.means))]
        enough = min(2, max(map(len, kept)))  # for batch norm
        fitting = [fold for fold, rows in enumerate(kept) if len(rows) >= enough]
        fold = min(fitting, key=lambda one: (self.averaged.get(f"mean{one}", 0), one))
        own = batch.rows(kept[fold])
        self.seen[fold] |= {self.people[p] for p in own.people}
        raw = self.raw.means[fold]
        with self.autocast():
            fake_B = in_full(raw(own.real_A))
        loss, logs = self.loss((Output(fake_B=fake_B, log_b=None), own))
        return logs | self.improve_part(f"mean{fold}", raw, self.means[fold], loss) | {"flow_share": loss.new_zeros(())}

    def flow_step(self, batch: Batch) -> Logs:
        """Train the flow around each person's mean by the regression that has not seen the person."""
        if not self.averaged.get(FLOW):
            for network in (self.raw.flow, self.generator.flow):
                network.start_from(self.means[0])
        real_A, real_B = batch.real_A, batch.real_B
        mu = self.unseen_mean(batch)
        t = torch.rand(len(batch)) * (torch.rand(len(batch)) >= self.at_zero)
        t = t.to(real_A.device)
        start = mu + self.sigma * torch.randn_like(mu)
        along = t[:, None, None, None]
        with self.autocast():
            velocity = self.velocity(self.raw.flow, real_A, mu, torch.lerp(start, real_B, along), t)
        loss = masked_mean((velocity - (real_B - start)).square(), batch.mask) / self.sigma**2
        logs = {"loss_g": loss.detach(), "flow_share": loss.new_ones(())}
        logs |= self.improve_part(FLOW, self.raw.flow, self.generator.flow, loss)
        self.generator.flow_steps += 1
        return logs

    @torch.no_grad()
    def unseen_mean(self, batch: Batch) -> Tensor:
        """Return each slice's mean by the regression whose fold holds the person.  # => (B, 1, H, W) float32"""
        folds = [self.fold_of[person] for person in batch.people]
        mu = torch.empty_like(batch.real_B)
        for fold in sorted(set(folds)):
            rows = [k for k, own in enumerate(folds) if own == fold]
            mu[rows] = self.made_by(self.means[fold], batch.real_A[rows])
        return mu

    def velocity(self, network: nn.Module, real_A: Tensor, mu: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return v(x, t).  # (B, C, H, W), twice (B, 1, H, W), (B,) => (B, 1, H, W) float32

        The network adds to the velocity that is right if the mean's errors are normal with SD sigma, so one step of an
        untrained flow ends at the mean (the idea of Karras et al. 2022).
        """
        away = (x - mu) / self.sigma  # of the size of an MR's values
        along = t[:, None, None, None]
        guess = self.sigma * away * (2 * along - 1) / ((1 - along) ** 2 + along**2)
        return guess + in_full(network(torch.cat([real_A, mu, away], dim=1), t))

    def improve_part(self, part: str, raw: nn.Module, average: nn.Module, loss: Tensor) -> Logs:
        """Take a step of one part's weights, and move their average."""
        self.optimizers["G"].zero_grad(set_to_none=True)  # parts without a gradient stay as they are
        loss.backward()
        norm = nn.utils.clip_grad_norm_(raw.parameters(), self.clip or torch.inf).detach()
        self.optimizers["G"].step()
        steps = self.averaged.get(part, 0)
        if self.ema:
            self.average(average, raw, steps)
        self.averaged[part] = steps + 1
        return {"grad_norm": norm}

    def state(self) -> dict[str, Any]:
        seen = {"people": self.people, "seen": [sorted(one) for one in self.seen], "averaged": dict(self.averaged)}
        return super().state() | seen

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if missing := [name for name in ("people", "seen", "averaged") if name not in state]:
            raise MrictError(f"has no {', '.join(missing)} to go on training from; --retrain trains again")
        if self.people and state["people"] != self.people:
            raise MrictError("was trained on other people, so its folds are others; --retrain trains again")
        self.seen, self.averaged = [set(one) for one in state["seen"]], dict(state["averaged"])

    # ---------------------------------------------------------------------------------------------------- prediction

    @property
    def draws(self) -> int:
        return self.samples if self.generator.flow_steps else 0  # before the flow is trained, only the mean is known

    def predict(self, real_A: Tensor) -> Tensor:
        """Return one step from a fixed start: the flow's regression, for the validation of a training.

        The synthetic CT is the mean of samples instead, see `drawn`.
        """
        noise = noise_of([0], real_A.shape[-2:], 0).to(real_A.device)
        return self.drawn(real_A, noise.expand(1, len(real_A), -1, -1, -1), steps=1)[0]

    def drawn(self, real_A: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """Return samples of the CT, given the MR and one noise image each.

        steps: None for the method's own.  # (B, C, H, W), (S, B, 1, H, W) => (S, B, 1, H, W) float32 in [-1, 1], or NaN
        """
        real_A, network = self.view.widened(real_A), self.generator
        mu = network(real_A).float()

        def velocity(x: Tensor, t: float) -> Tensor:
            return self.velocity(network.flow, real_A, mu, x, x.new_full((len(x),), t))

        if self.draws:
            samples = torch.stack([euler(velocity, mu + self.sigma * one, steps or self.steps) for one in noise])
        else:
            samples = mu.expand(len(noise), -1, -1, -1, -1)
        return samples.clamp(-1, 1).masked_fill(samples.isinf(), torch.nan)
