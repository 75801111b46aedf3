#!/usr/bin/env bash
# warp-rnnt 0.7.0, a Transducer loss for CUDA, into the environment that asrtts is in.
#   tools/install_warp_rnnt.sh
# Safe to repeat: what is installed is left alone.
#
# It builds on a machine with the CUDA toolkit (nvcc) and a CUDA build of torch only; its setup.py has no CPU version.
# asrtts does not need it: its own loss is exact on CPU and CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
python=${PYTHON:-python3}
[[ ! -x .venv/bin/python || -n ${PYTHON-}${VIRTUAL_ENV-} ]] || python=.venv/bin/python

if "$python" -c 'import torch, warp_rnnt' 2>/dev/null; then
  echo "$python: warp_rnnt is there already" && exit 0
fi
"$python" -c 'import torch' 2>/dev/null || { echo "$python has no torch: install asrtts first (make demo)" >&2; exit 1; }
"$python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' || {
  echo "$python has a CPU build of torch: warp-rnnt is for CUDA only. Nothing was changed" >&2
  exit 1
}
command -v nvcc >/dev/null || { echo "nvcc is not on the PATH: install the CUDA toolkit of torch's version" >&2; exit 1; }
# Without build isolation, since it builds against the torch that is installed.
"$python" -m pip install -c constraints.txt setuptools wheel
"$python" -m pip install -c constraints.txt --no-build-isolation warp-rnnt==0.7.0
"$python" -c 'import torch, warp_rnnt'
echo "$python: warp_rnnt is installed"
