"""Experiments by name: declared, derived from one another, aliased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments.schema import Experiment, as_plain, flattened, with_values


class Registry:
    """All experiments in the order of their declaration, and their aliases."""

    def __init__(self) -> None:
        self._experiments: dict[str, Experiment] = {}
        self._aliases: dict[str, str] = {}

    def add(self, experiment: Experiment) -> Experiment:
        """Declare an experiment, after its parent and init_from."""
        if experiment.name in self:
            raise MrictError(f"experiment '{experiment.name}' is declared twice")
        for role in ("parent", "init_from"):
            other = getattr(experiment, role)
            if other is not None and other not in self._experiments:
                raise MrictError(f"experiment '{experiment.name}': {role} '{other}' must be declared above it")
        self._experiments[experiment.name] = experiment
        return experiment

    def derive(
        self, parent: str, name: str, changes: Mapping[str, Any], *, why: str, init_from: str | None = None
    ) -> Experiment:
        """Declare a child by its changes alone, by path. `init_from` is not inherited."""
        base = self.get(parent)
        present = dict(flattened(as_plain(base)))
        for path, value in changes.items():
            if path in present and present[path] == as_plain(value):
                raise MrictError(f"experiment '{name}': {path} does not differ from '{base.name}'; leave it out")
        own = {"name": name, "why": why, "parent": base.name, "init_from": init_from}
        return self.add(with_values(base, changes, f"experiment '{name}'", **own))

    def alias(self, name: str, target: str) -> None:
        """Make `name` an alias of the declared experiment `target`."""
        self._aliases[name] = self.get(target).name

    def get(self, name: str) -> Experiment:
        """Return an experiment by name or alias. Raises MrictError, with the nearest name, for an unknown one."""
        name = self._aliases.get(name, name)
        if name not in self._experiments:
            raise unknown_name("variant", name, [*self._experiments, *self._aliases])
        return self._experiments[name]

    def __contains__(self, name: str) -> bool:
        return name in self._experiments or name in self._aliases

    def all(self) -> list[Experiment]:
        """Return every experiment, in the order of declaration."""
        return list(self._experiments.values())

    def aliases(self) -> dict[str, str]:
        """Return {alias: name}."""
        return dict(self._aliases)
