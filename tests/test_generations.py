"""The benchmark of MK7 to MK10: the arithmetic of its table, and what it says of it in words."""

from __future__ import annotations

import pytest

from benchmarks import generations
from mrict_core.experiments import get, lineage

SEEDS = {  # {seed: {row's name: MAE of each of eight people}}
    0: {"mk7_1": 60.0, "mk8_0": 64.0, "mk10_0": 66.0, "mk9_0": 70.0, "mean(mk7_1+mk8_0)": 59.0},
    1: {"mk7_1": 64.0, "mk8_0": 70.0, "mk10_0": 70.0, "mk9_0": 72.0, "mean(mk7_1+mk8_0)": 63.0},
}
SPECTRA = {"mk7_1": 6.0, "mk8_0": 5.6, "mk10_0": 5.5, "mk9_0": 6.1, "mean(mk7_1+mk8_0)": 7.0}


def scores(seed: int) -> generations.Scored:
    found = {
        name: {"people": {"mae_hu": [error + k for k in range(8)], "spectrum_db": [SPECTRA[name]] * 8}}
        for name, error in SEEDS[seed].items()
    }
    found["mk9_0"]["people"]["coverage_gap_90"] = [-5.0] * 8
    found["mk9_0, one sample"] = {"people": {"mae_hu": [90.0], "spectrum_db": [2.9]}}
    return found


def test_means_are_over_people_then_seeds_and_differences_are_to_the_first_row():
    rows = {row["case"]: row for row in generations.table({seed: scores(seed) for seed in SEEDS})}
    assert next(iter(rows)) == "mk7_1"
    assert rows["mk8_0"]["mae_hu"] == pytest.approx(67 + 3.5)
    assert rows["mk8_0"]["seeds_mae_hu"] == pytest.approx([67.5, 73.5])
    assert rows["mk8_0"]["mae_hu_seeds_sd"] == pytest.approx(4.243, abs=1e-3)
    assert rows["mk8_0"]["mean_difference_hu"] == pytest.approx(5)
    assert rows["mk8_0"]["p_holm"] == pytest.approx(4 * 2 / 2**8)  # four rows tested, all people worse
    assert rows["mk9_0, one sample"]["p_holm"] is None  # one number for all people
    assert rows["mk7_1"]["mean_difference_hu"] is None


def test_a_row_with_the_first_seed_alone_is_compared_with_that_seed():
    found = {seed: scores(seed) for seed in SEEDS}
    found[0]["mk9_ddpm"] = {"people": {"mae_hu": [80.0 + k for k in range(8)]}}
    row = next(row for row in generations.table(found) if row["case"] == "mk9_ddpm")
    assert (row["seeds"], row["mae_hu_seeds_sd"], row["spectrum_db"]) == (1, None, None)
    assert row["mean_difference_hu"] == pytest.approx(20)


def test_the_words_follow_from_the_table():
    (line,) = generations.notes(generations.table({seed: scores(seed) for seed in SEEDS}))
    met, missed = line.split(" Missed: ")
    assert "mk8_0 within 5 HU of mk7_1" in met
    assert "mean(mk7_1+mk8_0) better than either" in met
    assert "a sample of mk9_0 nearer to the CT's spectrum than mk7_1" in met
    assert "mk10_0 nearer to the CT's spectrum than mk8_0" in met
    assert "mk9_0 within 5 % of mk7_1" in missed
    assert "86 to 94 %" in missed


@pytest.mark.parametrize("row", generations.ROWS, ids=lambda row: row.name)
def test_every_row_is_an_experiment_that_the_suite_declares(row):
    assert row.experiment == get(row.name)
    assert lineage(row.experiment)[-1].name == row.name
