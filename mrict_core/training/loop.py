"""The training loop, one for all methods: epochs, validation, schedules, checkpoints, early stop, collapse guard."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mrict_core.methods import Method, build_method
from mrict_core.paths import Workspace, shown
from mrict_core.profiles import Profile
from mrict_core.runtime import (
    kept_memory,
    pick_device,
    pick_precision,
    seed_everything,
    set_threads,
    sole_writer,
    tune_gpu,
    versions,
    write_csv,
)
from mrict_core.training.checkpoint import (
    check_resumable,
    checkpoint_path,
    load_checkpoint,
    load_weights,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from mrict_core.training.run import Run, TrainSettings, prepare_run, start_from_parent
from mrict_core.training.schedules import ScheduleStepper, fid_vgg, schedule_score
from mrict_core.training.validation import Validator
from mrict_core.variant import Variant, as_dict

CONSTANT_SD_HU = 1.0  # an output that varies less than this over whole slices is a constant image
Report = Callable[[str], None]
Progress = Callable[[Iterable, int, str], Iterable]  # (batches, number of batches, description) => batches


@dataclass(frozen=True)
class TrainResult:
    """Where a training run ended."""

    variant: str
    history: pd.DataFrame  # one row per epoch
    best: Path
    last: Path
    epochs: int  # done
    complete: bool
    stopped: str  # why it ended before its last epoch; "" otherwise
    reused: bool  # True: an equal run was there already


@dataclass
class State:
    """What changes from epoch to epoch and is saved with every checkpoint."""

    method: Method
    steppers: dict[str, ScheduleStepper]
    generators: dict[str, torch.Generator]
    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stopped: str = ""


def train(
    variant: Variant,
    profile: Profile,
    workspace: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    report: Report = print,
    progress: Progress | None = None,
    stop_after: int | None = None,
    force: bool = False,
) -> TrainResult:
    """Train `variant`, or go on where an interrupted run stopped, or return at once when an equal run is complete.

    stop_after: end after this many epochs, to be resumed later. force: begin anew even when nothing changed.
    Writes `best.pt`, `last.pt` and `history.csv` into the variant's checkpoint folder.
    """
    set_threads(profile.threads)
    run = prepare_run(variant, profile, workspace, settings)
    with sole_writer(run.folder, f"trains {variant.name}"), kept_memory():
        return _train(run, report, progress, stop_after, force)


def _train(run: Run, report: Report, progress: Progress | None, stop_after: int | None, force: bool) -> TrainResult:
    variant, workspace, settings = run.variant, run.workspace, run.settings
    best, last = (checkpoint_path(workspace, variant.name, which) for which in ("best", "last"))
    whole = best.is_file() and last.is_file()
    saved = load_checkpoint(last, expect_variant=variant.name) if whole and not force else None
    if saved and saved["key"] != run.key:
        report(f"{variant.name}: code, data or settings changed since {shown(last)}; training again from the start")
        saved = None
    if saved and saved["complete"]:
        report(f"{variant.name}: unchanged, {saved['epoch']} epochs are there already ({shown(last)})")
        return _result(run, saved["history"], saved["epoch"], True, saved["stopped"], reused=True)
    validator = run.validator(pick_device(settings.device))  # missing weights must show before anything is overwritten
    state = _resume(run, saved) if saved else _start(run)
    if saved:
        report(f"{variant.name}: resuming after epoch {state.epoch} of {run.epochs}")
    target = min(run.epochs, stop_after or run.epochs)
    return _epochs(run, state, validator, target, report, progress)


def _epochs(
    run: Run, state: State, validator: Validator, target: int, report: Report, progress: Progress | None
) -> TrainResult:
    full, left = divmod(len(run.dataset), run.profile.batch(run.variant))
    batches = full + (left > 1)  # a last batch of one slice is dropped
    while state.epoch < target and not state.stopped:
        started = time.perf_counter()
        frozen_G = run.variant.generator_eval_after_first_validation and state.epoch > 0
        state.method.train(generators=not frozen_G)
        epoch_batches = run.batches(state.generators, state.method.paired)
        if progress:
            epoch_batches = progress(epoch_batches, batches, f"{run.variant.name} {state.epoch + 1}/{run.epochs}")
        row: dict[str, Any] = {"epoch": state.epoch + 1, **_learning_rates(state.method)}
        row |= _train_epoch(state.method, epoch_batches)
        collapse = _not_finite(row)
        if not collapse:
            row |= validator.scores(state.method.generator)
            collapse = _not_finite(row) or _constant(row)
        if collapse:
            return _collapse(run, state, f"collapsed in epoch {state.epoch + 1}: {collapse}", report)
        row["score"] = schedule_score(run.variant.score, row, state.epoch)
        state.method.end_epoch(row)
        state.steppers["G"].step(row["score"])
        state.steppers["D"].step(row["loss_d"])
        row["is_best"] = _is_best(run, state.history, row)
        row["seconds"] = time.perf_counter() - started
        state.history.append(row)
        state.epoch += 1
        state.stopped = _early_stop(run, state)
        _save(run, state, row["is_best"])
        report(_line(run, row))
    if state.stopped:
        report(f"{run.variant.name}: {state.stopped}")
    return _result(run, state.history, state.epoch, _complete(run, state), state.stopped)


def _start(run: Run) -> State:
    """Fresh networks (or the parent's), fresh optimisers, seeded; saved as epoch 0 for the collapse guard."""
    seed_everything(run.settings.seed)
    method = _build(run)
    if run.variant.init_from:
        start_from_parent(method, run.variant, run.workspace)
    state = State(method, _steppers(run.variant, method), _generators(run.settings.seed))
    _save(run, state, is_best=True)
    return state


def _resume(run: Run, saved: dict[str, Any]) -> State:
    """The saved networks, optimisers, schedules and random states; a device without a saved state is seeded."""
    seed_everything(run.settings.seed)
    path = checkpoint_path(run.workspace, run.variant.name, "last")
    check_resumable(saved, path)
    method = _build(run)
    state = State(method, _steppers(run.variant, method), _generators(run.settings.seed))
    for name, network in method.networks.items():
        load_weights(network, saved["networks"][name], name, path)
    for name, optimizer in method.optimizers.items():
        optimizer.load_state_dict(saved["optimizers"][name])
    for name, stepper in state.steppers.items():
        stepper.load_state_dict(saved["schedulers"][name])
    method.load_state(saved["method_state"])
    state.epoch, state.history, state.stopped = saved["epoch"], list(saved["history"]), saved["stopped"]
    restore_rng(saved["rng"], state.generators)
    return state


def _build(run: Run) -> Method:
    """The variant's networks and optimisers where, and in what precision, the settings say."""
    device = pick_device(run.settings.device)
    tune_gpu(device)
    method = build_method(run.variant, run.profile, device, pick_precision(run.settings.precision, device))
    if run.settings.compile:
        method.compile()
    return method


def _steppers(variant: Variant, method: Method) -> dict[str, ScheduleStepper]:
    schedules = {"G": variant.schedule, "D": variant.schedule_discriminator}
    return {name: ScheduleStepper(method.optimizers[name], schedule) for name, schedule in schedules.items()}


def _generators(seed: int) -> dict[str, torch.Generator]:
    return {name: torch.Generator().manual_seed(seed + k) for k, name in enumerate(("shuffle", "augment"))}


def _learning_rates(method: Method) -> dict[str, float]:
    names = {"G": "lr_generator", "D": "lr_discriminator"}
    return {names[name]: optimizer.param_groups[0]["lr"] for name, optimizer in method.optimizers.items()}


def _train_epoch(method: Method, batches: Iterable) -> dict[str, float]:
    """One pass over the data; return the mean of each loss term over the batches."""
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for real_A, real_B, _ in batches:
        terms = method.step(real_A, real_B)
        for name, value in terms.items():
            sums[name] = sums[name] + value if name in sums else value.clone()
        count += 1
    return {name: float(value) / count for name, value in sums.items()}


def _not_finite(row: dict[str, float]) -> str:
    bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return f"{', '.join(bad)} not finite" if bad else ""


def _constant(row: dict[str, float]) -> str:
    sd = row["output_sd_hu"]
    return f"constant output (SD {sd:.2f} HU over the validation slices)" if sd < CONSTANT_SD_HU else ""


def _is_best(run: Run, history: list[dict], row: dict) -> bool:
    measure = fid_vgg if run.variant.select_by == "fid_vgg" else lambda r: r["val_mae_hu"]
    return all(measure(row) < measure(earlier) for earlier in history)


def _early_stop(run: Run, state: State) -> str:
    patience = run.variant.early_stop_patience
    if patience is None:
        return ""
    scores = [fid_vgg(row) for row in state.history]
    since = len(scores) - 1 - scores.index(min(scores))
    return (
        f"stopped early after epoch {state.epoch}: no better 0.5 FID + 0.5 VGG for {since} epochs"
        if since >= patience
        else ""
    )


def _complete(run: Run, state: State) -> bool:
    return state.epoch >= run.epochs or bool(state.stopped)


def _save(run: Run, state: State, is_best: bool) -> None:
    """Write last.pt (all it takes to go on), history.csv, and best.pt (networks only) when this epoch is the best."""
    payload = {**_facts(run, state), "networks": {n: m.state_dict() for n, m in state.method.networks.items()}}
    resume = {
        "optimizers": {n: o.state_dict() for n, o in state.method.optimizers.items()},
        "schedulers": {n: s.state_dict() for n, s in state.steppers.items()},
        "method_state": state.method.state(),
        "rng": rng_state(state.generators),
    }
    if is_best:
        save_checkpoint(checkpoint_path(run.workspace, run.variant.name, "best"), payload)
    if state.history:
        write_csv(run.folder / "history.csv", pd.DataFrame(state.history))
    save_checkpoint(checkpoint_path(run.workspace, run.variant.name, "last"), payload | resume)


def _facts(run: Run, state: State) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    features = state.method.features
    return {
        "key": run.key,
        "variant": run.variant.name,
        "fields": as_dict(run.variant),
        "profile": dataclasses.asdict(run.profile),
        "seed": run.settings.seed,
        "precision": str(state.method.precision).removeprefix("torch."),
        "size": run.store.size,
        "protocol": run.store.protocol,
        "window_hu": [run.store.window.low, run.store.window.high],
        "store_key": run.store.key,
        "split_hash": run.split.hash,
        "parent": run.variant.init_from,
        "parent_hash": run.parent_hash,
        "features": {"name": features.name, "hash": features.weights_hash} if features is not None else None,
        "training_pairs": len(run.dataset),
        "fingerprint": run.fingerprint,
        "epoch": state.epoch,
        "epochs": run.epochs,
        "complete": _complete(run, state),
        "stopped": state.stopped,
        "history": state.history,
        "versions": versions(),
    }


def _collapse(run: Run, state: State, reason: str, report: Report) -> TrainResult:
    """Stop; the last good checkpoint stays, marked as final with the reason."""
    path = checkpoint_path(run.workspace, run.variant.name, "last")
    payload = load_checkpoint(path)
    payload |= {"complete": True, "stopped": reason}
    payload.pop("format")
    save_checkpoint(path, payload)
    report(f"{run.variant.name}: {reason}; stopped, the checkpoint of epoch {payload['epoch']} is kept")
    return _result(run, state.history, payload["epoch"], True, reason)


def _result(run: Run, history: list, epoch: int, complete: bool, stopped: str, reused: bool = False) -> TrainResult:
    best, last = (checkpoint_path(run.workspace, run.variant.name, which) for which in ("best", "last"))
    return TrainResult(run.variant.name, pd.DataFrame(history), best, last, epoch, complete, stopped, reused)


def _line(run: Run, row: dict) -> str:
    """One epoch as a line of text, without times, so that two equal runs print the same."""
    mark = " *" if row["is_best"] else ""
    return (
        f"{run.variant.name} epoch {row['epoch']}/{run.epochs}: "
        f"loss_G {row['loss_g']:.3f}  loss_D {row['loss_d']:.3f}  "
        f"validation MAE {row['val_mae_hu']:.1f} HU  SSIM {row['val_ssim']:.3f}{mark}"
    )
