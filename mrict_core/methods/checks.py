"""Can an experiment be trained? Checks every name and keyword before training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from mrict_core.data.augment import AugmentSettings
from mrict_core.data.batches import VIEWS
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import saved
from mrict_core.experiments.profiles import Profile
from mrict_core.experiments.schema import Experiment, Optimizer, Schedule
from mrict_core.losses import LOSSES, check_terms
from mrict_core.methods.base import METHODS, OPTIMIZERS, Method, Setup
from mrict_core.networks import NETWORKS
from mrict_core.parts import RAN, missing_files

SCHEDULES = {  # kind => required values
    **{"constant": (), "linear": (), "warmup_cosine": ()},
    **{"plateau": ("factor", "patience"), "cosine": ("t_0",)},
}
AUGMENTATIONS = {  # name => (whether a number fits, what is expected)
    **{f.name: (lambda v: v >= 0, "a number of at least 0") for f in fields(AugmentSettings)},
    **dict.fromkeys(("flip_horizontal", "flip_vertical"), (lambda v: 0 <= v <= 1, "a probability from 0 to 1")),
    "scale": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "crop": (lambda v: v >= 0 and v % 1 == 0, "a whole number of pixels; 0: no crop"),
}
VALIDATION = ("val_mae_hu", "val_mse", "val_ssim", "val_fid", "val_vgg", "output_sd_hu")  # columns of a history
LEAST = {
    **{"epochs": 1, "steps": 1, "data.batch_size": 1, "data.max_pairs": 1},
    **{"early_stop_patience": 1, "score.boost_epochs": 1e-3},
}
SELECT_BY = ("mae_hu", "fid_vgg")


def check(experiment: Experiment, *, training: bool = True) -> None:
    """Raise MrictError, with the nearest name, for unknown names and keywords.

    training: False checks the predicting network alone, for published models.
    """
    try:
        _check(experiment, training)
    except MrictError as error:
        files = missing_files(saved.versions(experiment.name)) if training else ""
        remedy = f"; it was trained with a file of your own: add {files}" if files else ""
        raise MrictError(f"{experiment.name}: {error}{remedy}") from None


def own_code(experiment: Experiment) -> dict[str, str]:
    """Return {name: hash} of the user's files that register the parts of an experiment; empty for none."""
    named = ((VIEWS, experiment.data.view.name), (METHODS, experiment.method.name))
    named += tuple((NETWORKS, part.name) for part in experiment.network.values())
    named += tuple((LOSSES, term.function or name) for name, term in experiment.loss.items())
    paths = {parts[name].__module__ for parts, name in named if name in parts}
    return {Path(path).name: RAN[path] for path in sorted(paths & RAN.keys())}


def _check(experiment: Experiment, training: bool) -> None:
    named = experiment.method
    METHODS.check(named.name, named.options, "method")
    VIEWS.check(experiment.data.view.name, experiment.data.view.options, "data.view")
    method: type[Method] = METHODS[named.name]
    roles = list(dict.fromkeys(method.NETWORKS.values())) if training else [method.NETWORKS[method.mr_to_ct]]
    _check_roles(experiment.network, roles, "network", named.name, strict=training)
    for role in roles:
        part = experiment.network[role]
        NETWORKS.check(part.name, part.options, f"network.{role}")
    if not training:
        return
    _check_roles(experiment.optimizer, roles, "optimizer", named.name)
    for role, optimizer in experiment.optimizer.items():
        _check_optimizer(optimizer, f"optimizer.{role}")
        _check_schedule(optimizer.schedule, experiment, method, f"optimizer.{role}.schedule")
    check_terms(experiment.loss, method.gives)
    if VIEWS[experiment.data.view.name].dimensions == 3:
        _check_volumes(experiment)
    if hasattr(method, "check_experiment"):
        method.check_experiment(experiment)
    for path, least in LEAST.items():
        value = attrgetter(path)(experiment)
        if value is not None and value < least:
            raise MrictError(f"{path} is {value}, expected at least {least}")
    for name, value in experiment.data.augment.items():
        _check_augmentation(name, value)
    if experiment.select_by not in SELECT_BY:
        raise MrictError(f"select_by: {unknown_name('measure', experiment.select_by, SELECT_BY)}")


def _check_volumes(experiment: Experiment) -> None:
    """Raise MrictError for what is defined on slices alone, in an experiment on patches of volumes."""
    for name, term in experiment.loss.items():
        if term.weight and not LOSSES[term.function or name].volumes:
            fitting = ", ".join(sorted(n for n, part in LOSSES.items() if part.volumes))
            raise MrictError(f"loss.{name}: is defined on slices, data.view is patch3d; choose from {fitting}")
    if experiment.data.augment.get("crop", 0):
        raise MrictError("data.augment.crop: view patch3d has patches of its own; set it to 0, and data.view.patch")


def _check_augmentation(name: str, value: Any) -> None:
    if name not in AUGMENTATIONS:
        raise MrictError(f"data.augment: {unknown_name('augmentation', name, AUGMENTATIONS)}")
    fits, expected = AUGMENTATIONS[name]
    if type(value) not in (int, float) or not math.isfinite(value) or not fits(value):
        raise MrictError(f"data.augment.{name} is {str(value)[:40]}, expected {expected}")


