#!/usr/bin/env bash
# Check everything: lint, unit tests, notebooks under nbval. Arguments go to pytest (./run_tests.sh -k transforms).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./run_all.sh --setup-only --dose

.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .

# The tests write into their own folder; they neither read nor change the user's results.
# MRICT_TEST_OUTPUT names a folder to keep instead.
scratch=${MRICT_TEST_OUTPUT:-}
if [ -z "$scratch" ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
fi
unset PYTHONDONTWRITEBYTECODE  # the tests start hundreds of processes; each would compile all modules again
export MRICT_DATA="$scratch/data" MRICT_CHECKPOINTS="$scratch/checkpoints" MRICT_REPORTS="$scratch/reports"

if [ $# -gt 0 ]; then
  .venv/bin/python -m pytest "$@"
else
  # One session in two processes, so that the last lines count every test. The notebooks run one after another in one
  # process (tests/conftest.py) and take the longest, so they come first.
  # A thread each: more would wait for a core that the other process needs.
  OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive .venv/bin/python -m pytest notebooks tests --nbval --nbval-current-env --nbval-cell-timeout=600 --durations=10 \
    --numprocesses=2 --dist=loadfile --no-loadscope-reorder
fi
