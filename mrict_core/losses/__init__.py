"""Loss terms behind one signature, each a mean over the batch. The weights (lambda) stand in the variant."""

from mrict_core.losses.adversarial import bce_discriminator, bce_generator
from mrict_core.losses.penalty import gradient_penalty
from mrict_core.losses.perceptual import feature_l1, feature_mse
from mrict_core.losses.reconstruction import l1

__all__ = ["bce_discriminator", "bce_generator", "feature_l1", "feature_mse", "gradient_penalty", "l1"]
