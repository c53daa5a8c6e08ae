"""The dataset cache: a folder of memory-mapped arrays per patient, and an index of what was prepared and how."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrict_core.data.cache.canvas import CropPad, restore_volume
from mrict_core.data.discovery import METAL
from mrict_core.data.images.orders import SliceOrder
from mrict_core.data.images.volumes import Volume, hash_image, load_volume, state_of
from mrict_core.data.masks import check_mask, check_metal
from mrict_core.errors import MrictError
from mrict_core.files import NEW, atomic_folder, hash_array, hash_of, read_json, write_json
from mrict_core.hu import WINDOWS, HuRange
from mrict_core.modalities import MR, Modality, modality_named
from mrict_core.paths import shown

INDEX, META = "index.json", "meta.json"
META_KEYS = {"key", "centre", "sources", "shape", "order", "crop", "z", "mask_voxels", "mask_voxels_cropped"}
CROPPED_MAX = 0.02
ARRAYS = ("mr", "ct", "mask", "body")
LEFTOVERS = (f"{NEW}*", ".old-*", f".{INDEX}.*", ".split*.json.*")  # the last three of earlier versions
OPEN_PATIENTS = 128  # four file handles each; systems commonly allow 1024


def layout(meta: dict[str, Any]) -> tuple[SliceOrder, CropPad]:
    """Return the slice order and the canvas in a patient's record."""
    order = SliceOrder(tuple(meta["order"]["axes"]), tuple(meta["order"]["flips"]))
    return order, CropPad(**meta["crop"])


class StoreWriteError(MrictError):
    """The cache folder cannot be written: fatal for all patients."""


@dataclass(frozen=True)
class PatientSlices:
    """The slices of one patient as memory maps, each (N, S, S), inferior -> superior."""

    mr: np.ndarray  # float16 in [-1, 1]; -1 outside the body
    ct: np.ndarray  # HU, int16 where the file holds whole numbers, else float32; air outside the mask
    mask: np.ndarray  # uint8: the data set's mask, for losses and scores
    body: np.ndarray  # uint8: where the MR input was kept
    z: np.ndarray  # int: position of each slice in the volume


class SliceStore:
    """Read access to a prepared folder; `preprocess` writes it."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.index: dict[str, Any] = read_json(self.folder / INDEX)
        try:
            settings = self.index["settings"]
            self.key: str = self.index["key"]
            self.size: int = settings["size"]
            self.protocol: str = settings["protocol"]
            self.region: str = settings["region"]
            self.modality: Modality = modality_named(settings.get("modality", MR.name))  # of the input, `mr`
            self._entries: dict[str, dict[str, Any]] = self.index["patients"]
            self.skipped: list[dict[str, str]] = self.index["skipped"]
            self.window: HuRange = WINDOWS[self.protocol]
            self._subjects = {p: str(entry.get("subject", p)) for p, entry in self._entries.items()}
            self.remarks: list[str] = list(self.index.get("remarks", []))  # on patients who may be one person
            if any(len(entry["z"]) != entry["slices"] or not entry["centre"] for entry in self._entries.values()):
                raise TypeError
            self._files: dict[str, list[Any]] = dict(self.index["files"])  # path -> size, time, hash
            self.data_dir = Path(self.index["data_dir"])
        except (KeyError, TypeError, ValueError, AttributeError, MrictError):
            path = shown(self.folder / INDEX)
            raise MrictError(f"{path}: not the index of a dataset cache; run preprocess again") from None
        self.patients: list[str] = sorted(self._entries)
        self._open: OrderedDict[str, PatientSlices] = OrderedDict()

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return SliceStore, (self.folder,)  # another process opens its own maps

    def _entry(self, patient: str) -> dict[str, Any]:
        if patient not in self._entries:
            raise MrictError(f"{shown(self.folder)}: no patient '{patient}' in it; choose another or run preprocess")
        return self._entries[patient]

    def counts(self) -> dict[str, int]:
        """Return the number of slices of each patient."""
        return {patient: self._entries[patient]["slices"] for patient in self.patients}

    def centre(self, patient: str) -> str:
        """Return the letter of a patient's centre, "?" if its id names none."""
        return self._entry(patient)["centre"]

    def subjects(self) -> dict[str, str]:
        """Return {patient: subject}; the images of one subject are of one person."""
        return dict(self._subjects)

    def meta(self, patient: str) -> dict[str, Any]:
        """Return the record of a patient: sources, grid, order, canvas, MR range, voxel counts."""
        self._entry(patient)
        meta = read_json(self.folder / patient / META)
        if not isinstance(meta, dict) or not META_KEYS <= meta.keys():
            path = shown(self.folder / patient / META)
            raise MrictError(f"{path}: not the record of a prepared patient; run preprocess again")
        return meta

    def plane(self, patient: str) -> str:
        """Return the plane of a patient's slices: axial, or, of a volume one voxel thick, that of its one slice."""
        return self.meta(patient).get("plane", "axial")

    def spacing_mm(self, patient: str) -> tuple[float, float, float]:
        """Return the distance of a patient's slices, rows and columns in mm."""
        return tuple(self.meta(patient)["spacing_mm"])

    def cropped(self) -> dict[str, float]:
        """Return {patient: share of its mask outside the canvas} if above `CROPPED_MAX`."""
        metas = {patient: self.meta(patient) for patient in self.patients}
        shares = {p: m["mask_voxels_cropped"] / m["mask_voxels"] for p, m in metas.items()}
        return {patient: share for patient, share in shares.items() if share > CROPPED_MAX}

    def warnings(self) -> dict[str, list[str]]:
        """Return {patient: warnings and notes on its files}, of patients with any."""
        metas = {patient: self.meta(patient) for patient in self.patients}
        found = {patient: [*meta.get("warnings", []), *meta.get("notes", [])] for patient, meta in metas.items()}
        return {patient: texts for patient, texts in found.items() if texts}

    def slices(self, patient: str) -> PatientSlices:
        """Return the patient's memory maps, which stay open."""
        if patient in self._open:
            self._open.move_to_end(patient)
            return self._open[patient]
        entry = self._entry(patient)
        if "content" in entry and entry["content"] != hash_of(self.meta(patient).get("content")):
            raise MrictError(
                f"{shown(self.folder / patient)}: prepared again by an interrupted run; run preprocess again"
            )
        z = np.asarray(entry["z"], np.int64)
        arrays = {name: self._load(patient, name, len(z)) for name in ARRAYS}
        self._open[patient] = PatientSlices(**arrays, z=z)
        if len(self._open) > OPEN_PATIENTS:
            self._open.popitem(last=False)
        return self._open[patient]

    def _load(self, patient: str, name: str, count: int) -> np.ndarray:
        path, remedy = self.folder / patient / f"{name}.npy", "delete its folder and run preprocess again"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise MrictError(f"{shown(path)}: cannot be read ({error}); {remedy}") from None
        expected = (count, self.size, self.size)
        if array.shape != expected:
            raise MrictError(f"{shown(path)}: shape {array.shape}, expected {expected}; {remedy}")
        return array

    def to_volume(self, patient: str, hu_slices: np.ndarray) -> np.ndarray:
        """Return HU slices (N, S, S) of a patient on the grid of its files, air outside slices and canvas."""
        meta = self.meta(patient)
        return restore_volume(hu_slices, np.asarray(meta["z"], np.int64), tuple(meta["shape"]), *layout(meta))

    def source(self, patient: str, role: str) -> Path:
        """Return the path of the patient's original mr, ct or mask file."""
        return self.data_dir / self.meta(patient)["sources"][role]["path"]

    def check_unchanged(self, patient: str) -> None:
        """Raise `MrictError` if a file of the patient changed since it was prepared; missing files are ignored."""
        for role in self.meta(patient)["sources"]:
            if self.source(patient, role).exists():
                self._unchanged(patient, role)

    def _unchanged(self, patient: str, role: str) -> Path:
        path, expected = self.source(patient, role), self.meta(patient)["sources"][role]
        remedy = "run preprocess again, then train and evaluate"
        try:
            if [*state_of(path), expected["hash"]] == self._files.get(expected["path"]):
                return path
            same = hash_image(path) == expected["hash"]
        except OSError as error:
            raise MrictError(
                f"{shown(path)}: can no longer be read ({error.strerror}); restore it, or {remedy}"
            ) from None
        if not same:
            raise MrictError(f"{shown(path)}: changed since it was prepared; {remedy}")
        return path

    def reference(self, patient: str) -> tuple[Volume, np.ndarray, Volume]:
        """Return (CT volume, mask bool, MR volume) on their original grid, for scoring, the mask less excluded metal.

        A file changed since it was prepared raises: its scores would belong to other slices.
        """
        ct, mask, mr = (load_volume(self._unchanged(patient, role)) for role in ("ct", "mask", "mr"))
        scored = check_mask(mask.array, mask.path)
        if METAL in self.meta(patient)["sources"]:
            metal = load_volume(self._unchanged(patient, METAL))
            scored = scored & ~check_metal(metal.array, metal.path)
        return ct, scored, mr


