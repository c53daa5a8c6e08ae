"""Many cases at once: a folder or a csv of MR files, one failure never stops the rest, a second run goes on."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mrict_core.data.dicom import is_dicom
from mrict_core.data.volumes import stem_of
from mrict_core.errors import MrictError
from mrict_core.evaluation.files import NAMES, ROLES, role_files
from mrict_core.inference.output import FORMATS, format_of
from mrict_core.inference.volume import SynthesisOptions, check_models
from mrict_core.paths import shown
from mrict_core.pipeline.synthesize import Model, is_current, synthesize_case
from mrict_core.runtime import write_csv

FIRST = ("case", "status", "reason", "warnings", "output")  # columns of a summary
FACTS = ("shape", "spacing_mm", "body_voxels", "slices", "tiled", "input_hash", "key")
FORMAT_NAMES = {suffix.removeprefix("."): suffix for suffix in FORMATS}
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """One MR to synthesise."""

    name: str
    source: Path
    output: Path
    uncertainty: Path | None = None
    qa: Path | None = None


def find_cases(
    source: Path | str,
    output: Path | str,
    *,
    suffix: str = "",
    uncertainty: Path | str | None = None,
    qa: Path | str | None = None,
) -> tuple[list[Case], dict[str, str]]:
    """Return (cases, {case: why it cannot be used}) of a folder or a csv; `output` is the folder of the results.

    In a folder a case is a file `<case>.nii.gz` (also `<case>_mr.mha` …) or a folder `<case>/` with a file named mr, in
    the folder itself or in its Task1/<region>/; files named as CT, synthetic CT or mask are left alone. Where folders
    hold DICOM, each is a case. A csv has a column `input`, relative to the csv, and may have `case` and `output`.
    Results are named `<case>_sct` with `suffix`, or with the input's own where that is empty; maps of the uncertainty
    have the same name in their own folder, and pages of the quality (`qa`) are `<case>_sct.html` in theirs.
    """
    source, output = Path(source), Path(output)
    uncertainty = Path(uncertainty) if uncertainty else None
    if output.is_file():
        raise MrictError(f"{shown(output)}: a file; expected a folder for the results of many cases; give another")
    for folder in (output, uncertainty):
        if folder is not None and folder.resolve() == source.resolve():
            raise MrictError(f"{shown(folder)}: the folder of the inputs; expected another one; give a new folder")
    if uncertainty is not None and uncertainty.resolve() == output.resolve():
        raise MrictError(f"{shown(uncertainty)}: the folder of the CTs too; expected another one; give a new folder")
    problems: dict[str, str] = {}
    rows = _of_csv(source, problems) if source.is_file() else _of_folder(source, problems)
    if not rows and not problems:
        raise MrictError(f"{shown(source)}: no case found; expected MR files, or folders that hold a file named mr")
    cases = []
    for name, file, own in rows:
        target = output / (own or f"{name}_sct{suffix or _suffix(file)}")
        page = Path(qa) / f"{stem_of(target)}.html" if qa else None
        cases.append(Case(name, file, target, uncertainty / target.name if uncertainty else None, page))
    return _without_clashes(cases, problems), problems


def _suffix(file: Path) -> str:
    """Return the input's own suffix where that is one of one-file formats."""
    return next((s for s in FORMATS if file.name.lower().endswith(s)), ".mha" if file.suffix == ".mhd" else FORMATS[0])


def _of_folder(folder: Path, problems: dict[str, str]) -> list[tuple[str, Path, str]]:
    if not folder.is_dir():
        raise MrictError(f"{shown(folder)}: no such file or folder; give an MR file, a folder of cases or a csv")
    own = [path for path in sorted(folder.iterdir()) if path.is_file() and stem_of(path).lower() in NAMES["mr"]]
    if own:  # the folder of one patient
        if len(own) > 1:
            problems[folder.resolve().name] = f"{shown(own[1])} and {shown(own[0])}: two files for one mr; remove one"
        return [(folder.resolve().name, path, "") for path in own if len(own) == 1]
    series = [(path.name, path, "") for path in sorted(folder.iterdir()) if path.is_dir() and is_dicom(path)]
    if series:
        return series
    found = role_files(folder, "mr", problems)
    endings = "|".join(re.escape(name) for role in ROLES for name in NAMES[role])
    others = re.compile(rf"[_-]({endings})$", re.IGNORECASE)
    usable = {name for name, path in found.items() if not others.search(stem_of(path))} - problems.keys()
    return [(name, found[name], "") for name in sorted(usable)]


