"""Cards of the feature metrics."""

from __future__ import annotations

from mrict_core.metrics.cards import MetricCard

FEATURE_CARDS: tuple[MetricCard, ...] = ()
