#!/usr/bin/env bash
# mini: each head in three sizes, and errors against multiply-adds and bytes: which head is best may change with the size.
# Wants the data: ./run.sh --stop-stage 1. A finished run is not trained again; --seed 2 adds a run a size, and means.
#   ./sweep.sh --sweep encoder.layers=2,4,6    another setting; of several, as below, the first names the runs
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

sweep="encoder.dim=48,72,96 encoder.feedforward=192,288,384"  # runs are exp/sweep/<head>-<seed>-dim48 and so on
seed=1  # of weights, batches and augmentation
options "$@"
read -ra swept <<<"$sweep"
allow=("${swept[@]%%=*}") key=${sweep%%=*} key=${key##*.}
each=("${swept[@]}" "seed=$seed" --test data/test)

stage 3 "CTC"         asrtts sweep conf/ctc.yaml "exp/sweep/ctc-$seed" "${each[@]}"
stage 3 "Transducer"  asrtts sweep conf/transducer.yaml "exp/sweep/transducer-$seed" "${each[@]}"
stage 3 "Attention"   asrtts sweep conf/attention.yaml "exp/sweep/attention-$seed" "${each[@]}"
stage 5 "Comparison"  asrtts compare exp/sweep/*-"$key"* --test data/test "${allow[@]/#/--allow=}" --allow encoder_hash --out exp/sweep
