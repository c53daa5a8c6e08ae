"""Benchmarks. They share the plain implementations and the sample data with the tests."""

import sys

from mrict_core.paths import ROOT

sys.path.append(str(ROOT / "tests"))
