"""A csv says which pairs are used: read, applied to what was found, and through preprocess, suite and run_all.sh."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

from mrict_core import cli
from mrict_core.data.discovery import discover
from mrict_core.data.images.volumes import save_nifti
from mrict_core.data.pair_choices import PAIRS, choose, read_choices
from mrict_core.errors import MrictError
from mrict_core.paths import workspace
from mrict_core.pipeline import prepare_data
from mrict_core.suite.plan import load_parameters, plan, step_key

PATIENTS = ("1BA001", "1BA002", "1BB001", "odd-one")


@pytest.fixture
def data(tmp_path):
    """Four patients of one region in SynthRAD layout."""
    rng = np.random.default_rng(0)
    ball = np.linalg.norm(np.indices((24, 24, 4)) - np.array([12, 12, 2])[:, None, None, None], axis=0) < 9
    for patient in PATIENTS:
        mr = ball * (200 + 20 * rng.normal(size=ball.shape))
        ct = np.where(ball, 40 + 5 * rng.normal(size=ball.shape), -1000)
        ct[11:13, 11:13] = 900
        for role, array in (("mr", mr), ("ct", ct), ("mask", ball)):
            affine = np.diag([4.0, 4.0, 4.0, 1.0])
            save_nifti(tmp_path / "Task1" / "brain" / patient / f"{role}.nii.gz", array, affine, dtype=np.int16)
    return tmp_path


def write(path, *rows, head="patient,use,reason"):
    path.write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "option"), [(PAIRS, False), ("mine.csv", True)], ids=["pairs.csv by itself", "--pairs FILE"]
)
def test_rejected_patients_are_skipped_with_a_reason(data, name, option):
    path = write(data / name, "1BA001,yes,", "1ba002,No,moved 4 mm", "1BB001,YES,")
    found, lines = choose(discover(data), "brain", path if option else "")
    assert [p.patient for p in found.patients] == ["1BA001", "1BB001", "odd-one"]
    (skip,) = found.skipped
    assert skip.patient == "1BA002"
    assert "line 3" in skip.reason
    assert "moved 4 mm" in skip.reason
    assert "set use to yes" in skip.reason
    assert len(lines) == 1
    assert "3 of 4 used" in lines[0]
    assert "1 of them without a row" in lines[0]


def test_a_csv_is_not_blamed_for_patients_that_cannot_be_used(data):
    for patient in PATIENTS:
        (data / "Task1" / "brain" / patient / "ct.nii.gz").unlink()
    write(data / PAIRS, "1BA001,yes,")
    found, _ = choose(discover(data), "brain")
    assert not found.patients
    assert {skip.patient for skip in found.skipped} == set(PATIENTS)


def test_without_a_csv_nothing_changes(data):
    before = discover(data)
    assert choose(before, "brain") == (before, [])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["1BA001,maybe,"], "line 2: use is 'maybe' for 1BA001; expected yes or no"),
        (["1BA001,,"], "use is '' for 1BA001"),
        (["1BA001,yes,", "1BA001,no,"], "line 3: 1BA001 is also in line 2"),
        (["1BA001,yes,", "1ba001,yes,"], "line 3: 1ba001 is also in line 2"),
        (["1BA009,no,"], "line 2: unknown patient '1BA009': did you mean"),
        ([",no,"], "line 2 names no patient"),
        ([f"{patient},no," for patient in PATIENTS], "rejects every patient"),
        ([], "holds no row"),
    ],
)
def test_wrong_rows_are_one_clear_line(data, rows, words):
    write(data / PAIRS, *rows)
    with pytest.raises(MrictError) as raised:
        choose(discover(data), "brain")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert PAIRS in str(raised.value)


def test_missing_file_and_columns(tmp_path):
    with pytest.raises(MrictError, match="no such file"):
        read_choices(tmp_path / "none.csv", "brain")
    with pytest.raises(MrictError, match="add use"):
        read_choices(write(tmp_path / "a.csv", "1BA001,yes", head="patient,ok"), "brain")


def test_rows_of_other_regions_are_left_to_them(data):
    rows = ("1BA001,brain,no", "1PA001,pelvis,no", "1BA002,,yes")
    path = write(data / PAIRS, *rows, head="patient,region,use")
    assert set(read_choices(path, "brain")) == {"1ba001", "1ba002"}
    assert [skip.patient for skip in choose(discover(data), "brain")[0].skipped] == ["1BA001"]


def test_each_folder_has_its_own_csv(data, tmp_path_factory):
    second = tmp_path_factory.mktemp("second")
    (data / "Task1" / "brain" / "1BB001").rename(second / "1BB001")
    write(data / PAIRS, "1BA001,no,")
    write(second / PAIRS, "1BB001,yes,")
    found, lines = choose(discover([data, second]), "brain")
    assert [skip.patient for skip in found.skipped] == ["1BA001"]
    assert len(lines) == 2


def test_prepare_leaves_rejected_patients_out_and_takes_them_back(data, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MRICT_HOME", str(tmp_path_factory.mktemp("home")))
    path, said = write(data / PAIRS, "1BA002,no,wrong person"), []
    prepared = prepare_data("smoke", data, report=said.append)
    assert list(prepared.store.patients) == ["1BA001", "1BB001", "odd-one"]
    assert [one["patient"] for one in prepared.left_out] == ["1BA002"]
    assert "wrong person" in prepared.left_out[0]["reason"]
    assert any(line.startswith("pairs: 3 of 4 used") for line in said)
    write(path, "1BA002,yes,")
    assert len(prepare_data("smoke", data, report=said.append).store.patients) == 4


def test_a_changed_choice_runs_notebook_00_again(data):
    space = workspace("smoke", data)

    def key(pairs=""):
        (step,) = [one for one in plan([], space, load_parameters("smoke"), pairs=pairs) if not one.needs]
        return step_key(step, {}, space)

    keys = [key()]
    for use in ("no", "yes"):
        write(data / PAIRS, f"1BA002,{use},")
        keys.append(key())
    keys.append(key(str(write(data / "mine.csv", "1BA002,no,"))))
    assert len(set(keys)) == 4
    assert key() == keys[2]


def test_preprocess_names_the_rejected_patient_and_exits_with_1(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_HOME", str(tmp_path / "home"))
    path = write(data / "mine.csv", "1BA002,no,wrong person")
    arguments = ["preprocess", "--profile", "smoke", "--data", str(data), "--pairs", str(path)]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 1, done.output
    assert "skipped 1BA002" in done.output
    assert "wrong person" in done.output


def test_run_all_names_the_option():
    from mrict_core.paths import ROOT

    text = subprocess.run([ROOT / "run_all.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--pairs FILE" in text
