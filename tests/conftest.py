"""Fixtures: small NIfTI patients, prepared once per session, and temporary folders for all output."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

from mrict_core.paths import Workspace, workspace

FOLDERS = ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS")
MINIATURE = {"profile": "smoke", "grid_mm": 6.0, "steps": 40}  # ./run_all.sh runs the demo


def pytest_configure():
    """Take Ctrl-C; give each of several test processes its own part of the caller's folders and of the cores.

    With a core alone, a process works on patients itself where it would else start one for each core.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job; the tests' commands inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = os.environ.get("PYTEST_XDIST_WORKER")
    if not process:
        return
    for name in FOLDERS:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]) / process)
    if hasattr(os, "sched_setaffinity"):
        cores, count = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.sched_setaffinity(0, cores[int(process.removeprefix("gw")) :: count] or cores)


class Together(LoadScopeScheduling):
    """Keep the tests of a file, and all notebooks, in one process: they build on each other."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "notebooks" if file.endswith(".ipynb") else file


def pytest_xdist_make_scheduler(config, log):
    """Use `Together` (pytest-xdist 3.8's own marks for this have no effect under pytest 9.2)."""
    return Together(config, log)


def pytest_collection_modifyitems(items):
    """Run the notebooks in miniature, by values after their own parameters, as papermill gives them."""
    for item in items:
        cell = getattr(item, "cell", None)  # of nbval
        if cell and "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{k} = {v!r}" for k, v in MINIATURE.items() if f"{k}: " in cell.source)


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory):
    """Send all output of the suite to a temporary folder, unless the caller chose one."""
    root = tmp_path_factory.mktemp("mrict")
    chosen = {name: os.environ.get(name) for name in FOLDERS}
    for name, value in chosen.items():
        if value is None:
            os.environ[name] = str(root / name.lower())
    yield
    for name, value in chosen.items():
        if value is None:
            del os.environ[name]


@pytest.fixture(autouse=True)
def _no_starters(monkeypatch):
    """Leave the packaged starter models out: most tests are about the models that they make themselves."""
    monkeypatch.setattr("mrict_core.models.catalogue.STARTERS", Path("no starters"))


def write_patient(folder: Path, seed: int, shape: tuple[int, int, int] = (40, 46, 10)) -> None:
    """Write mr, ct and mask of a small ball with a bright shell, a dark core and noise."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes[:2]) / 0.8**2 + (axes[2] * 0.3) ** 2)
    radius += 0.05 * np.sin(3 * axes[0] + seed)
    ct = np.select([radius < 0.35, radius < 0.8, radius < 1], [40.0, 10.0, 900.0], -1000.0)
    mr = np.select([radius < 0.35, radius < 0.8, radius < 1], [400.0, 700.0, 60.0], 2.0)
    ct = np.clip(ct + rng.normal(0, 8, shape), -1024, 3000).round().astype(np.int16)
    mr = np.abs(mr + rng.normal(0, 6, shape)).astype(np.float32)
    mask = (radius < 1.05).astype(np.uint8)
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    folder.mkdir(parents=True)
    for name, array in (("mr", mr), ("ct", ct), ("mask", mask)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")


def write_slice(folder: Path, plane: str, seed: int = 0, code: str = "RAS") -> None:
    """Write the middle slice of `write_patient`'s ball, one voxel thick, with its axes along `code`."""
    write_patient(folder, seed, (40, 46, 36))
    axis = ("sagittal", "coronal", "axial").index(plane)
    ornt = nib.orientations.axcodes2ornt
    turn = nib.orientations.ornt_transform(ornt("RAS"), ornt(code))
    for role in ("mr", "ct", "mask"):
        image = nib.load(folder / f"{role}.nii.gz")
        middle = [slice(None)] * 3
        middle[axis] = slice(image.shape[axis] // 2, image.shape[axis] // 2 + 1)
        one = image.slicer[tuple(middle)].as_reoriented(turn)
        nib.save(nib.Nifti1Image(np.asanyarray(one.dataobj), one.affine), folder / f"{role}.nii.gz")


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """A folder of nine small patients from three centres in SynthRAD layout."""
    root = tmp_path_factory.mktemp("cohort")
    for k, patient in enumerate(f"1B{centre}{number:03d}" for centre in "ABC" for number in (1, 2, 3)):
        write_patient(root / "Task1" / "brain" / patient, seed=k)
    return root


@pytest.fixture(scope="session")
def space(cohort) -> Workspace:
    """The cohort prepared and split at the smoke profile's size."""
    from mrict_core.pipeline import prepare_data

    return prepare_data("smoke", str(cohort)).workspace


@pytest.fixture
def fresh_space(cohort, space, tmp_path, monkeypatch) -> Workspace:
    """The prepared cohort with empty folders for checkpoints and reports."""
    monkeypatch.setenv("MRICT_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("MRICT_REPORTS", str(tmp_path / "reports"))
    return workspace("smoke", str(cohort))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    """A folder with two untrained models, a.pt and b.pt."""
    from tiny_models import untrained_checkpoint

    folder = tmp_path_factory.mktemp("models")
    untrained_checkpoint(folder / "a.pt")
    untrained_checkpoint(folder / "b.pt", seed=1)
    return folder


@pytest.fixture(scope="session")
def models(checkpoints) -> list:
    """The first of them, loaded."""
    from mrict_core.pipeline.synthesis import load_models

    return load_models([str(checkpoints / "a.pt")], device="cpu")
