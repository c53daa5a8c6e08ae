"""Profiles: how large and how long.

A profile keeps a variant's loss terms and weights, architecture and learning rates. It may change the width, canvas,
batch size, number of epochs and, with an effect on the term's values, the feature network of every perceptual term
(demo, cpu and smoke use `demo_features`). Profile cpu gives every training the same time instead of its own epochs.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments.schema import Experiment, Part

PATCHES = "patch3d"  # name of the view of volumes
FEWEST_STEPS = 4
MINUTES = "MRICT_MINUTES"  # in the environment: minutes of every training, for the processes that the suite starts


def check_budget(steps: float | None = None, minutes: float | None = None) -> None:
    """Raise MrictError for two budgets, and for one of nothing."""
    if steps is not None and minutes is not None:
        raise MrictError(f"{steps} steps and {minutes:g} minutes: expected one budget; leave one out")
    if steps is not None and steps < 1:
        raise MrictError(f"a budget of {steps} steps: expected at least 1; give more, or leave it out")
    if minutes is not None and not 0 < 60 * minutes < math.inf:  # seconds
        raise MrictError(f"a budget of {minutes:g} minutes: expected more than 0, and finite; change or leave it out")


@dataclass(frozen=True)
class Patches:
    """The scale of experiments whose networks see patches of volumes. None, or no sides: the variant's own."""

    sides: list[int] = field(default_factory=list)  # slices, rows, columns
    batch_size: int | None = None
    step_fraction: float = 1.0  # of the variant's steps
    depth: int | None = None  # stages of a network that takes a depth; None: its own


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One scale of the suite. A default is the meaning of a field that an old file lacks."""

    name: str = ""
    label: str = ""  # printed in every table and figure
    width: int  # channels of the first encoder block (predecessor: 64)
    size: int | None = None  # canvas, pixels; None: least multiple of 32 that holds the volumes, at most `size_max`
    size_max: int = 256
    epoch_fraction: float = 1.0  # of the variant's epochs
    epochs_min: int = 1
    epochs_max: int | None = None
    steps: int | None = None  # of experiments that count in steps; None: their own
    minutes: float | None = None  # of every training without a budget of its own; epochs are then rounds of validation
    precision: str = "auto"  # where a training does not choose, see `machine.pick_precision`
    validation_slices: int | None = None  # of each validation patient after an epoch, evenly spread; None: all
    widths: dict[str, int] = field(default_factory=dict)  # of networks with a width of their own, by name
    batch_size: int | None = None  # None: the variant's own
    patches: Patches = Patches()  # instead of size, batch and steps, for experiments on volumes
    feature_network: str | None = None  # None: the variant's own (torchvision VGG)
    threads: int | None = None  # CPU threads, for bit-equal results
    jobs: int = 1  # parallel trainings or notebooks; for small networks faster than threads
    phantom_patients_per_centre: int = 1
    phantom_in_plane_mm: dict[str, float] = field(default_factory=dict)  # by region
    phantom_slice_mm: float = 1.0
    phantom_supersample: int = 1  # partial volume: sub-voxels along each axis

    def epochs(self, variant: Experiment) -> int:
        """Return the number of epochs of `variant` in this profile."""
        count = max(self.epochs_min, math.ceil(variant.epochs * self.epoch_fraction))
        return min(count, self.epochs_max) if self.epochs_max else count

    def steps_of(self, variant: Experiment) -> int | None:
        """Return the optimiser steps of `variant` in this profile; None for one that counts in epochs."""
        if variant.steps and variant.data.view.name == PATCHES:
            return max(FEWEST_STEPS, round(variant.steps * self.patches.step_fraction))
        return variant.steps and (self.steps or variant.steps)

    def length(self, variant: Experiment) -> str:
        """Return how long a training of `variant` is, in words."""
        if self.minutes:
            return f"{self.minutes:g} minutes"
        steps, epochs = self.steps_of(variant), self.epochs(variant)
        return f"{steps} steps" if steps else f"{epochs} epoch{'s' * (epochs != 1)}"

    def batch(self, variant: Experiment) -> int:
        """Return the batch size of `variant` in this profile."""
        own = self.patches.batch_size if variant.data.view.name == PATCHES else self.batch_size
        return own or variant.data.batch_size

    def depth(self, variant: Experiment) -> int | None:
        """Return the stages of the networks of `variant` in this profile; None: their own."""
        return self.patches.depth if variant.data.view.name == PATCHES else None

    def view(self, variant: Experiment) -> Part:
        """Return the view of `variant` in this profile: with its own sides of a patch, or else the profile's."""
        view = variant.data.view
        if view.name != PATCHES or not self.patches.sides or "patch" in view.options:
            return view
        return replace(view, options=view.options | {"patch": list(self.patches.sides)})

    def described(self, experiment: Experiment) -> dict[str, Any]:
        """Return this profile's values that decide the weights of `experiment`."""
        widths = {part.name: self.widths[part.name] for part in experiment.network.values() if part.name in self.widths}
        own = {"width": self.width, "feature_network": self.feature_network, "batch": self.batch(experiment)}
        more = {"widths": widths, "validation_slices": self.validation_slices}
        if (view := self.view(experiment)) != experiment.data.view:
            more["patch"] = view.options["patch"]
        if (depth := self.depth(experiment)) is not None:
            more["depth"] = depth
        return own | {name: value for name, value in more.items() if value}

    def canvas(self, shapes: list[tuple[int, int]]) -> int:
        """Return the side of the canvas, pixels, for volumes of these in-plane shapes."""
        if self.size:
            return self.size
        if not shapes:
            raise MrictError("no patient to choose a canvas size for")
        largest = max(max(shape) for shape in shapes)
        return min(max(64, 32 * math.ceil(largest / 32)), self.size_max)


