#!/usr/bin/env bash
# mini: CTC, Transducer and attention on one encoder, the same data and the same budget, in one table.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again; of several seeds the table holds means.
#   ./compare.sh --seed "1 2 3"
# The demo has ten minutes, which leave out the hybrid: copy the line of attention with --head hybrid, and name it in the last.
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

lang=en  # en or zh: what is spoken
seed=1   # of weights, batches and augmentation, or several; runs are exp/<head>-<seed>, exp-zh/<head>-<seed>
options "$@"
own=-$lang own=${own#-en}  # ending of the folders: none for en, -zh for zh
each=(./run.sh --stage 3 --stop-stage 5 --lang "$lang" --seed SEED)

stage 2 "Alignment"  asrtts align "data$own/test" --learn "data$own/dev"
for_each_seed 3 "CTC, seed SEED"         "${each[@]}" --head ctc --exp "exp$own/ctc-SEED"
for_each_seed 3 "Transducer, seed SEED"  "${each[@]}" --head transducer --exp "exp$own/transducer-SEED"
for_each_seed 3 "Attention, seed SEED"   "${each[@]}" --head attention --exp "exp$own/attention-SEED"
stage 5 "Comparison"  asrtts compare "exp$own"/{ctc,transducer,attention}-[0-9]* --test "data$own/test" \
  --alignment "data$own/alignment/test.ctm" --out "exp$own/compare"
