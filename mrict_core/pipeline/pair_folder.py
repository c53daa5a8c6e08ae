"""The folder of one pair: read what was given, pair it, write mr, ct, mask and pair.json, all or nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from mrict_core.data.dicom import is_dicom
from mrict_core.data.discovery import TASK
from mrict_core.data.images.volumes import save_nifti
from mrict_core.errors import MrictError
from mrict_core.files import atomic_folder, code_hash, hash_of, read_json, write_json
from mrict_core.machine import versions
from mrict_core.pairing.transforms import matrix_of, read_transform, write_transform
from mrict_core.paths import as_region, shown
from mrict_core.pipeline.pair import Paired, PairSettings, pair_scans
from mrict_core.pipeline.pair_folders import RECORD, PairInput
from mrict_core.pipeline.pair_sides import KINDS, affine_of, array_of, hash_side, read_side, redacted

LINEAR_FILE, DEFORMED_FILE = "transform.tfm", "transform.h5"


def folder_of(output: Path, region: str, patient: str) -> Path:
    """Return the folder of a pair in SynthRAD layout."""
    return output / TASK / as_region(region) / patient


def make_pair(
    given: PairInput,
    output: Path,
    settings: PairSettings,
    *,
    overwrite: bool = False,
    hidden: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Pair one patient and return the content of its pair.json, with "kept" if it was there already.

    `hidden`: identifiers that are removed from what is written. Raises `MrictError`, and writes nothing, for input
    that cannot be used and for a folder made from other scans or with other settings, unless `overwrite`.
    """
    folder = folder_of(output, settings.region, given.patient)
    hashes = {kind: hash_side(path) for kind in (*KINDS, "transform") if (path := getattr(given, kind))}
    key = hash_of([hashes, given.mr_series, given.ct_series, asdict(settings)])
    kept = None if overwrite else _kept(folder, key, settings)
    if kept:
        return kept | {"kept": True}
    _may_replace(folder)
    sides = _read(given, settings)
    transform = read_transform(given.transform) if given.transform else None
    paired = pair_scans(sides["mr"], sides["ct"], settings, mask=sides.get("mask"), transform=transform)
    notes = [f"{kind}: {line}" for kind, image in sides.items() for line in image.GetMetaData("notes").splitlines()]
    names = {kind: redacted(_name(getattr(given, kind)), hidden) for kind in hashes}
    record = {
        "patient": given.patient,
        "region": settings.region,
        "centre": given.centre and redacted(given.centre, hidden),
        "inputs": {kind: {"name": names[kind], "hash": value} for kind, value in hashes.items()},
        "settings": asdict(settings) | {"spacing_mm": settings.spacing_mm},
        "notes": [redacted(note, hidden) for note in (*notes, *paired.notes)],
    }
    return _write(folder, record, paired, key)


def _read(given: PairInput, settings: PairSettings) -> dict[str, sitk.Image]:
    """Return the scans, and the mask if there is one."""
    series = {"mr": given.mr_series, "ct": given.ct_series}
    paths = {kind: path for kind in KINDS if (path := getattr(given, kind))}
    return {kind: read_side(path, kind, series.get(kind, ""), strict=settings.strict) for kind, path in paths.items()}


def _name(path: Path) -> str:
    """Return a file's name; those of DICOM often hold dates and the hospital."""
    return "DICOM" if path.is_dir() or is_dicom(path) else path.name


def _write(folder: Path, record: dict[str, Any], paired: Paired, key: str) -> dict[str, Any]:
    """Write a pair's files; return its record."""
    matrix = matrix_of(paired.transform)
    file = DEFORMED_FILE if matrix is None else LINEAR_FILE
    record |= {
        "transform": file if matrix is None else matrix.tolist(),
        "size": paired.mr.GetSize(),
        "spacing_mm": paired.mr.GetSpacing(),
        "mask_voxels": int(np.count_nonzero(array_of(paired.mask))),
        "metal_voxels": 0 if paired.metal is None else int(np.count_nonzero(array_of(paired.metal))),
        "quality": asdict(paired.quality),
        "versions": versions() | {"pairing": code_hash("pairing")},
        "seconds": paired.seconds,
        "key": key,
    }
    with atomic_folder(folder, may_replace=_may_replace) as place:
        for name in ("mr", "ct", "mask", "metal"):
            if (image := getattr(paired, name)) is not None:
                kind = {"mr": np.float32, "ct": np.int16}.get(name, np.uint8)
                save_nifti(place / f"{name}.nii.gz", array_of(image), affine_of(image), dtype=kind)
        write_transform(paired.transform, place / file)
        write_json(place / RECORD, record)
    return record


def _kept(folder: Path, key: str, settings: PairSettings) -> dict[str, Any] | None:
    """Return the record of a folder that holds this pair, None if there is none; raise if it holds another."""
    if not folder.exists():
        return None
    _may_replace(folder)
    record = read_json(folder / RECORD)
    own = isinstance(record, dict) and record.get("key") == key
    if own and all((folder / f"{name}.nii.gz").is_file() for name in ("mr", "ct", "mask")):
        return record
    before = record.get("settings", {}) if isinstance(record, dict) else {}
    changed = [f"{name} {before.get(name)!r}, now {now!r}" for name, now in asdict(settings).items()
               if before.get(name, now) != now]  # fmt: skip
    what = f"with other settings ({', '.join(changed)})" if changed else "of other scans, or is damaged"
    raise MrictError(
        f"{shown(folder)}: holds a pair made {what}; expected this one or none; give another --output, or --overwrite"
    )


def _may_replace(folder: Path) -> None:
    """Raise unless a folder, if it exists, was made here."""
    if folder.exists() and not (folder / RECORD).is_file():
        raise MrictError(
            f"{shown(folder)}: exists and was not made by this command (no {RECORD}); expected no such folder; "
            "move it, or give another --output"
        )
