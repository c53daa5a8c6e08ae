"""Tiny models for tests: untrained networks under checkpoints that say so, and volumes to put through them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from mrict_core.experiments import as_plain, get
from mrict_core.experiments.profiles import get_profile
from mrict_core.hu import WINDOWS
from mrict_core.inference import Synthesizer
from mrict_core.machine import versions
from mrict_core.methods import build_method
from mrict_core.paths import Workspace
from mrict_core.training.checkpoint import save_checkpoint
from mrict_core.training.runs import TrainingRun, runs_of


def untrained_checkpoint(
    path: Path, *, name: str = "mk6_3_4", seed: int = 0, size: int = 64, protocol: str = "patient", **facts: Any
) -> Path:
    """Write a whole checkpoint of a network of profile smoke whose weights are the random ones of `seed`.

    Its batch norms have seen nothing and its history is empty: a model that runs, and knows nothing.
    """
    variant = get(name)
    profile = dataclasses.replace(get_profile("smoke"), size=size, size_max=size)
    torch.manual_seed(seed)
    method = build_method(variant, profile, training=False)
    window = WINDOWS[protocol]
    payload = {
        "key": f"untrained-{seed}",
        "variant": name,
        "fields": as_plain(variant),
        "profile": dataclasses.asdict(profile),
        "seed": seed,
        "precision": "float32",
        "size": size,
        "protocol": protocol,
        "window_hu": [window.low, window.high],
        "store_key": "none",
        "split_hash": "none",
        "parent": None,
        "parent_hash": None,
        "features": None,
        "training_pairs": 0,
        "epoch": 1,
        "epochs": 0,
        "complete": True,
        "stopped": "",
        "history": [],
        "versions": versions(),
        "networks": {method.mr_to_ct: method.generator.state_dict()},
        **facts,
    }
    save_checkpoint(path, payload)
    return path


def with_network(model: Synthesizer, network: torch.nn.Module) -> Synthesizer:
    """Return the model with another network in the place of its generator."""
    method = copy.copy(model.method)
    method.networks = {method.mr_to_ct: network}
    return dataclasses.replace(model, method=method)


def run_of(space: Workspace, name: str) -> TrainingRun:
    """Return the newest training of a variant."""
    return runs_of(space, name)[-1]


def head_array(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] = (5.0, 5.0, 6.0)) -> np.ndarray:
    """Return an MR-like ball with an off-centre bright spot, so that no axis looks like its mirror image."""
    grid = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)), indexing="ij"
    )
    reach = [max(0.42 * n * s, 0.6 * s) for n, s in zip(shape, spacing_mm, strict=True)]
    radius = np.sqrt(sum((g / r) ** 2 for g, r in zip(grid, reach, strict=True)))
    spot = np.exp(-sum(((g - 0.3 * r) / (0.25 * r)) ** 2 for g, r in zip(grid, reach, strict=True)))
    noise = np.random.default_rng(5).normal(0, 3, shape)
    return np.abs(np.select([radius < 0.8, radius < 1], [300.0, 700.0], 4.0) + 500 * spot + noise).astype(np.float32)


def write_head(
    path: Path,
    shape: tuple[int, int, int] = (34, 40, 7),
    affine: np.ndarray | None = None,
    spacing_mm: tuple[float, float, float] = (5.0, 5.0, 6.0),
) -> Path:
    """Write `head_array` as NIfTI; the default affine has axes RAS."""
    affine = np.diag([*spacing_mm, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(head_array(shape, spacing_mm), affine), path)
    return path


def files_in(folder: Path) -> list[str]:
    """Return every file under a folder, relative to it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
