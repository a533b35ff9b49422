#!/usr/bin/env bash
# Trains a cell of this study, from the repository's root, on one core:
#
#     docs/studies/layer-rates/run.sh CORE resnet8
#
# The same command goes on where one was stopped; `replay` comes after `rules`. Needs the
# commit that all cells are trained by (PLAN.md), and CIFAR-10 (TFDS_DATA_DIR); this script
# may be that of a newer checkout. What other machines trained comes from records/: for
# each archive `tar -xJf ARCHIVE` in the root
set -euo pipefail
here=docs/studies/layer-rates
between=$(dirname "${BASH_SOURCE[0]}")/../between.py
core=$1 cell=$2 name=layer-rates-$2
export PYTHONPATH=.
# as experiments/training/memory.py does, which the commit that trains does not have
export GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184

experiments() { taskset -c "$core" python -m experiments "$@"; }
tune() {
    experiments tune "$here/$cell.json" --epochs $trial --evaluations 1 --rates "$@"
}

case $cell in # epochs of a trial, and of a run
*-tenth*) trial=10 epochs=15 ;;
*) trial=1 epochs=1.5 ;;
esac
rates=(0.025 0.05 0.1 0.2 0.4)
[ "$cell" != plain20 ] || rates=(0.0025 0.005 0.01 0.02 0.04)

if [[ $cell = *-alike ]]; then
    begun=$here/$cell.json
elif [ "$cell" = replay ]; then
    [ -e "$here/replay.json" ] || python "$here/replay.py" runs/layer-rates-rules
    begun=$here/replay.json
else
    begun=runs/$name.tune/study.json
    if [ ! -e "$begun" ]; then
        tune "${rates[@]}"
        read -ra more <<<"$(python "$between" "runs/$name.tune" --beyond)"
        [ ${#more[@]} = 0 ] || tune "${rates[@]}" "${more[@]}"
        python "$between" "runs/$name.tune"
    fi
fi
experiments study "$begun" --name "$name" --epochs $epochs --evaluations 10
