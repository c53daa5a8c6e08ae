"""From MR slices to HU with a trained generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mrict_core.data.intensity import HuWindow
from mrict_core.data.store import SliceStore
from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment
from mrict_core.legacy.flat_view import flat
from mrict_core.methods import METHODS, check, translate
from mrict_core.methods.base import make_generator
from mrict_core.models.folder import Networks, load_facts_and_weights
from mrict_core.networks.layers import autocast
from mrict_core.paths import shown
from mrict_core.runtime import pick_device, pick_precision
from mrict_core.training.checkpoint import check_shapes, load_weights
from mrict_core.training.facts import ModelFacts

WEIGHT_MAX = 1e6  # no trained weight or statistic comes near it
SATURATED_SHARE = 0.5  # of the body at an end of the window: no body part is air or metal for the most part
SATURATED_HU = 1.0  # so near to an end


@dataclass(frozen=True)
class Synthesizer:
    """A generator with what it was trained on. `synthesizer(store, patient)` returns HU slices."""

    generator: nn.Module
    variant: Experiment
    facts: ModelFacts
    device: torch.device
    path: str = ""  # as messages name it
    batch_size: int = 16
    precision: torch.dtype = torch.float32  # that the network computes in; its image is float32 in either

    def __call__(self, store: SliceStore, patient: str) -> np.ndarray:
        """Return the synthetic CT of a patient's slices, (N, S, S) float32 HU; memory is bounded by the batch."""
        check_store(self, store)
        slices = store.slices(patient)
        hu = self.slices_to_hu(slices.mr)
        self.check_hu(hu, slices.body)
        return hu

    @property
    def window(self) -> HuWindow:
        """The HU range that the network's [-1, 1] stands for."""
        return self.facts.window

    def check_hu(self, hu: np.ndarray, body: np.ndarray) -> None:
        """Raise `MrictError` for output that no working network gives; both arrays have one shape.

        That is NaN or infinite values anywhere, or most of the body at an end of the window.
        """
        name = self.path or self.variant.name
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
                fake_B = translate(self.generator, real_A, flat(self.variant).channels)[:, 0]
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
    facts: ModelFacts, networks: Networks, path: Path, device: str = "auto", precision: str = "float32"
) -> Synthesizer:
    """Return what `load_synthesizer` does, from facts and weights that were read already; `path` is for messages."""
    try:
        facts.check()
        check(facts.experiment)
    except MrictError as error:
        remedy = "import its file again" if facts.files else "train the variant again"
        raise MrictError(f"{shown(path)}: {error}; {remedy}") from None
    variant, profile = facts.experiment, facts.profile
    name = METHODS[variant.method.name].mr_to_ct
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
    return Synthesizer(generator, variant, facts, chosen, shown(path), precision=pick_precision(precision, chosen))


def check_weights(generator: nn.Module, path: Path) -> None:
    """Refuse weights that no training ends with: not every damaged one shows in the output."""
    for name, values in generator.state_dict().items():
        if values.is_floating_point() and not bool((values.abs() < WEIGHT_MAX).all()):  # NaN is not less either
            raise MrictError(
                f"{shown(path)}: {name} holds weights that are NaN, infinite or beyond {WEIGHT_MAX:g}; expected those "
                "of a trained network; train or import it again"
            )


def check_store(synthesizer: Synthesizer, store: SliceStore) -> None:
    """Refuse slices that were prepared otherwise than those the generator was trained on."""
    facts = synthesizer.facts
    trained = (facts.protocol, facts.size, tuple(facts.window_hu))
    given = (store.protocol, store.size, (store.window.low, store.window.high))
    if trained != given:
        raise MrictError(
            f"{synthesizer.path}: trained on protocol {trained[0]}, {trained[1]} px, window {trained[2]} HU; "
            f"the slices are protocol {given[0]}, {given[1]} px, window {given[2]} HU; preprocess them the same way"
        )
