"""Memory and hours of a training in profile full, one variant of each kind, measured on a GPU or predicted."""

from __future__ import annotations

import datetime
import math
import time
from collections import Counter
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import clock
from benchmarks.training import lean_call, random_vgg19
from mrict_core.experiments import Experiment, get, with_values
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.machine import tune_gpu
from mrict_core.methods import Method, build_method

TITLE = "Memory and hours of a training in profile full"
SLICES = 5849  # of the predecessor's longest stage (docs/lineage.md)
RATE = 20e12  # operations a second that a card is assumed to sustain in these networks
BYTES = 4  # of a float32 number; predictions are for float32, bfloat16 takes about half of the activations
VARIANTS = (
    *("mk7_0", "mk7_1", "mk8_0", "mk9_0", "mk9_ddpm", "mk10_0", "unet_l1", "pix2pix_paper", "cyclegan_paper"),
    *("mk1", "mk2", "mk3_1_2", "mk6_3_4", "cyclegan_mk1"),
)
HOW = (
    f"a single GPU, {SLICES} training slices; predicted hours are at {RATE / 1e12:g} TFLOP/s, an assumption: scale "
    "them by your card; predicted memory is that of float32: weights, gradients, Adam's state and what is kept for the "
    "backward pass"
)


def images(method: Method, batch: int, side: int) -> tuple[Tensor, Tensor]:
    """Return random MR and CT of a batch: slices of `side` pixels, or patches.  # => (B, C, *sides), (B, 1, *sides)"""
    view, device = method.view, method.setup.device
    return tuple(torch.rand(batch, c, *view.sides(side), device=device) * 2 - 1 for c in (view.in_channels, 1))


def steps_of(variant: Experiment, profile: Profile) -> int:
    """Return the steps of a training: its own number, or passes over the slices."""
    return profile.steps_of(variant) or profile.epochs(variant) * math.ceil(SLICES / profile.batch(variant))


class Kept:
    """Bytes that autograd holds for the backward pass, now and at most; each storage counts once, weights never."""

    def __init__(self, method: Method) -> None:
        self.weights = {p.untyped_storage().data_ptr() for n in method.networks.values() for p in n.parameters()}
        self.holders: Counter[int] = Counter()
        self.now = self.most = 0

    def __enter__(self) -> Kept:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: Held(self, tensor), lambda held: held.tensor
        )
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def add(self, storage: torch.UntypedStorage, change: int) -> None:
        address = storage.data_ptr()
        before = self.holders[address] > 0
        self.holders[address] += change
        if address not in self.weights and before != (self.holders[address] > 0):
            self.now += change * storage.nbytes()
            self.most = max(self.most, self.now)


class Held:
    """A tensor that autograd holds; it is gone when the backward pass has used it."""

    def __init__(self, kept: Kept, tensor: Tensor) -> None:
        self.kept, self.tensor = kept, tensor
        kept.add(tensor.untyped_storage(), 1)

    def __del__(self) -> None:
        self.kept.add(self.tensor.untyped_storage(), -1)


def state_bytes(method: Method) -> int:
    """Return the bytes of all weights, and of gradients and Adam's two moments of those that are trained."""
    values = sum(p.numel() for network in method.networks.values() for p in network.parameters())
    return BYTES * (values + 3 * trained_values(method))


def trained_values(method: Method) -> int:
    """Return the number of values that the optimisers change, whose gradients several GPUs add up in every step."""
    return sum(p.numel() for o in method.optimizers.values() for group in o.param_groups for p in group["params"])


def predicted(variant: Experiment, profile: Profile, side: int) -> dict[str, float]:
    """Return memory and operations of a step, from one step of a single image on the CPU.

    Both grow with the batch. D's penalty is left out, as in `benchmarks.gpu.step_flop`: the counter cannot follow a
    second derivative.
    """
    batch, off = profile.batch(variant), {"method.gradient_penalty": 0.0}
    plain = with_values(variant, off) if "gradient_penalty" in variant.method.options else variant
    with random_vgg19():
        method = build_method(plain, profile, "cpu")
    step = lean_call(method, *images(method, 1, side))
    step()
    started = time.perf_counter()
    step()
    seconds = time.perf_counter() - started
    with FlopCounterMode(display=False) as counter:
        step()
    with Kept(method) as kept:
        step()
    flop = batch * counter.get_total_flops()
    return {
        "parameters_million": sum(p.numel() for p in method.generator.parameters()) / 1e6,
        "gib": (state_bytes(method) + batch * kept.most) / 2**30,
        "tflop_per_step": flop / 1e12,
        "hours": steps_of(variant, profile) * flop / RATE / 3600,
        "cpu_s_per_image": seconds,
    }


def measured(variant: Experiment, profile: Profile, side: int) -> dict[str, float]:
    """Return memory and hours from steps on the card, in its own precision."""
    device = torch.device("cuda")
    tune_gpu(device)
    with random_vgg19():
        method = build_method(variant, profile, device, torch.bfloat16)
    seconds, peak_mib = clock(lean_call(method, *images(method, profile.batch(variant), side)), device, 10)
    return {"gib": peak_mib / 1024, "hours": steps_of(variant, profile) * seconds / 3600}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return a row per variant: predicted, replaced by what is measured where there is a card."""
    profile = get_profile("smoke" if quick else "full")
    side, rows = get_profile("full").size, []
    for name in VARIANTS:
        variant = get(name)
        row = {"case": name, "batch": profile.batch(variant), "steps": steps_of(variant, profile), "kind": "predicted"}
        row |= predicted(variant, profile, side)
        if torch.cuda.is_available():
            card = f"measured, {torch.cuda.get_device_name()}, {datetime.date.today()}"
            row |= measured(variant, profile, side) | {"kind": card}
        rows.append(row)
    return rows


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """Return how well operations order the variants by time, on the CPU that made the table."""
    per_image = [row["tflop_per_step"] / row["batch"] for row in rows]
    rank = spearmanr(per_image, [row["cpu_s_per_image"] for row in rows]).statistic
    return [
        f"On this CPU, operations and time per image order these variants alike to a rank correlation of {rank:.2f}."
    ]
