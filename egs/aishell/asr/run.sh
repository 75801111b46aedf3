#!/usr/bin/env bash
# AISHELL-1: 178 hours of read Mandarin.
#   ./run.sh                               the whole road with the CTC head, settings for GPU machines
#   ./run.sh --stage 3 --head transducer   from training on, with another head
#   ./run.sh --preset cpu                  a small model for two CPU cores and a part of the corpus
#   ./compare.sh                           every head, and one table
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

corpus=    # folder that has the corpus; empty: ASRTTS_CORPORA has it, or it is downloaded
head=ctc   # ctc, transducer, attention or hybrid: conf/<head>.yaml
preset=    # empty: the published settings; cpu: conf/cpu
seed=1     # of weights, batches and augmentation
exp=       # folder of the run; empty: exp/<head>, or exp/cpu-<head>
options "$@"
conf=conf${preset:+/$preset}/$head.yaml exp=${exp:-exp/${preset:+$preset-}$head}

stage 0 "Download"          asrtts download aishell downloads ${corpus:+--corpus "$corpus"}
stage 1 "Data preparation"  asrtts prepare aishell downloads data ${corpus:+--corpus "$corpus"}
stage 1 "Tokens"            asrtts tokenize data/train data/tokens --kind char
stage 1 "Tokens fit data"   asrtts prepare aishell downloads data ${corpus:+--corpus "$corpus"} --tokens data/tokens
stage 3 "Training"          asrtts train "$conf" "$exp" "seed=$seed"
stage 3 "Averaging"         asrtts average "$exp"
stage 4 "Decoding"          asrtts decode "$exp" data/test --threads 1
stage 5 "Scoring"           asrtts score "$exp" --on test
