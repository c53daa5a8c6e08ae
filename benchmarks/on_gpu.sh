#!/usr/bin/env bash
# Run what needs a GPU. Usage: on_gpu.sh [FOLDER [STAGE ...]]; results: reports/benchmarks/, or FOLDER.
# Stages, each with the minutes that it is given at most; none named: all of them:
#   tests 3   tests marked gpu              train 9   20 steps of MK7 to MK10 on phantoms, then their scores
#   gpu 5     the training step             ranks 4   one training by two processes; two trainings on one card
#   costs 4   memory and hours              scale 9   steps, volumes and patients at scale
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${MRICT_PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null 2>&1 || python=python3
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "on_gpu.sh: $python sees no CUDA device, or has no torch; run ./run_all.sh --setup-only on a machine with a GPU, or name a Python: MRICT_PYTHON" >&2
  exit 1
fi

folder=${1:-}
stages=("${@:2}")
[ "${#stages[@]}" -gt 0 ] || stages=(tests gpu costs train ranks scale)
for stage in "${stages[@]}"; do
  case $stage in
    tests | gpu | costs | train | ranks | scale) ;;
    *) echo "on_gpu.sh: $stage: no such stage; expected tests, gpu, costs, train, ranks or scale" >&2; exit 1 ;;
  esac
done

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
failed=()
phantoms=(--profile demo --device cuda)

# run SECONDS COMMAND ...: run a command, print how it ended, and remember it if it failed.
run() {
  local limit=$1 status
  shift
  echo "== $*"
  timeout "$limit" "$@"
  status=$?
  [ "$status" -eq 124 ] && echo "== stopped after $limit s" >&2
  [ "$status" -eq 0 ] || failed+=("$*")
  return "$status"
}

benchmark() { run "$1" "$python" -m benchmarks --only "$2" ${folder:+--output "$folder"}; }

# mrict ARGUMENT ...: the command line, with all that it writes in the temporary folder.
mrict() {
  MRICT_DATA=$scratch/data MRICT_CHECKPOINTS=$scratch/checkpoints MRICT_REPORTS=$scratch/reports \
    "$python" -m mrict_core "$@"
}
export -f mrict
export python scratch

# The experiments of MK7 and later families that this version declares, each after the one that it starts from.
experiments() {
  mrict variants --json | "$python" -c '
import json, re, sys
for entry in json.load(sys.stdin)["variants"]:
    if re.fullmatch(r"mk([7-9]|1[0-9])", entry["family"]):
        print(entry["name"])
'
}

train() {
  local name names
  names=$(experiments)
  if [ -z "$names" ]; then
    echo "on_gpu.sh: no experiment of MK7 or later found" >&2
    failed+=("variants --json")
    return
  fi
  for name in $names; do
    run 150 bash -c 'mrict train "$@"' mrict "$name" "${phantoms[@]}" --steps 20 --lineage &&
      run 90 bash -c 'mrict evaluate "$@"' mrict "$name" "${phantoms[@]}"
  done
}

ranks() {
  local cards first second
  if [[ $(mrict train --help) != *--gpus* ]]; then
    echo "== ranks: left out, this version has no train --gpus"
    return
  fi
  mrict preprocess --profile demo >/dev/null || failed+=("preprocess")
  cards=$("$python" -c 'import torch; print(torch.cuda.device_count())')
  if [ "$cards" -ge 2 ]; then
    run 120 bash -c 'mrict train "$@"' mrict mk7_1 "${phantoms[@]}" --seed 2 --steps 20 --gpus 2
  else  # NCCL gives every process a card of its own
    run 120 bash -c 'mrict train "$@"' mrict mk7_1 --profile demo --device cpu --seed 2 --steps 4 --gpus 2
  fi
  echo "== two trainings on one card at the same time"
  timeout 120 bash -c 'mrict train "$@"' mrict mk7_1 "${phantoms[@]}" --seed 3 --steps 20 &
  first=$!
  timeout 120 bash -c 'mrict train "$@"' mrict mk7_1 "${phantoms[@]}" --seed 4 --steps 20 &
  second=$!
  wait "$first" || failed+=("the first of two trainings on one card")
  wait "$second" || failed+=("the second of two trainings on one card")
}

for stage in "${stages[@]}"; do
  case $stage in
    tests) run 180 "$python" -m pytest -q -m gpu tests ;;
    gpu) benchmark 300 gpu ;;
    costs) benchmark 240 costs ;;
    train) train ;;
    ranks) ranks ;;
    scale) benchmark 540 scale ;;
  esac
done

if [ "${#failed[@]}" -gt 0 ]; then
  echo "== failed:" >&2
  printf '   %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "== all stages passed: ${stages[*]}"
