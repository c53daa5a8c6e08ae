"""Kernels that begin with torch, matplotlib and the rest imported: forks of one process that did it once.

Starting Python, torch and the figures anew takes as long as a good part of a demo notebook's work
(`python -m benchmarks --only startup`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from mrict_core.paths import ROOT


def _can_fork() -> bool:
    """Elsewhere than on Linux a process that has loaded torch is not safely forked; the handle asks for Linux 5.3."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return sys.platform == "linux"


FORKS = _can_fork()


class ForkServer:
    """The process that `fork_server.py` describes, started when the first kernel is wanted."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # one request at a time
        self.process: subprocess.Popen | None = None

    def _start(self) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mrict_core.suite.fork_server"], cwd=ROOT, stdin=theirs, start_new_session=True
            )
        self.lines = self.channel.makefile("rw", encoding="utf-8")

    def fork(self, arguments: list[str], environment: dict[str, str], folder: str) -> int:
        """Return the process number of a new kernel; OSError where the server has ended."""
        with self.lock:
            if self.process is None:
                self._start()
            self.lines.write(json.dumps({"arguments": arguments, "environment": environment, "folder": folder}) + "\n")
            self.lines.flush()
            answer = self.lines.readline()
        if not answer:
            raise ConnectionError("the process that kernels are forked from has ended")
        return int(answer)

    def close(self) -> None:
        """End the server; a kernel that still runs ends with it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(OSError):  # what was written last and never read
                self.lines.close()
            self.channel.close()


class ForkedProcess:
    """What jupyter_client uses of a subprocess.Popen, for a process that is not this one's child."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.handle: int | None = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return None while it runs, then 0: its status is only known to the fork server."""
        return None if self.handle is not None and not select.select([self.handle], [], [], 0)[0] else 0

    def wait(self) -> int:
        """Wait for its end; the last call."""
        if self.handle is not None:
            select.select([self.handle], [], [])
            os.close(self.handle)
            self.handle = None
        return 0

    def send_signal(self, signum: int) -> None:
        if self.handle is not None:
            signal.pidfd_send_signal(self.handle, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkProvisioner(LocalProvisioner):
    """Starts a kernel by forking, or as jupyter_client does where the fork server has ended."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        """Start the kernel of `cmd`, `python -m ipykernel_launcher …`; return how to connect to it."""
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.cwd = kwargs.get("cwd") or os.getcwd()
        try:
            self.pid = self.parent.server.fork(arguments, kwargs["env"], self.cwd)
            self.process = ForkedProcess(self.pid)
        except OSError as error:
            self.log.warning("this notebook starts slowly: %s", error)
            return await super().launch_kernel(cmd, **kwargs)
        self.pgid = self.pid  # in a moment; until then a signal to the group fails and goes to the process
        return self.connection_info


class ForkKernelManager(AsyncKernelManager):
    """jupyter_client's manager for kernels of the above."""

    server: ForkServer

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.provisioner = ForkProvisioner(parent=self, kernel_spec=self.kernel_spec, kernel_id=self.kernel_id)


@contextlib.contextmanager
def kernel_managers() -> Iterator[type[AsyncKernelManager]]:
    """Give the class of kernel managers for the notebooks of one run; its fork server ends with the block."""
    if not FORKS:
        yield AsyncKernelManager
        return
    server = ForkServer()
    try:
        yield type("Kernels", (ForkKernelManager,), {"server": server})
    finally:
        server.close()
