"""The schema of an experiment and how one is derived from another. The entries stand in `variants.py`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mrict_core.errors import MrictError, unknown_name

T = TypeVar("T")


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

    kind: str = "constant"  # or "plateau", "cosine"
    factor: float | None = None  # plateau
    patience: int | None = None  # plateau: epochs
    mode: str | None = None  # plateau: "min" | "max"
    t_0: int | None = None  # cosine with warm restarts: epochs of the first period
    t_mult: int | None = None
    eta_min: float | None = None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One named experiment: every value that decides what is learned.

    A default says what the absence of a field means in a file written before the field existed, so a new field needs
    one under which nothing changes, and no default ever changes. What a generator is made of has none.
    """

    name: str
    why: str = ""  # one sentence: what this experiment asks
    parent: str | None = None  # configuration lineage: the variant it was derived from
    init_from: str | None = None  # weight lineage: starts from this variant's last checkpoint
    family: str = ""  # "practice" | "cyclegan" | "mk1" | "mk2" | "mk3" | "mk4" | "mk6"
    method: str  # "pix2pix" | "cyclegan"
    # networks
    generator: str  # "unet_a" | "unet_b"
    channels: int  # of the images the networks see; 3 repeats the grey image
    generator_dropout: float = 0.0
    generator_slope: float  # of LeakyReLU
    discriminator: str = "patch4"  # "patch4" | "patch3" | "scalar"
    discriminator_dropout: float = 0.0
    conditional_discriminator: bool = False  # True: D sees MR and CT; the predecessor's saw the CT alone
    # generator loss
    lambda_gan: float = 1.0
    perceptual: str = "none"  # "vgg19_pool5_mse" | "vgg19_relu3_3_l1" | "none"
    lambda_perceptual: float = 0.0
    lambda_perceptual_step: float = 0.0  # > 0: adaptive rule of mk4_1, change per epoch
    lambda_l1: float = 0.0  # pixel L1, full image, [-1, 1] units
    lambda_cycle: float = 0.0
    lambda_identity: float = 0.0
    # discriminator loss
    real_label: float = 1.0  # one-sided label smoothing; also the generator's target
    lambda_gp: float = 0.0  # gradient penalty on the sigmoid output
    image_pool: int = 0  # CycleGAN history buffer (paper: 50); 0: the newest fake only
    # optimisation
    lr_generator: float = 2e-4
    lr_discriminator: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    generator_steps: int = 1  # G steps per D step
    batch_size: int = 1
    schedule: Schedule = Schedule()  # of G; watches `score`
    schedule_discriminator: Schedule = Schedule()  # of D; watches the epoch's mean loss of D
    score: Score = Score()
    early_stop_patience: int | None = None  # epochs without a better 0.5 FID + 0.5 VGG
    epochs: int = 1  # as run
    epochs_planned: int = 1
    # data
    dataset: str = ""  # the predecessor's name of its data set
    training_pairs: int = 0  # slices it trained on; an upper bound here
    # switches that restore the predecessor's behaviour
    generator_eval_after_first_validation: bool = False
    select_by: str = "mae_hu"  # what the best checkpoint has: "mae_hu" (masked, validation patients) | "fid_vgg"


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


PROSE = ("why", "parent", "family", "dataset", "epochs", "epochs_planned")  # fields that change no weight


def deciding(variant: Variant) -> dict[str, Any]:
    """Return the fields that decide what is learned, without those at their default.

    So a field that a later version adds changes nothing in the description of a variant that does not use it.
    """
    return {name: value for name, value in _changed(variant).items() if name not in PROSE}


def _changed(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return value
    own = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
    return {name: _changed(now) for name, (now, default) in own.items() if now != default}


def from_dict(kind: type[T], values: Any, where: str) -> T:
    """Return the dataclass `kind` from the plain values of a file, whichever version wrote it.

    Fields that `kind` does not know are passed over, missing ones take their default. Raises MrictError, with `where`
    and the field's name, for a missing one that has none and for a value of another type.
    """
    if not isinstance(values, Mapping):
        raise MrictError(f"{where}: is {type(values).__name__}, expected named values")
    hints, found = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        hint, value = hints[field.name], values.get(field.name, MISSING)
        if value is MISSING and field.default is MISSING and field.default_factory is MISSING:
            raise MrictError(f"{where}: '{field.name}' is missing and cannot be guessed")
        if value is MISSING:
            continue
        if dataclasses.is_dataclass(hint):
            value = from_dict(hint, value, f"{where}.{field.name}")
        elif not _fits(value, hint):
            expected = getattr(hint, "__name__", str(hint))
            raise MrictError(f"{where}: '{field.name}' is {str(value)[:40]!r}, expected {expected}")
        found[field.name] = value
    return kind(**found)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value from json or a checkpoint is of a field's type; a whole number is a float too."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = {get_origin(option) or option for option in options}
    return type(value) in kinds or (type(value) is int and float in kinds)
