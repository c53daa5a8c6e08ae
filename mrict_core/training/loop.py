"""The training loop, one for all methods: epochs, validation, schedules, checkpoints, early stop, collapse guard."""

from __future__ import annotations

import contextlib
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mrict_core import ranks
from mrict_core.errors import Interrupted, MrictError
from mrict_core.experiments import Experiment, as_plain
from mrict_core.experiments.profiles import Profile
from mrict_core.files import atomic_path, code_hash, read_json, sole_writer, write_csv, write_json
from mrict_core.hu import CONSTANT_SD_HU
from mrict_core.losses import Logs
from mrict_core.machine import pick_device, seed_everything, set_threads, versions
from mrict_core.methods import Method, own_code
from mrict_core.paths import Workspace, shown
from mrict_core.training.budget import expected, pace_of, steps_of_round
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
from mrict_core.training.distributed import apart, check_ranks, own_states, rank_states, settle, threads, together
from mrict_core.training.facts import ModelFacts
from mrict_core.training.progress import Progress, Silent, automatic
from mrict_core.training.run import Run, TrainSettings, prepare_run, sampled_epochs, start_from_parent
from mrict_core.training.runs import BEST, CODE, LAST, RESUME, RUN, Files, Report, TrainingRun, new_folder, read_run
from mrict_core.training.schedules import ScheduleStepper, fid_vgg, schedule_score, todays_columns
from mrict_core.training.tensorboard import EVERY, PICTURE, Log, has_log, open_log, steps_done

RUN_FORMAT = 1  # of run.json


@dataclass(frozen=True)
class TrainResult:
    """Where a training ended."""

    variant: str
    history: pd.DataFrame  # one row per epoch
    run: TrainingRun
    reused: bool  # an equal training existed

    @property
    def best(self) -> Path:
        return self.run.best

    @property
    def last(self) -> Path:
        return self.run.last

    @property
    def epochs(self) -> int:
        return self.run.epoch

    @property
    def complete(self) -> bool:
        return self.run.complete

    @property
    def stopped(self) -> str:
        return self.run.stopped


@dataclass(frozen=True)
class Target(Files):
    """The folder that a training writes to, and the id in all its files."""

    folder: Path
    id: str


def train(
    variant: Experiment,
    profile: Profile,
    workspace: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    report: Report = print,
    progress: Progress = automatic,
    stop_after: int | None = None,
    retrain: bool = False,
    parent: TrainingRun | None = None,
) -> TrainResult:
    """Train `variant`, resume an interrupted training, or return at once if an equal one is complete.

    stop_after: pause after this many epochs, to be resumed later. retrain: train in a new folder even if an equal
    training exists. parent: the training whose weights it starts from; None: see `find_parent`. Writes run.json, and
    after every epoch history.csv, last.pt and best.pt, to its own folder (see `training.runs`). Raises MrictError also
    if training collapses in its first epoch, and Interrupted on Ctrl-C. Of several ranks, the first decides, reports
    and writes.
    """
    if not ranks.current().first:
        report, progress = _nothing, Silent
    set_threads(threads(profile.threads))
    run = prepare_run(variant, profile, workspace, settings, parent=parent, report=report)
    check_ranks(run, report)
    found = ranks.of_first(lambda: None if retrain else run.found())
    if found and found.complete and not found.whole and found.epoch:
        report(f"{variant.name}: {shown(found.folder)} lacks {BEST} or {LAST}; retraining in a new folder")
        found = None
    if found and not found.todays:
        report(
            f"{variant.name}: {shown(found.folder)} was trained by another version of the code; "
            "--retrain trains again in a new folder"
        )
    if found and found.complete:
        if settings.tensorboard and not has_log(found.folder):
            report(f"{variant.name}: trained before, without a TensorBoard log; --retrain trains again, with one")
        return _unchanged(found, report)
    pace = pace_of(run)
    current = found and not found.old
    chosen = (found.folder, found.id) if current else None
    target = Target(*ranks.of_first(lambda: chosen or new_folder(run.place, settings.seed, run.id)))
    with _written(target, variant.name):
        now = ranks.of_first(lambda: read_run(target.folder) if (target.folder / RUN).is_file() else None)
        if now and now.complete:  # by another process in the meantime
            return _unchanged(now, report)
        if found and found.old:
            ranks.of_first(lambda: _adopt(found, target))
        try:
            training = Training(run, target, report, pace)
            training.start(_saved_for_all(run, target, report))
            if line := expected(run, pace, training.history):
                report(line)
            with contextlib.closing(training.log):
                return training.go(min(run.epochs, stop_after or run.epochs), progress)
        except KeyboardInterrupt:
            raise _interrupted(run, target) from None


