#!/usr/bin/env bash
# an4: which of some settings is better, by cross-validation on train and dev: dev alone is a poor proxy, and test is not read.
# As in run.sh, every model begins with an encoder that CTC has trained; here on the same folds, one for each of them.
# Wants the data: ./run.sh --stop-stage 1. A finished fold is not trained again, also when settings are added.
#   ./folds.sh --confs "conf/ctc.yaml conf/transducer_ctc.yaml"
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

confs="conf/ctc.yaml conf/ctc.yaml,encoder.dropout=0.1"  # files, with changes behind commas
folds=3  # each setting is trained as many times, on the other folds
seed=1   # of weights, batches and augmentation
options "$@"
read -ra settings <<<"$confs"
first=(--encoder conf/pretraining.yaml exp/folds/encoder)

stage 3 "Cross-validation"  asrtts crossvalidate "${settings[@]}" "seed=$seed" "${first[@]}" --folds "$folds" --out exp/folds
