#!/usr/bin/env bash
# LibriSpeech: 960 hours of read English books, of which stage 0 fetches the 100 of train-clean-100, dev and test.
#   ./run.sh                               the whole road with the CTC head, settings for GPU machines
#   ./run.sh --stage 3 --head transducer   from training on, with another head
#   ./run.sh --preset cpu                  a small model for two CPU cores and a part of the corpus
#   ./compare.sh                           every head, and one table
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

corpus=            # folder that has the corpus; empty: ASRTTS_CORPORA has it, or it is downloaded
head=ctc           # ctc, transducer, attention or hybrid: conf/<head>.yaml
preset=            # empty: the published settings; cpu: conf/cpu
test="test-other"  # or test-clean, dev: a manifest in data
seed=1             # of weights, batches and augmentation
exp=               # folder of the run; empty: exp/<head>, or exp/cpu-<head>
options "$@"
conf=conf${preset:+/$preset}/$head.yaml exp=${exp:-exp/${preset:+$preset-}$head}

stage 0 "Download"          asrtts download librispeech downloads ${corpus:+--corpus "$corpus"}
stage 1 "Data preparation"  asrtts prepare librispeech downloads data ${corpus:+--corpus "$corpus"}
stage 1 "Tokens"            asrtts tokenize data/train data/tokens --kind bpe --size 500
stage 1 "Tokens fit data"   asrtts prepare librispeech downloads data ${corpus:+--corpus "$corpus"} --tokens data/tokens
stage 3 "Training"          asrtts train "$conf" "$exp" "seed=$seed"
stage 3 "Averaging"         asrtts average "$exp"
stage 4 "Decoding"          asrtts decode "$exp" "data/$test" --threads 1
stage 5 "Scoring"           asrtts score "$exp" --on "$test"
