"""Estimate of a training's duration, before it starts."""

from __future__ import annotations

import time

import torch

from mrict_core.data.batches import Batch
from mrict_core.training.run import Run

SLOW_WIDTH = 32  # from this width, training on a CPU is announced with an estimate


def duration_line(run: Run, done: int = 0) -> str:
    """Return an estimate for the epochs after `done` on this CPU, scaled from a step with two slices.

    Excludes validation. Call it before the training seeds its random states.
    """
    method = run.method()
    method.begin_epoch(0)
    size, batch = run.store.size, run.profile.batch(run.variant)
    images = torch.linspace(-1, 1, 2 * size * size).reshape(2, 1, size, size)
    pair = Batch(images.expand(-1, method.view.in_channels, -1, -1), images, torch.ones_like(images))
    seconds = 0.0
    for _ in range(2):  # the second, faster one counts, unless the first was slow
        started = time.perf_counter()
        if seconds < 1:
            method.train_step(pair)
            seconds = (time.perf_counter() - started) * batch / 2
    epochs, steps = run.epochs - done, len(run.dataset) // batch
    hours = epochs * steps * seconds / 3600
    count, unit = (hours / 24, "days") if hours > 72 else (hours, "hours") if hours > 2 else (60 * hours, "minutes")
    return (
        f"{run.variant.name}: about {count:.0f} {unit} on this CPU ({epochs} epochs of {steps} steps, {seconds:.1f} s "
        "a step as measured with two slices, without validation); a GPU is far faster: --device cuda"
    )
