#!/usr/bin/env bash
# an4: CTC, Transducer and attention, alone and together, on one encoder, the same data and the same budget, in one table.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again; --seed 2 adds a row a head, and means.
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

seed=1  # of weights, batches and augmentation; runs are exp/<head>-<seed>
options "$@"
each=(./run.sh --stage 3 --stop-stage 5 --seed "$seed")

stage 3 "CTC"         "${each[@]}" --head ctc --exp "exp/ctc-$seed"
stage 3 "Transducer"  "${each[@]}" --head transducer --exp "exp/transducer-$seed"
stage 3 "Attention"   "${each[@]}" --head attention --exp "exp/attention-$seed"
stage 3 "Hybrid"      "${each[@]}" --head hybrid --exp "exp/hybrid-$seed"
stage 3 "Transducer and CTC"  "${each[@]}" --head transducer_ctc --exp "exp/transducer_ctc-$seed"
stage 5 "Comparison"  asrtts compare exp/ctc-* exp/transducer-* exp/attention-* exp/hybrid-* exp/transducer_ctc-* --test data/test
