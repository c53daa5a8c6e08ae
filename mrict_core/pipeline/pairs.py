"""Many pairs: patients on all cores. A failed patient does not stop the others; a second run does what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import SimpleITK as sitk

from mrict_core.data.pair_choices import PAIRS
from mrict_core.errors import MrictError, passing
from mrict_core.files import sole_writer, write_csv
from mrict_core.machine import cpu_count, end_with_parent, free_memory
from mrict_core.pairing.quality import Verdict
from mrict_core.paths import printable, shown
from mrict_core.pipeline.pair import PairSettings
from mrict_core.pipeline.pair_folder import make_pair
from mrict_core.pipeline.pair_folders import Found, PairInput
from mrict_core.pipeline.pair_sides import identifiers_of, names_someone, redacted
from mrict_core.reporting.pair_page import write_pair_page
from mrict_core.shards import MARKS, Roll, Shard

BYTES_EACH = 2 << 30  # of memory for a patient
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Result:
    """What became of a patient: status "paired", "kept" or "failed"; the reasons of a verdict or of a failure."""

    patient: str
    status: str
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    number: int = 0  # of the patient, in the order of the names

    @property
    def usable(self) -> bool:
        return self.status != "failed" and self.verdict != Verdict.NOT


@dataclass(frozen=True)
class Outcome:
    """What became of every patient, sorted by name; the page, None if there is no pair; what else was in the input."""

    results: tuple[Result, ...]
    page: Path | None
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    given: PairInput
    output: Path
    settings: PairSettings
    overwrite: bool
    hidden: frozenset[str]
    number: int


def pair_all(
    found: Found,
    output: Path,
    settings: PairSettings,
    *,
    jobs: int | None = None,
    overwrite: bool = False,
    keep_identifiers: bool = False,
    progress: Progress | None = None,
    shard: Shard | None = None,
) -> Outcome:
    """Pair every patient, and write the page to judge all pairs in `output` by.

    `jobs`: patients at a time (None: as many as cores and memory allow); several have one thread each. A patient whose
    name is an identifier of its DICOM headers fails, unless `keep_identifiers`; identifiers are removed from messages.
    `shard`: only its part of the patients, with a table of them instead of the page, which is made when all tables are
    merged; the first says what is left out.
    """
    if jobs is not None and jobs < 1:
        raise MrictError(f"--jobs {jobs}: expected at least 1; change it, or leave it out")
    todo, results, known = _private(found, output, settings, overwrite, keep_identifiers, shard)
    roll = Roll([*(pair.patient for pair in found.pairs), *found.failed], asdict(settings))
    with sole_writer(output, "pairs scans into it", str(shard or "")):
        for done, result in enumerate(_run(todo, jobs or _at_once(len(todo))), 1):
            results.append(result)
            if progress:
                progress(done, len(todo), result.patient)
        page = None
        if shard:
            write_csv(shard.file(output / PAIRS), _table(results, roll))
        elif any(result.status != "failed" for result in results):
            try:
                page = write_pair_page(output)
            except MrictError as error:  # the pairs are there all the same
                results.append(_failed("page", redacted(str(error), known)))
    left_out = [redacted(line, known) for line in found.left_out] if shard is None or shard.first else []
    return Outcome(tuple(sorted(results, key=lambda result: result.patient)), page, tuple(left_out))


def _table(results: list[Result], roll: Roll) -> pd.DataFrame:
    """Return the table of a shard's patients."""
    rows = [
        {"patient": one.patient, "status": one.status, "verdict": one.verdict, "reason": "; ".join(one.reasons)}
        | roll.marks(one.number)
        for one in sorted(results, key=lambda result: result.number)
    ]
    return pd.DataFrame(rows, columns=["patient", "status", "verdict", "reason", *MARKS])


def _private(
    found: Found, output: Path, settings: PairSettings, overwrite: bool, keep: bool, shard: Shard | None
) -> tuple[list[_Job], list[Result], frozenset[str]]:
    """Return the jobs, the patients that failed before any (without a pair, or named by an identifier), and all
    identifiers that were found."""
    jobs, results, every = [], [], frozenset()
    pairs = {pair.patient: pair for pair in found.pairs}
    names = sorted([*pairs, *found.failed])
    for number, patient in enumerate(names, 1):
        mine = shard is None or shard.has(number)
        if not mine and not (shard.first and found.left_out):  # lines on what is left out may name anybody
            continue
        given = pairs.get(patient)
        reason, paths = ("", (given.mr, given.ct)) if given else found.failed[patient]
        known = frozenset() if keep else identifiers_of(paths)
        every |= known
        if not mine:
            continue
        if names_someone(patient, known):
            results.append(_nameless(number, len(names)))
        elif given:
            jobs.append(_Job(given, output, settings, overwrite, known, number))
        else:
            results.append(_failed(patient, redacted(reason, known), number))
    return jobs, results, every


def _nameless(number: int, count: int) -> Result:
    return _failed(
        f"patient {number} of {count}",
        "its name is in its DICOM headers as an identifier of the person; expected a name that identifies nobody; "
        "rename its folder, give a csv with another name, or give --keep-identifiers",
        number,
    )


def _failed(patient: str, reason: str, number: int = 0) -> Result:
    return Result(printable(patient), "failed", reasons=(printable(reason),), number=number)


def _at_once(count: int) -> int:
    """Return how many patients at a time the cores and the memory allow."""
    return max(1, min(count, cpu_count(), free_memory() // BYTES_EACH))


def _run(jobs: list[_Job], at_once: int) -> Iterator[Result]:
    """Yield what became of each job as it ends."""
    if min(at_once, len(jobs)) <= 1:
        yield from map(_attempt, jobs)
        return
    ended: set[str] = set()
    try:
        for job, result in _pooled(jobs, at_once):
            ended.add(job.given.patient)
            yield result
    except BrokenProcessPool:  # one was killed, and all that ran with it: the others get a process each
        for job in jobs:
            if job.given.patient not in ended:
                try:
                    yield from (result for _, result in _pooled([job], 1))
                except BrokenProcessPool:
                    yield _failed(
                        job.given.patient,
                        "its process was killed, often for lack of memory; expected 2 GB; close other programs, or "
                        "give --jobs 1",
                        job.number,
                    )


def _pooled(jobs: list[_Job], at_once: int) -> Iterator[tuple[_Job, Result]]:
    # spawn: a fork would copy the thread pools of ITK in an unusable state
    count, context = min(at_once, len(jobs)), get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_one_thread) as pool:
        futures = {pool.submit(_attempt, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """Set up a worker: one thread, and no life of its own."""
    import cv2

    end_with_parent()
    cv2.setNumThreads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _attempt(job: _Job) -> Result:
    """Pair one patient; a fault becomes its result."""
    patient = printable(job.given.patient)
    try:
        record = make_pair(job.given, job.output, job.settings, overwrite=job.overwrite, hidden=job.hidden)
    except MrictError as error:
        reason = str(error)
    except Exception as error:  # an unforeseen fault of one patient must not end the run
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        remedy = "run it again" if passing(error) else f"check {shown(job.given.mr)} and {shown(job.given.ct)}"
        reason = f"cannot be paired ({cause}); {remedy}"
    else:
        quality = record["quality"]
        status = "kept" if record.get("kept") else "paired"
        reasons = tuple(quality["reasons"])
        return Result(patient, status, str(quality["verdict"]), reasons, tuple(record["notes"]), job.number)
    return replace(_failed(patient, redacted(reason, job.hidden), job.number), patient=patient)