PROFILES = {
    p.name: p
    for p in (
        Profile(
            name="demo",
            label="demo",
            width=8,
            epoch_fraction=0.2,
            epochs_min=2,
            epochs_max=10,
            batch_size=8,
            steps=1200,
            widths={"residual_unet": 16, "volume_unet": 12, "patchgan3d": 16, "mean_flow": 16, "denoiser": 8},
            patches=Patches([8, 48, 48], step_fraction=0.04, depth=4),
            feature_network="demo_features",
            threads=1,
            jobs=2,
            phantom_patients_per_centre=5,
            phantom_in_plane_mm={"brain": 3.6, "pelvis": 6.6},
            phantom_slice_mm=6.5,
            phantom_supersample=2,
        ),
        Profile(
            name="cpu",  # real data on two cores: an hour for three trainings
            label="cpu",
            width=32,
            epochs_max=10,
            minutes=20.0,
            precision="native",
            validation_slices=16,
            widths={"residual_unet": 24, "volume_unet": 16, "mean_flow": 24, "denoiser": 24},
            patches=Patches([32, 96, 96]),
            batch_size=8,
            feature_network="demo_features",
            phantom_patients_per_centre=8,
            phantom_in_plane_mm={"brain": 2.0, "pelvis": 3.4},
            phantom_slice_mm=3.0,
        ),
        Profile(
            name="full",
            label="full",
            width=64,
            widths={"residual_unet": 48, "volume_unet": 32, "mean_flow": 48, "denoiser": 64},
            size=256,
            phantom_patients_per_centre=12,
            phantom_in_plane_mm={"brain": 1.0, "pelvis": 1.7},
            phantom_slice_mm=1.5,
        ),
        Profile(
            name="smoke",  # miniature for the tests
            label="smoke test",
            width=4,
            size=64,
            size_max=64,
            epoch_fraction=0.0,
            epochs_max=1,
            batch_size=8,
            steps=4,
            patches=Patches([16, 32, 32], step_fraction=0.0, depth=3),
            feature_network="demo_features",
            threads=1,
            jobs=2,
            phantom_patients_per_centre=2,
            phantom_in_plane_mm={"brain": 4.5, "pelvis": 7.5},
            phantom_slice_mm=16.0,
        ),
    )
}


def get_profile(name: str) -> Profile:
    """Return a profile by name, with the minutes in the environment.

    Raises MrictError, with the nearest name, for an unknown one.
    """
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    text = os.environ.get(MINUTES)
    return replace(PROFILES[name], minutes=_minutes(text)) if text else PROFILES[name]


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        raise MrictError(f"{MINUTES}={text[:40]}: expected a number of minutes; correct or unset it") from None
    try:
        check_budget(minutes=minutes)
    except MrictError as error:
        raise MrictError(f"{MINUTES}={text[:40]}: {error}") from None
    return minutes
