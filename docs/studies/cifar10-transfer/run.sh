#!/usr/bin/env bash
# Trains a part of this study, from the repository's root, on one core:
#
#     docs/studies/cifar10-transfer/run.sh CORE before six-resnet8
#     docs/studies/cifar10-transfer/run.sh CORE cell new-resnet8
#
# The same command goes on where one was stopped. Needs commit 1fab765, by which all parts
# come out as they were trained (PLAN.md), and CIFAR-10 (TFDS_DATA_DIR). What other
# machines trained comes from records/: for each archive `tar -xJf ARCHIVE` in the root
set -euo pipefail
here=docs/studies/cifar10-transfer
core=$1 what=$2 name=$3

experiments() { taskset -c "$core" python -m experiments "$@"; }

study() { # of one size: what is left to say of it
    local size=$1
    shift
    experiments study "runs/$name.tune/best.json" --name "$name-$size" --evaluations 2 \
        --measurements 0 "$@"
}

case $what in
before)
    experiments study "$here/$name.json"
    cp "runs/$name/uniform-0/weights.npz" "$here/$name.npz"
    ;;
cell)
    [ -e "runs/$name.tune/best.json" ] ||
        experiments tune "$here/$name.json" --evaluations 1 \
            --rates 0.004 0.008 0.016 0.032 0.064 0.128 0.256
    case $name in
    new-*)
        study 20 --images-per-class 20 --epochs 100
        study 100
        study 500 --images-per-class 500 --epochs 8.0645
        ;;
    noise)
        study 20 --images-per-class 20 --epochs 33.3333
        study 100
        study 500 --images-per-class 500 --epochs 3.2051
        ;;
    *) study 100 ;;
    esac
    ;;
esac
