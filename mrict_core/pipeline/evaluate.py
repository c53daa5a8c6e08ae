"""From trained variants to records: held-out scores, baselines, controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mrict_core.data.splits import Split
from mrict_core.data.store import SliceStore
from mrict_core.errors import MrictError
from mrict_core.evaluation import (
    Predict,
    baseline_predictors,
    combine_seeds,
    is_current,
    metrics_record,
    read_metrics,
    read_record,
    score_patients,
    write_metrics,
)
from mrict_core.evaluation.controls import control_predictors, control_translation
from mrict_core.evaluation.predecessor import predecessor_validation, synthesizer_translation
from mrict_core.evaluation.samples import sample_rows
from mrict_core.experiments import Experiment, get
from mrict_core.experiments.profiles import Profile
from mrict_core.inference import Synthesizer, load_synthesizer, make_synthesizer
from mrict_core.metrics.features import FeatureCollector
from mrict_core.models.folder import facts_and_weights
from mrict_core.models.publish import publish
from mrict_core.networks import build_features
from mrict_core.paths import Workspace, shown
from mrict_core.pipeline.prepare import CountProgress, open_data
from mrict_core.runtime import code_hash, hash_of, pick_device, versions
from mrict_core.training.checkpoint import check_key, read_checkpoint
from mrict_core.training.run import fid_features
from mrict_core.training.runs import TrainingRun, choose, in_training, of_record


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
        "test_data_hash": hash_of({p: store.meta(p)["sources"]["ct"]["hash"] for p in split.test}),
        "train_patients": len(split.train),
        "val_patients": len(split.val),
        "test_patients": len(split.test),
        "code_hash": code_hash(),
        "versions": versions(),
    }


def evaluate_variant(
    variant: Experiment,
    profile: Profile,
    space: Workspace,
    *,
    seeds: Sequence[int] = (),
    like: TrainingRun | None = None,
    device: str = "auto",
    progress: CountProgress | None = None,
    report: Callable[[str], None] = print,
) -> tuple[dict, Synthesizer]:
    """Score the variant's best checkpoints on the held-out test patients; return the record and the first seed's model.

    Scored are the finished trainings on these data, one per seed; see `training.runs.choose` for `seeds` and `like`.
    Each has its own record in metrics/seeds, and that of the variant is of all of them (`combine_seeds`). A finished
    training of the whole workspace is also published as a model, of the very weights that were scored; those of a fold
    are not, for each lacks a centre. `report` hears of what is published, unfinished, left out or in training.
    """
    store, split = open_data(space)
    chosen = choose(space, variant.name, (store.key, split.hash), seeds=seeds, like=like)
    for line in chosen.left_out:
        report(f"{variant.name}: {line}")
    scored = [
        _evaluate_run(run, variant, profile, space, (store, split), device, progress, report) for run in chosen.runs
    ]
    record = combine_seeds([own for own, _ in scored])
    write_metrics(space.metrics, record)
    return record, scored[0][1]


def _evaluate_run(
    run: TrainingRun,
    variant: Experiment,
    profile: Profile,
    space: Workspace,
    data: tuple[SliceStore, Split],
    device: str,
    progress: CountProgress | None,
    report: Callable[[str], None],
) -> tuple[dict, Synthesizer]:
    """Score one training. Its checkpoint is read once: what is scored is what is hashed and published."""
    store, split = data
    payload, checkpoint_hash = read_checkpoint(run.best, variant.name)
    check_key(payload, run.id, run.best)
    facts, networks = facts_and_weights(payload, run.best)
    facts = dataclasses.replace(facts, complete=run.complete, stopped=run.stopped)  # best.pt is older than the end
    if (facts.store_key, facts.split_hash) != (store.key, split.hash):
        raise MrictError(
            f"{shown(run.best)}: trained on slices {facts.store_key}, split {facts.split_hash}, which is not "
            f"what {shown(run.folder)} says; its test patients may have been trained on; train {variant.name} again"
        )
    if not facts.epoch:
        raise MrictError(f"{shown(run.best)}: of epoch 0, an untrained network; train {variant.name} to its end")
    synthesizer = make_synthesizer(facts, networks, run.best, device)
    unfinished = "" if run.complete else f"training not finished: epoch {run.epoch} of {run.epochs}"
    now = " (in training now)" if in_training(run) else ""
    if unfinished or run.stopped:
        report(f"{variant.name}: {shown(run.folder)}: {unfinished or run.stopped}{now}")
    if unfinished:
        report(f"{variant.name}: scored as it is after epoch {facts.epoch}, and not published")
    context = _context(profile, space, store, split) | {
        "run": "" if run.old else run.folder.name,
        "checkpoint_hash": checkpoint_hash,
        "checkpoint_epoch": facts.epoch,
        "epochs": run.epoch,
        "stopped": run.stopped or unfinished,
        "feature_network": (facts.features or {}).get("name", "none"),
        "feature_hash": (facts.features or {}).get("hash", ""),
        "parent": facts.parent,
        "training_pairs": facts.training_pairs,
        "seed": facts.seed,
    }
    features = FeatureCollector(_feature_networks(profile, synthesizer.device), synthesizer.device)
    scores = score_patients(store, split.test, _collecting(synthesizer, features), progress=progress)
    translation = synthesizer_translation(synthesizer, store.window)
    more = {
        "predecessor": _predecessor(profile, store, split.test, translation, synthesizer.device),
        "features": [score.as_dict() for score in features.scores()],
    }
    record = metrics_record(variant.name, scores, kind="variant", label=profile.label, context=context, more=more)
    write_metrics(space.metrics / "seeds", record, f"{variant.name}--seed{facts.seed}")
    if run.complete and not space.fold:
        folder, new = publish(space, data, facts, networks, record, _best_baseline(space, record))
        report(f"model {variant.name}@{folder.name}{'' if new else ' (there already)'}: {shown(folder)}")
    return record, synthesizer


def _best_baseline(space: Workspace, record: dict) -> dict[str, Any] | None:
    """Return name and MAE of the best trivial baseline on the record's patients, None where none was scored."""
    found = [read_record(space.metrics, path.stem) for path in sorted(space.metrics.glob("baseline_*.json"))]
    same = [r for r in found if all(r["context"].get(k) == record["context"][k] for k in ("store_key", "split_hash"))]
    scored = [(r["summary"]["all"]["mae_hu"]["mean"], r["name"]) for r in same]
    best = min((pair for pair in scored if pair[0] is not None), default=None)
    return {"name": best[1], "mae_hu": best[0]} if best else None


