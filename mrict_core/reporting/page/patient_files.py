"""Which test patients the page holds itself (worst, median, best), and the files of all others beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mrict_core.files import write_text
from mrict_core.reporting.page import slices
from mrict_core.reporting.page.data import PageData

FOLDER = "page"  # beside index.html


def listed(data: PageData) -> list[dict[str, Any]]:
    """Return every test patient, the largest error of the best model first: name, MAE, role and file.

    The role is "worst", "median" or "best"; these patients are inside the page and have no file. Patients without a
    score come last and have no role; if no patient has a score, the first is inside the page.
    """
    best = next((r for r in data.records if r["kind"] == "variant"), None)
    errors = {row["patient"]: row["mae_hu"] for row in best["patients"]} if best else {}
    names = [name for name, _ in data.browser]
    scored = sorted((name for name in names if errors.get(name) is not None), key=errors.get, reverse=True)
    roles = _roles(scored)
    names = [*scored, *(name for name in names if name not in scored)]
    inside = roles or names[:1]
    return [
        {
            "patient": name,
            "mae": errors.get(name),
            "role": roles.get(name, ""),
            "file": "" if name in inside else f"{FOLDER}/{quote(name)}.js",
        }
        for name in names
    ]


def _roles(names: Sequence[str]) -> dict[str, str]:
    """Return {patient: role} of patients sorted from the worst to the best."""
    if len(names) == 1:
        return {names[0]: "only"}
    found = {names[0]: "worst", names[-1]: "best"} if names else {}
    return found | {names[len(names) // 2]: "median"} if len(names) > 2 else found


def priority(data: PageData) -> list[str]:
    """Return the models in the order in which they are kept if space is short: two variants, baselines, the others."""
    variants, baselines = ([r["name"] for r in data.records if r["kind"] == k] for k in ("variant", "baseline"))
    return [*variants[:2], *baselines, *variants[2:]]


def write_files(data: PageData, folder: Path) -> None:
    """Write folder/page/<patient>.js of every patient that is not inside the page; remove those of earlier reports."""
    readers, written = dict(data.browser), set()
    for entry in listed(data):
        if not entry["file"]:
            continue
        encoded = slices.encode(readers[entry["patient"]](), priority(data))
        content = json.dumps([entry["patient"], encoded.facts, encoded.blocks], ensure_ascii=True)
        written.add(write_text(folder / FOLDER / f"{entry['patient']}.js", f"mrictPatient(...{content});\n"))
    for old in (folder / FOLDER).glob("*.js"):
        if old not in written:
            old.unlink()
