#!/usr/bin/env bash
# Everything that needs a GPU, in one run of under 9 minutes: the tests that skip without one, then the table.
#   experiments/gpu.sh [key=value ...]    the words go to rlrep.experiments.benchmark; results are written to $OUT (or .)
# It fails if a test or a measurement does. The first line says what draws: llvmpipe there means no GPU for OpenGL.
# PYTHON is the interpreter; it needs no more than torch, the train extra, and pytest for the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-.}
failed=0
"$python" -m rlrep.envs.check || failed=1
if "$python" -c 'import pytest' 2>/dev/null; then
  # The plain ones first: the compiler may take its time.
  for tests in "not accelerate" accelerate; do
    timeout 80 "$python" -m pytest -q -rs -m cuda -k "$tests" -p no:cacheprovider tests/agents 2>&1 \
      | tee -a "$out/gpu_tests.txt" || failed=1
  done
else
  echo "no pytest here: the CUDA tests are left out"
fi
"$python" -m rlrep.experiments.benchmark device="${DEVICE:-cuda}" minutes="${MINUTES:-5.5}" out="$out/gpu.json" "$@" \
  2>"$out/gpu_progress.txt" | tee "$out/gpu_table.txt" || failed=1
exit $failed
