#!/usr/bin/env bash
# Trains a part of this study, from the repository's root, on one core:
#
#     docs/studies/text-gpt/run.sh CORE adamw
#     docs/studies/text-gpt/run.sh CORE muon
#
# The same command goes on where one was stopped. Needs the commit that all parts are
# trained by (PLAN.md) and Python 3.11.7, whose library is the text; this script may be
# that of a newer checkout. What other machines trained comes from records/: for each
# archive `tar -xJf ARCHIVE` in the root
set -euo pipefail
here=docs/studies/text-gpt
between=$(dirname "${BASH_SOURCE[0]}")/../between.py
core=$1 cell=$2 name=text-gpt-$2
export PYTHONPATH=.
# as experiments/training/memory.py does, which the commit that trains does not have
export GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184

experiments() { taskset -c "$core" python -m experiments "$@"; }

begun=runs/$name.tune/study.json
if [ ! -e "$begun" ]; then
    rates=() more=(0.002 0.004 0.008)
    while [ ${#more[@]} != 0 ] && [ ${#rates[@]} -lt 6 ]; do
        rates+=("${more[@]}")
        experiments tune "$here/$cell.json" --epochs 0.256 --evaluations 1 \
            --rate 0.004 --rates "${rates[@]}"
        read -ra more <<<"$(python "$between" "runs/$name.tune" --beyond)"
    done
    python "$between" "runs/$name.tune"
fi
experiments study "$begun" --name "$name" --epochs 0.512 --evaluations 25
