#!/usr/bin/env bash
# NeMo 3.0.0 in an environment of its own, tools/nemo, to compare with. About 2 GB.
#   tools/install_nemo.sh              then: PEER_PATH=$(echo $PWD/tools/nemo/lib/*/site-packages) make bench
# Safe to repeat: what is installed is left alone.
#
# Without [asr] its speech part does not import. Of our constraints only torch's holds here: NeMo wants an older fsspec.
# On a CPU its Transducer loss walks the lattice in Python.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_CONSTRAINT=tools/nemo/constraints.txt PIP_BUILD_CONSTRAINT=tools/nemo/constraints.txt
python=tools/nemo/bin/python

works() {
  "$python" -c 'from nemo.collections.asr.parts.numba.rnnt_loss import RNNTLossNumba' >/dev/null
}

if [[ -x $python ]] && works 2>/dev/null; then
  echo "tools/nemo: NeMo is there already" && exit 0
fi
"${PYTHON:-python3}" -m venv tools/nemo
grep '^torch==' constraints.txt >tools/nemo/constraints.txt
"$python" -m pip install torch setuptools wheel
"$python" -m pip install 'nemo-toolkit[asr]==3.0.0'
works || { echo "tools/nemo: installed, but NeMo's Transducer loss does not import; see above" >&2; exit 1; }
echo "tools/nemo: NeMo is installed; PEER_PATH names it to the benchmarks"
