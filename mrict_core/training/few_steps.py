"""A few steps of a regression, one by one, with optimised and averaged weights side by side; nothing is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from mrict_core.data.batches import Batch
from mrict_core.losses import masked_mean
from mrict_core.machine import pick_device, seed_everything, set_threads
from mrict_core.methods.regression import Regression
from mrict_core.training.checkpoint import load_checkpoint, load_weights
from mrict_core.training.run import Run
from mrict_core.training.schedules import ScheduleStepper

CHECKED = 16  # validation slices


def few_steps(run: Run, count: int, every: int, after: Path | None = None) -> pd.DataFrame:
    """Return a row per step: step, fraction, lr, loss_g and grad_norm.

    With `every` steps also the masked MAE of both weights on slices of one validation patient, raw_mae_hu and
    averaged_mae_hu; NaN in the other rows. after: a last checkpoint of `run` to go on from, at the learning rate that
    the experiment begins with; None: from the start, as a whole training of `count` steps.
    """
    set_threads(run.profile.threads)
    seed_everything(run.settings.seed)
    method = run.method()
    schedule = ScheduleStepper(method.optimizers["G"], run.variant.optimizer["G"].schedule)
    if after:
        _go_on(method, run, after)
    generators = {name: torch.Generator().manual_seed(run.settings.seed) for name in ("shuffle", "augment")}
    checked = _validation_slices(run)
    rows = []
    for done, batch in enumerate(run.batches(generators, method.paired, count)):
        if not after:
            schedule.follow(done / count)
        method.begin_epoch(0)
        logs = method.train_step(batch)
        row = {"step": done + 1, "fraction": done / count, "lr": method.optimizers["G"].param_groups[0]["lr"]}
        row |= {name: float(logs[name]) for name in ("loss_g", "grad_norm")}
        if (done + 1) % every == 0:
            row |= {"raw_mae_hu": _mae_hu(run, method, method.raw, checked)}
            row |= {"averaged_mae_hu": _mae_hu(run, method, method.generator, checked)}
        rows.append(row)
    return pd.DataFrame(rows)


def _go_on(method: Regression, run: Run, path: Path) -> None:
    saved = load_checkpoint(path, expect_variant=run.variant.name)
    load_weights(method.generator, saved["networks"]["G"], "G", path)
    method.optimizers["G"].load_state_dict(saved["optimizers"]["G"])
    method.load_state(saved["method_state"])
    for group in method.optimizers["G"].param_groups:
        group["lr"] = run.variant.optimizer["G"].lr


def _validation_slices(run: Run) -> Batch:
    dataset = run.validation_sets()[0]
    return dataset.__getitems__(np.linspace(0, len(dataset) - 1, min(CHECKED, len(dataset))).round().astype(int))


@torch.inference_mode()
def _mae_hu(run: Run, method: Regression, network: nn.Module, batch: Batch) -> float:
    network.eval()
    batch = batch.to(pick_device(run.settings.device))
    fake_B = method.view.applied(network, batch.real_A).float().clamp(-1, 1).to(batch.real_B.device)
    return float(masked_mean((fake_B - batch.real_B).abs(), batch.mask)) * run.store.window.width / 2
