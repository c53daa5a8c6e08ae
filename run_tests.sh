#!/usr/bin/env bash
# Check everything: lint, unit tests, notebooks under nbval. Arguments go to pytest (./run_tests.sh -k transforms).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./run_all.sh --setup-only

.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .

# The tests write into a folder of their own; results of the user's runs are neither read nor touched.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export MRICT_DATA="$scratch/data" MRICT_CHECKPOINTS="$scratch/checkpoints" MRICT_REPORTS="$scratch/reports"

if [ $# -gt 0 ]; then
  .venv/bin/python -m pytest "$@"
else
  # One session for both, so that the last lines count every test, in two processes. The notebooks, which follow each
  # other in one of them (tests/conftest.py), come first: they take the longest.
  # OMP_WAIT_POLICY: torch's threads must not wait in a loop on a core that the other process needs.
  OMP_WAIT_POLICY=passive .venv/bin/python -m pytest notebooks tests --nbval --nbval-current-env --nbval-cell-timeout=600 --durations=10 \
    --numprocesses=2 --dist=loadfile --no-loadscope-reorder
fi
