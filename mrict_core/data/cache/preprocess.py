"""Preprocessing: from a folder of patients to a dataset cache, one patient at a time; only what changed is rebuilt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mrict_core.data import intensity, masks
from mrict_core.data.cache.keys import Job, Plan, make_index, make_part, make_plan, parts_of, read_index
from mrict_core.data.cache.patient import PROTOCOLS, as_short, compact, unpadded
from mrict_core.data.cache.store import (
    INDEX,
    SliceStore,
    StoreWriteError,
    leftovers,
    prepared_patients,
    remove_patient,
    sweep,
    write_patient,
)
from mrict_core.data.checks import hu_values, pairing, slice_levels
from mrict_core.data.discovery import Discovery, Skip, discover
from mrict_core.data.images.orders import SliceOrder, own_plane
from mrict_core.data.images.volumes import load_volume
from mrict_core.data.pair_choices import choose
from mrict_core.errors import MrictError, UnavailableError, passing, unknown_name
from mrict_core.files import hash_array, hash_of, held, read_json, unavailable, write_json
from mrict_core.machine import cpu_count, end_with_parent
from mrict_core.modalities import MR, Modality, check_input, modality_named
from mrict_core.paths import Folders, as_folders, common_folder, shown
from mrict_core.shards import Shard

EXCLUDED = "exclude_metal"  # of the settings
SAID = ("remarks", "notes")  # of a volume
PARALLEL_VOXELS = 20_000_000  # two large patients; below, starting processes costs more than it saves
WORKERS_MAX = 8
LOCK_WAIT_S = 5.0  # for notebooks started together
KEPT = "nothing that was prepared is lost"
Progress = Callable[[int, int, str], None]  # patients done, patients in all, the patient just finished


def in_plane_shapes(discovery: Discovery, protocol: str = "patient") -> list[tuple[int, int]]:
    """Return (rows, cols) of every usable patient's slices, for `Profile.canvas`."""
    shapes = []
    for files in discovery.patients:
        order = SliceOrder.raw() if protocol == "predecessor" else SliceOrder.own(files.shape, files.affine)
        shapes.append((files.shape[order.axes[1]], files.shape[order.axes[2]]))
    return shapes


def _prepare(job: Job) -> None:
    with job.unchanged():
        arrays, meta = _converted(job)
    write_patient(job.folder, job.files.patient, arrays, meta)


