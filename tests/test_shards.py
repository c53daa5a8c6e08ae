"""Shards: the rule that divides cases, several processes that write into one folder at once, and merging."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_patient
from dose_cases import needs_pyradplan, write_case
from pair_files import write_pair
from test_cli import error_of, invoke, ok
from tiny_models import files_in, write_head

from mrict_core.data.images.volumes import hash_image
from mrict_core.errors import MrictError
from mrict_core.files import held, read_json, sole_writer, write_csv
from mrict_core.paths import ROOT, workspace
from mrict_core.pipeline import prepare_data
from mrict_core.pipeline.cases import find_cases, synthesize_cases
from mrict_core.shards import Roll, Shard, merge_tables, shard_named


def at_once(*arguments: str, shards: int, **variables: str) -> list[tuple[int, str]]:
    """Run a command for every shard, all in processes at the same time; return (exit status, output) of each."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "mrict_core", *arguments, "--shard", f"{number}/{shards}"],
            cwd=ROOT,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(1, shards + 1)
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


# ------------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/4", "I from 1 to N"),
        ("5/4", "I from 1 to N"),
        ("1/0", "I from 1 to N"),
        ("2", "expected I/N"),
        ("1/2/3", "expected I/N"),
        ("-1/2", "expected I/N"),
        ("1.0/2", "expected I/N"),
        ("a/b", "expected I/N"),
        (" 1/2", "expected I/N"),
        ("²/3", "expected I/N"),
        ("1/1000000", "each of at most six digits"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("synthesize", "IN", "-o", "OUT"),
        ("preprocess", "--data", "IN"),
        ("pair", "IN", "-o", "OUT"),
        ("dose", "--ct", "IN", "--sct", "IN", "-o", "OUT"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_no_shard_is_an_error_before_anything_is_read(command, text, message):
    error = error_of(*command, "--shard", text)
    assert error.startswith(f"--shard {text}: ")
    assert message in error


def test_a_shard_of_a_variable_that_is_not_set_is_no_run_of_everything(tmp_path):
    error = error_of("synthesize", str(tmp_path), "-o", str(tmp_path / "out"), "--shard", "")
    assert error == "--shard is empty; expected I/N; give it, or leave the option out"


def test_without_a_shard_there_is_none():
    assert shard_named("") is None
    assert shard_named("2/8") == Shard(8, 2)


@pytest.mark.parametrize(("cases", "count"), [(10, 3), (8, 8), (2, 5), (1, 1)])
def test_every_case_is_of_one_shard_and_shards_differ_by_one_case_at_most(cases, count):
    parts = [[n for n in range(1, cases + 1) if Shard(count, k).has(n)] for k in range(1, count + 1)]
    assert sorted(n for part in parts for n in part) == list(range(1, cases + 1))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_order_of_the_listing_does_not_matter(tmp_path, models):
    (tmp_path / "in").mkdir()
    for name in "dbace":
        write_head(tmp_path / "in" / f"{name}.nii.gz", (24, 24, 3))
    tables = []
    for seed in (0, 1):
        found = find_cases(tmp_path / "in", tmp_path / "out")
        random.Random(seed).shuffle(found.cases)
        file = tmp_path / f"{seed}.csv"
        synthesize_cases(found, models, file, shard=Shard(2, 2))
        tables.append(pd.read_csv(file)[["case", "number", "of", "run"]])
    assert tables[0].equals(tables[1])
    assert tables[0]["case"].tolist() == ["b", "d"]


def test_a_table_may_have_any_name(tmp_path):
    table = tmp_path / "run[1].csv"
    for number in (1, 2):
        marks = Roll(["a", "b"]).marks(number)
        write_csv(Shard(2, number).file(table), pd.DataFrame([{"case": "ab"[number - 1], "status": "written"} | marks]))
    assert [row["case"] for row in merge_tables(table)] == ["a", "b"]


def test_a_run_is_hashed_once(monkeypatch):
    """Of thousands of cases every row would hash all names again."""
    hashed = []
    monkeypatch.setattr("mrict_core.shards.hash_of", lambda value: hashed.append(value) or "h")
    roll = Roll(["b", "a"], run=1)
    assert [roll.marks(number)["run"] for number in (1, 2)] == ["h", "h"]
    assert hashed == [[["a", "b"], 1]]


@pytest.mark.parametrize(
    ("mine", "other", "allowed"),
    [
        ("", "", False),
        ("", "shard-1-of-2", False),
        ("shard-1-of-2", "", False),
        ("shard-1-of-2", "shard-1-of-2", False),
        ("shard-1-of-2", "shard-2-of-2", True),
    ],
)
def test_parts_of_a_folder_are_held_side_by_side_and_the_whole_alone(mine, other, allowed, tmp_path):
    with held(tmp_path, "works", 0.0, mine):
        if allowed:
            with held(tmp_path, "works", 0.0, other):
                pass
        else:
            with pytest.raises(MrictError, match="another process works"), sole_writer(tmp_path, "works", other):
                pass
    with sole_writer(tmp_path, "works", other):  # free again
        pass
    with sole_writer(tmp_path, "works"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


# ----------------------------------------------------------------------------------------------------- synthesis


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Five cases, one of them damaged, an MR that is left out, and files that are no MR."""
    root = tmp_path_factory.mktemp("scans")
    for name in ("p1", "p2", "=p3", "p4"):
        write_head(root / f"{name}.nii.gz", (26, 26, 3))
    (root / "p0.nii.gz").write_bytes(b"nothing")
    (root / "case").mkdir()
    write_head(root / "case" / "mr.nii.gz", (26, 26, 3))
    write_head(root / "case" / "other.nii.gz", (26, 26, 3))
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def sharded(scans, checkpoints, tmp_path_factory) -> tuple[Path, list[tuple[int, str]]]:
    """The folder that two processes wrote to at once, and what they said."""
    out = tmp_path_factory.mktemp("sharded") / "out"
    return out, at_once("synthesize", str(scans), "-o", str(out), "--model", str(checkpoints / "a.pt"), shards=2)


@pytest.fixture
def tables(sharded, tmp_path) -> Path:
    """A copy of the tables of both shards."""
    for file in sharded[0].glob("summary.shard-*.csv"):
        shutil.copy(file, tmp_path)
    return tmp_path


def test_two_processes_at_once_and_merging_give_what_one_run_gives(sharded, scans, checkpoints, tmp_path):
    out, said = sharded
    assert [status for status, _ in said] == [1, 0], said  # p0 and the left-out file are of the first
    assert all(f"shard-{k}-of-2; when all 2 are done" in text for k, (_, text) in enumerate(said, 1))
    assert not (out / "summary.csv").exists()
    merged = invoke("merge", str(out))
    assert merged.exit_code == 1
    assert "2 shards, 8 in all: 1 aside, 1 failed, 1 left out, 5 written" in merged.output
    assert "p0: failed: " in merged.output
    whole = tmp_path / "out"
    assert invoke("synthesize", str(scans), "-o", str(whole), "--model", str(checkpoints / "a.pt")).exit_code == 1
    assert (out / "summary.csv").read_bytes() == (whole / "summary.csv").read_bytes()
    made = files_in(whole)
    assert set(files_in(out)) == {*made, "summary.shard-1-of-2.csv", "summary.shard-2-of-2.csv"}
    for name in made:
        if name.endswith(".nii.gz"):
            assert hash_image(out / name) == hash_image(whole / name), name


def test_a_second_run_of_a_shard_keeps_what_it_made(sharded, scans, checkpoints):
    out, _ = sharded
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    text = ok("synthesize", str(scans), "-o", str(out), "--model", str(checkpoints / "a.pt"), "--shard", "2/2")
    assert "3 kept, 0 failed" in text
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")} == stamps


def test_more_shards_than_cases_leave_some_without(scans, checkpoints, tmp_path):
    text = ok(
        *("synthesize", str(scans), "-o", str(tmp_path), "--model", str(checkpoints / "a.pt"), "--shard", "9/9"),
    )
    assert "0 found" in text
    assert pd.read_csv(tmp_path / "summary.shard-9-of-9.csv").empty


def edited(old: str, new: str, shard: int = 2):
    """Return a change of a shard's table that replaces text once."""

    def change(folder: Path) -> None:
        file = folder / f"summary.shard-{shard}-of-2.csv"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def without_last(folder: Path) -> None:
    file = folder / "summary.shard-2-of-2.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")


def last_twice(folder: Path) -> None:
    file = folder / "summary.shard-2-of-2.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[-1]]) + "\n")


def renamed(folder: Path) -> None:
    shutil.copy(folder / "summary.shard-1-of-2.csv", folder / "summary.shard-2-of-2.csv")


def another_count(folder: Path) -> None:
    shutil.copy(folder / "summary.shard-1-of-2.csv", folder / "summary.shard-3-of-4.csv")


def no_text(folder: Path) -> None:
    (folder / "summary.shard-2-of-2.csv").write_bytes(b"\xff\xfe")


def another_run(folder: Path) -> None:
    file = folder / "summary.shard-2-of-2.csv"
    file.write_text(file.read_text().replace(pd.read_csv(file)["run"][0], "0123456789abcdef"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "summary.shard-2-of-2.csv").unlink(), "no table of 1 of 2 shards; run --shard 2/2"),
        (
            lambda folder: [file.unlink() for file in folder.glob("*.csv")],
            "no table of shards; expected one of summary",
        ),
        (another_count, "runs of 2 and of 4 shards"),
        (without_last, "1 of 6 cases have no row: shards have not finished; run --shard 2/2"),
        (last_twice, "p4: in the shards' tables twice"),
        (renamed, "which is of another shard; expected every case once; run --shard 2/2"),
        (another_run, "of other cases, models or settings than each other"),
        (edited("number,of,run", "number,of,runs"), "not the table of a shard, or damaged"),
        (edited("case,status", "case,state"), "has other columns than shard 1"),
        (edited("warnings", "warnings,more"), "not the table of a shard, or damaged"),
        (lambda folder: (folder / "summary.shard-2-of-2.csv").write_text(""), "not the table of a shard, or damaged"),
        (edited(",6,", f",{'9' * 5000},"), "not the table of a shard, or damaged"),
        (no_text, "not the table of a shard, or damaged"),
    ],
    ids=[
        *("missing", "none", "two counts", "cut", "twice", "copy", "other run", "marks", "columns", "cells", "empty"),
        *("digits", "bytes"),
    ],
)
def test_what_does_not_fit_together_is_not_merged(change, message, tables):
    change(tables)
    assert message in error_of("merge", str(tables))
    assert not (tables / "summary.csv").exists()


