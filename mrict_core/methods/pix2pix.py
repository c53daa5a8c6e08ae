"""Pix2Pix (Isola et al. 2017, arXiv 1611.07004): per batch one D step, then k G steps (1 in the paper).

    L_D = (BCE(D(y), r) + BCE(D(G(x)), 0)) / 2 + λ_gp · GP          r: the label of real patches
    L_G = Σ λ_i · f_i(G(x), y), the terms of the experiment: gan = BCE(D(G(x)), r), perceptual, l1, …

x = real_A (MR), y = real_B (CT). D sees the CT alone, as the predecessor's; if `conditional`, both, as the paper's:
D(x, y). BCE is of the default `gan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mrict_core.data.batches import Batch
from mrict_core.losses import Logs, Output
from mrict_core.methods.base import METHODS, Adversarial, frozen


@METHODS.register("pix2pix")
@dataclass(eq=False)
class Pix2Pix(Adversarial):
    """A generator `G` and a patch discriminator `D`."""

    conditional: bool = False  # D sees the MR too; the predecessor's did not

    NETWORKS: ClassVar = {"G": "G", "D": "D"}
    mr_to_ct: ClassVar = "G"
    ct_judge: ClassVar = "D"
    gives: ClassVar = ("fake_B", "logits", "real_label")

    def channels(self, name: str) -> tuple[int, int]:
        mr, ct = self.view.in_channels, self.out_channels
        return {"G": (mr, ct), "D": (mr + ct if self.conditional else ct, 1)}[name]

    def train_step(self, batch: Batch) -> Logs:
        """Take one step of D, then k of G; D and the first step of G share a fake."""
        batch = self.in_made_channels(batch)
        fake_B = self.made_by(self.G, batch.real_A)  # (B, C, H, W), as batch.real_B
        logs = self.step_D(batch, fake_B.detach())
        with frozen(self.D):
            for k in range(self.generator_steps):
                if k > 0:
                    fake_B = self.made_by(self.G, batch.real_A)
                logs |= self.step_G(batch, fake_B)
        return logs

    def seen_by_D(self, real_A: Tensor, image: Tensor) -> Tensor:
        return torch.cat([real_A, image], dim=1) if self.conditional else image

    def step_D(self, batch: Batch, fake_B: Tensor) -> Logs:
        real, fake = (self.seen_by_D(batch.real_A, image) for image in (batch.real_B, fake_B))
        with self.autocast():
            loss_D, logs = self.judged(self.D, real, fake)
        self.descend("D", loss_D)
        return logs

    def step_G(self, batch: Batch, fake_B: Tensor) -> Logs:
        with self.autocast():
            logits = self.D(self.seen_by_D(batch.real_A, fake_B))
        out = Output(fake_B=fake_B, logits=logits, real_label=self.real_label, gan=self.gan)
        loss_G, logs = self.loss((out, batch))
        self.descend("G", loss_G)
        return logs