def _converted(job: Job) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the record of one patient."""
    files, settings, modality = job.files, job.settings, _modality(job)
    mr, ct, outline = load_volume(files.mr), load_volume(files.ct), load_volume(files.mask)
    mask = masks.check_mask(outline.array, files.mask)
    intensity.check_input(mr.array, files.mr, modality)
    mr = unpadded(mr, modality)
    read = {modality.name: mr, "ct": ct, "mask": outline}
    remarks, notes = ([f"{role}: {text}" for role, v in read.items() for text in getattr(v, kind)] for kind in SAID)
    doubts = hu_values.check_hu(ct.array, ct.path, mask)
    doubts += slice_levels.check_slices(ct.array, mask, ct.affine, ct.path)
    _check_two(mr.array, ct.array, files.mr)
    ct = replace(ct, array=as_short(ct.array.T).T)
    arrays, prepared = PROTOCOLS[settings["protocol"]](mr, ct, mask, settings["size"], modality)
    scored = mask
    if files.metal:
        metal = masks.check_metal(load_volume(files.metal).array, files.metal)
        scored = mask & ~metal
        kept = prepared.order.to_slices(scored)[prepared.z]
        arrays["mask"] = prepared.crop.apply(kept, False)  # the CT keeps its values there
    elif EXCLUDED in settings:
        notes.append("no metal mask beside it: all of its mask is used")
    arrays = compact(arrays)
    masks.check_mask_fits(arrays["mask"], arrays["body"], files.mask)
    air, tissue = pairing.overlap(arrays["ct"], arrays["mask"], arrays["body"])
    pair = pairing.check_pair(mr.array, ct.array, ct.spacing_mm)
    doubts += [
        f"{text}; {air:.0%} of the MR's body is air on it, {tissue:.0%} of its tissue is outside" for text in pair
    ]
    inside = int(np.count_nonzero(scored))
    upright = SliceOrder.axial(mr.affine)  # so that the same voxels along other axes are the same image
    grid = {"affine": mr.affine.tolist(), "order": asdict(prepared.order), "crop": asdict(prepared.crop)}
    plane = "axial" if settings["protocol"] == "predecessor" else own_plane(mr.shape, mr.affine)
    voxels = {"mr": mr.array, "ct": ct.array, "mask": scored}
    meta = {
        "patient": files.patient,
        "centre": files.centre,
        "region": files.region,
        "key": job.key,
        "sources": job.sources,
        "shape": list(mr.shape),
        "spacing_mm": list(prepared.order.spacing_mm(mr.affine)),  # of slices, rows, columns
        **grid,
        **({"plane": plane} if plane != "axial" else {}),
        "z": prepared.z.tolist(),
        "mr_range": list(prepared.mr_range),
        "mask_voxels": inside,
        "mask_voxels_cropped": inside - int(arrays["mask"].sum(dtype=np.int64)),
        "ct_type": str(arrays["ct"].dtype),
        "content": {  # all that trainings and scores depend on
            "grid": hash_of(grid),
            "voxels": {role: hash_array(upright.to_slices(array)) for role, array in voxels.items()},
        },
        "warnings": remarks + [f"ct: {modality.words(text)}" for text in doubts],
        "notes": notes,
        "air_in_body": air,
        "tissue_outside_body": tissue,
    }
    return arrays, meta


def _modality(job: Job) -> Modality:
    return modality_named(job.settings.get("modality", MR.name))


def _check_two(mr: np.ndarray, ct: np.ndarray, path: Path) -> None:
    """Raise MrictError if input and CT are one image: a network would learn to copy it."""
    if mr.shape == ct.shape and np.array_equal(mr, ct):
        raise MrictError(f"{shown(path)}: holds the voxels of the CT; expected another image; copy the right one here")


def _attempt(job: Job) -> tuple[str, bool]:
    """Prepare a patient; return why it cannot be used ("": it can), and whether its files are surely the cause.

    Faults of the output folder and passing faults are raised: they say nothing about the patient.
    """
    try:
        _prepare(job)
        return "", True
    except (StoreWriteError, UnavailableError):
        raise
    except MrictError as error:
        return _modality(job).words(str(error)), True
    except Exception as error:  # an unforeseen fault of one patient must not end the run
        if passing(error):
            raise unavailable(job.files.mr.parent, error) from None
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return (
            f"{shown(job.files.mr.parent)}: cannot be prepared ({cause}); check its {_modality(job).name}, ct and mask",
            False,
        )


def _run(jobs: list[Job], workers: int) -> Iterator[tuple[Job, str, bool]]:
    """Yield (job, *_attempt(job)) as patients finish."""
    if workers <= 1 or len(jobs) <= 1:
        yield from ((job, *_attempt(job)) for job in jobs)
        return
    # spawn: a fork would copy torch's thread pools in an unusable state
    count, context = min(workers, len(jobs)), get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=end_with_parent) as pool:
        futures = {pool.submit(_attempt, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], *future.result()
        except BrokenProcessPool:
            raise UnavailableError("a worker process was killed, often for lack of memory; use workers=1") from None
        finally:
            pool.shutdown(cancel_futures=True)


def check_usable(discovery: Discovery, refused: Sequence[Skip] = ()) -> None:
    """Raise all reasons if no patient can be used."""
    if len(refused) == len(discovery.patients):
        skips = sorted([*refused, *discovery.skipped], key=lambda skip: skip.patient)
        reasons = " | ".join(skip.reason for skip in skips)
        folders = ", ".join(map(shown, discovery.roots))
        raise MrictError(f"{folders}: none of its {len(skips)} patients can be used: {reasons}")


def _refuse(plan: Plan, discovery: Discovery, strict: bool) -> None:
    """Raise the first reason or warning if strict, and all reasons if no patient can be used."""
    skips = plan.skips()
    if strict and skips:
        raise MrictError(skips[0].reason)
    doubts = [f"{p}: {'; '.join(m['warnings'])}" for p, m in sorted(plan.prepared.items()) if m.get("warnings")]
    if strict and doubts:
        raise MrictError(f"{doubts[0]} (refused by --strict)")
    check_usable(discovery, skips)


@contextlib.contextmanager
def passing_faults(root: Path) -> Iterator[None]:
    """Add to a passing fault that nothing was lost."""
    try:
        yield
    except Exception as error:
        if not passing(error) or KEPT in str(error):
            raise
        reason = str(error) if isinstance(error, UnavailableError) else str(unavailable(root, error))
        raise UnavailableError(f"{reason} ({KEPT})") from None


def _execute(plan: Plan, folder: Path, strict: bool, progress: Progress | None, workers: int | None) -> None:
    """Prepare what is left to do and update the plan."""
    todo, total = plan.todo, len(plan.jobs)
    if workers is None:
        large = sum(prod(job.files.shape) for job in todo) > PARALLEL_VOXELS
        workers = min(cpu_count(), WORKERS_MAX) if large else 1
    for done, (job, reason, sure) in enumerate(_run(todo, workers), total - len(todo) + 1):
        if reason and strict:
            raise MrictError(reason)
        if reason:
            plan.refused[job.key] = reason
            plan.unsure |= set() if sure else {job.key}
        else:
            plan.prepared[job.files.patient] = read_json(folder / job.files.patient / "meta.json")
        if progress:
            progress(done, total, job.files.patient)


def preprocess(
    data_dir: Folders,
    folder: Path | str,
    *,
    region: str,
    protocol: str = "patient",
    size: int,
    group_by: str = "",
    pairs: str = "",
    strict: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
    modality: str = MR.name,
    ct: str = "rigid",
    exclude_metal: bool = False,
) -> SliceStore:
    """Return the dataset cache in `folder` of the patients of `region` under `data_dir`, preparing what is missing.

    `data_dir`: one folder or several, whose equal ids are one person (see `discover`).

    A patient is prepared again only if its files, the settings or the code changed, or with `force`. One no longer
    under `data_dir` is removed; one that has become unusable keeps its arrays, unused. Unusable patients and copies of
    others are listed in `skipped` with the reason; `strict` raises it. `group_by` is the rule of
    `subjects.subjects_of`; empty keeps that of the cache. `pairs` is the csv of `pair_choices.choose`. `size` is the
    canvas in pixels. `modality` and `ct` say which files are input and target, see `discover`. `exclude_metal` takes
    each patient's metal mask, where there is one, from the mask of losses and scores. The result does not depend on
    `workers` (None: chosen by the amount of data).

    Raises `MrictError` if no patient can be used, `folder` cannot be written or another process holds it,
    `UnavailableError` for a passing fault; then nothing is removed and no patient refused.
    """
    settings = _settings(region, protocol, size, modality, ct, exclude_metal)
    folder, *roots = (Path(path).expanduser().resolve() for path in (folder, *as_folders(data_dir)))
    with passing_faults(common_folder(roots)):
        found = discover(roots, region, strict, modality=modality, ct=ct, exclude_metal=exclude_metal)
        discovery, _ = choose(found, region, pairs)
        plan = make_plan(discovery, folder, settings, group_by, force)
        whole = not plan.todo and make_index(discovery, plan, settings) == read_index(folder)
        if whole and not leftovers(folder):
            _refuse(plan, discovery, strict)
            return SliceStore(folder)
        with held(folder, "is preparing it", LOCK_WAIT_S):
            plan = make_plan(discovery, folder, settings, group_by, force)
            sweep(folder)
            _execute(plan, folder, strict, progress, workers)
            _refuse(plan, discovery, strict)
            named = {p.patient for p in discovery.patients} | {skip.patient for skip in discovery.skipped}
            for gone in prepared_patients(folder).keys() - named:
                remove_patient(folder, gone)
            write_json(folder / INDEX, make_index(discovery, plan, settings))
            for part in parts_of(folder):  # all that they say is in the index now
                part.unlink()
    return SliceStore(folder)


def prepare_shard(
    data_dir: Folders,
    folder: Path | str,
    shard: Shard,
    *,
    region: str,
    protocol: str = "patient",
    size: int,
    pairs: str = "",
    strict: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
    modality: str = MR.name,
    ct: str = "rigid",
    exclude_metal: bool = False,
) -> tuple[list[str], list[Skip]]:
    """Prepare one shard's part of the patients of `preprocess`, and its part of the index, in the same folder.

    Shards may run at the same time. The index is made by `preprocess`, which then prepares only what no shard has.
    Return the prepared patients and those that cannot be used. For errors see `preprocess`.
    """
    settings = _settings(region, protocol, size, modality, ct, exclude_metal)
    folder, *roots = (Path(path).expanduser().resolve() for path in (folder, *as_folders(data_dir)))
    with passing_faults(common_folder(roots)):
        found = discover(roots, region, strict, modality=modality, ct=ct, exclude_metal=exclude_metal)
        whole, _ = choose(found, region, pairs)
        patients = sorted(whole.patients, key=lambda files: files.patient)
        discovery = replace(whole, patients=tuple(one for n, one in enumerate(patients, 1) if shard.has(n)))
        with held(folder, "is preparing it", LOCK_WAIT_S, str(shard)):
            plan = make_plan(discovery, folder, settings, force=force)
            _execute(plan, folder, strict, progress, workers)
            write_json(shard.file(folder / INDEX), make_part(plan))
    skips = plan.skips()
    if strict and skips:
        raise MrictError(skips[0].reason)
    return sorted(plan.prepared.keys() - {skip.patient for skip in skips}), skips


def _settings(region: str, protocol: str, size: int, modality: str, ct: str, exclude_metal: bool) -> dict[str, Any]:
    """Return the settings that a prepared patient depends on; raises MrictError for impossible ones."""
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if size < 1:
        raise MrictError(f"canvas of {size} pixels: expected at least 1")
    check_input(modality, ct, protocol)
    settings = {"protocol": protocol, "size": int(size), "region": region}
    settings |= {
        name: value for name, value, usual in (("modality", modality, MR.name), ("ct", ct, "rigid")) if value != usual
    }
    return settings | ({EXCLUDED: True} if exclude_metal else {})
