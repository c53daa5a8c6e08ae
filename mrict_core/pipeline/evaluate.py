"""From trained variants to records: held-out scores, baselines, controls."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mrict_core.data.cache.store import SliceStore
from mrict_core.data.splits import Split
from mrict_core.data.subjects import people_of
from mrict_core.errors import MrictError
from mrict_core.evaluation import (
    Predictions,
    StoredPredictions,
    baseline_predictions,
    combine_seeds,
    is_current,
    metrics_record,
    read_metrics,
    read_record,
    score_patients,
    seeds_of,
    write_metrics,
)
from mrict_core.evaluation.conformal import fitted_factors
from mrict_core.evaluation.controls import control_predictions
from mrict_core.evaluation.ensembles import is_mean, mean_context, mean_name, mean_predictions, members_of
from mrict_core.evaluation.sample_scores import sample_scores
from mrict_core.evaluation.samples import sample_rows
from mrict_core.experiments import Experiment, get
from mrict_core.experiments.profiles import Profile
from mrict_core.files import code_hash, hash_of
from mrict_core.inference import Later, Synthesizer, make_synthesizer
from mrict_core.legacy.protocol import Translation, control_translation, predecessor_validation, synthesizer_translation
from mrict_core.machine import pick_device, versions
from mrict_core.metrics.feature_distances import FeatureCollector
from mrict_core.modalities import MR
from mrict_core.models.folder import facts_and_weights
from mrict_core.models.publish import publish
from mrict_core.networks import build_features
from mrict_core.paths import SUITE_COMMAND, Workspace, shown, some
from mrict_core.pipeline.preparation import CountProgress, open_data
from mrict_core.training.checkpoint import check_key, read_checkpoint
from mrict_core.training.run import fid_features
from mrict_core.training.runs import Report, TrainingRun, budget, choose, in_training, of_record

CODE = ("hu", "data", "metrics", "evaluation", "networks", "methods", "inference", "pipeline")  # decide the scores
AGAIN = "its models were scored again since; evaluate --mean again"
NETWORKS = {  # of the feature metrics: role => (name, options)
    "inception": ("inception_fid", {}),
    "lpips": ("lpips_squeeze", {}),
    "vgg": ("vgg16_relu3_3", {"imagenet_normalisation": True}),
}


@dataclass(frozen=True)
class _Bench:
    """What all scores of a workspace share. `networks`: of the feature metrics, or the error why one is absent."""

    profile: Profile
    space: Workspace
    store: SliceStore
    split: Split
    device: Any
    networks: dict[str, Any]
    progress: CountProgress | None

    @classmethod
    def of(cls, profile: Profile, space: Workspace, device: str, progress: CountProgress | None) -> _Bench:
        chosen = pick_device(device)
        networks = {role: _network(name, profile, chosen, **options) for role, (name, options) in NETWORKS.items()}
        return cls(profile, space, *open_data(space), chosen, networks, progress)

    def record(
        self,
        name: str,
        kind: str,
        predictions: Predictions,
        *,
        translation: Translation | None = None,
        more: Mapping[str, Any] | None = None,
        entries: Callable[[], Mapping[str, Any]] = dict,
        folder: Path | None = None,
        stem: str = "",
    ) -> dict[str, Any]:
        """Score `predictions` on the test patients, write the record to `folder` and return it.

        A record of the same predictions, data, networks and code is reused. `translation`: for the predecessor's
        numbers. `more`: further context of the record. `entries`: returns further entries of it.
        """
        folder, stem, context = folder or self.space.metrics, stem or name, self._context() | dict(more or {})
        looks = {role: getattr(network, "weights_hash", str(network)) for role, network in self.networks.items()}
        key = hash_of([context, looks, code_hash(*CODE)])
        for patient in self.split.test:
            self.store.check_unchanged(patient)
        if found := _same(folder, stem, key):
            return found
        features = FeatureCollector(self.networks, self.device)
        scores = score_patients(self.store, self.split.test, predictions, self.progress, features)
        own: dict[str, Any] = {"features": [score.as_dict() for score in features.scores()]}
        own |= entries()
        if translation:
            own["predecessor"] = self._predecessor(translation)
        context |= {"key": key, "code_hash": code_hash(), "versions": versions()}
        record = metrics_record(name, scores, kind=kind, label=self.profile.label, context=context, more=own)
        write_metrics(folder, record, stem)
        return record

    def _context(self) -> dict[str, Any]:
        store, split = self.store, self.split
        return {
            "profile": self.profile.name,
            "data": self.space.data_name,
            "region": store.region,
            **({"input": store.modality.word} if store.modality != MR else {}),
            "protocol": store.protocol,
            "canvas_px": store.size,
            "split": split.kind,
            "split_hash": split.hash,
            "store_key": store.key,
            "test_data_hash": hash_of({p: store.meta(p)["sources"]["ct"]["hash"] for p in split.test}),
            "train_patients": len(set(people_of(split.train))),
            "val_patients": len(set(people_of(split.val))),
            "test_patients": len(set(people_of(split.test))),
        }

    def _predecessor(self, translation: Translation) -> dict[str, Any]:
        """Return the predecessor's four numbers by its own procedure; the demo uses its own feature network.

        The procedure flips and rotates the network's input, so stored predictions cannot be used.
        """

        def features(name: str, wrap: Callable = lambda network: network) -> Any:
            found = _network(self.profile.feature_network or name, self.profile, self.device)
            return found if isinstance(found, MrictError) else (found.name, wrap(found))

        networks = {"fid": features("inception_fid", fid_features), "vgg": features("vgg16_relu3_3")}
        return predecessor_validation(self.store, self.split.test, translation, seed=0, device=self.device, **networks)


def _same(folder: Path, stem: str, key: str) -> dict[str, Any] | None:
    """Return the existing record if its key is `key`; a damaged record counts as absent."""
    with contextlib.suppress(MrictError):
        record = read_record(folder, stem)
        if record and is_current(record) and record["context"].get("key") == key:
            return record
    return None


def evaluate_variant(
    variant: Experiment,
    profile: Profile,
    space: Workspace,
    *,
    seeds: Sequence[int] = (),
    like: TrainingRun | None = None,
    device: str = "auto",
    progress: CountProgress | None = None,
    report: Report = print,
) -> tuple[dict, Predictions]:
    """Score the variant's best checkpoints on the test patients; return the record and the first seed's predictions.

    Every finished training on these data is scored, one per seed; see `training.runs.choose` for `seeds` and `like`.
    A test patient is synthesised once as long as weights, slices and code do not change. Each training has its own
    record in metrics/seeds; the variant's record combines them (`combine_seeds`). A finished training of the whole
    workspace is also published as a model, with exactly the weights that were scored; a fold's is not, because it has
    not seen one centre. `report` gets a line for what is published, unfinished, left out or in training.
    """
    bench = _Bench.of(profile, space, device, progress)
    chosen = choose(space, variant.name, (bench.store.key, bench.split.hash), seeds=seeds, like=like)
    for line in chosen.left_out:
        report(f"{variant.name}: {line}")
    scored = [_evaluate_run(bench, run, variant, report) for run in chosen.runs]
    record = combine_seeds([own for own, _ in scored])
    write_metrics(space.metrics, record)
    return record, scored[0][1]


def _evaluate_run(bench: _Bench, run: TrainingRun, variant: Experiment, report: Report) -> tuple[dict, Predictions]:
    """Score one training. The checkpoint is read once: the scored weights are the ones hashed and published."""
    store, split, space = bench.store, bench.split, bench.space
    payload, checkpoint_hash = read_checkpoint(run.best, variant.name)
    check_key(payload, run.id, run.best)
    facts, networks = facts_and_weights(payload, run.best)
    facts = dataclasses.replace(facts, complete=run.complete, stopped=run.stopped)  # best.pt is older than the end
    if (facts.store_key, facts.split_hash) != (store.key, split.hash):
        raise MrictError(
            f"{shown(run.best)}: trained on slices {facts.store_key}, split {facts.split_hash}; {shown(run.folder)} "
            f"says otherwise, so test patients may have been trained on; train {variant.name} again"
        )
    if not facts.epoch:
        raise MrictError(f"{shown(run.best)}: an untrained network (epoch 0); train {variant.name} to its end")
    synthesizer = make_synthesizer(facts, networks, run.best, str(bench.device))
    unfinished = "" if run.complete else f"training not finished: epoch {run.epoch} of {run.epochs}"
    now = " (in training now)" if in_training(run) else ""
    if unfinished or run.stopped:
        report(f"{variant.name}: {shown(run.folder)}: {unfinished or run.stopped}{now}")
    if unfinished:
        report(f"{variant.name}: scored after epoch {facts.epoch}, not published")
    context = {
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
    if length := budget(run.trained):
        context["budget"] = length
    if synthesizer.own_code:
        context["own_code"] = synthesizer.own_code
    predictions = StoredPredictions(store, synthesizer, run.predictions, checkpoint_hash, report)
    entries: Callable[[], Mapping[str, Any]] = dict
    if synthesizer.method.draws:
        factors, line = fitted_factors(store, split.val, predictions)
        report(f"{variant.name}: {line}")
        facts = dataclasses.replace(facts, calibration=factors)
        predictions = dataclasses.replace(predictions, calibration=factors)
        context["sd_factors"] = factors
        entries = partial(sample_scores, synthesizer, store, split.test)
    record = bench.record(
        variant.name,
        "variant",
        predictions,
        translation=synthesizer_translation(synthesizer, store.window),
        more=context,
        entries=entries,
        folder=space.metrics / "seeds",
        stem=f"{variant.name}--seed{facts.seed}",
    )
    if run.complete and not space.fold:
        picture = _sample_picture(bench, predictions, variant.name)
        baseline = _best_baseline(space, record)
        folder, new = publish(space, (store, split), facts, networks, record, baseline, picture)
        report(f"model {variant.name}@{folder.name}{'' if new else ' (already published)'}: {shown(folder)}")
    return record, predictions


def _sample_picture(bench: _Bench, predictions: Predictions, name: str) -> bytes:
    """Return a png of one slice of a held-out patient: MR, synthetic CT, CT, error. It does not name the patient."""
    from mrict_core.reporting import style
    from mrict_core.reporting.images import sample_figure

    row = sample_rows(bench.store, bench.split.test, predictions)[0] | {"name": ""}
    oriented = bench.store.protocol != "predecessor"
    who = "phantom" if bench.space.embedded else "person"
    title = f"{name} makes the synthetic CT of a held-out {who}; data: {bench.space.data_name}."
    figure = sample_figure([row], title=title, label=bench.profile.label, orientation=oriented)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=style.DPI, metadata={"Software": None})
    return picture.getvalue()


def predictions_of(
    space: Workspace, record: Mapping[str, Any], device: str = "auto", report: Report = print
) -> Predictions:
    """Return the synthetic CTs behind a variant's record; with several seeds, those of the first; of a mean, the mean.

    The checkpoint is read only if a patient's file is missing or unusable.
    """
    store = open_data(space)[0]
    if names := members_of(record):
        records = [_member(space, name) for name in names]
        if _outdated(record, {one["name"]: one for one in records}):
            raise MrictError(f"{record['name']}: {AGAIN}")
        return mean_predictions(store, [predictions_of(space, one, device, report) for one in records])
    run = of_record(space, record)
    scored = record["context"].get("checkpoint_hash", "").split(" / ")[0]

    @cache
    def synthesizer() -> Synthesizer:
        payload, found = read_checkpoint(run.best, record["name"])
        if found != scored:
            changed = f"is {found}, but {scored} was scored: training has continued"
            raise MrictError(f"{shown(run.best)}: {changed}; evaluate {record['name']} again")
        return make_synthesizer(*facts_and_weights(payload, run.best), run.best, device)

    several = len(seeds_of(record)) > 1  # their factors are joined as text
    factors = {} if several else record["context"].get("sd_factors") or {}
    return StoredPredictions(store, Later(synthesizer), run.predictions, scored, report, factors)


def evaluate_mean(
    names: Sequence[str],
    profile: Profile,
    space: Workspace,
    *,
    device: str = "auto",
    progress: CountProgress | None = None,
    report: Report = print,
) -> tuple[dict, Predictions]:
    """Score the mean, in HU, of the stored synthetic CTs of scored variants; return the record and the predictions.

    Of several seeds of a variant the first counts. The record is one like a variant's, named mean(A+B); it is not
    published. Raises MrictError for fewer than two variants, one given twice, and one not scored on these data.
    """
    names = [name.strip() for name in names]
    if means := [name for name in names if is_mean(name)]:
        raise MrictError(f"{means[0]}: a mean itself; expected single models; name its models instead")
    names = [get(name).name for name in names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MrictError(f"{twice[0]}: given twice; expected different models; give each once")
    if len(names) < 2:
        raise MrictError(f"a mean of {some(names, 1) or 'no model'}: expected two models or more, separated by commas")
    records = [_member(space, name) for name in names]
    members = [predictions_of(space, record, device, report) for record in records]
    bench = _Bench.of(profile, space, device, progress)
    predictions = mean_predictions(bench.store, members)
    return bench.record(mean_name(names), "variant", predictions, more=mean_context(records)), predictions


def _member(space: Workspace, name: str) -> dict[str, Any]:
    """Return the record of a variant scored on the workspace's data; raises MrictError without one."""
    records, missing = current_records(space)
    if found := [record for record in records if record["name"] == name]:
        return found[0]
    why = missing.get(name, "not evaluated")
    raise MrictError(f"{name}: {why}; expected its scores on these data; run evaluate {name} first")


