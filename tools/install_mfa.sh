#!/usr/bin/env bash
# The Montreal Forced Aligner in an environment of its own, tools/mfa, through conda, mamba or micromamba.
#   tools/install_mfa.sh               then: tools/mfa/bin/mfa version
# Safe to repeat: what is installed is left alone.
#
# Why conda: pip installs MFA's Python side, which then does not start, as its Kaldi part (kalpy) is built by conda
# alone. Nothing in asrtts needs MFA yet; alignments for speech synthesis will.
set -euo pipefail
cd "$(dirname "$0")/.."

if tools/mfa/bin/mfa version >/dev/null 2>&1; then
  echo "tools/mfa: the aligner is there already" && exit 0
fi
for conda in micromamba mamba conda ""; do
  [[ -z $conda ]] || ! command -v "$conda" >/dev/null || break
done
[[ -n $conda ]] || {
  echo "none of micromamba, mamba and conda is on the PATH: install one of them first. Nothing was changed" >&2
  exit 1
}
"$conda" create --yes --prefix "$PWD/tools/mfa" --channel conda-forge montreal-forced-aligner
tools/mfa/bin/mfa version
echo "tools/mfa: the aligner is installed; put $PWD/tools/mfa/bin on the PATH"
