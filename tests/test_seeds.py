"""Several seeds of one variant: one record, and which spread is which."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from page_data import record

from mrict_core import evaluation
from mrict_core.errors import MrictError
from mrict_core.evaluation.records import seeds_of

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
        (one_twice, "hold one twice"),
        (list.clear, "no record of any seed"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(change, expected):
    records = seeded()
    change(records)
    with pytest.raises(MrictError, match=expected):
        evaluation.combine_seeds(records)