class Training:
    """One training: its state, and the steps of an epoch."""

    def __init__(self, run: Run, target: Target, report: Report, pace: float = 0.0) -> None:
        self.run, self.target, self.report, self.pace = run, target, report, pace
        self.validator = run.validator(pick_device(run.settings.device))  # raises for missing weights
        self.record: dict[str, Any] = read_json(target.folder / RUN) if (target.folder / RUN).is_file() else {}
        seed_everything(run.settings.seed)
        self.method: Method = run.method()
        optimizers = run.variant.optimizer
        self.schedules = {r: ScheduleStepper(self.method.optimizers[r], optimizers[r].schedule) for r in optimizers}
        seeds = {"shuffle": run.settings.seed, "augment": run.settings.seed + 1}
        self.generators = {name: torch.Generator().manual_seed(seed) for name, seed in seeds.items()}
        self.history: list[dict[str, Any]] = []
        self.stopped = ""  # reason for ending before the last epoch
        self.others: dict[str, Any] = {}  # facts of another version
        self.log = Log()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def steps(self) -> int:
        """Steps of the optimiser in these epochs."""
        return steps_done(self.history, self.run.steps_per_epoch)

    @property
    def complete(self) -> bool:
        return self.epoch >= self.run.epochs or bool(self.stopped)

    def start(self, saved: dict[str, Any] | None) -> None:
        """Begin with fresh networks or the parent's, or resume what was saved, bit for bit."""
        if saved:
            self._resume(saved)
            self.report(f"{self.run.variant.name}: resuming after epoch {self.epoch} of {self.run.epochs}")
        elif self.run.parent:
            start_from_parent(self.method, self.run)
        if not saved:
            seed = self.run.settings.seed + 2
            for line in self.method.loss.fit(self.run.endless_pairs(seed), self.run.store.window, seed):
                self.report(f"{self.run.variant.name}: {line}")
            self.method.loss.spread()
            apart(self.run.settings.seed)
        self._write_record()
        if self.run.settings.tensorboard and ranks.current().first:
            self.log = open_log(self.target.folder, self.history, self.run.steps_per_epoch)

    def go(self, goal: int, progress: Progress) -> TrainResult:
        """Train up to epoch `goal`, an early stop or a collapse."""
        while self.epoch < goal and not self.stopped:
            started = time.perf_counter()
            row: dict[str, Any] = {"epoch": self.epoch + 1}
            row |= self._rates()
            steps = steps_of_round(self.run, self.history, self.pace)
            row |= self._train_epoch(progress, steps)
            if steps:
                row |= {"steps": steps, "train_seconds": time.perf_counter() - started}
            if ranks.current().count > 1:
                row["ranks"] = ranks.current().count
            row = ranks.of_first(lambda row=row: row)
            collapse = _not_finite(row)
            if not collapse:
                settle(self.method)
                row |= self.validator.scores(self.method)
                collapse = _not_finite(row) or _constant(row)
            if collapse:
                return self._collapse(f"collapsed in epoch {self.epoch + 1}: {collapse}")
            row["score"] = schedule_score(self.run.variant.score, row, self.epoch)
            self.method.end_epoch(row)
            for schedule in self.schedules.values():
                schedule.step(row)
            row["is_best"] = _is_best(self.run.variant.select_by, self.history, row)
            row["seconds"] = ranks.of_first(lambda started=started: time.perf_counter() - started)
            self.history.append(row)
            self.stopped = _early_stop(self.run.variant.early_stop_patience, self.history) or self._out_of_time()
            self._save(row["is_best"])
            self._log_round(row)
            self.report(self._line(row))
        if self.stopped:
            self.report(f"{self.run.variant.name}: {self.stopped}")
        return _result(self.target.folder, self.history)

    def _rates(self) -> dict[str, float]:
        """Return the learning rates by role."""
        return {f"lr_{role}": o.param_groups[0]["lr"] for role, o in self.method.optimizers.items()}

    def _log_step(self, logs: Logs, step: int) -> None:
        """Log every few steps; reading the losses waits for a GPU."""
        if self.run.settings.tensorboard and step % EVERY == 0:  # on every rank: the means are exchanged
            self.log.scalars("step", ranks.averages(logs) | self._rates(), step)

    def _log_round(self, row: dict[str, Any]) -> None:
        """Log a round's numbers and a picture of a validation slice."""
        if self.log.kept:
            self.log.scalars("round", row, self.steps)
            self.log.image(PICTURE, self.validator.picture(self.method), self.steps)
            self.log.flush()

    def _train_epoch(self, progress: Progress, steps: int | None) -> dict[str, float]:
        """Train on every batch once, or for so many steps; return the means of the logs."""
        together(self.method)
        self.method.begin_epoch(self.epoch)
        sums: dict[str, torch.Tensor] = {}
        count, total, before = 0, steps or self.run.steps_per_epoch, self.steps
        with progress(total, f"{self.run.variant.name} epoch {self.epoch + 1}/{self.run.epochs}") as meter:
            for batch in self.run.batches(self.generators, self.method.paired, steps):
                fraction = (self.epoch + count / total) / self.run.epochs
                self.method.follow(fraction)
                for schedule in self.schedules.values():
                    schedule.follow(self.method.within(fraction))
                logs = self.method.train_step(batch)
                for name, value in logs.items():
                    sums[name] = sums[name] + value if name in sums else value.clone()
                count += 1
                meter.step(logs["loss_g"])
                self._log_step(logs, before + count)
        return {name: float(value) / count for name, value in ranks.averages(sums).items()}

    def _resume(self, saved: dict[str, Any]) -> None:
        """Restore networks, optimisers, schedules and random states."""
        path, method = self.target.last, self.method
        self.others = ModelFacts.of_payload(saved, path).others
        for name, network in method.networks.items():
            load_weights(network, saved["networks"][name], name, path)
        for role, optimizer in method.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][role])
        for role, schedule in self.schedules.items():
            schedule.load_state_dict(saved["schedulers"][role])
        rng, state = own_states(saved, self.run.settings.seed)
        try:
            method.load_state(state)
        except MrictError as error:
            raise MrictError(f"{shown(path)}: {error}") from None
        self.history, self.stopped = [todays_columns(row) for row in saved["history"]], saved.get("stopped", "")
        restore_rng(rng, self.generators)

    def _save(self, is_best: bool) -> None:
        """Write history.csv, after some epochs a sample, last.pt (all that resuming needs), best.pt (networks) if this
        epoch is the best, run.json.

        In this order: if the process is killed in between, the rest is restored from last.pt.
        """
        method, random_states = self.method, rng_state(self.generators) | rank_states(self.method)
        if not ranks.current().first:
            return
        payload = self._facts().as_plain()
        payload["networks"] = {name: network.state_dict() for name, network in method.networks.items()}
        resume = {
            "optimizers": {role: optimizer.state_dict() for role, optimizer in method.optimizers.items()},
            "schedulers": {role: schedule.state_dict() for role, schedule in self.schedules.items()},
            "method_state": method.state(),
            "rng": random_states,
        }
        write_csv(self.target.history, pd.DataFrame(self.history))
        if self.epoch in sampled_epochs(self.run.epochs):
            with atomic_path(self.target.sample(self.epoch)) as path, open(path, "wb") as file:
                np.save(file, self.validator.sample(method))
        save_checkpoint(self.target.last, payload | resume)
        if is_best:
            save_checkpoint(self.target.best, payload)
        self._write_record()

    def _out_of_time(self) -> str:
        """Return the reason to stop before the last round if the budget in minutes is spent, or ""."""
        minutes, spent = self.run.settings.minutes, sum(row["seconds"] for row in self.history)
        if not minutes or spent < 60 * minutes or self.epoch == self.run.epochs:
            return ""
        validation = spent - sum(row["train_seconds"] for row in self.history)
        return (
            f"stopped after round {self.epoch} of {self.run.epochs}: its {minutes:g} minutes are spent, "
            f"{validation / spent:.0%} of them on validation"
        )

    def _facts(self) -> ModelFacts:
        """Return the facts for this epoch's checkpoints."""
        features = self.method.features
        return self.run.facts(
            key=self.target.id,
            precision=str(self.method.setup.precision).removeprefix("torch."),
            features={"name": features.name, "hash": features.weights_hash} if features is not None else None,
            epoch=self.epoch,
            complete=self.complete,
            stopped=self.stopped,
            history=list(self.history),
            code=code_hash(*CODE),
            versions=versions() | own_code(self.run.variant),
            others=self.others,
        )

    def _write_record(self) -> None:
        """Write run.json, with any values of another version kept."""
        if not ranks.current().first:
            return
        run, best = self.run, _best_epoch(self.history)
        now, code = datetime.now(UTC).isoformat(timespec="microseconds"), code_hash(*CODE)
        codes = self.record.get("code", [])
        self.record |= {
            "format": RUN_FORMAT,
            "variant": run.variant.name,
            "seed": run.settings.seed,
            "id": self.target.id,
            "experiment": run.experiment,
            "trained": run.trained,
            "fields": as_plain(run.variant),
            "profile": run.profile.name,
            "epoch": self.epoch,
            "epochs": run.epochs,
            "best_epoch": best,
            "val_mae_hu": self.history[best - 1]["val_mae_hu"] if best else None,
            "complete": self.complete,
            "stopped": self.stopped,
            "started": self.record.get("started") or now,
            "finished": now if self.complete else "",
            "seconds": round(sum(row["seconds"] for row in self.history), 3),
            "code": codes if codes[-1:] == [code] else [*codes, code],
            "versions": versions() | own_code(run.variant),
        }
        write_json(self.target.folder / RUN, self.record)

    def _collapse(self, reason: str) -> TrainResult:
        """Stop; the last good epoch's checkpoints become final, with the reason in run.json."""
        self.stopped = reason
        self._write_record()
        ranks.of_first(lambda: _refuse_collapsed(read_run(self.target.folder)))
        self.report(f"{self.run.variant.name}: {reason}; stopped, the checkpoint of epoch {self.epoch} is kept")
        return _result(self.target.folder, self.history)

    def _line(self, row: dict[str, Any]) -> str:
        """Return an epoch as a line of text, without times, so that equal runs print the same."""
        losses = "  ".join(f"loss_{x.upper()} {row[f'loss_{x}']:.3f}" for x in "gd" if f"loss_{x}" in row)
        return (
            f"{self.run.variant.name} epoch {row['epoch']}/{self.run.epochs}: {losses}  "
            f"validation MAE {row['val_mae_hu']:.1f} HU  SSIM {row['val_ssim']:.3f}{' *' if row['is_best'] else ''}"
        )


