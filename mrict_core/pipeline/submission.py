"""The container layout of the SynthRAD challenges: /input/images/{mri,body}, /input/region.json, /output/images.

Task 2 has images/cbct in place of images/mri.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrict_core.data.dicom import series_below
from mrict_core.data.images.grids import check_same_grid
from mrict_core.data.images.volumes import SUFFIXES, load_volume, read_geometry, stem_of
from mrict_core.data.masks import check_mask
from mrict_core.errors import MrictError
from mrict_core.files import read_json
from mrict_core.inference.output_files import FORMATS
from mrict_core.inference.volume import SynthesisOptions
from mrict_core.modalities import CBCT, MR, Modality
from mrict_core.paths import REGIONS, printable, region_named, shown
from mrict_core.pipeline.survey import OTHERS, Survey, plain_name, sort_beside
from mrict_core.pipeline.synthesis import Model, check_reads, explained, is_current, load_models, synthesize_case

MRI, CBCT_FOLDER, BODY, SCT = "images/mri", "images/cbct", "images/body", "images/synthetic-ct"
FACTS = "mrict"  # how each was made; the folder of images may contain only images
REGION_FILES = ("region.json", "images/region.json")


def region_of_input(folder: Path) -> str:
    """Return the region named by region.json, "" without such a file."""
    for name in REGION_FILES:
        path = folder / name
        if not path.is_file():
            continue
        value = read_json(path)
        if isinstance(value, dict):
            value = value.get("region", "")
        if not (region := region_named(str(value))):
            allowed = ", ".join(REGIONS)
            raise MrictError(f"{shown(path)}: region {str(value)[:60]!r}; expected one of {allowed}; fix the file")
        return region
    return ""


def models_for(region: str, specs: Sequence[str]) -> list[str]:
    """Return the models for a region: those given as `<region>=NAME`, else those given without a region."""
    marked: dict[str, list[str]] = {}
    for spec in specs:
        name, separator, rest = spec.partition("=")
        key = name if separator and name in REGIONS else ""
        marked.setdefault(key, []).append(rest if key else spec)
    chosen = marked.get(region) or marked.get("", [])
    if not chosen:
        given = ", ".join(sorted(filter(None, marked))) or "none"
        raise MrictError(
            f"no model for region {region or 'unknown'}; given: {given}; add --model {region or 'NAME'}=FILE"
        )
    return chosen


def _files(folder: Path) -> dict[str, Path]:
    """Return {case: its image} of a folder of the layout; `_others` sorts the rest."""
    if not folder.is_dir():
        raise MrictError(f"{shown(folder)}: no such folder; expected the challenge's images/mri and images/body")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = stem_of(path)
        if not stem or path.name.startswith(".") or path.is_dir():
            continue
        if stem in found:
            raise MrictError(f"{shown(path)} and {shown(found[stem])}: two files of one case; remove one")
        found[stem] = path
    if not found:
        raise MrictError(f"{shown(folder)}: no image; expected one per case ({', '.join(SUFFIXES)})")
    return found


def _input(source: Path) -> tuple[str, Modality]:
    """Return the folder of the inputs, that of Task 2 if there is no other, and what they are."""
    task2 = (source / CBCT_FOLDER).is_dir() and not (source / MRI).is_dir()
    return (CBCT_FOLDER, CBCT) if task2 else (MRI, MR)


def _others(source: Path, used: set[Path], place: str) -> Survey:
    """Sort everything in the input except MRs (in folder `place`), their bodies and region.json."""
    found = Survey()
    series, rest = series_below(source)
    found.left_out |= {one.files[0]: f"DICOM; expected image files in {place}; convert it" for one in series}
    for path, why in rest:
        if path in used:
            continue
        if path.parent == source / BODY and stem_of(path):
            found.left_out[path] = f"a body without an MR; expected {place}/{stem_of(path)}; add it"
        elif path.parent.name.lower() in OTHERS and stem_of(path):
            found.aside[path] = f"in a folder named {path.parent.name}"
        else:
            sort_beside(path, why, f"not in {place}, where MRs are expected; move it", found)
    return found


def _body(masks: dict[str, Path], name: str, mr: Path) -> np.ndarray:
    """Return the body mask of a case, bool in file order."""
    path = masks.get(name)
    if path is None:
        raise MrictError(f"{shown(mr)}: no body mask of that name; expected images/body/{name}; add it")
    check_same_grid({"MR": (*read_geometry(mr), mr), "body": (*read_geometry(path), path)})
    return check_mask(load_volume(path).array, path)


def run_challenge(
    source: Path | str,
    output: Path | str,
    specs: Sequence[str],
    options: SynthesisOptions = SynthesisOptions(),
    *,
    device: str = "auto",
    precision: str = "float32",
    overwrite: bool = False,
    report: Callable[[str], None] = print,
    **checks: Any,
) -> dict[str, str]:
    """Write images/synthetic-ct/<name> for every images/mri/<name>; return {case: why it failed}.

    Outside the given body is air, inside it the network's output; its input is masked by the MR's own body, as in
    training. The models of the region in region.json are used. A case made by the same models from the same files is
    kept. Inputs that are left out count as failures. `checks` go to `synthesize_case`.
    """
    source, output = Path(source), Path(output)
    place, modality = _input(source)
    mrs, masks = _files(source / place), _files(source / BODY)
    if len(mrs) == len(masks) == 1:  # archives name the two differently
        masks = dict.fromkeys(mrs, next(iter(masks.values())))
    regions = [path for name in REGION_FILES if (path := source / name).is_file()]
    others = _others(source, {*mrs.values(), *(masks[name] for name in mrs if name in masks), *regions}, place)
    region = region_of_input(source)
    models: list[Model] = load_models(models_for(region, specs), device, precision)
    check_reads(models, modality, chosen=False)
    counts, failed = Counter(), {}
    for name, mr in mrs.items():
        suffix = mr.name[len(name) :] if mr.name.lower().endswith(FORMATS) else FORMATS[2]
        target, sidecar = output / SCT / f"{plain_name(name)}{suffix}", output / FACTS / f"{plain_name(name)}.json"
        try:
            with explained(mr, modality):
                body = _body(masks, name, mr)
                facts = None if overwrite else is_current(mr, target, models, options, body, sidecar)
                status = "kept" if facts else "written"
                beside = {"sidecar": sidecar, "overwrite": overwrite, "body": body}
                facts = facts or synthesize_case(mr, target, models, options, **beside, **checks)
            report("; ".join([f"{printable(name)}: {status}", *facts["warnings"]]))
        except MrictError as error:
            status, failed[name] = "failed", str(error)
            report(f"{printable(name)}: failed: {error}")
        counts[status] += 1
    words = modality.words
    left_out = {shown(path): f"left out: {words(why)}" for path, why in others.left_out.items()}
    aside = {shown(path): f"{words('not an MR')}: {why}" for path, why in others.aside.items()}
    for path, why in (left_out | aside).items():
        report(f"{path}: {why}")
    each = ", ".join(f"{counts[status]} {status}" for status in ("written", "kept", "failed"))
    total = len(mrs) + len(others.left_out) + len(others.aside)
    report(
        f"{total} found in {shown(source)}: {each}, {len(left_out)} left out, {len(others.aside)} no {modality.word}"
    )
    return failed | left_out
