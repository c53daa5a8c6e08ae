"""Real data and weights outside the repository: their folders, and skipping without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrict_core.networks import weights
from mrict_core.paths import ROOT

VARIABLE = "MRICT_SAMPLES"
SAMPLES = Path(os.environ.get(VARIABLE) or ROOT.parent / "shared" / "samples")
WEIGHTS = Path(os.environ.get(weights.FOLDER) or ROOT.parent / "shared" / "weights")
HOW_TO_GET = f"set {VARIABLE}; tests/README.md says what to put there"


def sample(name: str) -> Path:
    """Return a folder of the samples ("brainweb_head/Task1/brain/BW04"); skip the test if it is missing."""
    if not (SAMPLES / name).is_dir():
        pytest.skip(f"no sample data {name} in {SAMPLES}: {HOW_TO_GET}")
    return SAMPLES / name


def pretrained(*files: str) -> Path:
    """Return the first of these files in the folder of pretrained weights; skip the test if there is none."""
    found = [WEIGHTS / file for file in files if (WEIGHTS / file).is_file()]
    if not found:
        pytest.skip(f"no {' or '.join(files)} in {WEIGHTS}: set {weights.FOLDER}; tests/README.md names the files")
    return found[0]
