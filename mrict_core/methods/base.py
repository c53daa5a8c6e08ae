"""The interface of a method to training and inference, and what methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrict_core.data.batches import CPU, OVERLAP, Batch, make_view
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments.flat import upgraded_state
from mrict_core.experiments.profiles import Profile
from mrict_core.experiments.schema import Experiment, Optimizer
from mrict_core.losses import GANS, Logs, Loss, discriminator_loss
from mrict_core.networks import build_network
from mrict_core.networks.layers import autocast, in_full
from mrict_core.parts import Parts, expect

METHODS = Parts("method", supplied=("setup",))
OPTIMIZERS = Parts("optimizer", supplied=("params", "lr"))
OPTIMIZERS |= {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    if name not in ("LBFGS", "SparseAdam")  # the one steps through a closure, the other wants sparse gradients
}


@dataclass(frozen=True)
class Setup:
    """What a method is built from."""

    experiment: Experiment
    profile: Profile
    device: torch.device = CPU
    precision: torch.dtype = torch.float32  # of the networks' passes; weights and losses are float32
    training: bool = True  # False: the predicting network alone
    canvas: int = 256  # side of the slices, pixels


@dataclass(eq=False)
class Method(ABC):
    """Networks, optimisers, one training step, and the prediction of a CT.

    A method is a dataclass: its fields are the options that an experiment may give. `NETWORKS` maps each network's
    name, as in checkpoints, to its role in the experiment: `network.<role>` is its architecture, `optimizer.<role>`
    the optimiser of all networks of the role. Networks are attributes too: self.G. `train_step` calls them by these:
    on several GPUs the attributes average their gradients over the ranks, and `networks` do not.
    """

    setup: Setup

    NETWORKS: ClassVar[dict[str, str]]  # name => role
    mr_to_ct: ClassVar[str]  # name of the predicting network, the only one that a published model must hold
    paired: ClassVar[bool] = True  # False: trained on unpaired batches
    masked: ClassVar[bool] = False  # True: its output outside the mask means nothing and counts as air
    gives: ClassVar[tuple[str, ...]] = ("fake_B",)  # what it sets in its `Output`
    own_start: ClassVar[tuple[str, ...]] = ()  # networks that start afresh if the parent has none of their name
    logs: ClassVar[tuple[str, ...]] = ()  # logged besides loss_g and its terms
    per_rank: ClassVar[tuple[str, ...]] = ()  # keys of `state` that differ between the ranks of a training
    shares: ClassVar[bool] = True  # False: its step cannot be shared by several ranks

    def __post_init__(self) -> None:
        setup = self.setup
        self.view = make_view(setup.profile.view(setup.experiment))
        names = [name for name in self.NETWORKS if setup.training or name == self.mr_to_ct]
        self.networks: dict[str, nn.Module] = {name: self.place(self.fresh(name)) for name in names}
        vars(self).update(self.networks)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if setup.training:
            self.optimizers = {role: self.optimizer(role, part) for role, part in setup.experiment.optimizer.items()}
            supplied = {"device": setup.device, "precision": setup.precision}
            self.loss = Loss(setup.experiment.loss, **supplied, feature_network=setup.profile.feature_network)

    # ------------------------------------------------------------------------------------------ for methods to define

    @abstractmethod
    def train_step(self, batch: Batch) -> Logs:
        """Train on one batch on the method's device; return detached scalars to log.

        "loss_g" is the generator's total loss. Of several steps, the last one is logged.
        """

    def channels(self, name: str) -> tuple[int, int]:
        """Return a network's input and output channels."""
        return self.view.in_channels, self.out_channels

    def predict(self, real_A: Tensor, overlap: float = OVERLAP) -> Tensor:
        """Return the CT of an MR that the view gathered, in the caller's precision.

        # (B, C, H, W) in [-1, 1] => (B, 1, H, W) float32 in [-1, 1], or NaN; several channels are averaged

        Of a view of volumes, (B, C, N, H, W) => (B, 1, N, H, W), on the CPU; `overlap`: of its patches.
        """
        fake_B = self.view.applied(self.generator, real_A, overlap).float()
        fake_B = fake_B if fake_B.shape[1] == 1 else fake_B.mean(dim=1, keepdim=True)
        return fake_B.clamp(-1, 1).masked_fill(fake_B.isinf(), torch.nan)

    def started(self) -> None:  # noqa: B027, most methods have nothing to do
        """Receive that the networks were loaded from those of another training."""

    def follow(self, fraction: float) -> None:  # noqa: B027, most methods do the same from start to end
        """Receive the fraction of the training that is done, from 0 to 1, before every step."""

    def meet(self, people: Sequence[str], seed: int) -> None:  # noqa: B027, most methods do not ask who is who
        """Receive the training people, as a batch counts them, and the training's seed."""

    def within(self, fraction: float) -> float:
        """Return how much of its schedule is done at a fraction of the training; a method of several parts restarts."""
        return fraction

    @property
    def draws(self) -> int:
        """How many samples are behind a synthetic CT; 0: it is predicted without chance."""
        return 0

    def drawn(self, real_A: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """Return samples of the CT; MrictError for a method that predicts without chance."""
        raise MrictError(f"method {type(self).__name__} draws no samples; expected one that does, such as flow")

    def begin_epoch(self, epoch: int) -> None:
        """Put the networks into training mode; epochs count from 0."""
        for network in self.networks.values():
            network.train()

    def end_epoch(self, means: dict[str, Any]) -> None:
        """Receive the epoch's mean logs."""
        self.loss.end_epoch(means)

    def state(self) -> dict[str, Any]:
        """Return what else a bit-exact resume needs."""
        return {"loss": self.loss.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, in this version or an earlier one."""
        self.loss.load_state(upgraded_state(state)["loss"])

    # --------------------------------------------------------------------------------------------- shared by methods

    @property
    def out_channels(self) -> int:
        """Channels of the synthetic image; 1 by default."""
        return self.setup.experiment.network[self.NETWORKS[self.mr_to_ct]].options.get("out_channels", 1)

    @property
    def generator(self) -> nn.Module:
        """The predicting network."""
        return self.networks[self.mr_to_ct]

    @property
    def features(self) -> nn.Module | None:
        """The frozen network of the perceptual loss, if there is one."""
        return self.loss.features

    def fresh(self, name: str) -> nn.Module:
        part = self.setup.experiment.network[self.NETWORKS[name]]
        in_channels, out_channels = self.channels(name)
        profile, canvas = self.setup.profile, self.setup.canvas
        width = profile.widths.get(part.name, profile.width)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "width": width, "canvas": canvas}
        depth = profile.depth(self.setup.experiment)
        seen = {"dimensions": self.view.dimensions, "sides": self.view.sides(canvas)}
        return build_network(part, **sizes, **seen, depth=depth)

    def place(self, network: nn.Module) -> nn.Module:
        """Return `network` on the method's device, in channels-last format for faster convolutions."""
        volumes = any(p.ndim == 5 for p in network.parameters())
        return network.to(self.setup.device, memory_format=torch.channels_last_3d if volumes else torch.channels_last)

    def trained(self, role: str) -> list[nn.Module]:
        """Return the networks that the optimiser of a role trains."""
        return [self.networks[name] for name, own in self.NETWORKS.items() if own == role]

    def optimizer(self, role: str, part: Optimizer) -> torch.optim.Optimizer:
        """Return the optimiser of all networks of a role."""
        parameters = [p for network in self.trained(role) for p in network.parameters()]
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in part.options.items()}
        fused = {"fused": True} if not {"foreach", "differentiable"} & options.keys() else {}
        return OPTIMIZERS.build(part.name, options, params=parameters, lr=part.lr, **fused)

    def descend(self, role: str, loss: Tensor) -> None:
        """Take one step of a role's optimiser on `loss`, ()."""
        self.optimizers[role].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[role].step()

    def autocast(self) -> AbstractContextManager:
        """Return a context for forward passes in the method's precision; leave it before a step changes the weights.

        autocast caches converted weights until the context ends.
        """
        return autocast(self.setup.device, self.setup.precision)

    def made_by(self, network: nn.Module, image: Tensor) -> Tensor:
        """Return a network's output in the method's precision, as float32.  # (B, C, H, W) => (B, C', H, W)"""
        with self.autocast():
            return in_full(network(image))

    def in_made_channels(self, batch: Batch) -> Batch:
        """Return the batch with its grey CT repeated to the generator's channels (a view, no copy)."""
        if self.out_channels == 1:
            return batch
        sides = batch.real_B.shape[2:]
        return batch.with_ct(batch.real_B.expand(-1, self.out_channels, *sides))

    def compile(self) -> None:
        """Compile the networks' forward passes, except in the gradient penalty, which is differentiated twice."""
        for network in (*self.networks.values(), self.features):
            if network is not None:
                network.compile()


@dataclass(eq=False)
class Adversarial(Method):
    """Generator against discriminator: the base of pix2pix and CycleGAN."""

    generator_steps: int = 1  # per discriminator step
    real_label: float = 1.0  # of real patches, smoothed if below 1; also the generator's target
    gradient_penalty: float = 0.0  # weight of the penalty on the discriminator
    gan: str = "bce"  # loss of both sides, by name: `losses.GANS`
    generator_eval_after_first_validation: bool = False  # a mistake of the predecessor

    @staticmethod
    def check_options(
        *, generator_steps: int = 1, gradient_penalty: float = 0.0, gan: str = "bce", **_: object
    ) -> None:
        if gan not in GANS:
            raise unknown_name("GAN loss", gan, GANS)
        expect("generator_steps", generator_steps, generator_steps >= 1, "at least 1")
        expect("gradient_penalty", gradient_penalty, gradient_penalty >= 0, "at least 0")

    ct_judge: ClassVar[str]  # name of the discriminator of CTs
    logs: ClassVar = ("loss_d_gan", "loss_gp", "loss_d", "d_real", "d_fake")

    def seen_by_D(self, real_A: Tensor, image: Tensor) -> Tensor:
        """Return what the discriminator of CTs sees of an image and its MR."""
        return image

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        if self.generator_eval_after_first_validation and epoch > 0:
            for name, role in self.NETWORKS.items():
                self.networks[name].train(role != self.NETWORKS[self.mr_to_ct])

    def judged(self, D: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Logs]:
        """Return a discriminator's loss and its logs.  # two of (B, C, H, W) => ()"""
        return discriminator_loss(
            D, real, fake, real_label=self.real_label, penalty=self.gradient_penalty, gan=self.gan
        )


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Keep the weights of `networks` out of the graph, where their gradients are not needed."""
    parameters = [p for network in networks for p in network.parameters()]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