def _best_baseline(space: Workspace, record: dict) -> dict[str, Any] | None:
    """Return name and MAE of the best trivial baseline on the record's patients; None if none was scored."""
    found = [read_record(space.metrics, path.stem) for path in sorted(space.metrics.glob("baseline_*.json"))]
    same = [r for r in found if all(r["context"].get(k) == record["context"][k] for k in ("store_key", "split_hash"))]
    scored = [(r["summary"]["all"]["mae_hu"]["mean"], r["name"]) for r in same]
    best = min((pair for pair in scored if pair[0] is not None), default=None)
    return {"name": best[1], "mae_hu": best[0]} if best else None


def _network(name: str, profile: Profile, device: Any, **options: Any) -> Any:
    """Return a feature network on `device`, or the error why it is not available.

    Only profiles that train with pretrained weights download them; the others use what is on this machine.
    """
    try:
        return build_features(name, download=profile.feature_network is None, **options).to(device)
    except MrictError as error:
        return error


def evaluate_baselines(profile: Profile, space: Workspace, progress: CountProgress | None = None) -> list[dict]:
    """Score the trivial baselines on the test patients; records that are up to date are reused."""
    bench = _Bench.of(profile, space, "cpu", progress)
    predictions = baseline_predictions(bench.store, bench.split.train)
    return [bench.record(name, "baseline", own) for name, own in predictions.items()]


