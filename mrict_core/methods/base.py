"""What the training loop and inference need of a method, and the parts that methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrict_core.data.batches import CPU, Batch, make_view
from mrict_core.errors import MrictError
from mrict_core.experiments.flat import upgraded_state
from mrict_core.experiments.profiles import Profile
from mrict_core.experiments.schema import Experiment, Optimizer
from mrict_core.losses import Logs, Loss, discriminator_loss
from mrict_core.networks import build_network
from mrict_core.networks.layers import autocast, in_full
from mrict_core.parts import Parts

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
    """What a method is built for."""

    experiment: Experiment
    profile: Profile
    device: torch.device = CPU
    precision: torch.dtype = torch.float32  # that the networks compute in; weights and losses are float32
    training: bool = True  # False: the network that predicts, alone


@dataclass(eq=False)
class Method(ABC):
    """Networks, optimisers, one training step, and how a CT is predicted.

    A method is a dataclass: its fields are the options that an experiment may give. `NETWORKS` names its networks, as
    checkpoints do, each with its role in the experiment: `network.<role>` says what it is, `optimizer.<role>` what
    trains it, together with the others of the role. They are attributes too: self.G.
    """

    setup: Setup

    NETWORKS: ClassVar[dict[str, str]]  # name => role
    mr_to_ct: ClassVar[str]  # name of the network that predicts; all that a published model must hold
    paired: ClassVar[bool] = True  # False: the loop feeds unpaired batches
    gives: ClassVar[tuple[str, ...]] = ("fake_B",)  # what its `Output` holds
    logs: ClassVar[tuple[str, ...]] = ()  # what `train_step` returns beside loss_g and its terms

    def __post_init__(self) -> None:
        experiment, profile, device = self.setup.experiment, self.setup.profile, self.setup.device
        training = self.setup.training
        self.view = make_view(experiment.data.view)
        names = [name for name in self.NETWORKS if training or name == self.mr_to_ct]
        self.networks: dict[str, nn.Module] = {name: self.place(self.fresh(name)) for name in names}
        vars(self).update(self.networks)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if training:
            self.optimizers = {role: self.optimizer(role, part) for role, part in experiment.optimizer.items()}
            supplied = {"device": device, "precision": self.setup.precision, "feature_network": profile.feature_network}
            self.loss = Loss(experiment.loss, **supplied)

    # ------------------------------------------------------------------------------------------ what a method writes

    @abstractmethod
    def train_step(self, batch: Batch) -> Logs:
        """Train on one batch, which is on the method's device; return what to log, detached scalars.

        "loss_g" is the total of what makes the CT; where a batch has several steps, the logs are of the last one.
        """

    def channels(self, name: str) -> tuple[int, int]:
        """Return the channels that a network takes and makes."""
        return self.view.in_channels, self.out_channels

    def predict(self, real_A: Tensor) -> Tensor:
        """Return the CT of an MR as the view gathers it, in the precision that the caller sets.

        # (B, C, H, W) in [-1, 1] => (B, 1, H, W) float32 in [-1, 1], or NaN; several channels are averaged
        """
        fake_B = self.networks[self.mr_to_ct](self.view.widened(real_A)).float()
        fake_B = fake_B if fake_B.shape[1] == 1 else fake_B.mean(dim=1, keepdim=True)
        return fake_B.clamp(-1, 1).masked_fill(fake_B.isinf(), torch.nan)

    def begin_epoch(self, epoch: int) -> None:
        """Put the networks into training mode; `epoch` counts from 0."""
        for network in self.networks.values():
            network.train()

    def end_epoch(self, means: dict[str, Any]) -> None:
        """Take note of the epoch's mean logs."""
        self.loss.end_epoch(means)

    def state(self) -> dict[str, Any]:
        """Return what else must be saved so that training goes on bit for bit."""
        return {"loss": self.loss.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned, or an earlier version of it."""
        self.loss.load_state(upgraded_state(state)["loss"])

    # -------------------------------------------------------------------------------------------- what all methods do

    @property
    def out_channels(self) -> int:
        """Channels of the synthetic image; 1 unless the experiment says otherwise."""
        return self.setup.experiment.network[self.NETWORKS[self.mr_to_ct]].options.get("out_channels", 1)

    @property
    def generator(self) -> nn.Module:
        """The network that predicts."""
        return self.networks[self.mr_to_ct]

    @property
    def features(self) -> nn.Module | None:
        """The frozen network that the loss looks through, if it does."""
        return self.loss.features

    def fresh(self, name: str) -> nn.Module:
        """Return a fresh network."""
        part = self.setup.experiment.network[self.NETWORKS[name]]
        takes, makes = self.channels(name)
        return build_network(part, in_channels=takes, out_channels=makes, width=self.setup.profile.width)

    def place(self, network: nn.Module) -> nn.Module:
        """Return `network` on the method's device, for images stored pixel by pixel: convolutions run faster."""
        return network.to(self.setup.device, memory_format=torch.channels_last)

    def optimizer(self, role: str, part: Optimizer) -> torch.optim.Optimizer:
        """Return one optimiser over the parameters of all networks of a role."""
        networks = [self.networks[name] for name, own in self.NETWORKS.items() if own == role]
        parameters = [p for network in networks for p in network.parameters()]
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in part.options.items()}
        fused = {"fused": True} if not {"foreach", "differentiable"} & options.keys() else {}
        return OPTIMIZERS.build(part.name, options, params=parameters, lr=part.lr, **fused)

    def descend(self, role: str, loss: Tensor) -> None:
        """Take one step of a role's optimiser down the gradient of `loss`, ()."""
        self.optimizers[role].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[role].step()

    def autocast(self) -> AbstractContextManager:
        """Return a context for forward passes in the method's precision.

        One context per set of weights: autocast keeps the copies it makes of them until the context ends.
        """
        return autocast(self.setup.device, self.setup.precision)

    def made_by(self, network: nn.Module, image: Tensor) -> Tensor:
        """Return what a network makes of an image in the method's precision, as float32."""
        with self.autocast():
            return in_full(network(image))

    def in_made_channels(self, batch: Batch) -> Batch:
        """Return the batch with its grey CT in as many channels as the network makes (a view, no copy)."""
        return batch if self.out_channels == 1 else batch.with_ct(batch.real_B.expand(-1, self.out_channels, -1, -1))

    def compile(self) -> None:
        """Compile the networks' forward passes. D's penalty, which is differentiated twice, stays as it is."""
        for network in (*self.networks.values(), self.features):
            if network is not None:
                network.compile()


