#!/usr/bin/env bash
# Runs the tests that need CUDA and "fg-depth bench" on this machine's GPU; writes one JSON.
#
#   .ci/gpu.sh [WHEELS] [OUT.json]
#
# For a bare machine without a network, whose Python has PyTorch with CUDA. What else is missing is installed from WHEELS,
# a folder of wheels for that Python (pip download -c constraints.txt -d WHEELS ".[engines,onnx,test]" onnxruntime-gpu
# tensorrt), into an environment of its own. Without the wheels of ROS the node is left out, and without those of an
# engine that engine; the JSON names what was.
#
#   PYTHON    the Python that has PyTorch (python3)
#   VENV      folder of the environment (.venv-gpu)
#   REPEATS   timed runs of each combination (50)
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=${1:-} out=${2:-gpu.json} python=${PYTHON:-python3} venv=${VENV:-.venv-gpu}
[ -z "$wheels" ] || [ -d "$wheels" ] || { echo ".ci/gpu.sh: $wheels is no folder of wheels" >&2; exit 2; }

# It sees the packages of PYTHON, also where that is of an environment itself: PyTorch stays the one of the machine.
[ -x "$venv/bin/python" ] || "$python" -m venv --without-pip "$venv"
touch "$venv/COLCON_IGNORE"
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' > "$packages/machine.pth"
if [ -n "$wheels" ]; then
  shopt -s nullglob
  for wheel in "$wheels"/*.whl; do
    name=$(basename "$wheel" | cut -d- -f1)
    there='import sys; from importlib import metadata; metadata.version(sys.argv[1])'
    "$venv/bin/python" -c "$there" "$name" 2> /dev/null ||
      "$python" -m pip install -q --no-index --no-deps --target "$packages" "$wheel" ||
      echo ".ci/gpu.sh: $wheel could not be installed, left out" >&2
  done
fi
export PYTHONPATH=$PWD ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
exec "$venv/bin/python" .ci/gpu.py "$out" "${REPEATS:-50}"
