"""Many cases: a folder or a csv of MR files. A failed case does not stop the others; a second run resumes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mrict_core.data.case_csv import read_rows
from mrict_core.data.images.volumes import SUFFIXES, stem_of
from mrict_core.errors import MrictError
from mrict_core.files import write_csv
from mrict_core.inference.output_files import FORMATS, format_of
from mrict_core.inference.volume import SynthesisOptions, check_models
from mrict_core.modalities import MR, Modality, modality_named
from mrict_core.paths import printable, shown, some
from mrict_core.pipeline.survey import expected, plain_name, survey
from mrict_core.pipeline.synthesis import (
    QA_SUFFIXES,
    Model,
    effective,
    explained,
    is_current,
    notes_of,
    synthesize_case,
)
from mrict_core.shards import MARKS, Roll, Shard

SUMMARY = "summary.csv"  # in the folder of the results
FIRST = ("case", "status", "reason", "warnings", "output")  # columns of a summary
FACTS = ("verdict", "shape", "spacing_mm", "body_voxels", "slices", "tiled", "input_hash", "key")
WHOLE = ("body_voxels", "slices")  # of the facts
FORMAT_NAMES = {suffix.removeprefix("."): suffix for suffix in FORMATS}
FILE_ENDINGS = (*SUFFIXES, *QA_SUFFIXES, ".json", ".csv", ".dcm", ".txt", ".gz", ".zip")
BETWEEN = " | "  # separates warnings, which contain commas and semicolons
NAMED = 5  # reasons in one message
Row = tuple[str, Path, str, str]  # case, input, output, series
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """One MR to synthesise."""

    name: str
    source: Path
    output: Path
    uncertainty: Path | None = None
    qa: Path | None = None
    series: str = ""  # of a DICOM folder with several


@dataclass
class Found:
    """The content of a folder or a csv: every file is part of a case, or listed in another field with the reason."""

    cases: list[Case]
    failed: dict[str, str]  # case => why it cannot be used
    left_out: dict[str, str] = field(default_factory=dict)  # possible MRs that are not used
    aside: dict[str, str] = field(default_factory=dict)  # not an MR

    def fail(self, name: str, why: str) -> None:
        """Record why a case cannot be used, even if another of that name cannot either."""
        free = (f"{name} ({k})" if k > 1 else name for k in itertools.count(1))
        self.failed[next(key for key in free if key not in self.failed)] = why


def find_cases(
    source: Path | str,
    output: Path | str,
    *,
    suffix: str = "",
    uncertainty: Path | str | None = None,
    qa: Path | str | None = None,
    modality: str = MR.name,
) -> Found:
    """Return the cases of a folder or a csv, and everything else in it; `output` is the folder of the results.

    For cases in a folder see `survey`. A csv has a column `input`, relative to the csv, and may have `case`, `output`
    and `series`. Results are named `<case>_sct` with `suffix`, or the input's own if that is empty; uncertainty maps
    have the same name in their folder, and quality pages (`qa`) are `<case>_sct.html` in theirs.
    """
    source, output = Path(source), Path(output)
    uncertainty, qa = (Path(path) if path else None for path in (uncertainty, qa))
    results = [path for path in (output, uncertainty, qa) if path is not None]
    for folder in results:
        if folder.is_file() or is_file_name(folder):
            raise MrictError(
                f"{shown(folder)}: has the name of a file; expected a folder for the results of many cases; rename it"
            )
        if folder.resolve() == source.resolve():
            raise MrictError(f"{shown(folder)}: the folder of the inputs; expected a different one; give a new folder")
    if uncertainty is not None and uncertainty.resolve() == output.resolve():
        raise MrictError(
            f"{shown(uncertainty)}: also the folder of the CTs; expected a different one; give a new folder"
        )
    found, kind = Found([], {}), modality_named(modality)
    for name, file, own, series in (
        _of_csv(source, found) if source.is_file() else _of_folder(source, results, found, kind)
    ):
        target = output / (own or f"{plain_name(name)}_sct{suffix or _suffix(file)}")
        page = qa / f"{stem_of(target)}.html" if qa else None
        spread = uncertainty / target.name if uncertainty else None
        found.cases.append(Case(printable(name), file, target, spread, page, series))
    if not found.cases and not found.failed:
        reasons = [f"{name}: {why}" for name, why in (found.left_out | found.aside).items()]
        held = f"; it contains {some(reasons, NAMED, '; ')}" if reasons else ""
        raise MrictError(f"{shown(source)}: no case found; expected {expected(kind)}{held}")
    found.cases = _without_clashes(found)
    return found


def the_only_case(source: Path, target: Path, modality: str = MR.name) -> tuple[Path, str]:
    """Return (MR, series) of a folder or csv with exactly one case, whose output is the file `target`."""
    found = find_cases(source, target.parent / f"{target.name}.cases", modality=modality)
    if len(found.cases) == 1 and not found.failed and not found.left_out:
        return found.cases[0].source, found.cases[0].series
    others = [*found.failed.values(), *(f"{name}: {why}" for name, why in found.left_out.items())]
    raise MrictError(
        f"{shown(target)}: has the name of a file, but {shown(source)} has {len(found.cases) + len(others)} inputs"
        f"{f' ({others[0]})' if others else ''}; expected one; give a folder for the results, or one input"
    )


def is_file_name(path: Path) -> bool:
    """Return whether an output is named like a file; an existing folder may have any name."""
    return path.name.lower().endswith(FILE_ENDINGS) and not path.is_dir()


def _suffix(file: Path) -> str:
    return next((s for s in FORMATS if file.name.lower().endswith(s)), ".mha" if file.suffix == ".mhd" else FORMATS[0])


def _of_folder(folder: Path, results: Sequence[Path], found: Found, modality: Modality) -> list[Row]:
    if not folder.is_dir():
        raise MrictError(f"{shown(folder)}: no such file or folder; give an MR file, a folder of cases or a csv")
    held = survey(folder, results, modality)
    found.failed |= held.problems
    found.left_out |= {shown(path): modality.words(why) for path, why in held.left_out.items()}
    found.aside |= {shown(path): modality.words(why) for path, why in held.aside.items()}
    return [(name, path, "", series) for name, (path, series) in sorted(held.sources.items())]


def _of_csv(path: Path, found: Found) -> list[Row]:
    rows = []
    for line, row in read_rows(path, ["input"]):
        given, own, series = (row.get(column, "") for column in ("input", "output", "series"))
        name = row.get("case", "") or stem_of(Path(given)) or Path(given).name or f"line {line}"
        if not given:
            found.fail(name, f"{shown(path)}: line {line} has no input; add the path of an MR, or remove the line")
        elif any(Path(text).name != text or text != plain_name(text) for text in (name, own) if text):
            found.fail(
                printable(name),
                f"{shown(path)}: line {line}: case and output must be plain names without folders; change them",
            )
        else:
            rows.append((name, path.parent / Path(given).expanduser(), own, series))
    return rows


def _without_clashes(found: Found) -> list[Case]:
    """Return the cases with a unique name and output that is no case's input; the others become failures."""
    cases = found.cases
    names = Counter(case.name for case in cases)
    outputs = Counter(stem_of(case.output).lower() for case in cases)
    sources = {case.source.resolve() for case in cases}
    kept = []
    for case in cases:
        try:
            format_of(case.output)
            if names[case.name] > 1 or outputs[stem_of(case.output).lower()] > 1:
                raise MrictError(f"{shown(case.source)}: its case name or output is used twice; rename one")
            for path in filter(None, (case.output, case.uncertainty)):
                if path.resolve() in sources:
                    raise MrictError(f"{shown(path)}: an input of this run; expected a different output; rename it")
            kept.append(case)
        except MrictError as error:
            found.fail(case.name, str(error))
    return kept


