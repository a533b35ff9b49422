"""What the plan compares besides each policy with uniform.

    python docs/studies/text-gpt/contrasts.py runs/NAME …

writes results/contrasts.json: of each study, for each contrast, the mean over the seeds
of its differences in test loss and in the logarithm of the steps to the same loss, with
95 % interval and Holm's p within the study. Contrasts are a method minus its control
(controls.py), and the gain of `ends_at_three` minus half of that of LLR: below 0 where
it has more than half.
"""

import dataclasses
import sys
from pathlib import Path

from experiments.analysis import compare, significance
from experiments.analysis.questions import questions
from experiments.config.measures import LOSS
from experiments.records import records

OUT = Path(__file__).with_name("results") / "contrasts.json"
PAIRS = {
    "blockwise": "annealed_as_blockwise",
    "ramped-tail-exponent": "shapes_at_three",
}
PART, WHOLE = "ends_at_three", "ramped-tail-exponent"


def contrasts(runs, controls):
    """Of each question, each contrast whose policies were run.

    Args:
        runs: of one study.
        controls: policy → the policy it is compared with.
    """
    to_uniform = compare.rows(runs, (), controls, LOSS)
    to_pairs = compare.rows(runs, (), controls | PAIRS, LOSS)
    found = {}
    for name, question in questions(LOSS).items():
        gains = compare.differences(to_uniform, name, LOSS)
        pairs = compare.differences(to_pairs, name, LOSS)
        ran = {row.policy for row in to_uniform}
        values = {
            f"{policy} − {control}": pairs[policy]
            for policy, control in PAIRS.items()
            if {policy, control} <= ran
        }
        if {PART, WHOLE} <= ran:
            values[f"{PART} − half of {WHOLE}"] = {
                seed: gain - gains[WHOLE][seed] / 2
                for seed, gain in gains[PART].items()
                if seed in gains[WHOLE]
            }
        found[name] = significance.corrected(
            {key: _mean(of, question.same_within) for key, of in values.items()}
        )
    return found


def _mean(values, margin):
    return significance.paired(values, dict.fromkeys(values, 0.0), margin=margin)


def write(folders):
    """Writes contrasts.json of the studies in these folders."""
    told = {}
    for folder in folders:
        read = records.read(folder)
        about = read.config["policies"].items()
        controls = {policy: words["control"] for policy, words in about}
        told[read.config["name"]] = {
            name: {key: of and dataclasses.asdict(of) for key, of in found.items()}
            for name, found in contrasts(compare.runs(read.events), controls).items()
        }
    OUT.parent.mkdir(exist_ok=True)
    records.write_json(OUT, told)


if __name__ == "__main__":
    write([Path(folder) for folder in sys.argv[1:]])
