"""Every metric card by name."""

from __future__ import annotations

import dataclasses

from mrict_core.errors import unknown_name
from mrict_core.metrics.cards import MetricCard
from mrict_core.metrics.clinical_cards import CLINICAL_CARDS
from mrict_core.metrics.feature_cards import FEATURE_CARDS
from mrict_core.metrics.image_cards import IMAGE_CARDS
from mrict_core.metrics.synthrad import HuRange
from mrict_core.metrics.twin_cards import TWIN_CARDS

CARDS: dict[str, MetricCard] = {
    card.name: card for card in (*IMAGE_CARDS, *CLINICAL_CARDS, *TWIN_CARDS, *FEATURE_CARDS)
}


def card(name: str) -> MetricCard:
    """Return the card of a column; an unknown name is an error with the nearest one."""
    if name not in CARDS:
        raise unknown_name("metric", name, CARDS)
    return CARDS[name]


def card_in_range(name: str, hu_range: HuRange, note: str = "") -> MetricCard:
    """Return the card of a SynthRAD metric taken in another range than its protocol's; `note` replaces the card's."""
    own = card(name)
    if name == "mae_hu":  # never clipped
        return dataclasses.replace(own, note=note or own.note)
    span = f"[{hu_range.low:g}, {hu_range.high:g}] HU"
    end = (
        f"; peak {hu_range.width:g}"
        if name == "psnr_db"
        else (f", {hu_range.low:g} outside the mask; data_range {hu_range.width:g}")
    )
    return dataclasses.replace(own, range=f"both clipped to {span}{end}", note=note or own.note)
