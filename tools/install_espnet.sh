#!/usr/bin/env bash
# ESPnet 202511 in an environment of its own, tools/espnet, to compare with and to read its checkpoints. About 2 GB.
#   tools/install_espnet.sh            then: tools/espnet/bin/python -c 'import espnet2'
# Safe to repeat: what is installed is left alone.
#
# Why so: `pip install espnet` asks for setuptools<74, torch 2.13 for setuptools>=77, and pip refuses one of its
# dependencies (ci_sdr). So ESPnet comes without its dependencies, and those that its ASR and TTS import come by name.
# torchaudio comes as a CUDA build, which does not load beside a CPU build of torch: there its compiled part is taken out,
# and the rest, which is Python, serves. What is missing then: ESPnet's Transducers, whose loss (warprnnt_pytorch) is in
# no registry.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
python=tools/espnet/bin/python

works() { # takes half a minute: ESPnet imports much
  "$python" -c 'from espnet2.tasks.asr import ASRTask; ASRTask.get_parser(); import espnet2.bin.asr_inference'
}

if [[ -x $python ]] && works 2>/dev/null; then
  echo "tools/espnet: ESPnet is there already" && exit 0
fi
"${PYTHON:-python3}" -m venv tools/espnet
"$python" -m pip install -c constraints.txt torch setuptools wheel
"$python" -m pip install -c constraints.txt --no-deps espnet==202511 espnet_tts_frontend fast-bss-eval==0.1.3 \
  asteroid_filterbanks==0.4.0 ci_sdr torchaudio==2.11.0
if "$python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
  find tools/espnet -path '*/torchaudio/*' -name '*.so' -delete
fi
# Some have no wheel (pyworld, ctc-segmentation): a C compiler is needed.
"$python" -m pip install -c constraints.txt numpy scipy packaging configargparse typeguard humanfriendly filelock \
  librosa jamo==0.4.1 PyYAML soundfile h5py kaldiio torch_complex nltk protobuf hydra-core opt-einsum lightning \
  sentencepiece pyworld 'pypinyin<=0.44' editdistance importlib-metadata ctc-segmentation g2p-en inflect unidecode \
  einops jaconv tensorboard matplotlib
works || { echo "tools/espnet: installed, but ESPnet does not import; see above" >&2; exit 1; }
echo "tools/espnet: ESPnet is installed; start it with $python -m espnet2.bin.asr_train"
