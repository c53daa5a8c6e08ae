"""Doses of several models side by side: means by modality, ranks by every measure beside the rank by MAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.subjects import people_of

MAE = "mae_hu"
HEAD = ["modality", "name", "n", MAE]  # of the table of means
BY = "by "  # of columns of ranks: "by MAE (HU)"


@dataclass(frozen=True)
class DoseResults:
    """The doses of the test patients of a workspace."""

    note: str  # what the doses are not
    settings: Mapping[str, Any]  # of the plans
    rows: pd.DataFrame  # case, model, modality and the dose measures, NaN where a case has none
    maes: Mapping[str, Mapping[str, float]]  # model, best first => {patient: MAE in HU}
    kinds: Mapping[str, str]  # model => variant or baseline
    beams: Mapping[str, Sequence[Mapping[str, float]]]  # model => proton beams of acceptable plans
    remarks: Sequence[str]  # failed patients, plans that are not averaged, models left out

    @cached_property
    def means(self) -> pd.DataFrame:
        """One row per modality and model, best MAE first: people, MAE and dose measures, means over people."""
        return self._averaged(self.rows)

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """One row per modality and model: its rank by MAE and by every dose measure, 1 is best.

        Values that are equal in the measure's digits share a rank. A signed change is ranked by the mean of its size
        over people: errors of both signs cancel in the mean.
        """
        signed = [key for key in metrics.keys("dose") if metrics.metric(key).better == "zero"]
        sizes = self._averaged(self.rows.assign(**{key: self.rows[key].abs() for key in signed}))
        found = sizes[["modality", "name"]].copy()
        for key in (MAE, *metrics.keys("dose")):
            order = sizes[key].map(lambda value, key=key: _order(value, key))
            found[BY + metrics.heading(key)] = order.groupby(sizes["modality"]).rank(method="min").astype("Int64")
        return found.dropna(axis=1, how="all")

    def _averaged(self, rows: pd.DataFrame) -> pd.DataFrame:
        keys, found = metrics.keys("dose"), []
        for modality in dict.fromkeys(rows["modality"]):
            for name, maes in self.maes.items():
                own = rows[(rows["modality"] == modality) & (rows["model"] == name)]
                own = own.assign(person=people_of(own["case"]), **{MAE: own["case"].map(dict(maes)).astype(float)})
                of_people = own.groupby("person")[[MAE, *keys]].mean()
                if len(of_people):
                    means = of_people.mean().to_dict()
                    found.append({"modality": modality, "name": name, "n": len(of_people)} | means)
        return pd.DataFrame(found, columns=[*HEAD, *keys])

    def of(self, modality: str, table: pd.DataFrame) -> pd.DataFrame:
        """Return a modality's part of `means` or `ranks`, without the columns that no model has."""
        own = table[table["modality"] == modality].drop(columns="modality")
        return own.dropna(axis=1, how="all").reset_index(drop=True)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities with results."""
        return tuple(dict.fromkeys(self.means["modality"]))

    def disagreements(self) -> list[str]:
        """Return a line for every modality and measure that puts two models in another order than the MAE does."""
        lines = []
        for modality in self.modalities:
            own, by_mae = self.of(modality, self.ranks), BY + metrics.heading(MAE)
            for column in [c for c in own if c.startswith(BY) and c != by_mae]:
                rows = own[["name", by_mae, column]].dropna().to_dict(orient="records")
                turned = [
                    f"{second['name']} before {first['name']}"
                    for first, second in (sorted(pair, key=lambda row: row[by_mae]) for pair in combinations(rows, 2))
                    if first[by_mae] < second[by_mae] and first[column] > second[column]
                ]
                if turned:
                    lines.append(f"{modality}, {column}: {'; '.join(turned)}")
        return lines


def _order(value: float, key: str) -> float:
    """Return a value's sort key, in the digits that are shown."""
    metric = metrics.metric(key)
    return metric.order(float(metric.text(value))) if np.isfinite(value) else float("nan")
