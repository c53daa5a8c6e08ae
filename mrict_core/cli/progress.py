"""Progress bars and lines of the command line."""

from __future__ import annotations

import sys
from typing import Any

from mrict_core.paths import printable


def say(line: str) -> None:
    """Print one whole line, made printable; steps may print at the same time."""
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


class Bar:
    """A tqdm bar as the `progress(done, total, name)` callback of the data and evaluation steps."""

    def __init__(self, title: str, unit: str = "patient") -> None:
        self.title, self.unit, self.bar = title, unit, None

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int, name: str) -> None:
        from tqdm import tqdm

        if self.bar is None or self.bar.total != total:
            self.__exit__()
            self.bar = tqdm(total=total, desc=self.title, unit=self.unit, dynamic_ncols=True)
        self.bar.set_postfix_str(printable(name))
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class Bytes:
    """One tqdm bar per step as a `progress(done, total, step)` callback that counts bytes."""

    def __init__(self) -> None:
        self.step, self.bar = "", None

    def __enter__(self) -> Bytes:
        return self

    def __call__(self, done: int, total: int, step: str) -> None:
        from tqdm import tqdm

        if self.bar is None or self.step != step:
            self.__exit__()
            # `initial`: bytes of a resumed download do not count as speed
            sizes = {"unit": "B", "unit_scale": True, "initial": done, "total": total}
            self.step, self.bar = step, tqdm(desc=step, dynamic_ncols=True, **sizes)
        self.bar.update(done - self.bar.n)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        from tqdm import tqdm

        tqdm.write(printable(line))

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def batches(each: Any, total: int, title: str) -> Any:
    """Wrap the training loop's batches in a bar."""
    from tqdm import tqdm

    return tqdm(each, total=total, desc=title, unit="batch", leave=False, dynamic_ncols=True)
