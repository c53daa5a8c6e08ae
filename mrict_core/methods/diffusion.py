"""A plain conditional diffusion, the reference for MK9 (Ho et al. 2020; given an image: Saharia et al. 2022, Palette).

    x_t = sqrt(a_t) y + sqrt(1 - a_t) n
    the network learns v = sqrt(a_t) n - sqrt(1 - a_t) y from (x_t, t, MR), over the whole image, background too

v, not n (Salimans & Ho 2022): from pure noise an error in n comes back divided by sqrt(a_t), which is near 0, an error
in v does not. The schedule of a_t, the noising and the network are MONAI's. The solver is our own, deterministic (DDIM:
Song et al. 2021) and with its time steps listed: that of MONAI 1.6.1 lists n times from 999 to 0 but then steps back by
1000 // n, which for few steps is another time than the next one listed (by 83 of 1000 at n = 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment
from mrict_core.losses import LOSSES, Logs, Output
from mrict_core.methods.base import METHODS
from mrict_core.methods.drawing import check_drawing, noise_of
from mrict_core.methods.regression import Regression
from mrict_core.networks.layers import in_full
from mrict_core.parts import expect

NETWORK = "denoiser"
TIMES = 1000  # of the schedule
BETAS = (0.0005, 0.0195)  # MONAI's own for images


@METHODS.register("diffusion")
@dataclass(eq=False)
class Diffusion(Regression):
    """A network `G` that predicts v, with averaged weights."""

    steps: int = 20  # of a sample
    samples: int = 4  # behind a synthetic CT

    gives: ClassVar = ("fake_B",)

    @staticmethod
    def check_options(*, steps: int = 20, samples: int = 4, **regression: Any) -> None:
        Regression.check_options(**regression)
        expect("steps", steps, 1 <= steps <= TIMES, f"1 to {TIMES}")
        expect("samples", samples, samples >= 2, "at least 2")

    @staticmethod
    def check_experiment(experiment: Experiment) -> None:
        """Raise MrictError for another network, a second plane, or a loss that compares more than two images."""
        check_drawing(experiment, NETWORK)
        for name, term in experiment.loss.items():
            if set(LOSSES[term.function or name].needs) != {"fake_B"}:
                raise MrictError(f"loss.{name}: compares more than two images, here of v; leave it out")

    def __post_init__(self) -> None:
        from monai.networks.schedulers import DDPMScheduler

        super().__post_init__()
        start, end = BETAS
        with torch.device("cpu"):  # also where shapes alone are checked
            self.scheduler = DDPMScheduler(TIMES, "scaled_linear_beta", beta_start=start, beta_end=end)
        self.kept = self.scheduler.alphas_cumprod.tolist()  # a_t

    def train_step(self, batch: Batch) -> Logs:
        noise, times = torch.randn_like(batch.real_B), torch.randint(TIMES, (len(batch),)).to(batch.real_B.device)
        noisy = self.scheduler.add_noise(original_samples=batch.real_B, noise=noise, timesteps=times)
        with self.autocast():
            predicted = in_full(self.raw(batch.real_A, noisy, times))
        v = self.scheduler.get_velocity(sample=batch.real_B, noise=noise, timesteps=times)
        loss, logs = self.loss((Output(fake_B=predicted), batch.with_ct(v)))  # the terms compare v
        return logs | self.improve(loss)

    @property
    def draws(self) -> int:
        return self.samples

    def predict(self, real_A: Tensor) -> Tensor:
        """Return one sample from a fixed start, for the validation of a training; the CT is the mean of samples."""
        noise = noise_of([0], real_A.shape[-2:], 0).to(real_A.device)
        return self.drawn(real_A, noise.expand(1, len(real_A), -1, -1, -1))[0]

    def drawn(self, real_A: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        real_A = self.view.widened(real_A)
        samples = torch.stack([self.denoised(real_A, one, steps or self.steps) for one in noise])
        return samples.clamp(-1, 1).masked_fill(samples.isinf(), torch.nan)

    def denoised(self, real_A: Tensor, x: Tensor, steps: int) -> Tensor:
        """Return where pure noise x ends.  # (B, C, H, W), (B, 1, H, W) => (B, 1, H, W) float32"""
        times = torch.linspace(TIMES - 1, 0, steps).round().long().tolist()
        for now, then in zip(times, [*times[1:], -1], strict=True):
            predicted = in_full(self.generator(real_A, x, x.new_full((len(x),), now)))
            a, b = self.kept[now], self.kept[then] if then >= 0 else 1.0
            clean = (a**0.5 * x - (1 - a) ** 0.5 * predicted).clamp(-1, 1)
            noise = (x - a**0.5 * clean) / (1 - a) ** 0.5  # that agrees with the clipped image
            x = b**0.5 * clean + (1 - b) ** 0.5 * noise
        return x
