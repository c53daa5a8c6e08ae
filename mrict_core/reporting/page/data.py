"""The content of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mrict_core.evaluation.dose_table import DoseResults
from mrict_core.modalities import MR, Modality


@dataclass(frozen=True)
class BrowserPatient:
    """One patient of the slice browser."""

    patient: str
    centre: str
    z: np.ndarray  # (n,) int: position of each slice in the volume
    spacing_mm: tuple[float, float, float]  # of slices, rows and columns
    mr: np.ndarray  # (n, h, w) in [-1, 1]
    ct: np.ndarray  # (n, h, w) HU
    mask: np.ndarray  # (n, h, w) bool
    scts: dict[str, np.ndarray]  # variant or baseline => (n, h, w) HU, best first
    sides: str = ""  # what is left, right, top, bottom, before the first and behind the last slice; "" if unknown
    notes: tuple[str, ...] = ()  # models without a prediction, and why


def _none() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True)
class PageData:
    """Everything the page shows. A section without data says what is missing."""

    title: str
    label: str  # of the profile, shown in a banner
    intro: str
    board: pd.DataFrame  # evaluation.leaderboard
    records: list[dict[str, Any]]  # variants and baselines, best first
    input: Modality = MR
    controls: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # variant => why it has no record
    histories: dict[str, pd.DataFrame] = field(default_factory=dict)  # variant => one row per epoch
    variants: list[dict[str, Any]] = field(default_factory=list)  # see `pipeline.report`
    comparisons: pd.DataFrame = field(default_factory=_none)  # evaluation.pairwise_table
    centres: pd.DataFrame = field(default_factory=_none)  # evaluation.centre_table
    leave_out: pd.DataFrame = field(default_factory=_none)  # evaluation.leave_out_table
    folds: pd.DataFrame = field(default_factory=_none)  # pipeline.read_folds
    predecessor: pd.DataFrame = field(default_factory=_none)  # evaluation.predecessor.predecessor_table
    blindness: pd.DataFrame = field(default_factory=_none)  # evaluation.controls.blindness
    dose: DoseResults | None = None  # pipeline.model_doses.read_doses
    features: list[dict[str, Any]] = field(default_factory=list)  # variant, and metrics.features.FeatureScore.as_dict()
    corrections: list[tuple[str, str]] = field(default_factory=list)  # (the predecessor, here)
    browser: list[tuple[str, Callable[[], BrowserPatient]]] = field(default_factory=list)  # every test patient, unread
    browser_note: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
