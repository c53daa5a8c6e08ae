"""Several seeds of one variant: one record, and which spread is which."""

from __future__ import annotations

import copy
import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from page_data import page_data, record

from mrict_core import evaluation, metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation.compare import compare_runs
from mrict_core.evaluation.records import seeds_of, slices_remark
from mrict_core.reporting.figures import calibration_figure, centres_figure, clinical_figure, leaderboard_figure
from mrict_core.reporting.page import render
from mrict_core.reporting.summary import summary_table
from mrict_core.reporting.text_tables import comparison_text, remarks, write_leaderboard

SHIFTS = {3: 6.0, 1: -6.0, 2: 0.0}  # HU by which a seed's MAE lies beside the record of page_data


def seeded(name: str = "mk1", shifts: dict[int, float] | None = None) -> list[dict]:
    """Records of one variant, one per seed: every patient's MAE lies by the seed's shift beside the first record's."""
    found = []
    for seed, shift in (shifts or SHIFTS).items():
        one = copy.deepcopy(record(name, 100.0))
        one["context"] |= {"seed": seed, "checkpoint_hash": f"hash{seed}"}
        for patient in one["patients"]:
            patient["mae_hu"] += shift
        one["summary"]["all"]["mae_hu"]["mean"] += shift
        found.append(one)
    return found


def test_patients_are_means_over_seeds_and_the_two_spreads_are_kept_apart():
    single, combined = seeded(shifts={1: 0.0})[0], evaluation.combine_seeds(seeded())
    mae = [p["mae_hu"] for p in single["patients"]]
    assert [p["mae_hu"] for p in combined["patients"]] == pytest.approx(mae)
    assert combined["summary"]["all"]["mae_hu"]["sd"] == pytest.approx(np.std(mae, ddof=1))
    over_seeds = combined["seeds"]["summary"]["mae_hu"]
    means = [np.mean(mae) + shift for shift in sorted(SHIFTS.values())]
    assert over_seeds["means"] == pytest.approx(means)
    assert (over_seeds["mean"], over_seeds["sd"], over_seeds["n"]) == pytest.approx((np.mean(mae), 6.0, 3))
    assert combined["seeds"]["values"] == seeds_of(combined) == [1, 2, 3]
    assert combined["seeds"]["checkpoints"] == ["hash1", "hash2", "hash3"]
    assert combined["cards"]["mae_hu"]["seed"] == "1 / 2 / 3"
    assert combined["n"] == combined["cards"]["mae_hu"]["n"] == len(mae)
    json.dumps(combined, allow_nan=False)


def test_one_seed_keeps_its_record_and_says_that_it_has_no_spread():
    single = seeded(shifts={4: 0.0})
    combined = evaluation.combine_seeds(single)
    assert {key: combined[key] for key in single[0]} == single[0]
    assert combined["seeds"]["values"] == [4]
    assert all(own["sd"] is None for own in combined["seeds"]["summary"].values())


def test_what_one_seed_lacks_is_absent_and_what_it_says_is_kept():
    records = seeded()
    records[0]["patients"][0]["psnr_db"] = None  # seed 3
    records[0]["patients"][0]["flags"], records[0]["note"] = "shifted", "stopped early"
    combined = evaluation.combine_seeds(records)
    assert combined["patients"][0]["psnr_db"] is None
    assert combined["patients"][0]["flags"] == "seed 3: shifted"
    assert combined["note"] == "seed 3: stopped early"
    assert combined["summary"]["all"]["psnr_db"]["n"] == len(combined["patients"]) - 1


def other_data(records):
    records[0]["context"]["store_key"] = "other"


def other_patients(records):
    records[0]["patients"] = records[0]["patients"][1:]


def other_variant(records):
    records[0]["name"] = "mk2"


