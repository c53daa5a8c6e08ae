"""Progress inside an epoch: a bar where a person watches, a few plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Protocol, Self

from torch import Tensor

from mrict_core.machine import live_front_end

PARTS = 4  # of an epoch; a line after each but the last, which has the epoch's own
QUIET_S = 20.0  # between two lines, at least


class Epoch(Protocol):
    """One epoch as a context manager; `step` reports each batch."""

    def step(self, loss: Tensor) -> None: ...  # (): the generator's, read only where it is shown

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


Progress = Callable[[int, str], Epoch]  # (batches, title)


class Bar:
    """A bar of tqdm with the loss and the time left; a widget in JupyterLab."""

    def __init__(self, total: int, title: str) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=total, desc=title, unit="batch", leave=False, dynamic_ncols=True)

    def step(self, loss: Tensor) -> None:
        if self.bar.update():  # drawn, some ten times a second
            self.bar.set_postfix_str(f"loss {float(loss):.3f}", refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


class Lines:
    """A line of text after each quarter of a long epoch."""

    def __init__(self, total: int, title: str, report: Callable[[str], None] = print) -> None:
        self.total, self.title, self.report = total, title, report
        self.done, self.part = 0, 1
        self.started = self.said = time.monotonic()

    def step(self, loss: Tensor) -> None:
        self.done += 1
        if self.done * PARTS < self.part * self.total or self.done >= self.total:
            return
        self.part = self.done * PARTS // self.total + 1
        now = time.monotonic()
        if now - self.said >= QUIET_S:
            left = (now - self.started) / self.done * (self.total - self.done)
            batches = f"{self.done} of {self.total} batches"
            self.report(f"{self.title}: {batches}, loss {float(loss):.3f}, {_clock(left)} left in this epoch")
            self.said = now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Silent(contextlib.nullcontext):
    """Nothing: of a process whose progress another one shows."""

    def __init__(self, total: int, title: str) -> None:
        super().__init__(self)

    def step(self, loss: Tensor) -> None:
        pass


def automatic(total: int, title: str) -> Epoch:
    """Return a bar in a live notebook and in a terminal, lines under papermill and in pipes."""
    return Bar(total, title) if live_front_end() or sys.stderr.isatty() else Lines(total, title)


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
