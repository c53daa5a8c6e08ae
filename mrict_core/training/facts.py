"""The facts of a trained network, the same in a checkpoint and in a published model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrict_core.data.images.orders import PLANES
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import Experiment, as_plain, from_plain
from mrict_core.experiments import read as read_experiment
from mrict_core.experiments.profiles import Profile
from mrict_core.hu import WINDOWS, HuRange
from mrict_core.modalities import MODALITIES, MR, Modality, modality_named
from mrict_core.paths import shown
from mrict_core.training.runs import TENSORS

KEYS = {"experiment": "fields", "experiment_hash": "experiment"}  # attribute => key in files, if different
WIDTHS, SIZES = (1, 1024), (16, 8192)
WINDOW_HU = 100_000


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts in a checkpoint or published model. A default is the meaning of a missing key."""

    key: str  # id of the training
    variant: str  # name of the experiment
    experiment: Experiment
    profile: Profile
    size: int  # of the canvas, pixels
    protocol: str
    window_hu: list[float]  # of the network's [-1, 1]
    epoch: int | None  # of these weights; None: unknown
    experiment_hash: str = ""  # of `trained` without the seed
    trained: dict[str, Any] = field(default_factory=dict)  # hashed into the id
    seed: int | None = None
    precision: str = "float32"
    store_key: str = ""
    split_hash: str = ""
    parent: str | None = None  # experiment whose weights it started from
    parent_hash: str | None = None  # id of that training
    features: dict[str, Any] | None = None  # name and hash of the network behind the perceptual term
    training_pairs: int = 0
    fingerprint: dict[str, Any] | None = None  # of the training images, see `data.fingerprint`
    plane: str = "axial"
    planes: list[str] = field(default_factory=list)  # of the training slices, if not `plane` alone
    epochs: int = 0  # of the training
    complete: bool = False
    stopped: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)  # a row per epoch
    code: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)  # of an import: role => sha256 of the file
    calibration: dict[str, float] = field(default_factory=dict)  # class of HU => factor of the SD of samples
    others: dict[str, Any] = field(default_factory=dict)  # facts of another version, kept on rewriting

    @property
    def all_planes(self) -> list[str]:
        """Planes that the network was trained on."""
        return self.planes or [self.plane]

    @property
    def region(self) -> str:
        """The region of the training data, "" if it is not recorded."""
        return str((self.fingerprint or {}).get("region", ""))

    @property
    def modality(self) -> Modality:
        """What it was trained to read; recorded with the fingerprint unless MR."""
        return modality_named((self.fingerprint or {}).get("modality", MR.name))

    @property
    def window(self) -> HuRange:
        """HU range of the network's [-1, 1]."""
        return HuRange(*self.window_hu)

    def as_plain(self) -> dict[str, Any]:
        """Return everything as plain values under the keys of files."""
        own = {KEYS.get(name, name): as_plain(getattr(self, name)) for name in NAMES}
        if not self.calibration:  # so that a model without one keeps its hash
            own.pop("calibration")
        return {**self.others, **own}

    @classmethod
    def from_plain(cls, values: Any, where: str) -> ModelFacts:
        """Return the facts in a file of any version.

        Raises MrictError, with `where` and the key, for a missing key without default and a value of the wrong type.
        """
        if not isinstance(values, Mapping):
            raise MrictError(f"{where}: is {type(values).__name__}, expected named values")
        keys = {name: KEYS.get(name, name) for name in NAMES}
        found = {name: values[key] for name, key in keys.items() if key in values}
        if "experiment" in found:
            found["experiment"] = as_plain(read_experiment(found["experiment"], where, "fields."))
        others = {key: value for key, value in values.items() if key not in {*keys.values(), "format", *TENSORS}}
        return dataclasses.replace(from_plain(cls, found, where), others=others)

    @classmethod
    def of_payload(cls, payload: Mapping[str, Any], path: Path) -> ModelFacts:
        """Return the facts in a checkpoint's content."""
        try:
            return cls.from_plain(payload, shown(path))
        except MrictError as error:
            raise MrictError(f"{error}; train the variant again") from None

    def check(self) -> None:
        """Raise MrictError, with the fact's name, for an impossible value."""
        planes = [("plane", plane, PLANES) for plane in self.all_planes]
        reads = (self.fingerprint or {}).get("modality", MR.name)
        for kind, name, known in (("modality", reads, MODALITIES), ("protocol", self.protocol, WINDOWS), *planes):
            if name not in known:
                raise unknown_name(kind, name[:40], known)
        if self.epoch == 0:
            raise MrictError("epoch is 0, expected a trained network")
        for name, value, (low, high) in (("width", self.profile.width, WIDTHS), ("size", self.size, SIZES)):
            if not low <= value <= high:
                raise MrictError(f"{name} is {str(value)[:40]}, expected a whole number from {low} to {high}")
        window = self.window_hu
        if not all(type(edge) in (int, float) for edge in window) or len(window) != 2:
            raise MrictError(f"window_hu is {str(window)[:40]}, expected two numbers")
        if not -WINDOW_HU <= window[0] < window[1] <= WINDOW_HU:
            raise MrictError(f"window_hu is {str(window)[:40]}, expected two rising numbers within ±{WINDOW_HU} HU")


NAMES = tuple(f.name for f in dataclasses.fields(ModelFacts) if f.name != "others")
