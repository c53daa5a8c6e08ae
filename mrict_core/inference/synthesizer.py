"""From MR slices to HU with a trained generator."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrict_core.data.intensity import WINDOWS, HuWindow
from mrict_core.data.store import SliceStore
from mrict_core.errors import MrictError, unknown_name
from mrict_core.methods import METHODS, translate
from mrict_core.methods.base import make_generator
from mrict_core.models.folder import Networks, load_facts_and_weights
from mrict_core.networks import GENERATORS
from mrict_core.networks.layers import autocast
from mrict_core.paths import shown
from mrict_core.profiles import Profile
from mrict_core.runtime import pick_device, pick_precision
from mrict_core.training.checkpoint import ABSENT, check_shapes, load_weights
from mrict_core.variant import Variant, from_dict

COUNTS = {"width": (1, 1024), "channels": (1, 16), "size": (16, 8192)}  # what a model may say of itself
WINDOW_HU = 100_000

WEIGHT_MAX = 1e6  # no trained weight or statistic comes near it
SATURATED_SHARE = 0.5  # of the body at an end of the window: no body part is air or metal for the most part
SATURATED_HU = 1.0  # so near to an end


@dataclass(frozen=True)
class Synthesizer:
    """A generator with what it was trained on. `synthesizer(store, patient)` returns HU slices."""

    generator: nn.Module
    variant: Variant
    facts: dict[str, Any]  # the checkpoint without networks and training state
    device: torch.device
    batch_size: int = 16
    precision: torch.dtype = torch.float32  # that the network computes in; its image is float32 in either

    def __call__(self, store: SliceStore, patient: str) -> np.ndarray:
        """Return the synthetic CT of a patient's slices, (N, S, S) float32 HU; memory is bounded by the batch."""
        check_store(self.facts, store)
        slices = store.slices(patient)
        hu = self.slices_to_hu(slices.mr)
        self.check_hu(hu, slices.body)
        return hu

    @property
    def window(self) -> HuWindow:
        """The HU range that the network's [-1, 1] stands for."""
        return HuWindow(*self.facts["window_hu"])

    def check_hu(self, hu: np.ndarray, body: np.ndarray) -> None:
        """Raise `MrictError` for output that no working network gives; both arrays have one shape.

        That is NaN or infinite values anywhere, or most of the body at an end of the window.
        """
        name = self.facts.get("path", self.variant.name)
        remedy = "train or import it again, or give another model"
        if bad := int(hu.size - np.count_nonzero(np.isfinite(hu))):
            raise MrictError(f"{name}: {bad} of {hu.size} pixels of its output are NaN or infinite; {remedy}")
        inside = hu[np.asarray(body, bool)]
        at_end = (inside <= self.window.low + SATURATED_HU) | (inside >= self.window.high - SATURATED_HU)
        if inside.size and at_end.mean() > SATURATED_SHARE:
            raise MrictError(
                f"{name}: its output is saturated: {at_end.mean():.0%} of the body lies at {self.window.low:g} or "
                f"{self.window.high:g} HU, the ends of its range; {remedy}"
            )

    @torch.inference_mode()
    def slices_to_hu(self, mr: np.ndarray) -> np.ndarray:
        """Return the synthetic CT of prepared slices.  # (N, H, W) in [-1, 1] => (N, H, W) float32 HU"""
        hu = np.empty(mr.shape, np.float32)
        with autocast(self.device, self.precision):
            for start in range(0, len(mr), self.batch_size):
                part = slice(start, start + self.batch_size)
                real_A = torch.from_numpy(np.array(mr[part], np.float32))[:, None].to(self.device)
                fake_B = translate(self.generator, real_A, self.variant.channels)[:, 0]
                hu[part] = self.window.to_hu(fake_B).cpu().numpy()
        return hu


def load_synthesizer(
    path: Path, expect_variant: str | None = None, device: str = "auto", precision: str = "float32"
) -> Synthesizer:
    """Return the MR→CT generator of a checkpoint file or of a published model's folder, in evaluation mode.

    It computes in float32 unless asked otherwise: scores must not depend on the device. Its layers work on images
    stored pixel by pixel (channels last); a plain copy of the network in the same layout gives the same bits, one in
    torch's default layout sums in another order and differs in the last ones.
    """
    return make_synthesizer(*load_facts_and_weights(path, expect_variant), path, device, precision)


