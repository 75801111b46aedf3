#!/usr/bin/env bash
# mini: a spoken command grammar of about 25 words that espeak-ng synthesizes at stage 0; nothing is downloaded.
#   ./run.sh                               the whole road with the CTC head
#   ./run.sh --stage 3 --head transducer   from training on, with another head
#   ./run.sh --lang zh                     in Mandarin, in data-zh and exp-zh; so ./compare.sh --lang zh
#   ./compare.sh                           every head, and one table
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

lang=en   # en or zh: what is spoken
head=ctc  # ctc, transducer, attention or hybrid: conf/<head>.yaml
seed=1    # of weights, batches and augmentation
exp=      # folder of the run; empty: exp/<head>, exp-zh/<head>
options "$@"
own=-$lang own=${own#-en}  # ending of the folders: none for en, -zh for zh
conf=conf/$head.yaml data=data$own exp=${exp:-exp$own/$head}
heard=("data.train=$data/train" "data.dev=$data/dev" "data.tokens=$data/tokens")

stage 0 "Synthesis"         asrtts download mini "downloads/$lang" --lang "$lang"
stage 1 "Data preparation"  asrtts prepare mini "downloads/$lang" "$data"
stage 1 "Tokens"            asrtts tokenize "$data/train" "$data/tokens" --kind char
stage 1 "Tokens fit data"   asrtts prepare mini "downloads/$lang" "$data" --tokens "$data/tokens"
stage 3 "Training"          asrtts train "$conf" "$exp" "seed=$seed" "${heard[@]}"
stage 3 "Averaging"         asrtts average "$exp"
stage 4 "Decoding"          asrtts decode "$exp" "$data/test" --threads 1
stage 5 "Scoring"           asrtts score "$exp" --on "$data/test"