def _of_csv(path: Path, problems: dict[str, str]) -> list[tuple[str, Path, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = list(csv.DictReader(file, strict=True))
    except OSError as error:
        raise MrictError(f"{shown(path)}: cannot be read ({error.strerror}); make it readable") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise MrictError(f"{shown(path)}: not a readable csv ({error}); write it again as UTF-8") from None
    if not table or "input" not in table[0]:
        columns = ", ".join(map(str, table[0])) if table else "no row"
        raise MrictError(
            f"{shown(path)}: holds {columns}; expected a column 'input' and a row for every case; add them"
        )
    rows = []
    for line, row in enumerate(table, start=2):
        given, own = ((row.get(column) or "").strip() for column in ("input", "output"))
        name = (row.get("case") or "").strip() or stem_of(Path(given)) or f"line {line}"
        if not given:
            problems[name] = f"{shown(path)}: line {line} has no input; add the path of an MR, or remove the line"
        elif Path(name).name != name or (own and Path(own).name != own):
            problems[name] = (
                f"{shown(path)}: line {line}: case and output are plain names, without folders; change them"
            )
        else:
            rows.append((name, path.parent / Path(given).expanduser(), own))
    return rows


def _without_clashes(cases: list[Case], problems: dict[str, str]) -> list[Case]:
    """Return the cases whose names and outputs are their own and no case's input; the others become problems."""
    names = Counter(case.name for case in cases)
    outputs = Counter(stem_of(case.output).lower() for case in cases)
    sources = {case.source.resolve() for case in cases}
    kept = []
    for case in cases:
        try:
            format_of(case.output)
            if names[case.name] > 1 or outputs[stem_of(case.output).lower()] > 1:
                raise MrictError(f"{case.name}: two cases of this name or output; expected one each; rename one")
            for path in filter(None, (case.output, case.uncertainty)):
                if path.resolve() in sources:
                    raise MrictError(f"{shown(path)}: an input of this run; expected another output; rename it")
            kept.append(case)
        except MrictError as error:
            problems[case.name] = str(error)
    return kept


def synthesize_cases(
    cases: Sequence[Case],
    problems: dict[str, str],
    models: Sequence[Model],
    summary: Path,
    options: SynthesisOptions = SynthesisOptions(),
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **checks: Any,
) -> pd.DataFrame:
    """Synthesise every case; return one row each: status "written", "kept" or "failed", and the reason.

    A case whose output was made from the same input by the same models, options and code is kept. The table is written
    to `summary` after every case, so that an interrupted run leaves it too. `checks` go to `synthesize_case`.
    """
    check_summary(summary, overwrite)
    several = replace(options, uncertainty=any(case.uncertainty for case in cases))
    check_models([model.synthesizer for model in models], several)
    rows: list[dict[str, Any]] = [
        {"case": name, "status": "failed", "reason": reason, "warnings": "", "output": ""}
        for name, reason in problems.items()
    ]
    for done, case in enumerate(cases, start=1):
        rows.append(_attempt(case, models, options, overwrite, checks))
        if progress:
            progress(done, len(cases), case.name)
        frame = _table(rows)
        write_csv(summary, frame)
    frame = _table(rows)
    write_csv(summary, frame)
    return frame


def check_summary(path: Path, overwrite: bool) -> None:
    """Raise MrictError where `path` holds something other than a summary of an earlier run."""
    if not path.exists() or overwrite:
        return
    try:
        with open(path, encoding="utf-8") as file:
            own = file.readline().strip().startswith(",".join(FIRST))
    except (OSError, UnicodeDecodeError):
        own = False
    if not own:
        raise MrictError(f"{shown(path)}: exists and is no summary of this suite; give another --csv, or --overwrite")


def _attempt(
    case: Case, models: Sequence[Model], options: SynthesisOptions, overwrite: bool, checks: dict[str, Any]
) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.name, "status": "written", "reason": "", "output": case.output.name}
    try:
        options = replace(options, uncertainty=case.uncertainty is not None)
        facts = None if overwrite else is_current(case.source, case.output, models, options)
        if facts and all(path is None or path.is_file() for path in (case.uncertainty, case.qa)):
            row["status"] = "kept"
        else:
            more = {"uncertainty": case.uncertainty, "qa": case.qa, "overwrite": overwrite} | checks
            facts = synthesize_case(case.source, case.output, models, options, **more)
    except MrictError as error:
        return row | {"status": "failed", "reason": str(error), "warnings": "", "output": ""}
    except Exception as error:  # a case that no check foresaw must not end the run for the others
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        reason = f"{shown(case.source)}: cannot be synthesised ({cause}); check the file"
        return row | {"status": "failed", "reason": reason, "warnings": "", "output": ""}
    return row | {"warnings": "; ".join(facts["warnings"])} | {key: _plain(facts.get(key)) for key in FACTS}


def _plain(value: Any) -> Any:
    return "×".join(f"{v:g}" for v in value) if isinstance(value, list) else value


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[*FIRST, *FACTS]).sort_values("case", ignore_index=True)
