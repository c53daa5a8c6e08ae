"""The benchmark of faults works: a program that writes complete files passes, another is caught."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import faults, mutations
from benchmarks.faults import Command
from mrict_core.data.images.volumes import Volume, load_volume
from mrict_core.errors import MrictError

BEGIN = """
import sys, time
from pathlib import Path
from mrict_core.cli import main
from mrict_core.files import held, write_json
folder = Path(sys.argv[1]) / "results"
"""
SOUND = """
def work():
    with held(folder, "works", 0.0):
        for name in "abc":
            if not (folder / f"{name}.json").exists():
                time.sleep(0.1)
                write_json(folder / f"{name}.json", {"name": name * 5000, "seconds": time.time()})
"""
UNSOUND = """
def work():
    folder.mkdir(exist_ok=True)
    (folder / "taken").touch(exist_ok=True)
    for name in "abc":
        if not (folder / f"{name}.json").exists():
            with open(folder / f"{name}.json", "w") as file:
                file.write('{"name": "')
                file.flush()
                time.sleep(1.0)
                file.write('x"}')
"""
END = """
import typer
from mrict_core import cli
cli.app = work
main()
"""


def command(text: str) -> Command:
    return Command("program", lambda place: [sys.executable, "-c", BEGIN + text + END, str(place)])


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Command, faults.Reference, Path]:
    scratch = tmp_path_factory.mktemp("sound")
    return command(SOUND), faults.undisturbed(command(SOUND), scratch), scratch


def test_an_undisturbed_run_is_known_by_its_files_and_renames(sound):
    _, reference, _ = sound
    assert sorted(reference.state) == ["results/a.json", "results/b.json", "results/c.json"]
    assert reference.renames == ["results/a.json", "results/b.json", "results/c.json"]


def test_whole_files_pass_a_kill_at_a_moment_and_at_a_rename(sound):
    assert faults.at_a_random_moment(*sound, sound[1].seconds - 0.15) == []
    assert faults.at_a_rename(*sound, "results/b.json") == []
    assert faults.at_a_rename(*sound, "results/d.json") == ["the rename to results/d.json was not reached"]


def test_whole_files_pass_two_runs_at_once_and_limits(sound):
    assert faults.two_at_once(*sound) == []
    assert faults.limited(*sound, "-f 1") == []  # files of a KiB at most: a signal that Python ignores, then an error


@pytest.mark.skipif(bool(faults.mounts()), reason=faults.mounts() or "small disks can be mounted")
def test_whole_files_pass_a_full_and_a_read_only_disk(sound):
    assert faults.on_a_full_disk(*sound, 8192) == []
    assert faults.on_a_read_only_disk(*sound) == []


def test_half_files_are_caught(tmp_path):
    reference = faults.undisturbed(command(UNSOUND), tmp_path)
    moments = [reference.seconds - before for before in (1.5, 1.0, 2.0, 0.7, 2.5)]  # the machine may be busy
    kills = (faults.at_a_random_moment(command(UNSOUND), reference, tmp_path, moment) for moment in moments)
    found = next(filter(None, kills))
    assert found[0].startswith("differs: results/")


def test_a_traceback_a_silent_end_and_a_child_are_caught(tmp_path):
    words = {
        "raise ValueError('x')": ["traceback: ValueError: x"],
        "sys.exit(1)": ["status 1 without an error line: ''"],
        "import os; os.abort()": ["ended by signal 6"],
        "print('error: all is said', file=sys.stderr); sys.exit(1)": [],
    }
    for code, expected in words.items():
        bad = Command("bad", lambda place, code=code: [sys.executable, "-c", f"import sys; {code}"])
        assert faults.complaints(faults.carry_out(bad, tmp_path), may_fail=True) == expected
    done = faults.Done(0, "", 1.0, survivors=1)
    assert faults.complaints(done, may_fail=True) == ["children were left"]


def test_differences_are_named_by_kind():
    found, wanted = {"a": 1, "b": 2, ".new-x": 0}, {"a": 1, "b": 3, "c": 4}
    assert [text.split(":")[0] for text in faults.differences(found, wanted)] == ["left over", "missing", "differs"]
    assert faults.differences(wanted, wanted) == []


def head(path: Path) -> Volume:
    array = np.random.default_rng(0).integers(0, 900, (12, 14, 9)).astype(np.float32)
    return Volume(array, np.diag([4.0, 4.0, 6.0, 1.0]), path)


@pytest.mark.parametrize("kind", [kind for kind in mutations.FORMATS if kind != "dicom"])
def test_every_mutation_changes_the_file_and_meets_one_line_or_a_volume(tmp_path, kind):
    """What is right of it is the benchmark's business; a cut is found in every format."""
    outcomes = Counter()
    for number in range(12):
        given, file = mutations.write(kind, tmp_path, "mr", head(tmp_path))
        before = [path.read_bytes() for path in sorted({given, file})]
        what, rng = mutations.KINDS[number % 4], random.Random(number)
        where = mutations.mutate(kind, given, file, what, rng)
        assert where in ("checksum", "voxels", "header")
        outcomes["changed"] += [path.read_bytes() for path in sorted({given, file})] != before
        try:
            load_volume(given)
            assert what != "cut"
        except MrictError as error:
            outcomes["refused"] += 1
            outcomes["of several lines"] += "\n" in str(error)
    assert outcomes["changed"] >= 10  # an odd value may be the one that stood there
    assert outcomes["refused"] >= 3
    assert outcomes["of several lines"] == 0


def test_a_row_counts_what_slips_through():
    found = [
        {"where mr": "checksum", "read mr": "differs", "preprocess": "differs", "seconds": "0.1"},
        {"where mr": "voxels", "read mr": "differs", "preprocess": "differs", "seconds": "0.3"},
        {"where mr": "header", "read mr": "refused", "preprocess": "differs", "seconds": "0.2"},
        {"where mr": "header", "read mr": "refused", "preprocess": "traceback: KeyError: x", "seconds": "0.2"},
        {"where mr": "checksum", "read mr": "refused", "preprocess": "refused", "seconds": "0.2"},
    ]
    row = mutations.row("nii.gz", found)
    assert (row["tries"], row["sound"], row["refused"], row["slowest_s"]) == (5, 2, 3, 0.3)
    assert row["taken, voxels without checksum"] == 1
    for words in (
        "1 x wrong under a checksum",
        "1 x preprocess takes what the reader refuses",
        "1 x traceback: KeyError",
    ):
        assert words in row["problems"]
