"""Which choice of MK7 matters: the base with one change at a time, on real slices and on phantoms.

A training of a row with one seed is an ordinary training of the suite, in a workspace of its own. A finished one is
reused and an interrupted one goes on, so the same command may be given again at any time.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from samples import HOW_TO_GET, SAMPLES

from mrict_core.data.cache.preprocess import in_plane_shapes, preprocess
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.discovery import discover
from mrict_core.data.images.orders import PLANES
from mrict_core.data.splits import load_split, make_split, save_split
from mrict_core.errors import MrictError
from mrict_core.evaluation import Predictions, baseline_predictions, score_patients
from mrict_core.experiments import Experiment, deciding, get, lineage
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.experiments.schema import with_values
from mrict_core.files import code_hash, hash_of, read_json, write_json
from mrict_core.inference import Synthesizer, load_synthesizer
from mrict_core.inference.volume import flips_of
from mrict_core.machine import cpu_count, end_with_parent, set_threads
from mrict_core.metrics.statistics import holm, wilcoxon_paired
from mrict_core.paths import Workspace, shown, workspace
from mrict_core.pipeline.evaluate import CODE
from mrict_core.pipeline.preparation import make_phantoms
from mrict_core.reporting import style
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run

TITLE = "What matters in MK7: one change at a time"
HOW = (
    "CPU time of each training; real heads: middle slices in three planes, approximate HU; means over people, then "
    "over seeds; differences to the first row of the same data, Wilcoxon by person, Holm"
)
LONG = True  # hours
MINUTES = 20.0  # CPU time of a training beside the references
SHARE = 0.1  # of it, for a training with one change, and on phantoms
SEEDS = (0, 1, 2)
SPLIT_SEED = 42  # the suite's: the people kept out are those of its default split
FRACTIONS = (0.7, 0.1, 0.2)  # of the people: 101, 14 and 29 of 144
FOLDERS = ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS")
SCORES = ("mae_hu", "dice_bone_250", "ssim", "psnr_db")
PACE_STEPS = 16  # after a first one; as many as from one gradient penalty to the next
LEVEL = 0.05  # of a p that counts as a difference
BASE = "mk7_0"
ALL, AXIAL = "", "axial"  # images to train on

REAL = dataclasses.replace(get_profile("cpu"), name="quality", label="ablation", minutes=None, threads=1)
PHANTOMS = dataclasses.replace(
    REAL, name="quality_phantoms", label="ablation, phantoms", phantom_patients_per_centre=20, validation_slices=4
)


@dataclass(frozen=True)
class Row:
    """An experiment with changes by path, or a predictor that is not trained."""

    name: str
    of: str = BASE  # experiment, or a baseline
    changes: Mapping[str, Any] = field(default_factory=dict)
    images: str = ALL
    once: bool = False  # with the first seed alone
    flips: bool = False  # mean over the flips of the augmentation, with the weights of the same training

    @property
    def trained(self) -> bool:
        return not self.of.startswith("baseline_")

    @property
    def file(self) -> str:
        """The name for files and folders."""
        return "".join(c if c.isalnum() else "_" for c in self.name.lower())

    @property
    def experiment(self) -> Experiment:
        if not self.changes:
            return get(self.of)
        return with_values(get(self.of), self.changes, f"row {self.name}", name=f"{self.of}-{self.file}")


def _off(*names: str) -> dict[str, float]:
    return {f"data.augment.{name}": 0.0 for name in names}


GEOMETRY = _off("flip_horizontal", "rotation_degrees", "translation", "scale")
PHOTOMETRY = _off("gamma", "bias_field", "noise")
ROWS = (
    Row(BASE),
    Row("axial slices only", images=AXIAL),
    Row("norm: group", changes={"network.G.norm": "group"}),
    Row("no EMA", changes={"method.ema": 0.0}),
    Row("no augmentation", changes=GEOMETRY | PHOTOMETRY),
    Row("whole slices instead of crops", changes={"data.augment.crop": 0}),
    Row("stem: stride", changes={"network.G.stem": "stride"}),
    Row("width 16", changes={"network.G.width": 16}),
    Row("width 32", changes={"network.G.width": 32}),
    Row("loss: + gradient L1", changes={"loss.gradient_l1.weight": 1.0}),
    Row("loss: + 0.1 SSIM", changes={"loss.ssim.weight": 0.1}),
    Row("loss: + 0.1 Laplace", changes={"loss.laplace.weight": 0.1, "network.G.log_b": True}),
    Row("loss: + 0.5 HU features", changes={"loss.hu_features.weight": 0.5}),
    Row("loss: L1 not masked", changes={"loss.l1.masked": False}),
)
REFERENCES = (
    Row(BASE),
    Row("test-time flips", flips=True),
    *(Row(name, of=name) for name in ("unet_l1", "pix2pix_paper")),
    Row("mk6_3_4", of="mk6_3_4", once=True),  # eight trainings
    Row("cyclegan_paper", of="cyclegan_paper", once=True),  # a step takes as long as 60 of the base
    Row("water", of="baseline_water_body"),
    Row("mean CT", of="baseline_mean_ct"),
)
THREE = {"data.view.planes": list(PLANES)}
SLAB = {"data.view": {"name": "slab", "radius": 2}}
PHANTOM_ROWS = (
    Row(BASE),
    Row("slab of 5", changes=SLAB),
    Row("three planes", changes=THREE),
    Row("slab of 5 and three planes", changes=SLAB | THREE),
)
QUICK = (BASE, "unet_l1", "no EMA", "slab of 5", "water")


@dataclass(frozen=True)
class Study:
    """The rows on one set of people; the first row is the base of the others."""

    data: str  # in words
    profile: Profile
    space: Workspace
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    minutes: float
    precision: str

    @property
    def base(self) -> Row:
        return self.rows[0]

    @property
    def jobs(self) -> list[tuple[tuple[Row, ...], int]]:
        """Rows that share a training, and a seed, one seed after the other."""
        flips = tuple(row for row in self.rows if row.flips)
        return [
            ((row, *flips) if row == self.base else (row,), seed)
            for seed in self.seeds
            for row in self.rows
            if not row.flips and ((row.trained and not row.once) or seed == self.seeds[0])
        ]

    def prepare(self) -> SliceStore:
        """Prepare the data and split the people: all images, and the axial images alone."""
        space, profile = self.space, self.profile
        if space.embedded:
            make_phantoms(space, profile, SPLIT_SEED)
        size = profile.canvas(in_plane_shapes(discover(space.data_dirs, space.region)))
        store = preprocess(space.data_dirs, space.store, region=space.region, size=size)
        for skip in store.skipped:
            print(f"left out: {skip['reason']}")
        counts = store.counts()
        if not space.embedded and (whole := [patient for patient in store.patients if counts[patient] > 1]):
            raise MrictError(
                f"{shown(store.source(whole[0], 'mr'))}: {counts[whole[0]]} slices; expected volumes one voxel thick, "
                "as slabs and planes are measured on phantoms; give --data with single slices"
            )
        centres = {patient: store.centre(patient) for patient in store.patients}
        split = make_split(centres, SPLIT_SEED, fractions=FRACTIONS, subjects=store.subjects())
        save_split(space.split_file, split)
        if any(row.images == AXIAL for row in self.rows):
            parts = {name: getattr(split, name) for name in ("train", "val")}
            kept = {name: tuple(p for p in part if store.plane(p) == AXIAL) for name, part in parts.items()}
            save_split(space.of_fold(AXIAL).split_file, dataclasses.replace(split, **kept))
        return store

    def place(self, row: Row) -> Workspace:
        return self.space.of_fold(row.images) if row.images else self.space

    def measure(self) -> None:
        """Measure what a step of each training costs, once for all seeds and later calls."""
        for row in filter(lambda row: row.trained, self.rows):
            for experiment in lineage(row.experiment):
                self.pace(row, experiment)

    def pace(self, row: Row, experiment: Experiment) -> dict[str, float]:
        """Return the CPU seconds of a step, and of what its loss learns before the first; kept in pace.json.

        CPU time of all threads, with reading and augmentation: other programs on the machine do not change it.
        """
        space, path = self.place(row), self.space.checkpoints / "pace.json"
        alone = dataclasses.replace(experiment, init_from=None)  # random weights: time does not depend on them
        described = [deciding(alone), self.profile.described(alone), space.name, self.precision]
        key = f"{experiment.name} {hash_of(described)}"
        known = read_json(path) if path.is_file() else {}
        if key not in known:
            known[key] = _cost(alone, self.profile, space, self.precision)
            write_json(path, known)
        return known[key]

    def steps(self, row: Row) -> list[tuple[Experiment, int]]:
        """Return the trainings of a row, ancestors first, and the steps of each.

        A chain shares the budget in proportion to its members' epochs.
        """
        chain = lineage(row.experiment)
        epochs = sum(experiment.epochs for experiment in chain)
        found = []
        for experiment in chain:
            pace = self.pace(row, experiment)
            seconds = 60 * self.minutes * experiment.epochs / epochs - pace["before_s"]
            if seconds < pace["step_s"]:
                raise MrictError(
                    f"{row.name}: {seconds:.0f} s of CPU time are left for {experiment.name}, one step takes "
                    f"{pace['step_s']:.0f} s; give more --minutes"
                )
            found.append((experiment, round(seconds / pace["step_s"])))
        return found


def _cost(experiment: Experiment, profile: Profile, space: Workspace, precision: str) -> dict[str, float]:
    set_threads(profile.threads)
    settings = TrainSettings(seed=0, device="cpu", precision=precision)
    run = prepare_run(experiment, profile, space, settings)
    method = run.method()
    method.begin_epoch(0)
    started = time.process_time()
    method.loss.fit(run.endless_pairs(seed=0), run.store.window, seed=0)
    before = time.process_time() - started
    seconds, steps = [], 0
    started = time.process_time()
    for batch in run.endless_pairs(seed=0):
        fraction = max(0, steps - 1) / PACE_STEPS  # methods of several parts, and discriminators that join later
        method.follow(fraction)
        method.train_step(batch)
        seconds.append(time.process_time() - started)
        started, steps = time.process_time(), steps + 1
        if steps > PACE_STEPS:
            break
    return {"step_s": statistics.mean(seconds[1:]), "before_s": before}


# ---------------------------------------------------------------------------------------------------- one row, one seed


def result(study: Study, row: Row, seed: int) -> dict[str, Any]:
    """Train and score a row with one seed; a training or score that exists is reused.

    Returns cpu_minutes, steps, cpu_s_per_step and `images`: the scores of each image of the people kept out. A training
    that fails gives `problem` instead.
    """
    store, split = SliceStore(study.space.store), load_split(study.space.split_file)
    try:
        if not row.trained:
            key, predict, facts = row.of, baseline_predictions(store, split.train)[row.of].predict, {}
        else:
            key, best, facts = trained(study, row, seed)
            synthesizer = load_synthesizer(best, device="cpu")
            predict = _with_flips(synthesizer) if row.flips else synthesizer
    except MrictError as error:
        return {"problem": str(error)}
    key = hash_of([key, row.flips, store.key, split.hash, code_hash(*CODE)])
    path = study.space.metrics / f"{row.file}--{study.minutes:g}min--seed{seed}.json"
    known = read_json(path) if path.is_file() else {}
    if known.get("key") != key:
        known = {"key": key, **facts, "images": _scores(store, split.test, predict)}
        write_json(path, known)
    return known


def results(study: Study, rows: Sequence[Row], seed: int) -> dict[str, dict[str, Any]]:
    """Return {row's name: result} of rows that share a training."""
    return {row.name: result(study, row, seed) for row in rows}


def trained(study: Study, row: Row, seed: int) -> tuple[str, Path, dict[str, Any]]:
    """Return id, checkpoint and cost of a row's training."""
    done, steps, seconds = None, 0, 0.0
    for experiment, count in study.steps(row):
        settings = TrainSettings(seed=seed, device="cpu", precision=study.precision, steps=count)
        done = train(
            experiment,
            study.profile,
            study.place(row),
            settings,
            report=lambda line: None,
            parent=done.run if done else None,
        )
        steps += count
        seconds += count * study.pace(row, experiment)["step_s"]
    if done.stopped:
        raise MrictError(f"{row.name}, seed {seed}: {done.stopped}")
    cost = {"cpu_minutes": study.minutes, "steps": steps, "cpu_s_per_step": seconds / steps}
    return done.run.id, done.best, cost


def _with_flips(synthesizer: Synthesizer) -> Callable[[SliceStore, str], np.ndarray]:
    def predict(store: SliceStore, patient: str) -> np.ndarray:
        mr, axes = store.slices(patient).mr, flips_of(synthesizer, store.plane(patient))
        return np.mean([np.flip(synthesizer.slices_to_hu(np.flip(mr, one)), one) for one in axes], axis=0)

    return predict


def _scores(
    store: SliceStore, patients: Sequence[str], predict: Callable[[SliceStore, str], np.ndarray]
) -> list[dict[str, Any]]:
    """Return person, plane and scores of each patient's images."""
    frame = score_patients(store, patients, Predictions(store, predict)).frame
    people = store.subjects()
    return [
        {"person": people[row["patient"]], "plane": store.plane(row["patient"])} | {name: row[name] for name in SCORES}
        for row in frame.to_dict("records")
    ]


# ------------------------------------------------------------------------------------------------------------ the table


def by_person(images: Sequence[Mapping[str, Any]], score: str, plane: str = "") -> pd.Series:
    """Return a score of each person, the mean over the person's images, of one plane or all."""
    frame = pd.DataFrame(images)
    return frame[frame["plane"] == plane if plane else slice(None)].groupby("person")[score].mean()


def table(study: Study, found: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row of numbers for each row with a result; found: results by row's name and seed.

    The difference to the base is the mean over people of (mean over the seeds that both have). Lists are not part of
    the printed table: seeds_mae_hu for the figure, people_mae_hu (mean over seeds) for other tests.
    """
    rows = []
    for row in study.rows:
        own = {seed: found[row.name, seed] for seed in study.seeds if (row.name, seed) in found}
        if not own:
            continue
        good = {seed: one["images"] for seed, one in own.items() if "images" in one}
        made = {"data": study.data, "case": row.name, "seeds": len(good)} | _numbers(good)
        cost = next((one for one in own.values() if "steps" in one), {})
        made |= {name: cost.get(name) for name in ("cpu_minutes", "steps", "cpu_s_per_step")}
        made |= _against(row, study, good, found)
        problems = [f"seed {seed}: {one['problem']}" for seed, one in own.items() if "problem" in one]
        rows.append(made | ({"problem": "; ".join(problems)} if problems else {}))
    tested = [row for row in rows if row["p_holm"] is not None]
    for row, p in zip(tested, holm(np.array([row["p_holm"] for row in tested])), strict=True):
        row["p_holm"] = float(p)
    return rows


def _numbers(good: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the means over people and seeds, and the SD over seeds of the error."""
    if not good:
        return dict.fromkeys(("mae_axial_hu", "mae_hu", "mae_hu_seeds_sd", *SCORES[1:]))
    axial = [by_person(images, "mae_hu", AXIAL).mean() for images in good.values()]
    every = {name: [float(by_person(images, name).mean()) for images in good.values()] for name in SCORES}
    errors = every["mae_hu"]
    return {
        "mae_axial_hu": float(np.mean(axial)),
        "mae_hu": float(np.mean(errors)),
        "mae_hu_seeds_sd": statistics.stdev(errors) if len(errors) > 1 else None,
        **{name: float(np.mean(every[name])) for name in SCORES[1:]},
        "seeds_mae_hu": errors,
        "people_mae_hu": pd.concat([by_person(images, "mae_hu") for images in good.values()], axis=1)
        .mean(axis=1)
        .tolist(),
    }


def _against(
    row: Row,
    study: Study,
    good: Mapping[int, Sequence[Mapping[str, Any]]],
    found: Mapping[tuple[str, int], Mapping[str, Any]],
) -> dict[str, float | None]:
    """Return the difference to the base, and p before Holm's correction; None without a seed that both have."""
    base = {seed: found.get((study.base.name, seed), {}).get("images") for seed in study.seeds}
    own = good if row.trained else dict.fromkeys(base, next(iter(good.values()), None))
    common = [seed for seed in study.seeds if own.get(seed) and base[seed]]
    if row == study.base or not common:
        return {"mean_difference_hu": None, "p_holm": None}
    gaps = [by_person(own[seed], "mae_hu") - by_person(base[seed], "mae_hu") for seed in common]
    people = pd.concat(gaps, axis=1).mean(axis=1)
    return {"mean_difference_hu": float(people.mean()), "p_holm": float(wilcoxon_paired(people.to_numpy()))}


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in words what helped, what harmed and what made no difference, from the table alone."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == data]
        tested = [row for row in own if row["p_holm"] is not None]
        if not tested:
            continue
        sure = [row for row in tested if row["p_holm"] < LEVEL]
        groups = {
            "Less error": [row["case"] for row in sure if row["mean_difference_hu"] < 0],
            "More error": [row["case"] for row in sure if row["mean_difference_hu"] > 0],
            "No difference found": [row["case"] for row in tested if row not in sure],
        }
        said = [f"{what}: {', '.join(names) or 'none'}." for what, names in groups.items()]
        lines.append(f"**{data}**, against {own[0]['case']} (p below {LEVEL:g} counts). {' '.join(said)}")
    return lines


@style.styled
def figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each row's mean error and its seeds, a panel for each set of people, with the base as a line."""
    panels = list(dict.fromkeys(row["data"] for row in rows))
    shown_rows = {data: [row for row in rows if row["data"] == data and row["mae_hu"] is not None] for data in panels}
    heights = [max(2, len(own)) for own in shown_rows.values()]
    height = 0.7 * len(panels) + 0.8 + 0.19 * sum(heights)
    drawn = style.new_figure(style.PAGE_IN, height, title="What matters in MK7", label="ablation")
    axes = drawn.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (data, own) in zip(axes, shown_rows.items(), strict=True):
        for place, row in enumerate(own):
            colour = style.PALETTE["vermilion" if place == 0 else "blue"]
            seeds = row["seeds_mae_hu"]
            panel.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=3, alpha=0.6)
            panel.plot(row["mae_hu"], place, "|", color=colour, markersize=9)
        if own:
            panel.axvline(own[0]["mae_hu"], color=style.PALETTE["vermilion"], linewidth=0.7, zorder=0)
        panel.set_yticks(range(len(own)), [row["case"] for row in own])
        count = max((len(row.get("people_mae_hu") or ()) for row in own), default=0)
        panel.set_title(textwrap.fill(f"{data}; n = {count}" if count else data, 100), fontsize=8)
        panel.set(xlabel="mean absolute error in the mask (HU)", ylim=(max(2, len(own)) - 0.5, -0.5))
        panel.grid(axis="x")
    names = {"one seed": "o", "mean over seeds": "|"}
    look = {"color": style.INK, "linestyle": "none"}
    handles = [Line2D([], [], marker=marker, markersize=5, label=name, **look) for name, marker in names.items()]
    handles.append(Line2D([], [], color=style.PALETTE["vermilion"], linewidth=0.7, label="reference"))
    drawn.legend(handles=handles, loc="outside lower center", ncols=3)
    return drawn


# -------------------------------------------------------------------------------------------------------------- the run


def samples() -> list[Path]:
    """Return the sample folders of real middle slices, one for each plane."""
    return [folder for plane in PLANES if (folder := SAMPLES / f"synthrad_brain_{plane}").is_dir()]


def missing() -> str:
    """Return why the benchmark cannot run without --data; "" if it can."""
    return "" if samples() else f"no real slices in {shown(SAMPLES)}; give --data FOLDER, or {HOW_TO_GET}"


def studies(quick: bool, data: Sequence[Path], minutes: float, precision: str) -> list[Study]:
    """Return the references on real slices, slab and planes on phantoms, and the changes on real slices."""
    seeds = SEEDS[:1] if quick else SEEDS
    large, small = REAL, PHANTOMS
    if quick:
        large, small = (dataclasses.replace(profile, epochs_max=1) for profile in (large, small))
        small = dataclasses.replace(small, name=f"{small.name}_quick", phantom_patients_per_centre=3)
    heads = "real heads" if not data else ", ".join(folder.name for folder in data)
    places = workspace(large.name, data or samples()), workspace(small.name)
    parts = (
        (heads, large, places[0], REFERENCES, minutes),
        ("phantoms", small, places[1], PHANTOM_ROWS, minutes * SHARE),
        (heads, large, places[0], ROWS, minutes * SHARE),
    )
    found = []
    for what, profile, place, rows, each in parts:
        chosen = tuple(row for row in rows if not quick or row.name in QUICK)
        said = f"{what}, {each:g} CPU minutes"
        found.append(Study(said, profile, place, chosen, seeds, each, precision))
    return found


def run(
    quick: bool = False,
    data: Sequence[Path] = (),
    minutes: float | None = None,
    work: Path | None = None,
    precision: str = "native",
) -> Iterator[list[dict[str, Any]]]:
    """Yield the table after each finished row and seed, as far as it is known.

    data: folders of single slices; equal ids are one person. minutes: CPU time of each training. work: folder for
    slices, checkpoints and scores instead of the suite's own. One training runs on each CPU of this process.
    """
    if work:
        os.environ |= {name: str(work.resolve() / name.removeprefix("MRICT_").lower()) for name in FOLDERS}
    if minutes is None:
        minutes = 1.0 if quick else MINUTES
    if not minutes > 0:
        raise MrictError(f"--minutes {minutes:g}: expected CPU time above 0")
    every = studies(quick, data, minutes, precision)
    for study in every:
        store = study.prepare()
        split = load_split(study.space.split_file)
        people = [len({store.subjects()[p] for p in part}) for part in (split.train, split.val, split.test)]
        print(f"{study.data}: {people[0]} people to train, {people[1]} to validate, {people[2]} kept out", flush=True)
        study.measure()
    found: dict[str, dict[tuple[str, int], dict[str, Any]]] = {study.data: {} for study in every}
    context = get_context("spawn")
    with ProcessPoolExecutor(cpu_count(), mp_context=context, initializer=end_with_parent) as pool:
        jobs = {pool.submit(results, study, rows, seed): (study, seed) for study in every for rows, seed in study.jobs}
        for job in as_completed(jobs):
            study, seed = jobs[job]
            found[study.data] |= {(name, seed): one for name, one in job.result().items()}
            print(f"{study.data}: {', '.join(job.result())}, seed {seed}: done", flush=True)
            yield [row for one in every for row in table(one, found[one.data])]
