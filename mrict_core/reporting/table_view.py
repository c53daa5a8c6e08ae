"""Tables in notebooks: few columns as html, with the best values marked; all columns below, and as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from IPython.display import display

from mrict_core.errors import unknown_name
from mrict_core.reporting.text_tables import SPREADS, best_places, cells, text_table

if TYPE_CHECKING:
    from pandas import DataFrame

# No text or background colour: those of the front end's dark or light theme stay.
STYLE = """
.mrict-table { overflow-x: auto; max-width: 100%; font-variant-numeric: tabular-nums; }
.mrict-table table { border-collapse: collapse; margin: 0; width: auto; display: table; table-layout: auto; }
.mrict-table caption { caption-side: top; text-align: left; font-weight: 600; padding: .3em 0; }
.mrict-table th, .mrict-table td { padding: .25em .8em; vertical-align: top; }
.mrict-table th.text, .mrict-table td.text { text-align: left; }
.mrict-table td:first-child { white-space: nowrap; }
.mrict-table th { border-bottom: 1px solid currentColor; vertical-align: bottom; }
.mrict-table th.number, .mrict-table td.number { text-align: right; white-space: nowrap; }
.mrict-table td.best { font-weight: 700; background: rgba(0, 158, 115, .25); }
.mrict-table summary, .mrict-table p { font-size: .9em; opacity: .85; margin: .3em 0; }
"""


@dataclass(frozen=True)
class TableView:
    """A table as html for a front end that shows it, as text elsewhere."""

    frame: DataFrame
    columns: Sequence[str]  # shown in html; with others the whole table can be unfolded
    caption: str = ""

    def __repr__(self) -> str:
        return text_table(self.frame)

    def _repr_html_(self) -> str:
        whole = _own_columns(self.frame)
        parts = [f"<style>{STYLE}</style>", _html(self.frame, self.columns, self.caption)]
        if set(whole) - set(self.columns):
            parts.append(f"<details><summary>all columns</summary>{_html(self.frame, whole)}</details>")
        return f'<div class="mrict-table">{"".join(parts)}</div>'


def show_table(frame: DataFrame, columns: Sequence[str] | None = None, caption: str = "") -> None:
    """Display a table: `columns` of it as html (by default all), the others folded; as text all of them.

    Digits, headings and spreads (`x_sd`, `x_low`, …, which follow their `x`) are those of `text_table`. In a metric's
    column the best value is marked, see `best_places`; rows of kind "control" are never marked. Raises
    MrictError, with the nearest name, for a column that the frame lacks.
    """
    every = _own_columns(frame)
    for name in columns or ():
        if name not in every:
            raise unknown_name("column", name, every)
    display(TableView(frame, columns or every, caption))


def best_rows(frame: DataFrame, column: str) -> set[int]:
    """Return the places of the rows with the best value of a metric, see `best_places`; controls have none."""
    ranked = frame[column].mask(frame["kind"] == "control") if "kind" in frame else frame[column]
    return best_places(list(ranked), column)


def _own_columns(frame: DataFrame) -> list[str]:
    """Return the columns without the spreads that join others, in the order of `cells`."""
    spreads = {f"{column}{end}" for column in frame.columns for end in SPREADS}
    return [column for column in frame.columns if column not in spreads]


def _html(frame: DataFrame, columns: Sequence[str], caption: str = "") -> str:
    every = _own_columns(frame)
    places = [every.index(column) for column in columns]
    headings, rows, numeric = cells(frame)
    kinds = ["number" if right else "text" for right in numeric]
    best = [best_rows(frame, column) for column in every]
    head = "".join(f'<th scope="col" class="{kinds[c]}">{escape(headings[c])}</th>' for c in places)
    body = ""
    for k, row in enumerate(rows):
        own = [f'<td class="{kinds[c]}{" best" if k in best[c] else ""}">{escape(row[c])}</td>' for c in places]
        body += f"<tr>{''.join(own)}</tr>"
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
