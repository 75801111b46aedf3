#!/usr/bin/env bash
# an4: each head in three sizes, and errors against multiply-adds and bytes: which head is best may change with the size.
# As in run.sh, every head begins with an encoder that CTC has trained: one of its size, which all heads share.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again; --seed 2 adds a run a size, and means.
#   ./sweep.sh --sweep encoder.layers=4,8,12    another setting; of several, as below, the first names the runs
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

sweep="encoder.dim=72,108,144 encoder.feedforward=288,432,576"  # runs are exp/sweep/<head>-<seed>-dim72 and so on
seed=1  # of weights, batches and augmentation
options "$@"
read -ra swept <<<"$sweep"
allow=("${swept[@]%%=*}") key=${sweep%%=*} key=${key##*.}
first=(--encoder conf/pretraining.yaml "exp/sweep/encoders/$seed")  # a folder deeper: the comparison names all runs
each=("${swept[@]}" "seed=$seed" "${first[@]}" --test data/test)

stage 3 "CTC"         asrtts sweep conf/ctc.yaml "exp/sweep/ctc-$seed" "${each[@]}"
stage 3 "Transducer"  asrtts sweep conf/transducer.yaml "exp/sweep/transducer-$seed" "${each[@]}"
stage 3 "Attention"   asrtts sweep conf/attention.yaml "exp/sweep/attention-$seed" "${each[@]}"
stage 3 "Hybrid"      asrtts sweep conf/hybrid.yaml "exp/sweep/hybrid-$seed" "${each[@]}"
stage 3 "Transducer and CTC"  asrtts sweep conf/transducer_ctc.yaml "exp/sweep/transducer_ctc-$seed" "${each[@]}"
stage 5 "Comparison"  asrtts compare exp/sweep/*-"$key"* --test data/test "${allow[@]/#/--allow=}" --allow encoder_hash --out exp/sweep
