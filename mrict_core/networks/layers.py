"""What makes the networks fast: dropout whose mask is cheap to draw, and precision.

On a CPU dropout draws other random masks than torch does, with the same distribution but for a probability rounded to
1/65536; bfloat16 rounds what it computes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

STEPS = 2**16  # probabilities of `Dropout` on a CPU are multiples of 1 / STEPS


class Dropout(nn.Dropout):
    """`nn.Dropout` whose mask on a CPU takes 16 random bits a value, drawn 64 at a time; torch draws one by one.

    The probability is rounded to a multiple of 1/65536 and the scale belongs to the rounded one, so the mean is kept.
    Elsewhere, and in a compiled graph, it is torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, in training with a share `p` of its values set to 0 and the others scaled by 1 / (1 - p)."""
        dropped = round(self.p * STEPS)
        own = self.training and 0 < dropped < STEPS and x.device.type == "cpu" and not torch.compiler.is_compiling()
        if not own:
            return super().forward(x)
        count = x.numel()
        bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
        noise = torch.empty_like(x)  # dense, in the order of x's memory
        torch.ge(bits, dropped - STEPS // 2, out=noise.as_strided((count,), (1,)))
        return x * noise.mul_(STEPS / (STEPS - dropped))


def in_full(x: Tensor) -> Tensor:
    """Return `x` in float32 where autocast made it bfloat16, else as it is."""
    return x.float() if x.dtype == torch.bfloat16 else x


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Return a context for forward passes in `precision`, float32 (which changes nothing) or bfloat16."""
    if device.type == "meta":  # shapes alone
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
