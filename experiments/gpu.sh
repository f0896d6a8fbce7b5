#!/usr/bin/env bash
# Runs everything that needs a GPU, in under 9 minutes: first the tests that are skipped without one, then the table.
#   experiments/gpu.sh [key=value ...]    passes the settings to rlrep.experiments.benchmark; writes to $OUT (or .)
# Fails if a test or a measurement fails. The first line names the renderer: llvmpipe means that OpenGL has no GPU.
# PYTHON is the interpreter; it needs only torch, the extra `train`, and pytest for the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-.}
failed=0
"$python" -m rlrep.envs.check || failed=1
if "$python" -c 'import pytest' 2>/dev/null; then
  rm -f "$out/gpu_tests.txt"
  # First the tests without the compiler, which is slow.
  for tests in "not accelerate" accelerate; do
    timeout 120 "$python" -m pytest -q -rs -m cuda -k "$tests" -p no:cacheprovider tests/agents 2>&1 \
      | tee -a "$out/gpu_tests.txt" || failed=1
  done
else
  echo "pytest is not installed: the CUDA tests are skipped"
fi
"$python" -m rlrep.experiments.benchmark device="${DEVICE:-cuda}" minutes="${MINUTES:-4.5}" out="$out/gpu.json" "$@" \
  2>"$out/gpu_progress.txt" | tee "$out/gpu_table.txt" || failed=1
exit $failed
