"""The measurements run and say whether plain and lean forms agree; how fast they are is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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


def test_a_misspelt_benchmark_is_named(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--only", "score", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "did you mean 'scores'" in done.stdout


@pytest.mark.parametrize("which", ["scores", "outputs"])
def test_both_forms_of_the_validation_without_its_networks_agree(which):
    from benchmarks import validation

    forms = validation.passes(which, "quick")
    assert set(forms["plain"]()) == {"mse", "ssim", "mae_hu"} | ({"fid"} if which == "outputs" else set())
    row = validation.row(which, forms, 16, 1)
    assert row["equal"] is True
    assert row["times_faster"] == pytest.approx(row["all_plain_s"][0] / row["all_lean_s"][0])
    assert row["largest_relative_difference"] < 1e-6
