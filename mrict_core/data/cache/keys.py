"""The plan of a dataset cache: what is prepared, what is left to do, and its index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mrict_core.data.cache.store import INDEX, prepared_patient
from mrict_core.data.discovery import Discovery, PatientFiles, Skip
from mrict_core.data.images.streams import unchanged
from mrict_core.data.images.volumes import hash_image, state_of
from mrict_core.data.subjects import absolute, likely_visits, merged, shared_images, subjects_of
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.files import available, code_hash, hash_of, read_json
from mrict_core.machine import cpu_count
from mrict_core.paths import shown
from mrict_core.shards import tables_of

CODE = ("hu", "modalities", "data/images", "data/cache", "data/checks", "data/intensity", "data/masks")


@dataclass(frozen=True)
class Job:
    """One patient to prepare; `key` changes with its files, the settings and the code."""

    files: PatientFiles
    folder: Path
    settings: dict[str, Any]
    sources: dict[str, dict[str, str]]  # role -> path relative to `Discovery.root`, hash
    states: dict[str, tuple[int, int]]  # role -> size and time of the file when it was hashed
    key: str

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise `UnavailableError` at the end unless the files are those that were hashed."""
        with contextlib.ExitStack() as stack:
            for role, state in self.states.items():
                stack.enter_context(unchanged(getattr(self.files, role), state_of, state))
            yield


@dataclass
class Plan:
    """What a folder already holds and what is left to do."""

    jobs: list[Job]
    prepared: dict[str, dict[str, Any]]  # metas of patients with a valid key
    refused: dict[str, str]  # key -> reason, of patients known to be unusable
    rule: str  # of `subjects_of`
    subjects: dict[str, str]  # by that rule
    old: dict[str, Any] = field(default_factory=dict)  # the folder's index
    files: dict[str, list[Any]] = field(default_factory=dict)  # path -> size, time, hash
    unsure: set[str] = field(default_factory=set)  # keys refused for a reason outside the files: tried again

    @property
    def todo(self) -> list[Job]:
        """Jobs of the patients still to prepare."""
        return [j for j in self.jobs if j.files.patient not in self.prepared and j.key not in self.refused]

    def skips(self) -> list[Skip]:
        """Return the refused patients and the copies of others, by name."""
        copies, _ = shared_images(self.prepared)
        found = []
        for job in self.jobs:
            patient, folder = job.files.patient, job.files.mr.parent
            reason = self.refused.get(job.key)
            if patient in copies:
                reason = f"{shown(folder)}: its MR and CT are those of {copies[patient]}; expected each person once"
                reason += "; remove the copy, or replace it by the right images"
            if reason:
                found.append(Skip(patient, str(folder), reason))
        return found


def parts_of(folder: Path) -> list[Path]:
    """Return the parts of the index that shards wrote, by the number of shards and of the shard."""
    return [file for _, file in sorted(tables_of(folder / INDEX).items())]


def read_index(folder: Path, name: str = INDEX) -> dict[str, Any]:
    """Return the folder's index; a missing or damaged one is empty, as it can be rebuilt."""
    try:
        index = read_json(folder / name)
        files, skipped = index.get("files"), index.get("skipped")
        if all(isinstance(s, dict) for s in skipped) and all(len(entry) == 3 for entry in files.values()):
            return index
    except UnavailableError:
        raise
    except (MrictError, AttributeError, TypeError, KeyError):
        pass
    return {"files": {}, "skipped": []}


