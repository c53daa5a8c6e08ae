"""How long a training will take, said before it starts."""

from __future__ import annotations

import time

import torch

from mrict_core.data.batches import Batch
from mrict_core.training.run import Run

SLOW_WIDTH = 32  # from here on an epoch on a CPU takes so long that it is said beforehand


def duration_line(run: Run, done: int = 0) -> str:
    """Return what the epochs after `done` will take on this CPU, scaled from a step with two slices.

    Validation is not counted. Networks and random states of the training itself are made afterwards.
    """
    method = run.method()
    method.begin_epoch(0)
    size, batch = run.store.size, run.profile.batch(run.variant)
    images = torch.linspace(-1, 1, 2 * size * size).reshape(2, 1, size, size)
    pair = Batch(images.expand(-1, method.view.in_channels, -1, -1), images, torch.ones_like(images))
    seconds = 0.0
    for _ in range(2):  # the first one also fills memory, which matters little where it takes long
        started = time.perf_counter()
        if seconds < 1:
            method.train_step(pair)
            seconds = (time.perf_counter() - started) * batch / 2
    epochs, steps = run.epochs - done, len(run.dataset) // batch
    hours = epochs * steps * seconds / 3600
    took = (
        f"{hours / 24:.0f} days" if hours > 72 else f"{hours:.0f} hours" if hours > 2 else f"{60 * hours:.0f} minutes"
    )
    return (
        f"{run.variant.name}: about {took} on this CPU ({epochs} epochs of {steps} steps, {seconds:.1f} s a step by a "
        "measurement with two slices, validation not counted); a GPU is far faster: --device cuda"
    )