def make_synthesizer(
    facts: dict[str, Any], networks: Networks, path: Path, device: str = "auto", precision: str = "float32"
) -> Synthesizer:
    """Return what `load_synthesizer` does, from facts and weights that were read already; `path` is for messages."""
    try:
        variant, profile = variant_of(facts), from_dict(Profile, facts.get("profile"), "profile")
        facts = ABSENT | facts | {"profile": dataclasses.asdict(profile) | facts["profile"]}
        check_facts(facts, variant, profile)
    except MrictError as error:
        remedy = "import its file again" if facts.get("files") else "train the variant again"
        raise MrictError(f"{shown(path)}: {error}; {remedy}") from None
    name = METHODS[variant.method].mr_to_ct
    if name not in networks:
        raise MrictError(
            f"{shown(path)}: holds no network {name}, so it cannot make a CT; train {variant.name} again, or give "
            "another model"
        )
    with torch.device("meta"):  # shapes alone: what does not fit must show before memory is asked for
        check_shapes(make_generator(variant, profile), networks[name], name, path)
    generator = make_generator(variant, profile)
    load_weights(generator, networks[name], name, path)
    check_weights(generator, path)
    chosen = pick_device(device)
    generator = generator.to(chosen, memory_format=torch.channels_last).eval()
    return Synthesizer(
        generator, variant, {**facts, "path": shown(path)}, chosen, precision=pick_precision(precision, chosen)
    )


def check_weights(generator: nn.Module, path: Path) -> None:
    """Refuse weights that no training ends with: not every damaged one shows in the output."""
    for name, values in generator.state_dict().items():
        if values.is_floating_point() and not bool((values.abs() < WEIGHT_MAX).all()):  # NaN is not less either
            raise MrictError(
                f"{shown(path)}: {name} holds weights that are NaN, infinite or beyond {WEIGHT_MAX:g}; expected those "
                "of a trained network; train or import it again"
            )


def variant_of(facts: dict[str, Any]) -> Variant:
    """Return the variant as it was when the checkpoint was written, whatever `variants.py` says today."""
    return from_dict(Variant, facts.get("fields"), "variant")


def check_facts(facts: dict[str, Any], variant: Variant, profile: Profile) -> None:
    """Raise MrictError, with the fact's name, where a model says of itself what cannot be."""
    for kind, name, known in (
        ("method", variant.method, METHODS),
        ("generator", variant.generator, GENERATORS),
        ("protocol", str(facts.get("protocol")), WINDOWS),
    ):
        if name not in known:
            raise unknown_name(kind, name[:40], known)
    if facts.get("epoch") == 0:
        raise MrictError("no epoch of its training was done (epoch 0), expected a trained network")
    counts = {"width": profile.width, "channels": variant.channels, "size": facts.get("size")}
    for name, value in counts.items():
        low, high = COUNTS[name]
        if type(value) is not int or not low <= value <= high:
            raise MrictError(f"{name} is {str(value)[:40]}, expected a whole number from {low} to {high}")
    window = facts.get("window_hu")
    sound = isinstance(window, list | tuple) and len(window) == 2 and all(type(v) in (int, float) for v in window)
    if not sound or not -WINDOW_HU <= window[0] < window[1] <= WINDOW_HU:
        raise MrictError(f"window_hu is {str(window)[:40]}, expected two rising numbers within ±{WINDOW_HU} HU")


def check_store(facts: dict[str, Any], store: SliceStore) -> None:
    """Refuse slices that were prepared otherwise than those the generator was trained on."""
    trained = (facts["protocol"], facts["size"], tuple(facts["window_hu"]))
    given = (store.protocol, store.size, (store.window.low, store.window.high))
    if trained != given:
        raise MrictError(
            f"{facts['path']}: trained on protocol {trained[0]}, {trained[1]} px, window {trained[2]} HU; "
            f"the slices are protocol {given[0]}, {given[1]} px, window {given[2]} HU; preprocess them the same way"
        )
