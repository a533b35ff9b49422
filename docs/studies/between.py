"""The rates that a study takes from a grid: between those that were tried.

    python docs/studies/between.py runs/NAME.tune

writes runs/NAME.tune/study.json: best.json, but with the rate of each policy at the top
of the parabola, over the logarithm of the rate, through its best trial and the two
beside it. One trial a rate is noisy, and the best of a grid may lie a whole step of it
off; the top of the parabola lies at most half a step from the best. A best trial at an
end of the grid, or beside one that diverged, keeps its rate.
"""

import json
import sys
from pathlib import Path

import numpy as np

from experiments.config.measures import measure_among
from experiments.records import records


def between(trials):
    """The rate of a policy, of its trials as trials.json has them."""
    trials = sorted(trials, key=lambda trial: trial["rate"])
    measure = measure_among(trials[0])
    sign = 1 if measure.larger else -1
    found = np.array(
        [
            sign * trial[measure.name] if trial["status"] == "finished" else -np.inf
            for trial in trials
        ]
    )
    best = int(found.argmax())
    three, rate = slice(best - 1, best + 2), trials[best]["rate"]
    if best in (0, len(trials) - 1) or not np.isfinite(found[three]).all():
        return rate
    logs = np.log([trial["rate"] / rate for trial in trials[three]])
    bend, slope, _ = np.polyfit(logs, found[three], 2)
    return round(rate * float(np.exp(-slope / (2 * bend))) if bend < 0 else rate, 5)


def write(folder):
    """Writes study.json beside best.json."""
    best, trials = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("best.json", "trials.json")
    )
    best["numbers"] |= {f"{name}.rate": between(of) for name, of in trials.items()}
    records.write_json(folder / "study.json", best)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
