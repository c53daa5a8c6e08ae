"""Gradient penalty on the discriminator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mrict_core.losses.reconstruction import require_same_shape


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the penalty of Gulrajani et al. 2017 (eq. 3) in the predecessor's form.  # two of (B, C, H, W) => ()

        GP = mean_b (|| grad_z sum_patches sigmoid(D(z_b)) ||_2 - 1)^2,   z_b = a_b real_b + (1 - a_b) fake_b

    The paper differentiates an unbounded critic; the predecessor differentiates the sum of the patches' sigmoids, and D
    keeps its mode (training: batch norm and dropout act). Both are kept, since they decide what is learned.

    `discriminator` maps images to logits; a conditional one is passed with its MR bound. `generator` draws the a_b,
    uniform in [0, 1), one per sample; None uses torch's global one. The result can be differentiated with respect to
    the discriminator's weights; the images get no gradient.
    """
    require_same_shape(fake, real)
    source = generator.device if generator is not None else real.device
    alpha = torch.rand((real.shape[0], 1, 1, 1), generator=generator, device=source, dtype=real.dtype).to(real.device)
    mixed = (alpha * real.detach() + (1 - alpha) * fake.detach()).requires_grad_(True)
    score = torch.sigmoid(discriminator(mixed)).sum()
    (gradient,) = torch.autograd.grad(score, mixed, create_graph=True)
    norm = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (norm - 1).square().mean()
