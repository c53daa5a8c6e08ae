"""The predecessor's pix2pix step, MK6 form, as in its notebooks: nothing shared, frozen or cached.

One D step, then k G steps on the same batch. Every pass stands where a reader of the loss formulas would put it: the
fakes of the D step are made with a graph and thrown away, the labels take their shape from passes of D made for that
alone, the G steps also fill the gradients of D and of VGG's weights, and VGG sees the real CT again in every G step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PlainWeights:
    """The values of a variant that the step needs."""

    real_label: float
    lambda_gp: float
    lambda_perceptual: float
    lambda_l1: float
    generator_steps: int


def plain_step(
    G: nn.Module,
    D: nn.Module,  # returns logits; the predecessor's ended in a sigmoid
    vgg: Callable[[Tensor], Tensor],  # (B, 3, H, W) in [-1, 1] => features; nobody froze its weights
    optimizer_G: torch.optim.Optimizer,
    optimizer_D: torch.optim.Optimizer,
    real_A: Tensor,  # (B, 1, H, W) in [-1, 1]
    real_B: Tensor,  # (B, 1, H, W) in [-1, 1]
    weights: PlainWeights,
) -> tuple[Tensor, Tensor]:
    """Take one training step; return loss_D and the last loss_G.  # () each"""

    def probability(image: Tensor) -> Tensor:
        return torch.sigmoid(D(image))

    def penalty(real: Tensor, fake: Tensor) -> Tensor:
        alpha = torch.rand(real.shape[0], 1, 1, 1, dtype=real.dtype, device=real.device)
        mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        score = probability(mixed)
        (gradient,) = torch.autograd.grad(score, mixed, torch.ones_like(score), create_graph=True, retain_graph=True)
        return ((gradient.view(real.shape[0], -1).norm(2, dim=1) - 1) ** 2).mean()

    optimizer_D.zero_grad()
    fake_B = G(real_A)
    valid = torch.ones_like(probability(real_B)) * weights.real_label
    wrong = torch.zeros_like(probability(fake_B.detach()))
    loss_real = F.binary_cross_entropy(probability(real_B), valid)
    loss_fake = F.binary_cross_entropy(probability(fake_B.detach()), wrong)
    loss_D = (loss_real + loss_fake) / 2 + weights.lambda_gp * penalty(real_B.detach(), fake_B.detach())
    loss_D.backward()
    optimizer_D.step()

    for _ in range(weights.generator_steps):
        optimizer_G.zero_grad()
        fake_B = G(real_A)
        loss_gan = F.binary_cross_entropy(probability(fake_B), valid)
        perceptual = F.mse_loss(vgg(fake_B.repeat(1, 3, 1, 1)), vgg(real_B.repeat(1, 3, 1, 1)))
        l1 = F.l1_loss(fake_B, real_B)
        loss_G = loss_gan + weights.lambda_perceptual * perceptual + weights.lambda_l1 * l1
        loss_G.backward()
        optimizer_G.step()
    return loss_D.detach(), loss_G.detach()
