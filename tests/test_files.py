"""What a process leaves when it is killed, and names that do no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from mrict_core import files
from mrict_core.files import NEW, atomic_folder, atomic_path, read_csv, sole_writer, write_csv, write_text
from mrict_core.paths import ROOT, printable, shown

# ------------------------------------------------------------------------------------------------------- names in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("1BA001", "1BA001"),
        ("Müller × 2 – ok", "Müller × 2 – ok"),
        ("a\x1b[2J\x1b]0;x\x07b", "a\\x1b[2J\\x1b]0;x\\x07b"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\x9b31m", "\\x9b31m"),
        (os.fsdecode(b"\xff.nii"), "\\udcff.nii"),
    ],
)
def test_names_are_printed_on_one_line_that_a_terminal_only_shows(name, text):
    assert printable(name) == text
    assert shown(Path("/elsewhere") / name) == f"/elsewhere/{text}"
    assert printable(text).isprintable()


NAMES = (
    *("=HYPERLINK(1)", "@SUM(1)", "+1+1", "-1+cmd", "\t=1", "\r=1", "\n=1", "a\rb"),
    *("'=1", "''+a", "'plain", "1BA001", "a=b", "-5", "+49"),
)


def test_a_spreadsheet_runs_no_cell_and_the_names_come_back(tmp_path):
    frame = pd.DataFrame({"patient": NAMES, "mae_hu": [-1.5] * len(NAMES), "n": range(len(NAMES))})
    frame["mixed"] = pd.Series([-1.5, "=1", None, True] * 10, dtype=object)[: len(NAMES)]
    path = write_csv(tmp_path / "t.csv", frame)
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    dangerous = raw["patient"].str.match(r"[=+\-@\t\r]") & ~raw["patient"].isin(["-5", "+49"])
    assert not dangerous.any()
    assert set(raw["mae_hu"]) == {"-1.5"}
    assert set(raw["mixed"]) == {"-1.5", "'=1", "", "True"}
    again = read_csv(path)
    assert list(again["patient"]) == list(NAMES)
    assert list(again["n"]) == list(range(len(NAMES)))
    assert len(read_csv(write_csv(tmp_path / "empty.csv", frame[:0]))) == 0


def test_a_name_that_is_no_utf8_is_written_all_the_same(tmp_path):
    path = files.write_json(tmp_path / "a.json", {"name": os.fsdecode(b"\xff")})
    assert files.read_json(path) == {"name": os.fsdecode(b"\xff")}
    assert "udcff" in write_csv(tmp_path / "a.csv", pd.DataFrame({"name": [os.fsdecode(b"\xff")]})).read_text()


# ------------------------------------------------------------------------------------------------------ what is killed

WRITER = """
import sys, time
from pathlib import Path
from mrict_core import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    (temporary / "file" if temporary.is_dir() else temporary).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def writer(kind: str, path: Path) -> subprocess.Popen:
    """Start a process that is in the midst of writing `path`."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, kind, path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    return process


def temporaries(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{NEW}*"))


def test_files_of_killed_writers_are_swept_and_those_of_living_ones_are_not(tmp_path):
    living, dead = writer("atomic_path", tmp_path / "a.csv"), writer("atomic_path", tmp_path / "b.csv")
    try:
        (mine,) = {path for path in temporaries(tmp_path) if path.name.startswith(f"{NEW}a.csv")}
        dead.kill()
        dead.wait()
        foreign = [tmp_path / name for name in (".a.csv.swp", ".~lock.a.csv#", ".gitignore.bak", "new-a.csv")]
        for path in foreign:
            path.write_text("not ours")
        (tmp_path / f"{NEW}folder").mkdir()
        assert len(temporaries(tmp_path)) == 3
        write_text(tmp_path / "other.md", "x")
        assert temporaries(tmp_path) == [mine, tmp_path / f"{NEW}folder"]
        with sole_writer(tmp_path, "writes"):
            assert mine.exists()
        assert all(path.read_text() == "not ours" for path in foreign)
    finally:
        living.kill()
        living.wait()
    with sole_writer(tmp_path, "writes"):
        assert temporaries(tmp_path) == [tmp_path / f"{NEW}folder"]


def test_folders_of_killed_writers_are_swept_by_the_next_writer_of_the_same(tmp_path):
    living, dead = writer("atomic_folder", tmp_path / "a"), writer("atomic_folder", tmp_path / "b")
    try:
        dead.kill()
        dead.wait()
        for name in ("a", "b"):
            with atomic_folder(tmp_path / name) as temporary:
                (temporary / "file").write_text("whole")
        assert [path.name[:6] for path in temporaries(tmp_path)] == [f"{NEW}a"]
        assert (tmp_path / "b" / "file").read_text() == "whole"
    finally:
        living.kill()
        living.wait()


def test_a_folder_whose_writer_was_killed_between_two_renames_comes_back(tmp_path):
    for end in ("", files.OLD):
        (tmp_path / f"{NEW}a-abcdefgh{end}").mkdir()
    (tmp_path / f"{NEW}a-abcdefgh{files.OLD}" / "file").write_text("the only one")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "a", may_replace=lambda path: None):
        raise KeyError
    assert (tmp_path / "a" / "file").read_text() == "the only one"
    assert temporaries(tmp_path) == []


def test_a_temporary_name_is_not_written_by_way_of_another(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        inode = temporary.stat().st_ino
        write_text(temporary, "x")
        assert temporary.stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


POOL = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from mrict_core.machine import end_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        print(*pool.map(pow, (1, 1), (1, 1)), flush=True)
        list(pool.map(time.sleep, (60, 60)))
"""


def test_workers_end_with_their_parent(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    process = subprocess.Popen([sys.executable, tmp_path / "pool.py"], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"1 1\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # two workers and a resource tracker
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while any(child.is_running() for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert [child for child in children if child.is_running()] == []
