"""What the publisher of a model says of it: licence of the weights, citation, label, command."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments.schema import from_plain
from mrict_core.files import available
from mrict_core.paths import shown


@dataclass(frozen=True)
class About:
    """Statements on a published model, part of its hash; "" where nothing is said."""

    label: str = ""  # shown wherever the model is
    licence: str = ""  # of the weights, apart from the code's
    citation: str = ""
    command: str = ""  # that made it

    def as_plain(self) -> dict[str, str]:
        """Return what is said as plain values."""
        return {name: text for name, text in dataclasses.asdict(self).items() if text}


def about_of(description: Any) -> About:
    """Return the statements in the content of a model.json, of any version."""
    return from_plain(About, description.get("about", {}), "about")


def read_about(path: Path) -> About:
    """Return the statements of a yaml file with the fields of `About`.

    `data_set`, such as synthrad2023-task1, stands for the licence and the citation of that data set. Raises MrictError
    for an unreadable file, an unknown field, a value that is not text, and a licence or citation given twice.
    """
    try:
        with available(path):
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split())[:120]
        raise MrictError(f"{shown(path)}: not yaml ({cause}); expected a text per field; correct it") from None
    if not isinstance(values, dict):
        raise MrictError(f"{shown(path)}: no named values; expected label, licence, citation, command or data_set")
    if name := str(values.pop("data_set", None) or ""):
        if twice := [key for key in ("licence", "citation") if key in values]:
            raise MrictError(f"{shown(path)}: {twice[0]} and data_set are both given; expected one; remove {twice[0]}")
        from mrict_core.data.fetch.synthrad2023 import DATA_SETS

        if name not in DATA_SETS:
            raise MrictError(f"{shown(path)}: {unknown_name('data set', name, DATA_SETS)}")
        values |= {"licence": DATA_SETS[name].licence, "citation": DATA_SETS[name].citation}
    return from_plain(About, values, shown(path), strict=True)