# -------------------------------------------------------------------------------------------------- existing trainings


def _unchanged(found: TrainingRun, report: Report) -> TrainResult:
    _refuse_collapsed(found)
    report(f"{found.variant}: unchanged, {found.epoch} epochs exist ({shown(found.last)})")
    return _result(found.folder, checkpoint_facts(found.last).get("history", []), reused=True)


def _refuse_collapsed(found: TrainingRun) -> None:
    if found.complete and not found.epoch:
        raise MrictError(
            f"{shown(found.folder)}: training {found.stopped}; there is no checkpoint; "
            "try another seed (--seed) or --retrain"
        )


def _result(folder: Path, history: list, reused: bool = False) -> TrainResult:
    run = ranks.of_first(lambda: read_run(folder))
    return TrainResult(run.variant, pd.DataFrame(history), run, reused)


def _interrupted(run: Run, target: Target) -> Interrupted:
    saved = checkpoint_facts(target.last)["epoch"] if target.last.is_file() else 0
    what = f"{saved} of {run.epochs} epochs are saved in {shown(target.folder)}" if saved else "no epoch is done yet"
    then = "goes on from there" if saved else "starts again"
    return Interrupted(f"{run.variant.name}: interrupted; {what}; the same command, or this cell run again, {then}")


def _adopt(old: TrainingRun, target: Target) -> None:
    """Copy the checkpoints of an unfinished training of an earlier version under the new id."""
    for source, path in ((old.best, target.best), (old.last, target.last)):
        payload = load_checkpoint(source, expect_variant=old.variant)
        payload.pop("format")
        save_checkpoint(path, payload | {"key": target.id})


