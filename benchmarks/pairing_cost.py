"""What misaligned training pairs cost a network, and what registration wins back: the demo's phantoms and mk7_1.

The CTs of the training patients are scanned in a wrong pose, those of the others in the right one. A CT is resampled
once in every row, from a finer grid to the MR's, so that rows differ by the pose alone. Each training is an ordinary
one of the suite in a workspace of its own: a finished one is reused, an interrupted one goes on.
"""

from __future__ import annotations

import dataclasses
import statistics
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from benchmarks.poses import FILES, PADDING_MM
from mrict_core.data.cache.preprocess import in_plane_shapes, preprocess
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.discovery import discover
from mrict_core.data.phantom import PhantomSpec
from mrict_core.data.phantom.patients import phantom_ids, write_patient
from mrict_core.data.splits import Split, load_split, make_split, save_split
from mrict_core.evaluation import Predictions, score_patients
from mrict_core.experiments import get
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.files import atomic_path, code_hash, hash_of, read_json, write_json
from mrict_core.inference import load_synthesizer
from mrict_core.machine import cpu_count, end_with_parent
from mrict_core.pairing.itk_grids import Grid, resample
from mrict_core.pairing.registration import register
from mrict_core.pairing.starts import rigid
from mrict_core.paths import Workspace, data_root, workspace
from mrict_core.reporting import style
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings

TITLE = "What misaligned training pairs cost, and what registration wins back"
HOW = "phantoms of the demo, mk7_1; MAE of patients whose CTs are aligned, that no training saw; SD over seeds"
LONG = True  # half an hour
REGION, SEED = "brain", 42
SHIFTS_MM = (0.0, 1.0, 2.0, 4.0)  # mean distance of the body's points from where they belong
SEEDS, STEPS = (0, 1, 2), 300
FINE = 2  # times finer than the MR is the grid on which a CT is scanned
NAMES = {False: "as scanned", True: "after registration"}


@dataclass(frozen=True)
class Row:
    """Training pairs that are `shift_mm` apart, as they are or registered."""

    shift_mm: float
    registered: bool

    @property
    def file(self) -> str:
        return f"{self.shift_mm:g}mm{'-registered' if self.registered else ''}"


