"""One training step of the MK6 form: the predecessor's procedure against the suite's step, float32 and bfloat16."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from reference.pix2pix import PlainWeights, plain_step
from torch import nn
from torchvision import models

from benchmarks import measure
from mrict_core import losses
from mrict_core.data.batches import Batch
from mrict_core.experiments import Experiment, get
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.methods import Method, build_method
from mrict_core.networks.features import DemoFeatures, FeatureNetwork

TITLE = "A training step, pix2pix MK6 (1 D + 3 G steps, penalty, perceptual, L1)"
VARIANT = "mk6_3_4"
PEOPLE = 8  # behind the random images: each of MK9's regressions leaves some out
# profile => batch and side in pixels. VGG19 has random weights here: time does not depend on their values.
CASES = {"full": {"full": (4, 256), "demo": (8, 64)}, "quick": {"demo": (8, 64)}}


@contextmanager
def random_vgg19() -> Iterator[nn.Module]:
    """Let the methods use VGG19 with random weights; yield its layers."""
    layers, real = models.vgg19(weights=None).features, losses.build_features

    def features(name: str) -> nn.Module:
        if name == "demo_features":
            return real(name)
        return FeatureNetwork(copy.deepcopy(layers), name="random VGG19", weights_hash="none", dimension=512)

    losses.build_features = features
    try:
        yield layers
    finally:
        losses.build_features = real


def plain_call(variant: Experiment, profile: Profile, vgg: nn.Module, *images: torch.Tensor) -> Callable[[], Any]:
    """Return the predecessor's step with its own networks, in torch's default layout, with default Adam."""
    method = build_method(variant, profile, images[0].device)
    G, D = (method.networks[name].to(memory_format=torch.contiguous_format).train() for name in ("G", "D"))
    given = variant.optimizer
    adam_G, adam_D = (
        torch.optim.Adam(network.parameters(), lr=given[role].lr, **given[role].options)
        for role, network in (("G", G), ("D", D))
    )
    options, loss = variant.method.options, variant.loss
    weights = PlainWeights(
        options["real_label"],
        options["gradient_penalty"],
        loss["perceptual"].weight,
        loss["l1"].weight,
        options["generator_steps"],
    )
    return lambda: plain_step(G, D, vgg, adam_G, adam_D, *images, weights)


def lean_call(method: Method, *images: torch.Tensor) -> Callable[[], Any]:
    """Return a step of a method; of a training in several parts, the last one's."""
    real_A, real_B = images
    method.meet([f"person{k}" for k in range(PEOPLE)], 0)
    method.follow(1.0)
    method.begin_epoch(0)
    batch = Batch(real_A, real_B, torch.ones_like(real_B), people=tuple(k % PEOPLE for k in range(len(real_A))))
    return lambda: method.train_step(batch)


def step_of(form: str, profile: Profile, batch: int, side: int) -> Callable[[], Any]:
    """Return the step of one form, "plain" or a precision of the lean one, for a separate process."""
    torch.manual_seed(0)
    variant = get(VARIANT)
    images = [torch.rand(batch, 1, side, side) * 2 - 1 for _ in range(2)]
    with random_vgg19() as layers:
        if form == "plain":
            vgg = DemoFeatures().layers.requires_grad_(True) if profile.feature_network else layers
            return plain_call(variant, profile, vgg, *images)
        method = build_method(variant, profile, "cpu", getattr(torch, form))
    return lean_call(method, *images)


def rows_of(profile: Profile, batch: int, side: int, repeats: int) -> list[dict[str, Any]]:
    """Return one row per precision, all forms in turns."""
    forms = {name: (step_of, name, profile, batch, side) for name in ("plain", "float32", "bfloat16")}
    seconds = measure.in_turns_apart(forms, repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "case": f"{profile.name}: width {profile.width}, {batch}×{side}×{side}, {name}",
            "plain_s_per_image": medians["plain"] / batch,
            "lean_s_per_image": medians[name] / batch,
            "times_faster": medians["plain"] / medians[name],
            "all_plain_s": seconds["plain"],
            "all_lean_s": seconds[name],
        }
        for name in forms
        if name != "plain"
    ]


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per profile and precision."""
    rows = []
    for name, (batch, side) in CASES["quick" if quick else "full"].items():
        rows += rows_of(get_profile(name), batch, side, repeats=1 if quick else 5)
    return rows
