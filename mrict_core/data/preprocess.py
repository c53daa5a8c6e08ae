"""Preprocessing: a folder of patients to a slice store; one patient at a time, resumable, rebuilt only where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from math import prod
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mrict_core.data import intensity, masks, pairing, plausible, slice_levels
from mrict_core.data.plan import Job, Plan, make_index, make_plan, read_index
from mrict_core.data.prepare import PROTOCOLS, as_short, compact, unpadded
from mrict_core.data.store import (
    INDEX,
    SliceStore,
    StoreWriteError,
    prepared_patients,
    remove_patient,
    sweep,
    write_patient,
)
from mrict_core.data.synthrad import ROLES, Discovery, discover
from mrict_core.data.volumes import SliceOrder, load_volume
from mrict_core.errors import MrictError, unknown_name
from mrict_core.paths import shown
from mrict_core.runtime import cpu_count, held, read_json, write_json

PARALLEL_VOXELS = 20_000_000  # two large patients; below this, starting processes costs more than it saves
WORKERS_MAX = 8
LOCK_WAIT_S = 5.0  # notebooks started together may wait for the one that prepares
Progress = Callable[[int, int, str], None]  # patients done, patients in all, the patient just finished


def in_plane_shapes(discovery: Discovery, protocol: str = "patient") -> list[tuple[int, int]]:
    """Return (rows, cols) of every usable patient's slices, for `Profile.canvas`."""
    shapes = []
    for files in discovery.patients:
        order = SliceOrder.raw() if protocol == "predecessor" else SliceOrder.axial(np.array(files.affine))
        shapes.append((files.shape[order.axes[1]], files.shape[order.axes[2]]))
    return shapes


def _prepare(job: Job) -> None:
    """Read, check, convert and write one patient."""
    files, settings = job.files, job.settings
    mr, ct, outline = load_volume(files.mr), load_volume(files.ct), load_volume(files.mask)
    mask = masks.check_mask(outline.array, files.mask)
    intensity.check_mr(mr.array, files.mr)
    remarks = [f"{role}: {text}" for role, v in zip(ROLES, (mr, ct, outline), strict=True) for text in v.remarks]
    mr = unpadded(mr)
    doubts = plausible.check_hu(ct.array, ct.path, mask)
    doubts += slice_levels.check_slices(ct.array, mask, ct.affine, ct.path)
    ct = replace(ct, array=as_short(ct.array.T).T)
    arrays, prepared = PROTOCOLS[settings["protocol"]](mr, ct, mask, settings["size"])
    arrays = compact(arrays)
    masks.check_mask_fits(arrays["mask"], arrays["body"], files.mask)
    air, tissue = pairing.overlap(arrays["ct"], arrays["mask"], arrays["body"])
    pair = pairing.check_pair(mr.array, ct.array, ct.spacing_mm)
    doubts += [
        f"{text}; {air:.0%} of the MR's body is air on it, {tissue:.0%} of its tissue lies outside" for text in pair
    ]
    inside = int(np.count_nonzero(mask))
    meta = {
        "patient": files.patient,
        "centre": files.centre,
        "region": files.region,
        "key": job.key,
        "sources": job.sources,
        "shape": list(mr.shape),
        "affine": mr.affine.tolist(),
        "spacing_mm": list(prepared.order.spacing_mm(mr.affine)),  # of slices, rows, columns
        "order": asdict(prepared.order),
        "crop": asdict(prepared.crop),
        "z": prepared.z.tolist(),
        "mr_range": list(prepared.mr_range),
        "mask_voxels": inside,
        "mask_voxels_cropped": inside - int(arrays["mask"].sum(dtype=np.int64)),
        "ct_type": str(arrays["ct"].dtype),
        "warnings": remarks + [f"ct: {text}" for text in doubts],
        "air_in_body": air,
        "tissue_outside_body": tissue,
    }
    write_patient(job.folder, files.patient, arrays, meta)


