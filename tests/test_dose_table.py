"""Doses of several models side by side: means over people, ranks with ties and signs, where ranks disagree."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from page_data import dose_results

from mrict_core import metrics
from mrict_core.data.discovery import FURTHER
from mrict_core.evaluation.dose_table import BY, DoseResults
from mrict_core.reporting.dose_text import AGREE, dose_text

NAN = float("nan")


def results(values: dict[str, list[dict[str, float]]], maes: dict[str, float], cases=("a", "b")) -> DoseResults:
    """Doses of protons: model => a row of measures for each case; other measures are absent."""
    rows = [
        {"case": case, "model": name, "modality": "protons"} | dict.fromkeys(metrics.keys("dose"), NAN) | own
        for name, of_cases in values.items()
        for case, own in zip(cases, of_cases, strict=False)
    ]
    of_cases = {name: dict.fromkeys(cases, mae) for name, mae in maes.items()}
    kinds = dict.fromkeys(values, "variant")
    return DoseResults("not for clinical use", {}, pd.DataFrame(rows), of_cases, kinds, {}, ())


def ranks(found: DoseResults, key: str) -> list[int]:
    return list(found.of("protons", found.ranks)[BY + metrics.heading(key)])


def test_means_count_a_person_once():
    found = results(
        {"m": [{"dose_mae": 1.0}, {"dose_mae": 3.0}, {"dose_mae": 8.0}]}, {"m": 50}, ("a", f"a{FURTHER}2", "b")
    )
    assert (found.means.iloc[0]["n"], found.means.iloc[0]["dose_mae"]) == (2, 5.0)


def test_the_mae_is_that_of_the_patients_with_doses():
    found = results({"m": [{"dose_mae": 1.0}]}, {"m": 50}, ("a",))
    found = dataclasses.replace(found, maes={"m": {"a": 40.0, "c": 90.0}})
    assert found.means.iloc[0]["mae_hu"] == 40.0


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("dose_mae", [0.5, 0.2, 0.9], [2, 1, 3]),
        ("gamma_1_1", [90.0, 99.0, 95.0], [3, 1, 2]),  # higher is better
        ("gamma_1_1", [99.9999, 99.9998, 95.0], [1, 1, 3]),  # equal as shown
        ("dose_mae", [0.5, NAN, 0.9], [1, pd.NA, 2]),
    ],
)
def test_ranks_follow_the_direction_and_the_digits(key, values, expected):
    found = results({f"m{k}": [{key: value}] for k, value in enumerate(values)}, {"m0": 1, "m1": 2, "m2": 3})
    assert [None if rank is pd.NA else rank for rank in ranks(found, key)] == [
        None if rank is pd.NA else rank for rank in expected
    ]


def test_signed_changes_that_cancel_do_not_win():
    values = {"swings": [{"target_d98": 4.0}, {"target_d98": -4.0}], "steady": [{"target_d98": 1.0}] * 2}
    found = results(values, {"swings": 1, "steady": 2})
    assert found.means["target_d98"].tolist() == [0.0, 1.0]
    assert ranks(found, "target_d98") == [2, 1]


def test_disagreements_are_named_and_only_they():
    values = {"sharp": [{"dose_mae": 1.0, "gamma_1_1": 99.0}], "flat": [{"dose_mae": 0.5, "gamma_1_1": 98.0}]}
    found = results(values, {"sharp": 40, "flat": 60})
    assert found.disagreements() == [f"protons, {BY}{metrics.heading('dose_mae')}: flat before sharp"]
    assert results(values, {"sharp": 60, "flat": 40}).disagreements() == [
        f"protons, {BY}{metrics.heading('gamma_1_1')}: sharp before flat"
    ]
    same = {"sharp": [{"dose_mae": 0.5}], "flat": [{"dose_mae": 0.5}]}
    assert results(same, {"sharp": 40, "flat": 60}).disagreements() == []


def test_the_text_has_every_table_and_what_doses_are_not():
    text = dose_text(dose_results())
    for part in ("photons, means", "protons, means", "photons, ranks", "protons, ranks", "not for clinical use"):
        assert part in text
    assert AGREE not in text
    assert "Other order than by MAE" in text
    assert "1BC003: failed" in text
