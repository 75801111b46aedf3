#!/usr/bin/env bash
# aishell: CTC, Transducer and attention on one encoder, the same data and the same budget, in one table.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again.
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

preset=            # empty: the published settings; cpu: conf/cpu
options "$@"
each=(./run.sh --stage 3 --stop-stage 5 ${preset:+--preset "$preset"}) exp=exp/${preset:+$preset-}

stage 3 "CTC"         "${each[@]}" --head ctc
stage 3 "Transducer"  "${each[@]}" --head transducer
stage 3 "Attention"   "${each[@]}" --head attention
stage 3 "Hybrid"      "${each[@]}" --head hybrid
stage 5 "Comparison"  asrtts compare "${exp}ctc" "${exp}transducer" "${exp}attention" "${exp}hybrid" --test data/test
