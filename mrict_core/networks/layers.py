"""Precision of the networks' passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def in_full(x: Tensor) -> Tensor:
    """Return `x` in float32 where autocast made it bfloat16, else as it is."""
    return x.float() if x.dtype == torch.bfloat16 else x


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Return a context for forward passes in `precision`, float32 (which changes nothing) or bfloat16."""
    if device.type == "meta":  # shapes alone
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
