#!/usr/bin/env bash
# Build this documentation as a site that is readable offline: reports/site/index.html. Any warning is an error.
# Arguments go to Sphinx: docs/build.sh -E reads every page again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
site="${MRICT_REPORTS:-reports}/site"
.venv/bin/python -m sphinx -b html -W --keep-going -q -d "$site/.doctrees" "$@" docs "$site"
echo "open $site/index.html"
