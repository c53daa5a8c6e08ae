"""The page of a case's doses: what was planned, what changes, pictures in three planes, dose-volume curves, ranges."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from mrict_core import metrics
from mrict_core.dose.study import Scans, Study
from mrict_core.metrics.dose import COVERED_SHARE
from mrict_core.reporting import style
from mrict_core.reporting.dose_figures import dvh_figure, plan_figure, range_figure

DVH, PLAN = "dvh.png", "plan_{}.png"  # of a plan and of a plan on a model's synthetic CT
STRUCTURE_COLUMNS = {"d98_gy": "D98", "d50_gy": "D50", "d2_gy": "D2", "mean_gy": "mean"}


def write_dose_page(path: Path, case: str, scans: Scans, study: Study, record: Mapping[str, Any]) -> Path:
    """Write a self-contained page to `path`, which is staged, and its pictures beside the doses; return it.

    Pictures: <plan>/dvh.png and <plan>/plan_<model>.png, in the plan's folder of the record.
    """
    label = "research only"
    beside = {plan.name: path.parent / plan.name.replace(" ", "_") for plan in study.plans}
    plans = [
        {
            "record": one,
            "dvh": _picture(dvh_figure(plan, scans, label), beside[plan.name] / DVH),
            "pictures": {
                model: _picture(plan_figure(plan, model, scans, label), beside[plan.name] / PLAN.format(model))
                for model in scans.scts
            },
            "structures": _structures(one),
        }
        for plan, one in zip(study.plans, record["plans"], strict=True)
    ]
    beams = {model: [beam for one in record["plans"] for beam in one["models"][model]["beams"]] for model in scans.scts}
    scatter = range_figure(beams, label)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrict_core.reporting.page"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("dose.html.j2").render(
        case=case,
        record=record,
        plans=plans,
        scatter=_picture(scatter) if scatter else "",
        measures=_measures(record),
        headings=[metrics.heading(key) for key in metrics.keys("dose")],
        cards=[metrics.metric(key).definition().removeprefix("- ").replace("**", "") for key in metrics.keys("dose")],
        columns=list(STRUCTURE_COLUMNS.values()),
        least=f"{COVERED_SHARE:.0%}",
    )
    path.write_text(page, encoding="utf-8")
    return path


def _picture(figure: Figure, path: Path | None = None) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=style.DPI, metadata={"Software": None})
    if path:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(held.getvalue())
    return base64.b64encode(held.getvalue()).decode("ascii")


def _measures(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every model and modality, in the metrics' digits."""
    return [
        {
            "model": model,
            "modality": modality,
            "values": [metrics.metric(key).text(values[key]) for key in metrics.keys("dose")],
        }
        for model, by_modality in record["measures"].items()
        for modality, values in by_modality.items()
    ]


def _structures(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every structure and model: doses on CT and sCT in Gy, and the difference in percent."""
    rows = []
    for name, on_ct in plan["on_ct"].items():
        rows.append({"structure": name, "image": "CT", "cells": [f"{on_ct[key]:.3f}" for key in STRUCTURE_COLUMNS]})
        for model, found in plan["models"].items():
            own = found["structures"][name]
            cells = [f"{own[key]:.3f} ({_change(on_ct[key], own[key], plan['dose_gy'])})" for key in STRUCTURE_COLUMNS]
            rows.append({"structure": "", "image": model, "cells": cells})
    return rows


def _change(ct: float, sct: float, dose_gy: float) -> str:
    """Return a change in percent of the prescription, with its sign."""
    change = 100 * (sct - ct) / dose_gy
    return "–" if not math.isfinite(change) else f"{change:+.2f} %"
