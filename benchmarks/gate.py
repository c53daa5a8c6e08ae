"""Input check: how many wrong inputs it catches, and how many good ones it would refuse."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from samples import HOW_TO_GET, SAMPLES

from benchmarks.gate_kinds import KINDS, SINGLE_SLICE
from mrict_core.data.cache.fingerprint import bone_range, bone_shares, summarise, volume_features
from mrict_core.data.cache.patient import body_of
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.data.phantom import PhantomSpec, make_patient, phantom_ids
from mrict_core.errors import MrictError
from mrict_core.inference.gate import check_bone, check_input, compare

TITLE = "Input gate: wrong inputs caught, good ones refused"
HOW = "counts of inputs; caught and refused: at least one finding"
SPEC = PhantomSpec("brain", 3.6, 5.0, 2)
PELVIS = PhantomSpec("pelvis", 6.0, 8.0, 1)
FEW = (1, 2, 3, 4, 5, 6, 7, 9)  # training patients
SIZES = {"phantoms": 64, "real": 224}


def phantom(patient: str, seed: int, spec: PhantomSpec = SPEC, role: str = "mr") -> Volume:
    made = make_patient(patient, seed, spec)
    return Volume(np.asarray(getattr(made, role), np.float32), made.affine, Path(f"{patient}.nii.gz"))


def trained_on(volumes: Iterable[Volume], size: int) -> dict[str, Any]:
    return summarise([volume_features(volume, size)[0] for volume in volumes], size)


def row(data: str, kind: str, volumes: Iterable[Volume], found: dict[str, Any], wrong: bool = True) -> dict[str, Any]:
    findings = [check_input(volume, found) for volume in volumes]
    stopped = sum(map(bool, findings))
    names = [each[0].name for each in findings if each]
    first = max(sorted(set(names)), key=names.count) if names else "–"
    good = {"caught": f"{stopped}/{len(findings)}", "refused": "–"}
    bad = {"caught": "–", "refused": f"{stopped}/{len(findings)}"}
    return {"data": data, "input": kind, **(good if wrong else bad), "most frequent finding": first}


def phantom_pair(patient: str, seed: int) -> tuple[Volume, Volume]:
    return phantom(patient, seed), phantom(patient, seed, role="ct")


def _pairs(count: int) -> list[tuple[Volume, Volume]]:
    return [phantom_pair(p, 0) for p in phantom_ids("brain", 3)][:count]


def bone_row(data: str, training: Iterable[tuple[Volume, Volume]], held_out: Iterable[tuple[Volume, Volume]]) -> dict:
    """Return the row of how many true CTs fail the bone check."""
    known = bone_range([bone_shares(ct.array, body_of(mr)) for mr, ct in training])
    odd = [bool(check_bone(ct.array, body_of(mr), {"bone": known})) for mr, ct in held_out]
    counts = {"caught": "–", "refused": f"{sum(odd)}/{len(odd)}", "most frequent finding": "bone"}
    return {"data": data, "input": "bone of the true CT", **counts}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per data set and kind of input."""
    return [*_phantoms(quick), *_few(quick), *_real(quick)]


def _phantoms(quick: bool) -> list[dict[str, Any]]:
    data = "head phantoms, 9 in training"
    found = trained_on((phantom(p, 0) for p in phantom_ids("brain", 3)), SIZES["phantoms"])
    pairs = [(p, seed) for seed in (1, 2) for p in phantom_ids("brain", 5)][: 3 if quick else None]
    held_out = [phantom(*pair) for pair in pairs]
    rows = [row(data, "good, held out", held_out, found, wrong=False)]
    for kind, make in KINDS.items():
        rng = np.random.default_rng(0)
        rows.append(row(data, kind, (make(volume, rng) for volume in held_out), found))
    rows.append(row(data, "CT given as MR", (phantom(*pair, role="ct") for pair in pairs), found))
    pelves = (phantom(p, 1, PELVIS) for p in phantom_ids("pelvis", 1 if quick else 3))
    rows.append(row(data, "pelvis phantom", pelves, found))
    bulk = SAMPLES / "pelvis_bulk" / "Task1" / "pelvis" / "P3" / "mr.nii.gz"
    rows += [
        bone_row(f"head phantoms, {n} in training", _pairs(n), (phantom_pair(*p) for p in pairs)) for n in (3, 6, 9)
    ]
    return rows + ([row(data, "pelvis, real anatomy", [load_volume(bulk)], found)] if bulk.is_file() else [])


def _few(quick: bool) -> list[dict[str, Any]]:
    """Return one row per number of training patients: how many inputs of all wrong kinds are caught."""
    training = [_features(phantom(p, 0)) for n in (1, 2, 3) for p in phantom_ids("brain", 3)[n - 1 :: 3]]
    held_out = [phantom(p, seed) for seed in (1, 2) for p in phantom_ids("brain", 1)][: 1 if quick else None]
    wrong = [_features(make(v, np.random.default_rng(0))) for make in KINDS.values() for v in held_out]
    good = [_features(volume) for volume in held_out]
    rows = []
    for count in FEW:
        found = summarise(training[:count], SIZES["phantoms"])
        caught, refused = (sum(f is None or bool(compare(f, found)) for f in each) for each in (wrong, good))
        counts = {"caught": f"{caught}/{len(wrong)}", "refused": f"{refused}/{len(good)}"}
        data = f"head phantoms, {count} in training"
        rows.append({"data": data, "input": "all wrong kinds together", **counts, "most frequent finding": "–"})
    return rows


def _features(volume: Volume) -> dict[str, float] | None:
    """Return a volume's features, None if it is refused before they are computed."""
    try:
        return volume_features(volume, SIZES["phantoms"])[0]
    except MrictError:
        return None


def _real(quick: bool) -> list[dict[str, Any]]:
    data, folder = "real heads, middle slices (approximate)", SAMPLES / "synthrad_brain_axial" / "Task1" / "brain"
    files = sorted(folder.glob("*/mr.nii.gz"))
    if not files:
        reason = f"skipped: no samples, {HOW_TO_GET}"
        return [{"data": data, "input": reason, "caught": "–", "refused": "–", "most frequent finding": "–"}]
    found = trained_on((load_volume(path) for path in files[::2]), SIZES["real"])
    held_out = [load_volume(path) for path in files[1::2][: 3 if quick else None]]
    rows = [row(data, "good, held out", held_out, found, wrong=False)]
    for kind in SINGLE_SLICE:
        rng = np.random.default_rng(0)
        rows.append(row(data, kind, (KINDS[kind](volume, rng) for volume in held_out), found))
    ct = (load_volume(volume.path.with_name("ct.nii.gz")) for volume in held_out)
    rows.append(row(data, "CT given as MR", ct, found))
    both = [(load_volume(path), load_volume(path.with_name("ct.nii.gz"))) for path in files]
    return [*rows, bone_row(data, both[::2], both[1::2])]
