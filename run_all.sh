#!/usr/bin/env bash
# Run the whole suite: set up .venv if needed, then trainings and notebooks in order.
set -euo pipefail
typed_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

NEED_GB=9 # torch's CUDA build and the other packages unpacked, with pip's temporary copies

find_python() {
  local candidate
  for candidate in "${MRICT_PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

setup_venv() {
  install_requirements
  # Kernels and nbval start in notebooks/; this line lets them find mrict_core.
  local site
  site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  [ "$(cat "$site/mrict_core.pth" 2>/dev/null)" = "$PWD" ] || echo "$PWD" > "$site/mrict_core.pth"
  # The command that `pip install .` makes; it still works after the folder has been moved.
  if [ ! -e .venv/bin/mrict ]; then
    printf '#!/bin/sh\nexec "${0%%/*}/python" -m mrict_core "$@"\n' > .venv/bin/mrict
    chmod +x .venv/bin/mrict
  fi
}

install_requirements() {
  local python wanted free_kb
  wanted=$(cksum requirements.txt)
  if [ -x .venv/bin/python ] && [ "$(cat .venv/requirements.cksum 2>/dev/null)" = "$wanted" ]; then return 0; fi
  if ! python=$(find_python); then
    echo "Python 3.11 or newer is needed, found: $(python3 --version 2>/dev/null || echo none). Install it, or name one: MRICT_PYTHON=/path/to/python3" >&2
    exit 1
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # missing or unfinished
    free_kb=$(df -Pk . | awk 'NR == 2 {print $4}')
    if [ "$free_kb" -lt $((NEED_GB * 1024 * 1024)) ]; then
      echo "The disk is too small: $((free_kb / 1024 / 1024)) GB free here, about ${NEED_GB} GB are needed for .venv. Free some, or clone onto a larger disk." >&2
      exit 1
    fi
    echo "Making .venv with $("$python" --version) …"
    if ! "$python" -m venv --clear .venv; then
      echo "Making .venv failed (see above); on Debian and Ubuntu install the package python3-venv, then run this command again." >&2
      exit 1
    fi
  fi
  echo "Installing requirements.txt (several GB the first time) …"
  if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt; then
    echo "Installing requirements.txt failed (see above); fix that, then run this command again." >&2
    exit 1
  fi
  echo "$wanted" > .venv/requirements.cksum
  rm -f .venv/requirements-dose.cksum # it may have changed what --dose installed
}

install_dose() { # --no-deps: pyRadPlan's bounds exclude the pinned numpy, see the file
  local wanted
  wanted=$(cksum requirements-dose.txt)
  if [ "$(cat .venv/requirements-dose.cksum 2>/dev/null)" = "$wanted" ]; then return 0; fi
  echo "Installing requirements-dose.txt …"
  if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-dose.txt; then
    echo "Installing requirements-dose.txt failed (see above); fix that, or leave --dose out." >&2
    exit 1
  fi
  echo "$wanted" > .venv/requirements-dose.cksum
}

usage() {
  cat <<'TEXT'
usage: ./run_all.sh [options]

  --profile demo|cpu|full
                        demo: small networks, minutes; cpu: real patients on a CPU, 20 minutes for each training;
                        full: the predecessor's size, wants a GPU. Default: demo; with --data full if there is a GPU,
                        else cpu
  --data DIR            your patients: DIR/Task1/<region>/<patient>/{mr,ct,mask}.nii.gz, or any folder of such
                        patients; repeatable: equal ids in several folders are one person, and a volume one voxel
                        thick is a slice of that plane; without it the suite generates phantom patients
  --region NAME         brain (default), pelvis, head-neck, thorax, abdomen, or a name of your own; there are phantoms
                        of the first two
  --input mr|cbct       cbct: cone-beam CT in place of MR, DIR/Task2/<region>/<patient>/{cbct,ct,mask}.nii.gz
  --ct rigid|deformed   deformed: ct_def in place of ct as the target (SynthRAD2025)
  --exclude-metal       losses and scores leave out the voxels of a patient's metal.nii.gz, where there is one
  --variants LIST       readme, all, or comma-separated names; their ancestors are included. Default: in the demo
                        readme and MK7 to MK10; in cpu and full MK7 and the references pix2pix_paper and unet_l1
  --minutes-per-variant M
                        train every variant for so long instead of its epochs, ancestors too
  --set PATH=VALUE      change a value of these variants, e.g. loss.l1.weight=20; repeatable (docs/howto/variant.md)
  --experiment FILE     your own experiments, .yaml or .py; without --variants all of them
  --group-by RULE       which images belong to one subject and stay in one set: a regular expression with the subject
                        in brackets, '(.+)_[ab]', or a csv of patient, subject (default: the last rule given, at
                        first BIDS sessions)
  --pairs FILE          a csv of patient, use (yes or no), reason: which pairs are used (default: pairs.csv in the data
                        folder, which `pair` writes)
  --protocol NAME       patient (default), or predecessor: union mask, per-slice MR intensity, split by slice
  --only LIST           run only these notebooks and their trainings, e.g. 00 or 00,05
  --jobs N              trainings and notebooks in parallel (default: 2 in the demo, 1 in full)
  --tensorboard         the trainings log to TensorBoard: tensorboard --logdir checkpoints
  --dose                also the dose of a plan on the best model's synthetic CTs and the baselines' (installs
                        requirements-dose.txt; generic machine, not for clinical use)
  --force               repeat what is already done
  --setup-only          make or update .venv, run nothing
  --help                this text

A second run does only what is missing or changed. Results: reports/ (other data: reports/runs/<name>/).
Exit status: 0 all done; 1 a training or notebook failed, or patients were left out (the last lines say which);
2 an unknown option; 130 interrupted.
TEXT
}

unknown() { # OPTION
  local python near=
  if python=$(find_python); then
    near=$(usage | "$python" -c 'if True:
      import difflib, re, sys
      near = difflib.get_close_matches(sys.argv[1], set(re.findall("--[a-z-]+", sys.stdin.read())))
      print("did you mean " + " or ".join(near) + "? " if near else "", end="")' "$1")
  fi
  echo "run_all.sh: unknown option '$1': ${near}see ./run_all.sh --help" >&2
  exit 2
}

# A relative folder or csv is relative to the folder where the command was typed.
meant() { # OPTION VALUE
  case "$1 $2" in
    "--data "[!/~]*|"--experiment "[!/~]*|"--pairs "[!/~]*|"--group-by "[!/~]*.csv) echo "$typed_in/$2" ;;
    *) printf '%s\n' "$2" ;;
  esac
}

