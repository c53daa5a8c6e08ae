"""What a slice store holds, what is left to do, and the index that says so."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mrict_core.data.store import INDEX, prepared_patients
from mrict_core.data.synthrad import ROLES, Discovery, PatientFiles, Skip
from mrict_core.errors import MrictError
from mrict_core.runtime import code_hash, cpu_count, hash_file, hash_of, read_json

MODULES = (
    *("ranks", "intensity", "orders", "grids", "headers", "nifti", "metaimage", "nrrd", "streams", "volumes"),
    *("morphology", "otsu", "masks", "slicing", "store", "prepare", "plan", "preprocess"),
)
CODE = tuple(f"data/{module}" for module in MODULES)


@dataclass(frozen=True)
class Job:
    """One patient to prepare; `key` changes with its files, the settings and the code."""

    files: PatientFiles
    folder: Path
    settings: dict[str, Any]
    sources: dict[str, dict[str, str]]  # role -> path relative to the data folder, hash
    key: str


@dataclass
class Plan:
    """What a folder holds already and what is left to do."""

    jobs: list[Job]
    prepared: dict[str, dict[str, Any]]  # metas of patients whose key still holds
    refused: dict[str, str]  # key -> reason, of patients found unusable before
    files: dict[str, list[Any]] = field(default_factory=dict)  # path -> size, time, hash

    @property
    def todo(self) -> list[Job]:
        """The patients still to prepare."""
        return [j for j in self.jobs if j.files.patient not in self.prepared and j.key not in self.refused]


def read_index(folder: Path) -> dict[str, Any]:
    """Return the folder's index; a missing or damaged one is empty, as everything in it can be made again."""
    with contextlib.suppress(MrictError, OSError, AttributeError, TypeError, KeyError):
        index = read_json(folder / INDEX)
        files, skipped = index.get("files"), index.get("skipped")
        if all(isinstance(s, dict) for s in skipped) and all(len(entry) == 3 for entry in files.values()):
            return index
    return {"files": {}, "skipped": []}


def _files(discovery: Discovery, known: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return {path: size, time, hash} of all patients' files, in order; a hash in `known` is re-used while size and
    time are unchanged."""

    def entry(path: Path) -> tuple[str, list[Any]]:
        name, stat = path.relative_to(discovery.root).as_posix(), path.stat()
        size, time, digest = known.get(name, (None, None, None))
        if (size, time) != (stat.st_size, stat.st_mtime_ns):
            digest = hash_file(path)
        return name, [stat.st_size, stat.st_mtime_ns, digest]

    paths = [getattr(patient, role) for patient in discovery.patients for role in ROLES]
    with ThreadPoolExecutor(cpu_count()) as pool:  # hashing leaves the interpreter to other threads
        return dict(pool.map(entry, paths))


def make_plan(discovery: Discovery, folder: Path, settings: dict[str, Any]) -> Plan:
    """Compare the source with what `folder` holds; reads metas, and the files whose size or time changed."""
    old, code = read_index(folder), code_hash(*CODE)
    files, jobs = _files(discovery, old["files"]), []
    for patient in discovery.patients:
        names = {role: getattr(patient, role).relative_to(discovery.root).as_posix() for role in ROLES}
        sources = {role: {"path": name, "hash": files[name][2]} for role, name in names.items()}
        key = hash_of([settings, code, patient.patient, sources])
        jobs.append(Job(patient, folder, settings, sources, key))
    keys = {j.files.patient: j.key for j in jobs}
    metas = {p: m for p, m in prepared_patients(folder).items() if m.get("key") == keys.get(p, "")}
    refused = {s["key"]: s["reason"] for s in old["skipped"] if s.get("key") in keys.values()}
    return Plan(jobs, metas, refused, files)


def make_index(discovery: Discovery, plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the index of a finished plan."""
    skipped = [asdict(s) for s in discovery.skipped]
    for job in plan.jobs:
        if job.key in plan.refused:
            skip = Skip(job.files.patient, str(job.files.mr.parent), plan.refused[job.key])
            skipped.append({**asdict(skip), "key": job.key})
    patients = {
        p: {"centre": m["centre"], "slices": len(m["z"]), "z": m["z"]} for p, m in sorted(plan.prepared.items())
    }
    return {
        "key": hash_of([settings, [m["key"] for _, m in sorted(plan.prepared.items())]]),
        "settings": settings,
        "data_dir": str(discovery.root),
        "patients": patients,
        "skipped": sorted(skipped, key=lambda s: (s["patient"], s["path"])),
        "files": plan.files,
    }
