"""A GAN on patches of volumes: a regression that goes on against a discriminator; MK10.

    L_D = ((D(x, y) - 1)² + D(x, G(x))²) / 2  +  γ/2 · |∂ D(x, y) / ∂y|²  in every `r1_every`-th step, times `r1_every`
    L_G = Σ λ_i · f_i(G(x), y): masked L1, gan = (D(x, G(x)) - 1)², feature matching          x = real_A, y = real_B

Least squares: Mao et al. 2017. The penalty R1, on real images alone: Mescheder et al. 2018, arXiv 1801.04406; lazily,
every few steps: Karras et al. 2020, arXiv 1912.04958. The first steps are those of the regression, without D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrict_core.data.batches import Batch
from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment
from mrict_core.losses import LOSSES, Logs, Output, gan_discriminator
from mrict_core.methods.base import METHODS, frozen
from mrict_core.methods.regression import Regression
from mrict_core.networks.layers import autocast, in_full
from mrict_core.parts import expect
from mrict_core.ranks import plain

ADVERSARIAL = {"logits", "features"}  # what terms need that the first steps lack


@METHODS.register("gan3d")
@dataclass(eq=False)
class Gan3d(Regression):
    """The generator of a regression, and a discriminator `D` of pairs of MR and CT."""

    start: float = 0.1  # fraction of the training after which D takes part
    r1: float = 1.0  # γ, the weight of the penalty
    r1_every: int = 16  # steps

    NETWORKS: ClassVar = {"G": "G", "D": "D"}
    own_start: ClassVar = ("D",)
    gives: ClassVar = ("fake_B", "logits", "real_label", "features")
    logs: ClassVar = ("grad_norm", "loss_d", "loss_r1", "d_real", "d_fake")

    @staticmethod
    def check_options(*, start: float = 0.1, r1: float = 1.0, r1_every: int = 16, **regression: Any) -> None:
        Regression.check_options(**regression)
        expect("start", start, 0 <= start <= 1, "a fraction from 0 to 1")
        expect("r1", r1, r1 >= 0, "at least 0")
        expect("r1_every", r1_every, r1_every >= 1, "at least 1")

    @staticmethod
    def check_experiment(experiment: Experiment) -> None:
        """Raise MrictError if nothing is left of the loss without a discriminator, for the first steps."""
        terms = {name: term for name, term in experiment.loss.items() if term.weight}
        if all(ADVERSARIAL & set(LOSSES[term.function or name].needs) for name, term in terms.items()):
            raise MrictError("loss: no term without a discriminator, for the first steps; add one, such as loss.l1")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fraction, self.judged = 1.0, 0  # of the training; steps of D
        if self.setup.training:
            self.first_loss = self.loss.without(ADVERSARIAL)

    def channels(self, name: str) -> tuple[int, int]:
        mr, ct = self.view.in_channels, self.out_channels
        return {"G": (mr, ct), "D": (mr + ct, 1)}[name]

    def trained(self, role: str) -> list[nn.Module]:
        return [self.D] if role == "D" else super().trained(role)

    def follow(self, fraction: float) -> None:
        self.fraction = fraction

    def train_step(self, batch: Batch) -> Logs:
        """Take one step of D, then one of G, on one fake; before `start` of G alone."""
        batch = self.in_made_channels(batch)
        fake_B = self.made_by(self.raw, batch.real_A)
        if self.fraction < self.start:
            loss_G, logs = self.first_loss((Output(fake_B=fake_B), batch))
            logs |= {name: torch.zeros_like(logs["loss_g"]) for name in self._absent()}
            return logs | self.improve(loss_G)
        logs = self.step_D(batch, fake_B.detach())
        with frozen(self.D):
            loss_G, own = self.loss((self.output(batch, fake_B), batch))
            return logs | own | self.improve(loss_G)

    def _absent(self) -> list[str]:
        """Return what the first steps do not log; an epoch's columns stay the same."""
        terms = [f"loss_g_{name}" for name in self.loss.terms if name not in self.first_loss.terms]
        return [*terms, *(name for name in self.logs if name != "grad_norm")]

    def output(self, batch: Batch, fake_B: Tensor) -> Output:
        """Return what the terms of G's loss read; D's features of the real CT are their target, without a gradient."""
        *fakes, logits = self.D_outputs(batch.real_A, fake_B)
        with torch.no_grad():
            *reals, _ = self.D_outputs(batch.real_A, batch.real_B)
        pairs = list(zip(fakes, reals, strict=True))
        return Output(fake_B=fake_B, logits=logits, real_label=1.0, gan="least_squares", features=pairs)

    def D_outputs(self, real_A: Tensor, image: Tensor) -> list[Tensor]:
        """Return D's features of an image beside its MR, and as the last its logits, in float32."""
        with self.autocast():
            made = self.D(torch.cat([real_A, image], dim=1))
        return [in_full(one) for one in (made if isinstance(made, list | tuple) else [made])]

    def step_D(self, batch: Batch, fake_B: Tensor) -> Logs:
        penalised = bool(self.r1) and self.judged % self.r1_every == 0
        self.judged += 1
        logits_real, loss_r1 = self._real_logits(batch, penalised)
        logits_fake = self.D_outputs(batch.real_A, fake_B)[-1]
        loss_D = gan_discriminator(logits_real, logits_fake, 1.0, "least_squares")
        self.descend("D", loss_D + self.r1_every * self.r1 / 2 * loss_r1)  # one backward
        logs = {"loss_d": loss_D, "loss_r1": loss_r1, "d_real": logits_real.mean(), "d_fake": logits_fake.mean()}
        return {name: value.detach() for name, value in logs.items()}

    def _real_logits(self, batch: Batch, penalised: bool) -> tuple[Tensor, Tensor]:
        """Return D's logits of the real CT, and R1, the mean over the batch; 0 in most steps.

        The penalty is differentiated twice: in float32, and not through a compiled D.
        """
        if not penalised:
            logits = self.D_outputs(batch.real_A, batch.real_B)[-1]
            return logits, torch.zeros((), device=logits.device)
        real_B = batch.real_B.detach().requires_grad_(True)
        with autocast(real_B.device, torch.float32):
            made = plain(self.D).forward(torch.cat([batch.real_A, real_B], dim=1))
            logits = made[-1] if isinstance(made, list | tuple) else made
            (gradient,) = torch.autograd.grad(logits.sum(), real_B, create_graph=True)
        return logits, gradient.flatten(1).square().sum(dim=1).mean()

    def state(self) -> dict[str, Any]:
        return super().state() | {"judged": self.judged}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.judged = state.get("judged", 0)
