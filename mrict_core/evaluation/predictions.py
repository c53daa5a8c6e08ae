"""Synthetic CTs of the patients in a dataset cache, in whole HU: made once, then read by scores, figures and the page.

A trained model's volumes are stored, one file per patient: `<patient>.npz` with `hu`, (N, S, S) int16, of a model that
draws samples also `sd`, (N, S, S) float16, and `key`, a hash of everything that decides them. Compression takes well
under a second per patient and saves two thirds of the space, and check sums reveal damage.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.data.images.volumes import as_type
from mrict_core.errors import MrictError, passing
from mrict_core.files import atomic_path, code_hash, hash_of, unavailable
from mrict_core.metrics.uncertainty import calibrated
from mrict_core.paths import shown

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

Predict = Callable[["SliceStore", str], np.ndarray]  # (store, patient) => (N, S, S) HU, the patient's slices in order
CODE = (
    "hu",
    "networks",
    "methods",
    "inference",
    "data/batches",
    "data/planes",
    "data/intensity",
    "evaluation/predictions",
)
PRECISION = "float32"  # of every stored volume, on any device


@dataclass(frozen=True)
class Predictions:
    """The synthetic CTs of any predictor, computed on demand."""

    store: SliceStore
    predict: Predict

    def slices(self, patient: str) -> np.ndarray:
        """Return a patient's synthetic CT on the cache's canvas, (N, S, S) int16 HU, in the order of `store.slices`.

        Values are rounded to whole HU. Raises MrictError for a wrong shape or NaN.
        """
        return self.checked(patient, self.predict(self.store, patient))

    def sd(self, patient: str) -> np.ndarray | None:
        """Return the calibrated SD of a patient's synthetic CT, (N, S, S) float32 HU; None if there are no samples."""
        return None

    def checked(self, patient: str, hu: np.ndarray) -> np.ndarray:
        """Return a prediction in whole HU, int16."""
        hu, expected = np.asarray(hu), self.store.slices(patient).ct.shape
        if hu.shape != expected:
            raise MrictError(f"patient {patient}: the prediction has shape {hu.shape}, the slices {expected}")
        if not np.isfinite(hu).all():
            raise MrictError(f"patient {patient}: the prediction has NaN or infinite values; the model has diverged")
        return as_type(hu, np.int16)

    def volume(self, patient: str) -> np.ndarray:
        """Return a patient's synthetic CT on the grid of its files, (nx, ny, nz) int16 HU, air where no slice is."""
        return self.store.to_volume(patient, self.slices(patient))


@dataclass(frozen=True)
class StoredPredictions(Predictions):
    """The synthetic CTs of a trained model: read from `folder`, or computed and stored there.

    `weights` is the hash of the checkpoint. A file of other weights, slices or code, or a damaged one, is recomputed
    and reported.
    """

    folder: Path
    weights: str
    report: Callable[[str], None] = print
    calibration: Mapping[str, float] = field(default_factory=dict)  # of the SD; {}: none
    _said: set[str] = field(default_factory=set)

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the volumes: weights, slices, precision and code, but not the device."""
        own = getattr(self.predict, "own_code", None)
        return hash_of([self.weights, self.store.key, PRECISION, code_hash(*CODE), *([own] if own else [])])

    def slices(self, patient: str) -> np.ndarray:
        """Return `Predictions.slices` from the patient's file, which is written if missing."""
        return self._stored(patient)[0]

    def sd(self, patient: str) -> np.ndarray | None:
        if not self.calibration:
            return None
        hu, sd = self._stored(patient)
        return None if sd is None else calibrated(sd.astype(np.float32), hu, self.calibration)

    def raw_sd(self, patient: str) -> np.ndarray:
        """Return the SD of a patient's samples as drawn, (N, S, S) float32 HU."""
        return self._stored(patient)[1].astype(np.float32)

    def _stored(self, patient: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return CT and SD from the patient's file, which is written if missing."""
        path, key = self.folder / f"{patient}.npz", hash_of([self.key, patient])
        found = self._read(path, key, self.store.slices(patient).ct.shape)
        if isinstance(found, tuple):
            return found
        if found and found not in self._said:  # the same for all files: reported once
            self.report(f"{found}; recomputed")
            self._said.add(found)
        if hasattr(self.predict, "with_sd"):
            made, sd = self.predict.with_sd(self.store, patient)
            hu, sd = self.checked(patient, made), None if sd is None else sd.astype(np.float16)
        else:
            hu, sd = super().slices(patient), None
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, hu=hu, key=np.array(key), **({} if sd is None else {"sd": sd}))
        return hu, sd

    def _read(self, path: Path, key: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None] | str:
        """Return the volume and its SD, or why the file cannot be used; "" without a file."""
        try:
            # Read at once, so that damaged offsets are not taken for disk errors.
            content = io.BytesIO(path.read_bytes())
            with np.load(content, allow_pickle=False) as file:
                if damaged := file.zip.testzip():  # numpy may not read up to the check sum
                    raise ValueError(f"wrong check sum of {damaged}")
                found, hu, sd = str(file["key"]), file["hu"], file.get("sd")
        except FileNotFoundError:
            return ""
        except Exception as error:  # zipfile, zlib and numpy raise many types for damaged bytes
            if passing(error):
                raise unavailable(path, error) from None
            return f"{shown(path)}: no readable prediction (cut or damaged)"
        if found != key or hu.shape != shape or hu.dtype != np.int16:
            return f"{shown(self.folder)}: predictions of other weights, slices or code"
        return hu, sd
