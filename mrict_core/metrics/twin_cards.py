"""Cards of the corrected twins."""

from __future__ import annotations

from mrict_core.metrics.cards import MetricCard

TWIN_CARDS: tuple[MetricCard, ...] = ()
