"""Validation on whole patients, without augmentation, generator in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from mrict_core.data.intensity import HuWindow
from mrict_core.data.pairs import PairedSlices, loader
from mrict_core.methods.base import translate
from mrict_core.metrics.predecessor import (
    VGG_SIDE,
    Features,
    FrechetDistance,
    predecessor_scores,
    predecessor_vgg,
    to_unit,
)


class Validator:
    """Scores a generator on the validation patients, one patient in memory at a time.

    datasets: the slices of one patient each. fid_features, vgg_features: what the predecessor's two feature metrics
    look through; None leaves them out. vgg_side: pixels the slices are resized to for VGG, None for their own size.
    """

    def __init__(
        self,
        window: HuWindow,
        datasets: Sequence[PairedSlices],
        *,
        channels: int,
        batch_size: int,
        device: torch.device,
        fid_features: Features | None = None,
        vgg_features: Features | None = None,
        vgg_side: int | None = VGG_SIDE,
    ) -> None:
        self.window, self.datasets = window, list(datasets)
        self.channels, self.batch_size, self.device = channels, batch_size, device
        self.fid_features, self.vgg_features, self.vgg_side = fid_features, vgg_features, vgg_side

    def scores(self, generator: nn.Module) -> dict[str, float]:
        """Return val_mae_hu (masked; mean over patients), val_mse and val_ssim (the predecessor's, mean over slices),
        val_fid and val_vgg where asked for, and output_sd_hu, the spread of the whole output. An output with NaN gives
        val_mae_hu = NaN alone."""
        generator.eval()
        frechet = FrechetDistance(self.fid_features, self.device) if self.fid_features else None
        mae_hu, sums, count, spread = [], dict.fromkeys(("mse", "ssim", "vgg"), 0.0), 0, []
        for dataset in self.datasets:
            real_hu, fake_hu, inside = self.predict(generator, dataset)
            if not np.isfinite(fake_hu).all():
                return {"val_mae_hu": float("nan")}
            mae_hu.append(np.abs(real_hu - fake_hu)[inside].mean(dtype=np.float64) if inside.any() else np.nan)
            spread.append(fake_hu.std(dtype=np.float64))
            scores = predecessor_scores(real_hu, fake_hu)
            if frechet:
                frechet.update(to_unit(real_hu), to_unit(fake_hu))
            if self.vgg_features:
                scores["vgg"] = predecessor_vgg(
                    to_unit(real_hu), to_unit(fake_hu), self.vgg_features, side=self.vgg_side, device=self.device
                )
            count += len(real_hu)
            for name, value in scores.items():
                sums[name] += value * len(real_hu)
        row = {
            "val_mae_hu": float(np.nanmean(mae_hu)),
            "val_mse": sums["mse"] / count,
            "val_ssim": sums["ssim"] / count,
        }
        if frechet:
            row["val_fid"] = frechet.compute()
        if self.vgg_features:
            row["val_vgg"] = sums["vgg"] / count
        return row | {"output_sd_hu": float(np.mean(spread))}

    @torch.no_grad()
    def predict(self, generator: nn.Module, dataset: PairedSlices) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return real HU, synthetic HU and the scoring mask of one patient, (N, S, S) each."""
        parts = []
        for real_A, real_B, mask in loader(dataset, self.batch_size):
            fake_B = translate(generator, real_A.to(self.device), self.channels).float().cpu()
            to_hu = self.window.to_hu
            parts.append((to_hu(real_B)[:, 0].numpy(), to_hu(fake_B)[:, 0].numpy(), mask[:, 0].numpy() > 0))
        real_hu, fake_hu, inside = (np.concatenate(column) for column in zip(*parts, strict=True))
        return real_hu, fake_hu, inside
