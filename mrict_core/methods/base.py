"""What the training loop needs of a method, and the parts that methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile
from mrict_core.legacy.flat_view import flat
from mrict_core.losses.adversarial import bce_discriminator
from mrict_core.losses.penalty import gradient_penalty
from mrict_core.losses.perceptual import feature_l1, feature_mse
from mrict_core.networks import build_discriminator, build_features, build_generator
from mrict_core.networks.layers import autocast

Terms = dict[str, Tensor]  # name => detached scalar

# perceptual term of a variant => (feature network at full size, distance)
PERCEPTUAL = {
    "vgg19_pool5_mse": ("vgg19_pool5", feature_mse),
    "vgg19_relu3_3_l1": ("vgg19_relu3_3", feature_l1),
}


class Method(ABC):
    """Networks, optimisers and one training step of a variant.

    `networks` holds generators and discriminators under the names of the checkpoint, `optimizers` likewise;
    `mr_to_ct` names the generator that the user gets.
    """

    mr_to_ct: str
    paired: bool  # False: the loop feeds unpaired batches

    def __init__(
        self,
        variant: Experiment,
        profile: Profile,
        device: torch.device,
        precision: torch.dtype = torch.float32,  # that the networks compute in; weights and losses are float32
    ) -> None:
        self.variant = variant
        self.profile = profile
        self.device = device
        self.precision = precision
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.lambda_perceptual = variant.lambda_perceptual
        self.features: nn.Module | None = None
        if variant.perceptual != "none" and variant.lambda_perceptual > 0:
            own, self.feature_distance = PERCEPTUAL[variant.perceptual]
            self.features = build_features(profile.feature_network or own).to(device)
            self.features.compute_in(precision)

    @property
    def generator(self) -> nn.Module:
        """The MR→CT generator."""
        return self.networks[self.mr_to_ct]

    def place(self, network: nn.Module) -> nn.Module:
        """Return `network` on the method's device, for images stored pixel by pixel: convolutions run faster."""
        return network.to(self.device, memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        """Return a context for forward passes in the method's precision.

        One context per set of weights: autocast keeps the copies it makes of them until the context ends.
        """
        return autocast(self.device, self.precision)

    def compile(self) -> None:
        """Compile the networks' forward passes. D's penalty, which is differentiated twice, stays as it is."""
        for network in (*self.networks.values(), self.features):
            if network is not None:
                network.compile()

    @abstractmethod
    def step(self, real_A: Tensor, real_B: Tensor) -> Terms:
        """Train on one batch, (B, 1, H, W) in [-1, 1] each; return the terms of the losses, detached scalars.

        Where a batch has several generator steps, the terms of G are those of its last one.
        """

    def end_epoch(self, means: dict[str, float]) -> None:  # noqa: B027 - a hook that most methods leave empty
        """Take note of the epoch's mean terms; methods with an adaptive weight change it here."""

    def state(self) -> dict[str, float | list[Tensor]]:
        """Return what else must be saved so that training goes on bit for bit."""
        return {}

    def load_state(self, state: dict) -> None:  # noqa: B027 - as above
        """Take back what `state` returned."""

    def train(self, generators: bool = True) -> None:
        """Put the discriminators into training mode, the generators too or, if not `generators`, into evaluation."""
        for name, network in self.networks.items():
            network.train(generators or name.startswith("D"))

    def perceptual(self, fake: Tensor, real_features: Tensor) -> Tensor:
        """Distance between the features of `fake` and features computed once for the real images."""
        with self.autocast():
            features = self.features(fake)
        return self.feature_distance(features, real_features)

    @torch.no_grad()
    def features_of(self, real: Tensor) -> Tensor:
        """Features of real images; they do not change while the generator takes its steps."""
        with self.autocast():
            return self.features(real)


def make_generator(variant: Experiment, profile: Profile) -> nn.Module:
    """Return a fresh generator of `variant`."""
    variant = flat(variant)
    return build_generator(
        variant.generator,
        width=profile.width,
        channels=variant.channels,
        dropout=variant.generator_dropout,
        slope=variant.generator_slope,
    )


def make_discriminator(variant: Experiment, profile: Profile) -> nn.Module:
    """Return a fresh discriminator of `variant`; a conditional one sees the MR beside the CT."""
    return build_discriminator(
        variant.discriminator,
        width=profile.width,
        in_channels=variant.channels * (2 if variant.conditional_discriminator else 1),
        dropout=variant.discriminator_dropout,
    )


def adam(variant: Experiment, networks: list[nn.Module], lr: float) -> torch.optim.Optimizer:
    """Return one Adam over the parameters of all `networks`."""
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.Adam(parameters, lr=lr, betas=(variant.beta1, variant.beta2), fused=True)


def discriminator_loss(variant: Experiment, D: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Terms]:
    """Return (BCE(D(real), r) + BCE(D(fake), 0)) / 2 + λ_gp · GP and its terms.  # two of (B, C, H, W) => (), terms"""
    logits_real, logits_fake = D(real), D(fake)
    loss_gan = bce_discriminator(logits_real, logits_fake, variant.real_label)
    loss_D, terms = loss_gan, {"loss_d_gan": loss_gan.detach()}
    if variant.lambda_gp > 0:
        penalty = gradient_penalty(D.forward, real, fake)  # never the compiled D: this is differentiated twice
        loss_D = loss_D + variant.lambda_gp * penalty
        terms["loss_gp"] = penalty.detach()
    terms["loss_d"] = loss_D.detach()
    terms["d_real"] = torch.sigmoid(logits_real.detach()).mean()
    terms["d_fake"] = torch.sigmoid(logits_fake.detach()).mean()
    return loss_D, terms


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of `optimizer` down the gradient of `loss`, ()."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Leave the weights of `networks` out of the graph: their gradients would be thrown away."""
    parameters = [p for network in networks for p in network.parameters()]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def grey_to(channels: int, image: Tensor) -> Tensor:
    """Repeat a grey image (B, 1, H, W) to `channels` (a view, no copy)."""
    return image if channels == 1 else image.expand(-1, channels, -1, -1)


def translate(generator: nn.Module, real_A: Tensor, channels: int = 1) -> Tensor:
    """Return the generator's CT, (B, 1, H, W) in [-1, 1]; channels of a 3-channel generator are averaged."""
    fake_B = generator(grey_to(channels, real_A))
    return fake_B if channels == 1 else fake_B.mean(dim=1, keepdim=True)
