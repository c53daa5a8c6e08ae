"""Export of a published model: its predicting network alone, and the check that a written copy gives equal HU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrict_core import __version__
from mrict_core.data.cache.patient import PreparedMr, prepare_mr, prepare_mr_predecessor
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.data.intensity import MR_PERCENTILES
from mrict_core.data.phantom import PhantomSpec, make_patient
from mrict_core.errors import MrictError
from mrict_core.hu import HuRange
from mrict_core.methods import Method
from mrict_core.models.about import about_of
from mrict_core.paths import shown
from mrict_core.training.facts import ModelFacts

TOLERANCE_HU = 0.1  # of a copy; a CT is stored in whole HU
CHECKED = 4  # slices
SIDE = 32  # pixels; fits networks that do not say which sides they need
PHANTOMS = {"brain": "1BA001", "pelvis": "1PA001"}  # region => id; models of other regions are checked on a head
PHANTOM_MM, PHANTOM_SEED = 4.0, 7
NORMALISATION = {
    "patient": f"MR values between the percentiles {MR_PERCENTILES[0]} and {MR_PERCENTILES[1]} of the whole volume "
    "inside the body mask become -1 to 1, clipped; -1 outside the body",
    "predecessor": "each slice by its own minimum and maximum to -1 to 1; -1 outside Otsu's mask",
}

FIXED = "values between the ends of {} become -1 to 1, clipped; -1 outside the body"  # of an input in HU


class HuNetwork(nn.Module):
    """A method's prediction in HU.  # (B, C, H, W) in [-1, 1] => (B, 1, H, W) float32 HU"""

    def __init__(self, method: Method, window: HuRange) -> None:
        super().__init__()
        self.generator = method.generator
        self.predict, self.window = method.predict, window

    def forward(self, mr: Tensor) -> Tensor:
        return self.window.to_hu(self.predict(mr))


@dataclass(frozen=True)
class Original:
    """A published model, loaded on the CPU. description, scores: the content of model.json and scores.json."""

    method: Method
    facts: ModelFacts
    description: dict[str, Any]
    scores: dict[str, Any] | None = None

    @cached_property
    def network(self) -> HuNetwork:
        return HuNetwork(self.method, self.facts.window).eval()

    @property
    def channels(self) -> int:
        """Channels that the view gathers: a slice and its neighbours."""
        return self.method.view.gather(np.zeros((1, 1, 1), np.float32), 0).shape[0]

    @property
    def multiple(self) -> int:
        """Number of pixels that an image's sides must be a multiple of."""
        return getattr(self.method.generator, "multiple", SIDE)

    @property
    def plane(self) -> str:
        """The first plane that it was trained on."""
        return self.facts.all_planes[0]

    @property
    def region(self) -> str:
        """The region of the training data, "" if unknown."""
        return str(self.description["data"].get("region", ""))

    @property
    def name(self) -> str:
        return f"{self.facts.variant}@{self.description['hash']}"

    @property
    def precision(self) -> str:
        """Precision of the weights, in words."""
        stored = "float16" if self.description["weights"].get("half_precision") else "float32"
        return f"published in {stored}, exported and computed in float32"

    def metadata(self) -> dict[str, str]:
        """Return what a user of the copy has to know, as texts."""
        facts, about, radius = self.facts, about_of(self.description), self.method.view.radius
        return {
            "model": self.name,
            "made_by": f"mrict_core {__version__}",
            "input": f"mr: (batch, {self.channels}, rows, cols) float32 in [-1, 1]",
            "output": "hu: (batch, 1, rows, cols) float32, HU",
            "channels": f"the slice between its {radius} neighbours on either side; at the ends the last slice is "
            "repeated"
            if radius
            else "the slice",
            "normalisation": FIXED.format(facts.modality.window)
            if facts.modality.window
            else NORMALISATION[facts.protocol],
            "canvas": f"{facts.size} x {facts.size} pixels centred on the body, padded with -1, not resampled",
            "window_hu": f"{facts.window.low:g} to {facts.window.high:g}",
            "planes": ", ".join(facts.all_planes),
            "region": self.region,
            "weights": self.precision,
            "label": about.label or self.description["label"],
            "licence": about.licence or "not stated by the publisher",
            "citation": about.citation,
            "use": "research only; not for clinical use",
        }


@dataclass(frozen=True)
class Example:
    """An MR as the original sees it."""

    name: str
    volume: Volume
    prepared: PreparedMr

    def slices(self, original: Original) -> np.ndarray:
        """Return a few slices with their neighbours, evenly spread.  # (B, C, S, S) float32"""
        mr = self.prepared.mr
        rows = np.unique(np.linspace(0, len(mr) - 1, CHECKED).round().astype(int))
        return np.stack([original.method.view.gather(mr, k) for k in rows]).astype(np.float32)


def example_of(original: Original, path: Path | None) -> Example:
    """Return the MR to check a copy on: a file, or a digital phantom of the model's region.

    Raises MrictError for a model that no copy of its network can replace: of volumes, or of samples.
    """
    facts = original.facts
    if original.method.view.dimensions == 3:
        raise MrictError(
            f"{original.name}: its network sees volumes in patches, expected one of slices; use the model itself "
            "(python -m mrict_core synthesize)"
        )
    if original.method.draws:
        raise MrictError(
            f"{original.name}: its CT is the mean of samples drawn from noise, expected that of one pass; use the "
            "model itself (python -m mrict_core synthesize)"
        )
    if path is None:
        region = "pelvis" if original.region == "pelvis" else "brain"
        patient = f"{facts.modality.number}{PHANTOMS[region][1:]}"
        made = make_patient(patient, PHANTOM_SEED, PhantomSpec(region, PHANTOM_MM, PHANTOM_MM))
        volume, name = Volume(np.asarray(made.mr, np.float32), made.affine, Path(patient)), f"phantom {patient}"
    else:
        volume, name = load_volume(path), shown(path)
    if facts.protocol == "predecessor":
        return Example(name, volume, prepare_mr_predecessor(volume, facts.size))
    return Example(name, volume, prepare_mr(volume, facts.size, plane=original.plane, modality=facts.modality))


@torch.inference_mode()
def difference_hu(original: Original, copy: Callable[[np.ndarray], np.ndarray], inputs: Sequence[np.ndarray]) -> float:
    """Return the largest difference of a copy from the original over several inputs; NaN if one is not finite."""
    found = [np.abs(copy(x) - original.network(torch.from_numpy(x)).numpy()).max() for x in inputs]
    return float(np.max(found))  # a NaN stays


def check_equal(difference: float, where: Path, example: Example) -> None:
    """Raise MrictError unless a copy's largest difference is within the tolerance."""
    if not difference <= TOLERANCE_HU:
        raise MrictError(
            f"{shown(where)}: differs from the model by up to {difference:.3g} HU on {example.name}, expected at most "
            f"{TOLERANCE_HU:g} HU; nothing was written; use the model itself (python -m mrict_core synthesize)"
        )
