"""One training run: its settings, id, data and initial weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrict_core.data.augment import NONE, AugmentSettings, JointTransform
from mrict_core.data.batches import (
    Batch,
    PairedSlices,
    View,
    batches_of_pass,
    in_turns,
    make_view,
    paired_batches,
    unpaired_batches,
)
from mrict_core.data.cache.fingerprint import fingerprint
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.orders import PLANES
from mrict_core.data.patches import WholeVolume, middle, training_set
from mrict_core.data.splits import PREDECESSOR_KIND, Split, limit_pairs, load_split, predecessor_split
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import Experiment, deciding, differing, get, is_declared
from mrict_core.experiments.profiles import Profile, check_budget
from mrict_core.files import hash_of
from mrict_core.machine import PRECISIONS, pick_device, pick_precision, require, tune_gpu
from mrict_core.methods import Method, build_method, check, check_networks
from mrict_core.metrics.predecessor import VGG_SIDE
from mrict_core.networks import build_features
from mrict_core.paths import Workspace, shown, some
from mrict_core.ranks import ALONE, Ranks, current
from mrict_core.training.checkpoint import check_key, load_checkpoint, load_weights
from mrict_core.training.facts import ModelFacts
from mrict_core.training.runs import Report, TrainingRun, attempts, differences, find_parent, runs_of, without_seed
from mrict_core.training.tensorboard import PACKAGE
from mrict_core.training.validation import Validator

SEED_MAX = 2**62  # torch takes 64 bits
NAMED = 3  # patients in one message
SAMPLED = 8  # epochs after which a slice is kept, at most


@dataclass(frozen=True)
class TrainSettings:
    """Settings besides variant and profile."""

    seed: int = 42
    device: str = "auto"
    precision: str = "auto"  # the profile's, see `machine.pick_precision`
    compile: bool = False  # torch.compile; takes a minute to start
    tensorboard: bool = False  # keep a log for TensorBoard
    max_pairs: int | None = None  # training slices; None: the variant's own `data.max_pairs`
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    steps: int | None = None  # of the optimiser, instead of the variant's epochs, which become rounds of validation
    minutes: float | None = None  # the same in time on the device, validation included; neither: the profile's minutes

    def __post_init__(self) -> None:
        if abs(self.seed) > SEED_MAX:
            raise MrictError(
                f"seed {self.seed}: expected a whole number from -{SEED_MAX} to {SEED_MAX}; choose another"
            )
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.max_pairs is not None and self.max_pairs < 1:
            raise MrictError(f"cap of {self.max_pairs} training pairs: expected at least 1; raise it or leave it out")
        check_budget(self.steps, self.minutes)
        if self.tensorboard:
            require(PACKAGE, "tensorboard")


@dataclass
class Run:
    """All inputs of one training, checked before the first step."""

    variant: Experiment
    profile: Profile
    workspace: Workspace
    settings: TrainSettings
    store: SliceStore
    split: Split
    parent: TrainingRun | None  # it starts from the last weights of this one

    @cached_property
    def trained(self) -> dict[str, Any]:
        """All that decides the result, as plain values; its hash is the run's id.

        Values without effect are left out (a field of the variant at its default, an augmentation that is off), so that
        a field added by a later version does not change the ids of finished trainings.
        """
        settings = dataclasses.asdict(self.settings)
        for without_effect in ("device", "compile", "tensorboard"):  # nor have the threads any
            settings.pop(without_effect)
        off = dataclasses.asdict(NONE)
        settings["augment"] = {name: value for name, value in settings["augment"].items() if value != off[name]}
        return {
            "variant": deciding(self.variant),
            "profile": self.profile.described(self.variant),
            "epochs": self.epochs,
            **({"steps": self.steps} if self.steps and not self.settings.steps else {}),
            "settings": {name: value for name, value in settings.items() if value is not None},
            "store": self.store.key,
            "split": self.split.hash,
            "parent": self.parent.id if self.parent else None,
        }

    @property
    def id(self) -> str:
        """Equal ids mean the same training. The code's version is provenance, not part of the id."""
        return hash_of(self.trained)

    @property
    def experiment(self) -> str:
        """Hash of all but the seeds of this run and its parent."""
        return without_seed(self.trained, self.parent.experiment if self.parent else None)

    @property
    def epochs(self) -> int:
        """Number of validations: after each pass over the data, or each round of a budget."""
        epochs = self.profile.epochs(self.variant)
        return min(epochs, self.steps) if self.steps else epochs

    @property
    def steps(self) -> int | None:
        """Steps of the optimiser in all; None: as many as the epochs or the minutes take."""
        own = None if self.settings.minutes else self.profile.steps_of(self.variant)
        return self.settings.steps or own

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a pass over the data."""
        return batches_of_pass(len(self.dataset), self.profile.batch(self.variant), current())

    @property
    def augment(self) -> AugmentSettings:
        """The settings' augmentation with the experiment's own values; an augmentation that is off stays off."""
        given = self.settings.augment
        return given if given == NONE else dataclasses.replace(given, **self.variant.data.augment)

    @property
    def place(self) -> Path:
        """Folder of all trainings of the variant."""
        return self.workspace.checkpoints / self.variant.name

    def found(self) -> TrainingRun | None:
        """Return the newest existing equal training, of any version."""
        own = attempts(self.place, self.settings.seed, self.id)
        if own and own[-1].problem:
            raise MrictError(own[-1].problem)
        others = [] if own else [run for run in runs_of(self.workspace, self.variant.name) if not run.problem]
        equal = [run for run in others if not run.old and not differences(run.trained, self.trained)]
        return next(reversed(own or equal), None) or next(filter(self._is_old, others), None)

    def _is_old(self, run: TrainingRun) -> bool:
        """Return whether a training in the layout of earlier versions is equal, as far as it is described."""
        if not run.old or not run.epoch or not run.whole:
            return False
        known = {key: self.trained[key] for key in ("variant", "profile", "epochs", "store", "split", "parent")}
        precision = run.trained["precision"] if self.settings.precision == "auto" else self.settings.precision
        known |= {"training_pairs": len(self.dataset), "precision": precision}
        asked = (run.seed, AugmentSettings()) == (self.settings.seed, self.settings.augment)
        return asked and not differences(run.trained, known)

    @cached_property
    def dataset(self) -> PairedSlices:
        """Training slices, up to the cap on pairs: whole patients from all centres in turn.

        With the predecessor's split by slices, whole patients in its order.
        """
        cap = self.settings.max_pairs or self.variant.data.max_pairs
        by_slice = self._predecessor_slices("train")
        if by_slice is not None:
            chosen = limit_pairs({p: len(positions) for p, positions in by_slice.items()}, list(by_slice), cap)
            keep = {p: by_slice[p][kept] for p, kept in chosen.items()}
        else:
            keep = limit_pairs(self.store.counts(), in_turns(self.split.train, self.store), cap)
        return training_set(self.store, sorted(keep), keep, self.view)

    @cached_property
    def view(self) -> View:
        """What the network sees, at the profile's scale."""
        return make_view(self.profile.view(self.variant))

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Features of the training patients' MR, kept in the checkpoint for the input check."""
        return fingerprint(self.store, {patient for patient, *_ in self.dataset.index})

    def facts(self, **learned: Any) -> ModelFacts:
        """Return the facts for a checkpoint; learned: those that change from epoch to epoch."""
        return ModelFacts(
            variant=self.variant.name,
            experiment=self.variant,
            experiment_hash=self.experiment,
            trained=self.trained,
            profile=self.profile,
            seed=self.settings.seed,
            size=self.store.size,
            protocol=self.store.protocol,
            window_hu=[self.store.window.low, self.store.window.high],
            store_key=self.store.key,
            split_hash=self.split.hash,
            parent=self.variant.init_from,
            parent_hash=self.parent.id if self.parent else None,
            training_pairs=len(self.dataset),
            planes=self.planes,
            fingerprint=self.fingerprint,
            epochs=self.epochs,
            **learned,
        )

    @cached_property
    def planes(self) -> list[str]:
        """Planes of the training slices; [] for axial ones alone."""
        found = {plane for _, plane, _ in self.dataset.index}
        return [plane for plane in PLANES if plane in found] if found != {"axial"} else []

    def _predecessor_slices(self, which: str) -> dict[str, np.ndarray] | None:
        """Return the predecessor's split by slices ("train" or "val"), None if the split is by patient."""
        if not self.split.kind.startswith(PREDECESSOR_KIND):
            return None
        return predecessor_split(self.store.counts(), self.split.kind.removeprefix(PREDECESSOR_KIND)).by_patient(which)

    def validation_sets(self) -> list[PairedSlices]:
        """Return a data set per validation patient."""
        view = self.view
        by_slice = self._predecessor_slices("val")
        if by_slice is not None:
            return [PairedSlices(self.store, [p], {p: positions}, view) for p, positions in by_slice.items()]
        most, counts = self.profile.validation_slices, self.store.counts()
        if view.dimensions == 3:  # not slices here and there: the network needs their neighbours
            least = view.sides(self.store.size)[0]
            return [WholeVolume(self.store, p, middle(counts[p], most, least), view) for p in self.split.val]
        # Only prepared slices can be limited, not those of planes that are cut.
        own = [p for p in self.split.val if not view.planes or self.store.plane(p) in view.planes]
        keep = {p: spread(counts[p], most) for p in own} if most else None
        return [PairedSlices(self.store, [p], keep, view) for p in self.split.val]

    def batches(
        self,
        generators: dict[str, torch.Generator],
        paired: bool,
        steps: int | None = None,
        *,
        ranks: Ranks | None = None,
    ) -> Iterator[Batch]:
        """Yield augmented batches on the training's device, a pass over the data or as many as `steps`.

        ranks: whose part of each batch; None: this process's.
        """
        ranks = ranks or current()
        transform = JointTransform(self.augment, generators["augment"], ranks)
        make = paired_batches if paired else unpaired_batches
        device, size = pick_device(self.settings.device), self.profile.batch(self.variant)
        return make(self.dataset, size, transform, generators["shuffle"], device, steps, ranks)

    def endless_pairs(self, seed: int) -> Iterator[Batch]:
        """Yield augmented pairs, epoch after epoch, all to every rank; random numbers are drawn from `seed` alone."""
        generators = {name: torch.Generator().manual_seed(seed) for name in ("shuffle", "augment")}
        return chain.from_iterable(self.batches(generators, paired=True, ranks=ALONE) for _ in count())

    def method(self) -> Method:
        """Return the method with fresh networks and optimisers, in the device and precision of the settings."""
        device = pick_device(self.settings.device)
        tune_gpu(device)
        own = self.settings.precision
        precision = pick_precision(self.profile.precision if own == "auto" else own, device)
        method = build_method(self.variant, self.profile, device, precision, canvas=self.store.size)
        method.meet(self.dataset.people, self.settings.seed)
        if self.settings.compile:
            method.compile()
        return method

    def validator(self, device: torch.device, precision: torch.dtype = torch.float32) -> Validator:
        """Return the validation, with the feature metrics that the variant's score needs."""
        score = self.variant.score
        stops = self.variant.early_stop_patience is not None or self.variant.select_by == "fid_vgg"
        own = self.profile.feature_network
        fid = build_features(own or "inception_fid").to(device) if score.fid or stops else None
        vgg = None
        if score.vgg or stops:
            vgg = build_features(own or "vgg16_relu3_3").to(device).compute_in(torch.float32)
        return Validator(
            self.store.window,
            self.validation_sets(),
            batch_size=self.profile.batch(self.variant),
            device=device,
            fid_features=fid_features(fid) if fid is not None else None,
            vgg_features=vgg,
            vgg_side=None if own else VGG_SIDE,  # only VGG16 needs 224 pixels
            precision=precision,
        )