def evaluate_controls(profile: Profile, space: Workspace, progress: CountProgress | None = None) -> list[dict]:
    """Score the control images (black, copy of the MR, bias, shift); records that are up to date are reused.

    Controls show what a metric does not see. Some are made from the true CT, so none is ever ranked.
    """
    bench = _Bench.of(profile, space, "cpu", progress)
    return [
        bench.record(name, "control", own, translation=control_translation(name, bench.store.window))
        for name, own in control_predictions(bench.store).items()
    ]


def current_records(space: Workspace, names: str = "") -> tuple[list[dict], dict[str, str]]:
    """Return the records of the workspace's data and split, and {name: why} for the missing ones.

    names: variants separated by commas; "" takes all records. A record of other data is not used, nor the mean of
    models that were scored again since.
    """
    store, split = open_data(space)
    given = [name.strip() for name in names.split(",") if name.strip()]
    wanted = [name if is_mean(name) else get(name).name for name in given]
    found = {r["name"]: r for r in read_metrics(space.metrics) if r["kind"] == "variant"}
    records, missing = [], {}
    for name in wanted or list(found):
        record = found.get(name)
        if record is None:
            missing[name] = "not evaluated"
        elif (record["context"]["store_key"], record["context"]["split_hash"]) != (store.key, split.hash):
            missing[name] = "evaluated on other data or another split; evaluate it again"
        elif _outdated(record, found):
            missing[name] = AGAIN
        else:
            records.append(record)
    if not records:
        raise MrictError(
            f"{shown(space.metrics)}: no results of these data; expected an evaluated variant; run {SUITE_COMMAND}, or "
            "python -m mrict_core train NAME and evaluate NAME, with the same --data and --profile"
        )
    return records, missing


def _outdated(record: Mapping[str, Any], scored: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a record is of the mean of models that were scored again since; `scored`: records by name."""
    names = members_of(record)
    if not names:
        return False
    known = [scored[name] for name in names if name in scored]
    return mean_context(known)["checkpoint_hash"] != record["context"]["checkpoint_hash"]


def compare_on_samples(
    space: Workspace, names: list[str], device: str = "auto"
) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Return the slices shown in figures, each with every variant's synthetic CT, {name: (S, S) HU}."""
    store, split = open_data(space)
    result = [(row, {}) for row in sample_rows(store, split.test)]
    for name in names:
        predictions = predictions_of(space, read_record(space.metrics, name), device)
        for (_, scts), own in zip(result, sample_rows(store, split.test, predictions), strict=True):
            scts[name] = own["sct"]
    return result
