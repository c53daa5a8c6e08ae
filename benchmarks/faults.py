"""Injected faults: killed processes, full disks, vanishing files. Does the next run recover?

Each trial starts from a fresh copy of a folder, disturbs one command, runs it again undisturbed and compares the result
with that of an undisturbed run: numbers, arrays and names of files, without times. `benchmarks/mutations.py` has the
mutated files.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from zenodo_server import Shop

from benchmarks import mutations
from mrict_core.data.images.volumes import NIFTI, load_volume
from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.files import read_json
from mrict_core.machine import cpu_count
from mrict_core.paths import ROOT

TITLE = "Faults: what the next run makes of them"
HOW = "a try is sound when nothing of what the columns count went wrong"
SPEC = PhantomSpec("brain", 5.0, 20.0, 1)
HOOK = ROOT / "benchmarks" / "fault_hook"
TIMES = {"seconds", "published", "date", "files", "checkpoint_hash", "checkpoints"}  # contain times
UNREAD = (".ipynb", ".pdf", ".html", ".md", ".lock")  # contain times and addresses: only their names are compared
SETTLE_S = 6.0  # for processes whose parent was killed
PATIENCE_S = 180.0
EVERY = 10_000
SIZES = {  # tries of each kind
    "full": {"random": 20, "renames": EVERY, "two": 1, "limits": 4, "disk": 4, "moving": 4, "mutations": 200},
    "quick": {"random": 1, "renames": 1, "two": 0, "limits": 0, "disk": 0, "moving": 0, "mutations": 8},
}
SUITE_SIZES = {  # all notebooks take long
    "full": SIZES["full"] | {"limits": 2, "disk": 2},
    "quick": {"random": 0, "renames": 0, "two": 0, "limits": 0, "disk": 0},
}


@dataclass(frozen=True)
class Command:
    """A command under test, and the start folder that each trial copies."""

    name: str
    words: Callable[[Path], list[str]]
    start: Path | None = None
    goes_on: bool = False  # long, but resumes: killed rename by rename in one folder


@dataclass
class Done:
    """How a run ended."""

    status: int
    output: str
    seconds: float
    survivors: int = 0  # its processes alive after SETTLE_S


@dataclass
class Reference:
    """Results, duration, bytes and rename targets of an undisturbed run."""

    state: dict[str, Any]
    seconds: float
    size: int
    renames: list[str]


@dataclass
class Tally:
    """The trials of one row."""

    case: str
    tries: int = 0
    problems: Counter = field(default_factory=Counter)
    unsound: int = 0

    def add(self, problems: list[str]) -> None:
        self.tries += 1
        self.unsound += bool(problems)
        self.problems.update(problems)

    def row(self) -> dict[str, Any]:
        found = "; ".join(f"{count} x {text}" for text, count in self.problems.most_common(3))
        return {"case": self.case, "tries": self.tries, "sound": self.tries - self.unsound, "problems": found or "–"}


# -------------------------------------------------------------------------------------------------- running a command


def environment(place: Path, **more: str) -> dict[str, str]:
    """Return the environment of a run that writes all results to `place`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MRICT_", "FAULT_"))}
    roots = {f"MRICT_{name.upper()}": str(place / name) for name in ("data", "checkpoints", "reports")}
    one = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "COLUMNS": "200"}
    return inherited | roots | one | more


def start(command: Command, place: Path, limits: str = "", **more: str) -> subprocess.Popen:
    """Start the command under `limits` of ulimit; its output goes to a file beside `place`."""
    words = command.words(place)
    if limits:
        words = ["bash", "-c", f'ulimit {limits}; exec "$@"', "bash", *words]
    mark = uuid.uuid4().hex
    with open(place.with_name(f"{place.name}.{mark}.log"), "wb") as log:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment(place, FAULT_MARK=mark, **more),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    process.mark, process.log, process.begun = mark, Path(log.name), time.perf_counter()
    return process


