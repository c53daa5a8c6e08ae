"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593) with the predecessor's weights.

    L_G = GAN(G_MRI2CT) + GAN(G_CT2MRI) + λ_cycle · (|F(G(a)) − a|₁ + |G(F(b)) − b|₁)
          + λ_idt · (|G(b) − b|₁ + |F(a) − a|₁) + λ_perc · (P(G(a), b) + P(F(b), a))

G = G_MRI2CT, F = G_CT2MRI, a = real_A (MR), b = real_B (an unrelated CT). The perceptual term therefore compares
unrelated slices, as the predecessor's did. One Adam serves both generators. The discriminators see the newest fakes,
or those of a history buffer where `image_pool` > 0 (the paper: 50).
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


class ImagePool:
    """History of fakes (Shrivastava et al. 2017): half of a batch comes from earlier steps. Size 0 passes through."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, fakes: Tensor) -> Tensor:
        """Return a batch of the shape of `fakes`, (B, C, H, W), mixed with stored ones."""
        if self.size == 0:
            return fakes
        chosen = []
        for image in fakes:
            if len(self.images) < self.size:
                self.images.append(image.clone())
                chosen.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                chosen.append(self.images[place])
                self.images[place] = image.clone()
            else:
                chosen.append(image)
        return torch.stack(chosen)


class CycleGAN(Method):
    """Two generators and two discriminators, trained on unpaired slices."""

    mr_to_ct = "G_MRI2CT"
    paired = False

    def __init__(self, variant: Experiment, profile: Profile, *where: torch.device | torch.dtype) -> None:
        super().__init__(variant, profile, *where)
        self.G_MRI2CT = self.place(make_generator(variant, profile))
        self.G_CT2MRI = self.place(make_generator(variant, profile))
        self.D_CT = self.place(make_discriminator(variant, profile))
        self.D_MRI = self.place(make_discriminator(variant, profile))
        self.networks = {
            "G_MRI2CT": self.G_MRI2CT,
            "G_CT2MRI": self.G_CT2MRI,
            "D_CT": self.D_CT,
            "D_MRI": self.D_MRI,
        }
        self.optimizers = {
            "G": adam(variant, [self.G_MRI2CT, self.G_CT2MRI], variant.lr_generator),
            "D": adam(variant, [self.D_CT, self.D_MRI], variant.lr_discriminator),
        }
        self.pools = {"D_CT": ImagePool(variant.image_pool), "D_MRI": ImagePool(variant.image_pool)}

    def step(self, real_A: Tensor, real_B: Tensor) -> Terms:
        """One D step and k G steps; the first fakes serve both."""
        real_A, real_B = (grey_to(self.variant.channels, image) for image in (real_A, real_B))
        fakes = self.generate(real_A, real_B)
        terms = self.step_discriminators(real_A, real_B, fakes[0].detach(), fakes[1].detach())
        real_features = (self.features_of(real_B), self.features_of(real_A)) if self.features else None
        with frozen(self.D_CT, self.D_MRI):
            for k in range(self.variant.generator_steps):
                if k > 0:
                    fakes = self.generate(real_A, real_B)
                terms |= self.step_generators(real_A, real_B, *fakes, real_features)
        return terms

    def generate(self, image_A: Tensor, image_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the CT made of an MR and the MR made of a CT."""
        with self.autocast():
            return self.G_MRI2CT(image_A), self.G_CT2MRI(image_B)

    def step_discriminators(self, real_A: Tensor, real_B: Tensor, fake_B: Tensor, fake_A: Tensor) -> Terms:
        fake_B, fake_A = self.pools["D_CT"].query(fake_B), self.pools["D_MRI"].query(fake_A)
        with self.autocast():
            loss_ct, terms_ct = discriminator_loss(self.variant, self.D_CT, real_B, fake_B)
            loss_mri, terms_mri = discriminator_loss(self.variant, self.D_MRI, real_A, fake_A)
        descend(self.optimizers["D"], loss_ct + loss_mri)  # no shared weights: the sum trains each as if alone
        return {name: (terms_ct[name] + terms_mri[name]) / 2 for name in terms_ct}

    def step_generators(
        self, real_A: Tensor, real_B: Tensor, fake_B: Tensor, fake_A: Tensor, real_features: tuple | None
    ) -> Terms:
        v = self.variant
        rec_B, rec_A = self.generate(fake_A, fake_B)
        with self.autocast():
            logits_B, logits_A = self.D_CT(fake_B), self.D_MRI(fake_A)
        loss_gan = bce_generator(logits_B, v.real_label) + bce_generator(logits_A, v.real_label)
        loss_cycle = l1(rec_A, real_A) + l1(rec_B, real_B)
        loss_G = v.lambda_gan * loss_gan + v.lambda_cycle * loss_cycle
        terms = {"loss_g_gan": loss_gan.detach(), "loss_g_cycle": loss_cycle.detach()}
        if v.lambda_identity > 0:
            idt_B, idt_A = self.generate(real_B, real_A)
            loss_identity = l1(idt_B, real_B) + l1(idt_A, real_A)
            loss_G = loss_G + v.lambda_identity * loss_identity
            terms["loss_g_identity"] = loss_identity.detach()
        if real_features is not None:
            features_B, features_A = real_features
            loss_perceptual = self.perceptual(fake_B, features_B) + self.perceptual(fake_A, features_A)
            loss_G = loss_G + self.lambda_perceptual * loss_perceptual
            terms["loss_g_perceptual"] = loss_perceptual.detach()
        descend(self.optimizers["G"], loss_G)
        terms["loss_g"] = loss_G.detach()
        return terms

    def state(self) -> dict:
        return {name: list(pool.images) for name, pool in self.pools.items()}

    def load_state(self, state: dict) -> None:
        for name, pool in self.pools.items():
            pool.images = [image.to(self.device) for image in state[name]]
