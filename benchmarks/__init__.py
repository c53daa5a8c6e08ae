"""Measurements of time and memory, as ratios within one run. `python -m benchmarks --help`."""