def sampled_epochs(epochs: int) -> list[int]:
    """Return the epochs of a training after which a slice is kept: most at the start, where images change most."""
    return sorted({round(epochs ** (k / (SAMPLED - 1))) for k in range(SAMPLED)})


def spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` positions, evenly spread, without the ends where there are more."""
    return np.arange(count) if count <= most else ((np.arange(most) + 0.5) * count / most).astype(int)


def fid_features(network: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from the Fréchet distance's uint8 images to vectors; Inception takes uint8 itself."""
    if network.name == "inception_fid":
        return network.embed
    return lambda images: network.embed(images.float() / 127.5 - 1)


def prepare_run(
    variant: Experiment,
    profile: Profile,
    workspace: Workspace,
    settings: TrainSettings,
    *,
    parent: TrainingRun | None = None,
    report: Report = print,
) -> Run:
    """Open dataset cache and split, and find the parent; every problem is raised here, before the first step.

    parent: the training to start from; None: see `find_parent`. Settings without a budget get the profile's minutes.
    """
    check(variant)
    if settings.steps is None and settings.minutes is None:
        _report_replaced(variant, profile, report)
        settings = dataclasses.replace(settings, minutes=profile.minutes)
    store = SliceStore(workspace.store)
    check_networks(variant, profile, store.size)
    split = load_split(workspace.split_file)
    for name, patients in (("training", split.train), ("validation", split.val), ("test", split.test)):
        if not patients and not (name == "validation" and split.kind.startswith(PREDECESSOR_KIND)):
            raise MrictError(f"{shown(workspace.split_file)}: no {name} patient; give each set at least one")
    if variant.init_from and parent is None:
        data = (store.key, split.hash)
        parent = find_parent(workspace, variant.name, variant.init_from, data, settings.seed, report)
    run = Run(variant, profile, workspace, settings, store, split, parent if variant.init_from else None)
    _check_view(run, report)
    if (slices := sum(dataset.slices for dataset in run.validation_sets())) < 2:
        raise MrictError(
            f"{shown(workspace.split_file)}: {slices} validation slice, expected at least 2; "
            "add patients, or move some to validation"
        )
    for patient in sorted({patient for patient, *_ in run.dataset.index}):
        store.slices(patient)
        store.check_unchanged(patient)
    return run


def _report_replaced(variant: Experiment, profile: Profile, report: Report) -> None:
    """Report batch and length that the user changed in an experiment, where the profile has its own."""
    if is_declared(variant.name) or not variant.parent:
        return
    changed, length = differing(get(variant.parent), variant), f"for {profile.length(variant)}"
    batch, epochs, timed = profile.batch(variant), profile.epochs(variant), bool(profile.minutes)
    rounds = f"in {epochs} round{'s' * (epochs != 1)}" if variant.steps and not timed else length
    own = {
        "data.batch_size": (variant.data.batch_size, batch, f"with batches of {batch}"),
        "epochs": (variant.epochs, None if timed else epochs, rounds),
        "steps": (variant.steps, None if timed else profile.steps_of(variant), length),
    }
    for path, (wanted, used, words) in own.items():
        if path in changed and wanted is not None and wanted != used:
            report(f"{variant.name}: {path} is {wanted}, but profile {profile.name} trains {words}")


def _check_view(run: Run, report: Report) -> None:
    """Raise MrictError for planes that the patients cannot give; report a slab of which no patient has neighbours."""
    view, counts, name = run.view, run.store.counts(), run.variant.name
    patients = sorted({*run.split.train, *run.split.val, *run.split.test})
    if view.planes:
        if run.store.protocol == "predecessor":
            raise MrictError(f"{name}: data.view.planes: protocol predecessor has only axial slices; leave planes out")
        single = [patient for patient in patients if counts[patient] == 1]
        if other := [patient for patient in single if run.store.plane(patient) not in view.planes]:
            raise MrictError(
                f"{name}: data.view.planes is {', '.join(view.planes)}, but of {some(other, NAMED)} there is only one "
                f"{run.store.plane(other[0])} slice; add its plane, or leave such patients out"
            )
        found = {plane for _, plane, _ in run.dataset.index}
        if missing := [plane for plane in view.planes if plane not in found]:
            raise MrictError(
                f"{name}: data.view.planes has {', '.join(missing)}, which no training patient gives: a single slice, "
                "or a patient cut short by max_pairs, has no other plane; leave it out, or add whole volumes"
            )
    if view.dimensions == 3:
        _check_volumes(run, patients, report)
    if view.radius and all(counts[patient] == 1 for patient in patients):
        report(f"{name}: every patient is a single slice, so its slab repeats it; view slice does the same, faster")


def _check_volumes(run: Run, patients: list[str], report: Report) -> None:
    """Raise MrictError if no training patient is a volume; report volumes that are smaller than a patch."""
    name, sides, counts = run.variant.name, run.view.sides(run.store.size), run.store.counts()
    if run.store.protocol == "predecessor":
        raise MrictError(f"{name}: data.view: protocol predecessor prepares slices one by one; choose view slice")
    if all(counts[patient] == 1 for patient in run.split.train):
        raise MrictError(
            f"{name}: data.view is patch3d, but every training patient is a single slice; choose view slice"
        )
    if thin := [patient for patient in patients if counts[patient] < sides[0]]:
        report(
            f"{name}: {some(thin, NAMED)} {'has' if len(thin) == 1 else 'have'} fewer slices than a patch, {sides[0]}: "
            "padded with background"
        )
    if run.store.size < max(sides[1:]):
        report(f"{name}: slices of {run.store.size} px are smaller than a patch: padded with background")


def start_from_parent(method: Method, run: Run) -> None:
    """Load the parent's last networks; the optimisers start fresh, as in every stage of the predecessor."""
    path = run.parent.last
    payload = load_checkpoint(path, expect_variant=run.variant.init_from)
    check_key(payload, run.parent.id, path)
    for name, network in method.networks.items():
        if name not in payload["networks"] and name in method.own_start:
            continue
        if name not in payload["networks"]:
            raise MrictError(
                f"{shown(path)}: holds {', '.join(payload['networks'])}, but {run.variant.name} needs {name}"
            )
        load_weights(network, payload["networks"][name], name, path)
    method.started()
