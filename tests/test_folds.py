"""Leaving one centre out: trained without it, scored on it, and kept apart from the ordinary split."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from mrict_core.cli import app
from mrict_core.data.cache.store import SliceStore
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.pipeline import TrainSettings, leave_one_centre_out, prepare_data, read_folds

SMOKE = get_profile("smoke")


@pytest.mark.slow
def test_every_centre_is_left_out_once(fresh_space, cohort):
    lines: list[str] = []
    before = fresh_space.split_file.read_text()
    frame = leave_one_centre_out(get("mk1"), SMOKE, fresh_space, TrainSettings(device="cpu"), report=lines.append)
    assert frame["left_out"].tolist() == ["A", "B", "C"]
    assert frame["n"].tolist() == [3, 3, 3]
    assert (frame["mean_hu"] > 0).all()
    assert fresh_space.split_file.read_text() == before  # the ordinary split is untouched
    store = SliceStore(fresh_space.store)
    for centre in "ABC":
        fold = fresh_space.of_fold(f"leave_out_{centre}")
        split = json.loads(fold.split_file.read_text())
        assert {store.centre(p) for p in split["test"]} == {centre}
        assert centre not in {store.centre(p) for p in (*split["train"], *split["val"])}
        record = json.loads((fold.metrics / "mk1.json").read_text())
        assert record["context"]["split"] == f"leave_out_{centre}"
        assert {p["centre"] for p in record["patients"]} == {centre}
        row = frame[frame["left_out"] == centre].iloc[0]
        assert row["mean_hu"] == pytest.approx(record["summary"]["all"]["mae_hu"]["mean"])
        assert row["beats_baselines"] == (row["mean_hu"] < row["best_baseline_hu"])
    assert not (fresh_space.checkpoints / "mk1").exists()
    assert read_folds(fresh_space)["mean_hu"].tolist() == pytest.approx(frame["mean_hu"].tolist())
    again: list[str] = []
    leave_one_centre_out(get("mk1"), SMOKE, fresh_space, TrainSettings(device="cpu"), report=again.append)
    assert sum("unchanged" in line for line in again) == 3  # trained once
    words = ["leave-one-centre-out", "mk1", "--profile", "smoke", "--data", str(cohort), "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "without centre" in done.output
    assert len(read_folds(fresh_space)) == 3  # replaced, not added


def test_one_centre_alone_cannot_be_left_out(cohort, tmp_path, monkeypatch):
    for name in ("data", "checkpoints", "reports"):
        monkeypatch.setenv(f"MRICT_{name.upper()}", str(tmp_path / name))
    folder = tmp_path / "one"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"1BA00{number}").symlink_to(cohort / "Task1" / "brain" / f"1BA00{number}")
    space = prepare_data("smoke", str(folder), report=lambda line: None).workspace
    with pytest.raises(MrictError, match="needs two centres; the data have only A"):
        leave_one_centre_out(get("mk1"), SMOKE, space)


def test_a_damaged_table_is_named(fresh_space):
    assert read_folds(fresh_space).empty
    path = fresh_space.reports / "leave_one_centre_out.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"x": [1]}).to_csv(path, index=False)
    with pytest.raises(MrictError, match=r"leave_one_centre_out\.csv: not a table of left-out centres"):
        read_folds(fresh_space)
