"""Experiments: `schema`, derivation (`registry`), the declared ones (`mk`, `mk7`, …), a user's own (`user`).

A name is that of a declared experiment, of one from the user's file in this process, or of a trained or published one,
which is read from its files.
"""

from __future__ import annotations

from typing import Any

from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import mk7, mk8, mk9, papers, saved  # noqa: F401  (all but the last declare in mk's REGISTRY)
from mrict_core.experiments.flat import is_flat, upgraded
from mrict_core.experiments.mk import README_VARIANTS, REGISTRY
from mrict_core.experiments.schema import Experiment, as_plain, deciding, differing, from_plain, with_values

__all__ = [
    "README_VARIANTS",
    "REGISTRY",
    "Experiment",
    "all_variants",
    "as_plain",
    "deciding",
    "diff",
    "from_plain",
    "get",
    "is_declared",
    "lineage",
    "named",
    "parent_of",
    "read",
    "select",
    "users",
    "with_ancestors",
    "with_values",
]

OF_USER: dict[str, Experiment] = {}  # defined by the user in this process, see `user`


def get(name: str) -> Experiment:
    """Return an experiment by name or alias. Raises MrictError, with the nearest name, for an unknown one."""
    if is_declared(name):
        return REGISTRY.get(name)
    if name not in OF_USER:
        from mrict_core.experiments.user import load_named

        load_named()
    found = OF_USER.get(name) or saved.find(name)
    if found is None:
        known = {*(v.name for v in all_variants()), *REGISTRY.aliases(), *OF_USER, *saved.names()}
        raise unknown_name("variant", name, known)
    return found


def is_declared(name: str) -> bool:
    """Return whether a name or alias is that of a declared experiment."""
    return name in REGISTRY


def read(values: Any, where: str, inside: str = "") -> Experiment:
    """Return the experiment in a file of any version; see `from_plain` for arguments and errors."""
    return from_plain(Experiment, upgraded(values, where) if is_flat(values) else values, where, inside=inside)


def all_variants() -> list[Experiment]:
    """Return every declared experiment, parents before children."""
    return REGISTRY.all()


def users() -> list[Experiment]:
    """Return the user's experiments that were trained or published on this machine, by name."""
    found = (saved.find(name) for name in saved.names() if not is_declared(name))
    return [one for one in found if one is not None]


def diff(name: str | Experiment) -> dict[str, tuple[Any, Any]]:
    """Return {path: (parent's value, own value)} of an experiment's changes; empty if no parent is known."""
    experiment = _of(name)
    parent = parent_of(experiment)
    return differing(parent, experiment) if parent else {}


def parent_of(experiment: Experiment) -> Experiment | None:
    """Return an experiment's parent; None for a root, or if a user's parent was never trained."""
    try:
        return get(experiment.parent) if experiment.parent else None
    except MrictError:
        return None


def lineage(name: str | Experiment) -> list[Experiment]:
    """Return the chain of weights, first ancestor first, the experiment itself last."""
    chain = [_of(name)]
    while chain[0].init_from:
        chain.insert(0, get(chain[0].init_from))
    return chain


def _of(name: str | Experiment) -> Experiment:
    return name if isinstance(name, Experiment) else get(name)


def named(text: str) -> list[str]:
    """Return the names in `text`: any of "readme", "all" and names, separated by commas. An empty text is an error."""
    sets = {"readme": README_VARIANTS, "all": tuple(v.name for v in all_variants())}
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise MrictError(f"no variant in '{text}': give readme, all, or names separated by commas")
    return list(dict.fromkeys(name for word in words for name in sets.get(word, (word,))))


def with_ancestors(experiments: list[Experiment]) -> list[Experiment]:
    """Return experiments and those whose weights they start from, the declared ones first, in their order."""
    wanted = {one.name: one for experiment in experiments for one in lineage(experiment)}
    declared = [variant for variant in all_variants() if variant.name in wanted]
    return [*declared, *(one for one in wanted.values() if not is_declared(one.name))]


def select(text: str) -> list[Experiment]:
    """Return the experiments that `text` names (see `named`) and those whose weights they start from."""
    return with_ancestors([get(name) for name in named(text)])
