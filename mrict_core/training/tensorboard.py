"""A training's log for TensorBoard: scalars every few steps and every round, and a picture per round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "tensorboard"  # in the folder of a training
PACKAGE = "tensorboard"
EVERY = 10  # steps
PICTURE = "validation/MR, synthetic CT, CT"


class Log:
    """A log that keeps nothing, of a training without `--tensorboard`; the interface of a log."""

    kept = False

    def scalar(self, name: str, value: float, step: int) -> None:
        """Log a number after `step` steps of the optimiser."""

    def scalars(self, group: str, values: Mapping[str, Any], step: int) -> None:
        """Log the numbers of a row, and tensors of one number, as group/name."""
        for name, value in values.items():
            if not isinstance(value, str | bool | None):
                self.scalar(f"{group}/{name}", float(value), step)

    def image(self, name: str, grey: np.ndarray, step: int) -> None:
        """Log a grey picture.  # (H, W) uint8"""

    def flush(self) -> None:
        """Write what is buffered."""

    def close(self) -> None:
        """End the log."""


class TensorBoard(Log):
    """A log in a folder that `tensorboard --logdir` reads.

    done: steps before; what an interrupted training logged after them is dropped, for it is trained again.
    """

    kept = True

    def __init__(self, folder: Path, done: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def scalar(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(name, value, step)

    def image(self, name: str, grey: np.ndarray, step: int) -> None:
        self.writer.add_image(name, grey, step, dataformats="HW")

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def steps_done(history: Sequence[Mapping[str, Any]], steps_per_epoch: int) -> int:
    """Return the optimiser's steps in these epochs; a round of a budget has its own number."""
    return sum(int(row.get("steps") or steps_per_epoch) for row in history)


def has_log(folder: Path) -> bool:
    """Return whether a training has a log."""
    return (folder / FOLDER).is_dir()


def open_log(folder: Path, history: Sequence[Mapping[str, Any]], steps_per_epoch: int) -> Log:
    """Return the log of a training, continued after the rounds of its history.

    If the training began without a log, the numbers of those rounds are filled in.
    """
    began = has_log(folder)
    log = TensorBoard(folder / FOLDER, steps_done(history, steps_per_epoch) if began else 0)
    for k, row in enumerate(() if began else history, start=1):
        log.scalars("round", row, steps_done(history[:k], steps_per_epoch))
    return log
