"""The report as an html page that needs no network: light and dark, screen and print.

The page alone is complete but for the slices of patients other than the worst, the median and the best; these are read
from files beside it.
"""

from __future__ import annotations

from pathlib import Path

from mrict_core.files import write_text
from mrict_core.reporting.page import patient_files
from mrict_core.reporting.page.data import BrowserPatient, PageData
from mrict_core.reporting.page.render import render

__all__ = ["BrowserPatient", "PageData", "render", "write_page"]


def write_page(data: PageData, path: Path) -> Path:
    """Write the page and the patients' files beside it, each atomically; return the page's path."""
    patient_files.write_files(data, path.parent)
    return write_text(path, render(data))
