"""Every figure of the suite by one import; `style.save` writes them."""

from mrict_core.reporting.charts import (
    cohort_figure,
    curves_figure,
    histogram_figure,
    joint_histogram_figure,
    leaderboard_figure,
    steps_figure,
)
from mrict_core.reporting.clinical_charts import calibration_figure, centres_figure, clinical_figure
from mrict_core.reporting.images import comparison_figure, pairs_figure, sample_figure, slab_figure
from mrict_core.reporting.lineage_figure import lineage_figure
from mrict_core.reporting.style import save
from mrict_core.reporting.training_figures import chain_figure, patch_figure

__all__ = [
    "calibration_figure",
    "centres_figure",
    "chain_figure",
    "clinical_figure",
    "cohort_figure",
    "comparison_figure",
    "curves_figure",
    "histogram_figure",
    "joint_histogram_figure",
    "leaderboard_figure",
    "lineage_figure",
    "pairs_figure",
    "patch_figure",
    "sample_figure",
    "save",
    "slab_figure",
    "steps_figure",
]