def synthesize_cases(
    found: Found,
    models: Sequence[Model],
    summary: Path,
    options: SynthesisOptions = SynthesisOptions(),
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    shard: Shard | None = None,
    **checks: Any,
) -> pd.DataFrame:
    """Synthesise every case; return one row each: status "written", "kept" or "failed", and the reason.

    The column "notes" lists the warnings that need no action; the file does not have it.
    Files "left out" or "aside" get a row too. A case is kept if its output was made from the same input with the same
    models, options and code. The table is written to `summary` after every case, so an interrupted run leaves it as
    well. `shard`: only its part of the cases, in its part of the table; the first lists the files that are none.
    `checks` go to `synthesize_case`.
    """
    check_summary(summary, overwrite)
    several = effective(options, models, any(case.uncertainty for case in found.cases))
    check_models([model.synthesizer for model in models], several)
    every, beside = _in_order(found)
    names = [one.name if isinstance(one, Case) else one["case"] for one in every]
    roll = Roll(names, [[model.hash for model in models], asdict(several)])
    rows = [row | roll.marks(n) for n, row in enumerate(beside, len(every) + 1) if shard is None or shard.first]
    mine = [(n, one) for n, one in enumerate(every, 1) if shard is None or shard.has(n)]
    rows += [one | roll.marks(n) for n, one in mine if not isinstance(one, Case)]
    todo = [(n, one) for n, one in mine if isinstance(one, Case)]
    marks = MARKS if shard else ()
    for done, (number, case) in enumerate(todo, start=1):
        rows.append(_attempt(case, models, options, overwrite, checks) | roll.marks(number))
        if progress:
            progress(done, len(todo), case.name)
        write_csv(summary, _table(rows, *marks))
    write_csv(summary, _table(rows, *marks))
    return _table(rows, "notes")


