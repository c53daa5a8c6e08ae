"""The MK6 step on a GPU: images per second, share of the card's matrix rate, memory, time of a whole training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inference import random_model
from benchmarks.training import VARIANT, lean_call, plain_call, random_vgg19
from mrict_core.data.augment import JointTransform
from mrict_core.experiments import Experiment, get, with_values
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.machine import pick_device, tune_gpu
from mrict_core.methods import build_method

TITLE = "The full-width MK6 step on a GPU"
HOW = "medians; MFU: the step's operations a second over those of a large matrix product in the same precision"
SLICES, EPOCHS = 5849, 13  # of the predecessor's longest stage, ~1,140 s an epoch on a T4 (docs/lineage.md)
SIZES = {"full": ((4, 16, 32, 64), 256, 8192, 10), "quick": ((1,), 64, 256, 1)}  # batches, side, matrix, repeats
Sized = tuple[tuple[int, ...], int, int, int]


def missing() -> str:
    """Return why this benchmark cannot run here, or ""."""
    return "" if torch.cuda.is_available() else "this machine shows no CUDA device; see benchmarks/on_gpu.sh"


def clock(call: Callable[[], Any], device: torch.device, repeats: int, warm: int = 3) -> tuple[float, float]:
    """Return the median seconds of `call` after warm-up, and the peak memory in MiB of the card's allocator."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(warm):
        call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else float("nan")
    return statistics.median(seconds), peak


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, repeats: int) -> float:
    """Return the operations per second of a square matrix product."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / clock(lambda: a @ b, device, repeats)[0]


def step_flop(variant: Experiment, profile: Profile, *images: torch.Tensor) -> float:
    """Return the operations of the suite's step: matrix products and convolutions, forward and backward.

    D's penalty is excluded, because the counter cannot follow a second derivative; the true number is slightly higher.
    """
    method = build_method(with_values(variant, {"method.gradient_penalty": 0.0}), profile, images[0].device)
    with FlopCounterMode(display=False) as counter:
        lean_call(method, *images)()
    return float(counter.get_total_flops())


def steps(device: torch.device, sizes: Sized) -> list[dict[str, Any]]:
    """Return one row per form of the step and batch size."""
    batches, side, matrix, repeats = sizes
    variant, profile = get(VARIANT), get_profile("full")
    rates = {dtype: matrix_rate(device, dtype, matrix, repeats) for dtype in (torch.float32, torch.bfloat16)}
    rows = [
        {"case": f"matrix product of side {matrix}, {str(dtype)[6:]}", "tflop_s": rate / 1e12}
        for dtype, rate in rates.items()
    ]
    forms = (("plain", torch.float32), ("lean", torch.float32), ("lean", torch.bfloat16), ("compiled", torch.bfloat16))
    for batch in batches:
        images = [torch.rand(batch, 1, side, side, device=device) * 2 - 1 for _ in range(2)]
        with random_vgg19():
            flop = step_flop(variant, profile, *images)
        for form, dtype in forms:
            torch.manual_seed(0)
            with random_vgg19() as layers:
                method = build_method(variant, profile, device, dtype)
                plain = plain_call(variant, profile, layers.to(device), *images)
            call = plain if form == "plain" else lean_call(method, *images)
            if form == "compiled":
                method.compile()
            seconds, peak = clock(call, device, repeats)
            rows.append(
                {
                    "case": f"{form}, {str(dtype)[6:]}, batch {batch} of {side}×{side}",
                    "images_per_s": batch / seconds,
                    "tflop_s": flop / seconds / 1e12,
                    "mfu_percent": 100 * flop / seconds / rates[dtype],
                    "peak_mib": peak,
                    "training_h": SLICES * EPOCHS * seconds / batch / 3600,
                    "epoch_s": SLICES * seconds / batch,
                }
            )
            del method, call, plain
    return rows


def around_the_step(device: torch.device, sizes: Sized) -> list[dict[str, Any]]:
    """Return the rows of augmentation on the card and of synthesis."""
    batches, side, _, repeats = sizes
    batch = batches[-1]
    real = torch.rand(batch, 1, side, side, device=device) * 2 - 1
    transform = JointTransform(generator=torch.Generator().manual_seed(0))
    seconds, peak = clock(lambda: transform(real, real, real), device, repeats)
    rows = [{"case": f"augmentation, batch {batch}", "images_per_s": batch / seconds, "peak_mib": peak}]
    variant, slices = get(VARIANT), np.zeros((4 * batch, side, side), np.float32)
    for dtype in (torch.float32, torch.bfloat16):
        model = random_model(variant, get_profile("full"), device, batch, dtype)
        seconds, peak = clock(lambda model=model: model.slices_to_hu(slices), device, repeats)
        case = f"synthesis of {len(slices)} slices, {str(dtype)[6:]}, batch {batch}"
        rows.append({"case": case, "images_per_s": len(slices) / seconds, "peak_mib": peak})
    return rows


def run(quick: bool = False, device: str = "auto") -> list[dict[str, Any]]:
    """Return the rows of one card."""
    chosen = pick_device(device)
    tune_gpu(chosen)
    sizes = SIZES["quick" if quick else "full"]
    return steps(chosen, sizes) + around_the_step(chosen, sizes)
