"""Files of other tools: the container for training, the workflow of GitHub, pre-commit. None of them runs here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mrict_core.paths import ROOT

DOCKER = ROOT / "docs" / "docker"
TRAIN = (DOCKER / "train.Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))
HOOKS = [
    hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in repo["hooks"]
]
PINS = [
    line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if re.match(r"[\w-]+==", line)
]


def instructions(name: str) -> list[str]:
    """Return what follows every instruction of one name in the container file for training."""
    return re.findall(rf"^{name} (.+)$", TRAIN, re.MULTILINE)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """The folder that `COPY . .` makes: the repository's files without those of the dockerignore."""
    folder = tmp_path_factory.mktemp("image") / "mrict"
    ignored = (DOCKER / "train.Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert ignored[:2] == [".git", ".venv"]
    top = {name for name in ignored if "/" not in name} | {".ruff_cache", ".pytest_cache", ".hypothesis"}
    back = {name[1:] for name in ignored if name.startswith("!")}  # after the line that leaves its folder out

    def left_out(at: str, names: list[str]) -> list[str]:
        below = Path(at).relative_to(ROOT)
        inside = {name for name in names if f"{below}/*" in ignored and f"{below}/{name}" not in back}
        return [n for n in names if n == "__pycache__" or n in inside or (below == Path() and n in top)]

    shutil.copytree(ROOT, folder, ignore=left_out)
    return folder


def test_both_containers_and_the_workflow_use_a_python_of_the_pins():
    assert instructions("FROM") == re.findall(r"^FROM (.+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    version = re.fullmatch(r"python:(\d\.\d+)-slim", instructions("FROM")[0])[1]
    least = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert version == least
    assert WORKFLOW["jobs"]["checks"]["strategy"]["matrix"]["python"] == [version, "3.12"]


def test_the_container_installs_before_it_copies_and_its_sources_exist(image):
    first, everything = (line.split() for line in instructions("COPY"))
    assert first[-1] == "./"
    assert everything == [".", "."]
    for name in first[:-1]:
        assert (image / name).is_file()
    assert instructions("RUN")[0] == "./run_all.sh --setup-only"  # needs nothing but these
    assert "requirements.txt" in (ROOT / "run_all.sh").read_text(encoding="utf-8")


def test_the_container_holds_the_starter_and_no_other_model(image):
    assert [path.name for path in (image / "checkpoints").iterdir()] == ["starter-brain"]
    assert (image / "checkpoints" / "starter-brain" / "model.safetensors").is_file()


def test_the_commands_of_the_container_run_in_its_folder(image, tmp_path):
    folders = {
        name: value.replace("/out", str(tmp_path)) for name, value in re.findall(r"(MRICT_\w+)=(/out/\w+)", TRAIN)
    }
    assert set(folders) == {"MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS"}
    command = json.loads(instructions("CMD")[0])
    environment = os.environ | folders | {"PYTHONPATH": str(image), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=image, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--data DIR" in done.stdout
    example = re.search(r"mrict-train\s+#\s+mrict (.+)", TRAIN)[1]
    named = [word for word in example.split() if word.startswith("--")]
    helped = subprocess.run(
        [sys.executable, "-m", "mrict_core", example.split()[0], "--help"],
        cwd=image,
        env=environment | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert helped.returncode == 0, helped.stderr
    assert all(option in helped.stdout for option in named)


def test_the_workflow_calls_the_same_checks_with_least_rights():
    job = WORKFLOW["jobs"]["checks"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in job
    steps = job["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for step in steps:
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
    assert steps[0]["with"] == {"persist-credentials": False}
    cache = next(step for step in steps if "actions/cache" in step.get("uses", ""))
    assert cache["with"]["path"] == job["env"]["PIP_CACHE_DIR"]
    assert "requirements.txt" in cache["with"]["key"]


def test_a_failed_run_keeps_its_reports():
    job = WORKFLOW["jobs"]["checks"]
    upload = job["steps"][-1]
    assert upload["if"] == "failure()"
    assert upload["with"]["path"] == job["env"]["MRICT_TEST_OUTPUT"] + "/reports"
    assert "scratch=${MRICT_TEST_OUTPUT:-}" in (ROOT / "run_tests.sh").read_text(encoding="utf-8")


def test_hooks_use_the_versions_of_the_requirements():
    assert {hook["id"] for hook in HOOKS} == {"ruff-check", "ruff-format", "nbstripout"}
    for hook in HOOKS:
        (pin,) = hook["additional_dependencies"]
        assert pin in PINS
        assert hook["entry"].split()[0] == pin.split("==")[0]


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_hook_leaves_the_notebooks_as_they_are(tmp_path):
    copies = [shutil.copy(path, tmp_path) for path in (ROOT / "notebooks").rglob("*.ipynb")]
    before = {path: Path(path).read_bytes() for path in copies}
    (entry,) = (hook["entry"].split() for hook in HOOKS if hook["id"] == "nbstripout")
    subprocess.run([sys.executable, "-m", *entry, *copies], check=True)
    assert [Path(path).name for path in copies if Path(path).read_bytes() != before[path]] == []
