"""Measurements. The plain forms they hold fast ones against, and the sample data, are those of the tests."""

import sys

from mrict_core.paths import ROOT

sys.path.append(str(ROOT / "tests"))
