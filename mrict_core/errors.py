"""Errors for the user: one line that says what came, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

STARVED = (  # words of Python, torch, ITK and the dynamic linker
    *("start new thread", "allocate memory", "out of memory", "not enough memory"),
    *("defaultcpuallocator", "failed to map segment"),
)
LISTED = {  # kinds with too many names for one line => what prints them
    "variant": "python -m mrict_core variants",
    "model": "python -m mrict_core models, python -m mrict_core variants",
}


class MrictError(Exception):
    """A problem the user can fix. The message is one line; the command line prints it without a traceback."""


class UnavailableError(MrictError):
    """A fault of the machine, not of the content: a file that vanished, EIO, too many open files, too little memory.

    It may pass, so its outcome is never stored, and no patient or case is refused for it.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a notebook's stop button, during long work. The message is one line: what is saved, what goes on."""

    def _render_traceback_(self) -> list[str]:  # IPython shows it instead of a traceback
        return [str(self)]


def starved(error: BaseException) -> bool:
    """Return whether the system had no memory or no thread left."""
    text = str(error).lower() if isinstance(error, (RuntimeError, ImportError)) else ""
    return isinstance(error, MemoryError) or any(words in text for words in STARVED)


def passing(error: BaseException) -> bool:
    """Return whether an error is a fault of the machine, not of the content read."""
    by_system = isinstance(error, OSError) and error.errno is not None  # decompressors raise OSError for bad bytes
    return by_system or starved(error) or isinstance(error, UnavailableError)


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> MrictError:
    """Return the error for a name that is not in `allowed`: at most three near ones, then all or what prints them."""
    allowed = sorted(allowed)
    near = [f"'{found}'" for found in difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    every = f"all names: {LISTED[kind]}" if kind in LISTED else f"allowed: {', '.join(allowed)}"
    return MrictError(f"unknown {kind} '{name}': {hint}{every}")
