"""Parts of an experiment, chosen by name with keyword arguments: one registry for each kind.

    @LOSSES.register("l1")
    def l1(out, batch, *, masked: bool = False) -> Tensor: ...

The arguments of the registered function or class are the options that an experiment may give: declared once, where
they are used. A class with further conditions has a static method `check_options(**options)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, TypeVar

from mrict_core.errors import MrictError, unknown_name

C = TypeVar("C", bound=Callable[..., Any])
KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
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
            return part

        return known

    def find(self, name: str) -> Callable[..., Any]:
        """Return a part. Raises MrictError, with the nearest name, for an unknown one."""
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


@cache
def arguments(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the keyword arguments of a function or class."""
    return {name: p for name, p in inspect.signature(part).parameters.items() if p.kind in KEYWORDS}


def _check_type(parameter: inspect.Parameter, value: Any, where: str) -> None:
    """Raise MrictError for a value of the wrong simple type; other types are left to the part."""
    wanted = getattr(parameter.annotation, "__name__", parameter.annotation)
    if wanted in SIMPLE and type(value) not in SIMPLE[wanted]:
        raise MrictError(f"{where} is {str(value)[:40]!r}, expected {wanted}")
