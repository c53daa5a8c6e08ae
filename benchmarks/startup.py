"""Start-up: the command line, and the imports of every notebook."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from mrict_core.paths import ROOT
from mrict_core.suite.execute import KERNEL_ARGUMENTS

TITLE = "Start-up of the command line and of the notebooks"
HEAVY = ("torch", "torchvision", "torchmetrics", "monai", "matplotlib", "plotly", "pandas", "scipy", "skimage", "cv2")


def seconds(code: str, repeats: int) -> tuple[float, str]:
    """Return the median seconds of a Python process that runs `code`, and the output of the last one."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:]), done.stdout


def import_cell(path: Path) -> str:
    """Return the import lines of a notebook."""
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    cell = next("".join(c["source"]) for c in cells if "import " in "".join(c["source"]))
    return "\n".join(line for line in cell.splitlines() if line.startswith(("import ", "from ", "    ", ")")))


def kernel_row(repeats: int) -> dict[str, Any]:
    """Return the row of a whole kernel process, as the suite starts for each numbered notebook."""
    cell, found = import_cell(ROOT / "notebooks" / "05_pix2pix_mk6.ipynb"), []
    for _ in range(repeats + 1):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        started = time.perf_counter()
        NotebookClient(notebook, extra_arguments=KERNEL_ARGUMENTS).execute(cwd=str(ROOT))
        found.append(time.perf_counter() - started)
    took = statistics.median(found[1:])
    return {"case": "kernel that runs the imports of 05_pix2pix_mk6", "seconds": took, "imports": "–"}


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per command and notebook: seconds, and the heavy packages it imports."""
    repeats = 1 if quick else 5
    tell = f"\nimport sys; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    rows = []
    for words in (["--help"], ["variants"], ["train", "--help"])[: 1 if quick else None]:
        code = f"import sys; sys.argv = ['mrict_core', *{words!r}]\nfrom mrict_core.cli import main\nmain()"
        took, _ = seconds(code, repeats)
        rows.append({"case": f"python -m mrict_core {' '.join(words)}", "seconds": took, "imports": "–"})
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))[: 1 if quick else None]:
        took, printed = seconds(import_cell(path) + tell, repeats)
        rows.append({"case": f"imports of {path.stem}", "seconds": took, "imports": printed.strip() or "none of them"})
    return rows if quick else [*rows, kernel_row(repeats)]
