"""Validation after an epoch: the predecessor's `validate()` against `Validator.scores`, in parts and as a whole.

Inception and VGG16 have their own architecture and random weights, the generator too: time does not depend on values.
The lean form is measured from the second epoch on, when the real side is known; its first pass has a column of its own.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference.validate import validate
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import models

from benchmarks import measure
from mrict_core.data.batches import Batch, loader
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.hu import WINDOWS
from mrict_core.methods import build_method
from mrict_core.metrics.frechet import Cloud, frechet_distance
from mrict_core.networks import features
from mrict_core.networks.features import FeatureNetwork, InceptionFid
from mrict_core.training.validation import Validator

TITLE = "Validation after an epoch (random weights)"
PATIENTS = 2
SLICES = {  # of each patient
    "full": {"scores": 100, "outputs": 325, "all": 16},
    "quick": {"scores": 8, "outputs": 8, "all": 1},
}
CLOUDS = {"full": (650, 2048), "quick": (64, 256)}  # vectors and dimensions; 650 slices were the predecessor's
BATCH = {"full": 32, "quick": 4}
RELATIVE = 1e-6
# Below D vectors the plain FID adds roots of D - N eigenvalues that are 0 except for rounding. In fewer dimensions both
# forms agree (to 1e-9 in tests/test_validation_equal.py).
RELATIVE_FID = 1e-3
NAMES = {"mae_hu": "val_mae_hu", "mse": "val_mse", "ssim": "val_ssim", "fid": "val_fid", "vgg": "val_vgg"}
Pass = Callable[[], dict[str, float]]


class Heads(Dataset):
    """One patient: shelled ellipses with noise. The MR is the CT with more noise."""

    def __init__(self, slices: int, side: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij", sparse=True)
        radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2) / np.linspace(0.7, 1, slices)[:, None, None]
        tissue = np.select([radius < 0.9, radius < 1], [40.0, 900.0], -1000.0)
        real = (tissue + rng.normal(0, 20, tissue.shape) * (radius < 1)).clip(-1000, 1000) / 1000
        self.real_B = torch.from_numpy(real.astype(np.float32))[:, None]
        noise = torch.from_numpy(rng.normal(0, 0.08, real.shape).astype(np.float32))[:, None]
        self.real_A = (self.real_B + noise).clamp(-1, 1)
        self.mask = torch.from_numpy((radius < 1.03).astype(np.float32))[:, None]

    def __len__(self) -> int:
        return len(self.real_A)

    def __getitems__(self, items: list[int]) -> Batch:
        return Batch(self.real_A[items], self.real_B[items], self.mask[items])


class Given(nn.Module):
    """Identity network, for given vectors or images."""

    def __init__(self, num_features: int = 0) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass
class Predictor:
    """The part of a method that validation uses."""

    generator: nn.Module
    masked = False

    def predict(self, real_A: Tensor) -> Tensor:
        return self.generator(real_A)


class Pooled(nn.Module):
    """Replaces Inception at no cost: as many numbers, means over small fields."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.num_features = dimension

    def forward(self, images: Tensor) -> Tensor:
        grey = images[:, :1].float() / 255
        return nn.functional.adaptive_avg_pool2d(grey, (32, self.num_features // 32)).flatten(1)


class Inception(nn.Module):
    """Inception's first `num_features` numbers as a torchmetrics network, in a given memory layout."""

    def __init__(self, inception: InceptionFid, num_features: int, layout: torch.memory_format) -> None:
        super().__init__()
        self.network = copy.deepcopy(inception.network).to(memory_format=layout)
        self.num_features = num_features

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0][:, : self.num_features]


@contextmanager
def random_weights() -> Iterator[None]:
    """Let `InceptionFid` draw random weights instead of loading them."""
    real = features.load_into, features.locate

    def draw(module: nn.Module, name: str, found: tuple[Path, str]) -> str:
        module.to_empty(device="cpu")
        for layer in module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return f"random {name}"

    features.load_into, features.locate = draw, lambda name: (Path(name), "")
    try:
        yield
    finally:
        features.load_into, features.locate = real


def networks() -> tuple[nn.Module, InceptionFid, FeatureNetwork]:
    """Return the full-width generator, Inception and VGG16 [:16], the same in every call."""
    torch.manual_seed(0)
    with random_weights():
        inception = InceptionFid()
    layers = models.vgg16(weights=None).features[:16].requires_grad_(False)
    vgg = FeatureNetwork(layers, name="random VGG16", weights_hash="none", dimension=256)
    return build_method(get("mk6_3_4"), get_profile("full"), training=False).generator.eval(), inception, vgg


def passes(which: str, size: str) -> dict[str, Pass]:
    """Return the passes over the same slices by form.

    which: "scores", the slice scores of given images; "outputs", these and FID through `Pooled`; "all", everything with
    its networks.
    """
    data = [Heads(SLICES[size][which], 256, seed) for seed in range(PATIENTS)]
    batches = [[batch.parts[:3] for batch in loader(patient, BATCH[size])] for patient in data]
    layouts, dimension = (torch.contiguous_format, torch.channels_last), CLOUDS[size][1]
    generators, inceptions, vggs = (Given(), Given()), (None, None), (None, None)
    if which == "outputs":
        inceptions = (Pooled(dimension), Pooled(dimension))
    if which == "all":
        generator, inception, vgg = networks()
        generators = (copy.deepcopy(generator).to(memory_format=layouts[0]), generator)
        inceptions = tuple(Inception(inception, dimension, layout) for layout in layouts)
        vggs = (copy.deepcopy(vgg.layers).to(memory_format=layouts[0]), vgg.compute_in(torch.float32))

    def lean(precision: torch.dtype) -> Pass:
        looks = {"fid_features": inceptions[1], "vgg_features": vggs[1]}
        common = {"batch_size": BATCH[size], "device": torch.device("cpu"), "precision": precision}
        validator = Validator(WINDOWS["predecessor"], data, **common, **looks)
        return lambda: validator.scores(Predictor(generators[1]))

    def plain() -> dict[str, float]:
        return validate(generators[0], batches, inceptions[0], vggs[0], batch_means=False)

    return {"plain": plain, "lean": lean(torch.float32), "bfloat16": lean(torch.bfloat16)}


def prepared(form: str, which: str, size: str) -> Pass:
    """Return the pass of one form, for measuring memory; the lean one has an empty cache."""
    return passes(which, size)[form]


def clouds(size: str) -> dict[str, Pass]:
    """Return the Fréchet distance of given vectors by form; the lean form has the real side already."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    count, length = CLOUDS[size]
    rng = np.random.default_rng(0)
    real = rng.normal(size=(count, length)) + rng.normal(size=length)
    fake = 0.8 * real + 0.3 * rng.normal(size=(count, length))
    known = Cloud.of(real)

    def plain() -> dict[str, float]:
        metric = FrechetInceptionDistance(feature=Given(length)).set_dtype(torch.float64)
        for part, cloud in ((True, real), (False, fake)):
            for start in range(0, count, 32):
                metric.update(torch.from_numpy(cloud[start : start + 32]), real=part)
        return {"fid": metric.compute().item()}

    return {"plain": plain, "lean": lambda: {"val_fid": frechet_distance(known, Cloud.of(fake))}}


def bare_networks(slices: int) -> float:
    """Return the seconds per slice of the three networks alone, synthetic side only: the lean pass's lower limit."""
    generator, inception, vgg = networks()
    count = min(8, slices)
    grey, resized = torch.rand(count, 1, 256, 256), torch.rand(count, 3, 224, 224)
    images = torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8)
    with torch.inference_mode():
        vgg.compute_in(torch.float32)
        calls = {"G": lambda: generator(grey), "I": lambda: inception(images), "V": lambda: vgg(resized)}
        seconds = measure.in_turns(calls, 3)
    return sum(sorted(values)[1] for values in seconds.values()) / count


