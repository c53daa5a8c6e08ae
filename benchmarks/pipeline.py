"""The data pipeline: how long training waits for its batches. Demo phantoms, CPU, one thread, as the suite trains."""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.machine import seed_everything, set_threads
from mrict_core.methods import build_method
from mrict_core.paths import Workspace
from mrict_core.pipeline import prepare_data
from mrict_core.training.run import TrainSettings, prepare_run

TITLE = "Waiting for data in training"
VARIANTS = ("mk6_1_0", "mk1", "cyclegan_mk1")
FOLDERS = ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS")


@contextmanager
def scratch(profile: str) -> Iterator[Workspace]:
    """Prepare the embedded phantoms of a profile in temporary folders."""
    before = {name: os.environ.get(name) for name in FOLDERS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {name: f"{folder}/{name.lower()}" for name in FOLDERS}
        try:
            yield prepare_data(profile, report=lambda line: None).workspace
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def waits(batches: Iterable, step: Any) -> tuple[list[float], list[float]]:
    """Return the seconds waited for each batch and spent on it."""
    waited, worked = [], []
    source = iter(batches)
    while True:
        started = time.perf_counter()
        batch = next(source, None)
        got = time.perf_counter()
        if batch is None:
            return waited, worked
        step(batch)
        waited.append(got - started)
        worked.append(time.perf_counter() - got)


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per variant: median waiting and working time of a batch, and their share over the epochs."""
    profile = get_profile("smoke" if quick else "demo")
    threads, rows = torch.get_num_threads(), []
    set_threads(profile.threads)
    with scratch(profile.name) as space:
        for name in VARIANTS[:1] if quick else VARIANTS:
            variant = dataclasses.replace(get(name), init_from=None)  # random weights: time does not depend on them
            training = prepare_run(variant, profile, space, TrainSettings(device="cpu"))
            seed_everything(0)
            method = build_method(variant, profile)
            generators = {key: torch.Generator().manual_seed(0) for key in ("shuffle", "augment")}
            waited, worked = [], []
            for epoch in range(4):
                found = waits(training.batches(generators, method.paired), method.train_step)
                if epoch:  # the first warms up
                    waited, worked = waited + found[0], worked + found[1]
            rows.append(
                {
                    "case": f"{profile.label}, {name}, batch {profile.batch(variant)} of {training.store.size} px",
                    "wait_ms": 1e3 * statistics.median(waited),
                    "step_ms": 1e3 * statistics.median(worked),
                    "wait_share_percent": 100 * sum(waited) / (sum(waited) + sum(worked)),
                    "batches": len(worked),
                }
            )
    torch.set_num_threads(threads)
    return rows
