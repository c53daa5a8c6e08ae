"""Print the generated section of docs/metrics.md: python -m mrict_core.metrics --markdown."""

from __future__ import annotations

import sys

from mrict_core.metrics.table import markdown

if sys.argv[1:] != ["--markdown"]:
    raise SystemExit("usage: python -m mrict_core.metrics --markdown")
print(markdown())
