"""Scores of any image files: one case, or two folders of cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import __version__, metrics
from mrict_core.data.checks.hu_values import MIN_MASK_VOXELS, check_hu, check_sct
from mrict_core.data.checks.slice_levels import check_slices
from mrict_core.data.images.grids import difference
from mrict_core.data.images.orders import SliceOrder
from mrict_core.data.images.resample import grid_text, resample_to, same_grid
from mrict_core.data.images.volumes import SUFFIXES, Volume, hash_image, load_volume, stem_of
from mrict_core.errors import MrictError, UnavailableError, unknown_name
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.metrics.ms_ssim import EXPONENTS, LUMINANCE, SIDE_MIN
from mrict_core.paths import shown

ROLES = {  # role => names of its file in a case's folder, or endings of the file name
    "ct": ("ct",),
    "sct": ("sct", "synthetic_ct", "synthetic-ct", "fake_b"),
    "mask": ("mask", "body"),
}
NAMES = ROLES | {"mr": ("mr", "mri", "real_a"), "cbct": ("cbct",)}
COVERED_MIN = 0.9  # of the mask, after resampling; less is refused
PLACES = 1_000_000  # mask voxels tested for being on the CT
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CaseFiles:
    """The three files of a case."""

    name: str
    ct: Path
    sct: Path
    mask: Path


@dataclass(frozen=True)
class ScoreOptions:
    """How cases are scored; see `metrics.score_case` for the first four."""

    protocol: str = "synthrad2023"
    hu_range: str = ""
    luminance: str = "every_scale"
    exponents: str = "per_voxel"
    clinical: bool = False  # the clinical panel too
    resample: bool = False  # bring sCT and mask to the CT's grid where they differ
    as_is: bool = False  # score doubtful files, with a warning
    strict: bool = False  # refuse headers that are contradictory or incomplete

    def __post_init__(self) -> None:
        choices = {"protocol": metrics.PROTOCOLS, "luminance": LUMINANCE, "exponents": EXPONENTS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise unknown_name(name, getattr(self, name), allowed)
        metrics.range_of(self.hu_range or self.protocol)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*metrics.keys(self.protocol), *(metrics.keys("clinical") if self.clinical else ()))

    @property
    def clip(self) -> metrics.HuRange:
        """The range that PSNR and the structural similarity are clipped to."""
        return metrics.range_of(self.hu_range or self.protocol)


def score_files(case: CaseFiles, options: ScoreOptions = ScoreOptions()) -> dict[str, Any]:
    """Return the scores of one case with everything needed to cite them.

    Keys: case, every metric's name, n_voxels, grid, warnings (list), files {role: {name, hash}}, protocol, hu_range,
    luminance, exponents, cards {metric: card}, code_version. Raises MrictError for what cannot be scored:
    different grids (unless `resample`), files that fail a check (unless `as_is`).
    """
    warnings: list[str] = []
    ct, mask = (load_volume(path) for path in (case.ct, case.mask))
    sct = load_volume(case.sct, keep_nan=True)  # NaN voxels are not scored
    _refuse_same(ct, sct, options, warnings)
    warnings += _remarks({"CT": ct, "sCT": sct, "mask": mask}, options)
    sct = _on_grid(sct, ct, "sCT", options, warnings)
    mask = _on_grid(mask, ct, "mask", options, warnings)
    sct, inside = _where_both_are(sct, _inside(mask, options, warnings), options, warnings)
    for role, volume, check in (
        ("CT", ct, lambda: check_hu(ct.array, ct.path, inside)),
        ("sCT", sct, lambda: check_sct(sct.array, ct.array, inside, sct.path)),
    ):
        _checked(check, options, warnings, role)
        _checked(lambda v=volume: check_slices(v.array, inside, ct.affine, v.path), options, warnings, role)
    if "ms_ssim" in options.metric_names and 2 * min(ct.shape) < SIDE_MIN:
        warnings.append(f"MS-SSIM pads every axis to {SIDE_MIN} voxels: here it is more padding than image")
    axis, how = SliceOrder.own(ct.shape, ct.affine).axes[0], (options.clip, options.luminance, options.exponents)
    one = metrics.Case(ct.array, sct.array, inside, ct.affine, axis, (), *how)
    scores = metrics.protocol_scores(options.protocol, one)
    if options.clinical:
        scores |= metrics.values(metrics.keys("clinical"), one) | metrics.counts(one)
    paths = {role: getattr(case, role) for role in ROLES}
    files = {role: {"name": path.name, "hash": hash_image(path)} for role, path in paths.items()}
    return {
        "case": case.name,
        **scores,
        "n_voxels": int(np.count_nonzero(inside)),
        "grid": grid_text(ct),
        "warnings": warnings,
        "files": files,
        **settings(options),
        "cards": cards_of(options, str(scores.get("ssim_dimensionality", "3D"))),
    }


def settings(options: ScoreOptions) -> dict[str, Any]:
    """Return the settings that a score depends on."""
    clip = options.clip
    found: dict[str, Any] = {"protocol": options.protocol, "hu_range": f"{clip.name} [{clip.low:g}, {clip.high:g}]"}
    if "ms_ssim" in options.metric_names:
        found |= {"luminance": options.luminance, "exponents": options.exponents}
    return found | {"code_version": __version__}


def cards_of(options: ScoreOptions, ssim_dimensionality: str = "3D") -> dict[str, dict[str, str]]:
    """Return {metric: its card} with these options."""
    notes = dict.fromkeys(metrics.keys("synthrad2025"), "SynthRAD2025 definition")
    luminance, exponents = (text.replace("_", " ") for text in (options.luminance, options.exponents))
    notes["ms_ssim"] = f"five scales, 7x7x7 window; SynthRAD2025 with luminance at {luminance}, exponents {exponents}"
    notes = {} if options.protocol == "synthrad2023" else notes
    rows = {name: metrics.metric(name) for name in options.metric_names}
    if ssim_dimensionality == "2D":
        rows["ssim"] = metrics.metric("ssim_2d")
    return {name: row.card(options.clip if row.clip else None, notes.get(name, "")) for name, row in rows.items()}


def _checked(
    check: Callable[[], Iterable[str] | None], options: ScoreOptions, warnings: list[str], role: str = ""
) -> None:
    """Add a check's remarks to the warnings; with `as_is` also its errors."""
    try:
        warnings += [text if text.startswith(role) else f"{role}: {text}" for text in check() or ()]
    except UnavailableError:
        raise
    except MrictError as error:
        if not options.as_is:
            raise MrictError(f"{error} (--as-is scores it anyway)") from None
        warnings.append(str(error))


