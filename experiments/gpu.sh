#!/usr/bin/env bash
# Everything that needs a GPU, in one run of under 9 minutes: the tests that skip without one, then the table.
#   experiments/gpu.sh [key=value ...]    the words go to experiments.benchmark; results are written to $OUT (or .)
# PYTHON is the interpreter; it needs no more than torch, the train extra, and pytest for the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-.}
if "$python" -c 'import pytest' 2>/dev/null; then
  timeout 120 "$python" -m pytest -q -rs -m cuda -p no:cacheprovider tests/agents 2>&1 | tee "$out/gpu_tests.txt"
else
  echo "no pytest here: the CUDA tests are left out"
fi
"$python" -m experiments.benchmark device="${DEVICE:-cuda}" minutes="${MINUTES:-6.5}" out="$out/gpu.json" "$@" 2>"$out/gpu_progress.txt" | tee "$out/gpu_table.txt"
