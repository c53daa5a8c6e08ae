"""Python imports this at every start where its folder is in PYTHONPATH: renames are noted, and at one of them it dies.

FAULT_ROOT: targets are noted relative to it, in FAULT_LOG. FAULT_AT: the target at whose first rename the process ends,
as by `kill -9`, before anything is renamed. Used by `benchmarks/faults.py`; processes that are forked or spawned
inherit it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any

ROOT, LOG, AT = (os.environ.get(name, "") for name in ("FAULT_ROOT", "FAULT_LOG", "FAULT_AT"))


def noted(rename: Callable[..., None]) -> Callable[..., None]:
    """Return `rename` that writes down its target first; random parts of temporary names are left out."""

    def call(source: Any, target: Any, **more: Any) -> None:
        path = os.path.abspath(os.fspath(target))
        if path.startswith(f"{ROOT}/"):
            name = re.sub(r"(\.(?:new|old)-)[^/]*", r"\1", os.path.relpath(path, ROOT))
            with open(LOG, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{name}\n")
            if name == AT:
                os.kill(os.getpid(), signal.SIGKILL)
        return rename(source, target, **more)

    return call


if ROOT:
    os.rename, os.replace = noted(os.rename), noted(os.replace)
