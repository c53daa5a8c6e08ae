"""Every metric card by name."""

from __future__ import annotations

from mrict_core.errors import unknown_name
from mrict_core.metrics.cards import MetricCard
from mrict_core.metrics.image_cards import IMAGE_CARDS

CARDS: dict[str, MetricCard] = {card.name: card for card in (*IMAGE_CARDS,)}


def card(name: str) -> MetricCard:
    """Return the card of a column; an unknown name is an error with the nearest one."""
    if name not in CARDS:
        raise unknown_name("metric", name, CARDS)
    return CARDS[name]
