"""The command that makes synthetic CTs: of one MR, a folder of cases, or a csv of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mrict_core.cli import options as option
from mrict_core.cli.progress import Bar, say
from mrict_core.errors import MrictError, unknown_name
from mrict_core.modalities import modality_named
from mrict_core.paths import REGIONS, region_named, shown, some
from mrict_core.shards import merge_hint, shard_named

if TYPE_CHECKING:
    import pandas as pd

    from mrict_core.pipeline.synthesis import Model


def synthesize(
    source: option.Input,
    output: option.Output,
    model: option.Models = None,
    region: option.ModelRegion = "",
    modality: option.InputKind = "",
    tta: option.Tta = False,
    uncertainty: option.Uncertainty = "",
    qa: option.Qa = "",
    resample_to_mm: option.ResampleMm = None,
    image_format: option.Format = "",
    csv: option.Summary = "",
    series: option.Series = "",
    keep_identifiers: option.KeepIdentifiers = False,
    strict: option.Strict = False,
    device: option.Device = "auto",
    precision: option.Precision = "float32",
    experiment: option.Parts = None,
    shard: option.Shard = "",
    overwrite: option.Overwrite = False,
) -> None:
    """Make a synthetic CT on exactly the grid of the MR. Not for clinical use."""
    for name, given in (("INPUT", source), ("--output", output), *(("--model", name) for name in model or ())):
        if not given:
            raise MrictError(f"{name} is empty; expected a name; see python -m mrict_core synthesize --help")
    if region and model:
        raise MrictError("--region and --model are both given; --region chooses a model; give one of them")
    if modality:
        modality_named(modality)
    part = shard_named(shard)
    from mrict_core.inference.input_files import holds_many, region_of
    from mrict_core.inference.volume import SynthesisOptions
    from mrict_core.pipeline.cases import SUMMARY, is_file_name, the_only_case
    from mrict_core.pipeline.synthesis import check_reads, load_models

    path, target, spread, page, summary = (
        Path(text).expanduser() if text else None for text in (source, output, uncertainty, qa, csv)
    )
    many = holds_many(path) and not (series and path.is_dir())  # --series: of a folder whose DICOM is deeper
    if part and (not many or is_file_name(target)):
        raise MrictError(f"--shard {shard}: {shown(path)} is one case, or --output a file; expected many; leave it out")
    if many and is_file_name(target):
        (path, series), many = the_only_case(path, target, modality or "mr"), False
    if many and (series or keep_identifiers):
        raise MrictError("--series and --keep-identifiers are for one DICOM series; give its folder alone")
    if not many and (csv or image_format):
        raise MrictError("--csv and --format are for many cases; the name of one output says its format")

    def load() -> list[Model]:
        chosen = model or [
            _best(_region(region) or ("" if many else region_of(path, series)) or REGIONS[0], modality or "mr")
        ]
        found, given = load_models(chosen, device, precision), modality or ("mr" if many else "")
        if given:
            check_reads(found, modality_named(given))
        return found

    options = SynthesisOptions(tta=tta, resample_to_mm=resample_to_mm)
    how = {"options": options, "overwrite": overwrite, "strict": strict}
    if many:
        summary = summary or target / SUMMARY
        how |= {"shard": part}
        done = _many(path, target, load, spread, page, summary, image_format, modality or "mr", how)
    else:
        how |= {"series": series, "keep_identifiers": keep_identifiers}
        done = _one(path, target, load, spread, page, how)
    if not done:
        raise typer.Exit(1)


def _region(given: str) -> str:
    """Return a region in the suite's spelling: a known one, or one that a published model was trained on."""
    from mrict_core.models import catalogue

    others = {entry.region for entry in catalogue.entries()} - {""}
    if given and given not in others:
        found = region_named(given)
        if not found:
            raise unknown_name("region", given, {*REGIONS, *others})
        return found
    return given


