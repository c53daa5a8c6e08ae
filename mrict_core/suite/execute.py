"""Run steps in parallel in the order of their dependencies, and notebooks through papermill; end them cleanly."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from mrict_core.errors import Interrupted, MrictError
from mrict_core.files import atomic_path
from mrict_core.machine import terminate_as_interrupt
from mrict_core.paths import shown, work_root
from mrict_core.suite.plan import Step, as_papermill_path, notebook_file

KERNEL_ARGUMENTS = ["--log-level=50"]  # no messages about sockets

_stopping = threading.Event()  # set on Ctrl-C, which ends only the running cell: the next must not start


class _Stopped(Exception):
    """Raised in place of a cell that would start after Ctrl-C."""


def _unless_stopping(**_: object) -> None:
    if _stopping.is_set():
        raise _Stopped


def execute(step: Step, target: Path, **more: Any) -> None:
    """Execute a notebook with the step's parameters and `more`; write the copy to `target`, also after an error."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    failure = ""
    with atomic_path(target) as partial:
        try:
            papermill.execute_notebook(
                as_papermill_path(notebook_file(step.notebook)),
                as_papermill_path(partial),
                parameters=step.parameters | more,
                kernel_name="python3",
                cwd=str(work_root()),
                progress_bar=False,
                log_output=False,
                extra_arguments=KERNEL_ARGUMENTS,
                on_cell_start=_unless_stopping,
            )
        except _Stopped:
            raise KeyboardInterrupt from None
        except papermill.PapermillExecutionError as error:
            # While stopping, an interrupted call may raise another error.
            if error.ename in (KeyboardInterrupt.__name__, Interrupted.__name__) or _stopping.is_set():
                raise KeyboardInterrupt from None
            reason = error.evalue.strip().splitlines()[0] if error.evalue.strip() else ""
            failure = f"cell [{error.exec_count}] failed with {error.ename}: {reason}"
        except DeadKernelError:
            if _stopping.is_set():
                raise KeyboardInterrupt from None
            failure = "its process was killed, often for lack of memory; free some, or use --jobs 1"
    if failure:
        raise MrictError(f"{step.name}: {failure} (executed copy: {shown(target)})")


def run_in_order(steps: list[Step], run: Callable[[Step], None], jobs: int) -> None:
    """Call `run` on every step after those it needs, up to `jobs` at a time, longest chains and long steps first.

    After a failure no step is started; running ones finish, then it is raised. Ctrl-C (or SIGTERM) interrupts running
    steps, waits until they have cleaned up, and is raised.
    """
    length = chain_lengths(steps)
    waiting = sorted(steps, key=lambda step: (-length[step.name], not step.long))  # stable sort
    outstanding = {step.name for step in steps}
    running: dict[Future, Step] = {}
    failure: BaseException | None = None
    with terminate_as_interrupt(), ThreadPoolExecutor(jobs) as pool:
        try:
            while running or (waiting and failure is None):
                ready = [s for s in waiting if not outstanding.intersection(s.needs)] if failure is None else []
                for step in ready[: jobs - len(running)]:
                    waiting.remove(step)
                    running[pool.submit(run, step)] = step
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    outstanding.discard(running.pop(future).name)
                    failure = failure or future.exception()
        except KeyboardInterrupt:
            _stopping.set()
            _interrupt_children(lambda: all(future.done() for future in running))
            raise
        finally:
            _stopping.clear()
    if failure is not None:
        raise failure


def chain_lengths(steps: list[Step]) -> dict[str, int]:
    """Return for each step the length of the longest chain of steps that begins with it."""
    length = {step.name: 1 for step in steps}
    for step in reversed(steps):  # steps come after those they need
        for need in step.needs:
            if need in length:
                length[need] = max(length[need], length[step.name] + 1)
    return length


def remove_former(folder: Path, report: Callable[[str], None]) -> None:
    """Remove executed copies, with their stamps, of notebooks that do not exist any more; report each.

    Their numbers and results would be mistaken for today's.
    """
    for stamp in sorted(folder.glob("*.json")):
        copy = stamp.with_suffix(".ipynb")
        if copy.is_file() and not notebook_file(copy.stem).is_file():
            copy.unlink()
            stamp.unlink()
            report(f"{shown(copy)}: removed, it is of a notebook of an earlier version")


def _interrupt_children(finished: Callable[[], bool], patience_s: float = 20.0, again_s: float = 3.0) -> None:
    """Interrupt all child processes; kill those that do not stop in time."""
    import psutil

    until = time.monotonic() + patience_s
    while not finished():
        # Repeatedly: a kernel ignores the signal while no cell runs.
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGINT if time.monotonic() < until else signal.SIGKILL)
        next_time = time.monotonic() + again_s
        while not finished() and time.monotonic() < next_time:
            time.sleep(0.1)
