"""The adversarial game of Goodfellow et al. 2014 in its non-saturating form, with one-sided label smoothing.

Symbols: x a real CT, G(m) the CT made from the MR m, D(.) = sigmoid(logits) the probability "real" of each patch,
y the real label (1, or 0.9 where smoothed: Salimans et al. 2016). The fake label is always 0: the predecessor's
"smoothed" zeros, 0 * 0.9, were zeros too.

    L_D = (BCE(D(x), y) + BCE(D(G(m)), 0)) / 2          L_GAN = BCE(D(G(m)), y)

BCE on logits equals the predecessor's BCE on the sigmoid, without its overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FAKE_LABEL = 0.0


def _bce(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def bce_discriminator(logits_real: Tensor, logits_fake: Tensor, real_label: float) -> Tensor:
    """Return L_D, the mean over batch and patches.  # two maps of logits of any shape => ()"""
    return (_bce(logits_real, real_label) + _bce(logits_fake, FAKE_LABEL)) / 2


def bce_generator(logits_fake: Tensor, real_label: float) -> Tensor:
    """Return L_GAN: how far the discriminator is from calling the fake real.  # logits of any shape => ()

    The target is the discriminator's `real_label`, smoothed or not, as in the predecessor.
    """
    return _bce(logits_fake, real_label)