def _best(region: str, modality: str) -> str:
    """Return the path of the best published model for a region, and say which it is and why."""
    from mrict_core.models import catalogue

    found, damaged = catalogue.for_region(region, modality=modality)
    say(catalogue.why_first(found, damaged, region))
    return str(found[0].path)


def _one(
    source: Path,
    target: Path,
    load: Callable[[], list[Model]],
    spread: Path | None,
    page: Path | None,
    how: dict[str, Any],
) -> bool:
    """Synthesise one MR; return False if an image next to it was left out."""
    from mrict_core.inference.output_files import sidecar_path
    from mrict_core.pipeline.survey import images_beside
    from mrict_core.pipeline.synthesis import check_targets, notes_of, synthesize_case, unfinished

    replace = how["overwrite"] or bool(unfinished(sidecar_path(target)))
    check_targets(source, target, spread, replace, qa=page)  # before a model is chosen and loaded
    if not source.exists():
        raise MrictError(f"{shown(source)}: no such file or folder; expected an MR; check the name")
    models = load()
    with Bar("synthesize", "pass") as bar:
        several = len(models) > 1 or how["options"].tta or spread
        facts = synthesize_case(
            source, target, models, uncertainty=spread, qa=page, progress=bar if several else None, **how
        )
    for text in facts["warnings"]:
        say(f"{'note' if text in notes_of(facts) else 'warning'}: {text}")
    names = ", ".join(model.name for model in models)
    say(f"{shown(target)}: synthetic CT by {names}, verdict: {facts['verdict']}; not for clinical use")
    others = images_beside(source) if source.is_dir() else []
    for other in others:
        say(f"{shown(other)}: left out: an image next to the DICOM series, which was used")
    return not others


def _many(
    source: Path,
    target: Path,
    load: Callable[[], list[Model]],
    spread: Path | None,
    page: Path | None,
    summary: Path,
    image_format: str,
    modality: str,
    how: dict[str, Any],
) -> bool:
    """Synthesise every case of a folder or csv; return False if one failed or was left out."""
    from mrict_core.pipeline.cases import FORMAT_NAMES, check_summary, find_cases, synthesize_cases

    if image_format and image_format not in FORMAT_NAMES:
        raise unknown_name("format", image_format, FORMAT_NAMES)
    found = find_cases(
        source, target, suffix=FORMAT_NAMES.get(image_format, ""), uncertainty=spread, qa=page, modality=modality
    )
    whole, shard = summary, how["shard"]
    summary = shard.file(whole) if shard else whole
    check_summary(summary, how["overwrite"])
    models = load()
    with Bar("synthesize", "case") as bar:
        frame = synthesize_cases(found, models, summary, progress=bar, **how)
    _report(frame)
    counts = frame["status"].value_counts()
    each = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("written", "kept", "failed", "left out"))
    say(f"{len(frame)} found in {shown(source)}: {each}, {counts.get('aside', 0)} no MR; {shown(summary)}")
    if shard:
        say(merge_hint(shard, whole))
    return not (counts.get("failed", 0) or counts.get("left out", 0))


def _report(frame: pd.DataFrame) -> None:
    """Print a line per warning, failure and left-out file, and one line on what is not an MR."""
    from mrict_core.pipeline.cases import BETWEEN, NAMED

    cases: dict[tuple[str, str], list[str]] = {}
    for row in frame[frame["status"].isin(("written", "kept"))].itertuples():
        for text in filter(None, row.warnings.split(BETWEEN)):
            cases.setdefault(("note" if text in row.notes else "warning", text), []).append(row.case)
    for (word, text), names in cases.items():
        say(f"{word}: {some(names, NAMED)}: {text}")
    for row in frame[frame["status"].isin(("failed", "left out"))].itertuples():
        say(f"{row.case}: {'left out: ' if row.status == 'left out' else ''}{row.reason}")
    reasons = frame.loc[frame["status"] == "aside", "reason"].value_counts()
    if len(reasons):
        say("no MR: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
