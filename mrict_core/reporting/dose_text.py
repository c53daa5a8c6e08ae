"""Doses of several models in words: tables as text, where ranks disagree, and what the doses are not."""

from __future__ import annotations

from mrict_core.evaluation.dose_table import DoseResults
from mrict_core.reporting.text_tables import text_table

AGREE = "No measure of dose puts two models in another order than the MAE does."


def dose_notes(found: DoseResults) -> list[str]:
    """Return where ranks by dose and by MAE disagree, then what was left out or not averaged."""
    turned = found.disagreements()
    said = [f"Other order than by MAE: {'. '.join(turned)}."] if turned else [AGREE]
    return [*said, *found.remarks]


def dose_text(found: DoseResults) -> str:
    """Return tables of means and ranks by modality, and the notes, as lines of text."""
    lines = [f"Dose: {found.note}"]
    for modality in found.modalities:
        lines += ["", f"{modality}, means over people:", text_table(found.of(modality, found.means))]
        lines += ["", f"{modality}, ranks (1 is best):", text_table(found.of(modality, found.ranks))]
    return "\n".join([*lines, "", *dose_notes(found)])
