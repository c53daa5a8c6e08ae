#!/usr/bin/env bash
# Train, score and publish the starter model: docs/starter/train.sh AXIAL CORONAL SAGITTAL
# The folders hold the middle slices of the same people in three planes; split.json names the people kept out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ $# -ne 3 ]; then echo "usage: docs/starter/train.sh AXIAL CORONAL SAGITTAL" >&2; exit 2; fi
data=(--profile cpu --data "$1" --data "$2" --data "$3")
mrict() { .venv/bin/python -m mrict_core "$@"; }

./run_all.sh --setup-only
mrict preprocess "${data[@]}" --split docs/starter/split.json
mrict train mk7_0 --set data.augment.elastic=0.04 "${data[@]}" --steps 8000 --precision bfloat16 --seed 42
mrict evaluate mk7_0+augment.elastic=0.04 "${data[@]}"
mrict publish mk7_0+augment.elastic=0.04 --half --card docs/starter/card.yaml --to checkpoints/starter-brain
