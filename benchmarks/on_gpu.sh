#!/usr/bin/env bash
# Run everything that needs a GPU in at most nine minutes: its tests, the training step, what whole trainings take.
# Results: reports/benchmarks/gpu.* and costs.*, or the folder given as the first argument.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${MRICT_PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null 2>&1 || python=python3
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "on_gpu.sh: $python sees no CUDA device, or has no torch; run ./run_all.sh --setup-only on a machine with a GPU, or name a Python: MRICT_PYTHON" >&2
  exit 1
fi

failed=0
timeout 150 "$python" -m pytest -q -m gpu tests || failed=1
timeout 260 "$python" -m benchmarks --only gpu ${1:+--output "$1"} || failed=1
timeout 120 "$python" -m benchmarks --only costs ${1:+--output "$1"} || failed=1
exit "$failed"