def _in_order(found: Found) -> tuple[list[Case | dict[str, Any]], list[dict[str, Any]]]:
    """Return the cases or, for unusable ones, their rows, by name; and the rows of files that are no case, by name."""
    every: list[Case | dict[str, Any]] = [_row(name, "failed", why) for name, why in found.failed.items()]
    every += found.cases
    others = {"left out": found.left_out, "aside": found.aside}
    beside = [_row(name, status, why) for status, reasons in others.items() for name, why in reasons.items()]
    every.sort(key=lambda one: one.name if isinstance(one, Case) else one["case"])
    return every, sorted(beside, key=lambda row: row["case"])


def _row(name: str, status: str, reason: str) -> dict[str, Any]:
    """Return the row of what is not synthesised."""
    return {"case": printable(name), "status": status, "reason": printable(reason), "warnings": "", "output": ""}


def check_summary(path: Path, overwrite: bool) -> None:
    """Raise MrictError if `path` exists and is not the summary of an earlier run."""
    if not path.exists() or overwrite:
        return
    try:
        with open(path, encoding="utf-8") as file:
            own = file.readline().strip().startswith(",".join(FIRST))
    except (OSError, UnicodeDecodeError):
        own = False
    if not own:
        raise MrictError(
            f"{shown(path)}: exists and is not a summary of this suite; give another --csv, or --overwrite"
        )


def _attempt(
    case: Case, models: Sequence[Model], options: SynthesisOptions, overwrite: bool, checks: dict[str, Any]
) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.name, "status": "written", "reason": "", "output": case.output.name}
    try:
        with explained(case.source, models[0].synthesizer.facts.modality):
            wanted = effective(options, models, case.uncertainty is not None)
            facts = None if overwrite else is_current(case.source, case.output, models, wanted)
            if facts and all(path is None or path.is_file() for path in (case.uncertainty, case.qa)):
                row["status"] = "kept"
            else:
                more = {"uncertainty": case.uncertainty, "qa": case.qa, "series": case.series, "overwrite": overwrite}
                facts = synthesize_case(case.source, case.output, models, options, **(more | checks))
    except MrictError as error:
        return row | {"status": "failed", "reason": printable(error), "warnings": "", "output": ""}
    row |= {"warnings": BETWEEN.join(facts["warnings"]), "notes": notes_of(facts)}
    return row | {key: _plain(facts.get(key)) for key in FACTS}


def _plain(value: Any) -> Any:
    return "×".join(f"{v:g}" for v in value) if isinstance(value, list) else value


def _table(rows: list[dict[str, Any]], *more: str) -> pd.DataFrame:
    """Return the rows by number; whole numbers stay whole beside cases that have none."""
    frame = pd.DataFrame(rows, columns=[*FIRST, *FACTS, "notes", *MARKS]).sort_values("number", ignore_index=True)
    return frame.reindex(columns=[*FIRST, *FACTS, *more]).astype(dict.fromkeys(WHOLE, "Int64"))
