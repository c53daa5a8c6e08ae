"""Validation on whole patients, without augmentation, generator in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mrict_core import ranks
from mrict_core.data.batches import PairedSlices, ahead, as_slices, loader
from mrict_core.hu import DISPLAY_WINDOWS_HU, PREDECESSOR, HuRange
from mrict_core.methods import Method
from mrict_core.metrics.predecessor import VGG_SIDE, Features, slice_scores, to_unit
from mrict_core.networks.layers import autocast
from mrict_core.training.feature_cache import KEEP_MIB, RealSide

SAMPLE_LEVEL = 0.6  # of the slices from inferior to superior


def sample_item(dataset: PairedSlices) -> int:
    """Return the item of the slice that shows a training's progress: at `SAMPLE_LEVEL` of the first patient in its
    first plane. Of a whole volume, `sample_level` finds the slice in it."""
    first = [item for item, row in enumerate(dataset.index) if row[:2] == dataset.index[0][:2]]
    return first[round(SAMPLE_LEVEL * (len(first) - 1))]


def sample_level(count: int) -> int:
    """Return the position of that slice among the `count` slices of its item; 0 of a single slice."""
    return round(SAMPLE_LEVEL * (count - 1))


class Validator:
    """Scores a method's predictions on the validation patients, one batch in memory at a time.

    datasets: the slices of one patient each. fid_features, vgg_features: networks of the predecessor's two feature
    metrics; None omits them. vgg_side: size of slices for VGG, pixels; None: their own. precision: of the network's
    pass; scores are float64. keep_mib: see `RealSide`.
    """

    def __init__(
        self,
        window: HuRange,
        datasets: Sequence[PairedSlices],
        *,
        batch_size: int,
        device: torch.device,
        fid_features: Features | None = None,
        vgg_features: Features | None = None,
        vgg_side: int | None = VGG_SIDE,
        precision: torch.dtype = torch.float32,
        keep_mib: int = KEEP_MIB,
    ) -> None:
        self.window, self.datasets = window, list(datasets)
        self.batch_size, self.device, self.precision = batch_size, device, precision
        self.fid, self.vgg = fid_features is not None, vgg_features is not None
        self.real_side = RealSide(fid_features, vgg_features, vgg_side, device, keep_mib)

    def scores(self, method: Method) -> dict[str, float]:
        """Return val_mae_hu (masked, mean over patients), val_mse, val_ssim (the predecessor's, mean over slices),
        val_fid and val_vgg if requested, and output_sd_hu, the SD of the whole output; val_mae_hu = NaN alone if an
        output is not finite. Each rank scores patients of its own, and all get the scores of all."""
        method.generator.eval()
        found: dict[int, PatientScores | None] = {}
        for number in self._own_patients():
            found[number] = self._patient(number, method)
            if found[number] is None:
                break
        found = {number: one for part in ranks.gathered(found) for number, one in part.items()}
        if None in found.values():
            return {"val_mae_hu": float("nan")}
        patients = [found[number] for number in sorted(found)]
        row = {"val_mae_hu": float(np.nanmean([patient.sums.mae_hu for patient in patients]))}
        names = ("val_mse", "val_ssim", *(["val_vgg"] if self.vgg else []))
        means = {name: float(np.mean([v for patient in patients for v in patient.slices[name]])) for name in names}
        row |= {name: means[name] for name in ("val_mse", "val_ssim")}
        if self.fid:
            row["val_fid"] = self.real_side.frechet([v for patient in patients for v in patient.vectors])
        if self.vgg:
            row["val_vgg"] = means["val_vgg"]
        return row | {"output_sd_hu": float(np.mean([patient.sums.sd_hu for patient in patients]))}

    def _own_patients(self) -> list[int]:
        """Return the numbers of this rank's patients: dealt in turn, those with the most slices first."""
        place = ranks.current()
        if place.count == 1:
            return list(range(len(self.datasets)))
        ordered = sorted(range(len(self.datasets)), key=lambda number: -self.datasets[number].slices)
        return sorted(ordered[place.rank :: place.count])

    def _patient(self, number: int, method: Method) -> PatientScores | None:
        """Return a patient's scores; None if an output is not finite."""
        found = PatientScores(PatientSums((self.window.high - self.window.low) / 2))
        for batch in ahead(loader(self.datasets[number], self.batch_size)):
            place = (number + 1, found.sums.slices)
            real_B, fake_B = as_slices(batch.real_B)[:, 0].numpy(), self.predict(method, batch.real_A)
            if not np.isfinite(fake_B).all():
                return None
            inside = as_slices(batch.mask)[:, 0].numpy() > 0
            found.sums.add(real_B, fake_B, inside)
            if method.masked:  # not before: with air around it, a constant output is not constant
                fake_B = np.where(inside, fake_B, np.float32(-1))
            real, fake = self._unit(real_B), self._unit(fake_B)
            for name, values in zip(("val_mse", "val_ssim"), slice_scores(real, fake), strict=True):
                found.slices[name].extend(values)
            if self.fid:
                found.vectors.append(self.real_side.fake_vectors(place, real, fake))
            if self.vgg:
                found.slices["val_vgg"].extend(self.real_side.vgg_errors(place, real, fake))
        return found

    def picture(self, method: Method) -> np.ndarray:
        """Return MR, synthetic CT and CT of the slice of `sample` side by side.  # (S, 3 S) uint8"""
        batch = self.datasets[0][sample_item(self.datasets[0])]
        real_A, real_B = as_slices(batch.real_A), as_slices(batch.real_B)
        at = sample_level(len(real_B))
        mr = real_A[at, real_A.shape[1] // 2].numpy()  # of a slab its own slice
        shown = HuRange(*DISPLAY_WINDOWS_HU["wide"])
        cts = [shown.to_unit(hu) for hu in (self.sample(method), self.window.to_hu(real_B[at, 0].numpy()))]
        return ((np.hstack([mr, *cts]) + 1) * 127.5).round().astype(np.uint8)

    def sample(self, method: Method) -> np.ndarray:
        """Return the synthetic CT of one validation slice, always the same; outside a masked method's mask it is air.

        # => (S, S) int16, HU
        """
        batch = self.datasets[0][sample_item(self.datasets[0])]
        method.generator.eval()
        made, mask = self.predict(method, batch.real_A), as_slices(batch.mask)[:, 0].numpy()
        fake_B = made[sample_level(len(made))]
        if method.masked:
            fake_B = np.where(mask[sample_level(len(made))] > 0, fake_B, np.float32(-1))
        return np.rint(self.window.to_hu(fake_B)).astype(np.int16)

    @torch.inference_mode()
    def predict(self, method: Method, real_A: Tensor) -> np.ndarray:
        """Return a batch's synthetic CT in the window's unit.

        # (B, C, S, S) in [-1, 1], or a volume (1, C, N, S, S) => (B or N, S, S) float32
        """
        with autocast(self.device, self.precision):
            return as_slices(method.predict(real_A.to(self.device)))[:, 0].cpu().numpy()

    def _unit(self, values: np.ndarray) -> np.ndarray:
        """Return values in the predecessor's unit instead of the window's; unchanged if the windows are equal."""
        return values if self.window == PREDECESSOR else to_unit(self.window.to_hu(values))


@dataclass
class PatientSums:
    """Sums for one patient's scores in HU, batch by batch."""

    hu_per_unit: float
    slices: int = 0
    error: float = 0.0  # sum of |real - fake| inside the mask
    voxels: int = 0  # inside the mask
    means: list[float] = field(default_factory=list)  # per synthetic slice
    squares: list[float] = field(default_factory=list)  # mean squares per synthetic slice

    def add(self, real: np.ndarray, fake: np.ndarray, inside: np.ndarray) -> None:
        """Add a batch.  # slices in the window's unit, float32, and the scoring mask, bool: (B, S, S) each"""
        import cv2

        self.slices += len(real)
        self.voxels += int(np.count_nonzero(inside))
        for one, other, mask in zip(real, fake, inside.view(np.uint8), strict=True):  # OpenCV sums in float64
            self.error += cv2.norm(one, other, cv2.NORM_L1, mask)
            self.means.append(cv2.mean(other)[0])
            self.squares.append(cv2.norm(other, cv2.NORM_L2SQR) / other.size)

    @property
    def mae_hu(self) -> float:
        """Mean absolute error inside the mask; NaN if it is empty."""
        return self.hu_per_unit * self.error / self.voxels if self.voxels else float("nan")

    @property
    def sd_hu(self) -> float:
        """Standard deviation over all voxels of all slices."""
        return self.hu_per_unit * float(np.sqrt(max(0.0, np.mean(self.squares) - np.mean(self.means) ** 2)))


@dataclass
class PatientScores:
    """What is known of one validation patient."""

    sums: PatientSums
    slices: dict[str, list[float]] = field(default_factory=lambda: {"val_mse": [], "val_ssim": [], "val_vgg": []})
    vectors: list[np.ndarray] = field(default_factory=list)  # of the synthetic slices, for the Fréchet distance
