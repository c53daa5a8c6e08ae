"""A run's result in words, from the numbers of its leaderboard."""

from __future__ import annotations

from typing import Any

import pytest
from page_data import record as whole_record

from mrict_core.reporting.conclusion import bone_verdict, conclusion, headline

WATER, MEAN, RANKS = ("baseline_water_body", 166.0), ("baseline_mean_ct", 180.5), ("baseline_rank_map", 240.0)
OWN = {"train_patients": 115, "checkpoint_epoch": 8, "epochs": 10}


def record(
    name: str,
    mae: float | None,
    n: int = 30,
    dice: float | None = 0.8,
    bone: float | None = 210.0,
    bias: float | None = None,
    **context: Any,
) -> dict:
    def summary(mean: float | None) -> dict:
        return {"mean": mean, "sd": 12.34 if n > 1 else None, "n": n}

    kind = "baseline" if name.startswith("baseline_") else "variant"
    values = {"mae_hu": mae, "dice_bone_250": dice, "mae_bone_hu": bone, "me_bone_hu": bias}
    summaries = {"all": {metric: summary(value) for metric, value in values.items()}}
    return {"name": name, "kind": kind, "summary": summaries, "context": OWN | context}


def baselines(n: int = 30, dice: float | None = 0.1) -> list[dict]:
    return [record(name, mae, n, dice) for name, mae in (WATER, MEAN, RANKS)]


BEATEN = "It beats every baseline: water (166.0 HU), the mean training CT (180.5 HU) and MR values mapped to HU by rank"
SEEDS = "Next: train other seeds before trusting a small difference between models."


@pytest.mark.parametrize(
    ("records", "parts"),
    [
        pytest.param(
            [record("mk7", 80.0), record("unet_l1", 95.0), *baselines()],
            ["The best of 2 models is mk7: its mean error inside the body is 80.0 ± 12.3 HU (mean ± SD of 30 held-out "
             "people).", BEATEN, "In bone the error is 210.0 HU and the overlap (Dice) 0.800, better than any "
             "baseline.", SEEDS],
            id="thirty patients",
        ),
        pytest.param(
            [record("mk7", 80.0, 3, train_patients=9), *baselines(3)],
            ["The model is mk7: ", "80.0 ± 12.3 HU (mean ± SD of 3 held-out people; too few for a statistical test "
             "between models).", BEATEN, "Next: add patients: it learned from 9."],
            id="three patients",
        ),
        pytest.param(
            [record("mk7", 80.0, 1, train_patients=2), *baselines(1)],
            ["its mean error inside the body is 80.0 HU, in the one held-out person.", BEATEN],
            id="one patient",
        ),
        pytest.param(
            [record("mk7", 300.0, dice=0.0, budget="20 minutes"), *baselines()],
            ["It does not beat water (166.0 HU), the mean training CT (180.5 HU) or MR values", "of no use",
             "Next: look at figures/00_pairs.png", "train longer (--minutes-per-variant; now 20 minutes)."],
            id="loses to all baselines",
        ),
        pytest.param(
            [record("mk7", 170.0), *baselines()],
            ["It beats the mean training CT (180.5 HU) and MR values mapped to HU by rank (240.0 HU), but not water"],
            id="loses to water",
        ),
        pytest.param(
            [record("mk7", 80.0, epochs=8), *baselines()],
            ["Next: train longer (--minutes-per-variant): the error on the validation patients was still falling."],
            id="still falling",
        ),
        pytest.param(
            [record("mk7", 80.0, dice=0.42), *baselines()],
            ["0.420: much of the bone is missing or displaced.", "Next: see in the report's slice browser whether"],
            id="poor bone",
        ),
        pytest.param(
            [record("mk7", 80.0, dice=0.7), *baselines(dice=0.75)],
            ["0.700, no better than water and the mean training CT and MR values mapped to HU by rank."],
            id="bone no better than a baseline",
        ),
        pytest.param(
            [record("mk7", 80.0, dice=None, bone=None), *baselines(dice=None)],
            ["The CTs have no bone above 250 HU inside the mask, so bone was not judged.", SEEDS],
            id="no bone",
        ),
        pytest.param(
            [record("mk7", 80.0)], ["No baseline was scored", "overlap (Dice) 0.800."], id="no baseline"
        ),
        pytest.param([record("mk7", None), *baselines()], ["No model has a score."], id="no score"),
        pytest.param(
            [record("mk7", 80.0, dice=0.3, data="embedded phantoms"), *baselines()],
            ["These are phantoms: try your own patients next (./run_all.sh --data DIR)."],
            id="phantoms",
        ),
    ],
)  # fmt: skip
def test_a_result_in_words(records, parts):
    text = conclusion(records)
    assert [part for part in parts if part not in text] == [], text
    assert "\n" not in text
    assert "None" not in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record("mk7", 80.0), record("unet_l1", 95.0), *baselines()],
         "mk7 is best: 80.0 HU mean absolute error over 30 held-out people, better than the best baseline, water "
         "(166.0 HU)."),
        ([record("mk7", 170.0, 1), *baselines(1)],
         "mk7: 170.0 HU mean absolute error in the one held-out person, no better than water (166.0 HU)."),
        ([record("mk7", 80.0, 3, data="embedded phantoms")],
         "mk7: 80.0 HU mean absolute error over 3 held-out phantoms. No baseline was scored."),
        ([record("mk7", 80.0, 1, data="embedded phantoms")],
         "mk7: 80.0 HU mean absolute error in the one held-out phantom. No baseline was scored."),
        ([record("mk7", 80.0)], "mk7: 80.0 HU mean absolute error over 30 held-out people. No baseline was scored."),
        ([record("mk7", None)], "No model has a score."),
    ],
)  # fmt: skip
def test_the_headline(records, expected):
    assert headline(records) == expected


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record("mk7", 80.0, dice=0.42, bias=-120.0), *baselines(dice=0.75)],
         "Poor: much of the bone is missing or displaced (Dice 0.420 above 250 HU, no better than water and the mean "
         "training CT and MR values mapped to HU by rank). The error in bone is 210.0 HU; on average bone is 120 HU "
         "too soft."),
        ([record("mk7", 80.0, dice=0.9, bias=20.0), *baselines()],
         "Good: bone is where it should be (Dice 0.900 above 250 HU, better than any baseline). The error in bone is "
         "210.0 HU, without a clear bias."),
        ([record("mk7", 80.0, dice=0.7, bias=90.0)],
         "Fair: most bone is there, its outline is not exact (Dice 0.700 above 250 HU). The error in bone is 210.0 HU; "
         "on average bone is 90 HU too dense."),
        ([record("mk7", 80.0, dice=None, bone=None)],
         "Not judged: the CTs have no bone above 250 HU inside the mask."),
        ([record("mk7", None)], ""),
    ],
)  # fmt: skip
def test_bone_is_told_once(records, expected):
    assert bone_verdict(records) == expected
    assert "Dice" in conclusion(records) or "no bone" in conclusion(records) or not expected
    beside = conclusion(records, bone=False)
    assert "Dice" not in beside
    assert "no bone" not in beside


def test_records_as_they_are_written_can_be_told():
    records = [whole_record("mk1", 100.0), whole_record("baseline_water_body", 217.0, "baseline")]
    records[0]["context"] |= OWN
    assert conclusion(records).startswith("The model is mk1: its mean error inside the body is 105.0 ± 5.0 HU")
