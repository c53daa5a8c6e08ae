"""Leave one centre out: train without a centre, then score on it, to see how a model does at an unseen hospital."""

from __future__ import annotations

import pandas as pd

from mrict_core import metrics
from mrict_core.data.splits import LEAVE_OUT, make_split
from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment, lineage
from mrict_core.experiments.profiles import Profile
from mrict_core.files import read_csv, write_csv
from mrict_core.paths import Workspace, shown
from mrict_core.pipeline.evaluate import evaluate_baselines, evaluate_variant
from mrict_core.pipeline.preparation import open_data, train_variant, write_split
from mrict_core.training.loop import Report
from mrict_core.training.progress import Progress, automatic
from mrict_core.training.run import TrainSettings

FOLDS_FILE = "leave_one_centre_out.csv"
COLUMNS = ("name", "left_out", "n", "mean_hu", "low_hu", "high_hu", "best_baseline_hu", "beats_baselines")


def leave_one_centre_out(
    variant: Experiment,
    profile: Profile,
    space: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    report: Report = print,
    progress: Progress = automatic,
) -> pd.DataFrame:
    """For every centre, train `variant` (and its ancestors) without that centre and score it there.

    Returns one row per centre and writes reports/leave_one_centre_out.csv. Checkpoints and scores of the folds are in
    folders of their own, named after the workspace and `leave_out_<centre>`; unchanged ones are reused.
    """
    store, split = open_data(space, settings.seed)
    centres = {patient: store.centre(patient) for patient in store.patients}
    if len(set(centres.values())) < 2:
        raise MrictError(
            f"leaving one centre out needs two centres; the data have only {', '.join(set(centres.values()))}"
        )
    rows, ancestors = [], lineage(variant)[:-1]
    for centre in sorted(set(centres.values())):
        kind = LEAVE_OUT + centre
        fold = space.of_fold(kind)
        write_split(fold, make_split(centres, split.seed, kind, subjects=store.subjects()))
        result = train_variant(variant, profile, fold, settings, ancestors=ancestors, report=report, progress=progress)
        record, _ = evaluate_variant(
            variant, profile, fold, seeds=[settings.seed], like=result.run, device=settings.device, report=report
        )
        baselines = [b["summary"]["all"]["mae_hu"]["mean"] for b in evaluate_baselines(profile, fold)]
        mae = record["summary"]["all"]["mae_hu"]
        row = {"name": variant.name, "left_out": centre, "n": mae["n"], "mean_hu": mae["mean"]}
        row |= {"low_hu": mae["low"], "high_hu": mae["high"], "best_baseline_hu": min(baselines)}
        rows.append(row | {"beats_baselines": mae["mean"] < min(baselines)})
        mean = metrics.metric("mae_hu").text(mae["mean"])
        report(f"{variant.name} without centre {centre}: MAE {mean} HU on its {mae['n']} patients")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    before = read_folds(space)
    others = before[before["name"] != variant.name]
    write_csv(space.reports / FOLDS_FILE, pd.concat([others, frame], ignore_index=True))
    return frame


def read_folds(space: Workspace) -> pd.DataFrame:
    """Return the table of the folds that were run; empty if none was."""
    path = space.reports / FOLDS_FILE
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        return read_csv(path)[list(COLUMNS)]
    except (KeyError, ValueError):
        raise MrictError(
            f"{shown(path)}: not a table of left-out centres; delete it and run leave-one-centre-out again"
        ) from None
