"""What the input image is, MR or cone-beam CT: its files, its words, and how its values are scaled.

Everything else is shared: the role `mr` of arrays, records and variables means the input, whatever it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrict_core.errors import MrictError, unknown_name
from mrict_core.hu import DISPLAY_WINDOWS_HU, SYNTHRAD2023, HuRange

if TYPE_CHECKING:
    import numpy as np

_IN_TEXT = re.compile(r"(?<![\w/\\.-])(?:\b([Aa])n )?MR(I?)(s?)\b(?![/\\_]|\.\w)")  # not in a path or file name


@dataclass(frozen=True)
class Modality:
    """A kind of input image."""

    name: str  # of its file, without the suffix
    word: str  # in text
    task: str  # SynthRAD's folder of such pairs
    number: str  # that SynthRAD's ids of 2023 begin with
    window: HuRange | None = None  # HU that become -1 and 1; None: percentiles of each volume, as MR has no unit

    @property
    def greys(self) -> tuple[float, float]:
        """The network's values that a figure shows black and white; of an input in HU those of the wide window."""
        low, high = self.window.to_unit(DISPLAY_WINDOWS_HU["wide"]) if self.window else (-1.0, 1.0)
        return float(low), float(high)

    def greyed(self, unit: np.ndarray) -> np.ndarray:
        """Return the network's values so that -1 and 1 are black and white: those of an MR unchanged."""
        if not self.window:
            return unit
        low, high = self.greys
        return ((unit - low) * (2 / (high - low)) - 1).clip(-1, 1)

    def words(self, text: str) -> str:
        """Return a text written for MR in this modality's words; names of files in it stay."""
        return text if self.word == "MR" else _IN_TEXT.sub(self._word, text)

    def _word(self, found: re.Match[str]) -> str:
        article = f"{found[1]} " if found[1] else ""
        return f"{article}{self.word}{found[3]}"


MR = Modality("mr", "MR", "Task1", "1")
CBCT = Modality("cbct", "CBCT", "Task2", "2", SYNTHRAD2023)  # HU by intention: the scale is kept, not fitted
MODALITIES = {modality.name: modality for modality in (MR, CBCT)}
CT_FILES = {"rigid": "ct", "deformed": "ct_def"}  # --ct => its file; the deformed CT of SynthRAD2025


def modality_named(name: str) -> Modality:
    """Return a modality by name. Raises MrictError for an unknown one."""
    if name not in MODALITIES:
        raise unknown_name("input", name, MODALITIES)
    return MODALITIES[name]


def check_input(modality: str, ct: str, protocol: str) -> None:
    """Raise MrictError for an unknown input or CT, and for protocol predecessor, which is defined on MR alone."""
    modality_named(modality)
    if ct not in CT_FILES:
        raise unknown_name("ct", ct, CT_FILES)
    if protocol == "predecessor" and modality != MR.name:
        raise MrictError(
            f"--input {modality} with --protocol predecessor: that protocol is of MR; expected protocol patient; leave "
            "--protocol out"
        )
