#!/usr/bin/env bash
# AN4 (CMU, 1991): spelled and spoken census items, less than an hour. ESPnet's split, no language model.
# Every head begins with the encoder that CTC trained for the first part of the budget: conf/pretraining.yaml says why.
#   ./run.sh                               the whole road with the CTC head
#   ./run.sh --stage 3 --head transducer   from training on, with another head
#   ./run.sh --seed 2 --exp exp/ctc-2      another seed beside the first
#   ./compare.sh                           every head, and one table
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

corpus=    # folder that has the corpus; empty: ASRTTS_CORPORA has it, or it is downloaded
head=ctc   # ctc, transducer, attention, hybrid or transducer_ctc: conf/<head>.yaml
seed=1     # of weights, batches and augmentation
exp=       # folder of the run; empty: exp/<head>
options "$@"
conf=conf/$head.yaml exp=${exp:-exp/$head}

stage 0 "Download"          asrtts download an4 downloads ${corpus:+--corpus "$corpus"}
stage 1 "Data preparation"  asrtts prepare an4 downloads data ${corpus:+--corpus "$corpus"}
stage 1 "Tokens"            asrtts tokenize data/train data/tokens --kind char
stage 1 "Tokens fit data"   asrtts prepare an4 downloads data ${corpus:+--corpus "$corpus"} --tokens data/tokens
stage 3 "Encoder"           asrtts train conf/pretraining.yaml "exp/encoder-$seed" "seed=$seed"
stage 3 "Encoder, averaged" asrtts average "exp/encoder-$seed"
stage 3 "Training"          asrtts train "$conf" "$exp" "seed=$seed" --init "asrtts:exp/encoder-$seed/model.safetensors"
stage 3 "Averaging"         asrtts average "$exp"
stage 4 "Decoding"          asrtts decode "$exp" data/test --threads 1
stage 5 "Scoring"           asrtts score "$exp" --on test