def row(case: str, forms: dict[str, Pass], slices: int, repeats: int, form: str = "lean") -> dict[str, Any]:
    """Return times per slice, their ratio and the difference of values; `first` is the lean form's warm-up."""
    calls = {"plain": forms["plain"], "lean": forms[form]}
    first: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}

    def kept(which: str) -> dict[str, float]:
        started = time.perf_counter()
        values = calls[which]()
        seconds.setdefault(which, time.perf_counter() - started)
        return first.setdefault(which, values)

    timed = measure.alternating(lambda: kept("plain"), lambda: kept("lean"), repeats)
    gaps = {name: abs(first["lean"][NAMES[name]] / value - 1) for name, value in first["plain"].items()}
    fid = gaps.pop("fid", 0.0)
    return {
        "case": case,
        "plain_ms_per_slice": 1e3 * timed["plain_s"] / slices,
        "lean_ms_per_slice": 1e3 * timed["lean_s"] / slices,
        "lean_first_ms_per_slice": 1e3 * seconds["lean"] / slices,
        "times_faster": timed["times_faster"],
        "largest_relative_difference": max(gaps.values(), default=0.0),
        "fid_relative_difference": fid,
        "equal": bool(max(gaps.values(), default=0.0) < RELATIVE and fid < RELATIVE_FID),
        "all_plain_s": timed["all_plain_s"],
        "all_lean_s": timed["all_lean_s"],
    }


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per part and one for the whole pass, float32; one more with the generator in bfloat16.

    Peak memory is the growth of a separate process over its first pass, including the lean form's cache.
    """
    size = "quick" if quick else "full"
    count, length = CLOUDS[size]
    number = {which: PATIENTS * slices for which, slices in SLICES[size].items()}
    threads = torch.get_num_threads()
    cases = {
        "scores": f"MSE, SSIM, masked MAE of {number['scores']} slices of 256²",
        "outputs": f"the same and FID in {length} dimensions, networks' outputs at hand",
        "all": f"the whole pass of {number['all']} slices: G, Inception, VGG16, all scores; {threads} threads",
    }
    rows = [row(f"Fréchet distance of {count} vectors in {length} dimensions", clouds(size), count, 1 if quick else 3)]
    for which, case in cases.items():
        forms = passes(which, size)
        rows.append(row(case, forms, number[which], 1 if quick else 3))
        if not quick:
            for form in ("plain", "lean"):
                rows[-1][f"{form}_peak_mib"] = measure.peak_growth_mib(prepared, form, which, size)
    if not quick:
        rows[-1]["networks_ms_per_slice"] = 1e3 * bare_networks(number["all"])
        rows.append(row(f"{cases['all']}, G in bfloat16", forms, number["all"], 3, "bfloat16"))
    return rows
