#!/usr/bin/env bash
# Build this documentation as a site that is readable offline: reports/site/index.html. Any warning is an error.
# Arguments go to Sphinx; `-t quick` leaves out the API pages and the notebooks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
site="${MRICT_REPORTS:-reports}/site"
python=.venv/bin/python
[ -x "$python" ] || python=python3

# Every page is built anew: the code, reports/ and the list of pages may have changed.
parsed=$(mktemp -d)
trap 'rm -rf "$parsed"' EXIT
rm -rf "$site"
"$python" -m sphinx -b html -W --keep-going -q -d "$parsed" "$@" docs "$site"
echo "open $site/index.html"
