"""Does preparing the MR help? MK7's base trained on phantoms with and without bias correction and clipping."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from mrict_core.data.cache.store import SliceStore
from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.data.splits import load_split
from mrict_core.evaluation import Predictions, score_patients
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.inference import load_synthesizer
from mrict_core.pairing.bodies import mr_body
from mrict_core.pairing.mr_preparation import clip, correct_bias
from mrict_core.paths import Workspace
from mrict_core.pipeline.preparation import prepare_data
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings

TITLE = "Preparation of the MR: what helps"
HOW = "phantom heads of profile demo; equal steps; masked MAE of people kept out, means over people, then over seeds"
VARIANT, PROFILE = "mk7_0", "demo"
SEEDS, STEPS, PER_CENTRE = (0, 1, 2), 240, 5
QUICK_SEEDS, QUICK_STEPS, QUICK_PER_CENTRE = (0,), 2, 1
FOLDERS = {"MRICT_DATA": "data", "MRICT_CHECKPOINTS": "checkpoints", "MRICT_REPORTS": "reports"}
CASES = {"as it is": (False, False), "N4": (True, False), "clipped": (False, True), "N4, then clipped": (True, True)}


def run(quick: bool) -> list[dict[str, Any]]:
    seeds, steps, count = (QUICK_SEEDS, QUICK_STEPS, QUICK_PER_CENTRE) if quick else (SEEDS, STEPS, PER_CENTRE)
    with tempfile.TemporaryDirectory() as folder, _working_in(Path(folder)):
        profile = get_profile(PROFILE)
        mm = profile.phantom_in_plane_mm["brain"]
        spec = PhantomSpec("brain", mm, profile.phantom_slice_mm, profile.phantom_supersample)
        people = write_cohort(Path(folder, "people"), "brain", count, 42, spec, workers=1)
        roots = {case: Path(folder, "".join(c if c.isalnum() else "_" for c in case)) for case in CASES}
        for person in people:
            _write_prepared(person, roots)
        errors = {}
        for case, root in roots.items():
            space = prepare_data(PROFILE, str(root), report=_silent).workspace
            errors[case] = [_errors(space, seed, steps) for seed in seeds]
            print(f"  {case}: done", flush=True)
    return [_row(case, errors, steps) for case in CASES]


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Keep caches, checkpoints and reports in a folder."""
    before = {name: os.environ.get(name) for name in FOLDERS}
    os.environ.update({name: str(folder / "work" / own) for name, own in FOLDERS.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _silent(line: str) -> None:
    """Report nothing: the table says all."""


def _write_prepared(person: Path, roots: Mapping[str, Path]) -> None:
    """Write a person to the folder of each case."""
    mr = sitk.ReadImage(str(person / "mr.nii.gz"), sitk.sitkFloat32)
    body = mr_body(mr)
    corrected = correct_bias(mr, body)
    for case, (n4, clipped) in CASES.items():
        folder = roots[case] / "Task1" / "brain" / person.name
        folder.mkdir(parents=True)
        for role in ("ct", "mask"):
            (folder / f"{role}.nii.gz").symlink_to(person / f"{role}.nii.gz")
        image = corrected if n4 else mr
        sitk.WriteImage(clip(image, body) if clipped else image, str(folder / "mr.nii.gz"))


def _errors(space: Workspace, seed: int, steps: int) -> pd.Series:
    """Train with a seed; return the masked MAE of each person kept out."""
    settings = TrainSettings(seed=seed, device="cpu", precision="float32", steps=steps)
    done = train(get(VARIANT), get_profile(PROFILE), space, settings, report=_silent)
    store, split = SliceStore(space.store), load_split(space.split_file)
    frame = score_patients(store, split.test, Predictions(store, load_synthesizer(done.best, device="cpu"))).frame
    return frame.set_index("patient")["mae_hu"]


def _row(case: str, errors: Mapping[str, Sequence[pd.Series]], steps: int) -> dict[str, Any]:
    own, base = ([float(one.mean()) for one in errors[name]] for name in (case, next(iter(CASES))))
    gaps = [a - b for a, b in zip(own, base, strict=True)]
    return {
        "case": case,
        "people": len(errors[case][0]),
        "seeds": len(own),
        "steps": steps,
        "mae_hu": float(np.mean(own)),
        "mae_hu_seeds_sd": statistics.stdev(own) if len(own) > 1 else None,
        "mean_difference_hu": float(np.mean(gaps)),
        "better_with_seeds": sum(gap < 0 for gap in gaps),
        "seeds_mae_hu": own,
    }


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in words what helped with every seed, what harmed, and what did not decide."""
    tested = rows[1:]
    groups = {
        "Less error with every seed": [r["case"] for r in tested if r["better_with_seeds"] == r["seeds"]],
        "More error with every seed": [r["case"] for r in tested if not r["better_with_seeds"]],
        "Not decided": [r["case"] for r in tested if 0 < r["better_with_seeds"] < r["seeds"]],
    }
    return [" ".join(f"{what}: {'; '.join(names) or 'none'}." for what, names in groups.items())]
