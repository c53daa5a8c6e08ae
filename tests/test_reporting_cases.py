"""Records of small and odd data: every table, figure and page works, and absent values are marked, never 0."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from page_data import PATIENTS, page_data
from test_seeds import seeded

from mrict_core import evaluation, metrics
from mrict_core.evaluation.records import plain
from mrict_core.experiments import all_variants
from mrict_core.reporting import figures, text_tables
from mrict_core.reporting.page import render
from mrict_core.reporting.summary import panel_table, summary_table, write_summary

BONE = tuple(m for m in metrics.recorded() if "bone" in m)
AIR = ("mae_air_hu", "me_air_hu")


def without(*names: str):
    """Return a change that removes the values of metrics, with their voxels and curves."""

    def change(row: dict, details: dict) -> None:
        row |= dict.fromkeys(names, float("nan"))
        row |= {f"n_{tissue}": 0 for tissue in ("air", "bone") if f"mae_{tissue}_hu" in names}
        for one in details.get("wepl", {}).get("patients", ()) if "wepl_mae_mm" in names else ():
            one["error_mm"] = [float("nan")] * len(one["error_mm"])
        for one in details.get("calibration", {}).get("patients", ()) if "mae_bone_hu" in names else ():
            size = len(one["mean_hu"])
            one["mean_hu"], one["sd_hu"] = (
                [v if k < size // 2 else None for k, v in enumerate(one[key])] for key in ("mean_hu", "sd_hu")
            )

    return change


def nothing_known(row: dict, details: dict) -> None:
    without(*metrics.recorded())(row, details)


def nowhere(row: dict, details: dict) -> None:
    row["centre"] = "?"


def unchanged(row: dict, details: dict) -> None:
    pass


CASES = {
    "three patients": (3, unchanged, ()),
    "one patient": (1, unchanged, ()),
    "one centre without a name": (3, nowhere, ()),
    "one patient, no centre": (1, nowhere, ()),
    "masks without bone": (3, without(*BONE), ("no voxel in the mask where the CT is above 250 HU",)),
    "masks without air": (3, without(*AIR), ("no voxel in the mask where the CT is below -200 HU",)),
    "one organ: soft tissue alone": (2, without(*BONE, *AIR), ("above 250 HU", "below -200 HU")),
    "no path lengths": (3, without("wepl_mae_mm", "wepl_max_mm", "wepl_me_mm"), ("the value is not finite",)),
    "one slice": (3, without("continuity", "continuity_bone_edge"), ("no two neighbouring slices",)),
    "equal images": (3, without("psnr_db"), ("the two images are equal",)),
    "a whole record without a value": (2, nothing_known, ("above 250 HU", "the value is not finite")),
}


def changed(one: dict, count: int, change) -> dict:
    """Return a record of page_data's first patients, changed and summarised again, as in json."""
    rows = [dict(row) for row in one["patients"][:count]]
    details = json.loads(json.dumps(one["details"]))
    for curves in details.values():
        curves["patients"] = curves["patients"][:count]
    for row in rows:
        change(row, details)
    frame = pd.DataFrame(rows, columns=list(evaluation.columns())).astype(dict.fromkeys(metrics.recorded(), float))
    more = {key: one[key] for key in ("seeds", "features") if key in one}
    scores = evaluation.Scores(frame, details)
    return evaluation.metrics_record(
        one["name"], scores, label="demo", kind=one["kind"], context=one["context"], more=more
    )


def data_of(count: int, change):
    full = page_data(count=3, slices=2, side=24)
    several = evaluation.combine_seeds(seeded("mk0"))
    records = [changed(r, count, change) for r in (several, *full.records[1:])]
    controls = [changed(r, count, change) for r in full.controls]
    made = evaluation.leaderboard(records)
    return dataclasses.replace(
        full,
        records=sorted(records, key=lambda r: list(made["name"]).index(r["name"])),
        controls=controls,
        board=made,
        histories={},
        comparisons=evaluation.pairwise_table(records),
        centres=evaluation.centre_table(records),
        leave_out=evaluation.leave_out_table(records),
        browser=full.browser[:count],
    )