def run(quick: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Yield the table after each training."""
    rows = [Row(shift, registered) for registered in (False, True) for shift in SHIFTS_MM]
    seeds, steps = (SEEDS[:1], 10) if quick else (SEEDS, STEPS)
    if quick:
        rows = [row for row in rows if row.shift_mm in (0, 4)]
    done: dict[tuple[Row, int], float] = {}
    gaps = {row: prepared(row, profile(quick)) for row in rows}
    context = get_context("spawn")
    with ProcessPoolExecutor(cpu_count(), mp_context=context, initializer=end_with_parent) as pool:
        jobs = {pool.submit(trained, row, seed, steps, quick): (row, seed) for seed in seeds for row in rows}
        for job in as_completed(jobs):
            done[jobs[job]] = job.result()
            row, seed = jobs[job]
            print(f"{row.shift_mm:g} mm, {NAMES[row.registered]}, seed {seed}: {done[row, seed]:.1f} HU", flush=True)
            yield table(rows, gaps, done)


def profile(quick: bool) -> Profile:
    """Return the demo's profile, one CPU each."""
    found = dataclasses.replace(get_profile("demo"), name="misaligned", label="misaligned training", threads=1)
    return dataclasses.replace(found, name="misaligned_quick", phantom_patients_per_centre=2) if quick else found


def place(row: Row, scale: Profile) -> Workspace:
    """Return the workspace of a row; its folder of patients must exist."""
    return workspace(scale.name, data_root() / "pairing" / scale.name / row.file, REGION)


def split_of(scale: Profile) -> Split:
    """Return the split that all rows share."""
    ids = phantom_ids(REGION, scale.phantom_patients_per_centre)
    return make_split({patient: patient[2] for patient in ids}, SEED)


def prepared(row: Row, scale: Profile) -> float:
    """Make a row's patients and their dataset cache; return the mean error (mm) of the training pairs' poses."""
    folder, split = data_root() / "pairing" / scale.name / row.file, split_of(scale)
    patients = (*split.train, *split.val, *split.test)
    gaps = {patient: pair(patient, row, scale, folder, patient in split.train) for patient in patients}
    space = place(row, scale)
    size = scale.canvas(in_plane_shapes(discover(space.data_dirs, REGION)))
    preprocess(space.data_dirs, space.store, region=REGION, size=size)
    save_split(space.split_file, split)
    return float(np.mean([gaps[patient] for patient in split.train]))


def pair(patient: str, row: Row, scale: Profile, folder: Path, moved: bool) -> float:
    """Write a patient's pair, unless it is there; return the mean error (mm) of its pose."""
    out = folder / "Task1" / REGION / patient
    record = folder.parent / "poses" / row.file / f"{patient}.json"
    key = hash_of([dataclasses.astuple(row), moved, SEED, code_hash("data/phantom", "pairing/registration")])
    known = read_json(record) if record.is_file() else {}
    if known.get("key") == key and all((out / name).is_file() for name in FILES):
        return known["error_mm"]
    raw = [scanned(patient, scale, fine) for fine in (1, FINE)]
    mr, mask = (sitk.ReadImage(str(raw[0] / f"{name}.nii.gz")) for name in ("mr", "mask"))
    ct = sitk.ReadImage(str(raw[1] / "ct.nii.gz"))
    inside = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[::23, ::-1]
    points = [mask.TransformIndexToPhysicalPoint(index.tolist()) for index in inside]
    truth = wrong_pose(patient, np.array(points), row.shift_mm if moved else 0.0)
    scan, used = posed(ct, truth), sitk.Transform(3, sitk.sitkIdentity)
    if row.registered:
        used = register(mr, scan, threads=1).transform
    gaps = [np.subtract(used.TransformPoint(p), truth.TransformPoint(p)) for p in points]
    error = float(np.linalg.norm(gaps, axis=1).mean())
    for image, name in zip((mr, resample(scan, Grid.of(mr), used), mask), FILES, strict=True):
        with atomic_path(out / name) as temporary:
            sitk.WriteImage(image, str(temporary))
    write_json(record, {"key": key, "error_mm": error})
    return error


def scanned(patient: str, scale: Profile, fine: int) -> Path:
    """Return the folder of a phantom, made once; voxels `fine` times smaller than the demo's."""
    sizes = (scale.phantom_in_plane_mm[REGION] / fine, scale.phantom_slice_mm / fine)
    spec = PhantomSpec(REGION, *sizes, scale.phantom_supersample if fine == 1 else 1)
    folder = data_root() / "pairing" / scale.name / f"phantoms-{code_hash('data/phantom')}-{fine}" / patient
    if not all((folder / name).is_file() for name in FILES):
        write_patient(folder, patient, SEED, spec)
    return folder


def wrong_pose(patient: str, points: np.ndarray, distance_mm: float) -> sitk.Euler3DTransform:
    """Return a random shift and turn by which the points (N, 3) move `distance_mm` on average, about half by each."""
    rng, centre = np.random.default_rng([zlib.crc32(patient.encode()), SEED]), points.mean(0)
    shift, axis = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    radius = np.linalg.norm(np.cross(axis, points - centre), axis=1).mean()

    def at(amount: float) -> sitk.Euler3DTransform:
        turn = Rotation.from_rotvec(axis * amount / radius)
        return rigid(centre, centre + shift * amount, turn)

    moved = [at(distance_mm).TransformPoint(point.tolist()) for point in points]
    far = float(np.linalg.norm(moved - points, axis=1).mean())
    return at(distance_mm**2 / far if far else 0.0)


def posed(ct: sitk.Image, truth: sitk.Transform) -> sitk.Image:
    """Return the CT of the moved body: the header alone moves, no voxel is resampled."""
    reach = np.ceil(PADDING_MM / np.array(ct.GetSpacing())).astype(int).tolist()
    found = sitk.ConstantPad(ct, reach, reach, -1024)
    turn = np.reshape(truth.GetMatrix(), (3, 3))
    found.SetOrigin(truth.TransformPoint(found.GetOrigin()))
    found.SetDirection((turn @ np.reshape(found.GetDirection(), (3, 3))).ravel().tolist())
    return found


def trained(row: Row, seed: int, steps: int, quick: bool) -> float:
    """Train a row with a seed; return the mean MAE (HU) of the test patients."""
    scale = profile(quick)
    space, settings = place(row, scale), TrainSettings(seed=seed, device="cpu", steps=steps)
    store, split = SliceStore(space.store), load_split(space.split_file)
    done = train(get("mk7_1"), scale, space, settings, report=lambda line: None)
    path = space.metrics / f"misaligned-{done.run.id}.json"
    key = hash_of([done.run.id, store.key, split.hash])
    known = read_json(path) if path.is_file() else {}
    if known.get("key") != key:
        predictions = Predictions(store, load_synthesizer(done.best, device="cpu"))
        known = {"key": key, "mae_hu": float(score_patients(store, split.test, predictions).frame["mae_hu"].mean())}
        write_json(path, known)
    return known["mae_hu"]


def table(rows: Sequence[Row], gaps: dict[Row, float], done: dict[tuple[Row, int], float]) -> list[dict[str, Any]]:
    """Return a row of the printed table for each row with a result."""
    mean = {row: [mae for (one, _), mae in done.items() if one == row] for row in rows}
    base = next((statistics.fmean(values) for row, values in mean.items() if values and row == Row(0.0, False)), None)
    return [
        {
            "shift_mm": row.shift_mm,
            "pairs": NAMES[row.registered],
            "error_of_pairs_mm": gaps[row],
            "seeds": len(values),
            "mae_hu": statistics.fmean(values),
            "seeds_sd_hu": statistics.stdev(values) if len(values) > 1 else None,
            "difference_hu": statistics.fmean(values) - base if base is not None else None,
            "seeds_mae_hu": values,
        }
        for row, values in mean.items()
        if values
    ]


@style.styled
def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the error over the misalignment, as scanned and after registration, with each seed."""
    drawn = style.new_figure(style.PAGE_IN * 0.7, 2.8, title=TITLE, label="phantoms of the demo")
    panel = drawn.subplots()
    for name, colour in zip(NAMES.values(), ("vermilion", "blue"), strict=True):
        own = [row for row in rows if row["pairs"] == name]
        look = {"color": style.PALETTE[colour]}
        panel.plot([row["shift_mm"] for row in own], [row["mae_hu"] for row in own], "-", label=name, **look)
        for row in own:
            seeds = row["seeds_mae_hu"]
            panel.plot([row["shift_mm"]] * len(seeds), seeds, "o", markersize=3, alpha=0.6, **look)
    panel.set(xlabel="training CTs misaligned by (mm)", ylabel="MAE in the mask (HU)", xticks=SHIFTS_MM)
    panel.grid(axis="y")
    drawn.legend(loc="outside lower center", ncols=2)
    return drawn
