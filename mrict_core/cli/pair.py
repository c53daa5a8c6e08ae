"""The command that makes training pairs from scans of one's own patients."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mrict_core.cli import options as option
from mrict_core.cli.progress import Bar, say
from mrict_core.errors import MrictError
from mrict_core.paths import SUITE_COMMAND, shown
from mrict_core.shards import merge_hint, shard_named

if TYPE_CHECKING:
    from mrict_core.pipeline.pair_folders import Found
    from mrict_core.pipeline.pairs import Outcome


def pair(
    source: option.PairSource,
    output: option.PairOutput,
    region: option.PairRegion = "brain",
    grid: option.Grid = "",
    deformable: option.Deformable = False,
    transform: option.Transform = "",
    register: option.Register = True,
    n4: option.N4 = False,
    clip: option.Clip = False,
    margin: option.Margin = 0.0,
    jobs: option.Jobs = None,
    keep_identifiers: option.KeepNames = False,
    strict: option.StrictHeaders = False,
    shard: option.Shard = "",
    overwrite: option.Overwrite = False,
) -> None:
    """Register the CT to the MR of every patient and write training pairs, with a page to judge them."""
    for name, given in (("INPUT", source), ("--output", output)):
        if not given:
            raise MrictError(f"{name} is empty; expected a name; see python -m mrict_core pair --help")
    part = shard_named(shard)
    if part and transform:
        raise MrictError("--shard is for many pairs, --transform for one; give one of them")
    from mrict_core.data.pair_choices import PAIRS
    from mrict_core.pipeline.pair import PairSettings
    from mrict_core.pipeline.pair_inputs import find_all
    from mrict_core.pipeline.pairs import pair_all

    settings = PairSettings(region, grid, register, deformable, n4, clip, margin, strict)
    path, target = Path(source).expanduser(), Path(output).expanduser()
    _check_output(path, target)
    found = find_all(path, target)
    _check_apart(found, target)
    if transform:
        found = _with_transform(found, Path(transform).expanduser())
    say(f"{shown(path)}: {len(found.pairs)} with MR and CT; grid: {settings.grid_in_words}")
    with Bar("pair") as bar:
        done = pair_all(
            found,
            target,
            settings,
            jobs=jobs,
            overwrite=overwrite,
            keep_identifiers=keep_identifiers,
            progress=bar,
            shard=part,
        )
    _report(done)
    if part:
        say(merge_hint(part, target / PAIRS))
    if done.page:
        say(f"look at every pair: {shown(done.page)}")
        say(
            f"train on them: {SUITE_COMMAND} --data {shlex.quote(shown(target))}"
            + f" --region {settings.region}" * (region != "brain")
        )
    if not all(result.usable for result in done.results):
        raise typer.Exit(1)


def _check_output(source: Path, target: Path) -> None:
    if target.is_file():
        raise MrictError(f"{shown(target)}: a file; expected a folder for the pairs; give another --output")
    if target.resolve() == source.resolve():
        raise MrictError(f"{shown(target)}: the folder of the scans; expected another one; give a new folder")


def _check_apart(found: Found, target: Path) -> None:
    """Raise if scans are in the folder of the pairs, where they would be mixed up with them."""
    for file in (file for pair in found.pairs for file in pair.files):
        if file.resolve().is_relative_to(target.resolve()):
            raise MrictError(f"{shown(target)}: holds {shown(file)}; expected no scans; give another --output")


def _with_transform(found: Found, file: Path) -> Found:
    """Return the only patient with a user's transform."""
    if (count := len(found.pairs) + len(found.failed)) != 1:
        raise MrictError(f"--transform is for one pair, found {count}; give a csv with a column transform")
    if not file.is_file():
        raise MrictError(f"{shown(file)}: no such file; expected a transform; check the name")
    return replace(found, pairs=[replace(pair, transform=file) for pair in found.pairs])


def _report(done: Outcome) -> None:
    """Print a line per patient that needs a look, and the counts."""
    for line in done.left_out:
        say(f"left out: {line}")
    for result in done.results:
        for note in result.notes:
            say(f"note: {result.patient}: {note}")
    for result in done.results:
        if result.status == "failed" or result.reasons:
            say(f"{result.patient}: {result.verdict or result.status}: {'; '.join(result.reasons)}")
    status, verdict = (Counter(getattr(result, key) for result in done.results) for key in ("status", "verdict"))
    say(
        f"{status['paired']} paired, {status['kept']} kept, {verdict['look at it']} look at it, "
        f"{verdict['not a pair']} not a pair, {status['failed']} failed"
    )
