"""The steps of the suite, as the notebooks and the command line call them: one implementation for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrict_core.data.phantom import PhantomSpec, write_cohort
from mrict_core.data.preprocess import in_plane_shapes, preprocess
from mrict_core.data.splits import (
    PREDECESSOR_KIND,
    PREDECESSOR_SEED,
    PREDECESSOR_SETS,
    Split,
    is_own,
    load_split,
    make_split,
    predecessor_split,
    save_split,
)
from mrict_core.data.store import INDEX, SliceStore, remove_patient
from mrict_core.data.synthrad import Discovery, discover
from mrict_core.errors import MrictError, unknown_name
from mrict_core.evaluation import (
    baseline_predictors,
    metrics_record,
    read_metrics,
    read_record,
    score_patients,
    write_metrics,
)
from mrict_core.evaluation.samples import sample_rows
from mrict_core.inference import Synthesizer, load_synthesizer
from mrict_core.paths import Workspace, shown, workspace
from mrict_core.profiles import Profile, get_profile
from mrict_core.runtime import code_hash, hash_file, hash_of, versions
from mrict_core.training.checkpoint import checkpoint_path, load_checkpoint
from mrict_core.training.loop import Progress, Report, TrainResult, train
from mrict_core.training.run import TrainSettings
from mrict_core.variant import Variant
from mrict_core.variants import get, lineage

PATIENTS_MIN = 3  # one each to train, validate and test
CountProgress = Callable[[int, int, str], None]  # done, total, name


@dataclass(frozen=True)
class Prepared:
    """What preparing the data gave. `split` is None where `problem` says why no split can be made."""

    workspace: Workspace
    profile: Profile
    discovery: Discovery
    store: SliceStore
    split: Split | None
    problem: str


def make_phantoms(space: Workspace, profile: Profile, seed: int, progress: CountProgress | None = None) -> None:
    """Write the embedded patients of a profile as NIfTI in SynthRAD layout, unless they are there already."""
    region = space.region
    if region not in profile.phantom_in_plane_mm:
        raise unknown_name("region", region, profile.phantom_in_plane_mm)
    spec = PhantomSpec(
        region=region,
        in_plane_mm=profile.phantom_in_plane_mm[region],
        slice_mm=profile.phantom_slice_mm,
        supersample=profile.phantom_supersample,
    )
    write_cohort(space.data_dir, region, profile.phantom_patients_per_centre, seed, spec, progress=progress)


def prepare_data(
    profile_name: str = "demo",
    data_dir: str = "",
    region: str = "brain",
    protocol: str = "patient",
    *,
    seed: int = 42,
    split_kind: str = "stratified",
    strict: bool = False,
    force: bool = False,
    progress: CountProgress | None = None,
    report: Report = print,
) -> Prepared:
    """Find (or make) the patients, preprocess them into the slice store and split them by patient.

    What is there already and unchanged is kept; `force` prepares every patient again. Too few patients for a split is
    not fatal here: the tables and figures of the data can still be made; training then says what is missing.
    """
    profile, space = get_profile(profile_name), workspace(profile_name, data_dir, region, protocol)
    if space.embedded:
        make_phantoms(space, profile, seed, progress)
    discovery = discover(space.data_dir, region, strict=strict)
    if force and (space.store / INDEX).is_file():
        for patient in SliceStore(space.store).patients:
            remove_patient(space.store, patient)  # derived data: made again from the patients' files
        (space.store / INDEX).unlink()
    size = profile.canvas(in_plane_shapes(discovery, protocol))
    store = preprocess(
        space.data_dir, space.store, region=region, protocol=protocol, size=size, strict=strict, progress=progress
    )
    for patient, share in store.cropped().items():
        report(
            f"{patient}: the canvas of {store.size} px cuts off {share:.0%} of its mask; a larger profile holds more"
        )
    split, problem = None, ""
    if len(store.patients) >= PATIENTS_MIN:
        split = split_store(store, space, seed, split_kind, report)
    else:
        problem = f"{len(store.patients)} usable patient(s) of {PATIENTS_MIN} needed to train, validate and test"
        if space.split_file.is_file() and not is_own(space.split_file):
            space.split_file.unlink()
    return Prepared(space, profile, discovery, store, split, problem)


def split_store(store: SliceStore, space: Workspace, seed: int, kind: str, report: Report = print) -> Split:
    """Make and save the split of a store; say so when it replaces another one.

    A split file without a hash line is the user's own and is kept. A store of protocol `predecessor` gets the
    predecessor's split: its lists of 36 or 10 patients where they are all there, else its rule; train and validation
    slices then come from the same patients, as they did.
    """
    before = load_split(space.split_file) if space.split_file.is_file() else None
    if before is not None and is_own(space.split_file):
        missing = sorted({*before.train, *before.val, *before.test} - set(store.patients))
        if missing:
            raise MrictError(
                f"{shown(space.split_file)}: patients {', '.join(missing)} are not among the usable ones; remove them "
                "from your split, or delete the file"
            )
        report(f"split: your own of {shown(space.split_file)} is kept")
        return before
    if store.protocol == "predecessor":
        counts = store.counts()
        which = next((w for w, ids in PREDECESSOR_SETS.items() if set(ids) <= set(counts)), "any")
        old = predecessor_split(counts, which)
        train_ids, test_ids = tuple(sorted(old.learning)), tuple(sorted(old.test))
        split = Split(train=train_ids, val=(), test=test_ids, kind=PREDECESSOR_KIND + which, seed=PREDECESSOR_SEED)
    else:
        split = make_split({p: store.centre(p) for p in store.patients}, seed, kind)
    if before is not None and before.hash != split.hash:
        report(f"split {before.kind} (seed {before.seed}) replaced by {kind} (seed {seed}); train and evaluate again")
    save_split(space.split_file, split)
    return split


def open_data(space: Workspace, seed: int = 42) -> tuple[SliceStore, Split]:
    """Return store and split of a workspace that notebook 00 (or `preprocess`) has prepared.

    The embedded phantoms are prepared here where they are not there yet, so that every notebook runs alone.
    """
    if space.embedded and not (space.store / INDEX).is_file():
        prepare_data(space.profile, "", space.region, space.protocol, seed=seed)
    if not (space.store / INDEX).is_file():
        raise MrictError(
            f"{shown(space.store)}: no slices yet; run notebook 00_preprocess_and_mask or "
            "python -m mrict_core preprocess"
        )
    store = SliceStore(space.store)
    if not space.split_file.is_file():
        raise MrictError(
            f"{shown(space.split_file)}: no split: {len(store.patients)} usable patient(s) in {shown(space.data_dir)}, "
            f"at least {PATIENTS_MIN} are needed to train, validate and test; add patients"
        )
    return store, load_split(space.split_file)


def train_variant(
    variant: Variant,
    profile: Profile,
    space: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    ancestors: bool = False,
    force: bool = False,
    report: Report = print,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one variant; with `ancestors` first those whose weights it starts from, oldest first.

    Ancestors that are complete and unchanged are reused; `force` repeats the variant itself alone.
    """
    if ancestors:
        for parent in lineage(variant.name)[:-1]:
            train(parent, profile, space, settings, report=report, progress=progress)
    return train(variant, profile, space, settings, report=report, progress=progress, force=force)


