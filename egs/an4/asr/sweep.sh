#!/usr/bin/env bash
# an4: the heads with CTC in three sizes, errors against multiply-adds and bytes: the best head may change with the size.
# From random weights, with the whole budget: an encoder of another size cannot begin with that of conf/pretraining.yaml.
# Transducer and attention alone do not learn so. Wants the data: ./run.sh --stop-stage 1. A finished run is not trained
# again; --seed 2 adds a run a size, and means.
#   ./sweep.sh --sweep encoder.layers=4,8,12    another setting; of several, as below, the first names the runs
cd "$(dirname "$0")" || exit
. ../../../utils/stages.sh

sweep="encoder.dim=72,108,144 encoder.feedforward=288,432,576"  # runs are exp/sweep/<head>-<seed>-dim72 and so on
seed=1  # of weights, batches and augmentation
options "$@"
read -ra swept <<<"$sweep"
allow=("${swept[@]%%=*}") key=${sweep%%=*} key=${key##*.}
budget=(training.updates=4000 training.keep_last=10 training.optimizer.warmup_updates=500)
each=("${swept[@]}" "seed=$seed" "${budget[@]}" --test data/test)

stage 3 "CTC"         asrtts sweep conf/ctc.yaml "exp/sweep/ctc-$seed" "${each[@]}"
stage 3 "Hybrid"      asrtts sweep conf/hybrid.yaml "exp/sweep/hybrid-$seed" "${each[@]}"
stage 3 "Transducer and CTC"  asrtts sweep conf/transducer_ctc.yaml "exp/sweep/transducer_ctc-$seed" "${each[@]}"
stage 5 "Comparison"  asrtts compare exp/sweep/*-"$key"* --test data/test "${allow[@]/#/--allow=}" --allow encoder_hash --out exp/sweep