def test_a_shard_of_other_models_or_options_is_of_another_run(sharded, scans, checkpoints, tmp_path):
    shutil.copytree(sharded[0], tmp_path / "out")
    words = ["synthesize", str(scans), "-o", str(tmp_path / "out"), "--shard", "2/2", "--overwrite", "--model"]
    ok(*words, str(checkpoints / "b.pt"))
    assert "of other cases, models or settings" in error_of("merge", str(tmp_path / "out"))
    ok(*words, str(checkpoints / "a.pt"))
    assert invoke("merge", str(tmp_path / "out")).exit_code == 1  # a case has failed
    assert (tmp_path / "out" / "summary.csv").is_file()


@pytest.mark.parametrize("output", ["ct.nii.gz", "out"])
def test_one_image_has_no_shards(output, scans, tmp_path):
    error = error_of("synthesize", str(scans / "p1.nii.gz"), "-o", str(tmp_path / output), "--shard", "1/2")
    assert "is one case" in error
    assert not list(tmp_path.iterdir())


def test_merge_says_what_it_expects(tmp_path):
    assert "OUTPUT is empty" in error_of("merge", "")
    assert "no table of shards" in error_of("merge", str(tmp_path))
    assert "no table of a shard beside it" in error_of("merge", str(tmp_path / "done.csv"))
    assert "nowhere: no such folder, and no table" in error_of("merge", str(tmp_path / "nowhere"))
    part = tmp_path / "summary.shard-1-of-2.csv"
    assert error_of("merge", str(part)).endswith(
        f"of one shard; expected the table for all; merge {tmp_path}/summary.csv"
    )
    (tmp_path / "summary.shard-1-of-0.csv").write_text("case,number,of,run\n")
    assert "no table of shards" in error_of("merge", str(tmp_path))
    for name in ("summary", "dose"):
        (tmp_path / f"{name}.shard-1-of-1.csv").write_text("case,number,of,run\n")
    assert "shards of summary.csv and dose.csv; expected one" in error_of("merge", str(tmp_path))


