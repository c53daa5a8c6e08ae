"""Tables as text and markdown, every metric with its own number of digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mrict_core import metrics
from mrict_core.runtime import write_csv, write_text

DIGITS = {"mae_hu": 1, "psnr_db": 2, "ssim": 4, "predecessor_mse": 4, "predecessor_ssim": 4}
HEADINGS = {
    "mae_hu": "MAE (HU)",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "ssim_2d": "SSIM",
    "ssim_dimensionality": "SSIM in",
    "predecessor_mse": "pred. MSE",
    "predecessor_ssim": "pred. SSIM",
    "beats_baselines": "beats baselines",
    "n_slices": "slices",
    "n_voxels": "voxels",
}
NOTHING = "–"


def text_table(frame: pd.DataFrame) -> str:
    """Return `frame` as aligned text; a column `x_sd` joins its column `x` as "mean ± SD"."""
    headings, rows, numeric = _cells(frame)
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    lines = [headings, ["-" * width for width in widths], *rows]
    align = [f"{'>' if right else '<'}{width}" for width, right in zip(widths, numeric, strict=True)]
    return "\n".join("  ".join(map(format, line, align)).rstrip() for line in lines)


def markdown_table(frame: pd.DataFrame) -> str:
    """Return `frame` as a markdown table, rounded as in `text_table`."""
    headings, rows, numeric = _cells(frame)
    rule = ["---:" if right else "---" for right in numeric]
    escaped = [[_markdown(cell) for cell in row] for row in (headings, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (escaped[0], rule, *escaped[1:]))


def _markdown(cell: str) -> str:
    """Escape a cell; a mean and its spread stay on one line."""
    return cell.replace("|", "\\|").replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def write_leaderboard(folder: Path, frame: pd.DataFrame, label: str) -> tuple[Path, Path]:
    """Write folder/leaderboard.csv (unrounded) and folder/leaderboard.md with the metrics' definitions; return both."""
    csv = write_csv(Path(folder) / "leaderboard.csv", frame)
    shown = frame.drop(columns="label") if (frame["label"] == label).all() else frame
    parts = [
        f"# Leaderboard ({label})",
        "Held-out patients; mean ± SD over patients; ranked by masked MAE. Rows of kind *baseline* are the trivial "
        "predictors that a model must beat.",
        markdown_table(shown),
        "## How the numbers are defined",
        definitions(_metrics_of(frame)),
    ]
    return csv, write_text(Path(folder) / "leaderboard.md", "\n\n".join(parts) + "\n")


def _metrics_of(frame: pd.DataFrame) -> list[str]:
    """Return the metrics behind the columns; SSIM stands for the one or two ways in which it was taken."""
    ways = set(frame["ssim_dimensionality"]) if "ssim_dimensionality" in frame else {"3D"}
    names = [column for column in DIGITS if column in frame]
    if any("2D" in way for way in ways):
        names.insert(names.index("ssim") + 1, "ssim_2d")
    if not any("3D" in way for way in ways):
        names.remove("ssim")
    return names


def definitions(columns: Sequence[str]) -> str:
    """Return the metric cards of the columns as a markdown list."""
    cards = [metrics.card(column) for column in columns]
    return "\n".join(
        f"- **{HEADINGS.get(card.name, card.name)}** ({card.dimensionality}, {card.better} is better). "
        f"Range: {card.range}. Mask: {card.mask}. Aggregation: {card.aggregation}. "
        f"{card.note[0].upper()}{card.note[1:]}."
        for card in cards
    )


def _cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headings, rows of text, and which columns are numbers (set to the right)."""
    columns = [c for c in frame.columns if not (str(c).endswith("_sd") and str(c)[:-3] in frame.columns)]
    spreads = {c: frame[f"{c}_sd"] for c in columns if f"{c}_sd" in frame.columns}
    texts = []
    for column in columns:
        values = [_text(value, column) for value in frame[column]]
        if column in spreads:
            values = [_with_spread(v, s, column) for v, s in zip(values, spreads[column], strict=True)]
        texts.append(values)
    headings = [HEADINGS.get(str(column), str(column)) for column in columns]
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) and not pd.api.types.is_bool_dtype(frame[c]) for c in columns]
    return headings, [list(row) for row in zip(*texts, strict=True)], numeric


def _text(value: Any, column: str) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return NOTHING
    if isinstance(value, bool) or pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if pd.api.types.is_float(value):
        return f"{value:.{DIGITS[column]}f}" if column in DIGITS else f"{value:.4g}"
    return " ".join(str(value).split())


def _with_spread(mean: str, spread: Any, column: str) -> str:
    return mean if mean == NOTHING or pd.isna(spread) else f"{mean} ± {_text(float(spread), column)}"
