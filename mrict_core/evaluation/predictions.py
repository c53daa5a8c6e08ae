"""Synthetic CTs of a dataset cache's patients, as whole HU: made once, then read by scores, figures and the page.

A trained model's volumes are kept, one file a patient: `<patient>.npz` with `hu`, (N, S, S) int16, and `key`, which
names all that decides them. Compressed, a file takes about a third of the volume, for well under a second a patient,
and its check sums show damage. Memory-mapped arrays would be read sooner, but take three times the space.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.data.images.volumes import as_type
from mrict_core.errors import MrictError, passing
from mrict_core.files import atomic_path, code_hash, hash_of, unavailable
from mrict_core.paths import shown

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

Predict = Callable[["SliceStore", str], np.ndarray]  # (store, patient) => (N, S, S) HU, the patient's slices in order
CODE = (
    "networks",
    "methods",
    "inference",
    "data/batches",
    "data/intensity",
    "evaluation/predictions",
)  # it decides the volumes too
PRECISION = "float32"  # that every stored volume is computed in, on whatever device


@dataclass(frozen=True)
class Predictions:
    """The synthetic CTs of any predictor, computed whenever they are asked for."""

    store: SliceStore
    predict: Predict

    def slices(self, patient: str) -> np.ndarray:
        """Return a patient's synthetic CT on the store's canvas, (N, S, S) int16 HU, as `store.slices` orders them.

        Values are rounded to whole HU. Raises MrictError where the predictor gives another shape, or NaN.
        """
        hu, expected = np.asarray(self.predict(self.store, patient)), self.store.slices(patient).ct.shape
        if hu.shape != expected:
            raise MrictError(f"patient {patient}: the prediction has shape {hu.shape}, the slices {expected}")
        if not np.isfinite(hu).all():
            raise MrictError(f"patient {patient}: the prediction holds NaN or infinite values; the model has diverged")
        return as_type(hu, np.int16)

    def volume(self, patient: str) -> np.ndarray:
        """Return a patient's synthetic CT on the grid of its files, (nx, ny, nz) int16 HU, air where no slice is."""
        return self.store.to_volume(patient, self.slices(patient))


@dataclass(frozen=True)
class StoredPredictions(Predictions):
    """The synthetic CTs of a trained model: read from `folder`, and computed only where it does not hold them.

    `weights` is the hash of the checkpoint. A file of other weights, slices or code, or a damaged one, is made again
    and `report` hears of it.
    """

    folder: Path
    weights: str
    report: Callable[[str], None] = print
    _said: set[str] = field(default_factory=set)

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the volumes: weights, slices, precision, code; the device is no part of it."""
        own = getattr(self.predict, "own_code", None)
        return hash_of([self.weights, self.store.key, PRECISION, code_hash(*CODE), *([own] if own else [])])

    def slices(self, patient: str) -> np.ndarray:
        """Return what `Predictions.slices` does, from the patient's file, which is written where there is none."""
        path, key = self.folder / f"{patient}.npz", hash_of([self.key, patient])
        found = self._read(path, key, self.store.slices(patient).ct.shape)
        if isinstance(found, np.ndarray):
            return found
        if found and found not in self._said:  # that all files are of other weights is said once
            self.report(f"{found}; made again")
            self._said.add(found)
        hu = super().slices(patient)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, hu=hu, key=np.array(key))
        return hu

    def _read(self, path: Path, key: str, shape: tuple[int, ...]) -> np.ndarray | str:
        """Return what the file holds, or why it cannot be used; "" where there is none."""
        try:
            content = io.BytesIO(path.read_bytes())  # all at once: damaged offsets are then no fault of the machine
            with np.load(content, allow_pickle=False) as file:
                if damaged := file.zip.testzip():  # numpy may stop reading before the check sum is compared
                    raise ValueError(f"wrong check sum of {damaged}")
                found, hu = str(file["key"]), file["hu"]
        except FileNotFoundError:
            return ""
        except Exception as error:  # of damaged bytes zipfile, zlib and numpy raise nearly anything
            if passing(error):
                raise unavailable(path, error) from None
            return f"{shown(path)}: no readable prediction (cut or damaged)"
        if found != key or hu.shape != shape or hu.dtype != np.int16:
            return f"{shown(self.folder)}: predictions of other weights, slices or code"
        return hu
