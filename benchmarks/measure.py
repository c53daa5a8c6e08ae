"""Measurement: plain and lean in turns, medians, peak memory in a separate process."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mrict_core.machine import cpu_count, end_with_parent, versions


def in_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, measured in turns after one warm-up each."""
    return _turns({name: functools.partial(_seconds, call) for name, call in calls.items()}, repeats)


def in_turns_apart(targets: dict[str, tuple[Any, ...]], repeats: int) -> dict[str, list[float]]:
    """The same, each form in its own process: {name: (target, *arguments)}; `target(*arguments)()` is measured.

    So process settings and memory of one form do not affect the others.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        takes = {}
        for name, target in targets.items():
            pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=target)
            stack.enter_context(pool)
            takes[name] = lambda pool=pool: pool.submit(_seconds_prepared).result()
        return _turns(takes, repeats)


def _turns(takes: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    for number in range(repeats + 1):
        for name, take in takes.items():
            took = take()
            if number:
                seconds[name].append(took)
    return seconds


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _prepare(target: Callable[..., Any], *arguments: Any) -> None:
    global _prepared
    end_with_parent()
    _prepared = target(*arguments)


def _seconds_prepared() -> float:
    return _seconds(_prepared)


def alternating(plain: Callable[[], Any], lean: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Return the seconds of both forms, measured in turns, their medians and the ratio."""
    seconds = in_turns({"plain": plain, "lean": lean}, repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "plain_s": medians["plain"],
        "lean_s": medians["lean"],
        "times_faster": medians["plain"] / medians["lean"],
        "all_plain_s": seconds["plain"],
        "all_lean_s": seconds["lean"],
    }


def peak_growth_mib(target: Callable[..., Any], *arguments: Any) -> float:
    """Return the growth of a fresh process's peak memory in `target(*arguments)()`, without what `target` prepares."""
    return cost(target, *arguments, repeats=1)["peak_mib"]


def cost(target: Callable[..., Any], *arguments: Any, repeats: int) -> dict[str, float]:
    """Return the median seconds of `target(*arguments)()` in a fresh process, and the growth of its peak memory."""
    return apart(_cost, target, arguments, repeats)


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        return pool.submit(call, *arguments).result()


def peak_gib() -> float:
    """Return the most memory that this process ever held, libraries and weights included (Linux)."""
    return _resident_kib("VmHWM") / 1024**2


def _cost(target: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> dict[str, float]:
    call = target(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is resident now (Linux)
    before = _resident_kib("VmHWM")
    seconds = [_seconds(call) for _ in range(repeats)]
    return {"seconds": statistics.median(seconds), "peak_mib": (_resident_kib("VmHWM") - before) / 1024}


def _resident_kib(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{name}:"))


def machine() -> dict[str, Any]:
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or "unknown"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {"cpu": cpu, "cores": cpu_count(), "gpu": gpu, "system": platform.platform(), "versions": versions()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
