"""Synthesis of a volume, compared with the network's bare convolutions."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import measure
from mrict_core.data.images.volumes import load_volume, save_nifti
from mrict_core.experiments import Experiment, get
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.inference import Synthesizer
from mrict_core.methods import build_method
from mrict_core.methods.flow import Flow
from mrict_core.networks.layers import autocast
from mrict_core.training.facts import ModelFacts

TITLE = "Inference: a volume through the full-width generator"
SIZES = {"full": (200, 256), "quick": (8, 128)}  # slices, side in pixels
# batch => slices and repeats of a row: the whole volume once, the other batches on a part of it
BATCHES = {"full": {1: (32, 3), 8: (32, 3), 32: (32, 3), 20: (200, 1)}, "quick": {4: (8, 1)}}
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def synthesizer(precision: torch.dtype, batch_size: int) -> Synthesizer:
    """Return a full-width generator with random weights (time does not depend on them)."""
    return random_model(get("mk6_3_4"), get_profile("full"), torch.device("cpu"), batch_size, precision)


def random_model(
    variant: Experiment, profile: Profile, device: torch.device, batch_size: int, precision: torch.dtype
) -> Synthesizer:
    """Return an untrained model of a variant; a flow draws samples, as after its training."""
    method = build_method(variant, profile, device, training=False)
    method.generator.eval()
    if isinstance(method, Flow):
        method.generator.flow_steps += 1
    known = {"key": "", "variant": variant.name, "experiment": variant, "profile": profile, "epoch": None}
    facts = ModelFacts(**known, size=256, protocol="patient", window_hu=[-1024.0, 3000.0])
    return Synthesizer(method, facts, device, batch_size=batch_size, precision=precision)


def macs(generator: nn.Module, side: int) -> int:
    """Return the multiplications of the convolutions for one slice."""
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        cells = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        total += cells[0, 0].numel() * module.weight.numel()

    handles = [m.register_forward_hook(count) for m in generator.modules() if isinstance(m, CONVOLUTIONS)]
    with torch.inference_mode():
        generator(torch.zeros(1, 1, side, side))
    for handle in handles:
        handle.remove()
    return total


def bare_convolutions(model: Synthesizer, mr: np.ndarray) -> Callable[[], None]:
    """Return a call that runs each convolution of the generator on its recorded input, once per batch of `mr`."""
    calls: list[tuple[nn.Module, torch.Tensor]] = []
    handles = [
        m.register_forward_hook(lambda module, inputs, _: calls.append((module, inputs[0])))
        for m in model.generator.modules()
        if isinstance(m, CONVOLUTIONS)
    ]
    model.slices_to_hu(mr[: model.batch_size])
    for handle in handles:
        handle.remove()

    @torch.inference_mode()
    def run() -> None:
        with autocast(model.device, model.precision):
            for _ in range(len(mr) // model.batch_size):
                for module, image in calls:
                    module(image)

    return run


def volume_call(batch_size: int, slices: int, side: int) -> Callable[[], np.ndarray]:
    mr = np.zeros((slices, side, side), np.float32)
    model = synthesizer(torch.float32, batch_size)
    model.slices_to_hu(mr[:batch_size])
    return lambda: model.slices_to_hu(mr)


def file_to_file(model: Synthesizer, slices: int, side: int) -> tuple[float, float]:
    """Return the seconds from NIfTI to sCT NIfTI for a head of that size, and those in the network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mr.nii.gz"
        rng = np.random.default_rng(0)
        head = rng.normal(300, 30, (side, side, slices)).astype(np.int16)
        save_nifti(path, head, np.diag([1.0, 1.0, 1.0, 1.0]), dtype=np.int16)
        started = time.perf_counter()
        volume = load_volume(path)
        stack = np.moveaxis(volume.array, 2, 0) / 1000
        before = time.perf_counter()
        hu = model.slices_to_hu(stack)
        network = time.perf_counter() - before
        save_nifti(Path(folder) / "sct.nii.gz", np.moveaxis(hu, 0, 2), volume.affine, volume.header, np.int16)
        return time.perf_counter() - started, network


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per precision and batch: seconds, rates, share of the bare convolutions' rate, memory."""
    kind = "quick" if quick else "full"
    slices, side = SIZES[kind]
    rng = np.random.default_rng(0)
    rows = []
    for precision in (torch.float32, torch.bfloat16):
        for batch, (count, repeats) in BATCHES[kind].items():
            model = synthesizer(precision, batch)
            mr = rng.uniform(-1, 1, (count, side, side)).astype(np.float32)
            flop = 2 * macs(model.generator, side) * len(mr)
            whole = partial(model.slices_to_hu, mr)
            row = measure.alternating(bare_convolutions(model, mr), whole, repeats)
            rows.append(
                {
                    "case": f"{len(mr)}×{side}×{side}, {str(precision)[6:]}, batch {batch}",
                    "convolutions_s": row["plain_s"],
                    "whole_s": row["lean_s"],
                    "convolutions_gflop_s": flop / row["plain_s"] / 1e9,
                    "whole_gflop_s": flop / row["lean_s"] / 1e9,
                    "share_of_convolutions": row["times_faster"],
                    "slices_per_s": len(mr) / row["lean_s"],
                    "peak_mib": measure.peak_growth_mib(volume_call, batch, len(mr), side)
                    if precision == torch.float32
                    else None,
                }
            )
    for precision in (torch.float32, torch.bfloat16):
        seconds, network = file_to_file(synthesizer(precision, 16 if not quick else 4), slices, side)
        rows.append(
            {
                "case": f"{slices}×{side}×{side}, {str(precision)[6:]}, NIfTI in and out",
                "whole_s": seconds,
                "slices_per_s": slices / seconds,
                "network_s": network,
            }
        )
    return rows
