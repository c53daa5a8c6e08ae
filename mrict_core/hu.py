"""Every HU number with a meaning of its own. A threshold that only one check needs is kept with that check."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mrict_core.errors import unknown_name

# The scale
AIR_HU, WATER_HU = -1000.0, 0.0  # by definition
HALF_WATER_HU = -500.0  # half of a voxel is tissue: the outline of a body in air
FAT_HU, SOFT_TISSUE_HU = -100.0, 40.0  # typical at 120 kVp
AIR_FLOOR_HU, CEILING_HU = -1024, 3071  # what 12 bits hold with an intercept of -1024; around a body all is floor
CONSTANT_SD_HU = 1.0  # an image that varies less is constant: noise alone is larger

# Tissues on a CT
AIR_BELOW_HU = -200  # between fat and what is partly air; above: soft tissue and bone
BONE_ABOVE_HU = 250  # above contrast-free soft tissue, spongy bone included
DICE_THRESHOLDS_HU = (150, BONE_ABOVE_HU, 350, 500)  # Dice of bone must not depend on one choice
SPONGY_BONE_HU, DENSE_BONE_HU = 300, 700  # of the shares of bone that an input check compares
BODY_ABOVE_HU = -300  # a body's outline: below the skin blurred with air, above foam, cushions and lung
METAL_ABOVE_HU = 2500  # above enamel and cortical bone; 12 bits end at 3071, where metal is cut off
FAT_BELOW_HU = -30  # midway between fat and soft tissue
TISSUES = ("air", "fat", "soft tissue", "spongy bone", "dense bone")
TISSUE_EDGES_HU = (AIR_BELOW_HU, FAT_BELOW_HU, BONE_ABOVE_HU, DENSE_BONE_HU)  # between them, from below


def _as_float(values: Any) -> Any:
    """Return a float32 array, or a float32 tensor for a tensor, which alone has `float()`."""
    if hasattr(values, "float"):
        return values.float()
    import numpy as np  # here, so that naming a HU value needs no numpy

    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class HuRange:
    """A range of HU that images are clipped to, or that the networks' [-1, 1] stands for."""

    low: float
    high: float
    name: str = field(default="", compare=False)

    @property
    def width(self) -> float:
        return self.high - self.low

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}] HU"

    def clip(self, hu: Any) -> Any:
        """Clip an array or tensor to the range; its type is kept."""
        return hu.clip(self.low, self.high)

    def to_unit(self, hu: Any) -> Any:
        """Map HU (array or tensor, any shape) to [-1, 1] float32; values outside the range are clipped to it."""
        return (self.clip(_as_float(hu)) - self.low) * (2.0 / self.width) - 1.0

    def to_hu(self, unit: Any) -> Any:
        """Map [-1, 1] (array or tensor) to HU float32: the inverse of `to_unit` inside the range, to 0.001 HU."""
        return (_as_float(unit) + 1.0) * (self.width / 2.0) + self.low


# Ranges of the challenges' metrics
SYNTHRAD2023 = HuRange(float(AIR_FLOOR_HU), 3000.0, "synthrad2023")
SYNTHRAD2025 = HuRange(float(AIR_FLOOR_HU), float(CEILING_HU), "synthrad2025")  # of the evaluation
SYNTHRAD2025_METRICS = replace(SYNTHRAD2023, name="synthrad2025_metrics")  # of the published metrics code
RANGES = {r.name: r for r in (SYNTHRAD2023, SYNTHRAD2025, SYNTHRAD2025_METRICS)}

# What the networks' [-1, 1] stands for, by protocol
PREDECESSOR = HuRange(-1000.0, 1000.0, "predecessor")  # dense bone, teeth and metal are cut off
WINDOWS = {"patient": SYNTHRAD2023, "predecessor": PREDECESSOR}

PAIRING = HuRange(float(AIR_FLOOR_HU), 1500.0, "pairing")  # metal would take most bins of the mutual information

# Control images that no model made
BLACK_HU = AIR_HU
BIAS_HU = 150.0  # a plain error that SSIM hardly sees

# Display
DISPLAY_WINDOWS_HU = {  # (low, high)
    "wide": (-1000.0, 1500.0),
    "soft": (-160.0, 240.0),  # also the window with which a viewer opens our DICOM series; bone is its second preset
    "bone": (-500.0, 1500.0),
    "brain": (0.0, 80.0),
}
ERROR_LIMIT_HU = 500.0  # of the signed error's colours, the same in every figure
SD_LIMIT_HU = 200.0  # of the colours of an ensemble's spread
LANDMARKS_HU = {"air": AIR_HU, "fat": FAT_HU, "water": WATER_HU, "bone": DENSE_BONE_HU}  # roughly; for the eye
CALIBRATION_EDGES_HU = tuple(float(edge) for edge in range(-1050, 2051, 50))  # the bins at the ends take what is beyond
CALIBRATION_SHOWN_HU = (-1000.0, 1600.0)


def range_of(name: str) -> HuRange:
    """Return a metric's HU range by name; an unknown name is an error with the nearest one."""
    if name not in RANGES:
        raise unknown_name("HU range", name, RANGES)
    return RANGES[name]
