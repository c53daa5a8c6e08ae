"""Dose on a whole head: what known errors, published models and water change, by MAE and by dose; time and memory.

Needs requirements-dose.txt and the sample head. Models: the starter and what `evaluate` published, demos excepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.starter import HEAD
from benchmarks.starter import missing as no_head
from mrict_core import metrics
from mrict_core.data.cache.patient import body_of
from mrict_core.data.images.resample import itk_image
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.dose import engine
from mrict_core.dose.study import DoseSettings, Scans, study
from mrict_core.errors import UnavailableError
from mrict_core.hu import AIR_BELOW_HU, AIR_FLOOR_HU, BONE_ABOVE_HU, WATER_HU
from mrict_core.inference import load_synthesizer
from mrict_core.inference.volume import SynthesisOptions, synthesize_volume
from mrict_core.models import catalogue
from mrict_core.pipeline.dose_files import on_grid_of

TITLE = "Dose on a whole head (simulated MR, exact CT)"
HOW = (
    "plans of 9 photon beams and of 2 proton beams on the CT for two test targets, recomputed on each image; generic "
    "machines; ranks: 1 is best; time and memory of one image, both modalities"
)
LONG = True  # ten minutes
NOISE_HU, FLAT_BONE_HU, OFFSET_HU = 80.0, 1000.0, 30.0
OPTIONS = SynthesisOptions()
RANKED = ("dose_mae", "gamma_1_1", "target_d98", "range_mae_mm")


def missing() -> str:
    """Return why the benchmark cannot run; "" if it can."""
    try:
        engine.version()
    except UnavailableError as error:
        return str(error)
    return no_head()


def run(quick: bool) -> Iterator[list[dict[str, Any]]]:
    settings = DoseSettings(grid_mm=6.0 if quick else 3.0)
    images = _images(quick)
    ct, mask = (load_volume(HEAD / f"{role}.nii.gz") for role in ("ct", "mask"))
    inside = mask.array > 0
    mae = {name: float(np.abs(hu - ct.array)[inside].mean()) for name, hu in images.items()}
    found = study(_scans(ct, inside, images), settings, say=lambda text: print(text, flush=True))
    rows = []
    for modality in settings.modalities:
        values = {
            name: {"mae_hu": mae[name]} | {key: found.measure(name, modality, key) for key in metrics.keys("dose")}
            for name in images
        }
        ranks = {key: _ranks({name: one[key] for name, one in values.items()}, key) for key in ("mae_hu", *RANKED)}
        rows += [
            {"case": name, "modality": modality}
            | {key: value for key, value in one.items() if np.isfinite(value)}
            | {f"rank_{key}": rank[name] for key, rank in ranks.items() if name in rank}
            for name, one in values.items()
        ]
    yield rows
    yield [*rows, {"case": "one image, both modalities", **measure.cost(_one, settings, repeats=1)}]


def _images(quick: bool) -> dict[str, np.ndarray]:
    """Return the images that are compared, in HU: known errors of the CT, synthetic CTs, water."""
    mr, ct, mask = (load_volume(HEAD / f"{role}.nii.gz") for role in ("mr", "ct", "mask"))
    hu, inside, rng = ct.array, mask.array > 0, np.random.default_rng(0)
    soft = inside & (hu > AIR_BELOW_HU) & (hu < BONE_ABOVE_HU)
    images = {
        "+30 HU in soft tissue": np.where(soft, hu + OFFSET_HU, hu),
        "noise of 80 HU": np.where(inside, hu + rng.normal(0, NOISE_HU, hu.shape), hu),
        "bone of 1000 HU": np.where(inside & (hu >= BONE_ABOVE_HU), FLAT_BONE_HU, hu),
        "water": np.where(body_of(mr), WATER_HU, AIR_FLOOR_HU),
    }
    images["mean CT (one value)"] = np.where(body_of(mr), hu[inside].mean(), AIR_FLOOR_HU)
    for entry in catalogue.for_region("brain")[0] if not quick else ():
        if not entry.demo:
            model = load_synthesizer(entry.path, device="cpu", precision="native")
            images[f"{entry.variant} ({entry.own_name or entry.label})"] = synthesize_volume(model, mr, OPTIONS).hu
    return {name: image.astype(np.float32) for name, image in images.items()}


def _scans(ct: Volume, inside: np.ndarray, images: dict[str, np.ndarray]) -> Scans:
    like = itk_image(ct)
    scts = {name: on_grid_of(like, image) for name, image in images.items()}
    return Scans(like, on_grid_of(like, inside.astype(np.uint8)), scts)


def _one(settings: DoseSettings) -> Callable[[], Any]:
    """Return the doses of one image as a call."""
    ct, mask = (load_volume(HEAD / f"{role}.nii.gz") for role in ("ct", "mask"))
    engine.version()
    return partial(study, _scans(ct, mask.array > 0, {"water": np.zeros_like(ct.array)}), settings)


def _ranks(values: dict[str, float], key: str) -> dict[str, int]:
    """Return {image: rank} by a metric, 1 the best; images without a value are left out."""
    known = {name: metrics.metric(key).order(value) for name, value in values.items() if np.isfinite(value)}
    return {name: 1 + sum(other < own for other in known.values()) for name, own in known.items()}
