"""Pix2Pix (Isola et al. 2017, arXiv 1611.07004) as the predecessor trained it: 1 D step, then k G steps per batch.

    L_D = (BCE(D(y), r) + BCE(D(G(x)), 0)) / 2 + λ_gp · GP          r: the label of real patches
    L_G = λ_gan · BCE(D(G(x)), r) + λ_perc · P(G(x), y) + λ_l1 · |G(x) − y|₁

x = real_A (MR), y = real_B (CT), P: distance of deep features. D sees the CT alone unless the variant asks for the
conditional form D(x, y).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile
from mrict_core.losses.adversarial import bce_generator
from mrict_core.losses.reconstruction import l1
from mrict_core.methods.base import (
    Method,
    Terms,
    adam,
    descend,
    discriminator_loss,
    frozen,
    grey_to,
    make_discriminator,
    make_generator,
)


class Pix2Pix(Method):
    """One U-Net generator `G`, one patch discriminator `D`."""

    mr_to_ct = "G"
    paired = True

    def __init__(self, variant: Experiment, profile: Profile, *where: torch.device | torch.dtype) -> None:
        super().__init__(variant, profile, *where)
        self.G = self.place(make_generator(variant, profile))
        self.D = self.place(make_discriminator(variant, profile))
        self.networks = {"G": self.G, "D": self.D}
        self.optimizers = {
            "G": adam(variant, [self.G], variant.lr_generator),
            "D": adam(variant, [self.D], variant.lr_discriminator),
        }
        self.previous: dict[str, float] = {}  # mean terms of the last epoch, for the adaptive weight

    def step(self, real_A: Tensor, real_B: Tensor) -> Terms:
        """One D step and k G steps; the first fake serves both."""
        real_A, real_B = (grey_to(self.variant.channels, image) for image in (real_A, real_B))
        fake_B = self.generate(real_A)
        terms = self.step_discriminator(real_A, real_B, fake_B.detach())
        real_features = self.features_of(real_B) if self.features else None
        with frozen(self.D):
            for k in range(self.variant.generator_steps):
                if k > 0:
                    fake_B = self.generate(real_A)
                terms |= self.step_generator(real_A, real_B, fake_B, real_features)
        return terms

    def generate(self, real_A: Tensor) -> Tensor:
        with self.autocast():
            return self.G(real_A)

    def seen_by_D(self, real_A: Tensor, image: Tensor) -> Tensor:
        return torch.cat([real_A, image], dim=1) if self.variant.conditional_discriminator else image

    def step_discriminator(self, real_A: Tensor, real_B: Tensor, fake_B: Tensor) -> Terms:
        real, fake = self.seen_by_D(real_A, real_B), self.seen_by_D(real_A, fake_B)
        with self.autocast():
            loss_D, terms = discriminator_loss(self.variant, self.D, real, fake)
        descend(self.optimizers["D"], loss_D)
        return terms

    def step_generator(self, real_A: Tensor, real_B: Tensor, fake_B: Tensor, real_features: Tensor | None) -> Terms:
        v = self.variant
        with self.autocast():
            logits_fake = self.D(self.seen_by_D(real_A, fake_B))
        loss_gan = bce_generator(logits_fake, v.real_label)
        loss_G, terms = v.lambda_gan * loss_gan, {"loss_g_gan": loss_gan.detach()}
        if real_features is not None:
            loss_perceptual = self.perceptual(fake_B, real_features)
            loss_G = loss_G + self.lambda_perceptual * loss_perceptual
            terms["loss_g_perceptual"] = loss_perceptual.detach()
        if v.lambda_l1 > 0:
            loss_l1 = l1(fake_B, real_B)
            loss_G = loss_G + v.lambda_l1 * loss_l1
            terms["loss_g_l1"] = loss_l1.detach()
        descend(self.optimizers["G"], loss_G)
        terms["loss_g"] = loss_G.detach()
        return terms

    def end_epoch(self, means: dict[str, float]) -> None:
        """mk4_1's rule: when P fell (relatively) at least as much as the GAN loss, its weight falls, else it rises.

        The first epoch has nothing to be compared with and changes nothing.
        """
        step = self.variant.lambda_perceptual_step
        if step > 0 and self.previous:
            fall = {name: 1 - means[name] / self.previous[name] for name in ("loss_g_perceptual", "loss_g_gan")}
            change = -step if fall["loss_g_perceptual"] >= fall["loss_g_gan"] else step
            self.lambda_perceptual = max(0.0, self.lambda_perceptual + change)
        self.previous = {name: means[name] for name in ("loss_g_perceptual", "loss_g_gan") if name in means}

    def state(self) -> dict:
        return {"lambda_perceptual": self.lambda_perceptual, "previous": dict(self.previous)}

    def load_state(self, state: dict) -> None:
        self.lambda_perceptual = state["lambda_perceptual"]
        self.previous = dict(state["previous"])
