"""What many patients and many GPUs cost: steps, volumes, memory, traffic, storage, speed-up; what gives first.

Measured here: memory and operations of a step, seconds of a volume and of a patient's preparation and pairing, bytes
of a prepared patient. Predicted from these: everything on several GPUs, and for `PATIENTS` patients.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import costs, measure
from benchmarks.inference import random_model
from benchmarks.training import random_vgg19
from mrict_core.data.batches import make_view
from mrict_core.data.cache.preprocess import preprocess
from mrict_core.data.cache.store import INDEX, SliceStore
from mrict_core.data.images.volumes import Volume
from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.experiments import Experiment, get, with_values
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.files import write_csv
from mrict_core.inference import Synthesizer
from mrict_core.inference.volume import synthesize_volume
from mrict_core.methods import build_method
from mrict_core.methods.flow import Flow
from mrict_core.pipeline.cases import FACTS, FIRST
from mrict_core.pipeline.pair import PairSettings
from mrict_core.pipeline.pair_folder import make_pair
from mrict_core.pipeline.pair_folders import PairInput
from mrict_core.shards import MARKS, Roll, Shard, merge_tables

TITLE = "What many patients and many GPUs cost"
EXPERIMENTS = ("mk1", "mk3_1_2", "mk6_3_4", "mk7_1", "mk8_0", "mk9_0", "mk10_0")
GPUS = (1, 2, 4, 8, 16, 64)
IN_NODE, GPUS_IN_NODE = 200e9, 8  # bytes a second of an all-reduce's slowest link in a machine, and its GPUs
BETWEEN_NODES = 25e9  # the same between machines: 200 Gbit/s
STORAGE = 1e9  # bytes a second that a shared file system delivers
LONG = True  # half an hour on a CPU
PATIENTS, SHARDS = 10_000, 64
PHANTOM = {"full": PhantomSpec("brain", 1.0, 1.0), "quick": PhantomSpec("brain", 4.5, 16.0)}
VOLUME = {"full": (181, 217, 181), "quick": (41, 47, 20)}  # of the synthetic CT
SIDES = {"full": (128, 256), "quick": (64, 96)}
WIDTHS = {"full": (16, 32), "quick": (2, 4)}
DEPTHS = (16, 32)  # slices of a patch of a volume
HOUR, MEGA, GIGA = 3600, 1e6, 1e9
HOW = (
    "a step without a GPU here is predicted from its operations at "
    f"{costs.RATE / 1e12:g} TFLOP/s (costs.md); an all-reduce of B bytes on W GPUs takes 2(W-1)/W * B / bandwidth, "
    f"with {IN_NODE / GIGA:g} GB/s up to {GPUS_IN_NODE} GPUs and {BETWEEN_NODES / GIGA:g} GB/s beyond, both assumed, "
    "and does not overlap with the step; speed-up is that of images a second with the same batch on every GPU"
)


# ------------------------------------------------------------------------------------------------------ on many GPUs


def step_of(variant: Experiment, profile: Profile, side: int) -> dict[str, Any]:
    """Return memory, operations and seconds of a training step, and the bytes that it reads and sends."""
    found, kind = costs.predicted(variant, profile, side), "predicted"
    if torch.cuda.is_available():
        found, kind = found | costs.measured(variant, profile, side), torch.cuda.get_device_name()
    with random_vgg19():
        method = build_method(variant, profile, "cpu")
    batch, sides, channels = profile.batch(variant), method.view.sides(side), method.view.in_channels
    return {
        "case": variant.name,
        "batch": batch,
        "patch": "×".join(map(str, sides)),
        "gib": found["gib"],
        "tflop": found["tflop_per_step"],
        "cpu_s_per_image": found["cpu_s_per_image"],
        "step_s": found["hours"] * HOUR / costs.steps_of(variant, profile),
        "step": kind,
        "trained_million": costs.trained_values(method) / 1e6,
        "all_reduce_mb": costs.BYTES * costs.trained_values(method) / MEGA,
        "read_mb": batch * math.prod(sides) * (channels * 2 + 2 + 1) / MEGA,  # MR float16, CT int16, mask
    }


def all_reduce_s(size: float, gpus: int) -> float:
    """Return the seconds in which a ring of GPUs adds up `size` bytes."""
    return 2 * (gpus - 1) / gpus * size / (IN_NODE if gpus <= GPUS_IN_NODE else BETWEEN_NODES)


def speed_up(row: dict[str, Any], gpus: int) -> float:
    """Return how many times faster images are learned from."""
    return gpus * row["step_s"] / (row["step_s"] + all_reduce_s(row["all_reduce_mb"] * MEGA, gpus))


def on_gpus(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield traffic, speed-up and reading on several GPUs, a row for each experiment and measure."""
    for row in steps:
        part = {"part": "predicted speed-up", "case": row["case"]}
        yield part | {f"{gpus}_gpus": speed_up(row, gpus) for gpus in GPUS}
    for row in steps:
        part = {"part": "predicted all-reduce of a step, ms", "case": row["case"], "mb": row["all_reduce_mb"]}
        yield part | {f"{gpus}_gpus": 1000 * all_reduce_s(row["all_reduce_mb"] * MEGA, gpus) for gpus in GPUS}
    for row in steps:
        rate = row["read_mb"] / row["step_s"]
        part = {"part": "predicted reading, MB/s", "case": row["case"], "mb": row["read_mb"]}
        yield part | {f"{gpus}_gpus": rate * speed_up(row, gpus) for gpus in GPUS}


