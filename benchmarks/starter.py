"""The starter model on a whole head of another world: planes, flips and how they are merged; time and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from samples import HOW_TO_GET, SAMPLES

from benchmarks import measure
from mrict_core.data.cache.patient import body_of
from mrict_core.data.images.orders import PLANES
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.hu import AIR_FLOOR_HU, WATER_HU
from mrict_core.inference import Synthesizer, load_synthesizer
from mrict_core.inference.volume import SynthesisOptions, synthesize_volume
from mrict_core.machine import cpu_count
from mrict_core.models import catalogue

TITLE = "Starter model on a whole head (simulated MR, exact CT)"
HOW = "masked MAE of a head that no training saw; time and memory of 200 x 256 x 256 voxels in all planes"
HEAD = SAMPLES / "brainweb_head" / "Task1" / "brain" / "BW04"
SHAPE = (200, 256, 256)
MERGES: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "median": np.median}


def missing() -> str:
    """Return why the benchmark cannot run; "" if it can."""
    return "" if HEAD.is_dir() else f"no head in {HEAD}; {HOW_TO_GET}"


def run(quick: bool) -> list[dict[str, Any]]:
    path = catalogue.find("starter-brain")
    starter = load_synthesizer(path, device="cpu", precision="native")
    mr, ct, mask = (load_volume(HEAD / f"{role}.nii.gz") for role in ("mr", "ct", "mask"))
    mr, ct, mask = (v if not quick else _low(v) for v in (mr, ct, mask))
    inside, body = mask.array > 0, body_of(mr)

    def row(case: str, hu: np.ndarray, **more: Any) -> dict[str, Any]:
        return {"case": case, "mae_hu": float(np.abs(hu - ct.array)[inside].mean()), **more}

    best = np.median(ct.array[inside])
    rows = [
        row("water", np.where(body, np.float32(WATER_HU), np.float32(AIR_FLOOR_HU))),
        row("the best constant of this very CT", np.where(body, best, np.float32(AIR_FLOOR_HU))),
    ]
    for tta in (False, True):
        said = " with flips" if tta else ""
        planes = {plane: _in_plane(starter, mr, plane, tta) for plane in PLANES}
        rows += [row(f"{plane}{said}", hu) for plane, hu in planes.items()]
        rows += [row(f"{name} of the planes{said}", how(list(planes.values()), axis=0)) for name, how in MERGES.items()]
    shape = SHAPE if not quick else (24, 64, 64)
    for precision, tta in product(("native", "float32"), (False, True)):
        used = measure.cost(_synthesis, path, precision, tta, shape, repeats=1)
        case = f"synthesis of {' x '.join(map(str, shape))}, {precision}{', flips' if tta else ''}, {cpu_count()} cores"
        rows.append({"case": case, "mae_hu": None, **used})
    return rows


def _low(volume: Volume) -> Volume:
    return dataclasses.replace(volume, array=volume.array[::4, ::4, ::4], affine=volume.affine @ np.diag([4, 4, 4, 1]))


def _in_plane(model: Synthesizer, mr: Volume, plane: str, tta: bool) -> np.ndarray:
    one = dataclasses.replace(model, facts=dataclasses.replace(model.facts, planes=[plane]))
    return synthesize_volume(one, mr, SynthesisOptions(tta=tta)).hu


def _synthesis(path: Path, precision: str, tta: bool, shape: tuple[int, ...]) -> Callable[[], Any]:
    """Return the synthesis of an ellipsoid's MR as a call."""
    torch.set_num_threads(cpu_count())
    model = load_synthesizer(path, device="cpu", precision=precision)
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    inside = sum(axis**2 for axis in axes) < 1
    noise = np.random.default_rng(0).normal(500, 100, shape).astype(np.float32)
    return partial(
        synthesize_volume, model, Volume(np.where(inside, noise, 0), np.eye(4), path), SynthesisOptions(tta=tta)
    )
