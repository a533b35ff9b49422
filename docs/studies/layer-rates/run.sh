#!/usr/bin/env bash
# Trains a cell of this study, from the repository's root, on one core:
#
#     docs/studies/layer-rates/run.sh CORE resnet8
#
# The same command goes on where one was stopped; `replay` comes after `rules`. Needs the
# commit that all cells are trained by (PLAN.md), and CIFAR-10 (TFDS_DATA_DIR). What other
# machines trained comes from records/: for each archive `tar -xJf ARCHIVE` in the root
set -euo pipefail
here=docs/studies/layer-rates
core=$1 cell=$2 name=layer-rates-$2

experiments() { taskset -c "$core" python -m experiments "$@"; }

case $cell in # half the steps to tune
resnet8 | plain8 | rules | replay | layca) epochs=2 half=1 ;;
resnet14 | plain14 | plain20) epochs=1.5 half=0.75 ;;
resnet8-tenth | plain8-tenth) epochs=10 half=5 ;;
esac
rates=(0.0125 0.025 0.05 0.1 0.2)
[ "$cell" != plain20 ] || rates=(0.00125 0.0025 0.005 0.01 0.02)

if [ "$cell" = replay ]; then
    [ -e "$here/replay.json" ] || python "$here/replay.py" runs/layer-rates-rules
    begun=$here/replay.json
else
    begun=runs/$name.tune/best.json
    [ -e "$begun" ] || experiments tune "$here/$cell.json" --epochs $half \
        --evaluations 1 --rates "${rates[@]}"
fi
experiments study "$begun" --name "$name" --epochs $epochs --evaluations 14