def no_json(word: str) -> None:
    pytest.fail(f"{word} among the page's data stops its script")


@pytest.mark.parametrize(("count", "change", "said"), CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("error")
def test_small_and_odd_data_are_reported(count, change, said, tmp_path):
    data = data_of(count, change)
    page = render(data)
    for name in ("charts", "cards", "patients"):
        text = re.search(rf'id="data-{name}">(.*?)</script>', page, flags=re.S)[1]
        json.loads(text, parse_constant=no_json)
    assert not re.search(r">\s*(nan|None|NaN|inf|<NA>)\b", page)
    for part in said:
        assert part.replace("'", "&#39;") in page
        assert any(part in remark for remark in text_tables.remarks(data.records, metrics.recorded()))
    if not said:
        assert not any("Absent" in remark for remark in text_tables.remarks(data.records, metrics.recorded()))
    for make in ("leaderboard_figure", "clinical_figure", "calibration_figure", "centres_figure"):
        getattr(figures, make)(data.records, label="demo").draw_without_rendering()
    markdown, _ = write_summary(tmp_path, "x", "demo", {"Leaderboard": ("s", data.board)}, data.records)
    assert not re.search(r"\b(nan|None|inf)\b", markdown.read_text().split("## How")[0])


def test_an_absent_number_is_never_zero():
    bare = changed(page_data(count=1, slices=2, side=24).records[0], 3, without(*BONE))
    row = panel_table([bare]).iloc[0]
    assert pd.isna(row["mae_bone_hu"])
    assert pd.isna(row["dice_bone_250"])
    assert row["n_bone"] == 0  # counted: there is none
    table = summary_table([bare]).set_index("metric")
    assert pd.isna(table.loc["mae_bone_hu", "mean"])
    assert table.loc["mae_bone_hu", "absent"] == "3 of 3: no voxel in the mask where the CT is above 250 HU"
    assert table.loc["mae_hu", "absent"] == ""
    for patient in bare["patients"]:
        patient.pop("n_bone")
    assert pd.isna(panel_table([bare])["n_bone"][0])  # not counted by an earlier version


def test_who_lacks_a_number_is_said():
    one = page_data(count=1, slices=2, side=24).records[0]
    one["patients"][1]["mae_bone_hu"] = None
    (remark,) = text_tables.absent_remarks([one], ("mae_hu", "mae_bone_hu"))
    assert remark == f"Absent: bone MAE (HU) of {PATIENTS[1]}: no voxel in the mask where the CT is above 250 HU."
    assert plain({"x": float("nan")}) == {"x": None}


@pytest.mark.parametrize(
    ("hu", "arrows"),
    [
        ([40.0, 40, 40, 700], ["bone, > 250 HU: 25 % of the voxels,\nmedian MR 50, CT 700 HU"]),
        ([40.0, 40, 40, -900], ["air, < −200 HU: 25 % of the voxels,\nmedian MR 50, CT −900 HU"]),
        ([40.0, 40, 40, 40], []),
    ],
)
def test_the_joint_histogram_points_where_bone_and_air_are(hu, arrows):
    mr = np.array([100.0, 110, 120, 50])
    figure = figures.joint_histogram_figure(mr, np.array(hu), np.ones(4, bool), label="practice")
    found = [text for axis in figure.axes for text in axis.texts if getattr(text, "arrow_patch", None)]
    assert [text.get_text() for text in found] == arrows
    assert [text.xy for text in found] == [(50.0, hu[3])] * len(arrows)


def test_the_lineage_names_seeds_and_a_missing_score():
    none = changed(page_data(count=1, slices=2, side=24).records[0] | {"name": "mk2"}, 2, nothing_known)
    figure = figures.lineage_figure(all_variants(), label="demo", records=[evaluation.combine_seeds(seeded()), none])
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert any("105.0 (3 seeds)" in text for text in texts)
    assert any("no MAE" in text for text in texts)
