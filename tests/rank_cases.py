"""What the processes of test_distributed.py do, and the same in one process."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mrict_core import losses, ranks
from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment, get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.methods import build_method
from mrict_core.methods.pix2pix import Pix2Pix
from mrict_core.paths import workspace
from mrict_core.training import loop
from mrict_core.training.distributed import settle, together
from mrict_core.training.loop import TrainResult, train
from mrict_core.training.processes import joined
from mrict_core.training.run import TrainSettings

SMOKE = get_profile("smoke")
TWO = replace(SMOKE, epochs_min=2, epochs_max=2, steps=None)
SIX, SIDE, STEPS = 6, 32, 3
GROUPS = {"network.G.norm": "group"}  # batch norm sees its own rank's slices alone
GAN = {
    **{"network.G": {"name": "residual_unet", "norm": "group"}, "network.D": {"name": "residual_unet", "norm": "none"}},
    **{"loss.perceptual": None, "loss.l1.masked": True, "method.generator_steps": 2, "method.conditional": True},
}
EXPERIMENTS = {
    "regression": with_values(get("mk7_1"), {**GROUPS, "network.G.log_b": True, "loss.laplace": {"weight": 0.1}}),
    "pix2pix": with_values(get("mk6_3_4"), {**GAN, "method.gradient_penalty": 0.0}),
    "penalty": with_values(get("mk6_3_4"), {**GAN, "method.gradient_penalty": 9.0}),
}
FEATURES = {"loss.hu_features": {"weight": 0.1, "steps": 2}}  # learned by every rank from whole batches
ALIKE = with_values(get("mk7_1"), {**GROUPS, **FEATURES, "steps": None, "epochs": 2})  # alike in one process
POOLED = with_values(get("cyclegan_mk1"), {"method.image_pool": 6})  # dropout, batch norm and pools: each rank's own
FEW = TrainSettings(max_pairs=18, device="cpu")
WHOLE = TrainSettings(max_pairs=16, device="cpu")  # two whole batches: nothing stays over


def six_slices(channels: int) -> Batch:
    """Return a batch in float64 of which the first slices have masks of a few pixels, the last ones whole masks."""
    drawn = torch.Generator().manual_seed(1)
    real_A, real_B = (
        torch.rand(SIX, c, SIDE, SIDE, generator=drawn, dtype=torch.float64) * 2 - 1 for c in (channels, 1)
    )
    mask = torch.zeros(SIX, 1, SIDE, SIDE, dtype=torch.float64)
    for number, rows in enumerate((1, 0, 1, 8, 32, 32)):
        mask[number, :, :rows, : 3 if rows == 1 else SIDE] = 1
    return Batch(real_A, real_B, mask)


def penalty_of_parts(parts: list[slice]) -> Callable[..., torch.Tensor]:
    """Return the gradient penalty with a generator for each part of a batch: the same on any number of ranks."""
    original = losses.gradient_penalty

    def penalty(D: Callable, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        if len(real) < SIX:
            own = ranks.current().rank
            return original(D, real, fake, torch.Generator().manual_seed(own))
        drawn = [torch.Generator().manual_seed(number) for number in range(len(parts))]
        return sum(original(D, real[p], fake[p], g) for p, g in zip(parts, drawn, strict=True)) / len(parts)

    return penalty


def steps(name: str, count: int) -> dict[str, torch.Tensor]:
    """Return the weights after some steps on the rank's part of the same batches, and the logs' means over the ranks.

    count: parts of the gradient penalty. The batch is turned from step to step, so that every rank gets other masks.
    """
    torch.manual_seed(0)
    method = build_method(EXPERIMENTS[name], SMOKE, canvas=SIDE)
    for network in {id(n): n for n in (*method.networks.values(), *method.trained("G"))}.values():
        network.double()
    parts = [ranks.Ranks(number, count).own(SIX) for number in range(count)]
    original, losses.gradient_penalty = losses.gradient_penalty, penalty_of_parts(parts)
    whole, place = six_slices(method.view.in_channels), ranks.current()
    try:
        for number in range(STEPS):
            if number != 1:  # a new round in between
                together(method)
            method.begin_epoch(0)
            turned = (part.roll(number, dims=0)[place.own(SIX)] for part in whole.parts[:3])
            logs = ranks.averages(method.train_step(Batch(*turned)))
    finally:
        losses.gradient_penalty = original
    settle(method)
    found = {
        f"{n}.{key}": value for n, network in method.networks.items() for key, value in network.state_dict().items()
    }
    raw = {f"raw.{key}": value for key, value in method.state().get("raw", {}).items()}
    return found | raw | {f"log {key}": value for key, value in logs.items()}


class Aside(Pix2Pix):
    """A method that bypasses its attributes."""

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        wrapped, self.G = self.G, self.networks["G"]
        logs = super().train_step(batch)
        self.G = wrapped
        return logs


def bypassed() -> str:
    """Return the error for a method whose networks are trained apart."""
    torch.manual_seed(0)
    method = build_method(EXPERIMENTS["pix2pix"], SMOKE, canvas=SIDE)
    method.__class__ = Aside
    together(method)
    whole = six_slices(method.view.in_channels)
    method.train_step(Batch(*(part[ranks.current().own(SIX)].float() for part in whole.parts[:3])))
    try:
        settle(method)
    except MrictError as error:
        return str(error)
    return ""


def trained(
    variant: Experiment, folder: Path, data: str, lines: list[str], settings: TrainSettings = FEW, **how: Any
) -> TrainResult:
    """Train in a folder of its own."""
    os.environ["MRICT_CHECKPOINTS"] = str(folder)
    return train(variant, TWO, workspace("smoke", data), settings, report=lines.append, **how)


class Fatal:
    """Progress that kills its process at the second step."""

    def __init__(self, total: int, title: str) -> None:
        self.steps = 0

    def __enter__(self) -> Fatal:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, loss: torch.Tensor) -> None:
        self.steps += 1
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def three(folder: Path) -> None:
    """What three ranks do."""
    with joined("cpu"):
        found = {name: steps(name, 3) for name in EXPERIMENTS}
        if ranks.current().first:
            torch.save(found, folder / "three.pt")


def two(folder: Path, data: str) -> None:
    """What two ranks do; at the end the second one dies."""
    with joined("cpu"):
        found: dict[str, Any] = {name: steps(name, 2) for name in EXPERIMENTS}
        found["bypassed"], lines = bypassed(), []
        found["random"] = ranks.gathered(float(torch.rand(())))
        trained(POOLED, folder / "whole", data, [])
        trained(POOLED, folder / "half", data, lines, stop_after=1)
        found["lines"] = lines
        torch.manual_seed(999)  # another process would have another state
        if ranks.current().first:
            copy_run(folder / "half", folder / "alone")
        trained(POOLED, folder / "half", data, [])
        trained(ALIKE, folder / "alike", data, [], settings=WHOLE)
        print("printed", ranks.current().rank, flush=True)
        if ranks.current().first:
            torch.save(found, folder / "two.pt")
        else:
            loop.Silent = Fatal
        trained(with_values(ALIKE, {"optimizer.G.lr": 1e-4}), folder / "dead", data, [])


def copy_run(source: Path, target: Path) -> None:
    """Copy trainings, without locks."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock"))
