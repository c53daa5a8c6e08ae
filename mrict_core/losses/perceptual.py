"""Perceptual losses (Johnson et al. 2016): distances between the features phi of a frozen network.

    P_mse = mean (phi(fake) - phi(real))^2          P_l1 = mean |phi(fake) - phi(real)|

The predecessor's P is P_mse on VGG19 pool5; MK3.6 used P_l1 on VGG19 relu3_3. `phi` is a `FeatureNetwork`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mrict_core.losses.reconstruction import require_same_shape


def feature_mse(f_fake: Tensor, f_real: Tensor) -> Tensor:
    """Return P_mse, the mean over batch and all features.  # two of (B, C, h, w) => ()"""
    require_same_shape(f_fake, f_real)
    return F.mse_loss(f_fake, f_real)


def feature_l1(f_fake: Tensor, f_real: Tensor) -> Tensor:
    """Return P_l1, the mean over batch and all features.  # two of (B, C, h, w) => ()"""
    require_same_shape(f_fake, f_real)
    return F.l1_loss(f_fake, f_real)
