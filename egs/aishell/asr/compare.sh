#!/usr/bin/env bash
# aishell: CTC, Transducer and attention on one encoder, the same data and the same budget, in one table.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again; of several seeds the table holds means.
#   ./compare.sh --seed "1 2 3"
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

preset=  # empty: the published settings; cpu: conf/cpu
lang=    # how espeak-ng says the words, for the emission delay: cmn; empty: every character is a sound of its own
seed=1   # of weights, batches and augmentation, or several; runs are exp/<head>-<seed>, or exp/cpu-<head>-<seed>
options "$@"
each=(./run.sh --stage 3 --stop-stage 5 --seed SEED ${preset:+--preset "$preset"}) exp=exp/${preset:+$preset-}

stage 2 "Alignment"  asrtts align data/test --learn data/train ${lang:+--lang "$lang"}
for_each_seed 3 "CTC, seed SEED"         "${each[@]}" --head ctc --exp "${exp}ctc-SEED"
for_each_seed 3 "Transducer, seed SEED"  "${each[@]}" --head transducer --exp "${exp}transducer-SEED"
for_each_seed 3 "Attention, seed SEED"   "${each[@]}" --head attention --exp "${exp}attention-SEED"
for_each_seed 3 "Hybrid, seed SEED"      "${each[@]}" --head hybrid --exp "${exp}hybrid-SEED"
stage 5 "Comparison"  asrtts compare "$exp"{ctc,transducer,attention,hybrid}-[0-9]* --test data/test \
  --alignment data/alignment/test.ctm
