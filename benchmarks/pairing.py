"""Rigid registration of pairs with a known pose, and what the verdict says of its results and of wrong poses.

Each pose is a row in `MRICT_DATA/pairing/poses.jsonl`, each verdict one in `verdicts.jsonl`: an interrupted run
goes on, and another verdict (another hash of its code) needs no new registration.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from benchmarks import measure
from benchmarks.poses import ANATOMIES, Anatomy, Case, make_case
from mrict_core.files import code_hash
from mrict_core.machine import cpu_count, end_with_parent
from mrict_core.pairing.itk_grids import Grid, field_of_view, resample
from mrict_core.pairing.registration import register
from mrict_core.pairing.starts import rigid
from mrict_core.pairing.transforms import affine_of, matrix_of
from mrict_core.paths import data_root

TITLE = "Registration of MR and CT from known poses"
HOW = (
    "error of a pose: mean distance of the body's points from where they belong (TRE); poses: up to 15° about and 30 "
    "mm along each axis, other spacings and orientation codes, cut fields of view, noise; wrong poses: moved on purpose"
)
LONG = True  # an hour or more
POSES = 50  # of each anatomy
GOOD_MM, FAILED_MM = 2.0, 3.0
WRONG_MM = (3.5, 12.0)  # mean error of a pose that is wrong on purpose
REGISTRATION = ("registration", "starts", "similarity", "itk_grids")
VERDICT = ("quality", "bodies", "optimum", "overlaps", "couch")
LARGE = (256, 256, 200)


def run(quick: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Yield the table after every tenth pose, as far as it is known, and at the end."""
    folder, anatomies = data_root() / "pairing", []
    for anatomy in ANATOMIES:
        if anatomy.missing:
            print(anatomy.missing, flush=True)
        elif not (quick and anatomy.sample):
            anatomies.append(anatomy)
    jobs = [(anatomy, number) for number in range(1 if quick else POSES) for anatomy in anatomies]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn"), initializer=_start) as pool:
        waiting = [pool.submit(measured, anatomy, number, folder) for anatomy, number in jobs]
        for done, job in enumerate(as_completed(waiting), 1):
            rows.append(job.result())
            row = rows[-1]
            print(f"{done} of {len(jobs)}: {row['anatomy']} {row['number']}, TRE {row['tre_mm']:.2f} mm", flush=True)
            if done % 10 == 0 and done < len(jobs):
                yield table(rows)
    yield [*table(rows), large(quick)]


def _start() -> None:
    end_with_parent()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def measured(anatomy: Anatomy, number: int, folder: Path) -> dict[str, Any]:
    """Return a pose's row, and its verdicts; what is known already is read."""
    keys = {"anatomy": anatomy.name, "number": number, "code": code_hash(*(f"pairing/{name}" for name in REGISTRATION))}
    row, case = known(folder / "poses.jsonl", keys), None
    if row is None:
        case = make_case(anatomy, number, folder)
        row = keys | registered(case)
        append(folder / "poses.jsonl", row)
    keys |= {"judge": code_hash(*(f"pairing/{name}" for name in VERDICT))}
    verdicts = known(folder / "verdicts.jsonl", keys)
    if verdicts is None:
        verdicts = keys | judged(case or make_case(anatomy, number, folder), row, number)
        append(folder / "verdicts.jsonl", verdicts)
    return row | verdicts


def registered(case: Case) -> dict[str, Any]:
    """Return the facts of a case, its registration and the error."""
    started = time.process_time()
    found = register(case.mr, case.ct, threads=1)
    errors = case.errors_mm(found.transform)
    return {
        "facts": case.facts,
        "transform": matrix_of(found.transform).tolist(),
        "tre_mm": float(errors.mean()),
        "tre_most_mm": float(errors.max()),
        "similarity": found.similarity,
        "cpu_s": time.process_time() - started,
    }