def _context(profile: Profile, space: Workspace, store: SliceStore, split: Split) -> dict:
    return {
        "profile": profile.name,
        "data": "embedded phantoms" if space.embedded else space.data_dir.name,
        "region": store.region,
        "protocol": store.protocol,
        "canvas_px": store.size,
        "split": split.kind,
        "split_hash": split.hash,
        "store_key": store.key,
        "train_patients": len(split.train),
        "val_patients": len(split.val),
        "test_patients": len(split.test),
        "code_hash": code_hash(),
        "versions": versions(),
    }


def evaluate_variant(
    variant: Variant, profile: Profile, space: Workspace, *, device: str = "auto", progress: CountProgress | None = None
) -> tuple[dict, Synthesizer]:
    """Score the variant's best checkpoint on the held-out test patients; write json and csv; return both."""
    store, split = open_data(space)
    path = checkpoint_path(space, variant.name, "best")
    synthesizer = load_synthesizer(path, expect_variant=variant.name, device=device)
    facts = synthesizer.facts
    if facts["split_hash"] != split.hash:
        raise MrictError(
            f"{shown(path)}: trained on split {facts['split_hash']}, the data now have split {split.hash}; "
            f"its test patients may have been trained on; train {variant.name} again"
        )
    if facts["store_key"] != store.key or facts["profile"]["name"] != profile.name:
        raise MrictError(
            f"{shown(path)}: trained with profile {facts['profile']['name']} on slices {facts['store_key']}, asked for "
            f"are profile {profile.name} and slices {store.key} (data, settings or code changed); "
            f"train {variant.name} again"
        )
    final = load_checkpoint(checkpoint_path(space, variant.name, "last"), variant.name)  # epochs done, why it stopped
    unfinished = f"training not finished: epoch {final['epoch']} of {final['epochs']}"
    context = _context(profile, space, store, split) | {
        "checkpoint_hash": hash_file(path),
        "checkpoint_epoch": facts["epoch"],
        "epochs": final["epoch"],
        "stopped": final["stopped"] or ("" if final["complete"] else unfinished),
        "feature_network": facts["features"]["name"] if facts["features"] else "none",
        "feature_hash": facts["features"]["hash"] if facts["features"] else "",
        "parent": facts["parent"],
        "training_pairs": facts["training_pairs"],
        "seed": facts["seed"],
    }
    frame = score_patients(store, split.test, synthesizer, progress=progress)
    record = metrics_record(variant.name, frame, kind="variant", label=profile.label, context=context)
    write_metrics(space.metrics, record)
    return record, synthesizer


