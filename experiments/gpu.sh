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
  workers=()
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n 8)  # the compiler is slow
  timeout 180 "$python" -m pytest -v -rs -m cuda -p no:cacheprovider "${workers[@]}" \
    tests/agents tests/rlrep/test_replay_files.py 2>&1 | tee "$out/gpu_tests.txt" || failed=1
else
  echo "pytest is not installed: the CUDA tests are skipped"
fi
"$python" -m rlrep.experiments.benchmark device="${DEVICE:-cuda}" minutes="${MINUTES:-5.5}" out="$out/gpu.json" "$@" \
  2>"$out/gpu_progress.txt" | tee "$out/gpu_table.txt" || failed=1
exit $failed
