"""Preprocessing per patient: the predecessor's notebooks and whole-volume forms against `data.cache.preprocess`.

Phantom heads of 256×256×220 voxels, 0.86 mm; further patients are hard links to the same files. Times are per patient;
the limit is the unavoidable part: hashing and unzipping the files and writing the arrays.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from reference import preprocess as plain

from benchmarks import measure
from mrict_core.data import masks
from mrict_core.data.cache.patient import PROTOCOLS, body_slices, compact
from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.cache.store import write_patient
from mrict_core.data.images.orders import SliceOrder
from mrict_core.data.images.volumes import load_volume, save_nifti
from mrict_core.data.phantom import PhantomSpec, make_patient
from mrict_core.files import hash_file
from mrict_core.machine import cpu_count
from mrict_core.paths import ROOT

TITLE = "Preprocessing of a patient"
SHAPES = {"full": ((256, 256, 220), 0.86, 0.885), "quick": ((96, 96, 56), 2.4, 3.5)}  # voxels, mm in plane, mm apart
ROLES = ("mr", "ct", "mask")
COHORTS = {"full": {"lean": (5, 50), "plain": (2, 5)}, "quick": {"lean": (2, 6), "plain": (2, 4)}}
CODE = {
    "lean": "from mrict_core.data.cache.preprocess import preprocess\n"
    "preprocess(source, folder, region='brain', size=size, protocol=sys.argv[4])",
    "plain": "import benchmarks\nfrom reference.preprocess import notebooks\n"
    "notebooks(sorted((source / 'Task1' / 'brain').iterdir()), folder, size)",
}
START = """
import sys, pathlib
source, folder, size = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
"""


def write_head(folder: Path, shape: tuple[int, int, int], in_plane_mm: float, slice_mm: float) -> Path:
    """Write a phantom head to `folder`, centred in a grid of `shape` filled with air from its corner."""
    patient, rng = make_patient("1BA001", 0, PhantomSpec("brain", in_plane_mm, slice_mm)), np.random.default_rng(0)
    at = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, patient.mr.shape, strict=True))
    for role, dtype in (("mr", np.int16), ("ct", np.int16), ("mask", np.uint8)):
        array = getattr(patient, role)
        whole = rng.choice(array[:8, :8, :8].ravel(), shape).astype(dtype)
        whole[at] = array
        save_nifti(folder / f"{role}.nii.gz", whole, patient.affine, dtype=dtype)
    return folder


def cohort(root: Path, head: Path, count: int) -> list[Path]:
    """Link `count` patients in `root` to the files of one; return their folders."""
    folders = [root / "Task1" / "brain" / f"1B{'ABC'[k % 3]}{k:03d}" for k in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
        for role in ROLES:
            os.link(head / f"{role}.nii.gz", folder / f"{role}.nii.gz")
    return folders


def with_folder(work: Callable[[Path], Any], scratch: Path) -> Callable[[], Any]:
    """Return a call of `work` with a temporary folder."""

    def call() -> None:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            work(folder)
        finally:
            shutil.rmtree(folder)

    return call


def speed(scratch: Path, head: Path, size: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row per protocol, for one process and for all cores: seconds per patient, plain and lean.

    On all cores the lean form starts its Python processes every time; the plain form's time per patient does not depend
    on their number.
    """
    rows = []
    plain_forms = {"predecessor": plain.notebooks, "patient": plain.patients}
    for workers in sorted({1, cpu_count()}):
        count = 1 if workers == 1 else 4 * workers
        source = scratch / f"{count} patients"
        folders = cohort(source, head, count)[:1]
        for protocol, form in plain_forms.items():
            settings = {"region": "brain", "protocol": protocol, "size": size, "workers": workers}
            inside = functools.partial(preprocess, source, **settings)
            outside = functools.partial(fresh, "lean", source, size=size, protocol=protocol)
            slow = with_folder(lambda folder, form=form, folders=folders: form(folders, folder, size), scratch)
            found = measure.alternating(slow, with_folder(inside if workers == 1 else outside, scratch), repeats)
            found["lean_s"] /= count
            found["all_lean_s"] = [seconds / count for seconds in found["all_lean_s"]]
            found["times_faster"] = found["plain_s"] / found["lean_s"]
            what = "two notebooks" if protocol == "predecessor" else "whole volumes"
            many = "1 process" if workers == 1 else f"{workers} cores, {count} patients"
            rows.append({"case": f"{protocol}, {many}; plain: {what}", **found})
    return rows


