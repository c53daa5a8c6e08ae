"""The machine: device, precision, threads, memory, seeds, versions. torch is imported only where it is needed."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import platform
import random
import re
import signal
import threading
from collections.abc import Iterator
from importlib import metadata
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from mrict_core.errors import MrictError, UnavailableError, unknown_name
from mrict_core.paths import INSTALLED

PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-image"),
    *("nibabel", "SimpleITK", "opencv-python", "pydicom"),
)
PRECISIONS = ("auto", "native", "float32", "bfloat16")


def require(module: str, extra: str) -> None:
    """Raise MrictError if an optional package is missing; extra: the one in pyproject.toml that installs it."""
    if importlib.util.find_spec(module) is None:
        raise MrictError(f"package {module} is not installed; expected it here; {to_install(extra)}")


def to_install(extra: str) -> str:
    """Return the command that installs the packages of an extra; MRICT itself is in no package index."""
    return f'pip install ".[{extra}]" in the checkout of MRICT' if INSTALLED else "pip install -r requirements.txt"


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pick_device(name: str = "auto") -> Any:
    """Return the torch device for `auto`, `cpu`, `cuda` or `cuda:N`."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise MrictError(f"device '{name}' is not known; allowed: auto, cpu, cuda, cuda:N")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise MrictError(f"device '{name}': this machine has no CUDA device; use --device cpu")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise MrictError(
            f"device '{name}': this machine has {torch.cuda.device_count()} CUDA device(s), numbered from 0"
        )
    return torch.device(name)


def pick_precision(name: str, device: Any) -> Any:
    """Return the torch dtype of the networks' passes on `device` for `auto`, `native`, `float32` or `bfloat16`.

    `native` is bfloat16 where the device computes it in hardware and float32 elsewhere; `auto` is the same on a GPU and
    float32 on a CPU, so that CPU results agree between machines. Weights, losses, optimisers and images are always
    float32.
    """
    import torch

    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if device.type == "cuda":
        fast = name in ("auto", "native") and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = name == "native" and native_bfloat16()
    return torch.bfloat16 if name == "bfloat16" or fast else torch.float32


def native_bfloat16() -> bool:
    """Return whether this CPU multiplies in bfloat16 (AVX-512 BF16 or AMX)."""
    import torch

    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def tune_gpu(device: Any) -> None:
    """Let a GPU use TF32 for float32, and choose its convolution algorithms by timing them once per shape."""
    import torch

    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def set_threads(count: int | None) -> int:
    """Set and return torch's number of threads, which bit-equal results depend on; None keeps torch's choice."""
    import torch

    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def free_memory() -> int:
    """Return the bytes that this process may still allocate: the least of machine, container and own limit."""
    import psutil

    found = [psutil.virtual_memory().available]
    with contextlib.suppress(OSError, ValueError, KeyError):  # no container, or "max"
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cache = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(cache["inactive_file"]))
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            found.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(found))


def check_memory(needed: int, name: str) -> None:
    """Raise `UnavailableError` if `needed` bytes for `name` are not available."""
    free = free_memory()
    if needed > free:
        raise UnavailableError(
            f"{name}: needs {needed / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free; "
            "close other programs, or use a machine with more"
        )


def check_open_files(needed: int) -> None:
    """Raise `UnavailableError` if this process may open fewer than `needed` files."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY and limit < needed:
            raise UnavailableError(
                f"{limit} open files are allowed (ulimit -n); expected at least {needed}; raise the limit and run again"
            )


def cpu_count() -> int:
    """Return the number of CPUs this process may use (on macOS: all)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this worker process as soon as its parent has ended, even by kill -9.

    Called in the worker, as the pool's initializer: without its parent it would wait for work for ever.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()  # returns when the operating system closes the parent's end of a pipe
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that a cancelled batch job leaves nothing half-written, and no process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Let Ctrl-C wait; processes started in the context inherit it until they allow it, so it spares their imports."""
    resource_tracker.ensure_running()  # starting it later would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def versions() -> dict[str, str]:
    """Return the versions that may affect results."""
    from mrict_core import __version__

    found = {"mrict_core": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def live_front_end() -> bool:
    """Return whether a person's notebook front end runs this cell: JupyterLab, Notebook or VS Code.

    They name the cell in the message that runs it; papermill, nbval and other clients without a screen do not.
    """
    import sys

    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    parent = getattr(shell, "get_parent", dict)()
    return "cellId" in parent.get("metadata", {})