def finish(process: subprocess.Popen) -> Done:
    """Wait until a run and its children end; count and kill children that remain."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE_S)
    seconds = time.perf_counter() - process.begun
    if process.returncode is None:
        process.kill()
        process.wait()
    until = time.monotonic() + SETTLE_S
    while (left := marked(process.mark)) and time.monotonic() < until:
        time.sleep(0.1)
    for one in left:
        with contextlib.suppress(psutil.Error):
            one.kill()
    return Done(process.returncode, process.log.read_text(errors="replace"), seconds, len(left))


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes with a run's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("FAULT_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def carry_out(command: Command, place: Path, limits: str = "", **more: str) -> Done:
    return finish(start(command, place, limits, **more))


def killed(command: Command, place: Path, after_s: float) -> Done:
    """Start the command and `kill -9` its main process after `after_s` seconds."""
    process = start(command, place)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    process.kill()
    return finish(process)


# ----------------------------------------------------------------------------------------------------- what must hold


def state(folder: Path) -> dict[str, Any]:
    """Return {path: content without times} of all files and empty folders in `folder`."""
    return {
        str(path.relative_to(folder)): content(path) if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock" and (path.is_file() or not any(path.iterdir()))
    }


def content(path: Path) -> Any:
    """Return a file's content, equal for two runs with the same results."""
    if path.name.endswith(UNREAD):
        return "there"
    try:
        if path.suffix == ".json":
            return hashed(json.dumps(timeless(json.loads(path.read_text())), sort_keys=True).encode())
        if path.suffix == ".csv":
            frame = pd.read_csv(path, keep_default_na=False).replace({"status": {"kept": "written"}})
            return hashed(frame.drop(columns=[c for c in frame if c in TIMES]).to_csv(index=False).encode())
        if path.suffix == ".pt":
            return tensors(path)
        if path.suffix == ".npz":  # a prediction; its key is a hash over the checkpoint's file
            return hashed(np.load(path)["hu"].tobytes())
        if path.name.endswith(NIFTI):
            volume = load_volume(path)
            return hashed(volume.array.tobytes() + volume.affine.tobytes())
        return hashed(path.read_bytes())
    except Exception as error:  # half-written: equal to nothing
        return f"unreadable: {type(error).__name__}"


def hashed(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def timeless(value: Any) -> Any:
    """Return json without times and without hashes over them."""
    if isinstance(value, dict):
        of_file = {"key"} if "models" in value else {"hash"} if "trained_with" in value else set()  # of a checkpoint
        of_file |= {"key"} if value.keys() == {"key", "seconds"} else set()  # a step's stamp: over the scores' files
        of_file |= {"key"} if "checkpoint_hash" in value else set()  # a record's context
        of_training = {"started", "finished"} if "started" in value else set()
        return {k: timeless(v) for k, v in value.items() if k not in TIMES | of_file | of_training}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def tensors(path: Path) -> str:
    """Return a hash of a checkpoint's tensors and facts, independent of its layout."""
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return hashed(np.ascontiguousarray(value.detach().numpy()).tobytes())
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items() if k not in TIMES}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    payload = torch.load(path, map_location="cpu", weights_only=True)
    return hashed(json.dumps(timeless(plain(payload)), sort_keys=True, default=str).encode())


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return what is left over, missing or different, by kind of file."""
    kinds = {
        "left over": found.keys() - wanted.keys(),
        "missing": wanted.keys() - found.keys(),
        "differs": {name for name in found.keys() & wanted.keys() if found[name] != wanted[name]},
    }
    return [
        f"{kind}: {re.sub(r'[0-9a-z_]{8}(?=[.]|$)', '*', sorted(names)[0])}" for kind, names in kinds.items() if names
    ]


def complaints(done: Done, *, may_fail: bool) -> list[str]:
    """Return the faults of a run's end: a traceback, a signal, an error of several lines, remaining children."""
    found = []
    if "Traceback (most recent call last)" in done.output:
        found.append(f"traceback: {done.output.strip().splitlines()[-1][:100]}")
    elif done.status > 0 and may_fail and not re.search(r"^(error|interrupted|\d+ found)", done.output, re.MULTILINE):
        found.append(f"status {done.status} without an error line: {done.output.strip()[-100:]!r}")
    elif done.status > 0 and not may_fail:
        found.append(f"the next run ends with status {done.status}: {last_error(done.output)}")
    if done.status < 0 and done.status != -signal.SIGKILL:
        found.append(f"ended by signal {-done.status}")
    if done.survivors:
        found.append("children were left")
    if done.seconds > PATIENCE_S:
        found.append(f"did not end in {PATIENCE_S:.0f} s")
    return found