def fresh(form: str, source: Path, folder: Path, size: int, protocol: str = "patient") -> dict[int, int]:
    """Prepare `source` in a separate Python process; return {process: peak KiB} of it and its children."""
    words = [sys.executable, "-c", START + CODE[form], *map(str, (source, folder, size, protocol))]
    process = subprocess.Popen(words, cwd=ROOT)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        peaks |= _peaks(process.pid)
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"preprocessing {source.name} ended with {process.returncode}")
    return peaks


def parts(head: Path, scratch: Path, protocol: str, size: int) -> dict[str, Callable[[], Any]]:
    """Return the calls of the parts of preprocessing a patient."""
    paths = [head / f"{role}.nii.gz" for role in ROLES]
    packed = [path.read_bytes() for path in paths]
    mr, ct, mask = (load_volume(path) for path in paths)
    inside = mask.array > 0
    arrays = compact(PROTOCOLS[protocol](mr, ct, inside, size)[0])
    order = SliceOrder.axial(mr.affine)
    find = {
        "patient": lambda: body_slices(mr, order),
        "predecessor": lambda: masks.union_otsu_mask(mr.array, ct.array),
    }
    return {
        "hash": lambda: [hash_file(path) for path in paths],
        "unzip": lambda: [igzip.decompress(content) for content in packed],
        "read": lambda: [load_volume(path) for path in paths],  # with unzip
        "masks": find[protocol],
        "write": with_folder(lambda folder: write_patient(folder, "1BA001", arrays, {"content": {}}), scratch),
    }


def limits(scratch: Path, head: Path, size: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row per protocol: each part's share of the time, the limit, and the whole relative to it."""
    rows = []
    source = scratch / "limit"
    cohort(source, head, 1)
    for protocol in PROTOCOLS:
        calls = parts(head, scratch, protocol, size)
        lean = functools.partial(preprocess, source, region="brain", protocol=protocol, size=size, workers=1)
        seconds = measure.in_turns(calls | {"whole": with_folder(lean, scratch)}, repeats)
        median = {name: float(np.median(values)) for name, values in seconds.items()}
        median["read"] = max(median["read"] - median["unzip"], 0.0)
        limit = median["hash"] + median["unzip"] + median["write"]
        row = {"case": f"{protocol}, parts of a patient's time", "lean_s": median["whole"], "limit_s": limit}
        row |= {f"{name}_percent": 100 * median[name] / median["whole"] for name in calls}
        row["rest_percent"] = 100 - sum(row[f"{name}_percent"] for name in calls)
        rows.append(row | {"times_the_limit": median["whole"] / limit})
    return rows


def _peaks(process: int) -> dict[int, int]:
    """Return {process: peak resident KiB} of a process and its descendants (Linux)."""
    found, todo = {}, [process]
    while todo:
        one = todo.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text(encoding="utf-8")
            found[one] = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                todo += [int(child) for child in children.read_text(encoding="utf-8").split()]
        except (OSError, StopIteration):  # it has just ended
            continue
    return found


def memory(scratch: Path, head: Path, size: int, form: str, count: int) -> dict[str, Any]:
    """Return the row of a whole cohort: seconds, and the sum of the peaks of all processes."""
    source = scratch / f"memory {form} {count}"
    cohort(source, head, count)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    started = time.perf_counter()
    peaks = fresh(form, source, folder, size)
    took = time.perf_counter() - started
    shutil.rmtree(folder)
    case = f"patient, {cpu_count()} cores" if form == "lean" else "predecessor, two notebooks"
    return {
        "case": f"{case}, {count} patients from start to end",
        f"{form}_s": took / count,
        "processes": len(peaks),
        "sum_of_peaks_mib": sum(peaks.values()) / 1024,
        "largest_peak_mib": max(peaks.values()) / 1024,
    }


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return rows of seconds per patient, of the limit, and of peak memory for small and large cohorts."""
    kind = "quick" if quick else "full"
    shape, in_plane_mm, slice_mm = SHAPES[kind]
    size = shape[0]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        head = write_head(scratch / "head", shape, in_plane_mm, slice_mm)
        rows = speed(scratch, head, size, 1 if quick else 3)
        rows += limits(scratch, head, size, 2 if quick else 3)
        for form, counts in COHORTS[kind].items():
            rows += [memory(scratch, head, size, form, count) for count in counts]
    return [{**row, "voxels": "×".join(map(str, shape))} for row in rows]
