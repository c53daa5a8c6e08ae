"""The package: a wheel installed into a bare environment works outside the checkout and writes only to the work folder.

The environment has this package alone; torch and the others come from the environment that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import pytest
from packaging.requirements import Requirement

from benchmarks.gate import phantom
from mrict_core import __version__, doctor
from mrict_core.data.images.volumes import save_nifti
from mrict_core.data.phantom import PhantomSpec
from mrict_core.paths import ROOT, pin_roots

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the paths inside a virtual environment are Unix's")
Command = Callable[..., subprocess.CompletedProcess]


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A virtual environment with the wheel."""
    dist, folder = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, ".")
    (wheel,) = dist.iterdir()
    pip("--python", folder / "bin" / "python", "install", "--no-deps", wheel)
    others = sysconfig.get_path("purelib")  # Python does not read the .pth files there, so the checkout stays unknown
    (site_of(folder) / "others.pth").write_text(f"{others}\n")
    return folder


def site_of(bare: Path) -> Path:
    (folder,) = bare.glob("lib/python3.*/site-packages")
    return folder


def content(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return sizes and times of all files and folders; Python itself writes bytecode."""
    found = (p for p in folder.rglob("*") if "__pycache__" not in p.parts)
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in found if p.is_file() or not p.name.startswith("_")}


def clean_environment() -> dict[str, str]:
    """Return the environment without what other tests of this process have put there."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MRICT_", "PYTHON"))}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120"}


@pytest.fixture
def mrict(bare, tmp_path) -> Command:
    """Runs the command `mrict` in an empty folder; fails if anything is written among the installed packages."""

    def run(*words: str | Path, expected: int = 0, cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess:
        clean = clean_environment() | env
        before = content(site_of(bare))
        done = subprocess.run([bare / "bin" / "mrict", *words], cwd=cwd, env=clean, capture_output=True, text=True)
        assert done.returncode == expected, done.stdout + done.stderr
        assert content(site_of(bare)) == before
        return done

    return run


def test_it_is_the_wheel_that_runs(bare, mrict):
    assert mrict("--version").stdout == f"{__version__}\n"
    code = "import mrict_core; print(mrict_core.__file__)"
    command, env = [bare / "bin" / "python", "-c", code], clean_environment()
    done = subprocess.run(command, cwd=bare, env=env, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(site_of(bare))
    assert "No module named" not in done.stderr


def test_doctor_finds_all_that_is_needed(mrict, tmp_path):
    found = json.loads(mrict("doctor", "--json").stdout)
    assert (found["problems"], found["form"]) == ([], "installed package")
    assert [(row["path"], row["from"]) for row in found["folders"][:2]] == [
        (str(tmp_path), "current folder"),
        (str(tmp_path / "data"), "work folder"),
    ]
    assert [model["name"] for model in found["models"]] == ["starter-brain"]
    extras = {row["name"]: row["extra"] for row in found["packages"]}
    names = ("torch", "papermill", "python-gdcm", "pyRadPlan")
    assert [extras[name] for name in names] == ["", "notebooks", "dicom", "dose"]
    assert list(tmp_path.iterdir()) == []


def test_the_starter_makes_a_ct(mrict, tmp_path):
    head = phantom("1BA001", 7, PhantomSpec("brain", 6.0, 6.0), "mr")
    save_nifti(tmp_path / "my_t1.nii.gz", head.array, head.affine)
    done = mrict("synthesize", "my_t1.nii.gz", "-o", "ct.nii.gz", "--resample-to-mm", "0")
    assert "starter-brain" in done.stdout
    mr, ct = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("my_t1", "ct"))
    assert ct.shape == mr.shape
    assert ct.get_fdata().min() < -900 < 300 < ct.get_fdata().max()  # air and bone
    assert {path.name for path in tmp_path.iterdir()} == {"my_t1.nii.gz", "ct.nii.gz", "ct.json"}


def test_models_name_the_starter_unless_the_work_folder_has_its_own(mrict, tmp_path):
    assert "site-packages" in mrict("models").stdout
    own = tmp_path / "checkpoints" / "starter-brain"
    own.parent.mkdir()
    own.symlink_to(ROOT / "checkpoints" / "starter-brain")
    (row,) = json.loads(mrict("models", "--json").stdout)
    assert row["path"] == str(own)


def test_notebooks_are_copied_and_never_replaced_unasked(mrict, tmp_path):
    names = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {line.split()[0] for line in mrict("notebooks", "list").stdout.splitlines()} == {
        name.removesuffix(".ipynb") for name in names
    }
    said = mrict("notebooks", "copy", "mine").stdout
    assert f"MRICT_HOME={tmp_path} jupyter lab mine" in said
    assert {path.name for path in (tmp_path / "mine").iterdir()} == names
    changed = tmp_path / "mine" / "11_synthesize.ipynb"
    changed.write_text("my own")
    assert "11_synthesize" not in (line := mrict("notebooks", "copy", "mine", expected=1).stderr)
    assert line.startswith("error: mine: holds 00_")
    assert changed.read_text() == "my own"
    mrict("notebooks", "copy", "mine", "--overwrite")
    assert changed.read_bytes() == (ROOT / "notebooks" / changed.name).read_bytes()


def test_the_suite_runs_packaged_notebooks_in_the_work_folder(mrict, tmp_path):
    mrict("--workdir", "work", "suite", "--profile", "smoke", "--only", "00")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"data", "reports"}
    executed = tmp_path / "work" / "reports" / "runs" / "smoke-phantom-brain" / "executed"
    assert (executed / "00_preprocess_and_mask.ipynb").is_file()


def test_a_folder_of_packages_is_no_work_folder(bare, mrict):
    line = mrict("phantom", "--profile", "smoke", expected=1, cwd=site_of(bare)).stderr.splitlines()[-1]
    assert line == (
        f"error: {site_of(bare).resolve()}: holds installed packages; expected a work folder; "
        "give --workdir, or set MRICT_HOME"
    )


def test_processes_elsewhere_find_the_checkout(tmp_path, monkeypatch):
    """Kernels and workers of a suite that runs from a checkout, with a work folder of its own."""
    monkeypatch.setenv("MRICT_HOME", str(tmp_path / "work" / ".." / "work"))
    monkeypatch.setenv("PYTHONPATH", "/given")
    for _ in range(2):
        pin_roots()
        assert os.environ["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/given"])
    assert os.environ["MRICT_HOME"] == str(tmp_path / "work")


# ---------------------------------------------------------------------------------------------- the two lists of needs


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def named() -> list[Requirement]:
    return [one for each in doctor.requirements().values() for one in each]


def test_both_lists_name_the_same_packages():
    names = [one.name for one in named()]
    assert sorted(names) == sorted(set(names)), "a package in two extras"
    assert set(names) == set(pins())


def test_versions_are_lower_bounds_that_the_pinned_ones_meet():
    for one in named():
        assert re.fullmatch(r">=[\d.]+", str(one.specifier)), f"{one}: expected a lower bound alone"
        assert one.specifier.contains(pins()[one.name]), f"{one}: requirements.txt pins {pins()[one.name]}"
