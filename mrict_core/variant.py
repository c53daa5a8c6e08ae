"""The schema of an experiment and how one is derived from another. The entries stand in `variants.py`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mrict_core.errors import MrictError, unknown_name


@dataclass(frozen=True)
class Score:
    """What the generator's schedule watches on the validation patients; lower is better.

    score = (fid * FID + vgg * VGG + ssim * (1 - SSIM) + loss_g * L_G) * (1 + epoch / boost_epochs), with epoch from 0.
    A growing factor makes a plateau schedule fire on its own; the predecessor used it, so it is kept.
    """

    fid: float = 0.0
    vgg: float = 0.0
    ssim: float = 0.0
    loss_g: float = 0.0  # mean generator loss of the epoch
    boost_epochs: float | None = None


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule of one optimiser."""

    kind: str  # "plateau" | "cosine" | "constant"
    factor: float | None = None  # plateau
    patience: int | None = None  # plateau: epochs
    mode: str | None = None  # plateau: "min" | "max"
    t_0: int | None = None  # cosine with warm restarts: epochs of the first period
    t_mult: int | None = None
    eta_min: float | None = None


@dataclass(frozen=True)
class Variant:
    """One named experiment: every value that decides what is learned."""

    name: str
    why: str  # one sentence: what this experiment asks
    parent: str | None  # configuration lineage: the variant it was derived from
    init_from: str | None  # weight lineage: starts from this variant's last checkpoint
    family: str  # "practice" | "cyclegan" | "mk1" | "mk2" | "mk3" | "mk4" | "mk6"
    method: str  # "pix2pix" | "cyclegan"
    # networks
    generator: str  # "unet_a" | "unet_b"
    channels: int  # of the images the networks see; 3 repeats the grey image
    generator_dropout: float
    generator_slope: float  # of LeakyReLU
    discriminator: str  # "patch4" | "patch3" | "scalar"
    discriminator_dropout: float
    conditional_discriminator: bool  # True: D sees MR and CT; the predecessor's saw the CT alone
    # generator loss
    lambda_gan: float
    perceptual: str  # "vgg19_pool5_mse" | "vgg19_relu3_3_l1" | "none"
    lambda_perceptual: float
    lambda_perceptual_step: float  # > 0: adaptive rule of mk4_1, change per epoch
    lambda_l1: float  # pixel L1, full image, [-1, 1] units
    lambda_cycle: float
    lambda_identity: float
    # discriminator loss
    real_label: float  # one-sided label smoothing; also the generator's target
    lambda_gp: float  # gradient penalty on the sigmoid output
    image_pool: int  # CycleGAN history buffer (paper: 50); 0: the newest fake only
    # optimisation
    lr_generator: float
    lr_discriminator: float
    beta1: float
    beta2: float
    generator_steps: int  # G steps per D step
    batch_size: int
    schedule: Schedule  # of G; watches `score`
    schedule_discriminator: Schedule  # of D; watches the epoch's mean loss of D
    score: Score
    early_stop_patience: int | None  # epochs without a better 0.5 FID + 0.5 VGG
    epochs: int  # as run
    epochs_planned: int
    # data
    dataset: str  # the predecessor's name of its data set
    training_pairs: int  # slices it trained on; an upper bound here
    # switches that restore the predecessor's behaviour
    generator_eval_after_first_validation: bool
    select_by: str  # which checkpoint is "best": "mae_hu" (masked, validation patients) | "fid_vgg" (predecessor)


FIELDS = tuple(f.name for f in dataclasses.fields(Variant))


class Registry:
    """All variants in the order of their declaration, and the names that stand for another."""

    def __init__(self) -> None:
        self._variants: dict[str, Variant] = {}
        self._aliases: dict[str, str] = {}

    def add(self, variant: Variant) -> Variant:
        """Declare a variant; parent and init_from must have been declared above it."""
        if variant.name in self._variants or variant.name in self._aliases:
            raise MrictError(f"variant '{variant.name}' is declared twice")
        for role in ("parent", "init_from"):
            other = getattr(variant, role)
            if other is not None and other not in self._variants:
                raise MrictError(f"variant '{variant.name}': {role} '{other}' must be declared above it")
        self._variants[variant.name] = variant
        return variant

    def derive(self, parent: str, name: str, *, why: str, init_from: str | None = None, **changes: Any) -> Variant:
        """Declare a child that states only what it changes. `init_from` is never inherited."""
        base = self.get(parent)
        for field in changes:
            if field not in FIELDS:
                raise unknown_name("variant field", field, FIELDS)
            if getattr(base, field) == changes[field]:
                raise MrictError(f"variant '{name}': {field} does not differ from '{base.name}'; leave it out")
        child = dataclasses.replace(base, name=name, why=why, parent=base.name, init_from=init_from, **changes)
        return self.add(child)

    def alias(self, name: str, target: str) -> None:
        """Let `name` stand for the declared variant `target`."""
        self._aliases[name] = self.get(target).name

    def get(self, name: str) -> Variant:
        """Return a variant by name or alias; an unknown name is an error with the nearest one."""
        name = self._aliases.get(name, name)
        if name not in self._variants:
            raise unknown_name("variant", name, [*self._variants, *self._aliases])
        return self._variants[name]

    def all(self) -> list[Variant]:
        """Return every variant in the order of declaration."""
        return list(self._variants.values())

    def aliases(self) -> dict[str, str]:
        """Return {alias: name}."""
        return dict(self._aliases)

    def diff(self, name: str) -> dict[str, tuple[Any, Any]]:
        """Return {field: (parent's value, own value)} of what `name` changes; empty for a root."""
        variant = self.get(name)
        if variant.parent is None:
            return {}
        parent = self.get(variant.parent)
        skip = {"name", "why", "parent"}
        pairs = {f: (getattr(parent, f), getattr(variant, f)) for f in FIELDS if f not in skip}
        return {f: pair for f, pair in pairs.items() if pair[0] != pair[1]}

    def lineage(self, name: str) -> list[Variant]:
        """Return the chain of weights, first ancestor first, `name` last."""
        chain = [self.get(name)]
        while chain[0].init_from:
            chain.insert(0, self.get(chain[0].init_from))
        return chain


def as_dict(variant: Variant) -> dict[str, Any]:
    """Return every field as plain json values."""
    return dataclasses.asdict(variant)
