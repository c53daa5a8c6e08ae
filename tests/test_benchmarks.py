"""The measurements run and say whether plain and lean forms agree; how fast they are is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import preprocessing
from mrict_core.paths import ROOT


def test_the_benchmark_of_the_scores_runs_and_its_forms_agree(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "scores", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scores_quick.json").read_text())
    assert found["machine"]["cores"] >= 1
    assert [row["case"] for row in found["rows"]] == ["96×96×64, mask: head", "96×96×64, mask: everything"]
    for row in found["rows"]:
        assert row["equal"] is True
        assert row["largest_relative_difference"] < 1e-6
        assert row["times_faster"] == pytest.approx(row["plain_s"] / row["lean_s"])
        assert len(row["all_lean_s"]) == len(row["all_plain_s"]) == 3
    assert "times_faster" in (tmp_path / "scores_quick.md").read_text()


def test_the_benchmark_of_preprocessing_measures_every_part(monkeypatch):
    monkeypatch.setattr(preprocessing, "SHAPES", {"quick": ((40, 44, 22), 5.0, 9.0)})
    monkeypatch.setattr(preprocessing, "cpu_count", lambda: 1)
    rows = preprocessing.run(quick=True)
    speed, shares, memory = rows[:2], rows[2:4], rows[4:]
    assert [row["case"].split(",")[0] for row in speed] == ["predecessor", "patient"]
    assert all(row["times_faster"] == pytest.approx(row["plain_s"] / row["lean_s"]) for row in speed)
    for row in shares:
        assert sum(value for name, value in row.items() if name.endswith("percent")) == pytest.approx(100)
        assert row["times_the_limit"] > 1
    assert [row["case"].split(", ")[2].split()[0] for row in memory] == ["2", "6", "2", "4"]
    assert all(50 < row["largest_peak_mib"] == row["sum_of_peaks_mib"] for row in memory)  # one process


def test_a_misspelt_benchmark_is_named(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--only", "score", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "did you mean 'scores'" in done.stdout
