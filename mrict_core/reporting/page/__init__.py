"""The report as one self-contained html page: no network, light and dark, screen and print."""

from __future__ import annotations

from pathlib import Path

from mrict_core.files import write_text
from mrict_core.reporting.page.data import BrowserPatient, PageData
from mrict_core.reporting.page.render import render

__all__ = ["BrowserPatient", "PageData", "render", "write_page"]


def write_page(data: PageData, path: Path) -> Path:
    """Write the page atomically; return its path."""
    return write_text(path, render(data))