def memory(variant: Experiment, profile: Profile, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the memory of a step of one image by what it sees and by width."""
    view = make_view(profile.view(variant))
    sizes = [view.sides(side) for side in SIDES[kind]]
    if len(sizes[0]) == 3:
        sizes = [(depth, *sizes[0][1:]) for depth in DEPTHS]
    for sides in sizes:
        for width in WIDTHS[kind]:
            narrow = dataclasses.replace(profile, width=width, widths={})
            one = with_values(variant, {"data.view.patch": list(sides)}) if len(sides) == 3 else variant
            found = costs.predicted(with_values(one, {"data.batch_size": 1}), narrow, sides[-1])
            yield {
                "part": "memory of a step, one image, float32",
                "case": variant.name,
                "patch": "×".join(map(str, sides)),
                "width": width,
                "gib": found["gib"],
            }


# -------------------------------------------------------------------------------------------------- of many patients


class Sparing:
    """A network that computes once for each shape of its inputs; later it answers with a copy of the same output.

    So a volume has the memory of all its parts, and the seconds of a few; `owed` are those of the others. known: what
    was computed, which networks of one kind may share.
    """

    def __init__(self, network: nn.Module, known: dict[Any, tuple[torch.Tensor, float]]) -> None:
        self.forward, self.known, self.owed = network.forward, known, 0.0
        network.forward = self

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        key = tuple(tuple(x.shape) for x in inputs)
        if key in self.known:
            output, seconds = self.known[key]
            self.owed += seconds
            return output.clone()
        _wait()
        seconds, output = timed(lambda: self.forward(*inputs))
        _wait()
        self.known[key] = output.clone(), seconds
        return output


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def head_of(shape: tuple[int, int, int]) -> Volume:
    """Return an ellipsoid of noise that almost fills a volume of 1 mm."""
    sides = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    noise = np.random.default_rng(0).normal(300, 30, shape)
    image = np.where(sum(side**2 for side in sides) < 0.9, noise, 4.0).astype(np.float32)
    return Volume(image, np.eye(4), Path("head.nii.gz"))


def whole_volume(name: str, profile: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """Return the seconds and the peak memory of this process for a synthetic CT by an untrained model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with random_vgg19():
        model = random_model(get(name), get_profile(profile), device, Synthesizer.batch_size, torch.float32)
    network, known = model.generator, {}
    parts = [network.flow, *network.means] if isinstance(model.method, Flow) else [network]
    spared = [Sparing(part, known) for part in parts]  # the means are alike, and the flow has more channels
    measured, _ = timed(lambda: synthesize_volume(model, head_of(shape)))
    seconds = measured + sum(part.owed for part in spared)
    return {"s_per_slice": seconds / shape[2], "s_per_volume": seconds, "peak_gib": measure.peak_gib()}


def volumes(found: list[Experiment], profiles: tuple[str, ...], kind: str) -> Iterator[dict[str, Any]]:
    """Yield seconds and memory of a synthetic CT, each in a process of its own."""
    for profile, variant in product(profiles, found):
        yield {
            "part": f"a synthetic CT of {'×'.join(map(str, VOLUME[kind]))} voxels of 1 mm, untrained, "
            f"{'GPU' if torch.cuda.is_available() else 'CPU'}; every network computes once, and is multiplied",
            "case": variant.name,
            "profile": profile,
            **measure.apart(whole_volume, variant.name, profile, VOLUME[kind]),
        }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def patients(root: Path, kind: str) -> dict[str, float]:
    """Return bytes and seconds of a patient, measured on three phantoms under `root`."""
    canvas = 256 if kind == "full" else 64
    folders = sorted((root / "Task1" / "brain").iterdir())
    prepare = partial(preprocess, root, root / "store", region="brain", size=canvas, workers=1)
    first, store = timed(prepare)
    index = root / "store" / INDEX
    index.rename(Shard(1, 1).file(index))  # as a shard leaves it: the patients, and its part of the index
    final, _ = timed(prepare)
    scans = PairInput("one", folders[0] / "mr.nii.gz", folders[0] / "ct.nii.gz")
    pairing, _ = timed(lambda: make_pair(scans, root / "pairs", PairSettings(grid="mr")))
    count = len(folders)
    return {
        "source files, bytes": sum(file.stat().st_size for folder in folders for file in folder.iterdir()) / count,
        "prepared, bytes": _bytes(store) / count,
        "index, bytes": index.stat().st_size / count,
        "preparing, s": first / count,
        "pairing, s": pairing,
        "index and split after shards, s": final / count,
    }


def _bytes(store: SliceStore) -> int:
    return sum(file.stat().st_size for patient in store.patients for file in (store.folder / patient).iterdir())


def merging_s(folder: Path, cases: int) -> float:
    """Return the seconds that merging the summaries of so many cases takes."""
    import pandas as pd

    names = [f"case{k:05d}" for k in range(cases)]
    roll = Roll(names)
    for number in range(1, SHARDS + 1):
        shard = Shard(SHARDS, number)
        own = [(k, name) for k, name in enumerate(names, 1) if shard.has(k)]
        rows = [{"case": name, "status": "written"} | roll.marks(k) for k, name in own]
        table = pd.DataFrame(rows, columns=[*FIRST, *FACTS, *MARKS])
        write_csv(shard.file(folder / "summary.csv"), table)
    return timed(lambda: merge_tables(folder / "summary.csv"))[0]


def of_many(each: dict[str, float], parallel: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Yield what all patients take, alone and divided among shards; index, split and merging are not divided."""
    with tempfile.TemporaryDirectory() as folder:
        merging = merging_s(Path(folder), PATIENTS)
    part = {"part": f"{PATIENTS:,} patients"}
    for what, value in each.items():
        name, unit = what.split(", ")
        if unit == "bytes":
            yield part | {"case": name, "per_patient": value / MEGA, "unit": "MB", "all": value * PATIENTS / MEGA}
        else:
            hours = value * PATIENTS / HOUR
            divided = hours if "after shards" in name else hours / SHARDS
            yield part | {"case": name, "per_patient": value, "unit": "s", "hours": hours, "hours_sharded": divided}
    for name, value in parallel.items():
        hours = value * PATIENTS / HOUR
        row = {"case": f"synthesis, {name}", "per_patient": value, "unit": "s", "hours": hours}
        yield part | row | {"hours_sharded": hours / SHARDS}
    yield part | {
        "case": "merging the summaries",
        "unit": "s",
        "hours": merging / HOUR,
        "hours_sharded": merging / HOUR,
    }


def limits(steps: list[dict[str, Any]], each: dict[str, float]) -> list[dict[str, Any]]:
    """Return at how many GPUs or patients something gives, the first first."""
    rows = []
    for row in steps:
        busy = row["step_s"] * BETWEEN_NODES / (2 * row["all_reduce_mb"] * MEGA)  # step over the longest all-reduce
        many = max(GPUS_IN_NODE + 1, math.ceil(1 / (1 - busy))) if busy < 1 else None
        rows.append({"case": f"{row['case']}: half of the time is all-reduce", "reached_at": many, "unit": "GPUs"})
        reads = math.ceil(STORAGE * row["step_s"] / (row["read_mb"] * MEGA))
        rows.append({"case": f"{row['case']}: reads {STORAGE / GIGA:g} GB/s", "reached_at": reads, "unit": "GPUs"})
    serial, index = each["index and split after shards, s"], each["index, bytes"]
    rows.append({"case": "index and split take an hour", "reached_at": int(HOUR / serial), "unit": "patients"})
    rows.append({"case": "the index has 1 GB", "reached_at": int(GIGA / index), "unit": "patients"})
    rows.append({"case": "the store has 1 TB", "reached_at": int(1e12 / each["prepared, bytes"]), "unit": "patients"})
    rows.sort(key=lambda row: (row["unit"], row["reached_at"] or math.inf))
    return [{"part": "what gives first (none: never)"} | row for row in rows]


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of all parts."""
    kind, name = ("quick", "smoke") if quick else ("full", "full")
    profile, found = get_profile(name), [get(variant) for variant in EXPERIMENTS]
    side = 64 if quick else profile.size
    steps = [step_of(variant, profile, side) for variant in found]
    rows = [{"part": "a training step"} | row for row in steps]
    for variant in found:
        if re.fullmatch("mk[678]", variant.family):
            rows += memory(variant, profile, kind)
    rows += on_gpus(steps)
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder), "brain", 1, 42, PHANTOM[kind])
        each = patients(Path(folder), kind)
    made = list(volumes(found, ("smoke",) if quick else ("cpu", "full"), kind))
    rows += made
    rows += of_many(each, {row["case"]: row["s_per_volume"] for row in made if row["profile"] == name})
    return rows + limits(steps, each)