def _collecting(predict: Predict, features: FeatureCollector) -> Predict:
    """Return `predict` that also hands every patient's slices to the feature metrics: one pass, one patient held."""

    def run(store: SliceStore, patient: str) -> np.ndarray:
        fake, slices = np.asarray(predict(store, patient), np.float32), store.slices(patient)
        if fake.shape == slices.ct.shape and np.isfinite(fake).all():  # else scoring refuses it, with the reason
            features.add(np.asarray(slices.ct, np.float32), fake, np.asarray(slices.mask) > 0)
        return fake

    return run


def _network(name: str, profile: Profile, device: Any, **options: Any) -> Any:
    """Return a feature network on `device`, or the error that says why it cannot be had.

    Only a profile that needs pretrained weights anyway downloads them; the others use what lies on this machine.
    """
    try:
        return build_features(name, download=profile.feature_network is None, **options).to(device)
    except MrictError as error:
        return error


def _predecessor(profile: Profile, store: SliceStore, patients: Sequence[str], translation: Any, device: Any) -> dict:
    """Return the predecessor's four numbers by its own procedure; the demo looks through its stand-in network."""
    own = profile.feature_network
    networks = [_network(own or name, profile, device) for name in ("inception_fid", "vgg16_relu3_3")]
    fid, vgg = (network if isinstance(network, MrictError) else (network.name, network) for network in networks)
    if not isinstance(fid, MrictError):
        fid = (fid[0], fid_features(fid[1]))
    return predecessor_validation(store, patients, translation, seed=0, fid=fid, vgg=vgg, device=device)


def _feature_networks(profile: Profile, device: Any) -> dict[str, Any]:
    """Return the networks of the feature metrics, or why they are absent."""
    return {
        "inception": _network("inception_fid", profile, device),
        "lpips": _network("lpips_squeeze", profile, device),
        "vgg": _network("vgg16_relu3_3", profile, device, imagenet_normalisation=True),
    }


def evaluate_baselines(profile: Profile, space: Workspace, progress: CountProgress | None = None) -> list[dict]:
    """Score the trivial baselines on the test patients, or return the records when they are there and unchanged."""
    store, split = open_data(space)
    return _evaluate_all("baseline", baseline_predictors(store, split.train), profile, space, progress)


def evaluate_controls(profile: Profile, space: Workspace, progress: CountProgress | None = None) -> list[dict]:
    """Score the control images (black, a copy of the MR, a bias, a shift), or return their unchanged records.

    Controls show what a metric does not see. Some are made from the true CT, so none is ever ranked.
    """
    store, _ = open_data(space)
    return _evaluate_all("control", control_predictors(store), profile, space, progress)


def _evaluate_all(
    kind: str, predictors: dict[str, Predict], profile: Profile, space: Workspace, progress: CountProgress | None
) -> list[dict]:
    store, split = open_data(space)
    key = hash_of([store.key, split.hash, code_hash("data", "metrics", "evaluation", "networks", "pipeline")])
    device, records = pick_device("cpu"), []
    networks = _feature_networks(profile, device)
    for name, predict in predictors.items():
        record = read_record(space.metrics, name)
        if record is None or not is_current(record) or record["context"].get("key") != key:
            features = FeatureCollector(networks, device)
            scores = score_patients(store, split.test, _collecting(predict, features), progress=progress)
            more: dict[str, Any] = {"features": [score.as_dict() for score in features.scores()]}
            if kind == "control":
                translation = control_translation(name, store.window)
                more["predecessor"] = _predecessor(profile, store, split.test, translation, device)
            context = _context(profile, space, store, split) | {"key": key}
            record = metrics_record(name, scores, kind=kind, label=profile.label, context=context, more=more)
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
        elif not is_current(record):
            missing[name] = "evaluated by an earlier version, without some of today's metrics; evaluate it again"
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
        run = of_record(space, read_record(space.metrics, name))
        synthesizer = load_synthesizer(run.best, name, device)
        for (_, scts), own in zip(result, sample_rows(store, split.test, synthesizer), strict=True):
            scts[name] = own["sct"]
    return result
