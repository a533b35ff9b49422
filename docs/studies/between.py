"""The rates that a study takes from a grid: between those that were tried.

    python docs/studies/between.py runs/NAME.tune

writes runs/NAME.tune/study.json: best.json, but with the rate of each policy at the top
of the parabola, over the logarithm of the rate, through its best trial and the two
beside it. One trial a rate is noisy, and the best of a grid may lie a whole step of it
off; the top of the parabola lies at most half a step from the best. A best trial at an
end of the grid, or beside one that diverged, keeps its rate. Folders of further
searches may follow, whose trials join in.

    python docs/studies/between.py runs/NAME.tune --beyond

prints which rates a grid lacks first: the next one at an end of it, where the best
trial of some policy lies there.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.config.measures import measure_among
from experiments.records import records


def between(trials):
    """The rate of a policy, of its trials as trials.json has them."""
    rates, found = _curve(trials)
    best = int(found.argmax())
    three, rate = slice(best - 1, best + 2), rates[best]
    if best in (0, len(rates) - 1) or not np.isfinite(found[three]).all():
        return rate
    logs = np.log(np.array(rates[three]) / rate)
    bend, slope, _ = np.polyfit(logs, found[three], 2)
    return round(rate * float(np.exp(-slope / (2 * bend))) if bend < 0 else rate, 5)


def beyond(tables):
    """The rates that a grid lacks, of the trials of each policy."""
    more = set()
    for trials in tables.values():
        rates, found = _curve(trials)
        best = int(found.argmax())
        if best == 0:
            more.add(round(rates[0] ** 2 / rates[1], 6))
        if best == len(rates) - 1:
            more.add(round(rates[-1] ** 2 / rates[-2], 6))
    return sorted(more)


def _curve(trials):
    """Rates in ascending order, and how good each was; −inf for one that diverged."""
    trials = sorted(trials, key=lambda trial: trial["rate"])
    measure = measure_among(trials[0])
    sign = 1 if measure.larger else -1
    found = [
        sign * trial[measure.name] if trial["status"] == "finished" else -np.inf
        for trial in trials
    ]
    return [trial["rate"] for trial in trials], np.array(found)


def trials_of(folders):
    """The trials of each policy in all searches."""
    tables = [_read(folder / "trials.json") for folder in folders]
    return {name: [trial for of in tables for trial in of[name]] for name in tables[0]}


def write(folder, tables):
    """Writes study.json beside best.json."""
    best = _read(folder / "best.json")
    best["numbers"] |= {f"{name}.rate": between(of) for name, of in tables.items()}
    records.write_json(folder / "study.json", best)


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="runs/NAME.tune")
    parser.add_argument("--beyond", action="store_true")
    asked = parser.parse_args()
    found = trials_of(asked.folders)
    if asked.beyond:
        print(*beyond(found))
    else:
        write(asked.folders[0], found)
