"""Training steps of MK7 by two processes (gloo, CPU) against one, with one thread each and the same batch."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from mrict_core import ranks
from mrict_core.data.batches import Batch
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.machine import cpu_count, end_with_parent, set_threads
from mrict_core.methods import Method, build_method
from mrict_core.training.distributed import together
from mrict_core.training.processes import free_port, joined, named

TITLE = "Training on several processes (MK7, gloo, CPU, a thread each)"
HOW = "medians, one process and two in turns; both with the same batches, half of each to a process"
VARIANT, PROCESSES = "mk7_1", 2
# profile => batch, side in pixels, steps of a measurement
CASES = {"full": {"cpu": (8, 256, 2), "demo": (8, 64, 30)}, "quick": {"smoke": (4, 32, 2)}}

_method: Method
_batch: Batch
_stack = contextlib.ExitStack()


def missing() -> str:
    """Return why it cannot run, or ""."""
    return "" if cpu_count() >= PROCESSES else f"it needs {PROCESSES} cores"


def prepare(rank: int, count: int, port: int, profile: str, batch: int, side: int) -> None:
    """Make this process a rank with a method and its part of a batch; alone if `count` is 1."""
    global _method, _batch
    end_with_parent()
    set_threads(1)
    if count > 1:
        os.environ |= named(rank, count, port)
        _stack.enter_context(joined("cpu"))
    torch.manual_seed(0)
    _method = build_method(get(VARIANT), get_profile(profile), canvas=side)
    together(_method)
    _method.begin_epoch(0)
    own = ranks.current().own(batch)
    images = [(torch.rand(batch, channels, side, side) * 2 - 1)[own] for channels in (_method.view.in_channels, 1)]
    _batch = Batch(*images, torch.ones_like(images[1]))


def take(steps: int) -> None:
    """Take some steps."""
    for _ in range(steps):
        _method.train_step(_batch)


def reduced_bytes() -> int:
    """Return the bytes of the gradients that a step exchanges."""
    return sum(p.grad.nbytes for network in _method.trained("G") for p in network.parameters())


def row(profile: str, batch: int, side: int, steps: int, repeats: int) -> dict[str, Any]:
    """Return images a second of both forms, measured in turns."""
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        forms = {}
        for count in (1, PROCESSES):
            port = free_port()
            given = [(rank, count, port, profile, batch, side) for rank in range(count)]
            pools = [ProcessPoolExecutor(1, mp_context=context, initializer=prepare, initargs=one) for one in given]
            forms[count] = [stack.enter_context(pool) for pool in pools]
            _all(forms[count], 1)  # starts them, and warms up
        seconds: dict[int, list[float]] = {count: [] for count in forms}
        for _ in range(repeats):
            for count, pools in forms.items():
                started = time.perf_counter()
                _all(pools, steps)
                seconds[count].append(time.perf_counter() - started)
        exchanged = forms[PROCESSES][0].submit(reduced_bytes).result()
    per_s = {count: batch * steps / statistics.median(values) for count, values in seconds.items()}
    return {
        "case": f"{profile}: {batch}×{side}×{side}",
        "one_images_per_s": per_s[1],
        "two_images_per_s": per_s[PROCESSES],
        "times_faster": per_s[PROCESSES] / per_s[1],
        "exchanged_mib_per_step": exchanged / 2**20,
        "all_one_s": seconds[1],
        "all_two_s": seconds[PROCESSES],
    }


def _all(pools: list[ProcessPoolExecutor], steps: int) -> None:
    for future in [pool.submit(take, steps) for pool in pools]:
        future.result()


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return a row per profile."""
    cases = CASES["quick" if quick else "full"]
    return [row(profile, *sizes, repeats=1 if quick else 7) for profile, sizes in cases.items()]


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """Return what the numbers mean."""
    least = min(row["times_faster"] for row in rows)
    return [f"Two processes are {least:.2f} times as fast as one or more; 2 would be all of the second core."]
