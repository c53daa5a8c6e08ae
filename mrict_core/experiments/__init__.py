"""Experiments: what one is (`schema`), how they are derived (`registry`), and all that are declared (`mk`)."""

from __future__ import annotations

from typing import Any

from mrict_core.errors import MrictError
from mrict_core.experiments.mk import README_VARIANTS, REGISTRY
from mrict_core.experiments.schema import Experiment, as_plain, deciding, from_plain, with_values

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
    "lineage",
    "select",
    "with_values",
]


def get(name: str) -> Experiment:
    """Return an experiment by name or alias; an unknown name is an error with the nearest one."""
    return REGISTRY.get(name)


def all_variants() -> list[Experiment]:
    """Return every experiment in the order of declaration: parents before children."""
    return REGISTRY.all()


def diff(name: str) -> dict[str, tuple[Any, Any]]:
    """Return {path: (parent's value, own value)} of what `name` changes; empty for the root."""
    return REGISTRY.diff(name)


def lineage(name: str) -> list[Experiment]:
    """Return the chain of weights, first ancestor first, `name` last."""
    return REGISTRY.lineage(name)


def select(text: str) -> list[Experiment]:
    """Return the experiments that `text` asks for and all whose weights they start from, parents before children.

    `text` is "readme", "all" or names separated by commas (sets and names may be mixed). Raises MrictError for a name
    that is neither, and when nothing is named.
    """
    sets = {"readme": README_VARIANTS, "all": tuple(v.name for v in all_variants())}
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise MrictError(f"no variant in '{text}': give readme, all, or names separated by commas")
    names = [name for word in words for name in sets.get(word, (word,))]
    wanted = {ancestor.name for name in names for ancestor in lineage(name)}
    return [variant for variant in all_variants() if variant.name in wanted]