@dataclass(eq=False)
class Adversarial(Method):
    """A generator against a discriminator: what pix2pix and CycleGAN share."""

    generator_steps: int = 1  # for one of the discriminator
    real_label: float = 1.0  # of real patches, smoothed where below 1; also what the generator aims at
    gradient_penalty: float = 0.0  # weight of the penalty on the discriminator
    generator_eval_after_first_validation: bool = False  # a slip of the predecessor's

    @staticmethod
    def check_options(*, generator_steps: int = 1, gradient_penalty: float = 0.0, **_: object) -> None:
        for name, value, least in (
            ("generator_steps", generator_steps, 1),
            ("gradient_penalty", gradient_penalty, 0),
        ):
            if value < least:
                raise MrictError(f"{name} is {value}, expected at least {least}")

    logs: ClassVar = ("loss_d_gan", "loss_gp", "loss_d", "d_real", "d_fake")

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        if self.generator_eval_after_first_validation and epoch > 0:
            for name, role in self.NETWORKS.items():
                self.networks[name].train(role != self.NETWORKS[self.mr_to_ct])

    def judged(self, D: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Logs]:
        """Return a discriminator's loss on real and synthetic images, and its logs.  # two of (B, C, H, W) => ()"""
        return discriminator_loss(D, real, fake, real_label=self.real_label, penalty=self.gradient_penalty)


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
