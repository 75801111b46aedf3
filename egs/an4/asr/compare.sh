#!/usr/bin/env bash
# an4: CTC, Transducer and attention, alone and together, on one encoder, the same data and the same budget, in one table.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again; of several seeds the table holds means.
#   ./compare.sh --seed "1 2 3"
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

seed=1  # of weights, batches and augmentation, or several; runs are exp/<head>-<seed>
options "$@"
each=(./run.sh --stage 3 --stop-stage 5 --seed SEED)

stage 2 "Alignment"  asrtts align data/test --learn data/train
for_each_seed 3 "CTC, seed SEED"                 "${each[@]}" --head ctc --exp exp/ctc-SEED
for_each_seed 3 "Transducer, seed SEED"          "${each[@]}" --head transducer --exp exp/transducer-SEED
for_each_seed 3 "Attention, seed SEED"           "${each[@]}" --head attention --exp exp/attention-SEED
for_each_seed 3 "Hybrid, seed SEED"              "${each[@]}" --head hybrid --exp exp/hybrid-SEED
for_each_seed 3 "Transducer and CTC, seed SEED"  "${each[@]}" --head transducer_ctc --exp exp/transducer_ctc-SEED
stage 5 "Comparison"  asrtts compare exp/{ctc,transducer,attention,hybrid,transducer_ctc}-[0-9]* --test data/test --alignment data/alignment/test.ctm