def write_patient(folder: Path, patient: str, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write one patient's arrays and meta atomically; the arrays' hashes become meta["content"]["arrays"].

    If an earlier version, which hashed no content, had prepared the same arrays, meta["former"] is its key.
    """
    meta["content"]["arrays"] = {name: hash_array(arrays[name]) for name in ARRAYS}
    old = prepared_patient(folder / patient)
    equal = (np.array_equal(np.load(folder / patient / f"{n}.npy", mmap_mode="r"), arrays[n]) for n in ARRAYS)
    if old and "content" not in old and all(equal):
        meta["former"] = old["key"]
    try:
        with atomic_folder(folder / patient, may_replace=lambda _: None) as temporary:
            for name in ARRAYS:
                np.save(temporary / f"{name}.npy", np.ascontiguousarray(arrays[name]), allow_pickle=False)
            write_json(temporary / META, meta)
    except MrictError as error:
        raise StoreWriteError(str(error)) from None


def remove_patient(folder: Path, patient: str) -> None:
    """Remove a patient's folder, renamed first to what `sweep` would remove, so that no half of it is ever seen."""
    aside = tempfile.mkdtemp(prefix=NEW, dir=folder)
    (folder / patient).rename(Path(aside, patient))
    shutil.rmtree(aside, ignore_errors=True)


def prepared_patients(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {patient: meta} of the complete patient folders in `folder`."""
    metas = {path.parent.name: prepared_patient(path.parent) for path in sorted(folder.glob(f"*/{META}"))}
    return {patient: meta for patient, meta in metas.items() if meta}


def prepared_patient(folder: Path) -> dict[str, Any]:
    """Return the meta of a complete patient folder, empty for a damaged or missing one."""
    with contextlib.suppress(MrictError, OSError, ValueError, EOFError):
        shapes = {np.load(folder / f"{name}.npy", mmap_mode="r").shape for name in ARRAYS}
        meta = read_json(folder / META)
        if len(shapes) == 1 and isinstance(meta, dict) and META_KEYS <= meta.keys():
            return meta
    return {}


def leftovers(folder: Path) -> list[Path]:
    """Return what an interrupted run left behind, or another run is writing."""
    return [path for pattern in LEFTOVERS for path in folder.glob(pattern)]


def sweep(folder: Path) -> None:
    """Remove what an interrupted run left behind; only while holding the folder's lock."""
    for leftover in leftovers(folder):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
