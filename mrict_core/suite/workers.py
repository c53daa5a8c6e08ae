"""Worker processes that train and evaluate one variant after another; each imports torch once."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from mrict_core.errors import MrictError, starved
from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile
from mrict_core.machine import end_with_parent, interrupts_blocked
from mrict_core.paths import Workspace, shown

Say = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """A worker's task, with the experiments themselves: a worker does not know a user's own by name."""

    chain: tuple[Experiment, ...]  # from the first ancestor to the variant itself
    profile: Profile
    space: Workspace
    settings: dict[str, Any]  # of TrainSettings, whose import would import torch
    retrain: bool

    @property
    def name(self) -> str:
        return self.chain[-1].name


class Worker:
    """One process and its pipe, which returns lines of progress, then None or the training's error."""

    def __init__(self) -> None:
        self.connection, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=_serve, args=(theirs,))
        with theirs, interrupts_blocked():
            self.process.start()

    def train(self, training: Training, say: Say) -> BaseException | None:
        """Run one training; return its error, or None. Raises MrictError if the process ends."""
        message = self._exchange(training.name, training)
        while isinstance(message, str):
            say(message)
            message = self._exchange(training.name)
        return message

    def _exchange(self, name: str, *sent: Training) -> Any:
        try:
            for training in sent:
                self.connection.send(training)
            return self.connection.recv()
        except (EOFError, ConnectionError):
            reason = "its process was killed, often for lack of memory; free some, or use --jobs 1"
            raise MrictError(f"{name}: {reason}") from None

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


class Workers:
    """A worker for each parallel training; all end with the `with` block."""

    def __init__(self) -> None:
        self.idle: list[Worker] = []

    def __enter__(self) -> Workers:
        return self

    def train(self, training: Training, say: Say) -> None:
        """Run one training in an idle or new worker.

        Raises MrictError if it fails or its process ends, KeyboardInterrupt if it is interrupted.
        """
        worker = self._take() or Worker()
        try:
            failure = worker.train(training, say)
        except BaseException:  # ended, or still busy
            worker.end()
            raise
        self.idle.append(worker)
        if failure is not None:
            raise failure

    def end_idle(self) -> None:
        """End idle workers, to free their memory."""
        while worker := self._take():
            worker.end()

    def __exit__(self, *_: object) -> None:
        self.end_idle()

    def _take(self) -> Worker | None:
        with contextlib.suppress(IndexError):
            return self.idle.pop()
        return None


# ------------------------------------------------------------------------------------------------ in the worker process


def _serve(connection: Connection) -> None:
    """Run the trainings received from `connection` until its other end is closed."""
    os.setsid()  # Ctrl-C in a terminal reaches the whole group; the suite interrupts its workers itself
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            training = connection.recv()
            connection.send(_failure(training, connection.send))


def _failure(training: Training, say: Say) -> BaseException | None:
    """Train and evaluate; return the error that ended it, or None."""
    try:
        from mrict_core.pipeline import TrainSettings, train_and_evaluate
        from mrict_core.training.progress import Lines

        settings = TrainSettings(**training.settings)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        *ancestors, variant = training.chain
        how = {"ancestors": ancestors, "retrain": training.retrain, "report": say}
        how["progress"] = partial(Lines, report=say)
        train_and_evaluate(variant, training.profile, training.space, settings, **how)
    except KeyboardInterrupt:
        return KeyboardInterrupt()
    except MrictError as error:
        return MrictError(f"{training.name}: {error}")
    except Exception as error:
        text = " ".join(str(error).split()) or "no reason given"
        if starved(error):
            return MrictError(f"{training.name}: too little memory ({text[:120]}); free some, or use --jobs 1")
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{shown(place.filename)}, line {place.lineno}"
        return MrictError(f"{training.name}: failed with {type(error).__name__}: {text} ({where})")
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return None
