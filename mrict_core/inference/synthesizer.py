"""From MR slices to HU with a trained generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mrict_core.data.batches import OVERLAP
from mrict_core.data.cache.store import SliceStore, layout
from mrict_core.data.planes import Cut, full_planes
from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment
from mrict_core.hu import AIR_FLOOR_HU, HuRange
from mrict_core.machine import pick_device, pick_precision
from mrict_core.methods import METHODS, Method, build_method, check, check_networks, own_code
from mrict_core.methods.drawing import noise_of
from mrict_core.models.folder import Networks, load_facts_and_weights
from mrict_core.networks.layers import autocast
from mrict_core.parts import missing_files
from mrict_core.paths import shown
from mrict_core.training.checkpoint import check_shapes, load_weights
from mrict_core.training.facts import ModelFacts

WEIGHT_MAX = 1e6  # far above any trained weight or statistic
SIDE = 32  # pixels; fits networks that do not say which sides they need
SATURATED_SHARE = 0.5  # of the body at an end of the window: no body is mostly air or metal
SATURATED_HU = 1.0  # distance from an end


def merged(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over the predictions of several planes.  # (N, H, W) each"""
    return planes[0] if len(planes) == 1 else np.mean(planes, axis=0, dtype=np.float32)


@dataclass(frozen=True)
class Synthesizer:
    """A method ready to predict, and its facts. `synthesizer(store, patient)` returns HU slices."""

    method: Method
    facts: ModelFacts
    device: torch.device
    path: str = ""  # for messages
    batch_size: int = 16
    precision: torch.dtype = torch.float32  # of the network; images are always float32

    def __call__(self, store: SliceStore, patient: str) -> np.ndarray:
        """Return the synthetic CT of a patient's slices, (N, S, S) float32 HU.

        Of a method whose output outside the mask means nothing (`Method.masked`), it is air outside body and mask.
        """
        return self.with_sd(store, patient)[0]

    def with_sd(self, store: SliceStore, patient: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the synthetic CT and the SD of its samples, 0 outside body and mask; None of a model without samples.

        # => (N, S, S) float32 HU, twice
        """
        check_store(self, store)
        slices = store.slices(patient)
        hu, sd = self.moments(slices.mr) if self.method.draws else (self._of_planes(store, patient), None)
        self.check_hu(hu, slices.body)
        if not self.method.masked:
            return hu, sd
        held = np.asarray(slices.body, bool) | np.asarray(slices.mask, bool)
        hu = np.where(held, hu, np.float32(AIR_FLOOR_HU))
        return hu, None if sd is None else np.where(held, sd, np.float32(0))

    def _of_planes(self, store: SliceStore, patient: str) -> np.ndarray:
        """Return the mean of what the slices of each trained plane give.  # => (N, S, S) float32 HU"""
        slices, own = store.slices(patient), store.plane(patient)
        count, crop = len(slices.mr), layout(store.meta(patient))[1]
        sides_mm = np.multiply((count, crop.rows, crop.cols), store.spacing_mm(patient))
        planes = full_planes(self.facts.all_planes, sides_mm)
        parts = [self.slices_to_hu(slices.mr)] if own in planes or count == 1 else []
        for plane in planes if count > 1 else ():
            if plane != own:
                cut = Cut(plane, count, store.spacing_mm(patient))
                parts.append(self.through(cut, slices.mr, self.slices_to_hu))
        return merged(parts)

    def through(self, cut: Cut, mr: np.ndarray, predict: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return axial slices predicted on those of another plane.  # (N, S, S) in [-1, 1] => (N, S, S) float32 HU

        predict: `slices_to_hu`, perhaps of flipped slices. Slices of which the network sees background alone are air.
        """
        multiple = math.lcm(SIDE, getattr(self.generator, "multiple", 1))
        canvases = cut.canvas(cut.stack(mr), cut.tall(self.facts.size, multiple), -1)
        held, radius = np.flatnonzero((canvases > -1).any(axis=(1, 2))), self.method.view.radius
        hu = np.full(canvases.shape, AIR_FLOOR_HU, np.float32)
        if held.size:
            seen = slice(max(0, held[0] - radius), held[-1] + radius + 1)
            hu[seen] = predict(canvases[seen])
        return cut.axial(hu)

    @property
    def variant(self) -> Experiment:
        """The experiment as trained, not as declared today."""
        return self.facts.experiment

    @property
    def own_code(self) -> dict[str, str]:
        """The user's files that it is made with, and their hashes."""
        return own_code(self.variant)

    @property
    def generator(self) -> nn.Module:
        """The predicting network."""
        return self.method.generator

    @property
    def window(self) -> HuRange:
        """The HU range of the network's [-1, 1]."""
        return self.facts.window

    def check_hu(self, hu: np.ndarray, body: np.ndarray) -> None:
        """Raise `MrictError` for NaN or infinite values, or if most of the body is at an end of the window."""
        name = self.path or self.variant.name
        remedy = "train or import it again, or give another model"
        if bad := int(hu.size - np.count_nonzero(np.isfinite(hu))):
            raise MrictError(f"{name}: {bad} of {hu.size} pixels of its output are NaN or infinite; {remedy}")
        inside = hu[np.asarray(body, bool)]
        at_end = (inside <= self.window.low + SATURATED_HU) | (inside >= self.window.high - SATURATED_HU)
        if inside.size and at_end.mean() > SATURATED_SHARE:
            raise MrictError(
                f"{name}: its output is saturated: {at_end.mean():.0%} of the body is at {self.window.low:g} or "
                f"{self.window.high:g} HU, the ends of its range; {remedy}"
            )

    @property
    def volumes(self) -> bool:
        """Whether the network sees volumes, in patches."""
        return self.method.view.dimensions == 3

    def slices_to_hu(self, mr: np.ndarray, sample: int | None = None, overlap: float = OVERLAP) -> np.ndarray:
        """Return the synthetic CT of prepared slices.  # (N, H, W) in [-1, 1] => (N, H, W) float32 HU

        overlap: of the patches of a network that sees volumes. sample: one of a method that draws samples; None: their
        mean.
        """
        if self.volumes:
            return self.to_hu(torch.from_numpy(np.array(mr, np.float32))[None, None], overlap=overlap)[0].numpy()
        hu = np.empty(mr.shape, np.float32)
        with autocast(self.device, self.precision):
            for positions in self.batches(len(mr)):
                noise = self.noise(positions, mr.shape[1:], sample)
                hu[positions] = self.to_hu(self.gathered(mr, positions), noise).numpy()
        return hu

    def moments(self, mr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and SD (ddof 1) of the samples of prepared slices.  # (N, H, W) => (N, H, W) float32 HU, twice"""
        mean, sd = np.empty(mr.shape, np.float32), np.empty(mr.shape, np.float32)
        for positions in self.batches(len(mr)):
            drawn = self.drawn_hu(self.gathered(mr, positions), self.noise(positions, mr.shape[1:]))
            mean[positions], sd[positions] = drawn.mean(dim=0).numpy(), drawn.std(dim=0).numpy()
        return mean, sd

    def noise(self, positions: Iterable[int], sides: tuple[int, int], sample: int | None = None) -> Tensor | None:
        """Return the noise that slices start from, of one sample or of all; None of a method without samples.

        # => (samples, B, 1, H, W) float32
        """
        if not self.method.draws:
            return None
        samples = range(self.method.draws) if sample is None else [sample]
        return torch.stack([noise_of(positions, sides, one) for one in samples])

    def batches(self, count: int) -> list[range]:
        """Return the positions of `count` slices in batches."""
        return [range(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size)]

    def gathered(self, mr: np.ndarray, positions: Iterable[int]) -> Tensor:
        """Return the network's view of slices at `positions`.  # (N, H, W) => (B, C, H, W) float32"""
        return torch.from_numpy(np.stack([self.method.view.gather(mr, k) for k in positions]).astype(np.float32))

    @torch.inference_mode()
    def drawn_hu(self, real_A: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """Return samples of a gathered batch, on the CPU; steps: None for the method's own.

        # (B, C, H, W), (samples, B, 1, H, W) => (samples, B, H, W) float32 HU
        """
        with autocast(self.device, self.precision):
            drawn = self.method.drawn(real_A.to(self.device), noise.to(self.device), steps)
            return self.window.to_hu(drawn[:, :, 0]).cpu()

    @torch.inference_mode()
    def to_hu(self, real_A: Tensor, noise: Tensor | None = None, **how: float) -> Tensor:
        """Return the synthetic CT of a gathered batch, on the CPU: of samples, one for each `noise`, the mean.

        how: options of `Method.predict`.
        # (B, C, H, W), (samples, B, 1, H, W) => (B, H, W) float32 HU, or a volume
        """
        if noise is not None:
            return self.drawn_hu(real_A, noise).mean(dim=0)
        with autocast(self.device, self.precision):
            return self.window.to_hu(self.method.predict(real_A.to(self.device), **how)[:, 0]).cpu()


@dataclass(frozen=True)
class Later:
    """A synthesizer that is loaded when a first CT is needed."""

    load: Callable[[], Synthesizer]  # called each time

    def __call__(self, store: SliceStore, patient: str) -> np.ndarray:
        return self.load()(store, patient)

    def with_sd(self, store: SliceStore, patient: str) -> tuple[np.ndarray, np.ndarray | None]:
        return self.load().with_sd(store, patient)


def load_synthesizer(
    path: Path, expect_variant: str | None = None, device: str = "auto", precision: str = "float32"
) -> Synthesizer:
    """Return the MR→CT generator of a checkpoint file or model folder, in evaluation mode.

    Precision is float32 by default, so that scores do not depend on the device. Layers use channels-last memory: a copy
    of the network in torch's default layout sums in another order and differs in the last bits.
    """
    return make_synthesizer(*load_facts_and_weights(path, expect_variant), path, device, precision)


def make_synthesizer(
    facts: ModelFacts, networks: Networks, path: Path, device: str = "auto", precision: str = "float32"
) -> Synthesizer:
    """Like `load_synthesizer`, from facts and weights already read; `path` is for messages."""
    try:
        facts.check()
        check(facts.experiment, training=False)
        check_networks(facts.experiment, facts.profile, facts.size, training=False)
    except MrictError as error:
        own = missing_files(facts.versions)
        remedy = "import its file again" if facts.files else f"add {own}" if own else "train the variant again"
        raise MrictError(f"{shown(path)}: {error}; {remedy}") from None
    name = METHODS[facts.experiment.method.name].mr_to_ct
    if name not in networks:
        raise MrictError(
            f"{shown(path)}: has no network {name}, so it cannot predict a CT; train {facts.variant} again, or give "
            "another model"
        )
    chosen = pick_device(device)
    for where in ("meta", chosen):  # check shapes before allocating memory
        with torch.device("meta" if where == "meta" else "cpu"):
            method = build_method(facts.experiment, facts.profile, where, training=False, canvas=facts.size)
        check_shapes(method.generator, networks[name], name, path)
    load_weights(method.generator, networks[name], name, path)
    check_weights(method.generator, path)
    method.generator.eval()
    return Synthesizer(method, facts, chosen, shown(path), precision=pick_precision(precision, chosen))


def check_weights(generator: nn.Module, path: Path) -> None:
    """Raise MrictError for weights of no trained network; not all damage shows in the output."""
    for name, values in generator.state_dict().items():
        if values.is_floating_point() and not bool((values.abs() < WEIGHT_MAX).all()):  # also catches NaN
            raise MrictError(
                f"{shown(path)}: {name} has weights that are NaN, infinite or beyond {WEIGHT_MAX:g}; expected those "
                "of a trained network; train or import it again"
            )


def check_store(synthesizer: Synthesizer, store: SliceStore) -> None:
    """Raise MrictError for slices prepared differently from those the generator was trained on."""
    facts = synthesizer.facts
    if facts.modality != store.modality:
        raise MrictError(
            f"{synthesizer.path}: trained on {facts.modality.word}, the slices are of {store.modality.word}; give a "
            f"model of --input {store.modality.name}"
        )
    trained = (facts.protocol, facts.size, tuple(facts.window_hu))
    given = (store.protocol, store.size, (store.window.low, store.window.high))
    if trained != given:
        raise MrictError(
            f"{synthesizer.path}: trained on protocol {trained[0]}, {trained[1]} px, window {trained[2]} HU; "
            f"the slices are protocol {given[0]}, {given[1]} px, window {given[2]} HU; preprocess them the same way"
        )
