"""The training loop, one for all methods: epochs, validation, schedules, checkpoints, early stop, collapse guard."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment, as_plain
from mrict_core.experiments.profiles import Profile
from mrict_core.legacy.flat_view import flat
from mrict_core.methods import Method, build_method
from mrict_core.paths import Workspace, shown
from mrict_core.runtime import (
    code_hash,
    kept_memory,
    pick_device,
    pick_precision,
    read_json,
    seed_everything,
    set_threads,
    sole_writer,
    tune_gpu,
    versions,
    write_csv,
    write_json,
)
from mrict_core.training.checkpoint import (
    check_key,
    check_resumable,
    checkpoint_facts,
    load_checkpoint,
    load_weights,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from mrict_core.training.facts import ModelFacts
from mrict_core.training.run import Run, TrainSettings, prepare_run, start_from_parent
from mrict_core.training.runs import (
    BEST,
    CODE,
    LAST,
    RESUME,
    RUN,
    Files,
    Report,
    TrainingRun,
    new_folder,
    read_run,
)
from mrict_core.training.schedules import ScheduleStepper, fid_vgg, schedule_score
from mrict_core.training.validation import Validator

RUN_FORMAT = 1  # of run.json
SLOW_WIDTH = 32  # from here on an epoch on a CPU takes so long that it is said beforehand
CONSTANT_SD_HU = 1.0  # an output that varies less than this over whole slices is a constant image
Progress = Callable[[Iterable, int, str], Iterable]  # (batches, number of batches, description) => batches


@dataclass(frozen=True)
class TrainResult:
    """Where a training ended."""

    variant: str
    history: pd.DataFrame  # one row per epoch
    run: TrainingRun
    reused: bool  # True: an equal training was there already

    @property
    def best(self) -> Path:
        return self.run.best

    @property
    def last(self) -> Path:
        return self.run.last

    @property
    def epochs(self) -> int:
        """Done."""
        return self.run.epoch

    @property
    def complete(self) -> bool:
        return self.run.complete

    @property
    def stopped(self) -> str:
        """Why it ended before its last epoch; "" otherwise."""
        return self.run.stopped


@dataclass
class State:
    """What changes from epoch to epoch and is saved with every checkpoint."""

    method: Method
    steppers: dict[str, ScheduleStepper]
    generators: dict[str, torch.Generator]
    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stopped: str = ""
    others: dict[str, Any] = dataclasses.field(default_factory=dict)  # facts that another version wrote


@dataclass(frozen=True)
class Target(Files):
    """The folder that a training writes into, and the id that all its files carry."""

    folder: Path
    id: str
    record: dict[str, Any]  # of run.json as it was found; {} for a new training


def train(
    variant: Experiment,
    profile: Profile,
    workspace: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    report: Report = print,
    progress: Progress | None = None,
    stop_after: int | None = None,
    retrain: bool = False,
    parent: TrainingRun | None = None,
) -> TrainResult:
    """Train `variant`, or go on where an interrupted training stopped, or return at once when an equal one is complete.

    stop_after: end after this many epochs, to be resumed later. retrain: make a new training beside what is there.
    parent: the training whose weights it starts from; None: see `find_parent`. Writes run.json, and after every epoch
    best.pt, history.csv and last.pt, into a folder of its own (see `training.runs`); no other training is touched.
    Raises MrictError also where training collapses in its first epoch: nothing was learned then.
    """
    set_threads(profile.threads)
    run = prepare_run(variant, profile, workspace, settings, parent=parent, report=report)
    found = None if retrain else run.found()
    if found and found.complete and not found.whole and found.epoch:
        report(f"{variant.name}: {shown(found.folder)} lacks {BEST} or {LAST}; training again beside it")
        found = None
    if found:
        _say_code(found, report)
    if found and found.complete:
        return _unchanged(found, report)
    if found and not found.old:
        folder, identity = found.folder, found.id
    else:
        folder, identity = new_folder(run.place, settings.seed, run.id)
    with sole_writer(folder, f"trains {variant.name}"), kept_memory():
        now = read_run(folder) if (folder / RUN).is_file() else None
        if now and now.complete:  # by another process, since it was looked for
            return _unchanged(now, report)
        target = Target(folder, identity, read_json(folder / RUN) if now else {})
        return _train(run, target, found if found and found.old else None, report, progress, stop_after)


def _say_code(found: TrainingRun, report: Report) -> None:
    if not found.todays:
        report(
            f"{found.variant}: {shown(found.folder)} was made by another version of the code; "
            "--retrain makes a new one beside it"
        )


def _unchanged(found: TrainingRun, report: Report) -> TrainResult:
    _refuse_collapsed(found)
    report(f"{found.variant}: unchanged, {found.epoch} epochs are there already ({shown(found.last)})")
    return _result(found.folder, checkpoint_facts(found.last)["history"], reused=True)


def _refuse_collapsed(found: TrainingRun) -> None:
    if found.complete and not found.epoch:
        raise MrictError(
            f"{shown(found.folder)}: training {found.stopped}; nothing was learned, so there is no checkpoint; "
            "try another seed (--seed) or --retrain"
        )


def _train(
    run: Run,
    target: Target,
    old: TrainingRun | None,
    report: Report,
    progress: Progress | None,
    stop_after: int | None,
) -> TrainResult:
    device = pick_device(run.settings.device)
    validator = run.validator(device)  # missing weights must show before anything is written
    if device.type == "cpu" and run.profile.width >= SLOW_WIDTH:
        report(duration_line(run, target.record.get("epoch", 0)))
    if old:
        _adopt(run, target, old)
    saved = _saved(run, target, report)
    state = _resume(run, saved, target.last) if saved else _start(run)
    if saved:
        report(f"{run.variant.name}: resuming after epoch {state.epoch} of {run.epochs}")
    target = dataclasses.replace(target, record=_write_record(run, target, state))
    return _epochs(run, target, state, validator, min(run.epochs, stop_after or run.epochs), report, progress)


def _saved(run: Run, target: Target, report: Report) -> dict[str, Any] | None:
    """Return last.pt, None where there is nothing to go on with; see that best.pt is of the best epoch up to there.

    Where a killed process came to write last.pt and not best.pt, the networks are in last.pt.
    """
    if not target.last.is_file():
        return None
    saved = load_checkpoint(target.last, expect_variant=run.variant.name)
    check_key(saved, target.id, target.last)
    check_resumable(saved, target.last)
    best = _best_epoch(saved["history"])
    have = checkpoint_facts(target.best) if target.best.is_file() else None
    if have and (have["key"], have["epoch"]) == (target.id, best):
        return saved
    if best == saved["epoch"]:
        save_checkpoint(target.best, {k: v for k, v in saved.items() if k not in (*RESUME, "format")})
        return saved
    report(f"{run.variant.name}: {shown(target.best)} is not of epoch {best}, the best; training from the start")
    return None


def _best_epoch(history: list[dict[str, Any]]) -> int:
    return max((row["epoch"] for row in history if row["is_best"]), default=0)


def _adopt(run: Run, target: Target, old: TrainingRun) -> None:
    """Copy the checkpoints of an unfinished training of an earlier version under the new id; the old ones stay."""
    for source, path in ((old.best, target.best), (old.last, target.last)):
        payload = load_checkpoint(source, expect_variant=run.variant.name)
        payload.pop("format")
        save_checkpoint(path, payload | {"key": target.id})


def _epochs(
    run: Run,
    target: Target,
    state: State,
    validator: Validator,
    goal: int,
    report: Report,
    progress: Progress | None,
) -> TrainResult:
    full, left = divmod(len(run.dataset), run.profile.batch(run.variant))
    batches = full + (left > 1)  # a last batch of one slice is dropped
    while state.epoch < goal and not state.stopped:
        started = time.perf_counter()
        frozen_G = flat(run.variant).generator_eval_after_first_validation and state.epoch > 0
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
            return _collapse(run, target, state, f"collapsed in epoch {state.epoch + 1}: {collapse}", report)
        row["score"] = schedule_score(run.variant.score, row, state.epoch)
        state.method.end_epoch(row)
        state.steppers["G"].step(row["score"])
        state.steppers["D"].step(row["loss_d"])
        row["is_best"] = _is_best(run, state.history, row)
        row["seconds"] = time.perf_counter() - started
        state.history.append(row)
        state.epoch += 1
        state.stopped = _early_stop(run, state)
        _save(run, target, state, row["is_best"])
        report(_line(run, row))
    if state.stopped:
        report(f"{run.variant.name}: {state.stopped}")
    return _result(target.folder, state.history)


def _start(run: Run) -> State:
    """Fresh networks (or the parent's), fresh optimisers, seeded. Nothing is saved before an epoch is done."""
    seed_everything(run.settings.seed)
    method = _build(run)
    if run.parent:
        start_from_parent(method, run)
    return State(method, _steppers(run.variant, method), _generators(run.settings.seed))


def _resume(run: Run, saved: dict[str, Any], path: Path) -> State:
    """The saved networks, optimisers, schedules and random states; a device without a saved state is seeded."""
    seed_everything(run.settings.seed)
    method = _build(run)
    state = State(method, _steppers(run.variant, method), _generators(run.settings.seed))
    state.others = ModelFacts.of_payload(saved, path).others
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


def duration_line(run: Run, done: int = 0) -> str:
    """Return what the epochs after `done` will take on this CPU, scaled from a step with two slices.

    Validation is not counted. Networks and random states of the training itself are made afterwards.
    """
    method = _build(run)
    method.train()
    size, batch = run.store.size, run.profile.batch(run.variant)
    images = torch.linspace(-1, 1, 2 * size * size).reshape(2, 1, size, size)
    seconds = 0.0
    for _ in range(2):  # the first one also fills memory, which matters little where it takes long
        started = time.perf_counter()
        if seconds < 1:
            method.step(images, images)
            seconds = (time.perf_counter() - started) * batch / 2
    epochs, steps = run.epochs - done, len(run.dataset) // batch
    hours = epochs * steps * seconds / 3600
    took = (
        f"{hours / 24:.0f} days" if hours > 72 else f"{hours:.0f} hours" if hours > 2 else f"{60 * hours:.0f} minutes"
    )
    return (
        f"{run.variant.name}: about {took} on this CPU ({epochs} epochs of {steps} steps, {seconds:.1f} s a step by a "
        "measurement with two slices, validation not counted); a GPU is far faster: --device cuda"
    )


def _build(run: Run) -> Method:
    """The variant's networks and optimisers where, and in what precision, the settings say."""
    device = pick_device(run.settings.device)
    tune_gpu(device)
    method = build_method(run.variant, run.profile, device, pick_precision(run.settings.precision, device))
    if run.settings.compile:
        method.compile()
    return method


def _steppers(variant: Experiment, method: Method) -> dict[str, ScheduleStepper]:
    schedules = {role: optimizer.schedule for role, optimizer in variant.optimizer.items()}
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


def _save(run: Run, target: Target, state: State, is_best: bool) -> None:
    """Write history.csv, last.pt (all it takes to go on), best.pt if this epoch is the best (networks alone), run.json.

    In this order: a killed process leaves the last epoch whole in last.pt, and what it did not come to write is made
    from that.
    """
    features = state.method.features
    facts = run.facts(
        key=target.id,
        precision=str(state.method.precision).removeprefix("torch."),
        features={"name": features.name, "hash": features.weights_hash} if features is not None else None,
        epoch=state.epoch,
        complete=_complete(run, state),
        stopped=state.stopped,
        history=list(state.history),
        code=code_hash(*CODE),
        versions=versions(),
        others=state.others,
    )
    payload = facts.as_plain()
    payload["networks"] = {n: m.state_dict() for n, m in state.method.networks.items()}
    resume = {
        "optimizers": {n: o.state_dict() for n, o in state.method.optimizers.items()},
        "schedulers": {n: s.state_dict() for n, s in state.steppers.items()},
        "method_state": state.method.state(),
        "rng": rng_state(state.generators),
    }
    write_csv(target.history, pd.DataFrame(state.history))
    save_checkpoint(target.last, payload | resume)
    if is_best:
        save_checkpoint(target.best, payload)
    _write_record(run, target, state)


def _write_record(run: Run, target: Target, state: State) -> dict[str, Any]:
    """Write run.json; return it. What another version wrote into it is kept."""
    best = _best_epoch(state.history)
    now, code = datetime.now(UTC).isoformat(timespec="microseconds"), code_hash(*CODE)
    codes = target.record.get("code", [])
    complete = _complete(run, state)
    record = target.record | {
        "format": RUN_FORMAT,
        "variant": run.variant.name,
        "seed": run.settings.seed,
        "id": target.id,
        "experiment": run.experiment,
        "trained": run.trained,
        "profile": run.profile.name,
        "epoch": state.epoch,
        "epochs": run.epochs,
        "best_epoch": best,
        "val_mae_hu": state.history[best - 1]["val_mae_hu"] if best else None,
        "complete": complete,
        "stopped": state.stopped,
        "fields": as_plain(run.variant),
        "started": target.record.get("started") or now,
        "finished": now if complete else "",
        "seconds": round(sum(row["seconds"] for row in state.history), 3),
        "code": codes if codes[-1:] == [code] else [*codes, code],
        "versions": versions(),
    }
    write_json(target.folder / RUN, record)
    return record


def _collapse(run: Run, target: Target, state: State, reason: str, report: Report) -> TrainResult:
    """Stop; the checkpoints of the last good epoch stay, and run.json says that they are final and why."""
    state.stopped = reason
    _write_record(run, target, state)
    _refuse_collapsed(read_run(target.folder))
    report(f"{run.variant.name}: {reason}; stopped, the checkpoint of epoch {state.epoch} is kept")
    return _result(target.folder, state.history)


def _result(folder: Path, history: list, reused: bool = False) -> TrainResult:
    run = read_run(folder)
    return TrainResult(run.variant, pd.DataFrame(history), run, reused)


def _line(run: Run, row: dict) -> str:
    """One epoch as a line of text, without times, so that two equal runs print the same."""
    mark = " *" if row["is_best"] else ""
    return (
        f"{run.variant.name} epoch {row['epoch']}/{run.epochs}: "
        f"loss_G {row['loss_g']:.3f}  loss_D {row['loss_d']:.3f}  "
        f"validation MAE {row['val_mae_hu']:.1f} HU  SSIM {row['val_ssim']:.3f}{mark}"
    )
