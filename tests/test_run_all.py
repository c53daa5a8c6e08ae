"""The two shell scripts, run on copies with fakes of Python, df and .venv: nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mrict_core import cli
from mrict_core.paths import ROOT

SCRIPTS = ("run_all.sh", "run_tests.sh", ".ci/run")
TOOLS = ("bash", "cat", "chmod", "cksum", "dirname", "awk", "df", "rm")


def script(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/usr/bin/env bash", *lines, ""]))
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path) -> Path:
    """A copy of the files that run_all.sh reads; its folder `bin` is the whole PATH."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("run_all.sh", "requirements.txt", "requirements-dose.txt"):
        shutil.copy(ROOT / name, folder)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return folder


def run(clone: Path, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    env = {"PATH": str(clone.parent / "bin"), "HOME": str(clone.parent), **env}
    command = [str(clone / "run_all.sh"), *arguments]
    return subprocess.run(command, cwd=cwd or clone, env=env, capture_output=True, text=True, timeout=30)


def stand_in_venv(clone: Path) -> None:
    """An up-to-date .venv with a python that prints its arguments, one per line."""
    (clone / "site").mkdir()
    python = clone / ".venv" / "bin" / "python"
    script(python, 'if [ "$1" = -c ]; then echo "$PWD/site"; else printf "%s\\n" "$PWD" "$@"; fi')
    checksum = subprocess.run(["cksum", "requirements.txt"], cwd=clone, capture_output=True, check=True).stdout
    (clone / ".venv" / "requirements.cksum").write_bytes(checksum)


SWITCHES = {"--dose", "--force", "--tensorboard", "--exclude-metal", "--setup-only", "--help"}


def accepted_flags() -> set[str]:
    """The long options in the script's case patterns."""
    text = (ROOT / "run_all.sh").read_text()
    patterns = re.findall(r"^\s+(--\S+?)\)", text, re.MULTILINE)
    return {flag.removesuffix("=*") for pattern in patterns for flag in pattern.split("|") if flag.startswith("--")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_and_can_be_executed(name):
    subprocess.run(["bash", "-n", ROOT / name], check=True)
    assert os.access(ROOT / name, os.X_OK)
    text = (ROOT / name).read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text


def test_help_lists_every_flag(clone):
    result = run(clone, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    flags = accepted_flags()
    assert {"--profile", "--data", "--region", "--variants", "--force", "--help"} <= flags
    assert {flag for flag in flags if flag not in result.stdout} == set()
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_flags_are_those_of_the_suite_command():
    suite = typer.main.get_command(cli.app).commands["suite"]
    options = {name for parameter in suite.params for name in parameter.opts}
    assert accepted_flags() - {"--setup-only", "--help"} == options - {"--help"}


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["--profil", "demo"], "'--profil': did you mean --profile"),
        (["--varaints=mk7"], "'--varaints': did you mean --variants"),
        (["demo"], "'demo': see "),
        (["--jobs=2", "-x"], "'-x': see "),
    ],
)
@pytest.mark.parametrize("python", [True, False])
def test_unknown_option_is_one_line(clone, arguments, near, python):
    if python:
        (clone.parent / "bin" / "python3").symlink_to(sys.executable)
    result = run(clone, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "unknown option" in line
    assert "--help" in line
    assert (near in line) == (python or "did" not in near)
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("flag", sorted(accepted_flags() - SWITCHES))
def test_flag_without_its_value_is_one_line(clone, flag):
    result = run(clone, flag)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert f"{flag} needs a value" in line


@pytest.mark.parametrize("name", [None, "old-python"])
def test_python_too_old_is_one_message(clone, name):
    """Neither the system's python3 nor the one that MRICT_PYTHON names is new enough."""
    for python in ("python3", "old-python"):
        script(
            clone.parent / "bin" / python,
            'if [ "$1" = --version ]; then echo "Python 3.9.2"; exit 0; fi',
            f"exec {sys.executable} -c \"import sys; sys.version_info = (3, 9, 2, 'final', 0); $2\"",
        )
    result = run(clone, **({"MRICT_PYTHON": name} if name else {}))
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    for part in ("3.11", "3.9.2", "MRICT_PYTHON"):
        assert part in line
    assert not (clone / ".venv").exists()


def test_no_python_at_all_is_the_same_message(clone):
    result = run(clone)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "Python 3.11 or newer is needed" in line


def test_disk_too_small_is_one_message(clone):
    bin_ = clone.parent / "bin"
    script(bin_ / "python3", f'exec {sys.executable} "$@"')
    (bin_ / "df").unlink()
    script(
        bin_ / "df",
        "echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'",
        "echo '/dev/disk 99999999 96999999 3000000 97% /'",
    )
    result = run(clone)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    for part in ("too small", "2 GB free", "9 GB"):
        assert part in line
    assert not (clone / ".venv").exists()


def test_arguments_reach_the_suite_whole(clone):
    stand_in_venv(clone)
    (clone / "my data").mkdir()
    given = [
        "--data",
        str(clone / "my data"),
        "--data",
        "/more",
        "--region=pelvis",
        "--variants",
        "mk1, mk2",
        "--force",
    ]
    result = run(clone, *given)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [str(clone), "-m", "mrict_core", "suite", *given]


def test_setup_only_runs_nothing_and_links_the_repository(clone):
    stand_in_venv(clone)
    result = run(clone, "--setup-only")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (clone / "site" / "mrict_core.pth").read_text() == f"{clone}\n"
    done = subprocess.run([clone / ".venv" / "bin" / "mrict", "models", "a b"], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["-m", "mrict_core", "models", "a b"]


@pytest.mark.parametrize("form", ["--data {}", "--data={}", "--group-by {}.csv", "--group-by={}.csv"])
def test_files_are_meant_from_where_the_command_is_typed(clone, form):
    stand_in_venv(clone)
    (clone.parent / "patients").mkdir()
    result = run(clone, *form.format("patients").split(" "), cwd=clone.parent)
    assert result.returncode == 0
    words = result.stdout.splitlines()
    assert words[0] == str(clone)
    assert " ".join(words[4:]) == form.format(clone.parent / "patients")


@pytest.mark.parametrize(
    "given", ["--data=/x", "--data=", "--group-by=(.+)_[ab]", "--group-by=~/x.csv", "--region=x.csv"]
)
def test_other_values_are_passed_on_as_they_are(clone, given):
    stand_in_venv(clone)
    assert run(clone, given, cwd=clone.parent).stdout.splitlines()[4:] == [given]


@pytest.mark.parametrize("given", [["--dose"], ["--setup-only", "--dose"]])
def test_dose_is_installed_once_without_dependencies(clone, given):
    stand_in_venv(clone)
    first, second = run(clone, *given), run(clone, *given)
    assert (first.returncode, first.stderr) == (0, "")
    installed = first.stdout.splitlines()
    place = installed.index("--no-deps")
    assert installed[place : place + 3] == ["--no-deps", "-r", "requirements-dose.txt"]
    assert "pip" not in second.stdout.splitlines()
    suite = [str(clone), "-m", "mrict_core", "suite", "--dose"]
    assert second.stdout.splitlines() == ([] if "--setup-only" in given else suite)


def test_without_dose_nothing_more_is_installed(clone):
    stand_in_venv(clone)
    assert run(clone, "--force").stdout.splitlines() == [str(clone), "-m", "mrict_core", "suite", "--force"]
    assert not (clone / ".venv" / "requirements-dose.cksum").exists()


def test_a_failed_installation_of_dose_is_said_and_tried_again(clone):
    stand_in_venv(clone)
    script(clone / ".venv" / "bin" / "python", 'if [ "$1" = -c ]; then echo "$PWD/site"; else exit 1; fi')
    result = run(clone, "--setup-only", "--dose")
    assert result.returncode == 1
    assert "requirements-dose.txt failed" in result.stderr
    assert not (clone / ".venv" / "requirements-dose.cksum").exists()
