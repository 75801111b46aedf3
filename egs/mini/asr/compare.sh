#!/usr/bin/env bash
# mini: CTC, Transducer and attention on one encoder, the same data and the same budget, in one table.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again.
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

lang=en  # en or zh: what is spoken
options "$@"
own=-$lang own=${own#-en}  # ending of the folders: none for en, -zh for zh
each=(./run.sh --stage 3 --stop-stage 5 --lang "$lang")

stage 3 "CTC"         "${each[@]}" --head ctc
stage 3 "Transducer"  "${each[@]}" --head transducer
stage 3 "Attention"   "${each[@]}" --head attention
stage 5 "Comparison"  asrtts compare "exp$own"/{ctc,transducer,attention} --test "data$own/test" --out "exp$own/compare"