def _attempt(job: Job) -> str | None:
    """Return None, or why this patient cannot be used; trouble with the output folder is raised."""
    try:
        _prepare(job)
    except StoreWriteError:
        raise
    except MrictError as error:
        return str(error)
    except Exception as error:  # a patient that no check foresaw must not end the run for the others
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return f"{shown(job.files.mr.parent)}: cannot be prepared ({cause}); check its mr, ct and mask"
    return None


def _run(jobs: list[Job], workers: int) -> Iterator[tuple[Job, str | None]]:
    """Yield (job, reason or None) as patients finish."""
    if workers <= 1 or len(jobs) <= 1:
        yield from ((job, _attempt(job)) for job in jobs)
        return
    # spawn: a fork would copy torch's thread pools in an unusable state
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_attempt, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise MrictError("a worker process was ended, often for lack of memory; use workers=1") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _workers(jobs: list[Job], workers: int | None) -> int:
    if workers is not None:
        return workers
    voxels = sum(prod(j.files.shape) for j in jobs)
    return min(cpu_count(), WORKERS_MAX) if voxels > PARALLEL_VOXELS else 1


def _refuse(plan: Plan, discovery: Discovery, strict: bool) -> None:
    """Raise the first patient's reason when strict, or when no patient at all can be used."""
    reasons = [plan.refused[j.key] for j in plan.jobs if j.key in plan.refused]
    if strict and reasons:
        raise MrictError(reasons[0])
    doubts = [f"{p}: {'; '.join(m['warnings'])}" for p, m in sorted(plan.prepared.items()) if m.get("warnings")]
    if strict and doubts:
        raise MrictError(f"{doubts[0]} (refused by --strict)")
    if len(reasons) == len(plan.jobs):
        reasons += [s.reason for s in discovery.skipped]
        count = f"none of {len(reasons)} patients can be used"
        raise MrictError(f"{shown(discovery.root)}: {count}; the first: {reasons[0]}")


def _execute(plan: Plan, folder: Path, strict: bool, progress: Progress | None, workers: int | None) -> None:
    """Prepare what is left to do and enter it in the plan."""
    todo, total = plan.todo, len(plan.jobs)
    for done, (job, reason) in enumerate(_run(todo, _workers(todo, workers)), total - len(todo) + 1):
        if reason and strict:
            raise MrictError(reason)
        if reason:
            plan.refused[job.key] = reason
        else:
            plan.prepared[job.files.patient] = read_json(folder / job.files.patient / "meta.json")
        if progress:
            progress(done, total, job.files.patient)


def preprocess(
    data_dir: Path | str,
    folder: Path | str,
    *,
    region: str,
    protocol: str = "patient",
    size: int,
    strict: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> SliceStore:
    """Return the slice store of the patients of `region` under `data_dir`, preparing in `folder` what is missing.

    A patient is prepared again only when its files, the settings or the code changed; patients no longer in the source
    are removed. A patient that cannot be used is listed in the store's `skipped` with the reason; `strict` raises it.
    The result does not depend on `workers` (None: chosen by the amount of data). `size` is the canvas in pixels.

    Raises `MrictError` when no patient can be used, when `folder` cannot be written and when another process holds it.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if size < 1:
        raise MrictError(f"canvas of {size} pixels: expected at least 1")
    folder = Path(folder).expanduser().resolve()
    discovery = discover(Path(data_dir).expanduser().resolve(), region, strict)
    settings = {"protocol": protocol, "size": int(size), "region": region}
    plan = make_plan(discovery, folder, settings)
    if not plan.todo and make_index(discovery, plan, settings) == read_index(folder):
        _refuse(plan, discovery, strict)
        return SliceStore(folder)
    with held(folder, "is preparing it", LOCK_WAIT_S):
        plan = make_plan(discovery, folder, settings)
        sweep(folder)
        _execute(plan, folder, strict, progress, workers)
        _refuse(plan, discovery, strict)
        for stale in prepared_patients(folder).keys() - plan.prepared.keys():
            remove_patient(folder, stale)
        write_json(folder / INDEX, make_index(discovery, plan, settings))
    return SliceStore(folder)