def _refuse_same(ct: Volume, sct: Volume, options: ScoreOptions, warnings: list[str]) -> None:
    def check() -> None:
        if ct.path.resolve() == sct.path.resolve():
            raise MrictError(
                f"{shown(sct.path)}: CT and sCT are the same file; expected two files; give the sCT's path"
            )
        if np.array_equal(ct.array, sct.array):
            raise MrictError(f"{shown(sct.path)}: sCT equals the CT voxel for voxel; expected a network's output")

    _checked(check, options, warnings)


def _remarks(volumes: dict[str, Volume], options: ScoreOptions) -> list[str]:
    """Return the readers' remarks and notes; `strict` refuses the remarks."""
    for volume in volumes.values():
        if options.strict and volume.remarks:
            raise MrictError(f"{shown(volume.path)}: {'; '.join(volume.remarks)} (refused by --strict)")
    return [f"{role}: {text}" for role, volume in volumes.items() for text in (*volume.remarks, *volume.notes)]


def _on_grid(volume: Volume, ct: Volume, role: str, options: ScoreOptions, warnings: list[str]) -> Volume:
    if same_grid(volume, ct):
        return volume
    if not options.resample:
        theirs, ours, apart = difference(volume.shape, volume.affine, ct.shape, ct.affine)
        apart = "; ".join((apart, *volume.remarks, *ct.remarks))
        raise MrictError(
            f"{shown(volume.path)}: the {role} has {theirs}, the CT {shown(ct.path)} has {ours}: {apart}; "
            "expected the same grid; resample it to the CT's, or use --resample"
        )
    warnings.append(f"{role} resampled from {grid_text(volume)}")
    is_mask = role == "mask"
    moved = resample_to(volume, ct, nearest=is_mask, fill=0.0 if is_mask else np.nan)
    if is_mask:
        share = _share_on(volume, ct)
        _covered(share, f"{shown(volume.path)}: only {{}} of the mask is on the CT", options, warnings)
    return moved