def check_networks(experiment: Experiment, profile: Profile, size: int, *, training: bool = True) -> None:
    """Raise MrictError unless the networks can be built and map slices of `size` pixels to a CT.

    Runs on torch's meta device: no memory is allocated and no random number drawn.
    """
    device, name, sides, volumes = torch.device("meta"), "", (size, size), False

    def where() -> str:
        return f"{experiment.name}: network {experiment.network[METHODS[experiment.method.name].NETWORKS[name]].name}"

    setup = Setup(experiment, profile, device, training=False, canvas=size)
    kind: type[Method] = METHODS[experiment.method.name]
    try:
        with device:
            name = kind.mr_to_ct
            method: Method = METHODS.build(experiment.method.name, experiment.method.options, setup=setup)
            sides, volumes = method.view.sides(size), method.view.dimensions == 3
            _check_sides(method, sides, experiment.data.augment.get("crop", 0), where())
            made = method.generator.eval()(torch.empty(1, method.view.in_channels, *sides))
            expected, came = (1, max(1, method.out_channels), *sides), tuple(getattr(made, "shape", ()))
            if came != expected:
                what = "a patch" if volumes else "a slice"
                raise MrictError(f"{where()}: returns {came or type(made).__name__} for {what}, expected {expected}")
            for name in kind.NETWORKS if training else ():
                network = method.fresh(name)
                if volumes:  # of slices, the canvas suits all networks
                    network.eval()(torch.empty(1, method.channels(name)[0], *sides))
    except MrictError:
        raise
    except Exception as error:  # of any constructor or layer
        reason = " ".join(str(error).split())[:200]
        what = f"patches of {_by(sides)} voxels" if volumes else f"slices of {size} px"
        raise MrictError(f"{where()} does not work on {what}: {reason}; change its options") from None


def _check_sides(method: Method, sides: tuple[int, ...], crop: float, where: str) -> None:
    """Raise MrictError for slices, crops or patches whose sides are not divisible by the network's strides."""
    multiple = getattr(method.generator, "multiple", 1)
    if len(sides) == 3:
        if isinstance(multiple, int) and multiple > 1:
            raise MrictError(f"{where}: is for slices; set data.view=slab, or choose a network for volumes")
        multiples = multiple if isinstance(multiple, tuple) else (1, 1, 1)
        if any(side % unit for side, unit in zip(sides, multiples, strict=True)):
            raise MrictError(
                f"{where}: needs patches of multiples of {_by(multiples)} voxels (slices, rows, columns), "
                f"data.view.patch is {_by(sides)}; change one of them"
            )
        return
    if not isinstance(multiple, int):
        raise MrictError(f"{where}: is for volumes; set data.view=patch3d, or choose a network for slices")
    if sides[0] % multiple:
        raise MrictError(f"{where}: needs slices of a multiple of {multiple} px, these have {sides[0]}")
    if crop % multiple:
        raise MrictError(f"{where}: needs data.augment.crop a multiple of {multiple} px, it is {crop:g}")


def _by(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))


def _check_roles(given: Mapping[str, Any], roles: list[str], where: str, method: str, *, strict: bool = True) -> None:
    if missing := [role for role in roles if role not in given]:
        raise MrictError(f"{where}.{missing[0]} is missing; {method} needs {', '.join(roles)}; add it")
    if strict and (unknown := [role for role in given if role not in roles]):
        raise MrictError(f"{where}: {unknown_name(f'role of {method}', unknown[0], roles)}; leave it out (None)")


def _check_optimizer(optimizer: Optimizer, where: str) -> None:
    OPTIMIZERS.check(optimizer.name, optimizer.options, where)
    betas = optimizer.options.get("betas", (0, 0))
    if not isinstance(betas, list | tuple) or len(betas) != 2 or not all(type(b) in (int, float) for b in betas):
        raise MrictError(f"{where}.betas is {str(betas)[:40]}, expected two numbers from 0 to below 1")
    if not optimizer.lr > 0:
        raise MrictError(f"{where}.lr is {optimizer.lr:g}, expected a number above 0")
    try:
        weight = torch.nn.Parameter(torch.zeros(1))
        OPTIMIZERS.build(optimizer.name, optimizer.options, params=[weight], lr=optimizer.lr)
    except Exception as error:  # what torch's own constructors refuse
        raise MrictError(f"{where}: {optimizer.name}: {' '.join(str(error).split())[:200]}") from None


def _check_schedule(schedule: Schedule, experiment: Experiment, method: type[Method], where: str) -> None:
    if schedule.kind not in SCHEDULES:
        raise MrictError(f"{where}: {unknown_name('schedule', schedule.kind, SCHEDULES)}")
    for needed in SCHEDULES[schedule.kind]:
        if getattr(schedule, needed) is None:
            raise MrictError(f"{where}: {schedule.kind} needs '{needed}'; add {where}.{needed}")
    for name, fits, expected in (
        ("factor", lambda v: 0 < v < 1, "a number between 0 and 1"),
        ("patience", lambda v: v >= 0, "at least 0"),
        ("mode", lambda v: v in ("min", "max"), "min or max"),
        ("t_0", lambda v: v >= 1, "at least 1"),
        ("t_mult", lambda v: v >= 1, "at least 1"),
        ("eta_min", lambda v: v >= 0, "at least 0"),
        ("decay_from", lambda v: 0 <= v < 1, "at least 0 and below 1"),
        ("warmup", lambda v: 0 <= v < 1, "at least 0 and below 1"),
    ):
        if (value := getattr(schedule, name)) is not None and not fits(value):
            raise MrictError(f"{where}.{name} is {value}, expected {expected}")
    columns = ("score", "loss_g", *(f"loss_g_{term}" for term in experiment.loss), *method.logs, *VALIDATION)
    if schedule.kind == "plateau" and schedule.watch not in columns:
        raise MrictError(f"{where}.watch: {unknown_name('column', schedule.watch, columns)}")