def one_twice(records):
    records[0]["context"]["seed"] = records[1]["context"]["seed"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_data, "store_key"),
        (other_patients, "patients"),
        (other_variant, "name"),
        (one_twice, "contain one twice"),
        (list.clear, "no record of any seed"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(change, expected):
    records = seeded()
    change(records)
    with pytest.raises(MrictError, match=expected):
        evaluation.combine_seeds(records)


@pytest.fixture(scope="module")
def several() -> list[dict]:
    """One model of three seeds, one of a single seed, a baseline."""
    single = seeded("mk2", {7: 4.0})[0]
    return [evaluation.combine_seeds(seeded("mk1")), single, record("baseline_a", 300.0, "baseline")]


def test_the_leaderboard_has_both_spreads_only_where_there_are_seeds(several, tmp_path):
    board = evaluation.leaderboard(several)
    rows = board.set_index("name")
    assert rows["seeds"].to_dict() == {"mk1": "1, 2, 3", "mk2": "7", "baseline_a": ""}
    assert rows.loc["mk1", "mae_hu_seeds_sd"] == pytest.approx(6.0)
    assert rows.loc["mk1", "mae_hu_sd"] == pytest.approx(5.0)
    assert rows.loc[["mk2", "baseline_a"], "mae_hu_seeds_sd"].isna().all()
    assert not [c for c in evaluation.leaderboard(several[1:]) if "seeds" in c]
    csv, markdown = write_leaderboard(tmp_path, board, "demo", None, remarks(several, metrics.keys("leaderboard")))
    text = markdown.read_text()
    assert "± 5.0 (± 6.0 over seeds) |" in text.replace("\N{NO-BREAK SPACE}", " ")  # no interval of three patients
    assert "mk1: seeds 1, 2, 3" in text
    assert {"seeds", "mae_hu_seeds_sd", "ssim_seeds_sd"} <= set(pd.read_csv(csv).columns)
    assert remarks(several[1:], ()) == []


def test_pairs_are_tested_on_the_means_over_seeds(several):
    pairs = evaluation.pairwise_table(several)
    first = pairs[(pairs["a"] == "mk1") & (pairs["b"] == "mk2")].iloc[0]
    assert (first["n"], first["mean_difference_hu"]) == (3, pytest.approx(-4.0))
    assert evaluation.centre_table(several).set_index("name").loc["mk1", "mean_hu"].tolist() == [100.0, 105.0, 110.0]


def test_the_summary_has_a_column_for_each_spread(several):
    table = summary_table(several).set_index(["name", "metric"])
    assert table.loc[("mk1", "mae_hu"), ["sd", "sd_over_seeds", "n_seeds"]].tolist() == pytest.approx([5.0, 6.0, 3])
    assert table.loc[("mk1", "mae_hu"), "seed"] == "1 / 2 / 3"
    assert pd.isna(table.loc[("mk2", "mae_hu"), "sd_over_seeds"])
    assert "sd_over_seeds" not in summary_table(several[1:])


def test_the_page_says_seeds_in_table_note_card_and_legend(several):
    data = page_data(count=1, slices=2, side=24)
    shown = {"comparisons": evaluation.pairwise_table(several), "centres": evaluation.centre_table(several)}
    page = render(dataclasses.replace(data, records=several, board=evaluation.leaderboard(several), **shown))
    for part in ("± 6.0 over seeds", "mk1 (mean of 3 seeds)", "mk1: seeds 1, 2, 3", "SD over seeds"):
        assert part in page
    cards = json.loads(re.search(r'id="data-cards">(.*?)</script>', page, flags=re.S)[1])
    own = cards["mae_hu"]["numbers"]
    assert (own["mk1"]["seed"], own["mk1"]["sd_over_seeds"]) == ("1 / 2 / 3", pytest.approx(6.0))
    assert own["mk2"]["sd_over_seeds"] is None


@pytest.mark.parametrize("make", [leaderboard_figure, clinical_figure, calibration_figure, centres_figure])
def test_a_figure_of_several_seeds_says_so(several, make):
    figure = make(several, label="demo")
    texts = {text.get_text().replace("\n", " ") for text in figure.findobj(Text)}
    assert "mk1 (mean of 3 seeds)" in texts
    assert "mk2" in texts


def test_two_runs_of_other_seeds_say_so(several, tmp_path):
    evaluation.write_metrics(tmp_path / "a" / "metrics", several[0])
    evaluation.write_metrics(tmp_path / "b" / "metrics", seeded(shifts={4: 1.0})[0])
    text = comparison_text(compare_runs(tmp_path / "a", tmp_path / "b", ("mae_hu",)))
    assert "values are means over seeds (a: 1, 2, 3; b: 4); intervals do not include their spread" in text


def test_pictures_say_of_which_seed_they_are(several):
    assert slices_remark(several) == "images are of the first of several seeds (mk1: seed 1)"
    assert slices_remark(several[1:]) == ""
