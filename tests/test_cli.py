"""The command line: what it prints, that it does what the notebooks do, and that errors are one line."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import shlex
import subprocess
import sys
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest.mock import Mock, patch

import pandas as pd
import pytest
import typer
from tiny_models import run_of
from typer.testing import CliRunner, Result

from mrict_core import __version__, cli
from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment, all_variants
from mrict_core.experiments.profiles import PROFILES
from mrict_core.files import read_json
from mrict_core.networks.weights import FILES
from mrict_core.paths import ROOT, reports_root, work_root, workspace

NAMES = [v.name for v in all_variants()]
APP = typer.main.get_command(cli.app)
COMMANDS = {  # words => command
    **{name: command for name, command in APP.commands.items() if name != "notebooks"},
    **{f"notebooks {name}": command for name, command in APP.commands["notebooks"].commands.items()},
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=True)


def ok(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def error_of(*arguments: str) -> str:
    """Return the one line that a failing command prints."""
    result = invoke(*arguments)
    assert isinstance(result.exception, MrictError), result.output + repr(result.exception)
    text = str(result.exception)
    assert "\n" not in text
    return text


def shell(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mrict_core", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def main(*arguments: str) -> subprocess.CompletedProcess:
    """Run all that `python -m mrict_core` runs, in this process."""
    out, errors, status = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["mrict", *arguments]), redirect_stdout(out), redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())


# ---------------------------------------------------------------------------------------------------- what it prints


def test_help_lists_the_commands_and_starts_without_torch():
    code = "import sys, mrict_core.cli; print([m for m in ('torch', 'matplotlib', 'papermill') if m in sys.modules])"
    probe = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert probe.stdout == "[]\n"
    text = ok("--help")
    assert len(COMMANDS) >= 20
    assert [name for name in APP.commands if name not in text] == []


@pytest.mark.parametrize("words", ["", "notebooks", *COMMANDS])
def test_short_and_long_help_are_the_same(words):
    text = ok(*words.split(), "-h")
    assert "Usage:" in text
    assert text == ok(*words.split(), "--help")


@pytest.mark.parametrize("words", COMMANDS)
def test_help_ends_with_an_example_that_parses(words):
    command = COMMANDS[words]
    said, start, *example = shlex.split(command.epilog)
    assert (said, start) == ("Example:", "mrict")
    assert example[: len(words.split())] == words.split()
    command.make_context(words, example[len(words.split()) :])
    assert " ".join(ok(*words.split(), "--help").split()).endswith(command.epilog)


def test_completion_is_offered():
    assert "--install-completion" in ok("--help")
    done = subprocess.run(
        [sys.executable, "-m", "mrict_core", "--show-completion", "bash"], cwd=ROOT, capture_output=True, text=True
    )
    assert "complete" in done.stdout


def test_version():
    assert ok("--version") == f"{__version__}\n"


def test_variants_prints_every_name():
    text = ok("variants")
    printed = [line.split()[0] for line in text.splitlines()[2:] if line]
    assert [name for name in NAMES if printed.count(name) != 1] == []
    assert "mk6_4_3 = mk6_3_4" in text


def test_variants_as_json_hold_every_field():
    content = json.loads(ok("variants", "--json"))
    assert {entry["name"] for entry in content["variants"]} == set(NAMES)
    for entry in content["variants"]:
        assert list(entry) == [f.name for f in dataclasses.fields(Experiment)]
        assert entry["why"].strip()
    assert content["aliases"]["mk6_4_3"] == "mk6_3_4"
    entry = next(entry for entry in content["variants"] if entry["name"] == "mk6_3_4")
    G = entry["optimizer"]["G"]
    assert (entry["loss"]["l1"]["weight"], G["schedule"]["kind"], entry["init_from"]) == (9.0, "cosine", "mk6_3_3")


@pytest.mark.parametrize("name", ["mk6_1_0", "mk6_4_3", "practice_mk2"])
def test_diff_shows_what_a_variant_changes(name):
    text = ok("variants", "--diff", name)
    expected = {
        "mk6_1_0": ("changes from mk6_0_3", "loss.l1.weight", "none -> 5", "weights: mk3_1_2_v4_50 -> mk6_1_0"),
        "mk6_4_3": ("mk6_3_4 (asked for as mk6_4_3)", "changes from mk6_3_3", "2.5e-4 -> 2e-5"),
        "practice_mk2": ("from scratch", "no parent"),
    }[name]
    assert [part for part in expected if part not in " ".join(text.split())] == []


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "mk6_3_5"], "unknown variant 'mk6_3_5': did you mean 'mk6_3_4' or 'mk6_3_3' or 'mk6_3_2'?"),
        (["evaluate", "mk33"], "unknown variant 'mk33': did you mean 'mk3"),
        (["variants", "--diff", "mk31"], "unknown variant 'mk31': did you mean 'mk3_1' or 'mk3' or 'mk1'?"),
        (["suite", "--variants", "readmee"], "unknown variant 'readmee'"),
        (["suite", "--variants", ","], "no variant in ','"),
        (["train", "mk1", "--profile", "dmo"], "unknown profile 'dmo': did you mean 'demo'"),
        (["preprocess", "--profile", "tiny"], f"unknown profile 'tiny': allowed: {', '.join(sorted(PROFILES))}"),
        (["phantom", "--profile", "smoke", "--region", "brian"], "unknown region 'brian': did you mean 'brain'?"),
        (
            ["preprocess", "--profile", "smoke", "--data", "{cohort}", "--region", "pelvis"],
            "of region brain, not pelvis",
        ),
        (["preprocess", "--profile", "smoke", "--data", "{cohort}", "--protocol", "patent"], "did you mean 'patient'?"),
        (["preprocess", "--profile", "smoke", "--data", "no/such"], "no/such: no such folder"),
        (["train", "zzzz"], "unknown variant 'zzzz': all names: python -m mrict_core variants"),
        (["train", "mk1", "--profile", "smoke", "--data", "{cohort}", "--device", "gpu"], "device 'gpu' is not known"),
    ],
)
def test_wrong_names_say_what_is_allowed(space, cohort, arguments, expected):
    result = invoke(*(word.format(cohort=cohort) for word in arguments))
    assert result.exit_code == 1
    assert isinstance(result.exception, MrictError), result.output
    assert expected in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train"], "name"),
        (["train", "mk1", "--epochs", "3"], "--epochs"),
        (["suite", "--jobs", "two"], "--jobs"),
        (["suite", "--jobs", "-1"], "--jobs"),
        (["train", "mk1", "--max-pairs", "-5"], "--max-pairs"),
        (["trian", "mk1"], "Did you mean 'train', 'variants'?"),
        (["notebooks", "cpy"], "Did you mean 'copy'?"),
        (["suite", "--profil", "demo"], "--profile, --protocol"),
    ],
)
def test_wrong_options_are_usage_errors(arguments, named):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert named in result.stderr
    assert result.stdout == ""


def test_error_reaches_the_shell_as_one_line():
    result = shell("train", "mk6_3_5")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: unknown variant 'mk6_3_5': did you mean 'mk6_3_4' or ")
    assert line.endswith("? all names: python -m mrict_core variants")
    result = main("variants", "--jsn")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--jsn" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_data_must_be_prepared_first(cohort, tmp_path, monkeypatch, command):
    monkeypatch.setenv("MRICT_DATA", str(tmp_path))
    result = invoke(command, "mk1", "--profile", "smoke", "--data", str(cohort))
    assert isinstance(result.exception, MrictError), result.output
    assert "no slices yet" in str(result.exception)
    assert "python -m mrict_core preprocess" in str(result.exception)


def test_a_report_without_results_names_the_command_that_makes_them(fresh_space, cohort):
    message = error_of("report", "--profile", "smoke", "--data", str(cohort))
    assert "no results of these data; expected an evaluated variant; run ./run_all.sh, or python -m" in message


def test_variant_must_be_trained_before_it_is_evaluated(fresh_space, cohort):
    result = invoke("evaluate", "mk1", "--profile", "smoke", "--data", str(cohort))
    assert isinstance(result.exception, MrictError), result.output
    assert "mk1 is not trained on these data; train it: python -m mrict_core train mk1" in str(result.exception)


def test_child_without_its_parent_offers_the_lineage(fresh_space, cohort):
    result = invoke("train", "mk6_0_1", "--profile", "smoke", "--data", str(cohort))
    assert isinstance(result.exception, MrictError), result.output
    assert "python -m mrict_core train mk6_0_1 --lineage" in str(result.exception)


# ------------------------------------------------------------------------------------------------------ work folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workdir", ""], "--workdir is empty; expected a folder"),
        (["--workdir", "a file"], "a file: a file; expected a work folder"),
        (["--workdir", "a file/new/work"], "a file/new/work: cannot be made, "),
    ],
)
@pytest.mark.parametrize("command", ["models", "variants", "runs"])
def test_a_work_folder_is_a_folder(tmp_path, monkeypatch, arguments, expected, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRICT_HOME", "")
    Path("a file").touch()
    assert expected in error_of(*arguments, command)


def test_the_work_folder_holds_what_has_no_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRICT_HOME", "")
    monkeypatch.delenv("MRICT_DATA", raising=False)
    monkeypatch.setenv("MRICT_REPORTS", "elsewhere")
    assert work_root() == ROOT
    ok("--workdir", "new", "phantom", "--profile", "smoke")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"]
    assert reports_root() == tmp_path / "elsewhere"


# ------------------------------------------------------------------------------------------------------------- doctor


def test_doctor_says_what_is_there():
    text = ok("doctor")
    assert text.startswith(f"MRICT {__version__} (checkout), Python {platform.python_version()}, ")
    assert f"torch {version('torch')}" in text
    assert text.endswith("\nno problem found\n")
    found = json.loads(ok("doctor", "--json"))
    assert set(found["weights"]) == set(FILES)
    assert found["memory_gb"]["total"] > 0


def lacks(monkeypatch, package: str) -> None:
    def of(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", of)


DISK = namedtuple("DISK", "total used free")(0, 0, 3e8)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda patch: lacks(patch, "nibabel"),
            "nibabel: not installed; expected >=5.3; pip install -U 'nibabel>=5.3'",
        ),
        (lambda patch: patch.setattr("importlib.metadata.version", lambda name: "1.0"), "torch: 1.0; expected >="),
        (lambda patch: patch.setattr("shutil.disk_usage", lambda path: DISK), "0.3 GB free; expected 1 GB"),
        (lambda patch: patch.setattr("os.access", lambda path, mode: False), "not writable; expected a folder of your"),
        (lambda patch: patch.setattr("sys.version_info", (3, 10)), "expected 3.11 or newer"),
        (lambda patch: patch.setitem(sys.modules, "torch", None), "torch cannot be imported ("),
        (lambda patch: patch.setenv("MRICT_HOME", __file__), "a file; expected a work folder"),
    ],
    ids=["missing", "old", "disk", "read-only", "python", "torch", "workdir"],
)
def test_doctor_says_what_is_wrong(monkeypatch, change, line):
    change(monkeypatch)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert any(line in each for each in result.stdout.splitlines() if each.startswith("problem: ")), result.output


def test_doctor_does_not_ask_for_extras(monkeypatch):
    lacks(monkeypatch, "papermill")
    assert "papermill missing" in ok("doctor")


def test_doctor_does_not_tell_the_name_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "jane.doe"))
    monkeypatch.setenv("MRICT_HOME", str(tmp_path / "jane.doe" / "work"))
    text = ok("doctor")
    assert "~/work (MRICT_HOME or --workdir)" in text
    assert "jane.doe" not in text.replace(os.environ["MRICT_DATA"], "")


@pytest.mark.parametrize("variables", [[], ["MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS"]])
def test_doctor_reports_a_work_folder_that_is_a_file(tmp_path, monkeypatch, variables):
    monkeypatch.setenv("HOME", str(tmp_path / "jane.doe"))
    for variable in variables:
        monkeypatch.delenv(variable)
    file = tmp_path / "jane.doe" / "work"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setenv("MRICT_HOME", str(file))
    done = invoke("doctor")
    assert (done.exit_code, done.stderr) == (1, "")
    assert "problem: ~/work: a file; expected a work folder; " in done.stdout
    assert "published models" not in done.stdout
    assert "jane.doe" not in done.stdout


def test_the_folder_of_copied_notebooks_is_printed_as_given(tmp_path, monkeypatch):
    monkeypatch.setattr("mrict_core.paths.ROOT", tmp_path)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    text = ok("notebooks", "copy", "mine")
    assert " notebooks: mine\n" in text
    assert "jupyter lab mine\n" in text
    assert error_of("notebooks", "copy", "mine").startswith("mine: holds 00_")


def test_what_an_extra_brings_is_named_with_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = "package papermill is not installed; expected it here; "
    assert error_of("suite", "--only", "00") == f"{missing}pip install -r requirements.txt"
    monkeypatch.setattr("mrict_core.machine.INSTALLED", True)
    assert error_of("suite", "--only", "00") == f'{missing}pip install ".[notebooks]" in the checkout of MRICT'


# ------------------------------------------------------------------------------------------------------ what it does


def test_phantom_writes_patients_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_DATA", str(tmp_path))
    first = ok("phantom", "--profile", "smoke")
    folders = sorted((tmp_path / "phantom" / "smoke" / "Task1" / "brain").iterdir())
    assert [folder.name for folder in folders] == ["1BA001", "1BA002", "1BB001", "1BB002", "1BC001", "1BC002"]
    files = {file: file.stat().st_mtime_ns for folder in folders for file in folder.iterdir()}
    assert {file.name for file in files} >= {"mr.nii.gz", "ct.nii.gz", "mask.nii.gz"}
    assert str(tmp_path) in first
    ok("phantom", "--profile", "smoke")
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_preprocess_train_and_evaluate(cohort, tmp_path, monkeypatch):
    for name in ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    common = ("--profile", "smoke", "--data", str(cohort))
    space = workspace("smoke", str(cohort))

    text = ok("preprocess", *common)
    assert "9 patients, " in text
    assert "slices of 64x64" in text
    assert "split stratified: 5 train, 2 validation, 2 test patients" in text
    assert space.split_file.is_file()

    text = ok("train", "mk6_0_1", *common, "--lineage")
    assert " epoch 1/1: loss_G" in text
    assert run_of(space, "mk3_1_2_v4_50").last.is_file()
    best = run_of(space, "mk6_0_1").best
    assert text.splitlines()[-1] == f"best checkpoint: {best}"
    written = best.stat().st_mtime_ns
    assert "unchanged" in ok("train", "mk6_0_1", *common, "--device", "cpu")
    assert best.stat().st_mtime_ns == written

    text = ok("evaluate", "mk6_0_1", *common)
    record = read_json(space.metrics / "mk6_0_1.json")
    assert f"{record['summary']['all']['mae_hu']['mean']:.1f} ± " in text
    rows = pd.read_csv(space.metrics / "mk6_0_1.csv")
    assert rows["mae_hu"].between(0, 4024).all()
    assert len(rows) == 2

    (tmp_path / "file").touch()
    monkeypatch.setenv("MRICT_REPORTS", str(tmp_path / "file" / "below"))
    result = invoke("evaluate", "mk6_0_1", *common)
    assert isinstance(result.exception, MrictError), result.output
    assert "cannot be written (Not a directory)" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_preprocess_lists_whom_it_skips(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_DATA", str(tmp_path / "data"))
    for patient in sorted((cohort / "Task1" / "brain").iterdir())[:4]:
        (tmp_path / "patients" / patient.name).mkdir(parents=True)
        for file in patient.iterdir():
            (tmp_path / "patients" / patient.name / file.name).symlink_to(file)
    (tmp_path / "patients" / "1BA002" / "ct.nii.gz").unlink()
    arguments = ("preprocess", "--profile", "smoke", "--data", str(tmp_path / "patients"))
    (tmp_path / "patients" / "more" / "1BA009").mkdir(parents=True)
    (tmp_path / "patients" / "more" / "1BA009" / "mr.nii.gz").touch()
    result = invoke(*arguments)
    assert result.exit_code == 1  # something was left out
    text = result.stdout
    assert "3 patients, " in text
    assert text.splitlines()[-1] == "5 found: 3 used, 1 skipped, 1 not recognised"
    (line,) = (line for line in text.splitlines() if line.startswith("skipped"))
    assert line.startswith("skipped 1BA002: ")
    assert "ct.nii.gz is missing" in line
    result = invoke(*arguments, "--strict")
    assert isinstance(result.exception, MrictError), result.output
    assert "ct.nii.gz is missing" in str(result.exception)


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "--remove", "~no.such.user/x"),
        ("compare", "~no.such.user/a", "b"),
        ("synthesize", "~no.such.user/mr.nii.gz", "--model", "mk1", "-o", "ct.nii.gz"),
    ],
)
def test_the_home_of_no_user_is_one_line(words):
    done = main(*words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "error: a path begins with ~ and an unknown user name; write it out"


# ------------------------------------------------------------------------------------------------ what the system lacks


@pytest.mark.parametrize(
    "lack",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
    ids=repr,
)
def test_too_little_memory_and_too_many_threads_are_one_line(lack, monkeypatch):
    monkeypatch.setattr(cli, "app", Mock(side_effect=lack))
    done = main()
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: too little memory, or too many processes (")


def test_other_errors_of_those_kinds_keep_their_traceback():
    code = "from mrict_core import cli\ndef app(): raise RuntimeError('a fault of ours')\ncli.app = app\ncli.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="ulimit is not Windows's")
def test_the_suite_says_that_too_few_files_may_be_open():
    words = f"{sys.executable} -m mrict_core suite --only 00"
    done = subprocess.run(["bash", "-c", f"ulimit -n 40; {words}"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: 40 open files are allowed (ulimit -n); expected at least 256; raise the limit and run again\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_a_small_address_space_is_one_line(tmp_path):
    words = f"{sys.executable} -m mrict_core train mk1 --profile smoke"
    done = subprocess.run(["bash", "-c", f"ulimit -v 700000; {words}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_names_are_printed_as_they_can_be_shown(tmp_path):
    done = main("score", "--ct", str(tmp_path / "a\x1b[2J\nb.nii"), "--sct", "x.nii", "--mask", "y.nii")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "a\\x1b[2J\\nb.nii" in line
