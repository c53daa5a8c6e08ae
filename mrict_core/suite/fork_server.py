"""`python -m mrict_core.suite.fork_server`: import once what notebooks import, then fork a kernel for every request.

Standard input is a socket. A request is one line of JSON, {"arguments", "environment", "folder"}; the answer is the
kernel's process number. The server ends when the other side closes. Started by `mrict_core.suite.kernels`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import warnings

PRELOADED = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "pandas",
    "safetensors.torch",
    "scipy.stats",
    "torch._dynamo",  # torch's optimisers import it when the first of them is made
    "torchvision",
    "mrict_core.pipeline",
    "mrict_core.reporting.figures",
    "mrict_core.reporting.notebook",
)


def preload() -> None:
    """Import PRELOADED. None of it may start a thread of Python's or touch a GPU: neither survives a fork."""
    # As ipykernel does, but before matplotlib is imported.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    suite = os.getppid()
    for name in PRELOADED:
        if os.getppid() != suite:
            sys.exit()  # killed meanwhile: nobody asks for a kernel any more
        __import__(name)
    gc.freeze()  # what is here now stays shared with every fork


def serve(channel: socket.socket) -> dict | None:
    """Fork for every request. Return the request in the new process, None in the server when there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    # The only other threads are OpenBLAS's, which it takes down before a fork and makes anew after it.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    with (
        channel.makefile("rw", encoding="utf-8") as lines,
        contextlib.suppress(ConnectionError),
    ):  # the suite was killed
        for line in lines:
            kernel = os.fork()
            if kernel == 0:
                return json.loads(line)
            lines.write(f"{kernel}\n")
            lines.flush()
    return None


def become_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Make of this process, just forked, what `python -m ipykernel_launcher *arguments` would be."""
    from ipykernel.kernelapp import launch_new_instance

    server = os.getppid()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # It ends when the process named here does. JPY_PARENT_PID would say the same, but has been read at the import.
    sys.argv = ["ipykernel_launcher", *arguments, f"--IPKernelApp.parent_handle={server}"]
    launch_new_instance()
    atexit._run_exitfuncs()
    os._exit(0)  # as multiprocessing's forks end: taking torch apart piece by piece takes seconds


def main() -> None:
    """Serve standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the suite, also while this still imports
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        preload()
    except (ImportError, MemoryError, OSError):  # too little memory: each notebook says so in its own line
        return
    with channel:
        request = serve(channel)
    if request:
        become_kernel(**request)


if __name__ == "__main__":
    main()
