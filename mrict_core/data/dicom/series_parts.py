"""The parts of a series: echoes, times, image types, stacks. Of a series with several parts one must be chosen.

A part is named `SERIES/EchoTime=12`, a part of it `SERIES/EchoTime=12/ImageType=W`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from mrict_core.data.dicom import signal
from mrict_core.data.dicom.attributes import FACTS, labelled, tells_apart
from mrict_core.data.dicom.frames import Frame
from mrict_core.errors import MrictError
from mrict_core.paths import printable, shown

SAME_DIRECTION = 2e-4  # of direction cosines: four decimals in the file
SAME_SPACING = 1e-4  # relative
SAME_PLACE_MM = 1e-3
STACK = "Stack"  # frames of one size, spacing and direction
NAMED = 4  # examples in a message
Groups = dict[str, list[Frame]]


def one_image(
    frames: list[Frame], wanted: list[str], series: str, path: Path
) -> tuple[list[Frame], list[str], list[str]]:
    """Return the frames of the part `wanted` (["EchoTime=12", …], [] for all), remarks and notes.

    Raises `MrictError` if they belong to several images, naming the readable ones, or are not MR magnitudes.
    """
    chosen = frames
    for text in wanted:
        name, _, label = text.partition("=")
        name = next((known for known in (*FACTS, STACK) if known.lower() == name.lower()), "")
        groups = _groups(chosen, name)
        matching = [g for known, g in groups.items() if _order(known.lower()) == _order(label.lower())]
        if not matching:
            known = f"{name}: {_counts(groups)}" if groups else f"parts by {', '.join([*FACTS, STACK])}"
            raise MrictError(f"{shown(path)}: no part {printable(text)} in series {series}; it has {known}; choose one")
        chosen = matching[0]
        series = f"{series}/{text}"
    whys = sorted({signal.why_not(frame) for frame in chosen})
    if "" not in whys:
        raise MrictError(f"{shown(path)}: {' and '.join(whys)}; expected magnitudes; give the magnitude series")
    _check_copies(chosen, path)
    splits = _splits(chosen)
    if splits:
        raise _several(splits, series, path)
    part = f"read: {', '.join(wanted)}, {len(chosen)} of the {len(frames)} images of its series"
    return chosen, signal.remarks(chosen[0]), [part] * (len(chosen) < len(frames))


def _groups(frames: list[Frame], name: str) -> Groups:
    if name == STACK:
        return _stacks(frames)
    if not name:
        return {}
    groups: Groups = {}
    for label, frame in zip(labelled([f.facts[name] for f in frames], FACTS[name]), frames, strict=True):
        groups.setdefault(label, []).append(frame)
    return dict(sorted(groups.items(), key=lambda item: _order(item[0])))


def _order(label: str) -> tuple[float, str]:
    try:
        return float(label), ""
    except ValueError:
        return np.inf, label


def _splits(frames: list[Frame]) -> dict[str, Groups]:
    """Return {fact: groups} for each fact that separates the frames; last resort: frames at one place."""
    labels = {name: labelled([f.facts[name] for f in frames], fact) for name, fact in FACTS.items()}
    found = {name: _groups(frames, name) for name, fact in FACTS.items() if tells_apart(fact, labels[name])}
    if found:
        return found
    stacks = _stacks(frames)
    if len(stacks) > 1:
        return {STACK: stacks}
    pairs = doubles(frames)
    apart = {name: sum(labels[name][a] != labels[name][b] for a, b in pairs) for name in FACTS}
    telling = [name for name in sorted(FACTS, key=lambda name: -apart[name]) if apart[name]]
    return {name: _groups(frames, name) for name in telling}


def _stacks(frames: list[Frame]) -> Groups:
    firsts: list[list[Frame]] = []
    for frame in frames:
        fitting = next((group for group in firsts if not _difference(frame, group[0])), None)
        if fitting is None:
            firsts.append([frame])
        else:
            fitting.append(frame)
    firsts.sort(key=lambda group: (-len(group), group[0].shape, group[0].orientation, group[0].spacing_mm))
    return {str(k + 1): group for k, group in enumerate(firsts)}


def _difference(frame: Frame, first: Frame) -> str:
    """Return why two frames cannot be in one stack, "" if they can."""
    if frame.shape != first.shape:
        return f"{frame.shape[0]} x {frame.shape[1]} pixels against {first.shape[0]} x {first.shape[1]}"
    if not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=SAME_SPACING, atol=0):
        ours, theirs = ("{:.4g} x {:.4g} mm".format(*f.spacing_mm) for f in (frame, first))
        return f"pixels of {ours} against {theirs}"
    gap = np.abs(np.subtract(frame.orientation, first.orientation)).max()
    return f"directions differ by up to {gap:.2g}" if gap > SAME_DIRECTION else ""


def doubles(frames: list[Frame]) -> list[tuple[int, int]]:
    """Return the index pairs of neighbouring frames at the same height along their normal."""
    heights = np.array([f.position for f in frames]) @ frames[0].axes[2]
    order = np.argsort(heights, kind="stable")
    close = np.flatnonzero(np.diff(heights[order]) < SAME_PLACE_MM)
    return [(int(order[k]), int(order[k + 1])) for k in close]


def _check_copies(frames: list[Frame], path: Path) -> None:
    seen: dict[tuple[str, int], Frame] = {}
    copies = []
    for frame in frames:
        first = seen.setdefault((frame.sop_uid, frame.index), frame)
        if first is not frame and frame.sop_uid and first.position == frame.position:
            copies.append((first, frame))
    if copies:
        a, b = copies[0]
        raise MrictError(
            f"{shown(path)}: the same slice twice by SOPInstanceUID: {a.name} and {b.name} "
            f"({len(copies)} such pairs); expected each slice once; remove the copies"
        )


def _several(splits: dict[str, Groups], series: str, path: Path) -> MrictError:
    (name, groups), *_ = splits.items()
    usable = {label: group for label, group in groups.items() if not all(map(signal.why_not, group))}
    choices = f"choose one: {_texts(usable, f'--series {series}/{name}=')}"
    if name == STACK:
        first, second = (group[0] for group in list(groups.values())[:2])
        said = f"{second.name} and {first.name}: {_difference(second, first)}"
        return MrictError(
            f"{shown(path)}: slices do not fit together: {said}; "
            f"expected one stack of parallel slices (not a localizer or several stacks); {choices}"
        )
    said = "; ".join(f"slices of {len(g)} {n}: {_counts(g)}" for n, g in list(splits.items())[:NAMED])
    return MrictError(f"{shown(path)}: several images in one series: {said}; expected one image; {choices}")


def _counts(groups: Groups) -> str:
    said = [f"{label} ({len(group)})" for label, group in groups.items()]
    more = [f"and {len(said) - 2 * NAMED} more"] if len(said) > 2 * NAMED else []
    return ", ".join(said[: 2 * NAMED] + more)


def _texts(groups: Groups, before: str) -> str:
    """Return the option for each group, largest first."""
    labels = sorted(groups, key=lambda label: -len(groups[label]))
    said = [f"{before}{shlex.quote(label)}" for label in labels[:NAMED]]
    return " or ".join(said) + (f" … ({len(labels) - NAMED} more such parts)" if len(labels) > NAMED else "")
