"""How fast: steps to the accuracy that uniform has before the rate first drops.

    python docs/studies/layer-rates/steps.py runs/NAME …

writes results/steps.json: of each study, for each policy, the mean over the seeds of
the logarithm of its steps by those of its control, with 95 % interval and Holm's p.
Steps are those, linear between evaluations, until the validation accuracy first is what
uniform has under the same seed at the last evaluation before the drop. A policy that
did not come to it under some seed has no ratio; `reached` says how many did.
"""

import dataclasses
import math
import sys
from pathlib import Path

from experiments.analysis import compare, significance
from experiments.analysis.compare import BASELINE
from experiments.analysis.questions import SAME_STEPS, steps_to
from experiments.policies.rates import DROPS
from experiments.records import records

OUT = Path(__file__).with_name("results") / "steps.json"


def ratios(runs, controls):
    """Of each policy but the baseline what it took.

    Args:
        runs: of one study; those that have not finished do not count.
        controls: policy → the policy it is compared with.
    """
    runs = [run for run in runs if run.status == "finished"]
    goals = {run.seed: _goal(run) for run in runs if run.policy == BASELINE}
    taken = {
        policy: {run.seed: _taken(run, goals.get(run.seed)) for run in group}
        for policy, group in compare.by_policy(runs).items()
    }
    compared = [policy for policy in taken if controls[policy] != policy]
    found = significance.corrected(
        {policy: _ratio(taken[policy], taken[controls[policy]]) for policy in compared}
    )
    return {
        policy: {
            "control": controls[policy],
            "runs": len(taken[policy]),
            "reached": sum(steps is not None for steps in taken[policy].values()),
            "ratio": found[policy] and dataclasses.asdict(found[policy]),
        }
        for policy in compared
    }


def _ratio(ours, theirs):
    """Paired, of logarithms; None where one did not come to it under some seed."""
    if None in (*ours.values(), *theirs.values()):
        return None
    return significance.paired(ours, theirs, margin=SAME_STEPS)


def _goal(run):
    """Its accuracy at the last evaluation before the drop."""
    drop = DROPS[0] * run.step
    return [e["accuracy"] for e in run.validation if e["step"] < drop][-1]


def _taken(run, goal):
    """Logarithm of the steps until it first had that accuracy; None if never."""
    curve = [(e["step"], -e["accuracy"]) for e in run.validation]
    if goal is None or not any(fallen <= -goal for _, fallen in curve):
        return None
    return math.log(steps_to(-goal, curve))


def write(folders):
    """Writes steps.json of the studies in these folders."""
    found = {}
    for folder in folders:
        read = records.read(folder)
        about = read.config["policies"].items()
        controls = {policy: words["control"] for policy, words in about}
        found[read.config["name"]] = ratios(compare.runs(read.events), controls)
    OUT.parent.mkdir(exist_ok=True)
    records.write_json(OUT, found)


if __name__ == "__main__":
    write([Path(folder) for folder in sys.argv[1:]])
