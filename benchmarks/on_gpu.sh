#!/usr/bin/env bash
# Tests, benchmarks and the study's four rows on a GPU, in at most ten minutes: docs/on-a-gpu.md.
#   benchmarks/on_gpu.sh [tests] [benchmarks] [study]    all three by default
# OUT         the folder of the results, log/on_gpu by default
# PYTHON      the interpreter; .venv/bin/python or python3 by default
# WHEELS      a folder of wheels that this Python lacks; they are installed into a temporary folder
# SECONDS_IN_ALL    540 by default
# ON_GPU_DRY=1      tiny sizes on the CPU, to try the script itself
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8  # deterministic runs need it before cuBLAS starts
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$PYTHONPATH:$site"
fi
"$python" benchmarks/on_gpu.py "$@"
