"""Progress bars and lines of the command line."""

from __future__ import annotations

import sys
from typing import Any, Self

from mrict_core.paths import printable


def say(line: str) -> None:
    """Print one whole line, made printable; steps may print at the same time."""
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


class Bar:
    """A tqdm bar as the `progress(done, total, name)` callback of the data and evaluation steps."""

    def __init__(self, title: str, unit: str = "patient") -> None:
        self.title, self.unit, self.bar = title, unit, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, total: int, name: str) -> None:
        if self.bar is None or self.bar.total != total:
            self._restart(desc=self.title, unit=self.unit, total=total)
        self.bar.set_postfix_str(printable(name))
        self.bar.update(done - self.bar.n)

    def _restart(self, **options: Any) -> None:
        from tqdm import tqdm

        self.__exit__()
        self.bar = tqdm(dynamic_ncols=True, **options)


class Bytes(Bar):
    """One tqdm bar per step as a `progress(done, total, step)` callback that counts bytes."""

    def __init__(self) -> None:
        super().__init__("", "B")

    def __call__(self, done: int, total: int, step: str) -> None:
        if self.bar is None or self.title != step:
            self.title = step  # `initial`: bytes of a resumed download do not count as speed
            self._restart(desc=step, unit=self.unit, unit_scale=True, initial=done, total=total)
        self.bar.update(done - self.bar.n)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        from tqdm import tqdm

        tqdm.write(printable(line))
