"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593).

    L_G = Σ λ_i · (f_i of G on (a, b) + f_i of F on (b, a)), the terms of the experiment, among them
          gan, cycle: |F(G(a)) − a|₁ + |G(F(b)) − b|₁, identity: |G(b) − b|₁ + |F(a) − a|₁, perceptual

G = G_MRI2CT, F = G_CT2MRI, a = real_A (MR), b = real_B (an unrelated CT): the perceptual term compares unrelated
slices, as in the predecessor. Both generators share an optimiser, and so do the discriminators, which see the newest
fakes or, if `image_pool` > 0, some of a history buffer (50 in the paper).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mrict_core.data.batches import Batch, make_view
from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment
from mrict_core.losses import Logs, Output
from mrict_core.methods.base import METHODS, Adversarial, frozen


@METHODS.register("cyclegan")
@dataclass(eq=False)
class CycleGAN(Adversarial):
    """Two generators and two discriminators, trained on unpaired slices."""

    image_pool: int = 0  # fakes in each discriminator's history

    NETWORKS: ClassVar = {"G_MRI2CT": "G", "G_CT2MRI": "G", "D_CT": "D", "D_MRI": "D"}
    mr_to_ct: ClassVar = "G_MRI2CT"
    ct_judge: ClassVar = "D_CT"
    paired: ClassVar = False
    gives: ClassVar = ("fake_B", "logits", "real_label", "rec_A", "idt_B")
    per_rank: ClassVar = ("D_CT", "D_MRI")  # each rank has pools of its own fakes

    @staticmethod
    def check_experiment(experiment: Experiment) -> None:
        """Raise MrictError if MR and CT differ in channels: each generator also sees what the other one makes."""
        view, ct = experiment.data.view, experiment.network["G"].options.get("out_channels", 1)
        if (mr := make_view(view).in_channels) != ct:
            raise MrictError(
                f"data.view: {view.name} gives {mr} MR channels, cyclegan needs as many as the CT has, {ct}; "
                "set data.view=slice, or choose another method"
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pools = {"D_CT": ImagePool(self.image_pool), "D_MRI": ImagePool(self.image_pool)}

    def channels(self, name: str) -> tuple[int, int]:
        mr, ct = self.view.in_channels, self.out_channels
        return {"G_MRI2CT": (mr, ct), "G_CT2MRI": (ct, mr), "D_CT": (ct, 1), "D_MRI": (mr, 1)}[name]

    def train_step(self, batch: Batch) -> Logs:
        """Take one step of both D, then k of both G; D and the first step of G share the fakes."""
        batch = self.in_made_channels(batch)
        back = Batch(batch.real_B, batch.real_A, batch.mask)  # CT to MR
        fakes = self.forward(batch.real_A, batch.real_B)  # two of (B, C, H, W): CT and MR
        logs = self.step_D(batch, *(fake.detach() for fake in fakes))
        with frozen(self.D_CT, self.D_MRI):
            for k in range(self.generator_steps):
                if k > 0:
                    fakes = self.forward(batch.real_A, batch.real_B)
                logs |= self.step_G(batch, back, *fakes)
        return logs

    def forward(self, image_A: Tensor, image_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the CT of an MR and the MR of a CT."""
        return self.made_by(self.G_MRI2CT, image_A), self.made_by(self.G_CT2MRI, image_B)

    def step_D(self, batch: Batch, fake_B: Tensor, fake_A: Tensor) -> Logs:
        fake_B, fake_A = self.pools["D_CT"].query(fake_B), self.pools["D_MRI"].query(fake_A)
        with self.autocast():
            loss_ct, logs_ct = self.judged(self.D_CT, batch.real_B, fake_B)
            loss_mri, logs_mri = self.judged(self.D_MRI, batch.real_A, fake_A)
        self.descend("D", loss_ct + loss_mri)  # no shared weights, so each is trained as if alone
        return {name: (logs_ct[name] + logs_mri[name]) / 2 for name in logs_ct}

    def step_G(self, batch: Batch, back: Batch, fake_B: Tensor, fake_A: Tensor) -> Logs:
        to_ct = Output(fake_B=fake_B, real_label=self.real_label, gan=self.gan)
        to_mr = Output(fake_B=fake_A, real_label=self.real_label, gan=self.gan)
        to_mr.rec_A, to_ct.rec_A = self.forward(fake_A, fake_B)
        with self.autocast():
            to_ct.logits, to_mr.logits = self.D_CT(fake_B), self.D_MRI(fake_A)
        if "idt_B" in self.loss.needs:
            to_ct.idt_B, to_mr.idt_B = self.forward(batch.real_B, batch.real_A)
        loss_G, logs = self.loss((to_ct, batch), (to_mr, back))
        self.descend("G", loss_G)
        return logs

    def state(self) -> dict[str, Any]:
        return super().state() | {name: list(pool.images) for name, pool in self.pools.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        for name, pool in self.pools.items():
            pool.images = [image.to(self.setup.device) for image in state[name]]


class ImagePool:
    """History of fakes (Shrivastava et al. 2017): half of each batch is from earlier steps. Size 0: no history."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, fakes: Tensor) -> Tensor:
        """Return `fakes`, (B, C, H, W), some of them replaced by stored ones."""
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
