"""Precision of forward passes; frozen networks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def in_full(x: Tensor) -> Tensor:
    """Return `x` in float32 if autocast made it bfloat16, else unchanged."""
    return x.float() if x.dtype == torch.bfloat16 else x


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Return a context for forward passes in `precision`, float32 (no effect) or bfloat16."""
    if device.type == "meta":  # shapes only
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


class Frozen(nn.Module):
    """A network without gradients to its weights that stays in evaluation mode, also when its parent is trained."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)
