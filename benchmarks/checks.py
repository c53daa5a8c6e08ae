"""Checks of CT: detection of scalings, odd slices and misplaced CT, and false alarms on sound data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from samples import HOW_TO_GET, SAMPLES

from benchmarks.check_kinds import GOOD, POSES, SCALED, SLICES, bad_models
from mrict_core.data.checks.hu_values import check_hu, check_sct
from mrict_core.data.checks.pairing import check_pair
from mrict_core.data.checks.slice_levels import check_slices
from mrict_core.data.phantom import PhantomSpec, make_patient, phantom_ids
from mrict_core.errors import MrictError

TITLE = "Checks of CT: what is refused, what is warned of, and false alarms"
HOW = "counts of images"
SPECS = {"brain": PhantomSpec("brain", 3.6, 5.0, 2), "pelvis": PhantomSpec("pelvis", 6.0, 8.0, 1)}
BAD_EVERY = 5  # every fifth patient is used for bad models
POOR_HU = 150.0  # noise on a good sCT, for a poor model


@dataclass(frozen=True)
class Case:
    """One patient: volumes (nx, ny, nz) on one grid, body as bool."""

    mr: np.ndarray
    ct: np.ndarray
    body: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0))


def _phantoms(region: str, per_centre: int) -> Iterator[Case]:
    for patient in phantom_ids(region, per_centre):
        made = make_patient(patient, 1, SPECS[region])
        mr, ct = (np.asarray(a, np.float32) for a in (made.mr, made.ct))
        yield Case(mr, ct, np.asarray(made.mask) > 0, made.affine)


def _samples(name: str, quick: bool) -> Iterator[Case]:
    for folder in sorted((SAMPLES / name).glob("Task1/*/*"))[: 3 if quick else None]:
        mr, ct, mask = (nib.load(folder / f"{role}.nii.gz") for role in ("mr", "ct", "mask"))
        arrays = (image.get_fdata(dtype=np.float32) for image in (mr, ct))
        yield Case(*arrays, np.asarray(mask.dataobj) > 0, ct.affine)


def _outcome(check: Callable[[], list[str]]) -> str:
    try:
        return "warned" if check() else "passed"
    except MrictError:
        return "refused"


def _row(data: str, check: str, kind: str, outcomes: Iterable[str]) -> dict[str, Any]:
    found = list(outcomes)
    counts = {name: f"{found.count(name)}/{len(found)}" for name in ("refused", "warned", "passed")}
    return {"data": data, "check": check, "input": kind} | counts


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per data set, check and kind of input."""
    rows = []
    phantoms = {f"{region} phantoms": list(_phantoms(region, 1 if quick else 4)) for region in SPECS}
    volumes = {name: list(_samples(name, quick)) for name in ("brainweb_head", "pelvis_bulk")}
    whole = [case for cases in (phantoms | volumes).values() for case in cases]
    rows += list(_kinds(f"{len(whole)} volumes", whole))
    for data, cases in (phantoms | volumes).items():
        rows += _sound(data, cases)
    for name in ("axial", "coronal", "sagittal"):
        rows += _sound(f"real heads, middle slices, {name} (approximate HU)", _samples(f"synthrad_brain_{name}", quick))
    return rows


def _sct(case: Case) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (case.ct + rng.normal(0, 1, case.ct.shape) * np.where(case.body, POOR_HU, 10)).clip(-1024, 3000)


def _each(made: Iterable[np.ndarray], cases: list[Case], check: Callable[[np.ndarray, Case], list[str]]) -> list[str]:
    return [_outcome(lambda a=a, c=c: check(a, c)) for a, c in zip(made, cases, strict=True)]


def _ct(a: np.ndarray, case: Case) -> list[str]:
    return check_hu(a.astype(np.float32), "ct", case.body)


def _fake(a: np.ndarray, case: Case) -> list[str]:
    return check_sct(a.astype(np.float32), case.ct, case.body, "sct")


def _slices(a: np.ndarray, case: Case) -> list[str]:
    return check_slices(a, case.body, case.affine, "ct")


def _pair(a: np.ndarray, case: Case) -> list[str]:
    return check_pair(case.mr, a, case.spacing_mm)


def _kinds(data: str, cases: list[Case]) -> Iterator[dict[str, Any]]:
    """Yield the outcomes of all wrong, good and bad-model inputs."""
    scts = [_sct(case) for case in cases]
    for kind, (change, _) in SCALED.items():
        yield _row(data, "CT", kind, _each((change(c.ct, c.body) for c in cases), cases, _ct))
        made = (change(sct, c.body) for sct, c in zip(scts, cases, strict=True))
        yield _row(data, "sCT of a poor model", kind, _each(made, cases, _fake))
    for kind, change in GOOD.items():
        yield _row(data, "CT", f"good: {kind}", _each((change(c.ct, c.body) for c in cases), cases, _ct))
    bad = [(model, c) for c in cases[::BAD_EVERY] for model in bad_models(c.ct, c.body).values()]
    yield _row(data, "sCT", "bad models", _each((model for model, _ in bad), [c for _, c in bad], _fake))
    for kind, (change, _) in SLICES.items():
        yield _row(data, "slices", kind, _each((change(c.ct, c.body) for c in cases), cases, _slices))
    for kind, pose in POSES.items():
        yield _row(data, "CT on MR", kind, _each((pose(c.ct, c.spacing_mm) for c in cases), cases, _pair))


def _sound(data: str, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """Return how often sound data are refused or cause a warning."""
    checks = {"CT": _ct, "slices": _slices, "CT on MR": _pair}
    outcomes: dict[str, list[str]] = {name: [] for name in (*checks, "sCT of a poor model")}
    for case in cases:
        for name, check in checks.items():
            outcomes[name] += _each([case.ct], [case], check)
        outcomes["sCT of a poor model"] += _each([_sct(case)], [case], _fake)
    if not outcomes["CT"]:
        return [_row(data, f"skipped: no samples, {HOW_TO_GET}", "–", [])]
    return [_row(data, check, "sound", found) for check, found in outcomes.items()]
