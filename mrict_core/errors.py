"""Errors meant for the user: one line that says what came, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MrictError(Exception):
    """A problem the user can fix. The message is one line; the command line prints it without a traceback."""


class UnavailableError(MrictError):
    """A fault that says nothing about the content: a file that vanished, EIO, too many open files, too little memory.

    It may be gone at the next try, so no result of it is ever remembered, and no patient or case is refused for it.
    """


def passing(error: BaseException) -> bool:
    """True for a fault of the machine, which says nothing about the content of what was read."""
    no_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    return no_thread or isinstance(error, (UnavailableError, OSError, MemoryError))


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> MrictError:
    """Return the error for a name that is not in `allowed`, with the nearest one as a suggestion."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return MrictError(f"unknown {kind} '{name}': {hint}allowed: {', '.join(allowed)}")
