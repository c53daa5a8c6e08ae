"""Parts of an experiment, chosen by name with keyword arguments: one registry for each kind.

    @LOSSES.register("l1")
    def l1(out, batch, *, masked: bool = False) -> Tensor: ...

The arguments of the registered function or class are the options that an experiment may give: declared once, where
they are used. A class with further conditions has a static method `check_options(**options)`.

A user's own file may register parts too. Only files that the user names are run: on the command line, or in the
variable MRICT_EXPERIMENTS, through which worker processes and kernels run the same ones.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import runpy
import traceback
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mrict_core.errors import MrictError, unknown_name

C = TypeVar("C", bound=Callable[..., Any])
KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
USERS_FILES = "MRICT_EXPERIMENTS"  # variable: paths of a user's files, separated as in PATH
REGISTERED: set[str] = set()  # modules that registered a part; of a user's file its path
RAN: dict[str, str] = {}  # path of a .py file that this process ran => hash of its content
SIMPLE: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


class Parts(dict[str, Callable[..., Any]]):
    """Functions or classes of one kind by name.

    supplied: arguments that only the suite passes. offered: those it passes unless an experiment does.
    """

    def __init__(self, kind: str, supplied: Collection[str] = (), offered: Collection[str] = ()) -> None:
        super().__init__()
        self.kind, self.supplied, self.offered = kind, frozenset(supplied), frozenset(offered)

    def register(self, name: str) -> Callable[[C], C]:
        """Return a decorator that registers a part as `name`; a name registered in another file is refused."""

        def known(part: C) -> C:
            before = self[name].__module__ if name in self else part.__module__
            if before != part.__module__:
                raise MrictError(f"{self.kind} '{name}' is already registered in {before}; choose another name")
            self[name] = part
            REGISTERED.add(part.__module__)
            return part

        return known

    def find(self, name: str) -> Callable[..., Any]:
        """Return a part. Raises MrictError, with the nearest name, for an unknown one."""
        if name not in self:
            run_users_files()
        if name not in self:
            raise unknown_name(self.kind, name, self)
        return self[name]

    def check(self, name: str, options: Mapping[str, Any], where: str) -> None:
        """Raise MrictError for an unknown name, an unknown option, or a missing one.

        where: the path of the part in its experiment, "network.G".
        """
        try:
            part = self.find(name)
        except MrictError as error:
            raise MrictError(f"{where}: {error}") from None
        known = {k: p for k, p in arguments(part).items() if k not in self.supplied}
        for option, value in options.items():
            if option not in known:
                raise MrictError(f"{where}: {unknown_name(f'option of {name}', option, known)}")
            _check_type(known[option], value, f"{where}.{option}")
        needed = {k: p.annotation for k, p in known.items() if p.default is p.empty and k not in self.offered}
        if missing := next((option for option in needed if option not in options), ""):
            raise MrictError(f"{where}: {name} needs '{missing}' ({needed[missing]}); add {where}.{missing}")
        if hasattr(part, "check_options"):
            try:
                part.check_options(**options)
            except MrictError as error:
                raise MrictError(f"{where}: {error}") from None

    def build(self, name: str, options: Mapping[str, Any], **supplied: Any) -> Any:
        """Call the part with its options, and with those of `supplied` that it takes."""
        part = self.find(name)
        taken = {k: v for k, v in supplied.items() if k in arguments(part)}
        return part(**taken | dict(options))


def expect(name: str, value: Any, fits: bool, expected: str) -> None:
    """Raise MrictError unless the value of an option fits; for `check_options`."""
    if not fits:
        raise MrictError(f"{name} is {value}, expected {expected}")


def users_files() -> list[str]:
    """Return the paths of the user's files that this process and its children know."""
    return [path for path in os.environ.get(USERS_FILES, "").split(os.pathsep) if path]


def run_file(path: str) -> dict[str, Any]:
    """Run a user's .py file; return what it defines. Raises MrictError with the line that failed."""
    RAN[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]  # before it runs: it may ask for its own parts
    try:
        return runpy.run_path(path, run_name=path)  # so that a part's module is its file
    except MrictError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        said = " ".join(str(error).split())[:200]
        raise MrictError(f"line {lines[-1] if lines else 0}: {type(error).__name__}: {said}") from None


def run_users_files() -> None:
    """Run the user's .py files that this process did not run yet."""
    for path in users_files():
        if path.endswith(".py") and path not in RAN:
            try:
                run_file(path)
            except (MrictError, OSError) as error:
                raise MrictError(f"{path}: {error}") from None


def edited(versions: Mapping[str, Any]) -> bool:
    """Return whether a file that this process ran had other content when `versions` was written."""
    return any(versions.get(Path(path).name, digest) != digest for path, digest in RAN.items())


def missing_files(versions: Mapping[str, Any]) -> str:
    """Return the options that name the user's files in `versions` that this process did not run; "" for none."""
    ran = {Path(path).name for path in RAN}
    return " ".join(f"--experiment {name}" for name in versions if name.endswith(".py") and name not in ran)


@cache
def arguments(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the keyword arguments of a function or class."""
    return {name: p for name, p in inspect.signature(part).parameters.items() if p.kind in KEYWORDS}


def _check_type(parameter: inspect.Parameter, value: Any, where: str) -> None:
    """Raise MrictError for a value of the wrong simple type; other types are left to the part."""
    wanted = getattr(parameter.annotation, "__name__", parameter.annotation)
    if wanted in SIMPLE and type(value) not in SIMPLE[wanted]:
        raise MrictError(f"{where} is {str(value)[:40]!r}, expected {wanted}")
