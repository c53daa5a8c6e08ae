"""What an experiment is: nested values with defaults, read from and written as plain values (json, yaml, `--set`).

    network.G = {"name": "unet_b", "dropout": 0.1}      a registered name and keyword arguments: a `Part`
    loss.l1 = {"weight": 5.0}                           a term of the generator's loss: a `Term`
    optimizer.G = {"lr": 2e-4, "schedule": {...}}       what trains the networks of that role

A missing value means its default, in files of other versions too, so a default never changes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mrict_core.errors import MrictError, unknown_name

T = TypeVar("T")
NEAR = 4  # paths that an error for an unknown one suggests


@dataclass(frozen=True)
class Part:
    """A choice by registered name, with keyword arguments. As plain values: {"name": …, **options}, or the name."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """One term of a loss: weight · function(output, batch, **options). As plain values: {"weight": …, **options}."""

    weight: float = 1.0
    function: str = ""  # registered name; "": the name of the term
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule of one optimiser."""

    kind: str = "constant"  # or "plateau", "cosine", stepped once per epoch; "linear", "warmup_cosine", at every step
    factor: float | None = None  # plateau
    patience: int | None = None  # plateau: epochs
    mode: str | None = None  # plateau: "min" | "max"
    t_0: int | None = None  # cosine with warm restarts: epochs of the first period
    t_mult: int | None = None
    eta_min: float | None = None
    decay_from: float | None = None  # linear: fraction of the training
    warmup: float | None = None  # warmup_cosine: fraction of the training
    watch: str = "score"  # plateau: a column of the history


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A torch optimiser by name, its learning rate and schedule. As plain values: {"lr": …, **options}."""

    lr: float
    name: str = "adam"
    schedule: Schedule = Schedule()
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the optimiser


@dataclass(frozen=True)
class Score:
    """What a plateau schedule watches on the validation patients; lower is better.

    score = (fid * FID + vgg * VGG + ssim * (1 - SSIM) + loss_g * L_G) * (1 + epoch / boost_epochs), with epoch from 0.
    The growing factor makes a plateau schedule fire on its own, as in the predecessor.
    """

    fid: float = 0.0
    vgg: float = 0.0
    ssim: float = 0.0
    loss_g: float = 0.0  # mean generator loss of the epoch
    boost_epochs: float | None = None


@dataclass(frozen=True)
class Data:
    """What the networks see."""

    view: Part = Part("slice")  # of the dataset cache
    batch_size: int = 1
    max_pairs: int | None = None  # training slices at most; None: all
    augment: dict[str, float] = field(default_factory=dict)  # strengths that differ from `AugmentSettings`, by name


@dataclass(frozen=True)
class History:
    """Records of the predecessor's run, without effect on training."""

    dataset: str = ""  # the predecessor's name for it
    epochs_planned: int | None = None  # None: those run


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One named experiment: every value that decides what is learned, and its origin."""

    name: str
    why: str = ""  # one sentence: what this experiment asks
    parent: str | None = None  # configuration: the experiment it is derived from
    init_from: str | None = None  # weights: the experiment whose last checkpoint it starts from
    family: str = ""  # "practice" | "cyclegan" | "mk1" | "mk2" | "mk3" | "mk4" | "mk6" | "papers" | ...
    method: Part
    network: dict[str, Part]  # role => network; the roles are the method's
    loss: dict[str, Term] = field(default_factory=dict)  # of the generator, by name, in the order of their sum
    optimizer: dict[str, Optimizer]  # role => optimiser
    data: Data = Data()
    epochs: int = 1
    steps: int | None = None  # of the optimiser; `epochs` then are rounds that end with a validation
    score: Score = Score()
    select_by: str = "mae_hu"  # of the best checkpoint: "mae_hu" (masked, validation patients) | "fid_vgg"
    early_stop_patience: int | None = None  # epochs without a better 0.5 FID + 0.5 VGG
    history: History = History()


OPEN = (Part, Term, Optimizer)  # plain values that are not fields of these are their options
PROSE = ("why", "parent", "family", "epochs", "steps", "history")  # change no weight; the profile sets epochs, steps


def as_plain(value: Any) -> Any:
    """Return an experiment, or a part of one, as plain json values."""
    if isinstance(value, Mapping):
        return {name: as_plain(item) for name, item in value.items()}
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    plain = {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return plain | plain.pop("options") if isinstance(value, OPEN) else plain


def deciding(experiment: Experiment) -> dict[str, Any]:
    """Return what decides the weights, without values at their default.

    A field that a later version adds therefore leaves the description of earlier experiments unchanged.
    """
    return {name: value for name, value in _changed(experiment).items() if name not in PROSE}


def _changed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _changed(item) for name, item in value.items()}
    if not dataclasses.is_dataclass(value):
        return as_plain(value)
    own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    changed = {f.name: _changed(own[f.name]) for f in dataclasses.fields(value) if own[f.name] != _default(f)}
    return changed | changed.pop("options", {}) if isinstance(value, OPEN) else changed


def _default(wanted: dataclasses.Field) -> Any:
    return wanted.default if wanted.default_factory is MISSING else wanted.default_factory()


def from_plain(kind: type[T], values: Any, where: str, *, strict: bool = False, inside: str = "") -> T:
    """Return the dataclass `kind` from plain values of any version.

    Missing fields take their default; unknown ones are ignored or, if `strict`, refused with the nearest name. Raises
    MrictError, with `where` and the field's path (which begins with `inside`), for a missing field without default and
    for a value of the wrong type.
    """
    if kind is Part and isinstance(values, str):
        values = {"name": values}
    if not isinstance(values, Mapping):
        raise MrictError(f"{where}: {inside[:-1] + ' ' if inside else ''}is {_shown(values)}, expected named values")
    hints, known = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    if kind in OPEN:
        known.pop("options")
        options = {name: value for name, value in values.items() if name not in known}
    elif strict and (unknown := [str(name) for name in values if name not in known]):
        raise MrictError(f"{where}: {unknown_name('field', inside + unknown[0], [inside + name for name in known])}")
    found: dict[str, Any] = {"options": options} if kind in OPEN else {}
    for name, wanted in known.items():
        if name in values:
            found[name] = _value(hints[name], values[name], where, strict, inside + name)
        elif wanted.default is MISSING and wanted.default_factory is MISSING:
            raise MrictError(f"{where}: '{inside}{name}' is missing and cannot be guessed")
    return kind(**found)


def _value(hint: Any, value: Any, where: str, strict: bool, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, where, strict=strict, inside=f"{path}.")
    if not _fits(value, hint):
        expected = getattr(hint, "__name__", str(hint))
        raise MrictError(f"{where}: {path} is {_shown(value)}, expected {expected}")
    if get_origin(hint) is dict and dataclasses.is_dataclass(item := get_args(hint)[1]):
        return {
            name: from_plain(item, one, where, strict=strict, inside=f"{path}.{name}.") for name, one in value.items()
        }
    return float(value) if hint is float else value


def _shown(value: Any) -> str:
    return repr(str(value)[:40])


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has a field's type; a whole number is also a float."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = {get_origin(option) or option for option in options}
    return type(value) in kinds or (type(value) is int and float in kinds)


def with_values(experiment: Experiment, changes: Mapping[str, Any], where: str = "", **more: Any) -> Experiment:
    """Return the experiment with values changed by path: {"loss.l1.weight": 20, "network.G": "unet_a"}.

    A new term, network or optimiser is added; None removes one. more: fields, as for dataclasses.replace. Raises
    MrictError for an unknown path, with the nearest ones, and for a value of the wrong type.
    """
    plain = as_plain(experiment)
    for path, value in changes.items():
        *parts, last = path.split(".")
        place = plain
        for depth, part in enumerate(parts):
            below = place.get(part)
            if below is None and depth == 1 and parts[0] in ("network", "loss", "optimizer"):
                below = place[part] = {}
            if not isinstance(below, dict):
                near = ", ".join(difflib.get_close_matches(path, paths_of(experiment), n=NEAR, cutoff=0.0))
                raise MrictError(
                    f"{where or experiment.name}: unknown value '{path}': did you mean one of {near}? "
                    "`variants --json` lists them all"
                )
            place = below
        if value is None and parts in (["network"], ["loss"], ["optimizer"]):
            place.pop(last, None)
        else:
            place[last] = as_plain(value)
    changed = from_plain(Experiment, plain, where or experiment.name, strict=True)
    return dataclasses.replace(changed, **more) if more else changed


def flattened(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of the innermost plain values."""
    for name, value in plain.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def paths_of(experiment: Experiment) -> list[str]:
    """Return the path of every value of an experiment."""
    return [path for path, _ in flattened(as_plain(experiment))]


def differing(one: Experiment, other: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return {path: (value of one, value of other)} where two experiments differ; None for a missing value."""
    left, right = (dict(flattened(as_plain(e))) for e in (one, other))
    paths = (path for path in left | right if path not in ("name", "why", "parent"))
    return {p: (left.get(p), right.get(p)) for p in paths if left.get(p) != right.get(p)}