def judged(case: Case, row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the verdicts on the registered pose, and on one that is wrong on purpose."""
    rng = np.random.default_rng([number, 1])
    wrong = moved_by(case, rng.uniform(*WRONG_MM), rng)
    found = {}
    for name, transform in {"": affine_of(np.array(row["transform"])), "wrong_": wrong}.items():
        quality = verdict(case, transform)
        found |= {
            f"{name}verdict": str(quality.verdict),
            f"{name}reasons": list(quality.reasons),
            f"{name}offset_mm": quality.offset_mm,
        }
    return found | {"wrong_mm": float(case.errors_mm(wrong).mean())}


def moved_by(case: Case, distance_mm: float, rng: np.random.Generator) -> sitk.Transform:
    """Return the true pose with a random shift and turn, so that the mean error is about `distance_mm`."""
    centre = case.points.mean(0)
    shift, axis, share = rng.normal(size=3), rng.normal(size=3), rng.uniform(0.2, 1)
    radius = np.linalg.norm(case.points - centre, axis=1).mean()
    turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.sqrt(1 - share**2) * distance_mm / radius)
    extra = rigid(centre, centre + shift / np.linalg.norm(shift) * distance_mm * share, turn)
    return sitk.CompositeTransform([case.truth, extra])  # the last one is applied first


def verdict(case: Case, transform: sitk.Transform) -> Any:
    """Return what `pairing.quality` says of a pose."""
    from mrict_core.pairing.bodies import ct_body, mr_body
    from mrict_core.pairing.quality import judge

    grid = Grid.of(case.mr)
    body = resample(ct_body(case.ct), grid, transform, nearest=True, fill=0)
    field = field_of_view(case.ct, grid, transform)
    return judge(case.mr, resample(case.ct, grid, transform), mr_body(case.mr), body, field)


def known(path: Path, keys: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row of a file of json lines with these values; an unfinished last line does not count."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if all(row.get(name) == value for name, value in keys.items()):
            return row
    return None


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a file of json lines, in one write: several processes add to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        file.write(b"\n" * (path.stat().st_size > 0) + json.dumps(row).encode())


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of the printed table for each anatomy, and for all."""
    names = [a.name for a in ANATOMIES if any(row["anatomy"] == a.name for row in rows)]
    found = [_summary(name, [row for row in rows if row["anatomy"] == name]) for name in names]
    return [*found, _summary("all", rows)]


def _summary(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tre = np.array([row["tre_mm"] for row in rows])
    flagged = np.array([row["verdict"] != "good" for row in rows])
    wrong = [row["wrong_verdict"] != "good" for row in rows if row["wrong_mm"] > FAILED_MM]
    return {
        "case": name,
        "poses": len(rows),
        "tre_median_mm": float(np.median(tre)),
        "tre_95_mm": float(np.quantile(tre, 0.95)),
        "tre_most_mm": float(tre.max()),
        "within_1_mm": float((tre <= 1).mean()),
        "within_2_mm": float((tre <= GOOD_MM).mean()),
        "failures": int((tre > FAILED_MM).sum()),
        "failures_flagged": int(flagged[tre > FAILED_MM].sum()),
        "good_flagged": float(flagged[tre <= GOOD_MM].mean()) if (tre <= GOOD_MM).any() else None,
        "wrong_poses": len(wrong),
        "wrong_flagged": sum(wrong),
        "cpu_s": float(np.median([row["cpu_s"] for row in rows])),
    }


def large(quick: bool) -> dict[str, Any]:
    """Return time and memory of one large pair, in a process of its own with all CPUs."""
    size = tuple(n // 4 for n in LARGE) if quick else LARGE
    cost = measure.cost(_large, size, data_root() / "pairing", repeats=1)
    return {"case": f"{'×'.join(map(str, size))} pair, {cpu_count()} CPUs", **cost}


def _large(size: Sequence[int], folder: Path) -> Any:
    """Return a call that registers a pair of `size` voxels."""
    case = make_case(ANATOMIES[0], 0, folder)
    pair = []
    for image, fill in ((case.mr, 0.0), (case.ct, -1024.0)):
        grid = Grid.of(image)
        spacing = max(n * s / wanted for n, s, wanted in zip(grid.size, grid.spacing_mm, size, strict=True))
        fine = grid.with_spacing(spacing)
        start = [(n - wanted) // 2 for n, wanted in zip(fine.size, size, strict=True)]
        pair.append(resample(image, fine.box(start, size), fill=fill))
    return lambda: register(*pair)