def last_error(output: str) -> str:
    lines = [line for line in output.strip().splitlines() if line.startswith("error")] or output.strip().splitlines()
    return re.sub(r"/\S+/", "…/", lines[-1])[:140] if lines else ""


def afterwards(command: Command, place: Path, wanted: dict[str, Any]) -> list[str]:
    """Run the command undisturbed; return the faults of its end and of its results."""
    done = carry_out(command, place)
    return complaints(done, may_fail=False) + differences(state(place), wanted)


# ------------------------------------------------------------------------------------------------- places and commands


@contextlib.contextmanager
def fresh(command: Command, scratch: Path) -> Iterator[Path]:
    """Yield a new copy of the command's start folder."""
    place = Path(tempfile.mkdtemp(prefix=f"{command.name.split()[0]}-", dir=scratch))
    try:
        fill(command, place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fill(command: Command, place: Path) -> None:
    if command.start:
        shutil.copytree(command.start, place, dirs_exist_ok=True)


def mrict(*words: str | Path) -> Callable[[Path], list[str]]:
    """Return the words of a `python -m mrict_core` command; PLACE in them becomes the trial's folder."""

    def at(place: Path) -> list[str]:
        return [sys.executable, "-m", "mrict_core", *(str(word).replace("PLACE", str(place)) for word in words)]

    return at


def suite(*words: str | Path) -> Callable[[Path], list[str]]:
    """Return the words of run_all.sh if .venv exists, else of the command it calls."""
    if (ROOT / ".venv" / "bin" / "python").exists():
        return lambda place: [str(ROOT / "run_all.sh"), *map(str, words)]
    return mrict("suite", *words)


def shop(patients: Path) -> str:
    """Start a server with the patients as SynthRAD2023's archive; return its address."""
    archive = patients.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(patients.rglob("*.nii.gz")):
            packed.write(path, path.relative_to(patients))
        packed.writestr("Task1/overview.bin", np.random.default_rng(0).bytes(20 << 20))
    server = Shop()
    server.reset(Task1_zip=archive.read_bytes())
    return server.url


def make_commands(scratch: Path, url: str) -> dict[str, Command]:
    """Return the commands under test; undisturbed runs prepare their start folders."""
    patients, cases = scratch / "patients", scratch / "cases"
    shown = ("--profile", "demo", "--data", patients)
    small = ("--profile", "smoke", "--data", patients, "--variants", "mk1", "--jobs", "1")
    found = [Command("preprocess", mrict("preprocess", *shown))]
    prepared = made(scratch / "prepared", found[0])
    found.append(Command("train", mrict("train", "mk1", *shown), prepared))
    trained = made(scratch / "trained", found[1], Command("evaluate", mrict("evaluate", "mk1", *shown)))
    outputs = ("-o", "PLACE/out", "--qa", "PLACE/qa", "--uncertainty", "PLACE/sd")
    batch = ("synthesize", cases, *outputs, "--model", "mk1", "--device", "cpu", "--tta")
    found.append(Command("synthesize", mrict(*batch), trained))
    found.append(Command("download", mrict("download", "synthrad2023-task1", "--dest", "PLACE/got", "--url", url)))
    found.append(Command("run_all.sh", suite(*small), goes_on=True))
    return {command.name: command for command in found}


def made(place: Path, *commands: Command) -> Path:
    """Run commands one after another in `place`; an error ends the benchmark."""
    fill(commands[0], place)
    for command in commands:
        done = carry_out(command, place)
        if done.status:
            raise RuntimeError(f"{command.name} fails undisturbed: {done.output[-500:]}")
    return place


def undisturbed(command: Command, scratch: Path) -> Reference:
    """Run the command undisturbed and record its renames; return the reference for the trials."""
    with fresh(command, scratch) as place:
        log = place.with_name(f"{place.name}.renames")
        log.touch()
        done = carry_out(command, place, PYTHONPATH=str(HOOK), FAULT_ROOT=str(place), FAULT_LOG=str(log))
        if done.status:
            raise RuntimeError(f"{command.name} fails undisturbed: {done.output[-500:]}")
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        return Reference(state(place), done.seconds, size, list(dict.fromkeys(log.read_text().splitlines())))


# -------------------------------------------------------------------------------------------------------------- faults


def at_a_random_moment(command: Command, reference: Reference, scratch: Path, after_s: float) -> list[str]:
    with fresh(command, scratch) as place:
        done = killed(command, place, after_s)
        return complaints(done, may_fail=True) + afterwards(command, place, reference.state)


def at_a_rename(command: Command, reference: Reference, scratch: Path, target: str) -> list[str]:
    with fresh(command, scratch) as place:
        return _rename(command, place, target) + afterwards(command, place, reference.state)


def _rename(command: Command, place: Path, target: str) -> list[str]:
    log = str(place.with_name(f"{place.name}.renames"))
    done = carry_out(command, place, PYTHONPATH=str(HOOK), FAULT_ROOT=str(place), FAULT_LOG=log, FAULT_AT=target)
    missed = [] if done.status else [f"the rename to {target} was not reached"]
    return complaints(done, may_fail=True) + missed


def two_at_once(command: Command, reference: Reference, scratch: Path) -> list[str]:
    """Start two runs in one place: both may succeed, or one may refuse in one line."""
    with fresh(command, scratch) as place:
        both = [start(command, place), start(command, place)]
        ends = [finish(process) for process in both]
        found = [text for done in ends for text in complaints(done, may_fail=True)]
        if all(done.status for done in ends):
            found.append(f"neither ended well: {last_error(ends[0].output)}")
        return found + afterwards(command, place, reference.state)


def limited(command: Command, reference: Reference, scratch: Path, limits: str) -> list[str]:
    """Run under limits of the system (ulimit); the run may fail in one line."""
    with fresh(command, scratch) as place:
        done = carry_out(command, place, limits)
        return complaints(done, may_fail=True) + afterwards(command, place, reference.state)


def mounts() -> str:
    """Return why no small disk can be mounted here, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a small disk needs Linux and root"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True)
        if tried.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return "" if tried.returncode == 0 else f"no small disk can be mounted here ({tried.stderr.strip()})"


@contextlib.contextmanager
def disk(command: Command, scratch: Path, size: int) -> Iterator[Path]:
    """Yield a copy of the start folder on its own disk with `size` bytes free."""
    place = Path(tempfile.mkdtemp(prefix="disk-", dir=scratch))
    taken = sum(p.stat().st_size + 4096 for p in command.start.rglob("*")) if command.start else 0
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={taken + size}", "tmpfs", place], check=True)
    try:
        fill(command, place)
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def on_a_full_disk(command: Command, reference: Reference, scratch: Path, size: int) -> list[str]:
    with disk(command, scratch, size) as place:
        done = carry_out(command, place)
        remount(place, "size=1g")
        return complaints(done, may_fail=True) + afterwards(command, place, reference.state)


def on_a_read_only_disk(command: Command, reference: Reference, scratch: Path) -> list[str]:
    with disk(command, scratch, 1 << 28) as place:
        remount(place, "ro")
        done = carry_out(command, place)
        remount(place, "rw")
        quiet = ["ended with status 0 where nothing can be written"] if done.status == 0 else []
        return complaints(done, may_fail=True) + quiet + afterwards(command, place, reference.state)


def input_moves(command: Command, reference: Reference, scratch: Path, victims: list[Path], seed: int) -> list[str]:
    """Rename files or folders of the input away and back while the command runs."""
    rng, over = random.Random(seed), threading.Event()

    def move() -> None:
        while not over.is_set():
            victim = rng.choice(victims)
            away = victim.with_name(f"away-{victim.name}")
            victim.rename(away)
            time.sleep(rng.uniform(0.01, 0.4))
            away.rename(victim)
            time.sleep(rng.uniform(0.0, 0.4))

    with fresh(command, scratch) as place:
        mover = threading.Thread(target=move)
        mover.start()
        try:
            done = carry_out(command, place)
        finally:
            over.set()
            mover.join()
        silent = differences(state(place), reference.state) if done.status == 0 else []
        found = complaints(done, may_fail=True) + [f"status 0, but {text}" for text in silent]
        return found + afterwards(command, place, reference.state)


def input_changes(command: Command, scratch: Path, seed: int) -> list[str]:
    """Replace MRs by others and back during synthesis: a json must name the MR of its CT."""
    rng, over = random.Random(seed), threading.Event()
    cases = sorted((scratch / "cases").glob("*.nii.gz"))
    kept = {path: path.read_bytes() for path in cases}

    def change() -> None:
        while not over.is_set():
            path, other = rng.sample(cases, 2)
            for data in (kept[other], kept[path]):
                temporary = path.with_name("being written")
                temporary.write_bytes(data)
                temporary.replace(path)
                time.sleep(rng.uniform(0.01, 0.3))

    with fresh(command, scratch) as quiet, fresh(command, scratch) as place:
        carry_out(command, quiet)
        right = {facts["input_hash"]: content(ct) for ct, facts in written(quiet)}
        changer = threading.Thread(target=change)
        changer.start()
        try:
            done = carry_out(command, place)
        finally:
            over.set()
            changer.join()
            for path, data in kept.items():
                path.write_bytes(data)
        wrong = [ct for ct, facts in written(place) if content(ct) != right.get(facts["input_hash"])]
        return complaints(done, may_fail=True) + (["the json names another MR than its CT is of"] if wrong else [])


def written(place: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the synthetic CTs in a place, each with its json."""
    found = [(path.with_name(f"{path.stem}.nii.gz"), read_json(path)) for path in (place / "out").glob("*.json")]
    return [(ct, facts) for ct, facts in found if ct.is_file()]


# ------------------------------------------------------------------------------------------------------------- the rows


def spread(items: list[Any], count: int) -> list[Any]:
    """Return at most `count` of the items, evenly spread."""
    return [items[k * len(items) // count] for k in range(count)] if len(items) > count else items


def trials(pool: ThreadPoolExecutor, case: str, calls: list[Callable[[], list[str]]]) -> dict[str, Any]:
    """Return the row of several trials."""
    tally = Tally(case)
    for problems in pool.map(lambda call: call(), calls):
        tally.add(problems)
    print(f"  {tally.row()}", flush=True)
    return tally.row()


def command_rows(
    pool: ThreadPoolExecutor,
    one: ThreadPoolExecutor,
    command: Command,
    reference: Reference,
    scratch: Path,
    sizes: dict[str, int],
    reason: str,
) -> list[dict[str, Any]]:
    """Return the rows of one command, trials in `pool` or one by one; `reason`: why there are no small disks."""
    rng, name = random.Random(command.name), command.name

    def calls(fault: Callable[..., list[str]], arguments: list[Any]) -> list[Callable[[], list[str]]]:
        return [functools.partial(fault, command, reference, scratch, *given) for given in arguments]

    moments = [(rng.uniform(0, reference.seconds),) for _ in range(sizes["random"])]
    memory = [(f"-v {gib << 20}",) for gib in spread([1, 3, 5, 7], sizes["limits"])]
    files = [(f"-n {count}",) for count in spread([12, 16, 24, 40], sizes["limits"])]
    disks = [(int(reference.size * (k + 0.5) / sizes["disk"]),) for k in range(sizes["disk"])]
    faults = {
        "kill -9 at a random moment": calls(at_a_random_moment, moments),
        f"kill -9 at a rename, of {len(reference.renames)}": renames(command, reference, scratch, sizes["renames"]),
        "two at once": calls(two_at_once, [()] * sizes["two"]),
        "too little memory (ulimit -v)": calls(limited, memory),
        "too few open files (ulimit -n)": calls(limited, files),
        "full disk": calls(on_a_full_disk, [] if reason else disks),
        "read-only disk": calls(on_a_read_only_disk, [] if reason else [()] * bool(disks)),
    }
    rows = []
    for fault, tries in faults.items():
        chain = command.goes_on and "rename" in fault
        rows += [trials(one if chain else pool, f"{name}: {fault}", tries)] if tries else []
    skipped = {"case": f"{name}: full disk, read-only disk", "tries": 0, "sound": 0, "problems": f"skipped: {reason}"}
    return [*rows, skipped] if reason and disks else rows


def renames(command: Command, reference: Reference, scratch: Path, count: int) -> list[Callable[[], list[str]]]:
    """Return a trial for each of `count` renames; for a command that resumes, all in one folder."""
    targets = spread(reference.renames, count)
    if not command.goes_on:
        return [functools.partial(at_a_rename, command, reference, scratch, target) for target in targets]
    place = Path(tempfile.mkdtemp(prefix="chain-", dir=scratch)) if targets else scratch
    kills = [functools.partial(_rename, command, place, target) for target in targets]
    return [*kills, *([functools.partial(afterwards, command, place, reference.state)] if targets else [])]


def moving_rows(
    one: ThreadPoolExecutor, commands: dict[str, Command], known: dict[str, Reference], scratch: Path, tries: int
) -> list[dict[str, Any]]:
    """Return the rows of vanishing and changing inputs; one trial at a time, because they share the input."""
    rows, part = [], functools.partial
    patients, cases = scratch / "patients", scratch / "cases"
    files = {"preprocess": sorted(patients.rglob("*.nii.gz")), "synthesize": sorted(cases.glob("*.nii.gz"))}
    folders = {"preprocess": [patients], "synthesize": [cases]}
    for name in files:
        for what, victims in (("files", files[name]), ("the folder", folders[name])):
            calls = [part(input_moves, commands[name], known[name], scratch, victims, seed) for seed in range(tries)]
            rows.append(trials(one, f"{name}: {what} of the input away for moments", calls))
    calls = [part(input_changes, commands["synthesize"], scratch, seed) for seed in range(tries)]
    rows.append(trials(one, "synthesize: the MR is replaced while it is read", calls))
    return rows


def run_all(quick: bool, scratch: Path) -> list[dict[str, Any]]:
    kind, reason = "quick" if quick else "full", mounts()
    sizes, of_suite = SIZES[kind], SUITE_SIZES[kind]
    patients, cases = scratch / "patients", scratch / "cases"
    folders = write_cohort(patients, "brain", 1, 1, SPEC, workers=1)
    (patients / "phantom.json").unlink()
    cases.mkdir()
    for folder in folders:
        shutil.copy(folder / "mr.nii.gz", cases / f"{folder.name}.nii.gz")
    commands = make_commands(scratch, shop(patients))
    rows = []
    with ThreadPoolExecutor(cpu_count()) as pool, ThreadPoolExecutor(1) as one:
        tried = [command for command in commands.values() if not command.goes_on or any(of_suite.values())]
        known = dict(zip(commands, pool.map(lambda command: undisturbed(command, scratch), tried), strict=False))
        for command in tried:
            own = of_suite if command.goes_on else sizes
            rows += command_rows(pool, one, command, known[command.name], scratch, own, reason)
        rows += moving_rows(one, commands, known, scratch, sizes["moving"])
        rows += mutations.rows(scratch, folders[0], commands["synthesize"].start / "checkpoints", sizes["mutations"])
    return rows


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per kind of fault and command."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        return run_all(quick, Path(name))