arguments=()
setup_only= dose=
while [ $# -gt 0 ]; do
  case "$1" in
    --help|-h) usage; exit 0 ;;
    --setup-only) setup_only=yes; shift ;;
    --dose) arguments+=("$1"); dose=yes; shift ;;
    --force|--tensorboard|--exclude-metal) arguments+=("$1"); shift ;;
    --profile|--data|--region|--input|--ct|--variants|--set|--experiment|--protocol|--group-by|--pairs|--only|--jobs|--minutes-per-variant)
      if [ $# -lt 2 ]; then echo "run_all.sh: $1 needs a value; see ./run_all.sh --help" >&2; exit 2; fi
      arguments+=("$1" "$(meant "$1" "$2")"); shift 2 ;;
    --profile=*|--data=*|--region=*|--input=*|--ct=*|--variants=*|--set=*|--experiment=*|--protocol=*|--group-by=*|--pairs=*|--only=*|--jobs=*|--minutes-per-variant=*)
      arguments+=("${1%%=*}=$(meant "${1%%=*}" "${1#*=}")"); shift ;;
    *) unknown "${1%%=*}" ;;
  esac
done

setup_venv
if [ -n "$dose" ]; then install_dose; fi
[ -n "$setup_only" ] && exit 0
exec .venv/bin/python -m mrict_core suite ${arguments[@]+"${arguments[@]}"}