def _nothing(line: str) -> None:
    """Report nothing."""


def _written(target: Target, name: str) -> AbstractContextManager:
    """Return a context with the sole right to write to a training's folder, for the rank that writes."""
    return sole_writer(target.folder, f"trains {name}") if ranks.current().first else contextlib.nullcontext()


def _saved_for_all(run: Run, target: Target, report: Report) -> dict[str, Any] | None:
    """Return what `_saved` does, on every rank."""
    saved: list[dict[str, Any] | None] = []

    def look() -> bool:
        saved.append(_saved(run, target, report))
        return saved[0] is not None

    if not ranks.of_first(look):
        return None
    return saved[0] if saved else load_checkpoint(target.last, expect_variant=run.variant.name)


def _saved(run: Run, target: Target, report: Report) -> dict[str, Any] | None:
    """Return last.pt to resume from, or None; best.pt is then of the best epoch.

    If a process was killed between writing last.pt and best.pt, best.pt is restored from last.pt.
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
    report(f"{run.variant.name}: {shown(target.best)} is not of the best epoch, {best}; training from the start")
    return None


# ---------------------------------------------------------------------------------------------- evaluation of an epoch


def _best_epoch(history: list[dict[str, Any]]) -> int:
    return max((row["epoch"] for row in history if row["is_best"]), default=0)


def _not_finite(row: dict[str, Any]) -> str:
    bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return f"{', '.join(bad)} not finite" if bad else ""


def _constant(row: dict[str, Any]) -> str:
    sd = row["output_sd_hu"]
    return f"constant output (SD {sd:.2f} HU over the validation slices)" if sd < CONSTANT_SD_HU else ""


def _is_best(select_by: str, history: list[dict[str, Any]], row: dict[str, Any]) -> bool:
    measure = fid_vgg if select_by == "fid_vgg" else lambda r: r["val_mae_hu"]
    if row.get("flow_share", 0) > 0:  # its latest flow: the error of one step judges no samples, see `methods.flow`
        return True
    return all(measure(row) < measure(earlier) for earlier in history)


def _early_stop(patience: int | None, history: list[dict[str, Any]]) -> str:
    """Return the reason to stop here, or ""."""
    if patience is None:
        return ""
    scores = [fid_vgg(row) for row in history]
    since = len(scores) - 1 - scores.index(min(scores))
    if since < patience:
        return ""
    return f"stopped early after epoch {len(history)}: no better 0.5 FID + 0.5 VGG for {since} epochs"
