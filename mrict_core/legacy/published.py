"""Numbers that the predecessor printed: for reference, not results of this suite. docs/lineage.md, section 3."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """The four numbers that the predecessor printed for a variant, on its validation slices."""

    variant: str  # its name here
    readme_name: str  # its name in the predecessor's README; "" if absent
    mse: float
    ssim: float
    fid: float
    vgg: float
    where: str  # the evaluation that printed them


PRINTED = (
    Printed("mk3_1_2", "MK3.1.2_GOD", 0.063136, 0.449328, 221.746994, 2.912386, "second evaluation after training"),
    Printed("mk3_1_2_v4_50", "v4_50_GOD", 0.072253, 0.702594, 174.542770, 2.671596, "second evaluation after training"),
    Printed("mk6_0_1", "6.0.1", 0.065860, 0.678714, 175.659180, 2.517590, "first evaluation after training"),
    Printed("mk6_0_3", "6.0.3", 0.056884, 0.591850, 166.765396, 2.724192, "epoch 13 of 14, its best"),
    Printed("mk6_1_0", "6.1.0", 0.019255, 0.825634, 113.451118, 1.631517, "epoch 11 of 12, its best"),
    Printed("mk6_1_1", "6.1.1", 0.019586, 0.813731, 118.909042, 1.640784, "third evaluation, best of three FIDs"),
    Printed("mk6_2_0", "6.2.0", 0.018466, 0.823152, 113.933151, 1.602489, "epoch 7, where the run was cut"),
    Printed("mk6_2_1", "6.2.1", 0.015199, 0.852237, 104.621910, 1.428501, "epoch 13, the last"),
    Printed("mk6_3_0", "6.3.0", 0.013473, 0.866290, 97.263969, 1.324233, "epoch 13, the last"),
    Printed("mk6_3_1", "6.3.1", 0.012631, 0.875822, 90.494118, 1.250894, "first evaluation after training"),
    Printed("mk6_3_2", "", 0.011964, 0.883249, 82.09, 1.1877, "epoch 13, the last"),
    Printed("mk6_3_3", "", 0.010637, 0.892557, 74.85, 1.0812, "epoch 13, the last"),
    Printed("mk6_3_4", "MK6.4.3_CP3", 0.008025, 0.917649, 60.405193, 0.864183, "first evaluation after training"),
)
# Scores of an all-black image on the predecessor's 36 patients, from its collapsed runs.
BLACK = Printed("control_black", "", 0.3457, 0.6884, 432.0, 2.15, "a run that had collapsed to black")
TRAINING_SLICES = {"mk3_1_2": 1610}  # the rest saw 5,849
TRAINING_SLICES_MOST = 5849
