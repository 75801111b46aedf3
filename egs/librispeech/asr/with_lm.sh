#!/usr/bin/env bash
# librispeech: what an n-gram of the training text, or of more text, adds to a head. Its weights are chosen on dev.
# Wants a run: ./run.sh, with the same --head and --preset.
#   ./with_lm.sh --head transducer
#   ./with_lm.sh --exp exp/ctc-1 --text books.txt    a run of ./compare.sh, a text of your own
#   ./compare_lm.sh                                  every head and seed, and one table
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

head=ctc           # ctc, transducer, attention or hybrid
preset=            # empty: the run of the published settings; cpu: that of conf/cpu
exp=               # folder of the run; empty: exp/<head>, or exp/cpu-<head>
test="test-other"  # or test-clean
text=data/train    # of the n-gram: a manifest, or a .txt file with one sentence a line
order=6            # of the n-gram, in tokens (here pieces of words)
options "$@"
exp=${exp:-exp/${preset:+$preset-}$head}

stage 3 "Language model"    asrtts lm "$text" exp/lm --order "$order"
stage 4 "Weights on dev"    asrtts tune "$exp" data/dev lm=exp/lm
stage 4 "Decoding with LM"  asrtts decode "$exp" "data/$test" --tuned lm --threads 1
stage 5 "Scoring"           asrtts score "$exp" --on "$test" --name "$test" --name "${test}_lm"
stage 5 "Comparison"        asrtts compare "$exp" "$exp:${test}_lm" --test "data/$test" --allow search.lm --out "$exp/with_lm"
