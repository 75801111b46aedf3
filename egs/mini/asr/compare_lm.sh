#!/usr/bin/env bash
# mini: what an n-gram adds to each head, over all seeds. Its weights are chosen on dev, for each run.
# Wants the runs: ./compare.sh. What it has not trained is left out.
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

order=6  # of the n-gram, in tokens
options "$@"
shopt -s nullglob
runs=(exp/{ctc,transducer,attention,hybrid}-[0-9]*)

stage 3 "Language model"    asrtts lm data/train exp/lm --order "$order"
stage 4 "Weights on dev"    asrtts tune "${runs[@]}" data/dev lm=exp/lm
stage 4 "Decoding with LM"  asrtts decode "${runs[@]}" data/test --tuned lm --threads 1
stage 5 "Scoring"           asrtts score "${runs[@]}" --on test --name test --name test_lm
stage 5 "Comparison"        asrtts compare "${runs[@]}" "${runs[@]/%/:test_lm}" --test data/test --allow search.lm --out exp/compare_lm
