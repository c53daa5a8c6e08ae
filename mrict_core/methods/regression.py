"""Regression: one generator on paired slices, without a discriminator; MK7 and its relatives.

    L = Σ λ_i · f_i(G(x), y), for MK7 the mean absolute error inside the mask          x = real_A (MR), y = real_B (CT)

The weights are averaged over the steps (EMA). The averaged ones are validated, published and predicted with; the
optimised ones are needed only to go on training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment
from mrict_core.losses import LOSSES, Logs, Output
from mrict_core.methods.base import METHODS, Method
from mrict_core.networks.layers import in_full
from mrict_core.parts import expect


@METHODS.register("regression")
@dataclass(eq=False)
class Regression(Method):
    """A generator `G` with averaged weights, and `raw`, the one that the optimiser changes."""

    ema: float = 0.0  # share of the average that a step keeps, less at the start; 0: no averaging
    clip: float | None = None  # largest norm of the gradient

    NETWORKS: ClassVar = {"G": "G"}
    mr_to_ct: ClassVar = "G"
    masked: ClassVar = True
    gives: ClassVar = ("fake_B", "log_b")
    logs: ClassVar = ("grad_norm",)

    @staticmethod
    def check_options(*, ema: float = 0.0, clip: float | None = None) -> None:
        expect("ema", ema, 0 <= ema < 1, "at least 0 and below 1")
        number = type(clip) in (int, float) and 0 < clip < torch.inf
        expect("clip", clip, clip is None or number, "a number above 0, or null")

    @staticmethod
    def check_experiment(experiment: Experiment) -> None:
        """Raise MrictError for a loss that needs a second head which the network lacks."""
        for name, term in experiment.loss.items():
            if "log_b" in LOSSES[term.function or name].needs and not experiment.network["G"].options.get("log_b"):
                raise MrictError(f"loss.{name}: needs a network with a second head; add network.G.log_b=true")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.averaged = 0  # steps

    @cached_property
    def raw(self) -> nn.Module:
        return copy.deepcopy(self.generator) if self.ema else self.generator

    def trained(self, role: str) -> list[nn.Module]:
        return [self.raw]

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.raw.train()

    def train_step(self, batch: Batch) -> Logs:
        batch = self.in_made_channels(batch)
        with self.autocast():
            fake_B, log_b = self.made(batch.real_A)
        loss_G, logs = self.loss((Output(fake_B=fake_B, log_b=log_b), batch))
        return logs | self.improve(loss_G)

    def improve(self, loss: Tensor) -> Logs:
        """Take a step of the optimiser on `loss`, (), and move the averaged weights."""
        self.optimizers["G"].zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.raw.parameters(), self.clip or torch.inf).detach()
        self.optimizers["G"].step()
        if self.ema:
            self.average(self.generator, self.raw, self.averaged)
        self.averaged += 1
        return {"grad_norm": norm}

    def made(self, real_A: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the synthetic CT and the logarithm of its Laplace scale, if the loss needs it, in float32."""
        if "log_b" in self.loss.needs:
            return self.raw.with_log_b(real_A)
        return in_full(self.raw(real_A)), None

    @torch.no_grad()
    def average(self, averaged: nn.Module, raw: nn.Module, steps: int) -> None:
        """Move averaged weights toward the optimised ones; after few `steps` the average is short."""
        keep = min(self.ema, (1 + steps) / (10 + steps))
        new = raw.state_dict()
        for name, value in _each_once(averaged.state_dict()):
            if value.is_floating_point():
                value.lerp_(new[name], 1 - keep)
            else:  # batches counted by batch norm
                value.copy_(new[name])

    def compile(self) -> None:
        super().compile()
        if self.ema:
            self.raw.compile()

    def started(self) -> None:
        self.raw.load_state_dict(self.generator.state_dict())

    def state(self) -> dict[str, Any]:
        return super().state() | ({"raw": self.raw.state_dict(), "averaged": self.averaged} if self.ema else {})

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        if not self.ema:
            return
        if missing := [name for name in ("raw", "averaged") if name not in state]:
            raise MrictError(f"has no {', '.join(missing)} to go on averaging weights from; --retrain trains again")
        self.raw.load_state_dict(state["raw"])
        self.averaged = state["averaged"]


def _each_once(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state under their first name: MONAI's DynUNet holds each of its layers twice."""
    seen: set[int] = set()
    for name, value in state.items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            yield name, value