def _share_on(mask: Volume, ct: Volume) -> float:
    """Return the share of the mask's voxels whose centre is in the CT."""
    marked = np.flatnonzero(mask.array > 0)
    indices = np.array(np.unravel_index(marked[:: marked.size // PLACES + 1], mask.shape))
    step = np.linalg.inv(ct.affine) @ mask.affine
    places = step[:3, :3] @ indices + step[:3, 3:]
    within = (places > -0.5) & (places < np.array(ct.shape)[:, None] - 0.5)
    return float(within.all(axis=0).mean()) if marked.size else 1.0


def _where_both_are(
    sct: Volume, inside: np.ndarray, options: ScoreOptions, warnings: list[str]
) -> tuple[Volume, np.ndarray]:
    """Return the sCT with air where it has no value, and the mask where it has one."""
    held = np.isfinite(sct.array)
    if held.all():
        return sct, inside
    share = np.count_nonzero(held & inside) / np.count_nonzero(inside)
    _covered(share, f"{shown(sct.path)}: covers only {{}} of the mask", options, warnings)
    if not (held & inside).any():
        raise MrictError(f"{shown(sct.path)}: covers none of the mask; expected the same patient; check the files")
    return replace(sct, array=np.where(held, sct.array, np.float32(AIR_FLOOR_HU))), held & inside


def _covered(share: float, text: str, options: ScoreOptions, warnings: list[str]) -> None:
    """Warn if only a share is scored; refuse a share below `COVERED_MIN`."""

    def check() -> list[str]:
        said = text.format(f"{share:.1%}")
        if share < COVERED_MIN:
            raise MrictError(f"{said}; expected at least {COVERED_MIN:.0%}; give images of the same extent")
        return [f"{said}; only that part is scored"] if share < 1 else []

    _checked(check, options, warnings)


def _inside(mask: Volume, options: ScoreOptions, warnings: list[str]) -> np.ndarray:
    """Return the scoring mask, mask > 0."""
    values = np.unique(mask.array)
    inside = mask.array > 0
    count = int(np.count_nonzero(inside))
    if not count:
        raise MrictError(f"{shown(mask.path)}: mask is empty on the CT's grid; expected the body; check the file")

    def check() -> None:
        if values.size > 2 or values[0] < 0:
            raise MrictError(f"{shown(mask.path)}: mask has {values.size} values; expected 0 and 1; binarise it")
        if count < MIN_MASK_VOXELS:
            raise MrictError(
                f"{shown(mask.path)}: mask has {count} voxels; expected at least {MIN_MASK_VOXELS} for a meaningful "
                "score; check the file"
            )

    _checked(check, options, warnings)
    if inside.all():
        warnings.append("mask covers every voxel: air around the body is scored too")
    return inside


def find_cases(
    ct: Path | str, sct: Path | str, mask: Path | str | None = None
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Return (cases, {case or path: why it is not scored}) of folders; without `mask`, masks are with the CTs.

    A case is a file `<case>.nii.gz` (also `<case>_sct.mha` …) or a folder `<case>/` with a file named after the role
    (ct; sct, synthetic_ct, synthetic-ct, fake_B; mask, body), in the folder itself or in its Task1/<region>/. Files of
    other types, and files named as the MR or as a role expected in another folder, are not cases.
    """
    roots = {"ct": Path(ct), "sct": Path(sct), "mask": Path(mask if mask is not None else ct)}
    found, problems = {}, {}
    for role, root in roots.items():
        if not root.is_dir():
            what = "a file" if root.is_file() else "no such folder"
            raise MrictError(f"{shown(root)}: {what}; --ct, --sct and --mask are three files, or all folders")
        found[role] = role_files(root, role, problems, beside=role == "mask" and mask is None)
    if not found["ct"] and not found["sct"]:
        raise MrictError(
            f"{shown(roots['ct'])} and {shown(roots['sct'])}: no case found; expected {', '.join(SUFFIXES)}"
        )
    cases = []
    for name in sorted(found["ct"].keys() | found["sct"].keys() | (found["mask"].keys() if mask else set())):
        lacking = [role for role in ROLES if name not in found[role]]
        if name in problems:
            continue
        if lacking:
            places = " and ".join(f"no {role} in {shown(roots[role])}" for role in lacking)
            problems[name] = f"{places}; add it or remove the case"
        else:
            cases.append(CaseFiles(name, *(found[role][name] for role in ROLES)))
    return cases, problems | _unused(roots, problems, {path for paths in found.values() for path in paths.values()})


def _entries(root: Path) -> Iterator[Path]:
    """Yield the files and folders, hidden ones excepted, of a folder and its Task1/<region>/."""
    for parent in (root, *sorted(root.glob("Task1/*"))):
        for entry in sorted(parent.iterdir() if parent.is_dir() else ()):
            if not entry.name.startswith(".") and not (entry.is_dir() and entry.name == "Task1"):
                yield entry


def _role_of(stem: str) -> tuple[str, str]:
    """Return (case, role) of a file name without suffix: the role with the longest matching ending, "" for none."""
    for role, ending in sorted(((r, e) for r, names in NAMES.items() for e in names), key=lambda one: -len(one[1])):
        if match := re.fullmatch(rf"(.+)[_-]{re.escape(ending)}", stem, flags=re.IGNORECASE):
            return match[1], role
    return stem, ""


def role_files(root: Path, role: str, problems: dict[str, str], beside: bool = False) -> dict[str, Path]:
    """Return {case: its file of `role`} of a folder, see `find_cases`; cases with two files go to `problems`.

    If no file has the role's ending and all share another (`_ct` in a folder of synthetic CTs), that one is accepted.
    `beside`: files directly in the folder need the role's ending, because it also contains those of another role.
    """
    files, found = [], []
    for entry in _entries(root):
        if entry.is_dir():
            inside = sorted(file for file in entry.iterdir() if file.is_file())
            found += [(entry.name, file) for file in inside if stem_of(file).lower() in NAMES[role]]
        elif stem := stem_of(entry):
            files.append((*_role_of(stem), entry))
    endings = {ending for _, ending, _ in files}
    own = {role} if beside else {role, ""} if role in endings or "" in endings or len(endings) > 1 else endings
    found += [(name, path) for name, ending, path in files if ending in own]
    chosen: dict[str, Path] = {}
    for name, path in found:
        if name in chosen:
            problems[name] = f"{shown(path)} and {shown(chosen[name])}: two files for one {role}; remove one"
        chosen[name] = path
    return chosen


def _unused(roots: dict[str, Path], problems: dict[str, str], used: set[Path]) -> dict[str, str]:
    """Return {path: why it is not scored} of images and folders that are no case's and not an MR, CT or mask."""
    found = {}
    for root, entry in ((place, entry) for place in sorted(set(roots.values())) for entry in _entries(place)):
        files = [entry] if entry.is_file() else [file for file in sorted(entry.rglob("*")) if file.is_file()]
        images = [file for file in files if stem_of(file) and not file.name.startswith(".")]
        if files and not images and entry.is_dir():
            found[shown(entry)] = f"no readable image in it ({', '.join(SUFFIXES)}); convert it or move it away"
        for file in (file for file in images if file not in used):
            role = next((r for r, names in NAMES.items() if stem_of(file).lower() in names), _role_of(stem_of(file))[1])
            if file is not entry and file.parent != entry:
                found[shown(file)] = "deeper than a case's folder; move it up, or give the folder above it"
            elif not role and stem_of(file) not in problems:
                found[shown(file)] = f"belongs to no case; name it after one ({', '.join(ROLES)}), or move it away"
            elif file is entry and role in roots and roots[role] != root:
                found[shown(file)] = f"named as a {role}, which is expected in {shown(roots[role])}; rename it"
    return found


def other_files(*folders: Path | str | None) -> int:
    """Return the number of files of other types in folders of cases."""
    entries = (entry for folder in {Path(folder) for folder in folders if folder} for entry in _entries(folder))
    return sum(entry.is_file() and not stem_of(entry) for entry in entries)


def score_cases(
    cases: list[CaseFiles],
    problems: dict[str, str],
    options: ScoreOptions = ScoreOptions(),
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return one row per case: status "scored" or "failed", and the reason."""
    rows = [{"case": name, "status": "failed", "reason": reason} for name, reason in problems.items()]
    for done, case in enumerate(cases, start=1):
        try:
            found = score_files(case, options)
            row = {key: value for key, value in found.items() if key not in ("cards", "files", "warnings")}
            row |= {f"{role}_hash": file["hash"] for role, file in found["files"].items()}
            rows.append(row | {"status": "scored", "reason": "", "warnings": "; ".join(found["warnings"])})
        except MrictError as error:
            rows.append({"case": case.name, "status": "failed", "reason": str(error)})
        if progress:
            progress(done, len(cases), case.name)
    first = ["case", "status", "reason", "warnings", *options.metric_names]
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=[*first, *(c for c in frame.columns if c not in first)])
    return frame.sort_values("case", ignore_index=True)


def summary_of(frame: pd.DataFrame, options: ScoreOptions = ScoreOptions()) -> pd.DataFrame:
    """Return mean, SD (ddof 1), median and n of every metric over the scored cases."""
    rows = []
    for name in options.metric_names:
        values = frame[name].to_numpy(float)
        values = values[np.isfinite(values)]
        sd = float(values.std(ddof=1)) if values.size > 1 else float("nan")
        mean, median = (float(f(values)) if values.size else float("nan") for f in (np.mean, np.median))
        rows.append({"metric": name, "mean": mean, "sd": sd, "median": median, "n": int(values.size)})
    return pd.DataFrame(rows)