# ------------------------------------------------------------------------------------------------------- preprocess


@pytest.fixture
def patients(tmp_path, monkeypatch) -> Path:
    """Six patients, one of them with its MR in the place of the CT, and empty folders for data and reports."""
    for name in ("DATA", "CHECKPOINTS", "REPORTS"):
        monkeypatch.setenv(f"MRICT_{name}", str(tmp_path / name.lower()))
    root = tmp_path / "patients"
    for k in range(6):
        write_patient(root / "Task1" / "brain" / f"1B{'AB'[k % 2]}{k:03d}", seed=k, shape=(30, 32, 6 + k))
    shutil.copy(root / "Task1/brain/1BA004/mr.nii.gz", root / "Task1/brain/1BA004/ct.nii.gz")
    return root


def prepared(store: Path) -> dict[str, int]:
    """Return the time of every prepared patient."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/meta.json")}


def test_shards_prepare_patients_at_once_and_the_run_without_makes_index_and_split(patients, tmp_path, monkeypatch):
    words = ("preprocess", "--data", str(patients), "--profile", "smoke")
    said = at_once(*words, shards=2)
    assert [status for status, _ in said] == [1, 0], said  # 1BA004 is the third
    assert "skipped 1BA004: " in said[0][1]
    assert "shard-2-of-2: 3 of all 6 patients prepared" in said[1][1]
    space = workspace("smoke", str(patients))
    before = prepared(space.store)
    assert len(before) == 5
    assert not (space.store / "index.json").exists()
    assert not space.split_file.exists()
    assert invoke(*words).exit_code == 1
    assert prepared(space.store) == before
    assert not list(space.store.glob("index.shard-*"))
    found, split = read_json(space.store / "index.json"), space.split_file.read_bytes()
    monkeypatch.setenv("MRICT_DATA", str(tmp_path / "whole"))
    assert not space.store.exists()
    whole = prepare_data("smoke", str(patients), report=lambda line: None).workspace
    assert read_json(whole.store / "index.json") == found
    assert whole.split_file.read_bytes() == split


def test_the_run_without_shards_prepares_what_no_shard_has(patients):
    words = ("preprocess", "--data", str(patients), "--profile", "smoke")
    ok(*words, "--shard", "2/2")
    store = workspace("smoke", str(patients)).store
    before = prepared(store)
    assert set(before) == {"1BA002", "1BB001", "1BB005"}
    invoke(*words)
    after = prepared(store)
    assert len(after) == 5
    assert {name: after[name] for name in before} == before


def test_a_shard_does_not_try_again_what_it_refused_nor_hash_again(patients, monkeypatch):
    words = ("preprocess", "--data", str(patients), "--profile", "smoke", "--shard", "1/2")
    first = invoke(*words)
    assert first.exit_code == 1
    store = workspace("smoke", str(patients)).store
    before = prepared(store)
    part = read_json(store / "index.shard-1-of-2.json")
    assert [skip["patient"] for skip in part["skipped"]] == ["1BA004"]
    monkeypatch.setattr("mrict_core.data.cache.keys.hash_image", lambda path: pytest.fail(f"hashed again: {path}"))
    monkeypatch.setattr("mrict_core.data.cache.preprocess._prepare", lambda job: pytest.fail("prepared again"))
    second = invoke(*words)
    assert (second.exit_code, prepared(store)) == (1, before), second.output
    assert read_json(store / "index.shard-1-of-2.json") == part


def test_phantoms_have_no_shards():
    assert "--shard divides patients of your own" in error_of("preprocess", "--profile", "smoke", "--shard", "1/2")


# ------------------------------------------------------------------------------------------------------------- pair


def test_pairs_of_two_shards_have_the_page_of_one_run(tmp_path):
    for name in ("p1", "p2"):
        write_pair(tmp_path / "in" / name)
    (tmp_path / "in" / "p3").mkdir()
    shutil.copy(tmp_path / "in" / "p1" / "mr.nii.gz", tmp_path / "in" / "p3")
    words = ("pair", str(tmp_path / "in"), "--grid", "mr", "--no-register", "--jobs", "1", "-o")
    said = [invoke(*words, str(tmp_path / "out"), "--shard", f"{number}/2") for number in (1, 2)]
    assert [one.exit_code for one in said] == [1, 0], said
    assert "p3: failed: " in said[0].output
    assert not (tmp_path / "out" / "pairs.html").exists()
    assert "2 shards, 3 in all: 1 failed, 2 paired" in invoke("merge", str(tmp_path / "out")).output
    invoke(*words, str(tmp_path / "whole"))
    for name in ("pairs.html", "pairs.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "out" / "pairs.shard-2-of-2.csv").unlink()
    assert "no table of 1 of 2 shards" in error_of("merge", str(tmp_path / "out"))


def test_a_transform_is_for_one_pair(tmp_path):
    error = error_of("pair", str(tmp_path), "-o", str(tmp_path / "o"), "--transform", "t.tfm", "--shard", "1/2")
    assert "--shard is for many pairs" in error


# ------------------------------------------------------------------------------------------------------------- dose


@needs_pyradplan
def test_doses_of_shards_have_the_table_of_one_run(tmp_path):
    write_case(tmp_path / "a", size=30)
    rows = ["case,ct,sct,mask", "b,a/none.nii.gz,a/sct.nii.gz,a/mask.nii.gz"]
    rows += ["a,a/ct.nii.gz,a/sct.nii.gz,a/mask.nii.gz"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    words = ("dose", "--ct", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out"))
    words += ("--modality", "protons", "--grid-mm", "6", "--targets", "1")
    first = invoke(*words, "--shard", "1/2")
    assert first.exit_code == 0, first.output
    assert "dose.shard-1-of-2.csv" in first.output
    assert [invoke(*words, "--shard", f"{number}/2").exit_code for number in (1, 2)] == [0, 1]  # kept; b has no CT
    assert invoke("merge", str(tmp_path / "out")).exit_code == 1
    merged = (tmp_path / "out" / "dose.csv").read_bytes()
    assert merged.count(b"\n") == 3
    invoke(*words)
    assert (tmp_path / "out" / "dose.csv").read_bytes() == merged


def test_one_case_of_dose_has_no_shards(tmp_path):
    paths = write_case(tmp_path / "a", size=10)
    files = (f"--{role}={paths[role]}" for role in ("ct", "sct", "mask"))
    assert "is one case" in error_of("dose", *files, "-o", str(tmp_path / "out"), "--shard", "1/2")