def _files(discovery: Discovery, known: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return {path: size, time, hash} of all patients' files; `known` hashes are reused if size and time match."""

    def entry(path: Path) -> tuple[str, list[Any]]:
        name = path.relative_to(discovery.root).as_posix()
        with available(path):
            state = state_of(path)
            size, time, digest = known.get(name, (None, None, None))
            return name, [*state, digest if (size, time) == state else hash_image(path)]

    paths = [path for patient in discovery.patients for path in patient.sources.values()]
    with ThreadPoolExecutor(cpu_count()) as pool:  # hashing releases the GIL
        return dict(pool.map(entry, paths))


def make_plan(
    discovery: Discovery, folder: Path, settings: dict[str, Any], group_by: str = "", force: bool = False
) -> Plan:
    """Compare the source with `folder`; reads metas, and files whose size or time changed.

    What shards have hashed and refused is known from their parts of the index. An empty `group_by` keeps the rule of
    `subjects_of` in the folder's index. `force` prepares everything again.
    """
    old, code = read_index(folder), code_hash(*CODE)
    parts = [read_index(folder, path.name) for path in parts_of(folder)]
    known = {name: entry for index in (old, *parts) for name, entry in index["files"].items()}
    rule = absolute(group_by) or str(old.get("group_by", ""))
    by_person = subjects_of((p.person for p in discovery.patients), rule)
    subjects = {p.patient: by_person[p.person] for p in discovery.patients}
    files, jobs = _files(discovery, known), []
    for patient in discovery.patients:
        names = {role: path.relative_to(discovery.root).as_posix() for role, path in patient.sources.items()}
        sources = {role: {"path": name, "hash": files[name][2]} for role, name in names.items()}
        key = hash_of([settings, code, patient.patient, sources])
        states = {role: tuple(files[name][:2]) for role, name in names.items()}
        jobs.append(Job(patient, folder, settings, sources, states, key))
    if force:
        return Plan(jobs, {}, {}, rule, subjects, old, files)
    keys = {j.files.patient: j.key for j in jobs}
    metas = {p: m for p, key in sorted(keys.items()) if (m := prepared_patient(folder / p)).get("key") == key}
    skipped, wanted = [one for index in (old, *parts) for one in index["skipped"]], set(keys.values())
    refused = {s["key"]: s["reason"] for s in skipped if s.get("key") in wanted}
    return Plan(jobs, metas, refused, rule, subjects, old, files)


def make_part(plan: Plan) -> dict[str, Any]:
    """Return a shard's part of the index: the files that it hashed, and the patients that it refused for them."""
    skipped = [asdict(skip) for skip in plan.skips()]
    keys = {job.files.patient: job.key for job in plan.jobs if job.key in plan.refused.keys() - plan.unsure}
    known = [skip | {"key": keys[skip["patient"]]} for skip in skipped if skip["patient"] in keys]
    return {"files": plan.files, "skipped": known}


def make_index(discovery: Discovery, plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the index of a finished plan.

    Its key identifies the content: other code or file formats that give the same images keep it, even one that an
    earlier version derived differently.
    """
    keys = {job.files.patient: job.key for job in plan.jobs if job.key in plan.refused.keys() - plan.unsure}
    skipped = [asdict(skip) for skip in discovery.skipped]
    for skip in plan.skips():
        skipped.append(asdict(skip) | ({"key": keys[skip.patient]} if skip.patient in keys else {}))
    copies, shared = shared_images(plan.prepared)
    metas = {patient: meta for patient, meta in sorted(plan.prepared.items()) if patient not in copies}
    contents = {patient: hash_of(meta["content"]) for patient, meta in metas.items()}
    subjects = merged({p: plan.subjects[p] for p in metas}, [(patient, first) for patient, first, _ in shared])
    remarks = [f"{patient} has the {role.upper()} of {first}: one subject" for patient, first, role in shared]
    patients = {
        p: {"centre": m["centre"], "slices": len(m["z"]), "z": m["z"], "subject": subjects[p], "content": contents[p]}
        for p, m in metas.items()
    }
    content, known = hash_of([settings, contents]), plan.old.get("key", "")
    former = hash_of([settings, [meta.get("former", "") for meta in metas.values()]])  # as by an earlier version
    return {
        "key": known if content == plan.old.get("content") or known == former else content,
        "content": content,
        "settings": settings,
        "data_dir": str(discovery.root),
        "group_by": plan.rule,
        "patients": patients,
        "remarks": [*remarks, *filter(None, [likely_visits(subjects) if not plan.rule else ""])],
        "skipped": sorted(skipped, key=lambda s: (s["patient"], s["path"])),
        "files": plan.files,
    }
