#!/usr/bin/env bash
# an4: what an n-gram of the training text adds to a head. Its weights are chosen on dev. Wants a run: ./run.sh
#   ./with_lm.sh --head transducer
#   ./compare_lm.sh    every head and seed, and one table
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

head=ctc  # ctc, transducer, attention, hybrid or transducer_ctc
exp=      # folder of the run; empty: exp/<head>
order=6   # of the n-gram, in tokens
options "$@"
exp=${exp:-exp/$head}

stage 3 "Language model"    asrtts lm data/train exp/lm --order "$order"
stage 4 "Weights on dev"    asrtts tune "$exp" data/dev lm=exp/lm
stage 4 "Decoding with LM"  asrtts decode "$exp" data/test --tuned lm --threads 1
stage 5 "Scoring"           asrtts score "$exp" --on test --name test --name test_lm
stage 5 "Comparison"        asrtts compare "$exp" "$exp:test_lm" --test data/test --allow search.lm --out "$exp/with_lm"