def evaluate_baselines(profile: Profile, space: Workspace, progress: CountProgress | None = None) -> list[dict]:
    """Score the trivial baselines on the test patients, or return the records when they are there and unchanged."""
    store, split = open_data(space)
    key = hash_of([store.key, split.hash, code_hash("data", "metrics", "evaluation")])
    records = []
    for name, predict in baseline_predictors(store, split.train).items():
        record = read_record(space.metrics, name)
        if record is None or record["context"].get("key") != key:
            frame = score_patients(store, split.test, predict, progress=progress)
            context = _context(profile, space, store, split) | {"key": key}
            record = metrics_record(name, frame, kind="baseline", label=profile.label, context=context)
            write_metrics(space.metrics, record)
        records.append(record)
    return records


def current_records(space: Workspace, names: str = "") -> tuple[list[dict], dict[str, str]]:
    """Return the records that belong to the workspace's store and split, and {name: why} of those that are missing.

    names: variants separated by commas; "" takes every record there is. A record of other data is not used.
    """
    store, split = open_data(space)
    wanted = [get(name.strip()).name for name in names.split(",") if name.strip()]
    found = {r["name"]: r for r in read_metrics(space.metrics) if r["kind"] == "variant"}
    records, missing = [], {}
    for name in wanted or list(found):
        record = found.get(name)
        if record is None:
            missing[name] = "not evaluated"
        elif (record["context"]["store_key"], record["context"]["split_hash"]) != (store.key, split.hash):
            missing[name] = "evaluated on other data or another split; evaluate it again"
        else:
            records.append(record)
    if not records:
        raise MrictError(f"{shown(space.metrics)}: no variant was evaluated on these data; run notebooks 01-05 first")
    return records, missing


def compare_on_samples(
    space: Workspace, names: list[str], device: str = "auto"
) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Return the figure slices of the test patients, each with every variant's synthetic CT, {name: (S, S) HU}."""
    store, split = open_data(space)
    result = [(row, {}) for row in sample_rows(store, split.test)]
    for name in names:
        synthesizer = load_synthesizer(checkpoint_path(space, name, "best"), name, device)
        for (_, scts), own in zip(result, sample_rows(store, split.test, synthesizer), strict=True):
            scts[name] = own["sct"]
    return result
