"""The benchmarks run and compare plain with lean results; speed is not tested."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import costs, gpu, measure, preprocessing, scale, scaling
from benchmarks.__main__ import BENCHMARKS
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.methods import Method
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


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_it_measures(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.TITLE
    assert callable(module.run)


def test_scaling_gives_exponents_and_a_figure(monkeypatch):
    def linear(target, *arguments, repeats):
        if target is scaling.training:
            size = arguments[2] ** 2 * arguments[1]
        else:
            size = len(list(Path(arguments[0]).rglob("mr.nii.gz")))
        return {"seconds": 0.5 * size, "peak_mib": 3.0}

    monkeypatch.setattr(scaling.measure, "cost", linear)
    rows = scaling.run(quick=True)
    found = {row["axis"]: row["seconds_exponent"] for row in rows if "seconds_exponent" in row}
    assert found == pytest.approx({"patients": 1, "side": 2, "batch": 1})
    assert all(row["peak_mib_exponent"] == 0 for row in rows if "peak_mib_exponent" in row)
    panels = [axis for axis in scaling.figure(rows).axes if axis.lines]
    assert len(panels) == 6


def test_one_point_of_scaling_is_measured_in_a_process_of_its_own():
    found = measure.cost(scaling.training, 2, 1, 64, False, repeats=1)
    assert found["seconds"] > 0
    assert found["peak_mib"] >= 0


def test_the_benchmark_of_the_gpu_runs_as_far_as_a_cpu_goes(monkeypatch):
    monkeypatch.setattr(gpu, "get_profile", lambda name: get_profile("smoke"))
    monkeypatch.setattr(Method, "compile", lambda self: None)  # a minute on a CPU
    monkeypatch.setitem(gpu.SIZES, "quick", ((2,), 64, 32, 1))
    rows = {row["case"]: row for row in gpu.run(quick=True, device="cpu")}
    forms = ("plain, float32", "lean, float32", "lean, bfloat16", "compiled, bfloat16")
    steps = [rows[f"{form}, batch 2 of 64×64"] for form in forms]
    for row in steps:
        assert row["training_h"] == pytest.approx(row["epoch_s"] * gpu.EPOCHS / 3600)
        assert row["epoch_s"] == pytest.approx(gpu.SLICES / row["images_per_s"])
    assert len({round(row["tflop_s"] / row["images_per_s"], 9) for row in steps}) == 1  # one work, whoever does it
    assert sum("synthesis" in case for case in rows) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: nothing is missing")
def test_without_a_gpu_its_benchmark_says_so():
    assert "no CUDA device" in gpu.missing()
    script, environment = ROOT / "benchmarks" / "on_gpu.sh", os.environ | {"MRICT_PYTHON": sys.executable}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "sees no CUDA device" in done.stderr


@pytest.mark.parametrize("which", ["scores", "outputs"])
def test_both_forms_of_the_validation_without_its_networks_agree(which):
    from benchmarks import validation

    forms = validation.passes(which, "quick")
    assert set(forms["plain"]()) == {"mse", "ssim", "mae_hu"} | ({"fid"} if which == "outputs" else set())
    row = validation.row(which, forms, 16, 1)
    assert row["equal"] is True
    assert row["times_faster"] == pytest.approx(row["all_plain_s"][0] / row["all_lean_s"][0])
    assert row["largest_relative_difference"] < 1e-6


def test_what_a_training_takes_is_predicted_from_one_step(monkeypatch):
    monkeypatch.setattr(costs, "VARIANTS", ("mk7_1", "mk6_3_4"))
    rows = costs.run(quick=True)
    assert [row["case"] for row in rows] == ["mk7_1", "mk6_3_4"]
    assert all(row["kind"] == "predicted" for row in rows) is not torch.cuda.is_available()
    for row in rows:
        assert min(row["parameters_million"], row["gib"], row["hours"], row["tflop_per_step"]) > 0
    assert "correlation" in costs.notes(rows)[0]


def test_memory_kept_for_the_backward_pass_by_hand():
    """A sine keeps its input, 4 KB; two of them in turn never more than one, two in one graph both; weights not."""
    weight = torch.nn.Parameter(torch.rand(1024))
    method = SimpleNamespace(networks={"G": SimpleNamespace(parameters=lambda: [weight])})
    x = torch.rand(1024, requires_grad=True)
    with costs.Kept(method) as kept:
        for _ in range(2):
            (x * 2).sin().sum().backward()
        assert (kept.now, kept.most) == (0, 4096)
        ((x * 2).sin() + (x * 3).sin()).sum().backward()
        assert (kept.now, kept.most) == (0, 8192)
        (weight.sin()).sum().backward()
        assert (kept.now, kept.most) == (0, 8192)


def test_the_speed_up_by_hand():
    """A ring moves 2(W-1)/W of the bytes: 400 MB on 2 GPUs in 2 ms, between machines 64 GPUs in 31.5 ms."""
    step = {"case": "a", "step_s": 0.006, "all_reduce_mb": 400.0, "read_mb": 12.0}
    assert scale.all_reduce_s(400e6, 1) == 0
    assert scale.all_reduce_s(400e6, 2) == pytest.approx(0.002)
    assert scale.all_reduce_s(400e6, 64) == pytest.approx(0.0315)
    assert scale.speed_up(step, 1) == 1
    assert scale.speed_up(step, 2) == pytest.approx(2 * 6 / 8)
    assert scale.speed_up(step, 64) == pytest.approx(64 * 6 / 37.5)
    each = {"index and split after shards, s": 0.36, "index, bytes": 1e3, "prepared, bytes": 1e8}
    found = {row["case"]: row["reached_at"] for row in scale.limits([step, step | {"case": "b", "step_s": 1.0}], each)}
    assert found["a: half of the time is all-reduce"] == 9  # the first that needs the network between machines
    assert found["b: half of the time is all-reduce"] is None
    assert found["a: reads 1 GB/s"] == 1
    assert found["b: reads 1 GB/s"] == 84
    assert (found["index and split take an hour"], found["the store has 1 TB"]) == (10_000, 10_000)


def test_a_spared_network_owes_the_seconds_of_what_it_did_not_compute():
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    plain = torch.nn.Conv2d(1, 1, 3, padding=1)
    plain.load_state_dict(network.state_dict())
    spared = scale.Sparing(network, {})
    first, wide = torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 16)
    outputs = [network(x) for x in (first, wide, torch.rand(1, 1, 8, 8))]
    for output, x in zip(outputs, (first, wide, first), strict=True):
        torch.testing.assert_close(output, plain(x))
    assert outputs[0] is not outputs[2]
    assert spared.owed == spared.known[((1, 1, 8, 8),)][1] > 0


@pytest.mark.parametrize("name", ["mk8_0", "mk9_0"])
def test_a_whole_volume_has_a_row_of_seconds_and_memory(name):
    (row,) = scale.volumes([get(name)], ("smoke",), "quick")
    assert (row["case"], row["profile"]) == (name, "smoke")
    assert row["s_per_volume"] == pytest.approx(20 * row["s_per_slice"])
    assert 0.1 < row["peak_gib"] < 3


def test_scale_measures_merging(tmp_path):
    assert scale.merging_s(tmp_path, 130) > 0
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 131
