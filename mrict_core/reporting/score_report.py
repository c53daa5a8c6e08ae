"""Output of the command `score`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

import pandas as pd

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation.image_scores import (
    CaseFiles,
    Progress,
    ScoreOptions,
    cards_of,
    find_cases,
    other_files,
    score_cases,
    score_files,
    settings,
    summary_of,
)
from mrict_core.evaluation.records import plain
from mrict_core.files import write_csv
from mrict_core.metrics import NOTHING
from mrict_core.paths import shown
from mrict_core.reporting.text_tables import text_table


def score_one(ct: str, sct: str, mask: str, options: ScoreOptions, csv: Path | None, *, json: bool) -> str:
    """Return the scores of one case as text or json; also write them to `csv` if given."""
    if not mask:
        raise MrictError("--mask is missing: scores are taken inside the body mask; give the mask's file")
    paths = (Path(path).expanduser() for path in (ct, sct, mask))
    found = score_files(CaseFiles(Path(sct).name, *paths), options)
    if csv:
        row = {key: value for key, value in found.items() if key not in ("cards", "files")}
        write_csv(csv, pd.DataFrame([row | {"warnings": "; ".join(found["warnings"])}]))
        _write_cards(csv, found["cards"])
    if json:
        return jsonlib.dumps(plain(found), indent=2, ensure_ascii=False)
    rows = [_line(name, found[name], card) for name, card in found["cards"].items()]
    head = f"{found['case']}: {found['n_voxels']} voxels inside the mask; {found['grid']}; {_how(options)}"
    return "\n".join([head, "", text_table(pd.DataFrame(rows)), *(f"warning: {w}" for w in found["warnings"])])


def _write_cards(csv: Path, cards: dict[str, dict[str, str]]) -> None:
    """Write the definitions of a csv's columns: scores.csv gets scores.cards.csv."""
    write_csv(csv.with_suffix(".cards.csv"), pd.DataFrame(cards.values()))


def _line(name: str, value: Any, card: dict[str, str]) -> dict[str, str]:
    return {
        "metric": metrics.heading(name),
        "value": metrics.metric(name).text(value),
        "unit": card["unit"],
        "in": card["dimensionality"],
        "range": card["range"],
        "mask": card["mask"].split(";")[0],
    }


def _how(options: ScoreOptions) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings(options).items())


def score_folders(
    ct: str, sct: str, mask: str | None, options: ScoreOptions, csv: Path, *, json: bool, progress: Progress | None
) -> tuple[str, int]:
    """Score two folders and write one row per case; return (text or json, number of cases not scored)."""
    places = [None if place is None else Path(place).expanduser() for place in (ct, sct, mask)]
    cases, problems = find_cases(*places)
    frame = score_cases(cases, problems, options, progress)
    failed = frame[frame["status"] == "failed"]
    if len(failed) == len(frame):
        reasons = " | ".join(f"{row.case}: {row.reason}" for row in failed.itertuples())
        raise MrictError(f"none of the {len(frame)} cases can be scored, nothing written: {reasons}")
    write_csv(csv, frame)
    _write_cards(csv, cards_of(options))
    summary = summary_of(frame, options)
    if json:
        parts = {"cases": frame.to_dict(orient="records"), "summary": summary.to_dict(orient="records")}
        whole = parts | settings(options) | {"cards": cards_of(options), "csv": str(csv)}
        return jsonlib.dumps(plain(whole), indent=2, ensure_ascii=False), len(failed)
    scored = frame[frame["status"] == "scored"]
    leading = {*metrics.keys(options.protocol), *metrics.keys("leaderboard")}
    shown_metrics = [name for name in options.metric_names if name in leading]
    lines = [_how(options)]
    lines += ["", text_table(scored[["case", *shown_metrics, "warnings"]].replace({"warnings": ""}, None))]
    lines += ["", f"over {len(scored)} of {len(frame)} cases (SD with ddof 1):", _summary_text(summary)]
    lines += ["", *(f"not scored: {row.case}: {row.reason}" for row in failed.itertuples())] if len(failed) else []
    others = other_files(*places)
    total = f"{len(frame)} found: {len(scored)} scored, {len(failed)} not scored; {others} other files"
    return "\n".join([*lines, f"cases: {shown(csv)}", total]), len(failed)


def _summary_text(summary: pd.DataFrame) -> str:
    rows = []
    for row in summary.itertuples():
        metric = metrics.metric(row.metric)
        mean, sd, median = map(metric.text, (row.mean, row.sd, row.median))
        spread = mean if sd == NOTHING else f"{mean} ± {sd}"
        rows.append({"metric": metric.heading, "mean ± SD": spread, "median": median, "n": row.n})
    return text_table(pd.DataFrame(rows))
