"""The steps of the suite, as the notebooks and the command line call them: one implementation for both."""

from mrict_core.pipeline.evaluate import (
    compare_on_samples,
    current_records,
    evaluate_baselines,
    evaluate_controls,
    evaluate_mean,
    evaluate_variant,
    predictions_of,
)
from mrict_core.pipeline.folds import leave_one_centre_out, read_folds
from mrict_core.pipeline.learning import judged_patches, sample_row, sampled_slices
from mrict_core.pipeline.outcome import Outcome, held_out_rows, predictions_by_plane, train_and_evaluate
from mrict_core.pipeline.preparation import (
    PATIENTS_MIN,
    CountProgress,
    Prepared,
    make_phantoms,
    open_data,
    prepare_data,
    split_store,
    train_variant,
)
from mrict_core.training.few_steps import few_steps
from mrict_core.training.run import TrainSettings, prepare_run

__all__ = [
    "PATIENTS_MIN",
    "CountProgress",
    "Outcome",
    "Prepared",
    "TrainSettings",
    "compare_on_samples",
    "current_records",
    "evaluate_baselines",
    "evaluate_controls",
    "evaluate_mean",
    "evaluate_variant",
    "few_steps",
    "held_out_rows",
    "judged_patches",
    "leave_one_centre_out",
    "make_phantoms",
    "open_data",
    "predictions_by_plane",
    "predictions_of",
    "prepare_data",
    "prepare_run",
    "read_folds",
    "sample_row",
    "sampled_slices",
    "split_store",
    "train_and_evaluate",
    "train_variant",
]
