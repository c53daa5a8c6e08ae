"""The page and the csv to judge training pairs by: one row for each patient, the worst first."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import SimpleITK as sitk

from mrict_core import __version__
from mrict_core.data.case_csv import read_rows
from mrict_core.data.images.volumes import SUFFIXES
from mrict_core.data.pair_choices import COLUMNS, PAIRS, USES
from mrict_core.errors import MrictError
from mrict_core.files import available, csv_text, hash_of, read_json, write_csv, write_text
from mrict_core.pairing.bodies import ct_body, mr_body
from mrict_core.pairing.quality import LIMITS, MEASURES, Verdict
from mrict_core.paths import shown
from mrict_core.reporting.pair_pictures import CT_COLOUR, KINDS, MR_COLOUR, Picture, pictures

RECORD = "pair.json"
PAGE = "pairs.html"
PASSING = ("seconds", "versions")  # of a record: they do not change the pair
NAMES = {  # measure => its name on the page
    "offset_mm": "off by",
    "offset_deg": "turned by",
    "mutual_information": "mutual information",
    "body_dice": "overlap of bodies",
    "air_dice": "overlap of air",
    "outline_mm": "distance of outlines",
    "covered": "covered by the CT",
    "mirror_gain": "fit of a mirror image",
    "sharpness": "lost at 4 mm",
}
CSV = ("patient", "region", "use", "reason", "verdict", "reasons", *MEASURES, "pair")


@dataclass(frozen=True)
class Pair:
    """A pair on disk: its record, and the row of the csv."""

    folder: Path
    record: Mapping[str, Any]
    row: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.record["quality"]["verdict"])


def write_pair_page(folder: Path) -> Path:
    """Write `folder`/pairs.html and pairs.csv of the pairs in `folder`/Task*/<region>/<patient>/; return the page.

    The column `use` starts with no for what is not a pair and yes for the rest. What a user has chosen there is kept as
    long as the pair is the same. Raises MrictError without a pair, and for a damaged pair.json, image or csv.
    """
    folder = Path(folder)
    records = sorted(folder.glob(f"Task*/*/*/{RECORD}"))
    if not records:
        raise MrictError(f"{shown(folder)}: holds no Task1/<region>/<patient>/{RECORD}; pair scans into it first")
    before = _choices(folder / PAIRS)
    pairs = [_pair(path, before) for path in records]
    pairs.sort(key=lambda pair: (-list(Verdict).index(pair.verdict), -_badness(pair), pair.row["patient"]))
    table = pd.DataFrame([pair.row for pair in pairs], columns=list(CSV))
    page = _html(pairs, table)
    write_csv(folder / PAIRS, table)
    return write_text(folder / PAGE, page)


def _pair(path: Path, before: Mapping[tuple[str, str], Mapping[str, str]]) -> Pair:
    """Return a pair with its row; the choice of the former csv is kept if the pair is unchanged."""
    record = read_json(path)
    try:
        quality, patient, region = record["quality"], record["patient"], record["region"]
        verdict = Verdict(quality["verdict"])
        reasons, measures = "; ".join(quality["reasons"]), {name: quality[name] for name in MEASURES}
    except (KeyError, TypeError, ValueError) as error:
        raise MrictError(
            f"{shown(path)}: {error} is missing or damaged; expected a record of `pair`; pair again"
        ) from None
    # the letter keeps a spreadsheet from reading 12e45… as a number, and from losing its digits
    key = "p" + hash_of({name: value for name, value in record.items() if name not in PASSING})
    use, reason = ("no", reasons) if verdict is Verdict.NOT else ("yes", "")
    former = before.get((region, patient)) or before.get(("", key))  # a spreadsheet makes 1 of patient 001
    if former and former.get("pair") == key:
        use, reason = former["use"].lower(), former.get("reason", "")
    elif former and former["use"].lower() != use:
        reason = "; ".join(filter(None, (f"paired anew since use was {former['use'].lower()}", reason)))
    row = {"patient": patient, "region": region, "use": use, "reason": reason, "verdict": str(verdict)}
    return Pair(path.parent, record, row | {"reasons": reasons, **measures, "pair": key})


def _choices(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return the rows of the csv on disk by region and patient, and by "" and their pair."""
    if not path.is_file():
        return {}
    found = {}
    for line, row in read_rows(path, COLUMNS):
        if row["use"].lower() not in USES:
            where = f"{shown(path)}: line {line}"
            raise MrictError(f"{where}: use is '{row['use']}' for {row['patient']}; expected yes or no; correct it")
        found[row.get("region", ""), row["patient"].removeprefix("'")] = row
        if row.get("pair"):
            found["", row["pair"]] = row
    return found


def _badness(pair: Pair) -> float:
    """Return how far the worst measure is beyond its limit, to sort pairs of one verdict."""
    return max(LIMITS[name].excess(pair.row[name]) for name in MEASURES)


def _image(folder: Path, *roles: str) -> sitk.Image:
    files = [path for role in roles for suffix in SUFFIXES if (path := folder / f"{role}{suffix}").is_file()]
    if not files:
        raise MrictError(f"{shown(folder)}: {roles[0]}.nii.gz is missing; expected the images of a pair; pair it again")
    try:
        with available(files[0]):
            return sitk.ReadImage(str(files[0]), sitk.sitkFloat32)
    except RuntimeError:
        raise MrictError(f"{shown(files[0])}: not readable as an image; pair it again") from None


def _pictures(folder: Path) -> list[Picture]:
    mr, ct = _image(folder, "mr", "cbct"), _image(folder, "ct")
    return pictures(mr, ct, mr_body(mr), ct_body(ct))


def _measures(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the measures of a pair for the page: name, value with unit, and whether a limit is passed."""
    found = []
    for name in MEASURES:
        limit, value = LIMITS[name], row[name]
        text = "–" if value is None else limit.text(value)
        bad = limit.verdict(value) is not Verdict.GOOD
        found.append({"name": NAMES[name], "text": text, "bad": bad, "limit": limit.in_words})
    return found


def _html(pairs: Sequence[Pair], table: pd.DataFrame) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrict_core.reporting.page"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    rows = []
    for pair in pairs:
        held = _pictures(pair.folder)
        planes = {plane: [one for one in held if one.plane == plane] for plane in dict.fromkeys(p.plane for p in held)}
        reasons = pair.record["quality"]["reasons"]
        rows.append({"row": pair.row, "reasons": reasons, "measures": _measures(pair.row), "planes": planes})
    source = environment.loader.get_source
    return environment.get_template("pairs.html.j2").render(
        rows=rows,
        counts={str(verdict): sum(pair.verdict is verdict for pair in pairs) for verdict in list(Verdict)[::-1]},
        kinds=KINDS,
        cells=list(csv.reader(csv_text(table).splitlines())),  # what the page downloads, but for use and reason
        colours={"MR": MR_COLOUR, "CT": CT_COLOUR},
        file=PAIRS,
        version=__version__,
        css=source(environment, "pairs.css")[0],
        js=source(environment, "pairs.js")[0],
    )
