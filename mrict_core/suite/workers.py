"""Processes that train and evaluate one variant after another, each of which imports torch once."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from mrict_core.errors import MrictError, starved
from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile
from mrict_core.machine import end_with_parent
from mrict_core.paths import Workspace, shown

Say = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """What a worker is asked to do. The variants travel themselves: a worker may not know a user's own by name."""

    chain: tuple[Experiment, ...]  # from the first ancestor to the variant itself
    profile: Profile
    space: Workspace
    settings: dict[str, Any]  # of TrainSettings, which is torch's side of the module
    retrain: bool

    @property
    def name(self) -> str:
        return self.chain[-1].name


class Worker:
    """One process and the pipe to it. Lines of progress come back, then None or the error that ended the training."""

    def __init__(self) -> None:
        resource_tracker.ensure_running()  # its start would let SIGINT through again
        self.connection, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=_serve, args=(theirs,))
        with theirs, _interrupts_blocked():  # inherited: Ctrl-C must not meet a process that still imports
            self.process.start()

    def train(self, training: Training, say: Say) -> BaseException | None:
        """Do one training; return the error it failed with, or None. MrictError where the process ends meanwhile."""
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
            raise MrictError(
                f"{name}: its process was ended from outside, often for lack of memory; free some, or run one training "
                "at a time with --jobs 1"
            ) from None

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


class Workers:
    """As many workers as there are trainings at a time; they end with the `with` block."""

    def __init__(self) -> None:
        self.idle: list[Worker] = []

    def __enter__(self) -> Workers:
        return self

    def train(self, training: Training, say: Say) -> None:
        """Do one training in an idle worker, or in a new one where all are busy.

        Raises MrictError where it fails or its process ends, KeyboardInterrupt where it is interrupted.
        """
        worker = self._take() or Worker()
        try:
            failure = worker.train(training, say)
        except BaseException:  # it has ended, or is still at work
            worker.end()
            raise
        self.idle.append(worker)
        if failure is not None:
            raise failure

    def end_idle(self) -> None:
        """End the workers that wait, which gives their memory back."""
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
    """Do the trainings that come through `connection` until its other end is closed."""
    os.setsid()  # Ctrl-C in a terminal goes to a whole group; the suite interrupts its workers once, itself
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            training = connection.recv()
            connection.send(_failure(training, connection.send))


def _failure(training: Training, say: Say) -> BaseException | None:
    """Train and evaluate; return what ended it, None where all is done."""
    try:
        from mrict_core.pipeline import TrainSettings, train_and_evaluate

        settings = TrainSettings(**training.settings)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        *ancestors, variant = training.chain
        train_and_evaluate(
            variant,
            training.profile,
            training.space,
            settings,
            ancestors=ancestors,
            retrain=training.retrain,
            report=say,
        )
    except KeyboardInterrupt:
        return KeyboardInterrupt()
    except MrictError as error:
        return MrictError(f"{training.name}: {error}")
    except Exception as error:
        said = " ".join(str(error).split()) or "no reason given"
        if starved(error):
            return MrictError(f"{training.name}: too little memory ({said[:120]}); free some, or use --jobs 1")
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{shown(place.filename)}, line {place.lineno}"
        return MrictError(f"{training.name}: failed with {type(error).__name__}: {said} ({where})")
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return None


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
