"""Processes of one training: started on this machine by `launch`, or by torchrun; made ranks by `joined`."""

from __future__ import annotations

import contextlib
import datetime
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from mrict_core import ranks
from mrict_core.errors import Interrupted, MrictError, starved
from mrict_core.machine import end_with_parent, interrupts_blocked, pick_device
from mrict_core.ranks import Ranks, among_others

WAIT = datetime.timedelta(minutes=30)  # for the other ranks, such as one that validates a larger patient
LOST_S = 2.0  # a rank that lost another one leaves it the first word
LEAVE_S = 10.0  # for interrupted ranks to end by themselves
UNUSED = "Expected to have finished reduction"  # torch's words
AGAIN = "the same command resumes after the last saved epoch"


def check_machine(count: int, device: str) -> None:
    """Raise MrictError unless this machine has a device for each of `count` processes; cpu serves any number."""
    if count < 1:
        raise MrictError(f"--gpus {count}: expected at least 1")
    if device.startswith("cuda:"):
        raise MrictError(f"--gpus {count} with --device {device}: expected cuda, auto or cpu; leave the number out")
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and have < count:
        raise MrictError(
            f"--gpus {count}: this machine has {have} CUDA devices; use --gpus {max(have, 1)}, "
            "or --device cpu for as many processes on the CPU"
        )


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Make this process one of the ranks, if it is one of several; yield the device that it is to use.

    Later ranks print nothing. Raises MrictError if another rank is lost.
    """
    if not among_others():
        yield device
        return
    place, local = _place(), int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = pick_device(device).type == "cuda"
    if on_gpu:
        check_machine(local + 1, device)
        torch.cuda.set_device(local)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=WAIT)
        with ranks.among(place), contextlib.ExitStack() as stack, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # a matter of speed
            if not place.first:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            yield f"cuda:{local}" if on_gpu else "cpu"
            distributed.barrier()
        distributed.destroy_process_group()
    except RuntimeError as error:
        if UNUSED in str(error):
            raise MrictError(
                "a weight of a trained network has no gradient; expected a loss that reaches all weights, for several "
                "processes; leave the unused part of the network out, or train with --gpus 1"
            ) from None
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise Lost(f"process {place.rank} of {place.count} lost another one ({_short(error)}); {AGAIN}") from None


class Lost(MrictError):
    """Another rank ended, or did not answer in time."""


def _place() -> Ranks:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), here)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[-80:]


def launch(count: int, target: Callable[..., None], *given: Any) -> None:
    """Run `target(*given)` in `count` processes of this machine, which form ranks where it calls `joined`.

    If one fails, all end, with the first one's error. target: of a module, with arguments that can be pickled.
    """
    with tempfile.TemporaryDirectory(prefix="mrict-") as folder:
        given = (count, free_port(), Path(folder), target, given)
        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells of each process it ends
        try:
            with interrupts_blocked():
                context = torch.multiprocessing.start_processes(_rank, given, count, join=False, start_method="spawn")
            while not context.join(grace_period=LOST_S):
                pass
        except torch.multiprocessing.ProcessExitedException as ended:
            _refuse(ended, count, Path(folder))
        except KeyboardInterrupt:
            _end(multiprocessing.active_children())
            said = _said(Path(folder), 0) or f"interrupted; {AGAIN}"
            raise Interrupted(said) from None


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def named(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the environment of one of `count` processes of this machine, as torchrun sets it."""
    place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _rank(rank: int, count: int, port: int, folder: Path, target: Callable[..., None], given: tuple[Any, ...]) -> None:
    """Be one of the processes of `launch`; the line on what ended it goes to a file for the parent."""
    end_with_parent()  # torch's own signal is set later, and a rank would wait for the others
    os.environ |= named(rank, count, port)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        target(*given)
    except KeyboardInterrupt as stop:
        _leave(folder, rank, str(stop), 130)
    except Lost as error:
        time.sleep(LOST_S)
        _leave(folder, rank, str(error), 1)
    except MrictError as error:
        _leave(folder, rank, str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not starved(error):
            raise
        _leave(folder, rank, f"process {rank}: too little memory ({_short(error)}); use a smaller batch", 1)


def _leave(folder: Path, rank: int, line: str, status: int) -> None:
    """End at once: a process group that lost a rank can hang when it is closed."""
    (folder / str(rank)).write_text(line, encoding="utf-8")
    os._exit(status)


def _said(folder: Path, rank: int) -> str:
    path = folder / str(rank)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _refuse(ended: torch.multiprocessing.ProcessExitedException, count: int, folder: Path) -> None:
    """Raise the error of the rank that ended first."""
    said = _said(folder, ended.error_index)
    if ended.exit_code == 130:
        raise Interrupted(said) from None
    how = f"was killed ({ended.signal_name}), often for lack of memory" if ended.signal_name else "ended"
    raise MrictError(said or f"process {ended.error_index} of {count} {how}; all were ended; {AGAIN}") from None


def _end(processes: list[Any]) -> None:
    """End interrupted processes, which a terminal has interrupted too."""
    for number, wait_s in ((None, 1.0), (signal.SIGINT, LEAVE_S), (signal.SIGKILL, LEAVE_S)):
        until = time.monotonic() + wait_s
        for process in processes:
            if number and process.is_alive():
                os.kill(process.pid, number)
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
